"""Live trading from configuration to ready: lock, core, sockets, preflight, and what stands on the exchange already."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import orjson

from engine.assemble import Parts, assemble
from engine.clock import Clock
from engine.config import Config, LiveConfig
from engine.errors import ConfigError
from engine.exchange.filters import BRACKETS_NAME
from engine.exchange.replies import Reply
from engine.exchange.requests import TAKE_PROFIT, Call, Request
from engine.exchange.signing import make_signer
from engine.exchange.steps import Step
from engine.exchange.user_data import ConfigUpdate
from engine.exchange.ws_api import Credentials
from engine.log import get_logger
from engine.market.routes import addresses
from engine.trading.carry import resume_orders, resume_twins
from engine.trading.connect import Connection, is_production
from engine.trading.live import LiveGateway
from engine.trading.lock import LEASE_NAME
from engine.trading.margin import keep_brackets
from engine.trading.orders import Order, is_ours
from engine.trading.preflight import Report, check_again, preflight
from engine.trading.report import report
from engine.trading.session import LiveTrading
from kernels.records import Kind, RunState

log = get_logger(__name__)


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

    def tick(self, now_ms: int) -> bool:
        """Let time pass. False when somebody took our lease: nothing of ours leaves any more, so the process must end.

        The next start takes the lease again, reads the account and resumes the guards.
        """
        if not self.connection.beat():
            log.error("fenced", text="another process took the lease of this key: this engine ends")
            return False
        self.trading.advance(now_ms)
        return True

    def guarding(self, held: list[int]) -> bool:
        """Whether the account is read and every position, by our books and the exchange's, has its confirmed stop."""
        trading = self.trading
        agreed = trading.sweeps.reconciled and not trading.reconciler.doubts
        return agreed and all(trading.protection.standing(symbol) for symbol in held)

    def settled(self) -> bool:
        """Whether this engine may leave: no order is open and every position stands behind a confirmed stop."""
        desk = self.trading.desk
        symbols = desk.positions.rows["symbol"][: desk.positions.count].tolist()
        return not desk.orders and all(self.trading.protection.standing(symbol) for symbol in symbols)

    def goodbye(self) -> None:
        """Tell the watchdog that this engine ends on purpose; only where it leaves nothing that needs looking after."""
        if self.settled():
            self.connection.lock.lease.goodbye()


def credentials(config: Config) -> Credentials:
    """Return the configured key. Raises ConfigError when it is missing or cannot sign."""
    key = config.secrets.api_key.get_secret_value()
    if not key:
        raise ConfigError(["secrets.api_key: live mode needs a key; got none"])
    return Credentials(key, make_signer(config.secrets.api_secret.get_secret_value()))


UNREHEARSED = (
    "live.production: trading with real money has to be allowed by name; rehearse on exchange 'demo' first, then set it"
)


def check_config(config: Config) -> None:
    """Refuse what live trading cannot be right with, and real money that nobody has allowed."""
    if is_production(addresses(config.exchange).rest_url) and not config.live.production:
        raise ConfigError([UNREHEARSED])
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
    connection = Connection(addresses(config.exchange), credentials(config), clock.now_ms, config.data_dir, lock_folder)
    try:
        live = _assemble(config, symbols, instruments, books, clock, connection)
        restored = live.parts.restored
        known = {p["symbol"] for p in restored.positions} | {o["symbol"] for o in restored.open_orders.values()}
        async with connection.starting():
            await connection.open()
            report = live.report = await preflight(
                connection.rest, config.live, config.engine_id, symbols, live.trading.gateway.steps,
                instruments["min_qty"].tolist(), instruments["min_notional_usdt"].tolist(), known,
                connection.production,
            )  # fmt: skip
        if report.faults:
            raise ConfigError([f"live preflight: {fault}" for fault in report.faults])
    except BaseException:
        await connection.close()
        raise
    _take_over(live, config, symbols, clock.now_ms())
    _name_lease(config, connection)
    live.trading.on_config = _AccountWatch(live, config.live)
    return live


def _name_lease(config: Config, connection: Connection) -> None:
    """Tell the watchdog, which does not know our key, which lease is ours."""
    path = config.data_dir / LEASE_NAME
    path.with_suffix(".new").write_bytes(orjson.dumps({"lease": str(connection.lock.lease.path.resolve())}))
    path.with_suffix(".new").replace(path)


class _AccountWatch:
    """Runs the preflight's checks again when the account's settings changed; entries rest until they have passed."""

    def __init__(self, live: Live, settings: LiveConfig) -> None:
        self._live, self._settings = live, settings
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def __call__(self, update: ConfigUpdate) -> None:
        trading = self._live.trading
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
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._check(), name="preflight-again")

    async def _check(self) -> None:
        trading, connection = self._live.trading, self._live.connection
        while self._again:
            self._again = False
            index = {name: i for i, name in enumerate(trading.symbols)}
            tiers = {name: trading.brackets.tiers[i] for name, i in index.items() if i in trading.brackets.tiers}
            report = await check_again(connection.rest, self._settings, trading.symbols, tiers, connection.production)
            for fault in report.faults:
                self._reduce_only(fault)
            if not report.faults:
                trading.admission.untraded = {index[name]: why for name, why in report.untraded.items()}
                log.info("preflight_again", changed=report.changed, untraded=report.untraded)

    def _reduce_only(self, why: str) -> None:
        account = self._live.trading.desk.account
        account.run_state = max(account.run_state, int(RunState.REDUCE_ONLY))
        self._live.trading.alarm("account_settings", -1, why)


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
    keep_brackets(config.data_dir / BRACKETS_NAME, report.tiers, now_ms)
    trading.admission.untraded = {index[name]: why for name, why in report.untraded.items()}
    trading.brackets.caps_usdt = live.parts.core.notional_caps_usdt
    trading.brackets.most_usdt = {index[name]: most for name, most in report.most_usdt.items()}
    trading.brackets.take(report.tiers, now_ms)
    live.parts.core.on_listing = trading.admission.relist
    for asset in report.fee_assets:
        trading.fees.watch(asset)
    account = desk.account
    if restored.account is None:
        account.equity_usdt = account.peak_equity_usdt = account.day_start_equity_usdt = report.wallet_usdt
    account.wallet_usdt = report.wallet_usdt
    if account.run_state == RunState.RUNNING and not config.control.live_auto_start:
        account.run_state = int(RunState.STOPPED)  # in live entries begin again by command alone; a halt stays
    for slot in range(desk.positions.count):
        row = desk.positions.rows[slot]
        trading.reconciler.event(int(row["symbol"]), int(row["opened_ms"]))
        for trade_id in desk.booked.get(int(row["position_id"]), ()):
            trading.foreign.remember(int(row["symbol"]), trade_id)
    for symbol, time_ms in desk.touched_ms.items():
        trading.reconciler.event(symbol, time_ms)
    _take_stops(live, config, index, now_ms)
    resume_twins(restored, live.parts.core.twins, desk, symbols, now_ms)
    resumed = resume_orders(
        restored.open_orders,
        restored.entries,
        restored.trade_ids,
        desk,
        trading.gateway,
        symbols,
        now_ms,
        restored.half_booked,
    )
    held = [int(desk.positions.rows[slot]["symbol"]) for slot in range(desk.positions.count)]
    foreign = [index[row["symbol"]] for row in report.positions if row["symbol"] in index]
    trading.reconciler.on_read(report.positions, sorted({*held, *foreign}), now_ms)
    trading.active = True
    trading.begin_reconcile()
    desk.mark_account(now_ms)
    desk.write_account(now_ms)
    log.info("live", positions=len(held), resumed_orders=resumed, untraded=report.untraded, changed=report.changed)


def _take_stops(live: Live, config: Config, index: dict[str, int], now_ms: int) -> None:
    """Adopt our standing stops of positions that we hold, or may hold; cancel those of positions that are gone."""
    trading, positions = live.trading, live.trading.desk.positions
    held = {
        int(row["symbol"]): (int(row["position_id"]), int(row["side"])) for row in positions.rows[: positions.count]
    }
    for position_id, entry in live.parts.restored.entries.items():  # its fill may be what the stop stands for
        if entry["symbol"] in index:
            held.setdefault(index[entry["symbol"]], (position_id, int(entry["side"])))
    # takes first: a stop that is adopted arms the take profit that is missing
    takes_first = sorted(live.report.algos, key=lambda row: row["orderType"] != TAKE_PROFIT)
    for row in takes_first:
        name, symbol = str(row["clientAlgoId"]), index.get(row["symbol"], -1)
        if not is_ours(name, config.engine_id):
            continue
        position_id, held_side = held.get(symbol, (0, 0))
        side = 1 if row["side"] == "SELL" else -1
        protection = trading.takes if row["orderType"] == TAKE_PROFIT else trading.protection
        if held_side == side and protection.may_enter(symbol):
            protection.adopt(position_id, symbol, side, str(row["triggerPrice"]), name, int(row["algoId"]), now_ms)
        else:
            trading.sender.send(Request(Call.ALGO_CANCEL, {"clientAlgoId": name}), lambda reply: None)
