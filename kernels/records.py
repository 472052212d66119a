"""Every record dtype of the system: files, rings, journal, kernels and tables all speak these.

A journal record is a fixed-size, 8-byte aligned structure that begins with `HEAD_FIELDS`; its size on file is the
next multiple of `SLOT_BYTES`. Times called `*_ms` are exchange (UTC epoch) milliseconds, `*_ns` monotonic nanoseconds.
Prices are in quote currency, quantities in base units; NaN means "not known".
"""

from __future__ import annotations

import enum
import hashlib

import numpy as np

TIMEFRAMES: tuple[str, ...] = ("1m", "15m", "1h")
TIMEFRAME_MS: tuple[int, ...] = (60_000, 900_000, 3_600_000)
SLOT_BYTES = 64
MAX_SYMBOLS = 1024  # one connection carries at most 1,024 streams; USDT perpetuals number about 600

# --- what the market gives ---


class BarFlag(enum.IntFlag):
    """Where a bar came from and what is known of it."""

    WS = 1
    REST = 2
    FILE = 4
    BUILT = 8  # built from complete 1m bars, not the exchange's own
    FILLED = 16  # a minute confirmed absent at the exchange: previous close, zero volume
    REVISION = 32  # a later, differing version of a bar already folded


BAR = np.dtype(
    [
        ("open_ms", "<i8"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("volume", "<f8"),
        ("quote_volume", "<f8"),
        ("taker_volume", "<f8"),  # taker-buy base volume; NaN where the source has none
        ("trades", "<f8"),  # a count; float so that NaN can say "not known"
        ("last_trade_id", "<i8"),
        ("arrived_ms", "<i8"),  # exchange time of arrival of the closing frame; 0 for history
        ("flags", "<u4"),
        ("spare", "<u4"),
    ]
)
"""One closed candle. Close time is `open_ms` + the timeframe's length."""

SAMPLE = np.dtype([("stamp_ms", "<i8"), ("usable_ms", "<i8"), ("value", "<f8")])
"""A funding rate (scaled to 8 h) or an open-interest sample; usable for features from `usable_ms` on."""

LABEL = np.dtype(
    [
        ("time_ms", "<i8"),  # T: the close of the entry's 1m bar
        ("entry_price", "<f8"),  # last close at T
        ("atr_15m", "<f8"),
        ("exit_price", "<f8"),
        ("gross_return", "<f8"),  # of the trade with barriers, a fraction of the entry price
        ("net_return", "<f8"),  # after fees, half spreads and funding
        ("return_free", "<f8"),  # the same entry held to the time limit without barriers, gross
        ("net_free", "<f8"),  # return_free after fees, half spreads and funding
        ("mae", "<f8"),  # largest adverse excursion, a fraction of the entry price, >= 0
        ("hold_minutes", "<u2"),
        ("reason", "<u1"),  # Reason.TP, SL or TIME; 0: no label
        ("on_mark", "<u1"),  # 1: the path is the mark price, 0: the last price
        ("both_in_bar", "<u1"),  # 1: both barriers inside the bar that ended the trade (counted as sl)
        ("spare", "<u1"),
        ("spare2", "<u2"),
    ]
)
"""A triple-barrier label of one decision time and one side."""

BOOK_ROW = np.dtype(
    [
        ("bid", "<f8"),
        ("bid_qty", "<f8"),
        ("ask", "<f8"),
        ("ask_qty", "<f8"),
        ("update_id", "<i8"),
        ("event_ms", "<i8"),
        ("recv_ns", "<i8"),
        ("updates", "<i8"),
    ]
)
"""Best bid and ask of one symbol: 64 bytes, one cache line. `updates` 0 means that nothing has arrived yet."""

INSTRUMENT = np.dtype(
    [
        ("symbol", "S24"),
        ("tick_size", "<f8"),
        ("step_size", "<f8"),
        ("market_step_size", "<f8"),
        ("min_qty", "<f8"),
        ("max_qty", "<f8"),
        ("market_max_qty", "<f8"),
        ("min_notional_usdt", "<f8"),
        ("percent_price_up", "<f8"),
        ("percent_price_down", "<f8"),
        ("market_take_bound", "<f8"),
        ("maintenance_rate", "<f8"),
        ("max_leverage", "<f8"),
        ("onboard_ms", "<i8"),
        ("delivery_ms", "<i8"),
        ("funding_hours", "<i4"),
        ("trading", "<u1"),
        ("perpetual", "<u1"),
        ("spare", "<u2"),
    ]
)

# --- enumerations stored as small integers ---


class Side(enum.IntEnum):
    SHORT = -1
    NONE = 0
    LONG = 1


class Reason(enum.IntEnum):
    """Why a position event or an exit order happened."""

    NONE = 0
    ENTRY = 1
    TP = 2
    SL = 3
    TIME = 4
    MANUAL = 5
    FLATTEN = 6
    RISK = 7
    LIQUIDATION = 8
    ADL = 9
    SETTLEMENT = 10
    BLIND = 11  # no mark price and no confirmed stop on the exchange
    UNPROTECTED = 12
    ADJUST = 13
    FUNDING = 14
    EXCHANGE_STOP = 15


class GapKind(enum.IntEnum):
    """`gap_kind` of a GAP record."""

    MISSING = 1  # bars absent before a closed bar
    REVISION = 2  # a later, differing version of a closed bar; the first one stays as seen
    REFUSED = 3  # a bar whose values cannot be
    REPAIRED = 4  # REST was asked for a range
    DISAGREES = 5  # a 15m or 1h bar against its 1m bars
    FILLED = 6  # minutes confirmed absent at the exchange
    RESTARTED = 7  # too many of them: the fold starts again behind the hole
    UNDECIDED = 8  # minutes without a decision: what it needed came when too much had followed


class OrderState(enum.IntEnum):
    INTENT = 0
    SENT = 1
    ACKNOWLEDGED = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    CANCEL_PENDING = 5
    CANCELLED = 6
    REJECTED = 7
    EXPIRED = 8
    ABSENT = 9
    UNKNOWN = 10


class PositionEvent(enum.IntEnum):
    ENTRY = 1
    ADJUST = 2
    FINAL = 3


class Mode(enum.IntEnum):
    SHADOW = 0
    LIVE = 1


class RunState(enum.IntEnum):
    STARTING = 0
    STOPPED = 1  # no session: guards run, no entries
    RUNNING = 2
    REDUCE_ONLY = 3
    HALTED = 4


# --- the journal ---

HEAD_FIELDS = [
    ("seq", "<u8"),  # written last: a record whose seq is not the expected one is not there yet
    ("check", "<u4"),
    ("kind", "<u2"),
    ("slots", "<u2"),
    ("mono_ns", "<i8"),
    ("time_ms", "<i8"),
]
HEAD = np.dtype(HEAD_FIELDS)


class Kind(enum.IntEnum):
    """Journal record kinds; inputs first, then outputs."""

    BAR = 1
    MARK = 2
    BOOK = 3
    FUNDING = 4
    OPEN_INTEREST = 5
    GAP = 6
    COMMAND = 7
    MODEL = 8
    CONFIG = 9
    INSTRUMENT = 10
    TIMER = 11
    GATEWAY = 12
    INPUT = 13
    TICK = 14
    SIGNAL = 20
    ORDER = 21
    FILL = 22
    POSITION = 23
    TRADE = 24
    SESSION = 25
    LATENCY = 26
    FEATURES = 27
    ACCOUNT = 28
    TWIN = 29
    SNAPSHOT = 30
    ROLL = 31
    REQUEST = 32


def flat_fields(dtype: np.dtype) -> list[tuple[str, str]]:
    """Return (name, type string) of each field of a flat structure, in order."""
    return [(name, sub.str) for name, (sub, *_) in (dtype.fields or {}).items()]


def _record(*fields: tuple) -> np.dtype:
    dtype = np.dtype([*HEAD_FIELDS, *fields])
    if dtype.itemsize % 8:
        raise ValueError(f"record of {dtype.itemsize} bytes is not a multiple of 8")
    return dtype


_BAR_FIELDS = flat_fields(BAR)
_INSTRUMENT_FIELDS = flat_fields(INSTRUMENT)

TARGET_COUNT = 8
FEATURE_COUNT = 132
FEATURES_PER_TIMEFRAME = 44

POSITION_FIELDS = [
    ("position_id", "<u8"),  # seq of the signal that opened it
    ("symbol", "<u2"),
    ("side", "<i1"),
    ("event", "<u1"),
    ("reason", "<u1"),
    ("protected", "<u1"),  # 1: a protective order is confirmed on the exchange
    ("spare", "<u2"),
    ("qty", "<f8"),
    ("entry_price", "<f8"),
    ("tp_price", "<f8"),
    ("sl_price", "<f8"),
    ("protect_price", "<f8"),
    ("atr_15m", "<f8"),
    ("mark_price", "<f8"),
    ("fees_usdt", "<f8"),
    ("funding_usdt", "<f8"),
    ("realised_usdt", "<f8"),
    ("opened_ms", "<i8"),
    ("deadline_ms", "<i8"),
    ("mae", "<f8"),  # maximum adverse excursion, a fraction of the entry price
    ("mfe", "<f8"),
]

RECORDS: dict[Kind, np.dtype] = {
    Kind.BAR: _record(("symbol", "<u2"), ("timeframe", "<u2"), ("late_ms", "<i4"), *_BAR_FIELDS),
    Kind.MARK: _record(
        ("event_ms", "<i8"),
        ("price", "<f8"),
        ("funding_rate", "<f4"),
        ("symbol", "<u2"),
        ("spare", "<u2"),
        ("next_funding_ms", "<i8"),
    ),
    Kind.BOOK: _record(
        ("event_ms", "<i8"),
        ("bid", "<f8"),
        ("bid_qty", "<f8"),
        ("ask", "<f8"),
        ("ask_qty", "<f8"),
        ("update_id", "<i8"),
        ("symbol", "<u2"),
        ("spare", "<u2"),
        ("spare2", "<u4"),
    ),
    Kind.FUNDING: _record(
        ("stamp_ms", "<i8"),
        ("usable_ms", "<i8"),
        ("value", "<f8"),
        ("mark_price", "<f8"),
        ("symbol", "<u2"),
        ("interval_hours", "<u2"),
        ("spare", "<u4"),
    ),
    Kind.OPEN_INTEREST: _record(
        ("stamp_ms", "<i8"),
        ("usable_ms", "<i8"),
        ("value", "<f8"),
        ("symbol", "<u2"),
        ("spare", "<u2"),
        ("spare2", "<u4"),
    ),
    Kind.GAP: _record(
        ("symbol", "<u2"),
        ("timeframe", "<u2"),
        ("gap_kind", "<u2"),
        ("source", "<u2"),
        ("from_ms", "<i8"),
        ("to_ms", "<i8"),
        ("bars", "<i8"),
        ("detail", "S64"),
    ),
    Kind.COMMAND: _record(
        ("command_id", "S40"),
        ("verb", "S24"),
        ("actor", "S40"),
        ("argument", "S64"),
        ("code", "<i4"),
        ("phase", "<u4"),
        ("result", "S128"),
    ),
    Kind.MODEL: _record(("model_id", "S40"), ("schema_hash", "<u8"), ("backend", "S16"), ("actor", "S40")),
    Kind.CONFIG: _record(("config_hash", "S64"), ("version", "S24"), ("mode", "<u4"), ("spare", "<u4")),
    Kind.INSTRUMENT: _record(("index", "<u2"), ("spare3", "<u2"), ("spare4", "<u4"), *_INSTRUMENT_FIELDS),
    Kind.TIMER: _record(("timer", "<u4"), ("symbol", "<u2"), ("spare", "<u2"), ("argument", "<i8")),
    Kind.GATEWAY: _record(
        ("symbol", "<u2"),
        ("answer", "<u2"),
        ("code", "<i4"),
        ("client_order_id", "S40"),
        ("order_id", "<i8"),
        ("qty", "<f8"),
        ("price", "<f8"),
        ("status", "S24"),
        ("detail", "S96"),
    ),
    Kind.INPUT: _record(  # live: what reached the order side from outside, in `parts` records one after another
        ("number", "<u8"),  # of the REQUEST that it answers; 0: it answers none
        ("source", "<u2"),  # engine.trading.door.Source
        ("part", "<u2"),
        ("parts", "<u2"),
        ("bytes", "<u2"),  # of this part
        ("payload", "V464"),
    ),
    Kind.TICK: _record(  # live: the order side let time pass
        ("hold", "<u4"),  # engine.timers.Hold
        ("spare", "<u4"),
    ),
    Kind.SIGNAL: _record(
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("entered", "<u1"),
        ("late", "<u1"),
        ("spare", "<u1"),
        ("spare2", "<u2"),
        ("decision_ms", "<i8"),
        ("predictions", "<f8", (TARGET_COUNT,)),
        ("gates", "<u8"),
        ("vector_hash", "<u8"),
        ("model_id", "S40"),
        ("close", "<f8"),
        ("mark_price", "<f8"),
        ("atr_15m", "<f8"),
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("qty", "<f8"),
        ("tp_price", "<f8"),
        ("sl_price", "<f8"),
        ("frame_ns", "<i8"),
        ("decide_ns", "<i8"),
        ("first_1m_ms", "<i8"),
        ("first_15m_ms", "<i8"),
        ("first_1h_ms", "<i8"),
    ),
    Kind.ORDER: _record(
        ("client_order_id", "S40"),
        ("position_id", "<u8"),
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("state", "<u1"),
        ("reason", "<u1"),
        ("reduce_only", "<u1"),
        ("order_type", "<u2"),
        ("qty", "<f8"),
        ("price", "<f8"),
        ("filled_qty", "<f8"),
        ("average_price", "<f8"),
        ("order_id", "<i8"),
        ("code", "<i4"),
        ("mode", "<u4"),
        ("detail", "S64"),
    ),
    Kind.FILL: _record(
        ("client_order_id", "S40"),
        ("position_id", "<u8"),
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("maker", "<u1"),
        ("mode", "<u4"),
        ("qty", "<f8"),
        ("price", "<f8"),
        ("fee_usdt", "<f8"),
        ("slip_usdt", "<f8"),
        ("trade_id", "<i8"),
        ("event_ms", "<i8"),
    ),
    Kind.POSITION: _record(*POSITION_FIELDS),
    Kind.TRADE: _record(
        ("position_id", "<u8"),
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("reason", "<u1"),
        ("mode", "<u4"),
        ("qty", "<f8"),
        ("entry_price", "<f8"),
        ("exit_price", "<f8"),
        ("opened_ms", "<i8"),
        ("closed_ms", "<i8"),
        ("gross_usdt", "<f8"),
        ("fees_usdt", "<f8"),
        ("funding_usdt", "<f8"),
        ("net_usdt", "<f8"),
        ("mae", "<f8"),
        ("mfe", "<f8"),
        ("unprotected_ms", "<i8"),
        ("model_id", "S40"),
    ),
    Kind.SESSION: _record(
        ("session_id", "<u8"),
        ("event", "<u2"),
        ("mode", "<u2"),
        ("trades", "<u4"),
        ("net_usdt", "<f8"),
        ("equity_usdt", "<f8"),
        ("actor", "S40"),
        ("model_id", "S40"),
        ("config_hash", "S64"),
    ),
    Kind.LATENCY: _record(
        ("stage", "<u2"),
        ("spare", "<u2"),
        ("spare2", "<u4"),
        ("count", "<i8"),
        ("p50_ns", "<i8"),
        ("p99_ns", "<i8"),
        ("p999_ns", "<i8"),
        ("max_ns", "<i8"),
        ("sum_ns", "<i8"),
    ),
    Kind.FEATURES: _record(
        ("symbol", "<u2"),
        ("timeframe", "<u2"),
        ("spare", "<u4"),
        ("close_ms", "<i8"),
        ("schema_hash", "<u8"),
        ("values", "<f8", (FEATURES_PER_TIMEFRAME,)),
    ),
    Kind.ACCOUNT: _record(
        ("equity_usdt", "<f8"),
        ("wallet_usdt", "<f8"),
        ("peak_equity_usdt", "<f8"),
        ("day_pnl_usdt", "<f8"),
        ("open_positions", "<u4"),
        ("run_state", "<u4"),
        ("losing_streak", "<u4"),
        ("spare", "<u4"),
        ("day_start_ms", "<i8"),
    ),
    Kind.TWIN: _record(  # a live trade and its shadow twin; `*_mid`: middle of the book, `live_*`: of the live trade
        ("position_id", "<u8"),
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("event", "<u1"),
        ("reason", "<u1"),
        ("live_reason", "<u1"),
        ("spare", "<u2"),
        ("tp_price", "<f8"),
        ("sl_price", "<f8"),
        ("deadline_ms", "<i8"),
        ("decision_ms", "<i8"),  # close of the bar that was decided on
        ("decided_ms", "<i8"),
        ("close", "<f8"),
        ("decided_mid", "<f8"),
        ("qty", "<f8"),
        ("entry_price", "<f8"),
        ("entry_mid", "<f8"),
        ("opened_ms", "<i8"),
        ("exit_decided_ms", "<i8"),
        ("exit_decided_mid", "<f8"),
        ("exit_price", "<f8"),
        ("exit_mid", "<f8"),
        ("closed_ms", "<i8"),
        ("fees_usdt", "<f8"),
        ("funding_usdt", "<f8"),
        ("net_usdt", "<f8"),
        ("live_qty", "<f8"),
        ("live_entry_price", "<f8"),
        ("live_entry_mid", "<f8"),
        ("live_opened_ms", "<i8"),
        ("live_exit_decided_ms", "<i8"),
        ("live_exit_decided_mid", "<f8"),
        ("live_exit_price", "<f8"),
        ("live_exit_mid", "<f8"),
        ("live_closed_ms", "<i8"),
        ("live_fees_usdt", "<f8"),
        ("live_funding_usdt", "<f8"),
        ("live_net_usdt", "<f8"),
        ("entry_compute_ns", "<i8"),  # frame received → live order handed to the socket
        ("entry_network_ns", "<i8"),  # handed to the socket → its first fill told
        ("exit_compute_ns", "<i8"),
        ("exit_network_ns", "<i8"),  # handed to the socket → its last fill told
    ),
    Kind.SNAPSHOT: _record(("bytes", "<u4"), ("part", "<u2"), ("parts", "<u2"), ("payload", "V472")),
    Kind.ROLL: _record(
        ("next_segment", "<u8"),
    ),
    Kind.REQUEST: _record(  # live: what was asked of the exchange, before timestamp and signature
        ("number", "<u8"),
        ("call", "S24"),
        ("route", "S8"),  # the transport that took it; empty: none
        ("asked", "<i2"),  # the route that was wished for
        ("bytes", "<u2"),  # of the parameters; beyond the field's size they are cut off
        ("spare", "<u4"),
        ("params", "V304"),  # JSON
    ),
}
"""Kind → dtype of the whole record, head included."""

SLOTS: dict[Kind, int] = {kind: -(-dtype.itemsize // SLOT_BYTES) for kind, dtype in RECORDS.items()}
MAX_RECORD_BYTES = max(SLOTS.values()) * SLOT_BYTES


def layout_hash() -> int:
    """Return a 64-bit hash over kinds, field names, types and offsets: a reader of another layout refuses the file."""
    text = ";".join(
        f"{kind.value}:"
        + ",".join(f"{name}{sub.str}@{where}" for name, (sub, where, *_) in (dtype.fields or {}).items())
        for kind, dtype in sorted(RECORDS.items())
    )
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# --- the snapshot: what control and the command line read without a database ---


class Stage(enum.IntEnum):
    """Where time goes; one histogram each."""

    DECODE = 0  # frame in the callback → values in the ring
    STEP = 1  # one closed bar → 44 features
    VECTOR = 2
    PREDICT = 3
    DECIDE = 4
    JOURNAL = 5
    ORDER = 6  # intent → order bytes (live) or shadow fill
    FRAME_TO_DECISION = 7
    MARK_TO_EXIT = 8
    STOPS = 9
    LATE_1M = 10  # exchange time from a bar's close to its closing frame
    LATE_15M = 11
    LATE_1H = 12
    LOOP_LAG = 13
    GC_PAUSE = 14  # the process's own disturbances, since it was ready: a garbage collection held everything up
    COMPILATION = 15  # ... or a kernel was compiled; there must be none


STATUS = np.dtype(
    [
        ("engine_id", "S16"),
        ("run_id", "<u8"),
        ("pid", "<i8"),
        ("mode", "<u4"),
        ("run_state", "<u4"),
        ("started_ms", "<i8"),
        ("heartbeat_ns", "<i8"),  # monotonic, of this machine: older than 2 s means the engine is not running
        ("exchange_ms", "<i8"),
        ("clock_offset_ms", "<f8"),
        ("journal_seq", "<u8"),
        ("journal_full", "<u4"),
        ("open_positions", "<u4"),
        ("session_id", "<u8"),
        ("session_ms", "<i8"),
        ("equity_usdt", "<f8"),
        ("wallet_usdt", "<f8"),
        ("peak_equity_usdt", "<f8"),
        ("day_pnl_usdt", "<f8"),
        ("model_id", "S40"),
        ("backend", "S16"),
        ("schema_hash", "<u8"),
        ("config_hash", "S64"),
        ("frames", "<u8"),
        ("malformed", "<u8"),
        ("bars", "<u8", (3,)),
        ("marks", "<u8"),
        ("books", "<u8"),
        ("vectors", "<u8"),
        ("late_vectors", "<u8"),
        ("signals", "<u8"),
        ("entries", "<u8"),
        ("trades", "<u8"),
        ("gaps", "<u8"),
        ("compilations", "<u8"),  # JIT compilations after ready: must stay 0
        ("rss_bytes", "<u8"),
        ("gc_pauses", "<u8"),  # this and the next two since ready
        ("voluntary_switches", "<u8"),  # the loop's thread waited: for the next frame, as it should
        ("involuntary_switches", "<u8"),  # it was taken off its core while it had work
    ]
)

SYMBOL_STATE = np.dtype(
    [
        ("symbol", "S24"),
        ("mark_price", "<f8"),
        ("mark_ms", "<i8"),
        ("funding_rate", "<f8"),
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("book_ms", "<i8"),
        ("close", "<f8"),
        ("close_ms", "<i8"),
        ("ready", "<u1"),
        ("halted", "<u1"),
        ("spare", "<u2"),
        ("spare2", "<u4"),
    ]
)

GATES: tuple[str, ...] = (
    "no_session",  # entries are stopped
    "no_model",
    "no_side",  # both expected returns are equal or not finite
    "er_low",
    "tail",
    "mae",
    "hold",
    "not_flat",
    "incomplete",
    "late",
    "input_late",
    "nan_unseen",
    "not_ready",
    "filled_bar",
    "mark_beyond_barrier",
    "stale_data",
    "spread",
    "min_size",
    "max_positions",
    "max_notional",
    "leverage",
    "day_loss",
    "drawdown",
    "losing_streak",
    "cooldown",
    "book_size",
    "symbol_halted",
    "journal_full",
    "funding",
    "correlation",
    "delivery",
    "liquidation",
    "unknown_order",
    "rate_budget",
    "clock",
    "gap",
    "audit_failed",
    "reduce_only",
)
"""Bit i of a signal's `gates` means that test i refused the entry; all of them are evaluated for every signal."""
