"""Listen keys and the private streams: which connection hears which account, filtered by event, after a delay."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.simulator.delays import DELAYS_MS, Delays, Scheduler
from engine.simulator.errors import Refusal
from engine.simulator.ledger import Account
from engine.simulator.streams import Connection

KEY_LIFE_MS = 3_600_000.0


@dataclass
class ListenKey:
    """One account's key: 64 characters, valid for an hour from the last keep-alive. Times are the service clock's."""

    key: str
    account: Account
    until_ms: float
    mute: bool = False  # a fault: expired without saying so


@dataclass(eq=False)
class _Ear:
    connection: Connection
    key: str
    events: frozenset[str] | None


@dataclass
class EventFilter:
    """What a fault may do to events before they are sent; see faults.py."""

    drop: int = 0
    duplicate: int = 0
    late_ms: float = 0.0
    after: int = 0  # events let through first
    names: frozenset[str] = field(default_factory=frozenset)

    def hits(self, name: str) -> bool:
        """Return whether the fault concerns this event type."""
        return not self.names or name in self.names


class UserData:
    """The private side of the streams. `publish` hands an event over; it arrives after its type's own delay."""

    def __init__(self, scheduler: Scheduler, delays: Delays) -> None:
        self.scheduler = scheduler
        self.delays = delays
        self.keys: dict[str, ListenKey] = {}
        self.by_account: dict[str, ListenKey] = {}
        self.ears: dict[str, list[_Ear]] = {}
        self.faults: list[EventFilter] = []
        self.sent = 0
        self._made = 0

    def open(self, account: Account) -> str:
        """Return the account's key, new or extended: there is one per account."""
        found = self.by_account.get(account.key)
        now = self.scheduler.now()
        if found is None or found.until_ms <= now:
            self._made += 1
            digest = hashlib.blake2b(f"{account.key}:{account.secret}:{self._made}".encode(), digest_size=32)
            found = ListenKey(digest.hexdigest(), account, now)
            self.by_account[account.key] = self.keys[found.key] = found
        found.until_ms = now + KEY_LIFE_MS
        return found.key

    def extend(self, account: Account) -> str:
        """Extend the account's key. Raises −1125 when there is none."""
        found = self.by_account.get(account.key)
        if found is None or found.until_ms <= self.scheduler.now():
            raise Refusal(-1125, "This listenKey does not exist.")
        found.until_ms = self.scheduler.now() + KEY_LIFE_MS
        return found.key

    def close(self, account: Account, event_ms: int) -> None:
        """Close the account's key; its sockets are told and stay open."""
        found = self.by_account.pop(account.key, None)
        if found is not None:
            self._expire(found, event_ms)

    def sweep(self, event_ms: int) -> None:
        """Expire keys whose hour is over."""
        now = self.scheduler.now()
        for found in [key for key in self.by_account.values() if key.until_ms <= now]:
            del self.by_account[found.account.key]
            self._expire(found, event_ms)

    def _expire(self, found: ListenKey, event_ms: int) -> None:
        body = {"e": "listenKeyExpired", "E": event_ms, "listenKey": found.key}
        self.keys.pop(found.key, None)
        for ear in self.ears.get(found.key, []):
            ear.connection.send_event(found.key, orjson.dumps(body))

    def listen(self, connection: Connection, key: str, events: list[str] | None) -> None:
        """Let a connection hear a key, once; a bogus or expired one stays silent."""
        chosen = frozenset(events) if events is not None else None
        self.forget(connection, key)
        self.ears.setdefault(key, []).append(_Ear(connection, key, chosen))

    def forget(self, connection: Connection, key: str = "") -> None:
        """Drop a connection, or what it hears of one key."""
        for name in [key] if key else list(self.ears):
            left = [ear for ear in self.ears.pop(name, []) if ear.connection is not connection]
            if left:
                self.ears[name] = left

    def publish(self, account: Account, body: dict[str, Any]) -> None:
        """Send an event to whoever listens to the account: same types in order, others as their delays fall."""
        name = str(body["e"])
        payload = orjson.dumps(body)
        lane = (account.key, name)
        kind = name if name in DELAYS_MS else "other"
        due = self.delays.in_order(lane, self.scheduler.now(), kind)
        copies = 1
        for fault in self.faults:
            if fault.hits(name):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.drop > 0:
                    fault.drop -= 1
                    return
                if fault.duplicate > 0:
                    fault.duplicate -= 1
                    copies += 1
                due += fault.late_ms
        for _ in range(copies):
            self.scheduler.at(due, lambda: self._deliver(account, name, payload))

    def _deliver(self, account: Account, name: str, payload: bytes) -> None:
        found = self.by_account.get(account.key)
        if found is None or found.mute or found.until_ms <= self.scheduler.now():
            return
        for ear in self.ears.get(found.key, []):
            if ear.events is None or name in ear.events:
                ear.connection.send_event(found.key, payload)
                self.sent += 1
