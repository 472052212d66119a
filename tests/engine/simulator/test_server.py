"""The program and its sockets: the ready line, refusals to start, pings, the daily cut, the end of the data."""

import asyncio
import signal
import socket
import time
import urllib.request
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import pytest

from engine.errors import ConfigError
from engine.market.rings import BarFile
from engine.simulator import sockets as server_module
from engine.simulator.exchange import Exchange, weeks_to_now
from engine.simulator.main import main
from engine.simulator.options import Options
from engine.simulator.server import Server, load_scenario
from kernels.records import BAR
from tests.engine.simulator.conftest import ROOT, spawn
from tests.engine.simulator.harness import Recorder, get, small


def test_an_occupied_port_and_bad_options_are_one_message_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--history-days", "0.1", "--ahead-days", "0.1"]) == 2
    assert f"port {port}" in capsys.readouterr().err
    assert main(["--speed", "0", "--books", "0", "--data", "/nonexistent"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 3


def test_scenarios_are_checked_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "scenario.json"
    file.write_text('[{"name":"nonsense","after_s":1},{"name":"throttled"},{"name":"throttled","after_s":1}]')
    with pytest.raises(Exception) as caught:
        load_scenario(file)
    assert len(caught.value.faults) == 2


def bar_folder(folder: Path, minutes: int) -> Path:
    rows = np.zeros(minutes, BAR)
    rows["open_ms"] = 1_746_372_780_000 + 60_000 * np.arange(minutes)
    rows["open"] = rows["close"] = 100.0
    rows["high"], rows["low"], rows["volume"] = 101.0, 99.0, 500.0
    for name in ("quote_volume", "taker_volume", "trades"):
        rows[name] = np.nan
    file = BarFile.create(folder / "AAAUSDT.1m", "AAAUSDT", 0, minutes)
    file.rewrite(rows)
    file.close()
    return folder


def test_the_program_replays_a_folder_to_its_end_and_keeps_serving(tmp_path: Path) -> None:
    folder = bar_folder(tmp_path, 200)
    process, facts = spawn(
        "--data", str(folder), "--speed", "6000", "--start-ms", str(1_746_372_780_000 + 150 * 60_000)
    )
    try:
        assert facts.symbols == ["AAAUSDT"]
        assert (facts.history_from_ms, facts.end_ms) == (1_746_372_780_000, 1_746_372_780_000 + 200 * 60_000)
        assert "taker volume" in facts.synthesised
        deadline = time.monotonic() + 60
        while True:
            with urllib.request.urlopen(f"{facts.rest_url}/fapi/v1/time") as reply:
                now_ms = orjson.loads(reply.read())["serverTime"]
            if now_ms == facts.end_ms - 1:
                break
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert ROOT.is_dir()


def test_idle_minutes_close_on_the_timer_and_are_flat(tmp_path: Path) -> None:
    folder = bar_folder(tmp_path, 60)
    file = BarFile.open(folder / "AAAUSDT.1m")
    rows = file.ordered()
    file.rewrite(np.delete(rows, [31, 32]))
    file.close()
    exchange = Exchange(Options(data=folder, start_ms=int(rows["open_ms"][30]), quiet=True), say=lambda _: None)
    ear = Recorder(exchange, "/market/ws/aaausdt@kline_1m")
    exchange.pump.advance(exchange.start_ms + 4 * 60_000)
    frames = ear.payloads()
    idle = [frame for frame in frames if frame["k"]["t"] in rows["open_ms"][31:33].tolist()]
    assert [frame["k"]["x"] for frame in idle] == [True, True], "nothing trades, so only the closes are sent"
    for frame in idle:
        assert 2_000 <= frame["E"] - frame["k"]["T"] - 1 <= 2_100
        assert (frame["k"]["n"], frame["k"]["L"], float(frame["k"]["v"])) == (0, -1, 0.0)
        assert {float(frame["k"][name]) for name in "ohlc"} == {100.0}
    served = {row[0]: row for row in get(exchange, "/fapi/v1/klines", symbol="AAAUSDT", interval="1m", limit=10)}
    assert served[int(rows["open_ms"][31])][8] == 0


def test_the_wall_clock_shifts_data_by_whole_weeks_or_days() -> None:
    day, hour = 86_400_000, 3_600_000
    now = 1_795_000_000_000
    for length, unit in ((30 * day, 7 * day), (3 * day, day)):
        end = 1_750_000_020_000
        shift = weeks_to_now(end - length, end, now)
        assert shift % unit == 0
        assert end - length + shift < now <= end + shift - hour
    with pytest.raises(ConfigError):
        weeks_to_now(0, 5 * hour, now)


async def test_pings_the_daily_cut_and_silence_after_a_wrong_address(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = small()
    server = Server(exchange)
    monkeypatch.setattr(server_module, "PING_S", 0.0)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            ws = await session.ws_connect(
                f"ws://127.0.0.1:{server.stream_port}/market/ws", autoping=False, autoclose=True
            )
            message = await ws.receive(60)
            assert message.type == aiohttp.WSMsgType.PING
            await ws.pong(message.data)
            monkeypatch.setattr(server_module, "LIFE_S", 0.0)
            while message.type == aiohttp.WSMsgType.PING:
                message = await ws.receive(60)
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"ws://127.0.0.1:{server.stream_port}/nowhere")
    finally:
        await server.stop()


async def test_the_clock_is_held_until_somebody_listens() -> None:
    exchange = Exchange(Options(port=0, symbol_count=1, history_days=1, ahead_days=1, speed=600, hold=True, quiet=True))
    server = Server(exchange)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.get(f"http://127.0.0.1:{server.port}/fapi/v1/time") as reply:
                    assert (await reply.json())["serverTime"] == exchange.start_ms
                await asyncio.sleep(0.02)
            ws = await session.ws_connect(f"ws://127.0.0.1:{server.port}/market/stream?streams=btcusdt@markPrice@1s")
            frame = orjson.loads((await ws.receive(60)).data)
            assert frame["stream"] == "btcusdt@markPrice@1s"
            assert exchange.tape.now_ms > exchange.start_ms
    finally:
        await server.stop()
