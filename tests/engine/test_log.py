"""What the engine says to other programs."""

from __future__ import annotations

import os
import sys

import pytest

from engine.log import say


def test_a_supervisor_that_died_ends_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patched:
        out = open(writer, "w")  # noqa: SIM115 (its close fails: nobody reads)
        patched.setattr(sys, "stdout", out)
        say(guarding=True)
        say(ready=True)
    with pytest.raises(BrokenPipeError):
        out.close()
