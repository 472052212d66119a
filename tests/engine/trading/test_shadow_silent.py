"""Shadow trading needs no key: it trades on the simulated exchange, which sees no order connection, no signed call."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rig import FixedModel

from engine.config import Config, load, without_keys
from engine.process import Engine
from engine.simulator.exchange import Exchange
from engine.simulator.options import AccountOption, Options
from engine.simulator.server import Server
from engine.simulator.warm import warm
from kernels.records import RunState

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


class Watching(Server):
    """Notes whoever comes through a private door."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.private_doors: list[str] = []
        handle = self.private.handle

        async def noted(request: Any, body: str, headers: dict[str, str]) -> Any:
            self.private_doors.append(f"{request.method} {request.path}")
            return await handle(request, body, headers)

        self.private.handle = noted  # type: ignore[method-assign]

    def _accept(self, request: Any) -> Any:
        socket = super()._accept(request)
        if socket is not None and socket.target.route == "private":
            self.private_doors.append("private stream")
        return socket

    async def _ws_api(self, request: Any) -> Any:
        self.private_doors.append("WS API")
        return await super()._ws_api(request)


def config(folder: Path, server: Server, **secrets: str) -> Config:
    base = f"127.0.0.1:{server.port}"
    return load(
        data_dir=folder, market={"symbols": SYMBOLS, "deadline_ms": 60_000}, journal={"segment_mib": 1},
        secrets=secrets, risk={"cooldown_minutes": 0},
        exchange={
            "name": "sim", "clock": "replay", "rest_url": f"http://{base}", "ws_api_url": f"ws://{base}/ws-fapi/v1",
            "stream_url": f"ws://127.0.0.1:{server.stream_port}",
        },
    )  # fmt: skip


def test_keys_leave_the_environment_and_in_shadow_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TA_SECRETS__API_KEY", "k")
    monkeypatch.setenv("TA_SECRETS__API_SECRET", "s")
    for mode, kept in (("shadow", ""), ("live", "k")):
        monkeypatch.setenv("TA_SECRETS__API_KEY", "k")
        found = without_keys(load(mode=mode, data_dir=tmp_path))
        assert found.secrets.api_key.get_secret_value() == kept
        assert not [name for name in os.environ if name.startswith("TA_SECRETS__API")], "helpers inherit none"


@pytest.mark.timeout(240)
async def test_shadow_trades_without_any_private_door(tmp_path: Path) -> None:
    options = Options(
        port=0, symbols=SYMBOLS, clock="replay", speed=30.0, hold=True, quiet=True, history_days=12.0, ahead_days=2.0,
        accounts=(AccountOption("key", "secret", 10_000),),
    )  # fmt: skip
    exchange = Exchange(options, say=lambda text: None)
    warm(exchange)
    server = Watching(exchange)
    await server.start()
    engine = Engine(without_keys(config(tmp_path, server, api_key="key", api_secret="secret")))
    running = asyncio.create_task(engine.run())
    loop = asyncio.get_running_loop()

    async def until(condition: Any, what: str, seconds: float) -> None:
        deadline = loop.time() + seconds
        while not condition():
            assert not running.done(), f"the engine ended: {running.exception()}"
            assert loop.time() < deadline, what
            await asyncio.sleep(0.05)

    try:
        await until(lambda: hasattr(engine, "publisher"), "built", 120)
        desk = engine.parts.core.desk
        engine.parts.core.predictor = FixedModel()
        desk.account.run_state = int(RunState.RUNNING)
        await until(lambda: desk.positions.count or desk.trades_closed, "a shadow position", 90)
        assert engine.config.secrets.api_key.get_secret_value() == ""
        assert server.private_doors == []
        account = exchange.venue.ledger.accounts["key"]
        assert not exchange.venue.matcher.of(account).all, "the exchange has seen no order"
    finally:
        engine._stop.set()
        await asyncio.wait_for(running, 30)
        await server.stop()
