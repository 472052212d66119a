"""A stand-in for the engine's mind behind a real snapshot file and a real command socket."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

from engine.link import CommandServer, Snapshot
from kernels.records import GATES, Mode, Reason, RunState, Stage

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


class FakeEngine:
    """Writes a snapshot and answers commands on the socket from a thread with its own loop."""

    def __init__(self, data_dir: Path, mode: Mode = Mode.SHADOW) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.commands: list[tuple[str, str, dict[str, Any], str]] = []
        self.refuse: str | None = None
        self.stuck = False  # a kill that never holds
        self.kill: dict[str, Any] = {"until": None, "begun_ms": None, "running": False, "took_ms": {}}
        self.delay_s = 0.0
        self.snapshot = Snapshot(data_dir, len(SYMBOLS), 8)
        self._server = CommandServer(data_dir, self._handle)
        self._fill(mode)
        ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(60)

    def beat(self, age_ms: int = 0) -> None:
        """Set the heartbeat to `age_ms` ago; by default so far ahead that it stays fresh for the whole test."""
        ahead = 3_600_000 if age_ms == 0 else 0
        self.snapshot.begin()
        self.snapshot.view.status["heartbeat_ns"] = time.monotonic_ns() + (ahead - age_ms) * 1_000_000
        self.snapshot.end()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def _fill(self, mode: Mode) -> None:
        view = self.snapshot.view
        self.snapshot.begin()
        view.status["engine_id"], view.status["run_id"], view.status["pid"] = b"main", 77, 4242
        view.status["mode"], view.status["run_state"] = mode, RunState.RUNNING
        view.status["equity_usdt"], view.status["peak_equity_usdt"] = 9_900.0, 10_000.0
        view.status["day_pnl_usdt"], view.status["model_id"] = -12.5, b"m1"
        view.status["open_positions"], view.status["journal_seq"] = 1, 1_000
        view.symbols["symbol"] = [name.encode() for name in SYMBOLS]
        view.symbols["mark_price"], view.symbols["ready"] = [50_000.0, 2_500.0, 100.0], 1
        view.signals[0]["seq"], view.signals[0]["decision_ms"] = 10, 1_700_000_000_000
        view.signals[0]["gates"] = 1 << GATES.index("er_low") | 1 << GATES.index("spread")
        view.signals[0]["predictions"] = [-0.001, 0.002, -0.01, float("nan"), 0.004, 0.005, 60.0, 70.0]
        view.signals[1]["seq"], view.signals[1]["decision_ms"] = 11, 1_700_000_060_000
        view.signals[1]["side"], view.signals[1]["entered"] = -1, 1
        row = view.positions[0]
        row["symbol"], row["side"], row["qty"], row["entry_price"] = 1, -1, 2.0, 2_600.0
        row["tp_price"], row["sl_price"], row["position_id"] = 2_450.0, 2_550.0, 11
        for stage in (Stage.FRAME_TO_DECISION, Stage.PREDICT, Stage.LOOP_LAG):
            view.latency[stage]["count"], view.latency[stage]["p50_ns"] = 1_000, 42_000
            view.latency[stage]["p99_ns"], view.latency[stage]["max_ns"] = 180_000, 2_500_000
        self.snapshot.end()
        self.beat()

    def open_orders(self, count: int = 2) -> None:
        """Show an entry that waits for its answer, and the stop of the open position; or none."""
        self.snapshot.begin()
        rows, status = self.snapshot.view.orders, self.snapshot.view.status
        now_ms = int(status["exchange_ms"][0])
        rows["client_order_id"][:2] = [b"main-25-12-e", b"main-25-11-p"]
        rows["position_id"][:2], rows["symbol"][:2], rows["side"][:2] = [12, 11], [0, 1], [1, 1]
        rows["reduce_only"][:2], rows["reason"][:2] = [0, 1], [Reason.ENTRY, Reason.SL]
        rows["type"][:2], rows["state"][:2] = [b"limit_ioc", b"stop_market"], [b"sent", b"standing"]
        rows["route"][:2], rows["qty"][:2] = [b"ws1", b""], [0.25, float("nan")]
        rows["price"][:2], rows["order_id"][:2] = [50_010.5, 2_563.25], [0, 4711]
        rows["created_ms"][:2] = [now_ms - 1_500, now_ms - 900_000]
        rows["client_order_id"][count:] = b""
        self.snapshot.end()

    def connect(self, state: str = "live") -> None:
        """Show two market links, an order lane in `state`, and a private stream that never heard a word."""
        self.snapshot.begin()
        rows, ahead_ns = self.snapshot.view.connections, time.monotonic_ns() + 3_600_000_000_000
        rows["name"][:4] = [b"link 0", b"link 1", b"lane 0", b"private 0"]
        rows["kind"][:4] = [b"public", b"market", b"ws_api", b"private"]
        rows["state"][:4] = [b"live", b"live", state.encode(), b"live"]
        rows["streams"][:4], rows["frames"][:4] = [3, 12, 0, 0], [1_200, 3_400, 7, 0]
        rows["heard_ns"][:4], rows["reconnects"][:4] = [ahead_ns, ahead_ns, ahead_ns, 0], [0, 1, 0, 0]
        self.snapshot.end()

    async def _handle(self, verb: str, actor: str, args: dict[str, Any], command_id: str) -> dict[str, Any]:
        self.commands.append((verb, actor, args, command_id))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.refuse is not None:
            raise ValueError(self.refuse)
        status = self.snapshot.view.status
        states = {"start": RunState.RUNNING, "stop": RunState.STOPPED, "flatten": RunState.STOPPED}
        states |= {"reduce_only": RunState.REDUCE_ONLY, "halt": RunState.HALTED}
        if verb == "kill_report":
            return self.kill
        if verb == "kill":
            steps = ["pause", "reduce_only", "cancel", "flatten"]
            reached = steps[: steps.index(args["until"]) + 1]
            self.kill = {"until": args["until"], "begun_ms": 1, "running": self.stuck}
            self.kill["took_ms"] = {step: 40 * at for at, step in enumerate(reached)}
            status["run_state"] = RunState.STOPPED if args["until"] == "pause" else RunState.REDUCE_ONLY
            status["open_positions"] = 0 if args["until"] == "flatten" else status["open_positions"]
            return {"kill": self.kill}
        if verb in states:
            status["run_state"] = states[verb]
        if verb in ("flatten", "close"):
            status["open_positions"] = 0
        return self.answers.get(verb, {"verb": verb, **args})

    def _run(self, ready: threading.Event) -> None:
        async def body() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.start()
            ready.set()
            await self._stop.wait()
            await self._server.stop()

        asyncio.run(body())
