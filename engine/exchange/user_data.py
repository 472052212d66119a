"""The private stream: what the exchange tells about our orders and our account, from two sockets, each event once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from engine.connections import Line
from engine.log import get_logger

log = get_logger(__name__)

EVENTS = (
    "ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "TRADE_LITE", "ALGO_UPDATE", "ACCOUNT_CONFIG_UPDATE", "MARGIN_CALL",
    "listenKeyExpired",
)  # fmt: skip
REMEMBERED = 8_192  # events kept for de-duplication: several minutes of the busiest account


@dataclass(slots=True)
class OrderUpdate:
    """ORDER_TRADE_UPDATE. Quantities and prices as numbers, `time_ms` the transaction time T."""

    symbol: str
    client_order_id: str
    order_id: int
    side: int
    execution: str
    status: str
    order_type: str
    original_type: str
    reduce_only: bool
    close_position: bool
    last_qty: float
    last_price: float
    filled_qty: float
    average_price: float
    trade_id: int
    fee: float
    fee_asset: str
    maker: bool
    expiry_reason: str
    realised: float
    event_ms: int
    time_ms: int


@dataclass(slots=True)
class TradeLite:
    """TRADE_LITE: the first word of a fill, without its fee."""

    symbol: str
    client_order_id: str
    order_id: int
    side: int
    qty: float
    price: float
    trade_id: int
    time_ms: int


@dataclass(slots=True)
class PositionRow:
    """A position as the exchange states it; `amount` keeps the exchange's own digits."""

    symbol: str
    amount: str
    entry_price: float
    side: str


@dataclass(slots=True)
class AccountUpdate:
    """ACCOUNT_UPDATE. balances: asset → (wallet balance, change that is neither PnL nor fee)."""

    reason: str
    balances: dict[str, tuple[float, float]]
    positions: list[PositionRow]
    symbol: str
    event_ms: int
    time_ms: int


@dataclass(slots=True)
class AlgoUpdate:
    """ALGO_UPDATE. `order_id` is the order born from it, 0 before."""

    symbol: str
    client_algo_id: str
    algo_id: int
    status: str
    order_id: int
    trigger_price: float
    close_position: bool
    fault: str
    event_ms: int
    time_ms: int


@dataclass(slots=True)
class ConfigUpdate:
    """ACCOUNT_CONFIG_UPDATE: somebody changed leverage (`symbol`, `leverage`) or the asset mode."""

    symbol: str
    leverage: int
    multi_assets: bool | None
    event_ms: int


@dataclass(slots=True)
class MarginCall:
    symbols: list[str]
    event_ms: int


@dataclass(slots=True)
class KeyExpired:
    event_ms: int


UserEvent = OrderUpdate | TradeLite | AccountUpdate | AlgoUpdate | ConfigUpdate | MarginCall | KeyExpired


def decode(payload: bytes) -> UserEvent | None:
    """Return the event of a frame, wrapped or bare; None for kinds that say nothing to us.

    Raises ValueError for a frame that is not what the exchange documents.
    """
    try:
        message = orjson.loads(payload)
        if "data" in message and "stream" in message:
            message = message["data"]
        reader = READERS.get(message.get("e", ""))
        return reader(message) if reader is not None else None
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"user event: {type(error).__name__}: {error}") from error


def _order(message: dict[str, Any]) -> OrderUpdate:
    o = message["o"]
    return OrderUpdate(
        o["s"], o["c"], int(o["i"]), 1 if o["S"] == "BUY" else -1, o["x"], o["X"], o["o"], o.get("ot", o["o"]),
        bool(o.get("R", False)), bool(o.get("cp", False)), float(o["l"]), float(o["L"]), float(o["z"]),
        float(o.get("ap") or 0), int(o.get("t") or 0), float(o.get("n") or 0), o.get("N") or "", bool(o.get("m")),
        str(o.get("er", "0")), float(o.get("rp") or 0), int(message["E"]), int(message["T"]),
    )  # fmt: skip


def _trade(message: dict[str, Any]) -> TradeLite:
    return TradeLite(
        message["s"], message["c"], int(message["i"]), 1 if message["S"] == "BUY" else -1, float(message["l"]),
        float(message["L"]), int(message["t"]), int(message["T"]),
    )  # fmt: skip


def _account(message: dict[str, Any]) -> AccountUpdate:
    a = message["a"]
    balances = {row["a"]: (float(row["wb"]), float(row.get("bc") or 0)) for row in a.get("B", [])}
    rows = [PositionRow(p["s"], str(p["pa"]), float(p.get("ep") or 0), p.get("ps", "BOTH")) for p in a.get("P", [])]
    return AccountUpdate(a["m"], balances, rows, a.get("S", ""), int(message["E"]), int(message["T"]))


def _algo(message: dict[str, Any]) -> AlgoUpdate:
    o = message["o"]
    return AlgoUpdate(
        o["s"], o["caid"], int(o["aid"]), o["X"], int(o.get("ai") or 0), float(o.get("tp") or 0),
        bool(o.get("cp", False)), o.get("rm") or "", int(message["E"]), int(message["T"]),
    )  # fmt: skip


def _config(message: dict[str, Any]) -> ConfigUpdate:
    leverage, assets = message.get("ac") or {}, message.get("ai")
    return ConfigUpdate(
        leverage.get("s", ""), int(leverage.get("l", 0)), bool(assets["j"]) if assets else None, int(message["E"])
    )


READERS: dict[str, Callable[[dict[str, Any]], UserEvent]] = {
    "ORDER_TRADE_UPDATE": _order,
    "TRADE_LITE": _trade,
    "ACCOUNT_UPDATE": _account,
    "ALGO_UPDATE": _algo,
    "ACCOUNT_CONFIG_UPDATE": _config,
    "MARGIN_CALL": lambda m: MarginCall([row["s"] for row in m.get("p", [])], int(m["E"])),
    "listenKeyExpired": lambda m: KeyExpired(int(m["E"])),
}


def identity(event: UserEvent) -> tuple[Any, ...]:
    """Return what makes an event the same on both connections."""
    if isinstance(event, OrderUpdate):
        return ("o", event.symbol, event.order_id, event.trade_id, event.execution, event.status, event.time_ms)
    if isinstance(event, TradeLite):
        return ("t", event.symbol, event.order_id, event.trade_id)
    if isinstance(event, AlgoUpdate):
        return ("g", event.algo_id, event.status, event.order_id, event.time_ms)
    if isinstance(event, AccountUpdate):
        stated = tuple((p.symbol, p.amount) for p in event.positions)
        return ("a", event.reason, event.time_ms, stated, tuple(sorted(event.balances.items())))
    return (type(event).__name__, repr(event))


@dataclass
class Once:
    """Lets each event pass once; remembers the newest REMEMBERED."""

    duplicates: int = 0
    _seen: set[tuple[Any, ...]] = field(default_factory=set)
    _order: deque[tuple[Any, ...]] = field(default_factory=deque)

    def first(self, event: UserEvent) -> bool:
        """Whether this event was not seen before."""
        key = identity(event)
        if key in self._seen:
            self.duplicates += 1
            return False
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        return True


class PrivateSocket(WSListener):
    """One connection to the private route. It reconnects for ever with the key that `listen_key` gives."""

    def __init__(
        self,
        number: int,
        base_url: str,
        listen_key: Callable[[], str],
        on_payload: Callable[[bytes], None],
        on_change: Callable[[int, bool], None],
    ) -> None:
        self.number, self.up = number, False
        self.connects = self.frames = 0
        self._base, self._listen_key = base_url.rstrip("/"), listen_key
        self._on_payload, self._on_change = on_payload, on_change
        self._transport: WSTransport | None = None
        self._task: asyncio.Task[None] | None = None

    def line(self) -> Line:
        """Return what the snapshot shows of this socket."""
        state = "live" if self.up else "down"
        return Line(f"private {self.number}", "private", state, self.frames, 0, max(0, self.connects - 1))

    def start(self) -> None:
        """Connect and keep connected."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"private-{self.number}")

    def reconnect(self) -> None:
        """Drop the connection (the key expired); the loop opens another."""
        if self._transport is not None:
            self._transport.disconnect()

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.reconnect()

    async def _run(self) -> None:
        attempt = 0
        while True:
            url = f"{self._base}/private/ws?listenKey={self._listen_key()}&events={'/'.join(EVENTS)}"
            try:
                transport, _ = await ws_connect(
                    lambda: self, url, enable_auto_pong=True, websocket_handshake_timeout=5, enable_auto_ping=True,
                    auto_ping_idle_timeout=10, auto_ping_reply_timeout=5,
                )  # fmt: skip
                attempt, self.up = 0, True
                self.connects += 1
                self._on_change(self.number, True)
                await transport.wait_disconnected()
            except Exception as error:  # whatever it was: a connection that stays away is worse
                log.warning("private_stream_down", socket=self.number, error=f"{type(error).__name__}: {error}")
            if self.up:
                self.up = False
                self._on_change(self.number, False)
            attempt += 1
            await asyncio.sleep(min(0.1 * 2**attempt, 5.0) * random.uniform(0.8, 1.2))

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Hand on one frame; its bytes are copied."""
        if frame.msg_type == WSMsgType.TEXT:
            self.frames += 1
            self._on_payload(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
