"""The array of open positions."""

from __future__ import annotations

import numpy as np

from engine.trading.positions import Positions
from kernels.stops import POSITION


def test_head_reads_what_the_row_holds_while_rows_move() -> None:
    positions = Positions(70_000, 4)
    for number, (symbol, side, qty) in enumerate([(3, 1, 1.5), (65_535, -1, 1e-8), (300, -1, 1e9)]):
        row = np.zeros(1, POSITION)
        row["position_id"], row["symbol"], row["side"], row["qty"] = 2**63 + number, symbol, side, qty
        row["event"], row["reason"], row["protected"], row["spare"], row["entry_price"] = 255, 255, 255, 65_535, 7.0
        positions.open(row, b"m")
    positions.rows[1]["qty"] = 2.5
    assert [positions.head(slot) for slot in range(3)] == [
        (2**63, 3, 1, 1.5), (2**63 + 1, 65_535, -1, 2.5), (2**63 + 2, 300, -1, 1e9),
    ]  # fmt: skip
    positions.close(0)
    assert positions.head(0) == (2**63 + 2, 300, -1, 1e9)
