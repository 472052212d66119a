"""Every request's door: who asks (token or cookie), whether the scope suffices, and the headers of every answer."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import WebSocket
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Message
from litestar.types import Scope as AsgiScope

from control.auth import CookieSigner, Lockout, Principal, Scope, TokenBook
from control.problems import ApiError

COOKIE = "ta_session"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CHECKS_AT_ONCE = 2  # argon2 takes 64 MiB and tens of milliseconds each

SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]


class Gate:
    """Authenticates connections. One per process; `guard` is the application's only guard."""

    def __init__(self, book: TokenBook, cookies: CookieSigner, behind_proxy: bool = False) -> None:
        self.book = book
        self.cookies = cookies
        self.lockout = Lockout()
        self._behind_proxy = behind_proxy
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)

    def address(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """Return the caller's address; behind a proxy the last one that the proxy appended."""
        if self._behind_proxy:
            forwarded = connection.headers.get("x-forwarded-for", "")
            if forwarded:
                return forwarded.rsplit(",", 1)[-1].strip()[:64]
        return connection.client.host if connection.client else "local"

    async def guard(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Refuse whoever may not: 401 without a valid token or cookie, 403 without the scope or the CSRF token.

        Handlers state their need in `opt`: `public=True`, or `needs=Scope…` (default read).
        """
        if handler.opt.get("public"):
            return
        principal = await self.identify(connection)
        if principal is None:
            raise ApiError(
                401,
                "unauthenticated",
                "send `Authorization: Bearer <token>`; create one with `ta tokens create`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        needed: Scope = handler.opt.get("needs", Scope.READ)
        if not principal.scope.allows(needed):
            raise ApiError(403, "scope", f"this needs the scope {needed}; the token has {principal.scope}")
        if principal.by_cookie:
            self._same_site(connection)
        connection.scope["user"] = principal

    async def identify(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Principal | None:
        """Return who is asking, or None. Raises ApiError 429 for an address that failed too often."""
        header = connection.headers.get("authorization")
        if header is not None:
            kind, _, text = header.partition(" ")
            return await self.check(text.strip(), self.address(connection)) if kind.lower() == "bearer" else None
        cookie = connection.cookies.get(COOKIE)
        if cookie:
            token_id = self.cookies.open(cookie)
            entry = self.book.living(token_id) if token_id else None
            if entry is not None:
                return Principal(entry.id, entry.name, entry.scope, by_cookie=True)
        return None

    async def check(self, text: str, address: str) -> Principal | None:
        """Verify a token's text; a remembered one passes even while its address is locked out."""
        entry = self.book.remembered(text)
        if entry is None:
            wait_s = self.lockout.wait_s(address)
            if wait_s > 0:
                raise ApiError(
                    429,
                    "locked-out",
                    f"too many failed attempts from this address; wait {wait_s:.0f} s",
                    headers={"Retry-After": str(int(wait_s) + 1)},
                )
            async with self._checks:  # whoever waited here with the same token finds it remembered
                entry = self.book.remembered(text) or await asyncio.to_thread(self.book.verify, text)
            if entry is None:
                self.lockout.failed(address)
                return None
        return Principal(entry.id, entry.name, entry.scope)

    def _same_site(self, connection: ASGIConnection[Any, Any, Any, Any]) -> None:
        """Refuse what another site makes a browser send: by Origin, and for changes by the CSRF token."""
        origin = connection.headers.get("origin")
        host = connection.headers.get("host", "")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "cross-origin", "the request comes from another site")
        if isinstance(connection, WebSocket) or connection.scope.get("method") in SAFE_METHODS:
            return
        cookie = connection.cookies.get(COOKIE, "")
        if not self.cookies.csrf_matches(cookie, connection.headers.get(CSRF_HEADER, "")):
            raise ApiError(403, "csrf", f"send the header {CSRF_HEADER} with the value from GET /api/session")


async def add_headers(message: Message, _scope: AsgiScope) -> None:
    """Add the security headers to every answer, errors and unknown paths included."""
    if message["type"] == "http.response.start":
        headers = [*message["headers"]]
        present = {name.lower() for name, _ in headers}
        headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
        if b"cache-control" not in present:
            headers.append((b"cache-control", b"no-store"))
        message["headers"] = headers
