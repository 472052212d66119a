"""Who may do what: hashed bearer tokens with scopes, a cache of verified ones, and a lock-out for guessing.

A token is `ta_<id>_<secret>`. The id is public and finds the entry; the secret (256 bits) is kept only as an argon2id
hash in `<data_dir>/tokens.json` (mode 600). argon2 is paid once per token and process: after that the token's keyed
digest is remembered, and a remembered digest counts only while its entry is unchanged, unrevoked and unexpired.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

MAX_TOKENS = 1_000  # the file is read whole; nobody names more than that
MAX_VERIFIED = 1_024  # cached digests, 100 bytes each
MAX_TOKEN_CHARS = 128


class Scope(enum.StrEnum):
    """What a token may do; each scope contains the ones before it."""

    READ = "read"
    TRADE = "trade"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return list(Scope).index(self)

    def allows(self, needed: Scope) -> bool:
        """Tell whether this scope is at least `needed`."""
        return self.rank >= needed.rank


class Token(msgspec.Struct, frozen=True):
    """One entry of the token file; never holds the secret itself."""

    id: str
    name: str
    scope: Scope
    hash: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def alive(self, now_ms: int) -> bool:
        """Tell whether the token counts at `now_ms`."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: the token's id and name, its scope, and whether it came by cookie (then CSRF applies)."""

    token_id: str
    name: str
    scope: Scope
    by_cookie: bool = False

    @property
    def actor(self) -> str:
        """The name written to the `commands` table; at most 40 bytes there."""
        return f"{self.name}#{self.token_id}"[:40]


def now_ms() -> int:
    """Return the wall clock in epoch milliseconds; tokens outlive a process, so monotonic time cannot serve."""
    return time.time_ns() // 1_000_000


class TokenBook:
    """The token file and the verified-token cache. Thread-safe for verification; changes take a file lock."""

    def __init__(self, path: Path, clock_ms: Callable[[], int] = now_ms, hasher: PasswordHasher | None = None) -> None:
        self.path = path
        self._clock_ms = clock_ms
        self._hasher = hasher or PasswordHasher()
        self._stamp: tuple[int, int, int] | None = None
        self._entries: dict[str, Token] = {}
        self._verified: OrderedDict[bytes, Token] = OrderedDict()
        self._pepper = secrets.token_bytes(32)
        self._decoy = self._hasher.hash(secrets.token_urlsafe(8))

    def create(self, name: str, scope: Scope, days: float | None = None) -> str:
        """Store a new token and return its text, which is never available again.

        `name` has 1–24 printable characters; `days` limits its life (None: until revoked). Raises ValueError.
        """
        if not (1 <= len(name) <= 24 and name.isascii() and name.isprintable() and not name.isspace()):
            raise ValueError(f"token name: expected 1 to 24 printable ASCII characters, got {name!r}")
        if days is not None and not 0 < days <= 36_500:
            raise ValueError(f"token life: expected days in (0, 36500], got {days}")
        token_id, secret, now = secrets.token_hex(4), secrets.token_urlsafe(32), self._clock_ms()
        entry = Token(
            id=token_id,
            name=name,
            scope=scope,
            hash=self._hasher.hash(secret),
            created_ms=now,
            expires_ms=None if days is None else now + int(days * 86_400_000),
        )
        with self._locked():
            entries = self._read()
            if len(entries) >= MAX_TOKENS:
                raise ValueError(
                    f"the token file holds {MAX_TOKENS} tokens already; revoked ones are pruned by `revoke`"
                )
            self._write([*entries.values(), entry])
        return f"ta_{token_id}_{secret}"

    def revoke(self, token_id: str) -> bool:
        """Revoke a token at once, everywhere; return whether there was a living one of that id."""
        now = self._clock_ms()
        with self._locked():
            entries = self._read()
            entry = entries.get(token_id)
            if entry is None or not entry.alive(now):
                return False
            entries[token_id] = msgspec.structs.replace(entry, revoked_ms=now)
            self._write(list(entries.values()))
        return True

    def entries(self) -> list[Token]:
        """Return every token of the file, oldest first."""
        self._refresh()
        return sorted(self._entries.values(), key=lambda entry: (entry.created_ms, entry.id))

    def living(self, token_id: str) -> Token | None:
        """Return the token of that id if it still counts."""
        self._refresh()
        entry = self._entries.get(token_id)
        return entry if entry is not None and entry.alive(self._clock_ms()) else None

    def remembered(self, text: str) -> Token | None:
        """Return the token if its secret has been verified before and it still counts; costs a digest and a stat."""
        self._refresh()
        digest = self._digest(text)
        known = self._verified.get(digest)
        if known is None:
            return None
        current = self._entries.get(known.id)
        if current is None or current.hash != known.hash or not current.alive(self._clock_ms()):
            self._verified.pop(digest, None)
            return None
        return current

    def verify(self, text: str) -> Token | None:
        """Check a token with argon2 (tens of ms: call it in a thread) and remember it; None if it does not count.

        An unknown id pays for a hash too, so that the time of the answer does not tell known ids.
        """
        parts = text.split("_", 2)
        if len(text) > MAX_TOKEN_CHARS or len(parts) != 3 or parts[0] != "ta":
            return None
        self._refresh()
        entry = self._entries.get(parts[1])
        try:
            self._hasher.verify(self._decoy if entry is None else entry.hash, parts[2])
        except Argon2Error:
            return None
        if entry is None or not entry.alive(self._clock_ms()):
            return None
        self._verified[self._digest(text)] = entry
        while len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return entry

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._pepper, digest_size=32).digest()

    def _refresh(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._entries, self._stamp = {}, None
            return
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._stamp:
            self._entries = self._read()
            self._stamp = stamp

    def _read(self) -> dict[str, Token]:
        try:
            entries = msgspec.json.decode(self.path.read_bytes(), type=list[Token])
        except FileNotFoundError:
            return {}
        return {entry.id: entry for entry in entries}

    def _write(self, entries: list[Token]) -> None:
        living = self._clock_ms() - 90 * 86_400_000  # revoked and expired entries stay listed for 90 days
        kept = [e for e in entries if min(e.revoked_ms or 1 << 62, e.expires_ms or 1 << 62) > living]
        temporary = self.path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(kept), indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Lockout:
    """Count failed attempts per address; too many close the door for a while. Bounded, in memory."""

    LIMIT = 10  # failures inside the window
    WINDOW_S = 60.0
    MAX_ADDRESSES = 4_096

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return how long `address` must wait before its next unverified attempt; 0 when it may try."""
        times = self._failures.get(address)
        if times is None or len(times) < self.LIMIT:
            return 0.0
        return max(0.0, times[-self.LIMIT] + self.WINDOW_S - self._clock_s())

    def failed(self, address: str) -> None:
        """Record a failed attempt."""
        times = self._failures.setdefault(address, [])
        times.append(self._clock_s())
        del times[: -self.LIMIT]
        self._failures.move_to_end(address)
        while len(self._failures) > self.MAX_ADDRESSES:
            self._failures.popitem(last=False)


class CookieSigner:
    """Signed session cookies: stateless, bound to a token id, dead with the token; carries its own CSRF secret.

    The key file lives in the data folder (mode 600), so a restart of control logs nobody out.
    """

    LIFE_MS = 12 * 3_600_000
    MAX_ENDED = 4_096

    def __init__(self, key_path: Path, clock_ms: Callable[[], int] = now_ms) -> None:
        self._clock_ms = clock_ms
        self._key = _key(key_path)
        self._ended: OrderedDict[str, int] = OrderedDict()

    def issue(self, token_id: str) -> str:
        """Return a cookie value for `token_id`, valid for 12 hours."""
        body = f"{token_id}.{self._clock_ms() + self.LIFE_MS}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._sign('session', body)}"

    def open(self, cookie: str) -> str | None:
        """Return the token id of a genuine, unexpired, not logged-out cookie."""
        body, _, signature = cookie.rpartition(".")
        parts = body.split(".")
        if len(parts) != 3 or len(cookie) > 256:
            return None
        if not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return None
        if int(parts[1]) <= self._clock_ms() or body in self._ended:
            return None
        return parts[0]

    def end(self, cookie: str) -> None:
        """Log a cookie out; remembered in memory until it would have expired."""
        self._ended[cookie.rpartition(".")[0]] = self._clock_ms()
        while len(self._ended) > self.MAX_ENDED:
            self._ended.popitem(last=False)

    def csrf(self, cookie: str) -> str:
        """Return the CSRF token that belongs to a cookie."""
        return self._sign("csrf", cookie.rpartition(".")[0])

    def csrf_matches(self, cookie: str, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.csrf(cookie).encode(), given.encode())

    def _sign(self, purpose: str, body: str) -> str:
        return hmac.new(self._key, f"{purpose}:{body}".encode(), hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f,
    ):
        f.write(secrets.token_bytes(32))
    key = path.read_bytes()
    if len(key) != 32:
        raise ValueError(f"{path}: expected 32 bytes, got {len(key)}; delete it and everybody logs in again")
    return key
