"""Who comes first on a machine that engine and control share: the engine, then requests, then the database's work.

Where Linux makes a scheduler group of each session (`sched_autogroup_enabled`, on in most distributions), a process's
niceness counts within its session alone, and between sessions each one's own, which stands in a file. So `ta up` keeps
its children in one session, and a control that leads a session lowers that too.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from engine.urgency import leave_core

REQUESTS = 5  # niceness of control's event loop; the engine runs at 0
DATABASE = 10  # of the threads that run SQL and of those that the database makes for itself: they inherit it
TRIES, AGAIN_S = 5, 0.11


def for_requests(cpu: int = -1) -> bool:
    """Lower the calling process, before it starts a thread, and keep it off the engine's core `cpu`, if it has one.

    Returns whether its session was lowered with it, which is for one that it leads.
    """
    leave_core(cpu)
    niceness = max(REQUESTS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    return lower_session(os.getpid(), niceness)


def for_database() -> None:
    """Lower the calling thread; on Linux niceness belongs to a thread, and what it starts inherits it."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(DATABASE, os.getpriority(os.PRIO_PROCESS, thread)))


def lower_session(leader: int, niceness: int) -> bool:
    """Give the scheduler group of the session that process `leader` leads at least this niceness (0 to 19).

    Needs no privilege. Returns False, and does nothing, where the process leads no session (the niceness of the others
    in it is not ours to change), where the system groups no sessions, and where the kernel refuses.
    """
    try:
        if os.getsid(leader) != leader:
            return False
        group = Path(f"/proc/{leader}/autogroup")  # "/autogroup-123 nice 0"; empty when sessions are not grouped
        words = group.read_text().split()
        return bool(words) and _write(group, str(max(niceness, int(words[-1]))))
    except OSError:
        return False


def _write(group: Path, niceness: str) -> bool:
    for _ in range(TRIES):
        try:
            group.write_text(niceness)
            return True
        except BlockingIOError:  # without privilege one change is taken in a tenth of a second, of whichever session
            time.sleep(AGAIN_S)
    return False
