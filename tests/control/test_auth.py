"""Tokens, cookies, lock-out: who gets in, who does not, and for how long."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from control.auth import CookieSigner, Lockout, Scope, TokenBook

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


def book_at(path: Path, clock: Clock) -> TokenBook:
    return TokenBook(path / "tokens.json", clock, CHEAP)


def test_a_token_is_stored_hashed_in_a_private_file(tmp_path: Path) -> None:
    book = book_at(tmp_path, Clock())
    text = book.create("ops", Scope.TRADE)
    stored = book.path.read_text()
    assert text.split("_", 2)[2] not in stored and "$argon2id$" in stored
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600


def test_argon2_is_paid_once_and_a_revoked_token_dies_everywhere_at_once(tmp_path: Path) -> None:
    clock = Clock()
    served, command_line = book_at(tmp_path, clock), book_at(tmp_path, clock)
    text = command_line.create("ops", Scope.READ)
    assert served.remembered(text) is None
    entry = served.verify(text)
    assert entry is not None and entry.scope is Scope.READ
    assert served.remembered(text) == entry
    assert command_line.revoke(entry.id) and not command_line.revoke(entry.id)
    assert served.remembered(text) is None and served.verify(text) is None


def test_an_expired_token_counts_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    book = book_at(tmp_path, clock)
    text = book.create("ops", Scope.READ, days=1)
    assert book.verify(text) is not None
    clock.now += 86_400_000
    assert book.remembered(text) is None and book.verify(text) is None


@pytest.mark.parametrize("text", ["", "ta", "ta__", "ta_00000000_x", "xx_y_z", "ta_\x00_\xff", "ta_" + "a" * 5_000])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    book = book_at(tmp_path, Clock())
    book.create("ops", Scope.READ)
    assert book.verify(text) is None


def test_a_secret_of_another_token_does_not_fit(tmp_path: Path) -> None:
    book = book_at(tmp_path, Clock())
    one, two = book.create("one", Scope.READ), book.create("two", Scope.ADMIN)
    mixed = f"ta_{two.split('_', 2)[1]}_{one.split('_', 2)[2]}"
    assert book.verify(mixed) is None


@pytest.mark.parametrize(("name", "days"), [("", None), ("x" * 25, None), ("a\nb", None), ("ok", 0), ("ok", -1)])
def test_bad_names_and_lives_are_refused(tmp_path: Path, name: str, days: float | None) -> None:
    with pytest.raises(ValueError, match="token"):
        book_at(tmp_path, Clock()).create(name, Scope.READ, days)


def test_scopes_contain_the_lower_ones() -> None:
    allowed = {(a, b) for a in Scope for b in Scope if a.allows(b)}
    read, trade, admin = Scope
    assert allowed == {(read, read), (trade, read), (trade, trade), (admin, read), (admin, trade), (admin, admin)}


def test_ten_failures_lock_an_address_out_for_a_minute() -> None:
    clock: Any = Clock()
    lockout = Lockout(clock)
    for _ in range(Lockout.LIMIT):
        assert lockout.wait_s("a") == 0
        lockout.failed("a")
    assert lockout.wait_s("a") == Lockout.WINDOW_S and lockout.wait_s("b") == 0
    clock.now += 60
    assert lockout.wait_s("a") == 0


def test_a_cookie_is_bound_to_its_token_and_time(tmp_path: Path) -> None:
    clock = Clock()
    signer = CookieSigner(tmp_path / "key", clock)
    value = signer.issue("abcd1234")
    assert signer.open(value) == "abcd1234"
    assert CookieSigner(tmp_path / "key", clock).open(value) == "abcd1234"  # after a restart
    assert signer.open(value.replace("abcd1234", "ffff0000")) is None
    assert signer.open(value[:-1] + ("0" if value[-1] != "0" else "1")) is None
    assert CookieSigner(tmp_path / "other", clock).open(value) is None
    assert signer.csrf_matches(value, signer.csrf(value)) and not signer.csrf_matches(value, "no")
    clock.now += CookieSigner.LIFE_MS
    assert signer.open(value) is None


def test_a_logged_out_cookie_is_dead(tmp_path: Path) -> None:
    signer = CookieSigner(tmp_path / "key", Clock())
    value = signer.issue("abcd1234")
    signer.end(value)
    assert signer.open(value) is None


def test_guessing_over_http_is_locked_out_but_known_tokens_pass(client: Any, engine: Any, bearer: Any) -> None:
    good = bearer()
    assert client.get("/api/status", headers=good).status_code == 200
    bad = {"Authorization": "Bearer ta_00000000_guess"}
    answers = [client.get("/api/status", headers=bad).status_code for _ in range(Lockout.LIMIT + 1)]
    assert answers == [401] * Lockout.LIMIT + [429]
    assert int(client.get("/api/status", headers=bad).headers["retry-after"]) >= 1
    assert client.get("/api/status", headers=good).status_code == 200


def test_a_browser_session_needs_the_csrf_token_for_changes(client: Any, engine: Any, bearer: Any) -> None:
    token = bearer("trade")["Authorization"].split()[1]
    answer = client.post("/api/session", json={"token": token})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/status").status_code == 200
    refused = client.post("/api/trading/stop")
    assert refused.status_code == 403 and refused.json()["code"] == "csrf" and engine.commands == []
    csrf = client.get("/api/session").json()["csrf"]
    foreign = client.post("/api/trading/stop", headers={"X-CSRF-Token": csrf, "Origin": "https://evil.example"})
    assert foreign.status_code == 403 and engine.commands == []
    assert client.post("/api/trading/stop", headers={"X-CSRF-Token": csrf}).status_code == 200
    assert client.post("/api/session/end", headers={"X-CSRF-Token": csrf}).status_code == 200
    client.cookies.set("ta_session", answer.cookies["ta_session"])
    assert client.get("/api/status").status_code == 401


def test_a_wrong_token_does_not_log_in(client: Any, bearer: Any) -> None:
    answer = client.post("/api/session", json={"token": "ta_00000000_no"})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
