"""The shared small bundle."""

from tests.model_rig import trained

__all__ = ["trained"]
