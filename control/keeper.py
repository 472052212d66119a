"""Opens the store as its owner, follows the journal, and says how both are; tries again for ever, off the loop."""

from __future__ import annotations

import threading

import structlog

from control.services import StoreHealth
from engine.config import Config
from store.client import Store
from store.errors import StoreError

CHECK_S = 1.0
RETRY_S = 2.0
logger = structlog.get_logger("control.keeper")


class Keeper:
    """One thread that keeps the store open and its health known."""

    def __init__(self, store: Store, config: Config, health: StoreHealth) -> None:
        self._store = store
        self._config = config
        self._health = health
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the present batch and give the store up."""
        self._stopping.set()
        self._thread.join(30)
        self._store.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._store.scalar("SELECT 1")
            except StoreError as error:
                self._fault(str(error))
                self._stopping.wait(RETRY_S)
                continue
            self._health.ok, self._health.detail = True, "open"
            self._stopping.wait(CHECK_S)

    def _fault(self, detail: str) -> None:
        if self._health.detail != detail:
            logger.error("store", detail=detail)
        self._health.ok, self._health.detail = False, detail
