"""The wallet in live mode: what the private stream, REST and the income history say of it. Holds no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.exchange.user_data import AccountUpdate
from engine.trading.desk import Desk
from engine.trading.income import IncomeCheck

PEAK_EVERY_MS, PEAKS = 10_000, 128  # 20 minutes: longer than the income history is waited for
LAG_MS = 6_000  # REST may show the wallet of so long ago
TRANSFERS = frozenset(
    {"DEPOSIT", "WITHDRAW", "ADMIN_DEPOSIT", "ADMIN_WITHDRAW", "MARGIN_TRANSFER", "ASSET_TRANSFER", "ADJUSTMENT",
     "COIN_SWAP_DEPOSIT", "COIN_SWAP_WITHDRAW"}
)  # fmt: skip


@dataclass
class Wallet:
    """Moves the desk's account. A transfer moves the equity's base and not the result, whoever tells of it."""

    desk: Desk
    income: IncomeCheck
    alarm: Callable[[str, int, str], None]
    _told_ms: int = 0  # when the stream last said something
    _now_ms: int = 0
    _peaks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=PEAKS))

    def advance(self, now_ms: int) -> None:
        """Let time pass."""
        self._now_ms = now_ms
        if not self._peaks or now_ms - self._peaks[-1][0] >= PEAK_EVERY_MS:
            self._peaks.append((now_ms, self.desk.account.peak_equity_usdt))

    def on_account(self, update: AccountUpdate, symbol: int, now_ms: int) -> None:
        """Take the USDT balance of an ACCOUNT_UPDATE. symbol: whose funding it is, −1 if nobody says."""
        account, self._told_ms = self.desk.account, now_ms
        if "USDT" not in update.balances:
            return
        wallet, change = update.balances["USDT"]
        account.wallet_usdt, account.known_ms = wallet, now_ms
        if update.reason in TRANSFERS:
            account.transfer(change)
            self._move_peaks(change, now_ms)
            self.income.moved(change, update.time_ms)
        elif update.reason == "FUNDING_FEE" and change:
            slot = self.desk.positions.slot_of[symbol] if symbol >= 0 else -1
            if slot >= 0:
                self.desk.book_funding(slot, change, now_ms)
            if symbol >= 0:  # told after the exit it is the wallet's alone; the income history has it all the same
                self.income.funded(symbol, change, update.time_ms)

    def on_read(self, wallet_usdt: float, asked_ms: int) -> None:
        """Take the wallet that REST shows, unless the stream told something that REST may not know yet."""
        account = self.desk.account
        if asked_ms - self._told_ms < LAG_MS or wallet_usdt == account.wallet_usdt:
            return
        self.alarm("wallet_corrected", -1, f"{account.wallet_usdt:.8f} -> {wallet_usdt:.8f}: an event was missed")
        account.wallet_usdt = wallet_usdt
        self._revalue()

    def on_missed(self, amount_usdt: float, time_ms: int) -> None:
        """Take a transfer that the income history alone tells of; the wallet has it since some later statement.

        The peak is that of its moment, moved: the equity that rose with the money was none.
        """
        account = self.desk.account
        self.alarm("transfer_missed", -1, f"{amount_usdt:+.2f} USDT were moved while no stream told of it")
        self._move_peaks(amount_usdt, time_ms)
        account.peak_equity_usdt = self._peaks[-1][1] if self._peaks else account.peak_equity_usdt + amount_usdt
        if time_ms >= account.day_ms:
            account.day_start_equity_usdt += amount_usdt
        self._revalue()

    def _move_peaks(self, amount_usdt: float, time_ms: int) -> None:
        """Move the peaks that were seen until then, and forget what came of the money after it."""
        kept = [(ms, peak + amount_usdt) for ms, peak in self._peaks if ms <= time_ms]
        self._peaks = deque(kept, maxlen=PEAKS)

    def _revalue(self) -> None:
        self.desk.mark_account(self._now_ms)
        self.desk.write_account(self._now_ms)
