"""Opens the store as its owner, follows the journal, and says how both are; tries again for ever, off the loop."""

from __future__ import annotations

import threading

import structlog

from control import priority
from control.jobs.history import adopt, adopt_brackets
from control.store_health import StoreHealth
from engine.config import Config
from engine.exchange.filters import BRACKETS_NAME
from kernels.records import BarFlag
from store.client import Store
from store.errors import StoreError
from store.tail import RunStatus, Tail

CHECK_S = 1.0
RETRY_S = 2.0
AUDIT_CHECKS = 15  # the newest audit's result is read at every 15th check
NEWEST_AUDIT = (
    "SELECT sum(compared), sum(differing), count() FROM audits WHERE audit_id = (SELECT max(audit_id) FROM audits)"
)
FOLDED = (
    "SELECT count() FROM bars_seen WHERE engine_id = {engine:String} AND run_id = {run:String} "
    f"AND bitAnd(flags, {int(BarFlag.REVISION)}) = 0"
)
logger = structlog.get_logger("control.keeper")


class Keeper:
    """A thread that keeps the store open and its health known, and one that runs the tail."""

    def __init__(self, store: Store, config: Config, health: StoreHealth) -> None:
        self._store = store
        self._config = config
        self._health = health
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._tail: Tail | None = None
        self._follower: threading.Thread | None = None
        self._adopted_run, self._adopting = -1, threading.Event()
        self._checks = 0
        self._brackets_ns = 0

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the present batch and give the store up."""
        self._stopping.set()
        self._store.hurry()
        self._thread.join(30)
        if self._follower is not None:
            self._follower.join(30)
        self._store.close()

    def _run(self) -> None:
        priority.for_database()  # before the store opens: its own threads inherit it
        while not self._stopping.is_set():
            try:
                self._store.scalar("SELECT 1")
            except StoreError as error:
                self._fault(str(error))
                self._stopping.wait(RETRY_S)
                continue
            if self._tail is None:
                self._follow()
            self._report()
            if self._checks % AUDIT_CHECKS == 0:
                self._read_audit()
                self._take_brackets()
            self._checks += 1
            self._stopping.wait(CHECK_S)

    def _follow(self) -> None:
        folder = self._config.data_dir
        keep = self._config.journal.keep_segments
        self._tail = Tail(self._store, [folder / "journal"], folder / "store" / "tail", keep_segments=keep)
        self._follower = threading.Thread(target=self._keep_following, name="tail", daemon=True)
        self._follower.start()

    def _keep_following(self) -> None:
        assert self._tail is not None
        while not self._stopping.is_set():
            try:
                self._tail.run(self._stopping)
            except Exception as error:  # a bug in the tail must not stop the API, and must not be silent
                logger.error("tail", exc_info=error)
                self._tail.error = f"tail: {error!r}"
                self._stopping.wait(RETRY_S)

    def _report(self) -> None:
        assert self._tail is not None
        runs = self._tail.status()
        newest = max(runs, key=lambda run: run.run_id, default=None)
        if newest is not None and newest.run_id != self._adopted_run and not self._adopting.is_set():
            self._adopting.set()
            threading.Thread(target=self._adopt, args=(newest,), name="history", daemon=True).start()
        self._health.tail_seq = None if newest is None else newest.seq
        self._health.tail_rows = self._tail.rows
        self._health.behind_s = 0.0 if newest is None else newest.behind_s
        faults = [self._tail.error] if self._tail.error else [run.fault for run in runs if run.fault]
        if faults:
            self._fault(faults[0])
        else:
            self._health.ok, self._health.detail = True, "open"

    def _read_audit(self) -> None:
        try:
            ((compared, differing, rows),) = self._store.rows(NEWEST_AUDIT)
        except StoreError as error:
            logger.error("audit", detail=str(error))
            return
        if rows:
            self._health.audit_compared, self._health.audit_differing = int(compared), int(differing)

    def _take_brackets(self) -> None:
        path = self._config.data_dir / BRACKETS_NAME
        written_ns = path.stat().st_mtime_ns if path.exists() else 0
        if written_ns == self._brackets_ns:
            return
        try:
            logger.info("brackets", rows=adopt_brackets(self._store, self._config))
        except (StoreError, OSError, ValueError, KeyError) as error:
            logger.error("brackets", detail=str(error))
        self._brackets_ns = written_ns

    def _adopt(self, run: RunStatus) -> None:
        """Store the history that a new run was started on: what its vectors were folded from.

        Not before its first closed bar is stored: until then REST may still be completing the bar files.
        """
        try:
            if self._store.scalar(FOLDED, {"engine": run.engine_id, "run": str(run.run_id)}):
                logger.info("history", rows=adopt(self._store, self._config))
                self._adopted_run = run.run_id
        except (StoreError, OSError) as error:
            logger.error("history", detail=str(error))
        finally:
            self._adopting.clear()

    def _fault(self, detail: str) -> None:
        if self._health.detail != detail:
            logger.error("store", detail=detail)
        self._health.ok, self._health.detail = False, detail
