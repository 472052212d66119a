"""What each gate of a decision means, in a person's words, and what decides about it."""

from __future__ import annotations

import msgspec

from kernels.records import GATES


class Gate(msgspec.Struct, frozen=True):
    """One test that can refuse an entry. settings: the configuration's keys that decide about it."""

    name: str
    meaning: str
    settings: list[str] = []


_GATES: tuple[Gate, ...] = (
    Gate("no_session", "no session is open: entries are stopped", ["control.auto_start"]),
    Gate("no_model", "no model is active"),
    Gate("no_side", "the model prefers neither side"),
    Gate("er_low", "the expected net return is below the least one", ["decision.min_er"]),
    Gate("tail", "the predicted 5 % worst case is worse than allowed", ["decision.max_tail"]),
    Gate("mae", "the expected move against the position is larger than allowed", ["decision.max_mae_atr"]),
    Gate("hold", "the expected holding time is outside the allowed range",
         ["decision.min_hold_minutes", "decision.max_hold_minutes"]),
    Gate("not_flat", "the symbol already has a position or an open order"),
    Gate("incomplete", "a candle that the decision needs has not come"),
    Gate("late", "the candles were complete only after the deadline", ["market.deadline_ms"]),
    Gate("input_late", "funding rate or open interest was older than the model learned with"),
    Gate("nan_unseen", "a feature is not known that always was in training"),
    Gate("not_ready", "too little history yet to know every feature", ["market.warmup_bars"]),
    Gate("filled_bar", "the candle is a hole that was filled, not one of the exchange"),
    Gate("mark_beyond_barrier", "the mark price is already beyond the stop or the take profit"),
    Gate("stale_data", "mark price or book is too old, or the book has no price", ["risk.max_data_age_ms"]),
    Gate("spread", "the spread is wider than allowed", ["risk.max_spread_bps"]),
    Gate("min_size", "what risk allows is smaller than the exchange's least order",
         ["risk.risk_fraction", "risk.start_equity_usdt"]),
    Gate("max_positions", "as many positions are open as allowed", ["risk.max_positions"]),
    Gate("max_notional", "all positions together are as large as allowed", ["risk.max_total_notional_usdt"]),
    Gate("leverage", "all positions together are as large as the equity bears", ["risk.max_leverage"]),
    Gate("day_loss", "today's loss limit is reached", ["risk.max_day_loss"]),
    Gate("drawdown", "the limit of loss from the highest equity is reached", ["risk.max_drawdown"]),
    Gate("losing_streak", "as many trades in a row were lost as allowed", ["risk.max_losing_streak"]),
    Gate("cooldown", "the symbol rests after a stop loss", ["risk.cooldown_minutes"]),
    Gate("book_size", "too little quantity stands at the best price", ["risk.book_share"]),
    Gate("symbol_halted", "the symbol is halted: by an audit, by the engine or by the exchange (`ta allow`)"),
    Gate("journal_full", "the disk of the journal is full"),
    Gate("funding", "the funding due before the time limit costs more than allowed", ["risk.max_funding"]),
    Gate("correlation", "too much would win and lose together with what is open",
         ["risk.correlation", "risk.max_correlated_usdt"]),
    Gate("delivery", "the contract is delivered or delisted soon"),
    Gate("liquidation", "the position would be liquidated before its stop, or the margin is too thin",
         ["live.leverage", "live.margin_type"]),
    Gate("unknown_order", "the fate of an earlier order is not known yet"),
    Gate("rate_budget", "the rest of the order budget is kept for exits"),
    Gate("clock", "our clock cannot be trusted to fit the exchange's"),
    Gate("gap", "a hole in the candles is being repaired"),
    Gate("audit_failed", "a parity audit found that features differ from their fold"),
    Gate("reduce_only", "only exits are allowed until a start"),
)  # fmt: skip

MEANINGS: dict[str, Gate] = {gate.name: gate for gate in _GATES}
"""By name, in the order of `kernels.records.GATES`; a test holds the two against each other."""


def pointer(names: list[str]) -> str:
    """Return the first of some gates with what it means, for one line of text."""
    return f"{names[0]}: {MEANINGS[names[0]].meaning}" if names else ""


def known() -> list[Gate]:
    """Return every gate in the order of its bit."""
    return [MEANINGS[name] for name in GATES]
