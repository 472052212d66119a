"""Reads for handlers: bounded in number and time, and faults that tell the caller nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from control import reader as module
from control.problems import ApiError
from control.reader import StoreReader


class Slow:
    """A store whose answers wait for `go`."""

    def __init__(self) -> None:
        self.go, self.reads, self.fault = threading.Event(), 0, False

    def raw(self, sql: str, form: str, parameters: Any = None) -> bytes:
        self.reads += 1
        assert self.go.wait(10)
        if self.fault:
            raise RuntimeError("password=hunter2")
        return b'{"a":1}\n{"a":null}\n'


@pytest.fixture
def store() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go.set()


async def test_a_fault_is_not_shared_and_tells_nothing(store: Slow) -> None:
    reader = StoreReader(store)
    store.fault = True
    store.go.set()
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await reader.rows("SELECT 1")
        assert caught.value.status == 503 and "hunter2" not in caught.value.detail
    store.fault = False
    assert len(await reader.rows("SELECT 1")) == 2


async def test_too_many_waiting_reads_and_slow_ones_are_503(store: Slow, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    reader = StoreReader(store)
    waiting = [asyncio.ensure_future(reader.rows("SELECT 1", {"x": n})) for n in range(module.WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await reader.rows("SELECT 1", {"x": -1})
    assert caught.value.code == "store-busy"
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {answer.code for answer in answers if isinstance(answer, ApiError)} == {"store-slow"}
    store.go.set()
