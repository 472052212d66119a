"""The kill command of a shadow engine: how far it goes, what it says, and what fills behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.operator import SESSION_STOP, Operator
from kernels.records import Kind, Mode, Reason, RunState
from tests.engine.rig import SYMBOLS, Rig, config


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, config(latency_ms=50.0))


def command(operator: Operator, **args: Any) -> dict[str, Any]:
    return asyncio.run(operator.handle("kill", "test", args, ""))


@pytest.mark.parametrize(
    ("until", "state", "steps"),
    [
        ("pause", RunState.STOPPED, ["pause"]),
        ("reduce_only", RunState.REDUCE_ONLY, ["pause", "reduce_only"]),
        ("cancel", RunState.REDUCE_ONLY, ["pause", "reduce_only", "cancel"]),
        ("flatten", RunState.REDUCE_ONLY, ["pause", "reduce_only", "cancel", "flatten"]),
    ],
)
def test_each_step_includes_the_ones_before(rig: Rig, until: str, state: RunState, steps: list[str]) -> None:
    operator = Operator(rig.parts, SYMBOLS, Mode.SHADOW)
    rig.desk.account.run_state = int(RunState.STOPPED)
    asyncio.run(operator.handle("start", "test", {}, ""))
    answer = command(operator, until=until)
    assert list(answer["kill"]["took_ms"]) == steps and answer["kill"]["running"] is False
    assert rig.desk.account.run_state == state
    assert [int(record["event"]) for record in rig.records(Kind.SESSION)][-1] == SESSION_STOP
    assert bytes(rig.records(Kind.COMMAND)[-1]["argument"]).decode() == until


def test_flatten_is_timed_until_nothing_is_left_and_closes_what_fills_behind_it(rig: Rig) -> None:
    operator = Operator(rig.parts, SYMBOLS, Mode.SHADOW)
    rig.open_long(0)
    rig.now_ms += 60
    rig.book(0, 99.99, 100.01)
    rig.desk.advance(rig.now_ms)
    assert rig.desk.positions.count == 1
    rig.mark(1, 50.0)
    rig.book(1, 49.99, 50.01)
    rig.decide(1, 50.0, 0.5)  # its entry is on the way and fills in 50 ms
    answer = command(operator, until="flatten")
    assert list(answer["kill"]["took_ms"]) == ["pause", "reduce_only"] and answer["kill"]["running"]
    begun = rig.now_ms
    for _ in range(100):
        rig.now_ms += 10
        rig.clock.observe(rig.now_ms)
        for symbol, price in ((0, 100.0), (1, 50.0)):
            rig.book(symbol, price - 0.01, price + 0.01)
        rig.desk.advance(rig.now_ms)
        operator.ladder.advance(rig.now_ms)
        asyncio.run(operator.close_strays())
        if not operator.ladder.report()["running"]:
            break
    report = operator.questions["kill_report"]()
    assert rig.desk.positions.count == 0 and not rig.desk.orders
    assert list(report["took_ms"]) == ["pause", "reduce_only", "cancel", "flatten"]
    assert 0 < report["took_ms"]["cancel"] <= report["took_ms"]["flatten"] <= rig.now_ms - begun
    assert [Reason(int(record["reason"])) for record in rig.records(Kind.TRADE)] == [Reason.FLATTEN, Reason.MANUAL]
    closes = [record for record in rig.records(Kind.COMMAND) if bytes(record["verb"]) == b"close"]
    assert {bytes(record["actor"]) for record in closes} == {b"kill ladder"}


def test_a_step_that_does_not_exist_changes_nothing(rig: Rig) -> None:
    operator = Operator(rig.parts, SYMBOLS, Mode.SHADOW)
    with pytest.raises(ValueError, match="pause, reduce_only, cancel, flatten"):
        command(operator, until="burn")
    assert rig.desk.account.run_state == RunState.RUNNING
