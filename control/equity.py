"""The equity curve, thinned: kept per beginning, and continued from its last point instead of read anew."""

from __future__ import annotations

from collections import OrderedDict

from control.reader import Reader
from control.shapes_data import Equity, EquityPoint

POINTS = 1_000
CURVES = 16  # beginnings kept: a page asks for a few (all, a month, a week, a day)
SPAN = (
    "SELECT toUnixTimestamp64Milli(max(time)) - greatest(toUnixTimestamp64Milli(min(time)), {from_ms:Int64}) AS ms "
    "FROM account WHERE time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
)
LAST = (
    "SELECT intDiv(toUnixTimestamp64Milli(time), {step:Int64}) AS slot, toUnixTimestamp64Milli(max(time)) AS at_ms, "
    "argMax(equity_usdt, time) AS equity, argMax(day_pnl_usdt, time) AS day_pnl FROM account "
    "WHERE time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') GROUP BY slot ORDER BY slot"
)


class _Curve:
    """The last point of each interval of `step_ms`; the interval doubles when there are more than POINTS."""

    def __init__(self, from_ms: int, step_ms: int) -> None:
        self.from_ms, self.step_ms = from_ms, step_ms
        self.points: dict[int, EquityPoint] = {}

    def since_ms(self) -> int:
        """Return from when on points may be new: the newest interval is not over."""
        return max(self.from_ms, max(self.points) * self.step_ms) if self.points else self.from_ms

    def thin(self) -> None:
        while len(self.points) > POINTS:
            self.step_ms *= 2
            self.points = {slot // 2: point for slot, point in sorted(self.points.items())}


class EquityCurves:
    """Reads the account's history once per beginning, then only what is new."""

    def __init__(self) -> None:
        self._curves: OrderedDict[int, _Curve] = OrderedDict()

    async def read(self, reader: Reader, from_ms: int) -> Equity:
        """Return at most POINTS points from `from_ms` on, oldest first: the last of each interval."""
        curve = self._curves.get(from_ms)
        if curve is None:
            (span,) = await reader.rows(SPAN, {"from_ms": from_ms}) or [{"ms": 0}]
            step_ms = 1_000
            while step_ms * POINTS < int(span["ms"] or 0):
                step_ms *= 2
            curve = _Curve(from_ms, step_ms)
        step_ms = curve.step_ms
        rows = await reader.rows(LAST, {"from_ms": curve.since_ms(), "step": step_ms})
        if step_ms == curve.step_ms:  # else another reader has thinned it meanwhile, and has these rows too
            for row in rows:
                curve.points[int(row["slot"])] = EquityPoint(int(row["at_ms"]), row["equity"], row["day_pnl"])
            curve.thin()
        self._curves[from_ms] = curve
        self._curves.move_to_end(from_ms)
        while len(self._curves) > CURVES:
            self._curves.popitem(last=False)
        return Equity(list(curve.points.values()))
