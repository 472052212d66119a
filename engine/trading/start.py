"""Live trading from configuration to ready: lock, core, sockets, preflight, and what stands on the exchange already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import orjson

from engine.assemble import Parts, assemble
from engine.clock import Clock
from engine.config import Config, LiveConfig
from engine.errors import ConfigError, NotNowError
from engine.exchange.filters import BRACKETS_NAME
from engine.exchange.signing import make_signer
from engine.exchange.ws_api import Credentials
from engine.log import get_logger
from engine.market.routes import addresses
from engine.trading.account import Account
from engine.trading.account_watch import AccountWatch
from engine.trading.connect import Connection, is_production
from engine.trading.door import Door, Source, without_key
from engine.trading.income import LEAST_USDT
from engine.trading.live import LiveGateway
from engine.trading.lock import LEASE_NAME
from engine.trading.margin import keep_brackets
from engine.trading.preflight import Report, check_again, preflight, transferred
from engine.trading.report import guards, report
from engine.trading.session import LiveTrading
from engine.trading.takeover import Found, join, steps_of, take_over

log = get_logger(__name__)


@dataclass
class Live:
    """A live engine core, its trading and its sockets."""

    parts: Parts
    trading: LiveTrading
    connection: Connection
    report: Report
    door: Door

    def summary(self) -> dict[str, Any]:
        """Return how live trading stands, for a person."""
        return report(self.trading)

    def guards(self) -> list[tuple[Any, ...]]:
        """Return the stops and take profits on the exchange as open orders of the snapshot."""
        return guards(self.trading)

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
    if is_production(addresses(config).rest_url) and not config.live.production:
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
    """Build everything and pass the preflight. Raises ConfigError with every fault, NotNowError when the exchange did
    not answer; then nothing is left open.

    Entries stay refused until the first reading of the account after this is complete.
    """
    check_config(config)
    connection = Connection(addresses(config), credentials(config), clock.now_ms, config.data_dir, lock_folder)
    try:
        live = _assemble(config, symbols, instruments, books, clock, connection)
        restored = live.parts.restored
        before = Account(0.0) if restored.account is None else replace(restored.account)
        known = {p["symbol"] for p in restored.positions} | {o["symbol"] for o in restored.open_orders.values()}
        begun_ms = clock.now_ms()  # what is moved from now on, the streams tell
        async with connection.starting():
            await connection.open()
            report = live.report = await preflight(
                connection.rest, config.live, config.engine_id, symbols, live.trading.gateway.steps,
                instruments["min_qty"].tolist(), instruments["min_notional_usdt"].tolist(), known,
                connection.production, frozenset(symbols[i] for i in live.trading.admission.unlisted),
            )  # fmt: skip
            if before.known_ms and abs(report.wallet_usdt - before.wallet_usdt) > LEAST_USDT:
                report.transferred_usdt = await transferred(connection.rest, before.known_ms, begun_ms)
        if report.faults:
            faults = [f"live preflight: {fault}" for fault in report.faults]
            raise NotNowError("\n".join(faults)) if report.passing else ConfigError(faults)
    except BaseException:
        await connection.close()
        raise
    now_ms, found = clock.now_ms(), Found(report, restored.account is None)
    keep_brackets(config.data_dir / BRACKETS_NAME, report.tiers, now_ms)
    live.door.take(Source.TAKEN_OVER, found.pack(), now_ms)
    take_over(live.parts, live.trading, config, symbols, found, now_ms)
    _name_lease(config, connection)
    live.trading.on_config = _Checks(live, config.live, clock.now_ms).watch
    return live


def _name_lease(config: Config, connection: Connection) -> None:
    """Tell the watchdog, which does not know our key, which lease is ours."""
    path = config.data_dir / LEASE_NAME
    path.with_suffix(".new").write_bytes(orjson.dumps({"lease": str(connection.lock.lease.path.resolve())}))
    path.with_suffix(".new").replace(path)


class _Checks:
    """Runs the preflight's checks again, one after another; the watch takes what they found."""

    def __init__(self, live: Live, settings: LiveConfig, now_ms: Callable[[], int]) -> None:
        self._live, self._settings, self._now_ms = live, settings, now_ms
        self.watch = AccountWatch(live.trading, settings, self.begin)
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def begin(self) -> None:
        """Run them, once more when they run already."""
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
            payload = orjson.dumps([report.faults, report.untraded])
            self._live.door.take(Source.CHECKED, payload, self._now_ms())
            self.watch.checked(payload)
            if not report.faults:
                log.info("preflight_again", changed=report.changed, untraded=report.untraded)


def _assemble(
    config: Config, symbols: list[str], instruments: npt.NDArray[Any], books: npt.NDArray[Any], clock: Clock,
    connection: Connection,
) -> Live:  # fmt: skip
    door = Door(connection.venue, clock.now_ms)
    gateway = LiveGateway(symbols, steps_of(instruments), door)
    parts = assemble(config, symbols, instruments, books, clock, config.data_dir / "journal", gateway)
    door.open(parts.journal)
    trading = join(config, symbols, instruments, parts, gateway, door, connection.orders)
    trading.note_tick = door.tick
    trading.note_payload = lambda payload, now_ms: door.take(Source.STREAM, without_key(payload), now_ms)

    def changed() -> None:
        door.take(Source.STREAM_CHANGED, b"", clock.now_ms())
        trading.begin_reconcile()

    connection.on_payload = lambda payload: trading.on_payload(payload, clock.now_ms())
    connection.on_gap = changed
    trading.on_key_expired = connection.key_expired
    return Live(parts, trading, connection, Report(), door)
