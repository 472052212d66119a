"""Live trading from configuration to ready: lock, core, sockets, preflight, and what stands on the exchange already."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import structlog

from engine.assemble import Parts, assemble
from engine.clock import Clock
from engine.config import Config
from engine.errors import ConfigError
from engine.exchange.filters import BRACKETS_NAME
from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.signing import make_signer
from engine.exchange.steps import Step
from engine.exchange.user_data import ConfigUpdate
from engine.exchange.ws_api import Credentials
from engine.market.routes import addresses
from engine.trading.carry import resume_orders
from engine.trading.connect import Connection
from engine.trading.live import LiveGateway
from engine.trading.margin import keep_brackets
from engine.trading.orders import Order, is_ours
from engine.trading.preflight import Report, preflight
from engine.trading.report import report
from engine.trading.session import LiveTrading
from kernels.records import Kind, RunState

log = structlog.get_logger(__name__)


@dataclass
class Live:
    """A live engine core, its trading and its sockets."""

    parts: Parts
    trading: LiveTrading
    connection: Connection
    report: Report

    def summary(self) -> dict[str, Any]:
        """Return how live trading stands, for a person."""
        return report(self.trading)

    def tick(self, now_ms: int) -> None:
        """Let time pass; once a second look whether somebody took our lease (then nothing of ours leaves any more)."""
        self.trading.advance(now_ms)
        self.connection.tick(now_ms)


def credentials(config: Config) -> Credentials:
    """Return the configured key. Raises ConfigError when it is missing or cannot sign."""
    key = config.secrets.api_key.get_secret_value()
    if not key:
        raise ConfigError(["secrets.api_key: live mode needs a key; got none"])
    return Credentials(key, make_signer(config.secrets.api_secret.get_secret_value()))


UNFINISHED = (
    "mode: live is not released for the production exchange: it has no watchdog process and does not poll symbol "
    "status yet (docs/trading.md, What is missing); rehearse on exchange 'sim' or 'demo', or trade in shadow"
)


def check_config(config: Config) -> None:
    """Refuse what live trading cannot be right with, and the real exchange until the order side is whole."""
    if config.exchange.name == "binance":
        raise ConfigError([UNFINISHED])
    if config.exchange.clock != "wall":
        raise ConfigError(["exchange.clock: live mode needs the wall clock; requests are stamped with it"])
    credentials(config)


async def open_live(
    config: Config,
    symbols: list[str],
    instruments: npt.NDArray[Any],
    books: npt.NDArray[Any],
    clock: Clock,
    lock_folder: Path | None = None,
) -> Live:
    """Build everything and pass the preflight. Raises ConfigError with every fault; then nothing is left open.

    Entries stay refused until the first reading of the account after this is complete.
    """
    check_config(config)
    connection = Connection(
        addresses(config.exchange), credentials(config), clock.now_ms, config.data_dir / "rate_budget", lock_folder
    )
    try:
        live = _assemble(config, symbols, instruments, books, clock, connection)
        await connection.open()
        restored = live.parts.restored
        report = live.report = await preflight(
            connection.rest, config.live, config.engine_id, symbols, live.trading.gateway.steps,
            instruments["min_qty"].tolist(), instruments["min_notional_usdt"].tolist(),
            {p["symbol"] for p in restored.positions} | {o["symbol"] for o in restored.open_orders.values()},
            connection.production,
        )  # fmt: skip
        if report.faults:
            raise ConfigError([f"live preflight: {fault}" for fault in report.faults])
    except BaseException:
        await connection.close()
        raise
    _take_over(live, config, symbols, clock.now_ms())
    live.trading.on_config = lambda update: _changed_outside(live, update)
    return live


def _changed_outside(live: Live, update: ConfigUpdate) -> None:
    """Somebody changed the account's settings: what it concerns takes no entries until the next start."""
    trading = live.trading
    if update.multi_assets:
        account = trading.desk.account
        account.run_state = max(account.run_state, int(RunState.REDUCE_ONLY))
        trading.alarm("multi_assets_mode", -1, "the account was switched to multi-assets mode")
    if update.symbol in trading.symbols:
        symbol = trading.symbols.index(update.symbol)
        trading.untraded[symbol] = f"leverage changed to {update.leverage} from outside"
        trading.alarm("leverage_changed", symbol, trading.untraded[symbol])


def _assemble(
    config: Config, symbols: list[str], instruments: npt.NDArray[Any], books: npt.NDArray[Any], clock: Clock,
    connection: Connection,
) -> Live:  # fmt: skip
    steps = [(Step(float(row["tick_size"])), Step(float(row["step_size"]))) for row in instruments]
    gateway = LiveGateway(symbols, steps, connection.venue)
    parts = assemble(config, symbols, instruments, books, clock, config.data_dir / "journal", gateway)
    core = parts.core

    def feed_mark(symbol: int, price: float, time_ms: int) -> None:
        core.on_mark(symbol, price, core.funding_rate[symbol], core.next_funding_ms[symbol], time_ms, 0)

    trading = LiveTrading(
        config.live, symbols, instruments, core.marks, core.mark_ms, core.desk, gateway, connection.venue,
        connection.orders, (config.engine_id, parts.journal.run_id), feed_mark,
    )  # fmt: skip
    gateway.on_answer = _Answers(parts)
    connection.on_payload = lambda payload: trading.on_payload(payload, clock.now_ms())
    connection.on_gap = trading.begin_reconcile
    trading.on_key_expired = connection.key_expired
    return Live(parts, trading, connection, Report())


class _Answers:
    """Journals what the exchange answered about an order: an input of every decision that follows."""

    def __init__(self, parts: Parts) -> None:
        self._journal = parts.journal

    def __call__(self, order: Order, answer: int, reply: Reply, now_ms: int) -> None:
        result = reply.result if isinstance(reply.result, dict) else {}
        self._journal.write(
            Kind.GATEWAY, time.monotonic_ns(), now_ms, order.symbol, answer, reply.code,
            order.client_order_id.encode(), int(result.get("orderId") or 0), float(result.get("executedQty") or 0),
            float(result.get("avgPrice") or 0), str(result.get("status", reply.outcome.name)).encode()[:24],
            reply.message.encode()[:96],
        )  # fmt: skip


def _take_over(live: Live, config: Config, symbols: list[str], now_ms: int) -> None:
    """Make our books start from what the exchange states: wallet, positions, stops, orders of unknown fate."""
    trading, report, restored = live.trading, live.report, live.parts.restored
    desk, index = trading.desk, {name: i for i, name in enumerate(symbols)}
    trading.tiers = {index[name]: tiers for name, tiers in report.tiers.items() if name in index}
    keep_brackets(config.data_dir / BRACKETS_NAME, report.tiers, now_ms)
    trading.untraded = {index[name]: why for name, why in report.untraded.items()}
    for asset in report.fee_assets:
        trading.fees.watch(asset)
    account = desk.account
    if restored.account is None:
        account.equity_usdt = account.peak_equity_usdt = account.day_start_equity_usdt = report.wallet_usdt
    account.wallet_usdt = report.wallet_usdt
    if account.run_state == RunState.RUNNING and not config.control.live_auto_start:
        account.run_state = int(RunState.STOPPED)  # in live entries begin again by command alone; a halt stays
    for ids in restored.trade_ids.values():
        for trade_id in ids:
            trading.foreign.remember(trade_id)
    for slot in range(desk.positions.count):
        row = desk.positions.rows[slot]
        trading.reconciler.event(int(row["symbol"]), int(row["opened_ms"]))
    _take_stops(live, config, index, now_ms)
    resumed = resume_orders(
        restored.open_orders, restored.entries, restored.trade_ids, desk, trading.gateway, symbols, now_ms
    )
    held = [int(desk.positions.rows[slot]["symbol"]) for slot in range(desk.positions.count)]
    open_ids = {int(row["position_id"]) for row in desk.positions.rows[: desk.positions.count]} | set(desk.entries)
    if live.parts.core.twins is not None:
        live.parts.core.twins.resume(list(restored.twins.values()), symbols, open_ids, now_ms)
    foreign = [index[row["symbol"]] for row in report.positions if row["symbol"] in index]
    trading.reconciler.on_read(report.positions, sorted({*held, *foreign}), now_ms)
    trading.active = True
    trading.begin_reconcile()
    desk.mark_account(now_ms)
    desk.write_account(now_ms)
    log.info("live", positions=len(held), resumed_orders=resumed, untraded=report.untraded, changed=report.changed)


def _take_stops(live: Live, config: Config, index: dict[str, int], now_ms: int) -> None:
    """Adopt our standing stops of positions that we hold; cancel those of positions that are gone."""
    trading, positions = live.trading, live.trading.desk.positions
    for row in live.report.algos:
        name, symbol = str(row["clientAlgoId"]), index.get(row["symbol"], -1)
        if not is_ours(name, config.engine_id):
            continue
        slot = positions.slot_of[symbol] if symbol >= 0 else -1
        side = 1 if row["side"] == "SELL" else -1
        if slot >= 0 and int(positions.rows[slot]["side"]) == side and trading.protection.may_enter(symbol):
            position_id = int(positions.rows[slot]["position_id"])
            trading.protection.adopt(
                position_id, symbol, side, str(row["triggerPrice"]), name, int(row["algoId"]), now_ms
            )
        else:
            trading.sender.send(Request(Call.ALGO_CANCEL, {"clientAlgoId": name}), lambda reply: None)
