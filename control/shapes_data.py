"""What the API speaks about market data, models, jobs and figures; times are UTC epoch milliseconds."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class StageLatency(msgspec.Struct):
    """How long one stage takes, over this engine run."""

    stage: str
    count: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    mean_us: float


class Disturbances(msgspec.Struct):
    """What held the engine's loop up since it was ready; the stages loop_lag, gc_pause and compilation say how long."""

    gc_pauses: int
    compilations: int
    voluntary_switches: int
    involuntary_switches: int


class Latency(msgspec.Struct):
    """Histograms of every stage that was measured."""

    run_id: str | None
    alive: bool
    items: list[StageLatency]
    disturbances: Disturbances | None = None


class ConnectionState(msgspec.Struct):
    """One connection of the engine. `kind`: public, market (streams), ws_api (an order lane), private (its answers)."""

    name: str
    kind: str
    state: str
    ok: bool
    streams: int
    pending: int
    """Requests without an answer yet."""
    frames: int
    """Messages since the engine's start."""
    faults: int
    reconnects: int
    silent_ms: int | None
    """Since the newest message, right to a second; null: none yet."""


class WeightUsed(msgspec.Struct):
    """Request weight of this machine's address in the present minute, of all its processes."""

    used: int
    limit: int
    banned_ms: int
    """How long the exchange wants no request at all; 0: it does not."""


class OrdersUsed(msgspec.Struct):
    """Orders of the account in one of the exchange's windows."""

    window_ms: int
    used: int
    limit: int


class Connections(msgspec.Struct):
    """Every connection of the engine, and how much of the exchange's limits is used."""

    items: list[ConnectionState]
    weight: WeightUsed
    orders: list[OrdersUsed]
    """Empty where nobody has traded live."""


class Candle(msgspec.Struct):
    """One closed candle."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float | None
    quote_volume: float | None
    taker_volume: float | None
    trades: float | None
    source: str


class Candles(msgspec.Struct):
    """Closed candles of one symbol, oldest first."""

    symbol: str
    timeframe: Literal["1m", "15m", "1h"]
    items: list[Candle]


class FeatureVector(msgspec.Struct):
    """The 44 features of one timeframe at a close time."""

    timeframe: Literal["1m", "15m", "1h"]
    close_ms: int
    schema_hash: str
    values: dict[str, float | None]


class Features(msgspec.Struct):
    """The newest stored feature vectors of a symbol."""

    symbol: str
    items: list[FeatureVector]


class FeatureSeries(msgspec.Struct):
    """One feature over time, oldest first: [close_ms, value]."""

    symbol: str
    timeframe: Literal["1m", "15m", "1h"]
    feature: str
    items: list[tuple[int, float | None]]


class EquityPoint(msgspec.Struct):
    """Equity at a time."""

    time_ms: int
    equity_usdt: float
    day_pnl_usdt: float


class Equity(msgspec.Struct):
    """The equity curve, thinned to at most 1,000 points, oldest first."""

    items: list[EquityPoint]


class TradeSummary(msgspec.Struct):
    """Closed trades of one group; `reason` names the group where they are grouped by it."""

    reason: str | None
    group: str
    trades: int
    wins: int
    net_usdt: float
    fees_usdt: float
    funding_usdt: float
    profit_factor: float | None
    """USDT won per USDT lost; null where nothing was lost."""
    mean_hold_minutes: float


class GateCount(msgspec.Struct):
    """How often a gate refused."""

    gate: str
    count: int


class WhyNot(msgspec.Struct):
    """Why there was no trade: refusals per gate over the newest signals."""

    signals: int
    entered: int
    gates: list[GateCount]


class Coverage(msgspec.Struct):
    """How complete a symbol's candles are."""

    symbol: str
    bars: int
    first_ms: int
    last_ms: int
    missing: int


class Coverages(msgspec.Struct):
    """Completeness per symbol."""

    timeframe: Literal["1m", "15m", "1h"]
    items: list[Coverage]


class Gap(msgspec.Struct):
    """A hole, repair or revision in the data, as the engine journalled it."""

    seq: int
    time_ms: int
    symbol: str
    timeframe: str
    gap_kind: str
    from_ms: int
    to_ms: int
    bars: int
    detail: str
    run_id: str


class Audit(msgspec.Struct):
    """One line of a feature-parity audit."""

    audit_id: str
    time_ms: int
    symbol: str
    timeframe: str
    feature: str
    compared: int
    differing: int
    max_relative: float | None
    max_ulp: float | None
    drift: float | None
    detail: str


class Audits(msgspec.Struct):
    """The newest audit results."""

    items: list[Audit]


class Model(msgspec.Struct):
    """A registered model."""

    model_id: str
    state: str
    since_ms: int
    actor: str
    active: bool
    metrics: dict[str, Any]


class Models(msgspec.Struct):
    """Registered models, newest first."""

    items: list[Model]


class ModelDetail(msgspec.Struct):
    """A model with its manifest."""

    model_id: str
    state: str
    since_ms: int
    actor: str
    active: bool
    url: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]


class CalibrationDecile(msgspec.Struct):
    """Decisions of one side and decile of the expected return: predicted, and what the labels say came."""

    side: str
    decile: int
    signals: int
    predicted_return: float | None
    realised_return: float | None
    below_q05: float | None
    """Share of decisions whose return without barriers fell below the predicted 5 % quantile; 0.05 is right."""


class Calibration(msgspec.Struct):
    """How a model's decisions have come out, as far as labels reach."""

    model_id: str
    items: list[CalibrationDecile]


class Job(msgspec.Struct):
    """A job: a child process of control."""

    job_id: str
    kind: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    actor: str
    arguments: list[str]
    queued_ms: int
    started_ms: int | None
    finished_ms: int | None
    exit_code: int | None
    progress: float | None
    error: str
    log: list[str]


class Jobs(msgspec.Struct):
    """Jobs, newest first."""

    items: list[Job]


class Settings(msgspec.Struct):
    """The configuration in force, without secrets."""

    config_hash: str
    values: dict[str, Any]
    meanings: dict[str, str]
    """By key, as `risk.max_positions`: what it means and its unit."""
