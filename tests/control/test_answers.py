"""Answers shared between callers: one making for all, renewed behind their backs, never older than promised."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from control import answers as module
from control.answers import Answers, Life

LIFE = Life(fresh_s=1.0, stale_s=4.0)


class Body(msgspec.Struct):
    number: int


class Maker:
    """Counts what it makes; `hold` keeps it from answering, `fault` makes it fail."""

    def __init__(self) -> None:
        self.made = 0
        self.hold: asyncio.Event | None = None
        self.fault = False

    async def __call__(self) -> Body:
        self.made += 1
        number = self.made
        if self.hold is not None:
            await self.hold.wait()
        if self.fault:
            raise RuntimeError("no")
        return Body(number)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_at_the_same_time_are_one_making() -> None:
    answers, make = Answers(Clock()), Maker()
    make.hold = asyncio.Event()
    asked = [asyncio.ensure_future(answers.get("k", LIFE, make)) for _ in range(50)]
    await settled()
    make.hold.set()
    assert {answer.body for answer in await asyncio.gather(*asked)} == {b'{"number":1}'}
    assert make.made == 1


async def test_young_is_given_old_is_given_and_renewed_and_too_old_is_waited_for() -> None:
    clock, make = Clock(), Maker()
    answers = Answers(clock)
    assert (await answers.get("k", LIFE, make)).body == b'{"number":1}'
    clock.now += 0.9
    assert (await answers.get("k", LIFE, make)).body == b'{"number":1}' and make.made == 1
    clock.now += 0.2
    assert (await answers.get("k", LIFE, make)).body == b'{"number":1}'
    await settled()
    assert make.made == 2 and (await answers.get("k", LIFE, make)).body == b'{"number":2}'
    clock.now += 4.0
    assert (await answers.get("k", LIFE, make)).body == b'{"number":3}'


async def test_a_renewal_that_fails_leaves_the_old_answer_until_it_is_too_old() -> None:
    clock, make = Clock(), Maker()
    answers = Answers(clock)
    await answers.get("k", LIFE, make)
    make.fault, clock.now = True, clock.now + 2.0
    assert (await answers.get("k", LIFE, make)).body == b'{"number":1}'
    await settled()
    clock.now += 3.0
    with pytest.raises(RuntimeError):
        await answers.get("k", LIFE, make)
    make.fault = False
    assert (await answers.get("k", LIFE, make)).body == b'{"number":4}'


async def test_what_is_forgotten_while_it_is_made_is_given_to_those_who_wait_and_to_nobody_else() -> None:
    answers, make = Answers(Clock()), Maker()
    make.hold = asyncio.Event()
    waiting = asyncio.ensure_future(answers.get("/api/trades?limit=1", LIFE, make))
    await settled()
    answers.forget("/api/trades", "/api/equity")
    make.hold.set()
    assert (await waiting).body == b'{"number":1}'
    assert (await answers.get("/api/trades?limit=1", LIFE, make)).body == b'{"number":2}'
    assert answers._bytes == len(b'{"number":2}')
    answers.forget("/api/orders")
    assert (await answers.get("/api/trades?limit=1", LIFE, make)).body == b'{"number":2}'


async def test_what_is_kept_has_a_limit(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    answers, make = Answers(Clock()), Maker()
    for key in range(30):
        await answers.get(str(key), LIFE, make)
    assert make.made == 30 and len(answers._kept) == 10
    await answers.get("29", LIFE, make)
    assert make.made == 30
    answers.forget()
    await answers.get("29", LIFE, make)
    assert make.made == 31
