"""The live push: topics in, numbered messages out; a ring for resuming, a bounded queue per client.

State topics (status, marks, positions, open_orders, connections, latency) carry the whole state, so a new subscriber
gets the newest at once.
Event topics (candles, signals, orders, trades, jobs, log) carry what is new, resumable by sequence number.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

STATE_TOPICS = frozenset({"status", "marks", "positions", "open_orders", "connections", "latency"})
EVENT_TOPICS = frozenset({"candles", "signals", "orders", "trades", "jobs", "log"})
TOPICS = STATE_TOPICS | EVENT_TOPICS
RING = 4_096  # event messages kept for resuming: some minutes of 600 symbols
QUEUE = 1_024  # messages a client may lag, more than one look into the store can bring; then it is dropped with notice
ROOM = 64  # messages that a resuming client's queue keeps free for what comes meanwhile
MAX_CLIENTS = 256
TOO_SLOW = 4_008  # close code

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False)
class Client:
    """One subscriber. `overflowed` is set when its queue was full: it must be dropped."""

    topics: set[str] = field(default_factory=set)
    queue: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    overflowed: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, message: bytes) -> None:
        """Queue a message; a full queue marks the client for dropping."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.overflowed.set()


class Hub:
    """Where publishers and subscribers meet; lives on the event loop, nothing in it waits."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.seq = 0
        self.dropped = 0
        self._ring: deque[tuple[int, str, bytes]] = deque(maxlen=RING)
        self._state: dict[str, bytes] = {}
        self._clients: set[Client] = set()

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._clients)

    def wanted(self, topic: str) -> bool:
        """Tell whether anybody listens to a topic."""
        return any(topic in client.topics for client in self._clients)

    def publish(self, topic: str, data: Any, now_ms: int) -> None:
        """Number a message and hand it to every subscriber of its topic."""
        self.seq += 1
        message = _encode({"seq": self.seq, "topic": topic, "time_ms": now_ms, "data": data})
        if topic in STATE_TOPICS:
            self._state[topic] = message
        else:
            self._ring.append((self.seq, topic, message))
        for client in self._clients:
            if topic in client.topics:
                client.offer(message)

    def join(self) -> Client | None:
        """Add a client, or return None when there are too many."""
        if len(self._clients) >= MAX_CLIENTS:
            return None
        client = Client()
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        """Remove a client."""
        self._clients.discard(client)

    def subscribe(self, client: Client, topics: Iterable[str], after: int | None, epoch: str | None) -> dict[str, Any]:
        """Set a client's topics, queue what it missed, and return the acknowledgement.

        `resumed` is false when messages after `after` are no longer here (or were another process's): then the client
        must read the lists over REST.
        """
        chosen = set(topics) & TOPICS
        fresh = chosen - client.topics
        client.topics = chosen
        resumed = True
        if after is not None:
            oldest = self._ring[0][0] if self._ring else self.seq + 1
            lost = len(self._ring) == RING and after + 1 < oldest
            missed = [message for seq, topic, message in self._ring if seq > after and topic in chosen]
            room = client.queue.maxsize - client.queue.qsize() - ROOM
            resumed = epoch == self.epoch and after <= self.seq and not lost and len(missed) <= room
            if resumed:
                for message in missed:
                    client.offer(message)
        for topic in sorted(fresh & STATE_TOPICS):
            if topic in self._state:
                client.offer(self._state[topic])
        return {
            "op": "subscribed",
            "topics": sorted(chosen),
            "epoch": self.epoch,
            "seq": self.seq,
            "resumed": resumed,
        }
