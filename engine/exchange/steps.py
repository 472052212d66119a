"""Exact decimal text of prices and quantities: integers of the tick or step, never a float's own digits."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

NO_RULE = 1e-8  # where the exchange names no tick or step (0): the most decimals that it writes


class Step:
    """A tick or step size. Values are given as floats and written as the decimal of their nearest multiple."""

    __slots__ = ("_decimals", "_per_unit", "size", "text")

    def __init__(self, size: float) -> None:
        if not size > 0.0:
            raise ValueError(f"step size: expected > 0; got {size}")
        exact = Decimal(repr(size)).normalize()
        self.size = size
        self.text = format(exact, "f")
        self._decimals = max(0, -int(exact.as_tuple().exponent))
        self._per_unit = int(exact.scaleb(self._decimals))  # step in units of the last decimal

    @staticmethod
    def of(row: Any) -> tuple[Step, Step]:
        """Return price step and quantity step of an INSTRUMENT row; one that is not traded may have none."""
        return Step(float(row["tick_size"]) or NO_RULE), Step(float(row["step_size"]) or NO_RULE)

    def write(self, value: float) -> str:
        """Return the decimal text of the multiple nearest to `value`."""
        return self._text(round(value / self.size))

    def floor(self, value: str | float) -> str:
        """Return the text of the largest multiple ≤ `value` (given as text: exactly)."""
        return self._text(self._units(value, ROUND_FLOOR))

    def ceil(self, value: str | float) -> str:
        """Return the text of the smallest multiple ≥ `value`."""
        return self._text(self._units(value, ROUND_CEILING))

    def fits(self, text: str) -> bool:
        """Whether the decimal `text` is a multiple."""
        return Decimal(text) % Decimal(self.text) == 0

    def _units(self, value: str | float, rounding: str) -> int:
        if not isinstance(value, str):  # on the way of an exit: a float at a multiple needs no decimals
            ratio = value / self.size
            if abs(ratio) < 1e8 and abs(ratio - round(ratio)) <= 5e-10:
                return round(ratio)
        exact = Decimal(value if isinstance(value, str) else repr(value)) / Decimal(self.text)
        if not isinstance(value, str):  # 0.3 / 0.1 must stay 3 units
            near = exact.to_integral_value(ROUND_HALF_EVEN)
            if abs(exact - near) <= Decimal("1e-9") * max(Decimal(1), abs(exact)):
                return int(near)
        return int(exact.to_integral_value(rounding))

    def _text(self, units: int) -> str:
        whole = units * self._per_unit
        if not self._decimals:
            return str(whole)
        sign, digits = ("-" if whole < 0 else ""), str(abs(whole)).rjust(self._decimals + 1, "0")
        return f"{sign}{digits[: -self._decimals]}.{digits[-self._decimals :]}"
