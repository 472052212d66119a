"""The wallet and what limits entries over time: day, peak, streak, cooldowns. A restart never clears any of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kernels.records import Reason, RunState

DAY_MS = 86_400_000
HALT, ALLOW = "halt_symbol", "allow_symbol"  # the commands that rest a symbol and lift it, in the journal by name
STOPPED = frozenset({Reason.SL, Reason.EXCHANGE_STOP, Reason.LIQUIDATION, Reason.ADL})  # ends with a cooldown


@dataclass
class Account:
    """Money in USDT; times in exchange milliseconds."""

    wallet_usdt: float
    equity_usdt: float = 0.0
    peak_equity_usdt: float = 0.0
    day_start_equity_usdt: float = 0.0
    day_ms: int = 0
    known_ms: int = 0  # live: until when the wallet is known, so that a start finds what was moved since
    losing_streak: int = 0
    run_state: int = int(RunState.STOPPED)
    cooldown_until_ms: dict[int, int] = field(default_factory=dict)
    halted_symbols: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.equity_usdt = self.equity_usdt or self.wallet_usdt
        self.peak_equity_usdt = self.peak_equity_usdt or self.equity_usdt
        self.day_start_equity_usdt = self.day_start_equity_usdt or self.equity_usdt

    def mark(self, unrealised_usdt: float, now_ms: int) -> bool:
        """Revalue the equity; return whether a new UTC day began."""
        self.equity_usdt = self.wallet_usdt + unrealised_usdt
        self.peak_equity_usdt = max(self.peak_equity_usdt, self.equity_usdt)
        day_ms = now_ms - now_ms % DAY_MS
        if day_ms <= self.day_ms:
            return False
        first = self.day_ms == 0
        self.day_ms = day_ms
        self.day_start_equity_usdt = self.equity_usdt
        return not first

    def transfer(self, amount_usdt: float) -> None:
        """Move the base, not the result: a deposit or withdrawal shifts the day's and the peak equity with it."""
        self.equity_usdt += amount_usdt
        self.day_start_equity_usdt += amount_usdt
        self.peak_equity_usdt += amount_usdt

    @property
    def day_pnl_usdt(self) -> float:
        """Mark-to-market result since the UTC day began."""
        return self.equity_usdt - self.day_start_equity_usdt

    def trade_closed(self, symbol: int, net_usdt: float, stopped: bool, now_ms: int, cooldown_ms: int) -> None:
        """Account for a closed round trip's streak and cooldown (the money moved at its fills)."""
        self.losing_streak = self.losing_streak + 1 if net_usdt < 0 else 0
        if stopped:
            self.cooldown_until_ms[symbol] = now_ms + cooldown_ms

    def state(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        values = asdict(self)
        values["halted_symbols"] = sorted(self.halted_symbols)
        values["cooldown_until_ms"] = list(self.cooldown_until_ms.items())
        return values

    @classmethod
    def from_state(cls, values: dict[str, Any]) -> Account:
        """Rebuild from `state`."""
        values = dict(values)
        values["halted_symbols"] = set(values["halted_symbols"])
        values["cooldown_until_ms"] = {int(k): int(v) for k, v in values["cooldown_until_ms"]}
        return cls(**values)
