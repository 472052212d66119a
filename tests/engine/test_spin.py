"""The warm path of busy polling: it runs the engine's own code to a decision, and nothing comes of it."""

from __future__ import annotations

from engine.config import load
from engine.spin import Warmth
from tests.engine.rig import FixedModel


def test_warm_path_decides_on_every_made_up_minute_and_enters_nothing() -> None:
    warmth, model = Warmth(load()), FixedModel()
    warmth.serve(model)
    for _ in range(130):  # past a quarter and an hour, whose larger bars the vectors need
        warmth.run()
    assert warmth.core.predictor is model
    assert warmth.core.counters.signals == 130 and warmth.core.counters.entries == 0
    assert not warmth.decoder.counts()["faults"] and not warmth.worn
    warmth.close()
