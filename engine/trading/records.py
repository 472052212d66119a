"""The desk's journal records: orders, fills, positions, trades and the account, each written in one place."""

from __future__ import annotations

import time

import numpy as np

from engine.journal import Writer
from engine.trading.account import HALT, Account
from engine.trading.gateway import OrderEvent
from engine.trading.orders import Order
from engine.trading.positions import Positions
from kernels.records import Kind, PositionEvent, Reason

ORDER = Kind.ORDER  # looking an enum's member up costs a call on the hot path


class Records:
    """Writes what the desk knows; `mode` goes into every record."""

    def __init__(self, journal: Writer, mode: int) -> None:
        self._journal, self._mode = journal, mode

    def account(self, account: Account, open_positions: int, now_ms: int) -> None:
        """Journal the wallet and limits."""
        self._journal.write(
            Kind.ACCOUNT, time.monotonic_ns(), now_ms, account.equity_usdt, account.wallet_usdt,
            account.peak_equity_usdt, account.day_pnl_usdt, open_positions, account.run_state,
            account.losing_streak, 0, account.day_ms,
        )  # fmt: skip

    def halt(self, symbol: str, why: str, now_ms: int) -> None:
        """Journal that the engine itself rests a symbol, in the words of the operator's command."""
        self._journal.write(
            Kind.COMMAND, time.monotonic_ns(), now_ms, b"", HALT.encode(), b"engine", symbol.encode()[:64], 0, 1,
            why.encode()[:128],
        )  # fmt: skip

    def order(self, order: Order, now_ms: int) -> None:
        """Journal an order as it is now."""
        self._journal.write(
            ORDER, time.monotonic_ns(), now_ms, order.client_order_id.encode(), order.position_id, order.symbol,
            order.side, order.state, order.reason, order.reduce_only, order.order_type, order.qty, order.price,
            order.filled_qty, order.average_price, order.order_id, order.code, self._mode,
            order.detail.encode()[:64],
        )  # fmt: skip

    def fill(self, order: Order, event: OrderEvent) -> None:
        """Journal one execution."""
        self._journal.write(
            Kind.FILL, time.monotonic_ns(), event.event_ms, order.client_order_id.encode(), order.position_id,
            order.symbol, order.side, int(event.maker), self._mode, event.qty, event.price, event.fee_usdt,
            event.slip_usdt, event.trade_id, event.event_ms,
        )  # fmt: skip

    def position(self, positions: Positions, slot: int, event: PositionEvent, reason: Reason, now_ms: int) -> None:
        """Journal a position event."""
        row = positions.rows[slot]
        row["event"], row["reason"] = int(event), int(reason)
        self._journal.write(Kind.POSITION, time.monotonic_ns(), now_ms, *row.item())

    def trade(
        self, row: np.void, model_id: bytes, reason: Reason, qty: float, exit_price: float, unprotected_ms: int,
        now_ms: int,
    ) -> float:  # fmt: skip
        """Journal a closed round trip and return its net result in USDT. row: its POSITION, as it was closed."""
        fees, funding, gross = float(row["fees_usdt"]), float(row["funding_usdt"]), float(row["realised_usdt"])
        net = gross - fees + funding
        self._journal.write(
            Kind.TRADE, time.monotonic_ns(), now_ms, int(row["position_id"]), int(row["symbol"]), int(row["side"]),
            int(reason), self._mode, qty, float(row["entry_price"]), exit_price, int(row["opened_ms"]), now_ms,
            gross, fees, funding, net, float(row["mae"]), float(row["mfe"]), unprotected_ms, model_id,
        )  # fmt: skip
        return net
