"""Somebody changed the account's settings: what that means at once, and after the checks have run again."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from engine.config import LiveConfig
from engine.exchange.user_data import ConfigUpdate
from engine.trading.session import LiveTrading
from kernels.records import RunState


class AccountWatch:
    """Takes ACCOUNT_CONFIG_UPDATE; entries of what was changed rest until the checks have passed.

    check(): start the preflight's checks again; their result comes back by `checked`.
    """

    def __init__(self, trading: LiveTrading, settings: LiveConfig, check: Callable[[], None]) -> None:
        self._trading, self._settings, self._check = trading, settings, check

    def __call__(self, update: ConfigUpdate) -> None:
        """Take one event."""
        trading = self._trading
        if update.symbol in trading.symbols and update.leverage:
            symbol = trading.symbols.index(update.symbol)
            tiers = trading.brackets.tiers.get(symbol)
            ours = min(self._settings.leverage, tiers[0].leverage) if tiers else self._settings.leverage
            if update.leverage == ours:
                return  # our own doing
            trading.admission.untraded[symbol] = f"leverage changed to {update.leverage} from outside"
            trading.alarm("leverage_changed", symbol, trading.admission.untraded[symbol])
        if update.multi_assets:
            self._reduce_only("the account was switched to multi-assets mode")
        self._check()

    def checked(self, payload: bytes) -> None:
        """Take the result of the checks: JSON of [faults, resting symbols with the reason]."""
        faults, untraded = orjson.loads(payload)
        for fault in faults:
            self._reduce_only(fault)
        if not faults:
            symbols = self._trading.symbols
            self._trading.admission.untraded = {symbols.index(name): why for name, why in untraded.items()}

    def _reduce_only(self, why: str) -> None:
        account = self._trading.desk.account
        account.run_state = max(account.run_state, int(RunState.REDUCE_ONLY))
        self._trading.alarm("account_settings", -1, why)
