"""Replay: a recorded run's inputs through the same code; every record that it wrote must come out again."""

from engine.replay.run import Report, registry_models, replay, runs

__all__ = ["Report", "registry_models", "replay", "runs"]
