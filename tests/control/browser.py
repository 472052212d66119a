"""A real browser over the control process of `tests/control/stage.py`: what the tests of the page stand on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.routes.pages import BUILT

CHROMIUM = Path(os.environ.get("TA_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "test-artifacts" / "dashboard"
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}: apt-get install chromium"),
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the dashboard is not built: make dashboard"),
]


class Stage:
    """The control process of `tests/control/stage.py`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.stage", str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(data_dir.parent / "stage.log").open("w"),
            cwd=ROOT,
            text=True,
        )
        assert self.process.stdout is not None
        try:
            self.tokens: dict[str, str] = json.loads(self.process.stdout.readline())
            self.url = wait_for(lambda: _address(data_dir))
            wait_for(lambda: _ready(self.url))
        except BaseException:  # nobody has it yet who could close it
            self.process.kill()
            raise

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def commands(self) -> list[str]:
        """Return the verbs that the stand-in engine has received."""
        self.tell("commands")
        assert self.process.stdout is not None
        found: list[str] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


def _address(data_dir: Path) -> str | None:
    try:
        return str(json.loads((data_dir / "control.json").read_text())["url"])
    except (OSError, ValueError):
        return None


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], within_s: float = 120) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"did not come true within {within_s} s"
        time.sleep(0.05)
    return found


def hold(page: Any, expression: str) -> None:
    """Wait until a JavaScript expression is true; the page's own policy forbids the browser tool's way of waiting."""
    wait_for(lambda: page.evaluate(expression), 90)


QUIET = "!document.querySelector('main [aria-busy]')"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: Any) -> Iterator[Stage]:
    running = Stage(tmp_path_factory.mktemp("stage") / "var")
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, stage: Stage) -> Iterator[Any]:
    """Return a function that logs in and opens a view; at the end no page may have reported a fault."""
    contexts, faults = [], []

    def heard(message: Any) -> None:
        # a refusal is shown on the page and is no fault; neither is a control process that a test has ended
        if message.type == "error" and not re.search("Failed to load|WebSocket|ERR_CONNECTION", message.text):
            faults.append(message.text)

    def go(view: str = "overview", scope: str = "admin", **options: Any) -> Any:
        context = browser.new_context(viewport=options.pop("size", {"width": 1360, "height": 900}), **options)
        context.set_default_timeout(90_000)  # an upper bound: a shared machine may be slow
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{stage.url}/#/{view}")
        page.fill("#token", stage.tokens[scope])
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("navigation").wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert faults == []


def cells(page: Any, region: str, row: int) -> list[str]:
    """Return the words of a row of a table, without the time it begins with."""
    found = page.get_by_role("region", name=region, exact=True).locator("tbody tr").nth(row)
    return [" ".join(cell.split()) for cell in found.locator("th, td").all_inner_texts()][1:]
