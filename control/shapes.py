"""What the API speaks: one typed structure per answer. Times are UTC epoch milliseconds; null means "not known"."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

Row = TypeVar("Row")


class Page(msgspec.Struct, Generic[Row]):
    """One page of a growing list, newest first; pass `next` as `before` for the page after it."""

    items: list[Row]
    next: str | None = None


class Counters(msgspec.Struct):
    """Totals of this engine run."""

    frames: int
    malformed: int
    bars_1m: int
    bars_15m: int
    bars_1h: int
    marks: int
    books: int
    vectors: int
    late_vectors: int
    signals: int
    entries: int
    trades: int
    gaps: int
    compilations: int
    gc_pauses: int
    voluntary_switches: int
    involuntary_switches: int


class EngineStatus(msgspec.Struct):
    """The engine as its snapshot shows it. When `alive` is false every other field is the last that was seen."""

    alive: bool
    engine_id: str
    run_id: str
    pid: int
    mode: Literal["shadow", "live"]
    state: Literal["starting", "stopped", "running", "reduce_only", "halted"]
    heartbeat_age_ms: int
    started_ms: int
    exchange_ms: int
    clock_offset_ms: float | None
    session_id: int
    session_ms: int
    model_id: str
    backend: str
    schema_hash: str
    config_hash: str
    equity_usdt: float | None
    wallet_usdt: float | None
    peak_equity_usdt: float | None
    drawdown: float | None
    day_pnl_usdt: float | None
    open_positions: int
    unprotected: int
    """Live positions without a confirmed stop on the exchange; 0 in shadow mode, where none can be."""
    mark_age_ms: int
    """Since the newest mark price of any symbol, in exchange time; since the start while there is none."""
    blind: list[str]
    """Symbols of open positions whose own mark price is older than 10 s: their stops cannot be judged here."""
    symbols: int
    symbols_ready: int
    symbols_halted: int
    halted: list[str]
    """Symbols that take no entries until they are allowed again, in the order of the configuration."""
    journal_seq: int
    journal_full: bool
    rss_bytes: int
    counters: Counters


class StoreStatus(msgspec.Struct):
    """The database and how far behind the journal its tables are."""

    ok: bool
    kind: str
    detail: str
    lag_records: int | None


class StandingAlarm(msgspec.Struct):
    """An alarm whose condition has held for as long as it must; docs/ops/runbook has a page of its name."""

    name: str
    severity: Literal["warning", "critical"]
    says: str


class Status(msgspec.Struct):
    """Everything an operator asks first."""

    trading: bool
    mode: Literal["shadow", "live"]
    engine: EngineStatus | None
    store: StoreStatus
    control_started_ms: int
    now_ms: int
    version: str
    warnings: list[str]
    """What a person must know, in words: the alarms, and what is short of one."""
    alarms: list[StandingAlarm] = []


class Predictions(msgspec.Struct):
    """The 8 targets in the order of `kernels.schema.TARGETS`."""

    er_long: float | None
    er_short: float | None
    q05_long: float | None
    q05_short: float | None
    e_mae_long: float | None
    e_mae_short: float | None
    e_hold_long: float | None
    e_hold_short: float | None


class Signal(msgspec.Struct):
    """One decision: what the model said, and every gate that refused the entry."""

    seq: int
    symbol: str
    decision_ms: int
    side: Literal["long", "short", "none"]
    entered: bool
    late: bool
    refused_by: list[str]
    predictions: Predictions
    model_id: str
    close: float | None
    mark_price: float | None
    atr_15m: float | None
    bid: float | None
    ask: float | None
    qty: float | None
    tp_price: float | None
    sl_price: float | None
    frame_to_decision_us: float | None
    vector_hash: str


class Signals(msgspec.Struct):
    """The newest signal of each symbol."""

    items: list[Signal]


class Trade(msgspec.Struct):
    """A closed round trip."""

    position_id: int
    seq: int
    symbol: str
    side: Literal["long", "short"]
    mode: Literal["shadow", "live"]
    reason: str
    qty: float
    entry_price: float
    exit_price: float
    opened_ms: int
    closed_ms: int
    gross_usdt: float
    fees_usdt: float
    funding_usdt: float
    net_usdt: float
    mae: float | None
    mfe: float | None
    model_id: str
    run_id: str


class Position(msgspec.Struct):
    """An open position with its guards and how far away they are (fractions of the mark price)."""

    position_id: int
    symbol: str
    side: Literal["long", "short"]
    qty: float
    entry_price: float
    mark_price: float | None
    notional_usdt: float | None
    unrealised_usdt: float | None
    tp_price: float
    sl_price: float
    protect_price: float | None
    to_tp: float | None
    to_sl: float | None
    to_liquidation: float | None
    protected: bool
    opened_ms: int
    deadline_ms: int
    fees_usdt: float
    funding_usdt: float
    mae: float | None
    mfe: float | None


class Positions(msgspec.Struct):
    """Open positions of the running engine."""

    items: list[Position]


class CommandDone(msgspec.Struct):
    """A command and its outcome. `pending`: sent, not acknowledged yet; ask for it by id before repeating."""

    id: str
    verb: str
    state: Literal["done", "pending"]
    result: dict[str, Any] | None = None


class Confirm(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a command. `confirm` repeats the code of a 428 answer to the same request."""

    confirm: str | None = None


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a start. `clear_halt` says that the cause of a halt has been looked at."""

    clear_halt: bool = False
    confirm: str | None = None


class Kill(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a kill: how far down the ladder. `cancel` and `flatten` are done in two steps."""

    until: Literal["pause", "reduce_only", "cancel", "flatten"]
    confirm: str | None = None


class KillReport(msgspec.Struct):
    """How far the newest kill was to go, and after how many ms each step held. `running`: not all of it holds yet."""

    until: Literal["pause", "reduce_only", "cancel", "flatten"] | None
    begun_ms: int | None
    running: bool
    took_ms: dict[str, int]


class Health(msgspec.Struct):
    """The process answers."""

    status: Literal["ok"]


class Readiness(msgspec.Struct):
    """Whether every part works, and why not."""

    ready: bool
    store: bool
    engine: bool
    faults: list[str]


class Order(msgspec.Struct):
    """One event in an order's life; the newest per `client_order_id` is its present state."""

    seq: int
    time_ms: int
    client_order_id: str
    position_id: int
    symbol: str
    side: str
    state: str
    reason: str
    reduce_only: bool
    qty: float | None
    price: float | None
    filled_qty: float | None
    average_price: float | None
    order_id: int
    code: int
    mode: str
    detail: str
    run_id: str


class OpenOrder(msgspec.Struct):
    """An order that has not ended, or a guard that stands on the exchange for an open position (`state` is then its

    stage: placing, standing, triggered, lost, clearing). `side` long buys, short sells.
    """

    client_order_id: str
    position_id: int
    symbol: str
    side: Literal["long", "short"]
    reduce_only: bool
    reason: str
    type: str
    state: str
    route: str
    """The transport that took it (ws0, ws1, rest); empty where it is not known, and in shadow mode."""
    qty: float | None
    """Null: the whole position."""
    price: float | None
    """Limit or trigger; null at the market."""
    filled_qty: float
    average_price: float | None
    order_id: int
    created_ms: int | None
    """Of a guard: when its position was opened."""


class OpenOrders(msgspec.Struct):
    """What works on the exchange, or waits for the simulated book, now; oldest first, guards last."""

    items: list[OpenOrder]


class Fill(msgspec.Struct):
    """One execution."""

    seq: int
    time_ms: int
    client_order_id: str
    position_id: int
    symbol: str
    side: str
    maker: bool
    mode: str
    qty: float
    price: float
    fee_usdt: float | None
    slip_usdt: float | None
    trade_id: int
    run_id: str


class CommandRow(msgspec.Struct):
    """One phase of a command: who asked for what, when, and what came of it."""

    seq: int
    time_ms: int
    command_id: str
    verb: str
    actor: str
    argument: str
    code: int
    phase: int
    result: str
    run_id: str


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """A token to exchange for a session cookie."""

    token: str


class Session(msgspec.Struct):
    """Who is logged in; send `csrf` as the header `X-CSRF-Token` with every change made by cookie."""

    name: str
    scope: Literal["read", "trade", "admin"]
    csrf: str | None
    expires_in_ms: int | None = None


class LoggedOut(msgspec.Struct):
    """The cookie no longer counts."""

    status: Literal["logged out"]
