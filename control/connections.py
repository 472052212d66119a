"""The engine's connections from its snapshot, and the exchange's limits from the files that all processes share."""

from __future__ import annotations

import time

from control.present import text
from control.shapes_data import Connections, ConnectionState, OrdersUsed, WeightUsed
from engine.config import Config
from engine.exchange import usage
from engine.exchange.budget import shared_path
from engine.link import SnapshotView
from engine.market.routes import addresses

WORKING = frozenset({"live", "rolling"})  # rolling: the old connection delivers until the new one does


def connections(view: SnapshotView | None, config: Config) -> Connections:
    """Return how the engine is connected and what it has used; no connection where no engine has run."""
    weight = usage.weight(shared_path(addresses(config).rest_url, config.data_dir))
    now_ms = 0 if view is None else int(view.status["exchange_ms"][0])
    counts = usage.orders(config.data_dir / "order_budget", now_ms)
    return Connections(
        [] if view is None else states(view),
        WeightUsed(weight.used, weight.limit, int(weight.banned_s * 1_000)),
        [OrdersUsed(count.window_ms, count.used, count.limit) for count in counts],
    )


def states(view: SnapshotView) -> list[ConnectionState]:
    """Return each connection as the engine showed it last."""
    now_ns = time.monotonic_ns()
    return [
        ConnectionState(
            name=text(row["name"]),
            kind=text(row["kind"]),
            state=text(row["state"]),
            ok=text(row["state"]) in WORKING,
            streams=int(row["streams"]),
            pending=int(row["pending"]),
            frames=int(row["frames"]),
            faults=int(row["faults"]),
            reconnects=int(row["reconnects"]),
            silent_ms=max(0, now_ns - int(row["heard_ns"])) // 1_000_000 if row["heard_ns"] else None,
        )
        for row in view.connections[view.connections["name"] != b""]
    ]
