"""kill -9 of a real engine with the page open, over a real system on a simulated exchange: said, and recovered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from control.auth import Scope, TokenBook
from control.routes.pages import BUILT
from control.supervise import environment
from tests.control.browser import CHROMIUM, FLAGS, ROOT, SHOTS, wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}: apt-get install chromium"),
    pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="the dashboard is not built: make dashboard"),
]
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
START_S = 180.0  # an upper bound: a shared machine may be slow
TA = [sys.executable, "-m", "control.cli"]


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end; one that does not is killed, and a fault."""
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(START_S)
    finally:
        process.kill()


class System:
    """`ta simulator` and `ta up` in shadow mode, without a model: what is tested is the page, not the trades."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, (folder.parent / "system.log").open("w")
        self._stack = ExitStack()
        self._stack.callback(self._log.close)
        try:
            self._start()
        except BaseException:  # nobody has it yet who could close it
            self.close()
            raise

    def _start(self) -> None:
        simulator = subprocess.Popen(
            [*TA, "simulator", "--port", "0", "--symbols", ",".join(SYMBOLS), "--speed", "30", "--quiet",
             "--history-days", "64", "--ahead-days", "2"],
            stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT, text=True,
        )  # fmt: skip
        self._stack.callback(end, simulator)
        assert simulator.stdout is not None
        market = json.loads(simulator.stdout.readline())
        names = {"rest_url", "stream_url", "ws_api_url"}
        values: dict[str, Any] = {
            "exchange": {"name": "sim", "clock": "replay", **{name: market[name] for name in names}},
            "market": {"symbols": SYMBOLS, "deadline_ms": 10_000},
            "control": {"port": 0},
        }
        self.token = TokenBook(self.folder / "tokens.json").create("test", Scope.ADMIN)
        self.up = subprocess.Popen(
            [*TA, "--data-dir", str(self.folder), "up", "--mode", "shadow"],
            env={**os.environ, **environment(values)}, stdout=self._log, stderr=self._log, cwd=ROOT,
        )  # fmt: skip
        self._stack.callback(end, self.up)
        self.url = wait_for(self._address, START_S)
        wait_for(lambda: (self.status().get("engine") or {}).get("alive"), START_S)

    def _address(self) -> str | None:
        assert self.up.poll() is None, Path(self._log.name).read_text()[-2_000:]
        try:
            return str(json.loads((self.folder / "control.json").read_text())["url"])
        except (OSError, ValueError):
            return None

    def status(self) -> dict[str, Any]:
        """Return GET /api/status, or nothing while control does not answer."""
        request = urllib.request.Request(f"{self.url}/api/status", headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                found: dict[str, Any] = json.load(reply)
                return found
        except OSError:
            return {}

    def close(self) -> None:
        """Stop everything in order."""
        self._stack.close()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    (tmp_path / "var").mkdir()
    running = System(tmp_path / "var")
    yield running
    running.close()


@pytest.mark.timeout(900)
def test_the_page_says_that_the_engine_was_killed_and_recovers_with_it(system: System) -> None:
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        page.set_default_timeout(START_S * 1_000)
        page.goto(system.url)
        page.fill("#token", system.token)
        page.keyboard.press("Enter")
        page.get_by_text("engine alive", exact=True).wait_for()
        before = wait_for(lambda: system.status().get("engine"))
        system.up.send_signal(signal.SIGSTOP)  # nobody restarts it, however fast a restart is
        os.kill(before["pid"], signal.SIGKILL)
        killed = time.monotonic()
        page.locator("#alarm").get_by_text("The engine has not beaten").wait_for()
        said_s = time.monotonic() - killed
        page.screenshot(path=SHOTS / "engine-killed.png")
        system.up.send_signal(signal.SIGCONT)
        page.get_by_text("engine alive", exact=True).wait_for()
        page.locator("#alarm").get_by_text("The engine was restarted at").wait_for()
        page.locator("#alarm").get_by_text("has not beaten").wait_for(state="hidden")
        after = wait_for(lambda: system.status().get("engine"))
        assert after["pid"] != before["pid"] and int(after["run_id"]) > int(before["run_id"])
        assert page.locator("#token").count() == 0  # nobody was logged out
        print(f"said after {said_s:.1f} s")
        browser.close()
