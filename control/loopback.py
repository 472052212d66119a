"""Our processes talk to each other over loopback, never through the proxy that the environment names for the world."""

from __future__ import annotations

import os

HOSTS = ("localhost", "127.0.0.1", "::1")


def reach_directly() -> None:
    """Add this machine to the hosts that no proxy is asked for, in this process and those it starts."""
    if not any(name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name in os.environ):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if given.strip() != "*":
        listed = [host for host in given.split(",") if host.strip()]
        given = ",".join(listed + [host for host in HOSTS if host not in map(str.strip, listed)])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = given
