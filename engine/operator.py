"""What an operator may ask of a running engine. Each command is journalled when it comes and when it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.assemble import Parts
from engine.errors import DataError
from engine.model.opening import open_between_frames, open_packed, ready_backend
from engine.model.predictor import PREDICTORS, PackedPredictor
from engine.trading.kill import KillLadder, Step
from kernels.records import Kind, Mode, Reason, RunState

SESSION_START, SESSION_STOP = 1, 2
CLEAR_HALT = "clear_halt"
REMEMBERED = 1_000  # answers kept for repeated command ids


class Operator:
    """Session, commands and the model in use. `handle` serves the command socket."""

    def __init__(self, parts: Parts, symbols: list[str], mode: Mode) -> None:
        self._parts, self._symbols, self._mode = parts, symbols, mode
        self._core = parts.core
        self._index = {name: i for i, name in enumerate(symbols)}
        self._answers: dict[str, dict[str, Any]] = {}
        self.session: dict[str, Any] = parts.session
        self.predictor: PackedPredictor | None = None
        self.previous_path = ""
        self.chosen: str = parts.core.config.model.predictor  # of PREDICTORS; an operator may choose another
        self._ahead: tuple[str, PackedPredictor] | None = None
        self.open_model: Callable[[str], PackedPredictor] = self._open_warm
        self.questions: dict[str, Callable[[], dict[str, Any]]] = {"status": self.status}  # change and journal nothing
        self._verbs: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
            "start": self._start,
            "stop": self._stop,
            "flatten": self._flatten,
            "close": self._close,
            "reduce_only": lambda actor, args: self._set_state(RunState.REDUCE_ONLY),
            "halt": lambda actor, args: self._set_state(RunState.HALTED),
            "halt_symbol": self._halt_symbol,
            "allow_symbol": self._allow_symbol,
            "promote": self._promote,
            "rollback": self._rollback,
            "predictor": self._choose_predictor,
            "kill": self._kill,
        }
        self.ladder = KillLadder(self._core.desk, None)  # a live engine puts its own in this place
        self.questions["kill_report"] = lambda: self.ladder.report()

    async def handle(self, verb: str, actor: str, args: dict[str, Any], command_id: str) -> dict[str, Any]:
        """Carry out one command. A command id that was answered before gets the same answer and no second effect."""
        if command_id and command_id in self._answers:
            return self._answers[command_id]
        if verb in self.questions:
            return self.questions[verb]()
        action = self._verbs.get(verb)
        if action is None:
            names = ", ".join(sorted([*self._verbs, *self.questions]))
            raise ValueError(f"no such command: {verb!r}; there are {names}")
        named = (args.get(name) for name in ("symbol", "bundle_path", "predictor", "until", "reason"))
        argument = str(next((value for value in named if value), ""))
        argument = CLEAR_HALT if args.get("clear_halt") else argument
        if verb in ("promote", "rollback"):
            await self._open_ahead(str(args.get("bundle_path", "")) or self.previous_path, self.chosen)
        elif verb == "predictor":
            await self._open_ahead(self._parts.model["path"], argument)
        # Nothing is awaited from here on: no other record comes between a command and what it did, so it replays.
        self._write(command_id, verb, actor, argument, 0, 0, "")
        try:
            result = action(actor, args)
        except (ValueError, DataError) as error:
            self._write(command_id, verb, actor, argument, 1, 1, str(error))
            raise ValueError(str(error)) from error
        self._write(command_id, verb, actor, argument, 0, 1, "done")
        if command_id:
            self._answers[command_id] = result
            if len(self._answers) > REMEMBERED:
                self._answers.pop(next(iter(self._answers)))
        return result

    def status(self) -> dict[str, Any]:
        """Return the few facts a person asks for first."""
        account, desk = self._core.desk.account, self._core.desk
        return {
            "run_state": RunState(account.run_state).name.lower(),
            "mode": self._mode.name.lower(),
            "equity_usdt": account.equity_usdt,
            "day_pnl_usdt": account.day_pnl_usdt,
            "open_positions": [self._symbols[int(s)] for s in desk.positions.rows["symbol"][: desk.positions.count]],
            "open_orders": len(desk.orders),
            "model_id": self.predictor.model_id if self.predictor else "",
            "backend": self.predictor.backend if self.predictor else "",
            "predictor": self.chosen,
            "session": dict(self.session),
        }

    # --- sessions ---

    def _start(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        account = self._core.desk.account
        if account.run_state == RunState.RUNNING:
            return self.status()
        if account.run_state == RunState.HALTED and not args.get("clear_halt"):
            raise ValueError("halted: look at why, then start again with clear_halt")
        account.run_state = int(RunState.RUNNING)
        now_ms = self._core.clock.now_ms()
        self.session.clear()
        self.session.update(
            id=self._core.journal.seq + 1, since_ms=now_ms, actor=actor, trades=self._core.desk.trades_closed,
            net_usdt=self._core.desk.net_usdt,
        )  # fmt: skip
        self._write_session(SESSION_START, actor, now_ms)
        self._core.desk.write_account(now_ms)
        return self.status()

    def _stop(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        return self._set_state(RunState.STOPPED, actor)

    def _set_state(self, state: RunState, actor: str = "") -> dict[str, Any]:
        account = self._core.desk.account
        if account.run_state == RunState.RUNNING:
            self._write_session(SESSION_STOP, actor, self._core.clock.now_ms())
        account.run_state = int(state)
        self._core.desk.write_account(self._core.clock.now_ms())
        return self.status()

    def _write_session(self, event: int, actor: str, now_ms: int) -> None:
        desk, session = self._core.desk, self.session
        self._core.journal.write(
            Kind.SESSION, time.monotonic_ns(), now_ms, session.get("id", 0), event, int(self._mode),
            desk.trades_closed - session.get("trades", 0), desk.net_usdt - session.get("net_usdt", 0.0),
            desk.account.equity_usdt, actor.encode()[:40],
            self.predictor.model_id.encode() if self.predictor else b"", self._core.config.hash().encode(),
        )  # fmt: skip

    # --- positions ---

    def _flatten(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        self._set_state(RunState.STOPPED, actor)
        count = self._core.flatten(Reason.FLATTEN)
        return {**self.status(), "closing": count}

    def _kill(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        """Go down the ladder until `until`: pause, reduce_only, cancel or flatten; what takes time is timed."""
        step = self.ladder.step(str(args.get("until", "")))
        state = RunState.STOPPED if step is Step.PAUSE else RunState.REDUCE_ONLY
        if self._core.desk.account.run_state not in (RunState.REDUCE_ONLY, RunState.HALTED):
            self._set_state(state, actor)
        self.ladder.begin(step, self._core.clock.now_ms())
        return {**self.status(), "kill": self.ladder.report()}

    async def close_strays(self) -> None:
        """In shadow mode: close what filled after a flatten, each by a command, so that a replay does the same."""
        for symbol in self.ladder.strays():
            with contextlib.suppress(ValueError):
                await self.handle("close", "kill ladder", {"symbol": self._symbols[symbol]}, "")

    def _close(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        symbol = self._symbol(args)
        if not self._core.close_position(symbol, Reason.MANUAL):
            raise ValueError(f"{self._symbols[symbol]}: no open position")
        return {**self.status(), "closing": 1}

    def _halt_symbol(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        symbol = self._symbol(args)
        self._core.desk.account.halted_symbols.add(symbol)
        if args.get("reason") == "audit":  # the gate that its signals show; the halt itself outlives a restart
            self._core.audit_failed.add(symbol)
        return self.status()

    def _allow_symbol(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        symbol = self._symbol(args)
        self._core.desk.account.halted_symbols.discard(symbol)
        self._core.audit_failed.discard(symbol)
        return self.status()

    def _symbol(self, args: dict[str, Any]) -> int:
        name = str(args.get("symbol", ""))
        if name not in self._index:
            raise ValueError(f"symbol: expected one of the {len(self._symbols)} configured ones, got {name!r}")
        return self._index[name]

    # --- models ---

    def load_model(self, path: str, actor: str) -> None:
        """Map a bundle's packed forest and swap it in between two frames. Raises DataError; the running one stays."""
        predictor = self.open_model(path)
        if self.predictor is not None and self.predictor.model_id != predictor.model_id:
            self.previous_path = self._parts.model["path"]
        self.predictor = predictor
        self._core.predictor = predictor
        self._parts.model["path"] = str(Path(path).resolve())
        self._core.journal.write(
            Kind.MODEL, time.monotonic_ns(), self._core.clock.now_ms(), predictor.model_id.encode(),
            predictor.schema_hash, predictor.backend.encode(), actor.encode()[:40],
        )  # fmt: skip

    async def _open_ahead(self, path: str, chosen: str) -> None:
        """Open and prove a bundle in steps that do not stall the loop; `load_model` then only swaps it in."""
        if path and chosen in PREDICTORS and self.open_model == self._open_warm:  # a replay opens in its own way
            with contextlib.suppress(DataError):  # refused again, and then recorded, when the command is carried out
                self._ahead = (path, await open_between_frames(path, ready_backend(path, chosen)))

    def _open_warm(self, path: str) -> PackedPredictor:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == path:
            predictor = ahead[1]
        else:
            predictor = open_packed(path, ready_backend(path, self.chosen))
        predictor.warm()
        return predictor

    def _promote(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        path = str(args.get("bundle_path", ""))
        if not path:
            raise ValueError("bundle_path: expected the folder of a verified bundle")
        self.load_model(path, actor)
        return self.status()

    def _rollback(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        path = str(args.get("bundle_path", "")) or self.previous_path
        if not path:
            raise ValueError("no earlier model is known to this engine; promote one by name")
        self.load_model(path, actor)
        return self.status()

    def _choose_predictor(self, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        """Serve the model in use through another predictor, and later ones too; the choice ends with the process."""
        name, path = str(args.get("predictor", "")), self._parts.model["path"]
        if name not in PREDICTORS:
            raise ValueError(f"predictor: expected one of {', '.join(PREDICTORS)}, got {name!r}")
        if self.predictor is None:
            raise ValueError("no model is served: promote one first")
        if self.open_model == self._open_warm and ready_backend(path, name) != name:
            raise ValueError(f"predictor {name}: its libraries are not built for {self.predictor.model_id}")
        before, self.chosen = self.chosen, name
        try:
            self.load_model(path, actor)
        except (DataError, ValueError):
            self.chosen = before
            raise
        return self.status()

    # --- the journal ---

    def _write(self, command_id: str, verb: str, actor: str, argument: str, code: int, phase: int, result: str) -> None:
        self._core.journal.write(
            Kind.COMMAND, time.monotonic_ns(), self._core.clock.now_ms(), command_id.encode()[:40],
            verb.encode()[:24], actor.encode()[:40], argument.encode()[:64], code, phase, result.encode()[:128],
        )  # fmt: skip
