"""What the engine asks of a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Predictor(Protocol):
    """A model: its name, its backend, and 8 predictions of a row."""

    model_id: str
    backend: str
    nan_unseen: npt.NDArray[np.bool_]  # [132]: features without a NaN in training

    def predict_into(self, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> None:
        """Write the 8 predictions of float32[132] into float64[8]."""
        ...


@runtime_checkable
class Bindable(Protocol):
    """A model that can be bound to the memory of its row and its answer, which makes each call cheaper."""

    def bind(self, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> Callable[[], None]:
        """Return what predicts `row` into `out`, both as they are when it is called."""
        ...
