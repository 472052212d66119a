"""A live engine is killed and the disk is full: the next start takes its positions over and keeps entries closed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engines import Engines, check_agreement
from simulated import KEY, Simulated

from engine import journal
from engine.opening import drop_unused
from kernels.records import Kind


def fill(folder: Path) -> None:
    """Leave not one block free."""
    with open(folder / "others", "wb", buffering=0) as file:
        block = bytes(4_096)
        try:
            while file.write(block) == len(block):
                pass
        except OSError:
            return


@pytest.mark.parametrize("small_disk", ["12m"], indirect=True)
async def test_a_start_on_a_full_disk_guards_what_is_held(small_disk: Path) -> None:
    async with Simulated(small_disk) as sim, Engines(sim, random.Random(3), hold=True) as engines:
        pid = await engines.start()
        await engines.settled()
        engines.trade(pid)
        account = sim.exchange.venue.ledger.accounts[KEY]
        await sim.until(lambda: bool(sim.exchange.venue.algos.open_of(account)), "a position with its stop")
        engines.kill(pid)
        fill(small_disk)
        for _ in range(2):  # the second one has what the first one left
            drop_unused(small_disk / "journal", "main")  # as `Opening` does
            pid = await engines.start()
            said = await engines.settled()
            assert said["state"], "it holds the position"
            check_agreement(sim, said)
            engines.kill(pid)
        newest = journal.segments(small_disk / "journal", "main")[-1]
        assert os.path.getsize(newest.path) < 1 << 20, "there was no room for a whole segment"
        assert Kind.POSITION in {kind for kind, _ in journal.read_records(newest)}
