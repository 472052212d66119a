"""The sockets of live trading: two order lanes, REST, two private streams with one listen key, and the key's lock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from engine.connections import Line
from engine.errors import ConfigError
from engine.exchange.budget import WeightBudget, shared_path
from engine.exchange.order_budget import OrderBudget
from engine.exchange.private_rest import PrivateRest
from engine.exchange.requests import Call, Request
from engine.exchange.user_data import PrivateSocket
from engine.exchange.venue import Venue
from engine.exchange.ws_api import Credentials, Lane
from engine.log import get_logger
from engine.market.routes import Addresses
from engine.trading.lock import KeyLock

log = get_logger(__name__)

LANES = 2
KEEP_ALIVE_S = 20 * 60.0  # the listen key dies after 60 minutes
RENEW_AGAIN_S = 5.0
READY_WAIT_S = 10.0
SPOT_API = "https://api.binance.com"


def is_production(rest_url: str) -> bool:
    """Whether a REST address is the exchange that trades real money."""
    return "fapi.binance.com" in rest_url and "demo" not in rest_url


class Connection:
    """Open it before the engine is assembled; `attach` the trading object afterwards. The listen key is never deleted:
    it is shared by every process of the account, and closing it would silence a successor.
    """

    def __init__(
        self, urls: Addresses, credentials: Credentials, now_ms: Callable[[], int], data_dir: Path,
        lock_folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.lock = KeyLock(credentials.api_key, lock_folder)
        self.production = production = is_production(urls.rest_url)
        self.orders = OrderBudget(path=data_dir / "order_budget")
        self.rest = PrivateRest(
            urls.rest_url, credentials, WeightBudget(shared_path(urls.rest_url, data_dir)), now_ms,
            SPOT_API if production else "",
            on_order_counts=lambda ten_s, minute: self.orders.correct(ten_s, minute, now_ms()),
        )  # fmt: skip
        self.lanes = [
            Lane(number, urls.ws_api_url, credentials, now_ms,
                 lambda limits: self.orders.take_limits(limits, now_ms()))
            for number in range(LANES)
        ]  # fmt: skip
        self.venue = Venue(self.lanes, self.rest, self.orders, now_ms, self.lock.lease.lost)
        self.on_payload: Callable[[bytes], None] = lambda payload: None
        self.on_gap: Callable[[], None] = lambda: None
        self._listen_key = ""
        self.sockets = [
            PrivateSocket(number, urls.stream_url, lambda: self._listen_key, self._payload, self._changed)
            for number in range(LANES)
        ]
        self._keeper: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Get a listen key, connect everything, wait until it stands. Raises ConfigError for what the key may not."""
        await self._new_key()
        for lane in self.lanes:
            lane.start()
        for socket in self.sockets:
            socket.start()
        deadline = asyncio.get_running_loop().time() + READY_WAIT_S
        while not (all(lane.ready for lane in self.lanes) and all(socket.up for socket in self.sockets)):
            if asyncio.get_running_loop().time() > deadline:
                state = [lane.ready for lane in self.lanes], [socket.up for socket in self.sockets]
                raise ConfigError([f"exchange: order lanes and private streams did not come up: {state}"])
            await asyncio.sleep(0.01)
        self._keeper = asyncio.get_running_loop().create_task(self._keep_alive(), name="listen-key")

    async def _new_key(self) -> None:
        reply = await self.rest.ask(Request(Call.LISTEN_KEY))
        if not reply.ok:
            raise ConfigError(
                [f"exchange: no listen key: HTTP {reply.status}, code {reply.code}: {reply.message or 'no answer'}"]
            )
        self._listen_key = str(reply.result["listenKey"])

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            reply = await self.rest.call(Request(Call.LISTEN_KEY_KEEP))
            if not reply.ok:
                log.warning("listen_key_keep_alive_failed", code=reply.code, message=reply.message)
                self.key_expired()

    async def _renew(self) -> None:
        """Get a key and reconnect both private streams; a full reading of the account follows.

        Until there is one the streams stand on the old key, and are silent if that is over: it is asked for again.
        """
        failures = 0
        while True:
            try:
                await self._new_key()
                break
            except ConfigError as error:
                log.error("listen_key_not_renewed", error=str(error))
            if not failures:
                self._reconnect()
            failures += 1
            await asyncio.sleep(RENEW_AGAIN_S)
        self._reconnect()

    def _reconnect(self) -> None:
        for socket in self.sockets:
            socket.reconnect()

    def key_expired(self) -> None:
        """The stream said that its key is over, or it is not to be trusted."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.get_running_loop().create_task(self._renew(), name="listen-key-again")

    def _payload(self, payload: bytes) -> None:
        self.on_payload(payload)

    def _changed(self, number: int, up: bool) -> None:
        log.info("private_stream", socket=number, up=up)
        self.on_gap()

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Beat while the preflight lasts: setting the leverage of 600 symbols takes longer than the watchdog waits."""

        async def beats() -> None:
            while True:
                self.beat()
                await asyncio.sleep(1.0)

        task = asyncio.get_running_loop().create_task(beats(), name="starting")
        try:
            yield
        finally:
            task.cancel()

    def lines(self) -> list[Line]:
        """Return what the snapshot shows of the order lanes and the private streams."""
        return [*(lane.line() for lane in self.lanes), *(socket.line() for socket in self.sockets)]

    def beat(self) -> bool:
        """Say that this engine lives; False when somebody took its lease: then it sends nothing any more."""
        self.lock.lease.beat()
        return not self.lock.lease.lost()

    async def close(self) -> None:
        """Close the sockets and let go of the key. Nothing on the exchange is touched."""
        tasks = [task for task in (self._keeper, self._renewal) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self.lanes:
            await lane.close()
        for socket in self.sockets:
            await socket.close()
        await self.rest.close()
        self.lock.close()
