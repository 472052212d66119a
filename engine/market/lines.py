"""The line protocol between the engine and its helper process: bounds, and bars as text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.records import BAR

MAX_LINE_BYTES = 64 << 20


def encode_bars(bars: npt.NDArray[Any]) -> str:
    """Return BAR[n] as text."""
    return base64.b64encode(bars.tobytes()).decode()


def decode_bars(text: str) -> npt.NDArray[Any]:
    """Return BAR[n] from `encode_bars`."""
    return np.frombuffer(base64.b64decode(text), BAR).copy()
