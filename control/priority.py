"""Who comes first on a machine that engine and control share: the engine, then requests, then the database's work."""

from __future__ import annotations

import os
import threading

from engine.urgency import leave_core

REQUESTS = 5  # niceness of control's event loop; the engine runs at 0
DATABASE = 10  # of the threads that run SQL and of those that the database makes for itself: they inherit it


def for_requests(cpu: int = -1) -> None:
    """Lower the calling process, before it starts a thread, and keep it off the engine's core `cpu`, if it has one."""
    leave_core(cpu)
    os.setpriority(os.PRIO_PROCESS, 0, max(REQUESTS, os.getpriority(os.PRIO_PROCESS, 0)))


def for_database() -> None:
    """Lower the calling thread; on Linux niceness belongs to a thread, and what it starts inherits it."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(DATABASE, os.getpriority(os.PRIO_PROCESS, thread)))
