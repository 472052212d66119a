"""The reference pages are current, and every command, endpoint, key and alarm is on one."""

from __future__ import annotations

import pytest

from control.alarms import ALARMS
from control.reference import DOCS, PAGES, current


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_current(page: str) -> None:
    assert (DOCS / page).read_text() == current(page), "run: python -m control.reference"


def test_what_users_rely_on_is_documented() -> None:
    api, operations = (DOCS / "api.md").read_text(), (DOCS / "operations.md").read_text()
    for path in ("/api/status", "/api/signals/latest", "/api/trades", "/api/models/{model_id}/promote", "/api/live"):
        assert f"`{path}`" in api
    for command in ("ta up", "ta status", "ta flatten", "ta tokens create", "ta models promote", "ta alerts test"):
        assert f"`{command}`" in operations
    book = (DOCS / "ops" / "runbook" / "README.md").read_text()
    assert all(alarm.name in book for alarm in ALARMS)
