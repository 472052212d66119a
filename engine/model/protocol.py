"""What the engine asks of a loaded model, and a prediction as a C call for compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

C_PREDICT = ctypes.CFUNCTYPE(None, ctypes.c_int64)


@dataclass(frozen=True, slots=True)
class Bound:
    """One prediction as a C call: `function(argument)`, void(int64), predicts the bound row into the bound answer.

    Both numbers hold as long as this object lives. What is evaluated in Python cannot raise through compiled code: its
    answer is then NaN, and the caller asks `raise_fault` afterwards (None: the function cannot fail).
    """

    function: int
    argument: int
    raise_fault: Callable[[], None] | None
    keep: Any  # what the addresses point to


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
    """A model that can be bound to the memory of its row and its answer as a C call of its own."""

    def bind_c(self, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> Bound:
        """Return what predicts `row` into `out`, both as they are when it is called."""
        ...


def bind_c(predictor: Predictor, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> Bound:
    """Return any predictor's prediction of `row` into `out` as a C call; both arrays are borrowed and stay in place."""
    if isinstance(predictor, Bindable):
        return predictor.bind_c(row, out)
    return bound_python(partial(predictor.predict_into, row, out), out)


def bound_python(predict: Callable[[], None], out: npt.NDArray[np.float64]) -> Bound:
    """Return what is evaluated in Python as a C call, which takes the GIL itself."""
    faults: list[BaseException] = []

    def call(_: int) -> None:
        try:
            predict()
        except BaseException as fault:
            out[:] = np.nan
            faults[:] = [fault]

    def raise_fault() -> None:
        if faults:
            raise faults.pop()

    function = C_PREDICT(call)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return Bound(address, 0, raise_fault, (function, out))
