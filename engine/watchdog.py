"""The watchdog: a process of its own with a key of its own that looks after positions when the engine is gone.

It reads the engine's heartbeat beside the lease of the engine's key. An engine that was silent for `watchdog.after_s`
is fenced first: its lease is taken, so that it sends nothing when it comes back. Then the stops that are missing are
placed, and what cannot be protected is flattened. An engine that starts takes the lease again; the watchdog then
stands down.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import orjson

from engine.config import Config
from engine.errors import ConfigError, DataError
from engine.exchange import filters
from engine.exchange.budget import WeightBudget, shared_path
from engine.exchange.order_budget import OrderBudget
from engine.exchange.private_rest import PrivateRest
from engine.exchange.requests import Call, Request
from engine.exchange.signing import make_signer
from engine.exchange.ws_api import Credentials
from engine.log import get_logger
from engine.market.routes import account_of, addresses
from engine.restore import restore
from engine.trading.connect import SPOT_API, is_production
from engine.trading.lock import LEASE_NAME, Lease
from engine.trading.preflight import judge_modes, judge_rights
from engine.trading.rescue import Rescue, by_name, claims

log = get_logger(__name__)

STATUS_NAME = "watchdog.json"
LOOK_S = 0.25
SWEEP_S = 5.0
UNSETTLED_S = 2.0  # something is still unprotected; a look costs 45 of the address's 2,400 weight a minute
LAG_S = 6.0  # REST may not show a position that is younger than this


class Watchdog:
    """Build with a configuration; `run` until told to stop. Raises ConfigError for a key that will not do."""

    def __init__(self, config: Config) -> None:
        secrets = config.secrets
        key = secrets.watchdog_key.get_secret_value()
        if not key:
            raise ConfigError(["secrets.watchdog_key: the watchdog needs a key of its own; got none"])
        if key == secrets.api_key.get_secret_value():
            raise ConfigError(["secrets.watchdog_key: is the engine's key; make another one on the same account"])
        self.config = config
        self.acts: list[str] = []
        self.fenced = 0  # how often an engine was found gone
        self._stop = asyncio.Event()
        urls = addresses(config)
        self._production = is_production(urls.rest_url)
        self._orders = OrderBudget(path=config.data_dir / "order_budget")
        self.rest = PrivateRest(
            urls.rest_url, Credentials(key, make_signer(secrets.watchdog_secret.get_secret_value())),
            WeightBudget(shared_path(urls.rest_url, config.data_dir)),
            self._now_ms, SPOT_API if self._production else "",
            on_order_counts=lambda ten_s, minute: self._orders.correct(ten_s, minute, self._now_ms()),
        )  # fmt: skip
        self._offset_ms = 0
        self._lease: Lease | None = None
        self._said = b""

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset_ms

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()

    async def run(self) -> None:
        """Check the key, then watch."""
        try:
            await self._check()
            while not await self._wait(LOOK_S):
                lease = self._engine_lease()
                silent_s = lease.silent_s() if lease is not None else None
                self._status("watching" if lease is not None else "no live engine yet", silent_s)
                if lease is not None and silent_s is not None and silent_s > self.config.watchdog.after_s:
                    await self._act(lease, silent_s)
        finally:
            await self.rest.close()
            if self._lease is not None:
                self._lease.close()

    async def _wait(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _check(self) -> None:
        """Refuse to stand guard with a key that could not act, or that could take money away."""
        await self._fit()
        account = await self.rest.ask(Request(Call.ACCOUNT_CONFIG))
        faults = judge_modes(account.result) if account.ok else [f"the account could not be read: code {account.code}"]
        if account.ok:
            faults += judge_rights(await self.rest.ask(Request(Call.KEY_RIGHTS)), self._production)
        if faults:
            raise ConfigError([f"watchdog: {fault}" for fault in faults])

    async def _fit(self) -> None:
        """Take the exchange's time: requests are stamped with it."""
        before_ms = time.time_ns() // 1_000_000
        reply = await self.rest.ask(Request(Call.TIME))
        if reply.ok:
            after_ms = time.time_ns() // 1_000_000
            self._offset_ms = int(reply.result["serverTime"]) - (before_ms + after_ms) // 2

    def _engine_lease(self) -> Lease | None:
        """Return the lease that the live engine of this data folder named; None where none has ever run."""
        if self._lease is None:
            try:
                told = orjson.loads((self.config.data_dir / LEASE_NAME).read_bytes())
            except (FileNotFoundError, orjson.JSONDecodeError):
                return None
            self._lease = Lease(Path(told["lease"]))
        return self._lease

    async def _act(self, lease: Lease, silent_s: float) -> None:
        """Fence the engine, then keep its positions protected until an engine takes the lease again."""
        number = lease.take()
        self.fenced += 1
        log.error("engine_gone", silent_s=round(silent_s, 1), lease=number)
        try:
            rescue = self._rescue(lease)
        except (DataError, ValueError, OSError) as error:
            log.error("watchdog_cannot_read_the_journal", error=str(error))
            await self._wait(SWEEP_S)
            return
        self.acts = rescue.acts
        shown_s = time.monotonic() + LAG_S
        while not lease.lost():
            lease.beat()
            await self._fit()
            whole = await rescue.sweep()
            self._status("protected" if whole else "unprotected", silent_s)
            if await self._wait(SWEEP_S if whole and time.monotonic() > shown_s else UNSETTLED_S):
                return
        log.warning("engine_back", lease=lease.newest)

    def _rescue(self, lease: Lease) -> Rescue:
        folder = self.config.data_dir
        whose = account_of(self.config, live=True)
        restored = restore(folder / "journal", self.config.engine_id, self.config.market.symbols, whose)
        rows = by_name(filters.load(folder / "instruments.bin"))
        names = self.config.engine_id, restored.run_id
        return Rescue(self.rest, names, claims(restored), rows, lambda: not lease.lost())

    def _status(self, state: str, silent_s: float | None) -> None:
        """Leave what a person wants to know beside the engine's data; written when it changes."""
        text = orjson.dumps({"state": state, "fenced": self.fenced, "acts": self.acts[-20:]})
        if text != self._said:
            self._said = text
            path = self.config.data_dir / STATUS_NAME
            path.with_suffix(".new").write_bytes(text)
            path.with_suffix(".new").replace(path)
            log.info("watchdog", state=state, silent_s=silent_s)


def serve(config: Config) -> None:
    """Run the watchdog until SIGTERM or Ctrl-C. Raises ConfigError for a key that will not do."""

    async def run() -> None:
        watchdog = Watchdog(config)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, watchdog.stop)
        await watchdog.run()

    asyncio.run(run())
