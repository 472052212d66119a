"""A recorded run beside its backtest: trades paired by decision, every difference split to the cent and explained.

    run = Recorded(decisions, rounds, opened)
    report = compare(run, result, predictions, paths)

The differences add up: net of the run − net of the backtest = the sum over `Comparison.by_cause()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.results import Result
from kernels.quiet import HIGH, LOW
from kernels.records import GATES, TARGET_COUNT, OrderState, Reason

Array = npt.NDArray[Any]
MINUTE_MS = 60_000
SAME_PREDICTION = 1e-9  # a batch sums trees in another order than one row does: the last bits differ, no more

DECISION = np.dtype(
    [("seq", "<u8"), ("symbol", "S24"), ("side", "i1"), ("entered", "u1"), ("decision_ms", "<i8"), ("time_ms", "<i8"),
     ("predictions", "<f8", (TARGET_COUNT,)), ("gates", "<u8"), ("close", "<f8"), ("atr_15m", "<f8"),
     ("tp_price", "<f8"), ("sl_price", "<f8"), ("model_id", "S40")]
)  # fmt: skip
"""One recorded signal, as far as a comparison asks."""

ROUND = np.dtype(
    [("position_id", "<u8"), ("symbol", "S24"), ("side", "i1"), ("reason", "u1"), ("qty", "<f8"),
     ("entry_price", "<f8"), ("exit_price", "<f8"), ("opened_ms", "<i8"), ("closed_ms", "<i8"), ("gross_usdt", "<f8"),
     ("fees_usdt", "<f8"), ("funding_usdt", "<f8"), ("net_usdt", "<f8")]
)  # fmt: skip
"""One closed round trip; in a recorded run `position_id` is the seq of its signal."""

INPUTS = frozenset({"late", "input_late", "incomplete", "gap", "clock", "stale_data", "audit_failed", "journal_full"})
MARKET = frozenset({"spread", "book_size", "mark_beyond_barrier", "min_size", "funding", "filled_bar"})
STATE = frozenset(
    {"not_flat", "cooldown", "max_positions", "max_notional", "leverage", "day_loss", "drawdown", "losing_streak",
     "liquidation", "unknown_order", "correlation"}
)  # fmt: skip
LIMITS = STATE - {"not_flat", "cooldown"}  # of the account: another symbol's position can be the cause
OPERATOR = frozenset({"no_session", "no_model", "reduce_only", "symbol_halted", "rate_budget", "delivery"})
MODEL = frozenset({"no_side", "er_low", "tail", "mae", "hold", "nan_unseen", "not_ready"})
NOT_FLAT = 1 << GATES.index("not_flat")
BY_MARKET = frozenset({int(Reason.TP), int(Reason.SL), int(Reason.TIME)})

CAUSES: dict[str, str] = {
    "entry_price": "the book at the fill against half a spread around the modelled path",
    "exit_price": "the same exit in the same minute, at the run's tick and book instead of the modelled path",
    "path": "the path inside a minute: both barriers in reach, or a mark extreme between two ticks of the run",
    "size": "another quantity: equity or the book's size at the decision",
    "fees": "fees of these prices and quantities",
    "funding": "funding at the run's mark, or another holding time across a settlement",
    "late_inputs": "an input came late or not in time, so the run refused or decided otherwise",
    "inputs": "the stored inputs differ from those the run decided on (revised bars, a sample that came later)",
    "market": "the run's book or mark refused or allowed what the model of the book does not know",
    "follows": "another position was open, cooling down or counted, because of an earlier difference",
    "operator": "a person, a session or a limit outside the market",
    "not_filled": "one side's order met no book within its limit",
    "not_decided": "one side made no decision at that minute",
    "held_before": "a position opened before the run began: itself, or what it kept the run from",
    "still_open": "the position was open at the end of one side",
    "unexplained": "no cause was found",
}


@dataclass
class Recorded:
    """A recorded run. decisions: DECISION[]; rounds: ROUND[]; opened: ids of the positions that were opened."""

    decisions: Array
    rounds: Array
    opened: set[int]


@dataclass
class Pair:
    """A trade of the run and its trade of the backtest. USDT are run − backtest; `split` adds up to `net_usdt`."""

    symbol: str
    side: int
    decision_ms: int
    reason: str
    backtest_reason: str
    closed_ms: int
    backtest_closed_ms: int
    net_usdt: float
    split: dict[str, float]
    cause: str  # "": the same exit in the same minute


@dataclass
class Lone:
    """A trade of one side alone, and why the other has none."""

    symbol: str
    side: int
    decision_ms: int
    only_in: str  # run or backtest
    net_usdt: float
    cause: str
    detail: str


@dataclass
class Comparison:
    """What came of it; see `CAUSES` for the names."""

    decisions: int = 0
    decisions_missing: int = 0
    predictions_equal: int = 0
    gates_equal: int = 0
    gate_differences: dict[str, int] = field(default_factory=dict)  # gate → decisions in which one side alone met it
    decision_age_ms_p50: float = 0.0  # the run's decision after its minute's close; the backtest's is 0
    decision_age_ms_p99: float = 0.0
    run_trades: int = 0
    backtest_trades: int = 0
    run_net_usdt: float = 0.0
    backtest_net_usdt: float = 0.0
    pairs: list[Pair] = field(default_factory=list)
    lone: list[Lone] = field(default_factory=list)

    @property
    def same(self) -> int:
        """Pairs with the same reason in the same minute."""
        return sum(not pair.cause for pair in self.pairs)

    def by_cause(self) -> dict[str, dict[str, float]]:
        """Return cause → trades concerned and money (run − backtest, USDT), the largest first; it adds up."""
        table: dict[str, dict[str, float]] = {}
        for cause, usdt in self._amounts():
            row = table.setdefault(cause, {"trades": 0, "net_usdt": 0.0})
            row["trades"] += 1
            row["net_usdt"] += usdt
        return dict(sorted(table.items(), key=lambda item: -abs(item[1]["net_usdt"])))

    def _amounts(self) -> Iterator[tuple[str, float]]:
        for pair in self.pairs:
            yield from ((cause, usdt) for cause, usdt in pair.split.items() if usdt)
        for lone in self.lone:
            yield lone.cause, lone.net_usdt if lone.only_in == "run" else -lone.net_usdt

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"same_exit": self.same, "by_cause": self.by_cause()}


def compare(run: Recorded, result: Result, predictions: Array, paths: Array) -> Comparison:
    """Pair a run's trades with a backtest's and explain what differs.

    predictions float64[S, N, 8], paths float64[S, N, 4] (mark open, high, low, close): the backtest's grid, on the
    minutes of `result`.
    """
    return _Comparer(run, result, predictions, paths).made()


class _Comparer:
    def __init__(self, run: Recorded, result: Result, predictions: Array, paths: Array) -> None:
        self.run, self.result, self.predictions, self.paths = run, result, predictions, paths
        self.index = {name: s for s, name in enumerate(result.symbols)}
        self.found = Comparison()
        self.decision_of = {int(row["seq"]): row for row in run.decisions}
        self.decided = {(row["symbol"].decode(), int(row["decision_ms"])): row for row in run.decisions}
        self.ours = self._keyed(run.rounds, {seq: int(row["decision_ms"]) for seq, row in self.decision_of.items()})
        self.theirs = self._keyed(_rounds(result), _decision_times(result))
        self.held_until_ms = self._held()

    def _keyed(self, rounds: Array, decided_ms: dict[int, int]) -> dict[tuple[str, int], Any]:
        """Return symbol and decision time → round; 0 − id stands for the time of one decided before the run."""
        return {
            (row["symbol"].decode(), decided_ms.get(int(row["position_id"]), -int(row["position_id"]))): row
            for row in rounds
        }

    def _held(self) -> dict[str, float]:
        """Return symbol → when the position ended that the run began with; infinite: not within the run."""
        found, seen = {}, set[str]()
        for row in self.run.decisions:
            name = row["symbol"].decode()
            if name not in seen and NOT_FLAT & int(row["gates"]):
                found[name] = np.inf
            seen.add(name)
        return found | {name: float(row["closed_ms"]) for (name, time_ms), row in self.ours.items() if time_ms <= 0}

    def made(self) -> Comparison:
        found = self.found
        self._decisions()
        found.run_trades, found.backtest_trades = len(self.ours), len(self.theirs)
        found.run_net_usdt = float(sum(row["net_usdt"] for row in self.ours.values()))
        found.backtest_net_usdt = float(sum(row["net_usdt"] for row in self.theirs.values()))
        for key in sorted({*self.ours, *self.theirs}, key=lambda key: (key[1], key[0])):
            ours, theirs = self.ours.get(key), self.theirs.get(key)
            if ours is not None and theirs is not None and ours["side"] == theirs["side"]:
                found.pairs.append(self._pair(key, ours, theirs))
                continue
            if ours is not None:
                found.lone.append(self._lone(key, ours, "run"))
            if theirs is not None:
                found.lone.append(self._lone(key, theirs, "backtest"))
        return found

    # --- decisions ---

    def _at(self, symbol: str, decision_ms: int) -> tuple[int, int] | None:
        """Return (symbol, minute) of the backtest's decision, None where it made none."""
        s, at = self.index.get(symbol, -1), (decision_ms - self.result.first_ms) // MINUTE_MS - 1
        inside = s >= 0 and 0 <= at < self.result.decided.shape[1]
        return (s, at) if inside and self.result.decided[s, at] else None

    def _decisions(self) -> None:
        found = self.found
        for (symbol, decision_ms), row in self.decided.items():
            place = self._at(symbol, decision_ms)
            found.decisions += 1
            if place is None:
                found.decisions_missing += 1
                continue
            found.predictions_equal += self._predicted_alike(row, place)
            differing = int(row["gates"]) ^ int(self.result.gates[place])
            found.gates_equal += not differing
            for name in _names(differing):
                found.gate_differences[name] = found.gate_differences.get(name, 0) + 1
        ages_ms = self.run.decisions["time_ms"] - self.run.decisions["decision_ms"]
        if len(ages_ms):
            found.decision_age_ms_p50, found.decision_age_ms_p99 = np.percentile(ages_ms, (50, 99)).tolist()

    def _predicted_alike(self, row: Any, place: tuple[int, int]) -> bool:
        return bool(np.allclose(row["predictions"], self.predictions[place], SAME_PREDICTION, 1e-12, equal_nan=True))

    # --- trades of both ---

    def _pair(self, key: tuple[str, int], ours: Any, theirs: Any) -> Pair:
        side, qty, cause = float(ours["side"]), float(ours["qty"]), self._exit_cause(key, ours, theirs)
        ratio = qty / float(theirs["qty"])
        split = {
            "size": (ratio - 1.0) * float(theirs["net_usdt"]),
            "entry_price": -side * qty * (float(ours["entry_price"]) - float(theirs["entry_price"])),
            cause or "exit_price": side * qty * (float(ours["exit_price"]) - float(theirs["exit_price"])),
            "fees": ratio * float(theirs["fees_usdt"]) - float(ours["fees_usdt"]),
            "funding": float(ours["funding_usdt"]) - ratio * float(theirs["funding_usdt"]),
        }
        return Pair(
            key[0], int(ours["side"]), key[1], _reason(ours), _reason(theirs), int(ours["closed_ms"]),
            int(theirs["closed_ms"]), float(ours["net_usdt"]) - float(theirs["net_usdt"]), split, cause,
        )  # fmt: skip

    def _exit_cause(self, key: tuple[str, int], ours: Any, theirs: Any) -> str:
        same_minute = ours["closed_ms"] // MINUTE_MS == theirs["closed_ms"] // MINUTE_MS
        if same_minute and ours["reason"] == theirs["reason"]:
            return ""
        if int(ours["reason"]) not in BY_MARKET:
            return "operator"
        place, row = self._at(*key), self.decided[key]
        if place is not None and not self._predicted_alike(row, place):
            return "inputs"  # close and atr_15m, on which the barriers hang, are among the inputs
        return "path" if same_minute or self._in_reach(key, ours, theirs) else "unexplained"

    def _in_reach(self, key: tuple[str, int], ours: Any, theirs: Any) -> bool:
        """Whether the mark bars of the earlier exit's moment reach its barrier.

        Then the two differ by what a bar does not tell: where inside the minute its extremes were, and whether a tick
        of the run fell on them.
        """
        first = ours if ours["closed_ms"] < theirs["closed_ms"] else theirs
        row, side, reason = self.decided[key], int(first["side"]), int(first["reason"])
        at = (int(first["closed_ms"]) - self.result.first_ms) // MINUTE_MS
        near = self.paths[self.index[key[0]], max(at - 1, 0) : at + 1]  # an exit of a minute's last tick fills later
        if reason == Reason.TIME or not len(near):
            return False
        level = float(row["sl_price"] if reason == Reason.SL else row["tp_price"])
        above = (side > 0) == (reason == Reason.TP)
        return bool((near[:, HIGH] >= level).any() if above else (near[:, LOW] <= level).any())

    # --- trades of one side ---

    def _lone(self, key: tuple[str, int], row: Any, only_in: str) -> Lone:
        cause, detail = self._why_alone(key, row, only_in)
        return Lone(key[0], int(row["side"]), key[1], only_in, float(row["net_usdt"]), cause, detail)

    def _why_alone(self, key: tuple[str, int], row: Any, only_in: str) -> tuple[str, str]:
        if key[1] <= 0:
            return "held_before", "its signal belongs to an earlier run"
        signal, place = self.decided.get(key), self._at(*key)
        if signal is None or place is None:
            missing = "the run" if signal is None else "the backtest"
            return ("late_inputs" if signal is None else "not_decided"), f"{missing} made no decision at this minute"
        if only_in == "run":
            refused, sides = int(self.result.gates[place]), (int(row["side"]), int(self.result.sides[place]))
        else:
            refused, sides = int(signal["gates"]), (int(row["side"]), int(signal["side"]))
        names = _names(refused)
        if sides[0] != sides[1] or MODEL.intersection(names):
            alike = self._predicted_alike(signal, place)
            return ("unexplained" if alike else "inputs"), ", ".join(names) or "the other side was chosen"
        if not names:
            return self._why_no_round(key, signal, only_in)
        if STATE.intersection(names) and not (INPUTS | OPERATOR).intersection(names):
            return self._why_not_free(key, signal, only_in, names)
        for cause, group in (("late_inputs", INPUTS), ("operator", OPERATOR), ("market", MARKET)):
            if group.intersection(names):
                return cause, ", ".join(names)
        return "unexplained", ", ".join(names)

    def _why_not_free(self, key: tuple[str, int], signal: Any, only_in: str, names: list[str]) -> tuple[str, str]:
        """The side without this trade was not free to enter: its own trade in the symbol, or its account, says why."""
        other, text = self.theirs if only_in == "run" else self.ours, ", ".join(names)
        for (symbol, decision_ms), row in other.items():
            closed_ms = int(row["closed_ms"])
            if symbol != key[0] or not decision_ms < key[1] <= closed_ms:
                continue
            if decision_ms <= 0:
                break
            age_ms = int(signal["time_ms"]) - key[1]
            if only_in == "run" and closed_ms < key[1] + age_ms:
                return "late_inputs", f"{text}: the run decided {age_ms} ms after the close, its own trade was over"
            return "follows", f"{text}: its trade decided at {decision_ms} ended at {closed_ms} ({_reason(row)})"
        if only_in == "backtest" and (held := self._kept_by(key, names)):
            return "held_before", f"{text}: {held} was held when the run began"
        return "follows", text

    def _kept_by(self, key: tuple[str, int], names: list[str]) -> str:
        """Return the symbol whose position of an earlier run kept this run from entering, "" if none did."""
        until_ms = self.held_until_ms.get(key[0], 0.0)
        ends = [int(row["closed_ms"]) for (symbol, _), row in self.ours.items() if symbol == key[0]]
        newest_ms = max((end for end in ends if end < key[1]), default=0)
        if until_ms >= key[1] or ("cooldown" in names and until_ms == newest_ms > 0):
            return key[0]
        others = (symbol for symbol, end_ms in self.held_until_ms.items() if end_ms >= key[1])
        return next(others, "") if LIMITS.intersection(names) else ""

    def _why_no_round(self, key: tuple[str, int], signal: Any, only_in: str) -> tuple[str, str]:
        if only_in == "backtest":
            opened = int(signal["seq"]) in self.run.opened
            return (
                ("still_open", "open when the run ended") if opened else ("not_filled", "the run's order met no book")
            )
        times = _entry_orders(self.result, self.index[key[0]])
        filled = times.get(key[1], 0.0) > 0.0
        return ("still_open", "open at the end") if filled else ("not_filled", "the backtest's order met no book")


def _names(gates: int) -> list[str]:
    return [name for i, name in enumerate(GATES) if gates >> i & 1]


def _reason(row: Any) -> str:
    return Reason(int(row["reason"])).name.lower()


def _rounds(result: Result) -> Array:
    rows = np.zeros(len(result.trades), ROUND)
    for name in ROUND.names or ():
        if name != "symbol":
            rows[name] = result.trades[name]
    rows["symbol"] = [result.symbols[s].encode() for s in result.trades["symbol"]]
    return rows


def _decision_times(result: Result) -> dict[int, int]:
    """Return position id → decision time: an entry order's intent is written in the decision's own millisecond."""
    orders = result.orders
    intents = orders[(orders["reduce_only"] == 0) & (orders["state"] == OrderState.INTENT)]
    return dict(zip(intents["position_id"].tolist(), intents["time_ms"].tolist(), strict=True))


def _entry_orders(result: Result, symbol: int) -> dict[int, float]:
    """Return decision time → quantity that its entry order got."""
    times, orders = _decision_times(result), result.orders
    chosen = orders[(orders["reduce_only"] == 0) & (orders["symbol"] == symbol)]
    return {
        times[int(row["position_id"])]: float(row["filled_qty"]) for row in chosen if int(row["position_id"]) in times
    }
