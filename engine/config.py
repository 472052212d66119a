"""The configuration: one TOML file, the environment over it (`TA_<SECTION>__<KEY>`), the command line over both."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from engine.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExchangeConfig(Section):
    """Which exchange, and its addresses when it is not one of the named ones."""

    name: Literal["binance", "demo", "sim"] = Field(
        "sim", description="binance: the real one; demo: its demo trading; sim: `ta simulator` on simulator.port"
    )
    rest_url: str = Field("", description="base of REST calls; empty: by name")
    stream_url: str = Field("", description="base of /public, /market and /private streams; empty: by name")
    ws_api_url: str = Field("", description="WebSocket API for orders; empty: by name")
    clock: Literal["wall", "replay"] = Field("wall", description="replay: the simulator's market time is the clock")
    connections: int = Field(2, ge=1, le=4, description="redundant connections per stream set; first arrival wins")


class MarketConfig(Section):
    symbols: list[str] = Field(
        ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"], max_length=1023, description="what is watched and traded"
    )
    btc_symbol: str = Field("BTCUSDT", description="the market's leader in the features of all; watched always")
    warmup_bars: int = Field(1_500, ge=300, description="bars folded at start per timeframe")
    btc_warmup_bars: int = Field(6_000, ge=1_500, description="the same of btc_symbol")
    ring_bars: int = Field(2_048, ge=2_048, description="bars kept per symbol and timeframe in the bar files")
    btc_ring_bars: int = Field(8_192, ge=8_192, description="the same of btc_symbol")
    deadline_ms: int = Field(2_500, ge=500, description="a vector complete only later is never traded")
    store_features: list[str] = Field([], description="symbols whose full vectors go to features_1m|15m|1h")


class DecisionConfig(Section):
    min_er: float = Field(0.0, description="least expected net return, a fraction of the entry price")
    max_tail: float = Field(
        0.03, gt=0, description="the predicted 5 % quantile of the return must be at least minus this"
    )
    max_mae_atr: float = Field(1.0, gt=0, description="most expected adverse excursion, in 15m ATR over close")
    min_hold_minutes: float = Field(1.0, description="least predicted holding time")
    max_hold_minutes: float = Field(360.0, description="most predicted holding time")


class BarrierConfig(Section):
    tp_atr: float = Field(1.5, gt=0, description="take profit, in 15m ATR from the close of the decision")
    sl_atr: float = Field(1.0, gt=0, description="stop loss, in 15m ATR from that close")
    time_limit_minutes: int = Field(360, ge=1, description="a position is closed when it is this old")


class RiskConfig(Section):
    risk_fraction: float = Field(0.005, gt=0, le=0.1, description="of the equity, lost at one 15m ATR against us")
    max_notional_usdt: float = Field(50_000.0, gt=0, description="of one position")
    max_total_notional_usdt: float = Field(200_000.0, gt=0, description="of all open positions together")
    max_leverage: float = Field(5.0, gt=0, description="total notional over equity")
    max_positions: int = Field(20, ge=1, le=1_000, description="open at the same time")
    book_share: float = Field(0.5, gt=0, description="at most this share of the best level's quantity; see docs")
    max_day_loss: float = Field(
        0.05, gt=0, le=1, description="fraction of the UTC day's first equity; no entries beyond"
    )
    max_drawdown: float = Field(0.2, gt=0, le=1, description="fraction of the highest equity; no entries beyond")
    correlation: float = Field(0.8, gt=0, le=1, description="1m returns of 4 h that correlate so move together")
    max_correlated_usdt: float = Field(
        100_000.0, gt=0, description="notional that may win and lose together; looked at when nothing else refuses"
    )
    max_losing_streak: int = Field(
        12, ge=1, description="losing trades in a row, over all symbols; no entries from there"
    )
    cooldown_minutes: int = Field(5, ge=0, description="per symbol, after a stop loss")
    max_spread_bps: float = Field(10.0, gt=0, description="ask over bid, in 0.01 % of their middle")
    max_data_age_ms: int = Field(5_000, ge=100, description="of mark price and book at a decision")
    max_funding: float = Field(0.01, gt=0, description="most funding due before the time limit, a fraction of notional")
    start_equity_usdt: float = Field(10_000.0, gt=0, description="shadow mode's wallet")


class CostConfig(Section):
    taker_fee: float = Field(0.0005, ge=0, description="per leg, a fraction of notional")
    half_spread: float = Field(0.0001, ge=0, description="per leg; used by labels and backtests, not by shadow fills")
    max_slip_bps: float = Field(5.0, ge=0, description="an entry's price limit beyond the best one, in 0.01 %")
    latency_ms: float = Field(20.0, ge=0, description="shadow: order to fill")


class JournalConfig(Section):
    segment_mib: int = Field(64, ge=1, le=4_096, description="size of a journal file, allocated one ahead")
    flush_ms: int = Field(200, ge=10, description="most that a power cut can lose of orders, fills and positions")
    keep_segments: int = Field(
        16, ge=1, description="of each engine, though they are stored; a run replays while its first one is there"
    )


class LiveConfig(Section):
    """Orders on a real account. Nothing here matters in shadow mode."""

    production: bool = Field(
        False, description="trade on the exchange with real money; set it after a rehearsal on exchange 'demo'"
    )
    adopt: bool = Field(
        False,
        description="start although the account holds positions or orders that are not ours; such a position in one of "
        "market.symbols is closed at once, or left alone where live.external is 'ignore'",
    )
    external: Literal["guard", "ignore"] = Field(
        "guard", description="a position changed by somebody else: guard all of it, or only ours; the symbol is halted"
    )
    leverage: int = Field(5, ge=1, le=125, description="set per symbol at start where it differs")
    margin_type: Literal["CROSSED", "ISOLATED"] = Field(
        "CROSSED", description="set per symbol at start where it differs"
    )
    second_exit_ms: int = Field(
        300, ge=50, description="a second exit order over another connection after this silence"
    )
    take_profit: bool = Field(
        False, description="a TAKE_PROFIT_MARKET order on the exchange beside the protective stop"
    )
    tradfi: bool = Field(False, description="trade perpetuals on traditional assets")


class WatchdogConfig(Section):
    """A second process that protects open positions when the live engine is gone. It has a key of its own."""

    enabled: bool = Field(False, description="ta up runs it beside a live engine; ta watchdog runs it by itself")
    after_s: float = Field(
        30.0, ge=3.0, description="the engine is fenced after this silence; longer than a restart takes"
    )


class StoreConfig(Section):
    url: str = Field("embedded", description="'embedded' or clickhouse://user:password@host:port/database")
    retention_days: int = Field(0, ge=0, description="0: keep for ever")


class ControlConfig(Section):
    host: str = Field("127.0.0.1", description="address to bind; not loopback needs TLS or behind_proxy")
    port: int = Field(7101, ge=0, le=65_535, description="of API and dashboard; 0: any free one")
    behind_proxy: bool = Field(False, description="a proxy in front terminates TLS and names the client")
    tls_cert: str = Field("", description="certificate chain, a PEM file")
    tls_key: str = Field("", description="its private key, a PEM file")
    auto_start: bool = Field(
        True, description="shadow mode: open a session at start; live never does unless live_auto_start"
    )
    live_auto_start: bool = Field(False, description="live mode: open a session at start, asking nobody")


class ModelConfig(Section):
    predictor: Literal["auto", "packed", "walk", "tl2cgen"] = Field(
        "auto", description="what evaluates a row; auto, packed: the fastest this machine can run; see docs/models.md"
    )
    compile: bool = Field(True, description="build the tl2cgen library in the background on each promotion")
    registry_url: str = Field("", description="fsspec URL of bundles; empty: <data_dir>/models")


class SimulatorConfig(Section):
    """What `ta simulator` serves where its options do not say, and where exchange 'sim' is found."""

    port: int = Field(7201, ge=0, le=65_534, description="REST and WebSocket API; streams on the next one")
    speed: float = Field(60.0, gt=0, description="market time per wall time; live mode needs the wall clock, speed 1")
    seed: int = Field(7, description="of everything random")
    edge: float = Field(1.0, ge=0, description="strength of the generated market's learnable component")


class Secrets(Section):
    api_key: SecretStr = Field(SecretStr(""), description="of the exchange, for the engine in live mode alone")
    api_secret: SecretStr = Field(
        SecretStr(""), description="its HMAC secret, or the text of an Ed25519 private key (PEM)"
    )
    watchdog_key: SecretStr = Field(
        SecretStr(""), description="another key of the same account, for the watchdog alone"
    )
    watchdog_secret: SecretStr = Field(SecretStr(""), description="its secret")
    alert_urls: list[SecretStr] = Field([], description="where control sends alarms, as apprise addresses")


class Config(BaseSettings):
    """The whole configuration. Build it with `load`."""

    model_config = SettingsConfigDict(env_prefix="TA_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(Path("var"), description="everything the system writes; one engine, one folder")
    engine_id: str = Field("main", pattern=r"^[a-z0-9]{1,8}$", description="in every stored row and client order id")
    mode: Literal["shadow", "live"] = Field("shadow", description="shadow: paper; live: orders on an account")
    busy_poll: bool = Field(False, description="the engine never sleeps and rehearses all the time; takes a whole core")
    cpu: int = Field(
        -1, ge=-1, description="core that the engine's loop runs on and control and its jobs keep off; -1: any, shared"
    )
    exchange: ExchangeConfig = ExchangeConfig()
    market: MarketConfig = MarketConfig()
    decision: DecisionConfig = DecisionConfig()
    barriers: BarrierConfig = BarrierConfig()
    risk: RiskConfig = RiskConfig()
    costs: CostConfig = CostConfig()
    journal: JournalConfig = JournalConfig()
    live: LiveConfig = LiveConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    store: StoreConfig = StoreConfig()
    control: ControlConfig = ControlConfig()
    model: ModelConfig = ModelConfig()
    simulator: SimulatorConfig = SimulatorConfig()
    secrets: Secrets = Secrets()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings  # what is asked for by name wins over the environment

    def hash(self) -> str:
        """Return the hex SHA-256 over every value that can change a decision (never over secrets)."""
        indifferent = {"secrets", "cpu", "data_dir", "control", "store", "journal", "simulator", "watchdog"}
        text = self.model_dump_json(exclude=indifferent)
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path | None = None, **overrides: Any) -> Config:
    """Read `path` (default: ta.toml where it exists), the environment, and `overrides` (the command line's options).

    The later wins. Raises ConfigError with every fault found.
    """
    file = path or Path("ta.toml")
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{file}: not TOML: {error}"]) from error
        if "secrets" in values and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigError([f"{file}: holds secrets but is readable by others; chmod 600 {file}"])
    elif path is not None:
        raise ConfigError([f"{file}: no such file"])
    faults = [fault for name in sorted(os.environ) if (fault := _stray(name))]
    if broken := [fault for name in sorted(os.environ) if (fault := _unreadable(name))]:
        raise ConfigError(broken + faults)
    environment = EnvSettingsSource(Config)()
    try:
        config = Config(**_merge(_merge(values, environment), overrides))
    except ValidationError as error:
        sources = (("command line", overrides), ("environment", environment), (str(file), values))
        raise ConfigError([_fault(sources, item) for item in error.errors()] + faults) from error
    if faults:
        raise ConfigError(faults)
    return config


def _stray(name: str) -> str:
    """Say what is wrong with an environment variable that is meant for us and would be passed over in silence."""
    section, nested, _ = name.removeprefix("TA_").lower().partition("__")
    if not name.startswith("TA_"):
        return ""
    if nested:
        return "" if section in Config.model_fields else f"environment {name}: no such section"
    for known, field in Config.model_fields.items():
        key = section.removeprefix(f"{known}_")
        if key != section and key in getattr(field.annotation, "model_fields", {}):
            return f"environment {name}: no such key; {known}.{key} is TA_{known.upper()}__{key.upper()}"
    return ""


def _unreadable(name: str) -> str:
    """Say so if an environment variable of a list is not JSON. Its value is not shown: it may be a secret."""
    section, _, key = name.removeprefix("TA_").lower().partition("__")
    keys = (
        getattr(Config.model_fields[section].annotation, "model_fields", {}) if section in Config.model_fields else {}
    )
    if not name.startswith("TA_") or key not in keys or get_origin(keys[key].annotation) is not list:
        return ""
    try:
        json.loads(os.environ[name])
    except ValueError:
        return f"""environment {name}: {section}.{key}: expected a list in JSON, such as '["one","two"]'"""
    return ""


def without_keys(config: Config) -> Config:
    """Take the exchange's keys out of the environment, so that no helper inherits them, and out of the configuration
    what an engine does not need: the watchdog's, and in shadow mode its own: a shadow engine holds none.
    """
    for name in [name for name in os.environ if name.startswith(("TA_SECRETS__API_", "TA_SECRETS__WATCHDOG_"))]:
        del os.environ[name]
    kept = {"watchdog_key": SecretStr(""), "watchdog_secret": SecretStr("")}
    if config.mode != "live":
        kept |= {"api_key": SecretStr(""), "api_secret": SecretStr("")}
    return config.model_copy(update={"secrets": config.secrets.model_copy(update=kept)})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def _fault(sources: tuple[tuple[str, dict[str, Any]], ...], item: Any) -> str:
    """Return one fault: where the value comes from, which key it is, what is wrong, what was given."""
    key = ".".join(str(part) for part in item["loc"])
    source = next((name for name, values in sources if _holds(values, item["loc"])), sources[-1][0])
    if source == "environment":
        source = "environment TA_" + "__".join(str(part) for part in item["loc"]).upper()
    got = (
        ""
        if item["type"] in ("missing", "extra_forbidden") or key.startswith("secrets")
        else f"; got {item['input']!r}"
    )
    message = "no such key" if item["type"] == "extra_forbidden" else item["msg"]
    return f"{source}: {key}: {message}{got}"


def _holds(values: Any, path: tuple[Any, ...]) -> bool:
    """Whether `values` says something at `path`, or at the list that it leads into."""
    for part in path:
        if not isinstance(values, dict):
            return isinstance(values, list)
        if part not in values:
            return False
        values = values[part]
    return True
