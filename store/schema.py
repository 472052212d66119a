"""The tables, derived from the record dtypes: what a record gains or loses, its table gains too.

Rules of the derivation: `*_ms` instants become `*_time` columns of DateTime64(3,'UTC'); durations keep their name;
small enumerations become Enum8 with lower-case names; byte strings become String; `spare` fields are not stored. Every
table that the engine writes begins with `engine_id`, `run_id`, `seq`, `time`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from kernels.records import (
    BAR,
    INSTRUMENT,
    LABEL,
    RECORDS,
    TIMEFRAMES,
    GapKind,
    Kind,
    Mode,
    OrderState,
    PositionEvent,
    Reason,
    RunState,
    Side,
    Stage,
)
from kernels.schema import NAMES, TARGETS

TIME = "DateTime64(3, 'UTC')"
SYMBOL = "LowCardinality(String)"
DURATIONS = frozenset({"late_ms", "unprotected_ms"})
BOOLS = frozenset(
    {"entered", "late", "protected", "reduce_only", "maker", "trading", "perpetual", "on_mark", "both_in_bar"}
)
REPEATED = frozenset({"model_id", "actor", "verb", "config_hash", "version", "backend", "status", "source"})
HEAD_ONLY = frozenset({"seq", "check", "kind", "slots", "mono_ns", "time_ms"})


def enum_type(members: Iterable[tuple[str, int]]) -> str:
    """Return an Enum8 type from (name, value) pairs; names are lower-cased."""
    inside = ", ".join(f"'{name.lower()}' = {value}" for name, value in members)
    return f"Enum8({inside})"


def _of(kind: type[enum.IntEnum]) -> str:
    return enum_type((item.name, item.value) for item in kind)


ENUMS: dict[str, str] = {
    "side": _of(Side),
    "reason": _of(Reason),
    "live_reason": _of(Reason),
    "state": _of(OrderState),
    "event": _of(PositionEvent),
    "mode": _of(Mode),
    "run_state": _of(RunState),
    "gap_kind": enum_type((("none", 0), *((item.name, item.value) for item in GapKind))),
    "stage": _of(Stage),
    "timeframe": enum_type((name, index) for index, name in enumerate(TIMEFRAMES)),
}


@dataclass(frozen=True)
class Column:
    """One column. `source` is the record field it comes from, `part` the element of a field that is an array."""

    name: str
    type: str
    source: str = ""
    part: int = -1

    @property
    def codec(self) -> str:
        """Return the codec that measured best for the type."""
        if self.type.startswith("DateTime64"):
            return "CODEC(DoubleDelta, ZSTD(1))"
        if self.type.startswith(("Int", "UInt", "Enum")):
            return "CODEC(T64, ZSTD(1))"
        return "CODEC(ZSTD(1))"

    @property
    def ddl(self) -> str:
        return f"`{self.name}` {self.type} {self.codec}"


@dataclass(frozen=True)
class Table:
    """A table: its columns, sorting key, and how duplicates collapse (`version`: the newest value of it wins)."""

    name: str
    columns: tuple[Column, ...]
    order: tuple[str, ...]
    partition: str = ""  # a time column; months
    version: str = ""
    kind: Kind | None = None
    retained: bool = True  # False: the retention setting may delete old rows
    by_name: dict[str, Column] = field(init=False, compare=False, repr=False, hash=False)

    @property
    def indexes(self) -> tuple[str, ...]:
        """Return the time columns with a minmax index: rows arrive in time order, so the newest are in few granules.

        Where time leads the sorting key it needs none.
        """
        if self.order[:1] != ("engine_id",):
            return ()
        return tuple(name for name in ("time", "decision_time", "closed_time") if name in self.by_name)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})


def scalar_type(sub: np.dtype) -> str:
    """Return ClickHouse's name of a numpy scalar type."""
    if sub.kind == "S":
        return "String"
    return {"i": "Int", "u": "UInt", "f": "Float"}[sub.kind] + str(sub.itemsize * 8)


def column_name(name: str) -> str:
    """Return the column's name of a record field: instants end in `_time`."""
    if name == "time_ms":
        return "time"
    return name[:-3] + "_time" if name.endswith("_ms") and name not in DURATIONS else name


def _columns_of(name: str, sub: np.dtype, rename: dict[str, str]) -> list[Column]:
    if sub.shape:
        names = TARGETS if name == "predictions" else NAMES
        return [Column(part, scalar_type(sub.base), name, index) for index, part in enumerate(names)]
    out = rename.get(name, column_name(name))
    if name == "symbol":
        return [Column(out, SYMBOL, name)]
    if name in ENUMS and sub.kind in "iu" and name not in rename:
        return [Column(out, ENUMS[name], name)]
    if name in BOOLS:
        return [Column(out, "Bool", name)]
    if sub.kind == "i" and name.endswith("_ms") and name not in DURATIONS:
        return [Column(out, TIME, name)]
    kind = scalar_type(sub)
    return [Column(out, "LowCardinality(String)" if kind == "String" and name in REPEATED else kind, name)]


def record_columns(dtype: np.dtype, *, skip: Iterable[str] = (), rename: dict[str, str] | None = None) -> list[Column]:
    """Return the columns of a record's own fields, in order."""
    left_out = {*HEAD_ONLY, *skip}
    columns: list[Column] = []
    for name, (sub, *_) in (dtype.fields or {}).items():
        if name not in left_out and not name.startswith("spare"):
            columns += _columns_of(name, sub, rename or {})
    return columns


HEAD = (
    Column("engine_id", "LowCardinality(String)"),
    Column("run_id", "LowCardinality(String)"),
    Column("seq", "UInt64", "seq"),
    Column("time", TIME, "time_ms"),
)
SOURCE = Column("source", "LowCardinality(String)")


def _engine_table(name: str, kind: Kind, *, enums: dict[str, str] | None = None, retained: bool = True) -> Table:
    own = [
        replace(column, type=(enums or {}).get(column.name, column.type)) for column in record_columns(RECORDS[kind])
    ]
    columns = (*HEAD, Column("mono_ns", "Int64", "mono_ns"), *own)
    return Table(name, columns, ("engine_id", "run_id", "seq"), "time", "seq", kind, retained)


def _bar_table(name: str) -> Table:
    columns = (
        Column("symbol", SYMBOL, "symbol"),
        *record_columns(BAR),
        Column("late_ms", "Int32", "late_ms"),
        SOURCE,
        *HEAD,
        Column("version", "UInt64"),
    )
    return Table(name, columns, ("symbol", "open_time"), "open_time", "version", None, False)


def _sample_table(name: str, kind: Kind, value: str) -> Table:
    columns = (
        Column("symbol", SYMBOL, "symbol"),
        *record_columns(RECORDS[kind], skip=("symbol",), rename={"value": value}),
        SOURCE,
        *HEAD,
    )
    return Table(name, columns, ("symbol", "stamp_time"), "stamp_time", "usable_time", kind, True)


def _features_table(timeframe: str) -> Table:
    columns = (
        *HEAD,
        Column("symbol", SYMBOL, "symbol"),
        Column("close_time", TIME, "close_ms"),
        Column("schema_hash", "UInt64", "schema_hash"),
        *record_columns(RECORDS[Kind.FEATURES], skip=("symbol", "timeframe", "close_ms", "schema_hash")),
    )
    order = ("symbol", "close_time", "engine_id", "run_id")
    return Table(f"features_{timeframe}", columns, order, "close_time", "seq", Kind.FEATURES, False)


def _labels_table(side: str) -> Table:
    columns = (
        Column("symbol", SYMBOL),
        Column("time", TIME, "time_ms"),
        *record_columns(LABEL, skip=("time_ms",)),
        Column("uniqueness", "Float64"),
        Column("config_hash", "LowCardinality(String)"),
        Column("version", "UInt64"),
    )
    return Table(f"labels_{side}_1m", columns, ("symbol", "time"), "time", "version", None, False)


def _plain(name: str, order: tuple[str, ...], *columns: tuple[str, str], version: str = "version") -> Table:
    return Table(name, tuple(Column(*item) for item in columns), order, "", version)


def _job_tables() -> list[Table]:
    text, low = "String", "LowCardinality(String)"
    return [
        _plain(
            "models",
            ("model_id",),
            ("model_id", text), ("time", TIME), ("state", low), ("schema_hash", "UInt64"), ("backend", low),
            ("actor", low), ("url", text), ("parent_id", text), ("manifest", text), ("metrics", text),
            ("version", "UInt64"),
        ),
        _plain(
            "training_jobs",
            ("job_id",),
            ("job_id", text), ("kind", low), ("state", low), ("actor", low), ("queued_time", TIME),
            ("started_time", TIME), ("finished_time", TIME), ("arguments", text), ("result", text), ("error", text),
            ("model_id", text), ("version", "UInt64"),
        ),
        _plain(
            "audits",
            ("audit_id", "symbol", "timeframe", "feature"),
            ("audit_id", text), ("time", TIME), ("engine_id", low), ("run_id", low), ("symbol", SYMBOL),
            ("timeframe", low), ("feature", low), ("compared", "UInt64"), ("differing", "UInt64"),
            ("max_relative", "Float64"), ("max_ulp", "Float64"), ("drift", "Float64"), ("detail", text),
            ("version", "UInt64"),
        ),
        _plain(
            "brackets",
            ("symbol", "time", "floor_usdt"),
            ("symbol", SYMBOL), ("time", TIME), ("floor_usdt", "Float64"), ("cap_usdt", "Float64"),
            ("leverage", "UInt16"), ("rate", "Float64"), ("deduction_usdt", "Float64"), ("version", "UInt64"),
        ),
        _plain(
            "imports",
            ("path", "table"),
            ("path", text), ("table", low), ("symbol", SYMBOL), ("sha256", text), ("rows", "UInt64"),
            ("first_time", TIME), ("last_time", TIME), ("notes", text), ("time", TIME), ("version", "UInt64"),
        ),
    ]  # fmt: skip


def tables() -> dict[str, Table]:
    """Return every table by name."""
    seen = (*HEAD, *record_columns(RECORDS[Kind.BAR]))
    instruments = (*HEAD, Column("index", "UInt16", "index"), *instrument_columns())
    listed = [
        Table("instruments", instruments, ("symbol",), "", "time", Kind.INSTRUMENT),
        *(_bar_table(f"candles_{name}") for name in TIMEFRAMES),
        _bar_table("mark_1m"),
        _bar_table("premium_index"),
        Table("bars_seen", seen, ("engine_id", "run_id", "seq"), "time", "seq", Kind.BAR, False),
        _sample_table("funding", Kind.FUNDING, "rate"),
        _sample_table("open_interest", Kind.OPEN_INTEREST, "value"),
        *(_features_table(name) for name in TIMEFRAMES),
        *(_labels_table(side) for side in ("long", "short")),
        _engine_table("signals", Kind.SIGNAL),
        _engine_table("orders", Kind.ORDER),
        _engine_table("fills", Kind.FILL),
        _engine_table("positions", Kind.POSITION),
        _engine_table("trades", Kind.TRADE),
        _engine_table("twins", Kind.TWIN),
        _engine_table("sessions", Kind.SESSION, enums={"event": enum_type((("none", 0), ("start", 1), ("stop", 2)))}),
        _engine_table("commands", Kind.COMMAND),
        _engine_table("data_gaps", Kind.GAP),
        _engine_table("latency", Kind.LATENCY, retained=False),
        _engine_table("account", Kind.ACCOUNT),
        _engine_table("activations", Kind.MODEL),
        _engine_table("configurations", Kind.CONFIG),
        *_job_tables(),
    ]
    return {table.name: table for table in listed}


def instrument_columns() -> list[Column]:
    """Return the columns of an instrument; its symbol is the name itself, not an index."""
    rest = record_columns(INSTRUMENT, skip=("symbol",))
    return [Column("symbol", SYMBOL, "symbol"), *rest]


def by_kind(all_tables: dict[str, Table]) -> dict[Kind, Table]:
    """Return the table of each record kind that has exactly one."""
    return {table.kind: table for table in all_tables.values() if table.kind and not table.name.startswith("features_")}
