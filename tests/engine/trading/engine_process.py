"""`ta engine` as a process of its own, on a simulated exchange of the test's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from control.supervise import environment
from engine.config import Config
from engine.link import command


class EngineProcess:
    """Spawned at once; what it says on standard output are JSON lines. Use as a context manager: it is killed."""

    def __init__(self, config: Config, name: str = "engine") -> None:
        values = config.model_dump(mode="json", exclude={"data_dir", "secrets"}, exclude_defaults=True)
        secrets = config.secrets
        values["secrets"] = {
            "api_key": secrets.api_key.get_secret_value(), "api_secret": secrets.api_secret.get_secret_value(),
        }  # fmt: skip
        self.folder = config.data_dir
        self._out, self._log = self.folder / f"{name}.out", self.folder / f"{name}.log"
        line = [sys.executable, "-m", "control.cli", "--data-dir", str(self.folder), "engine"]
        locks = {"TA_LOCK_DIR": str(self.folder / "locks")}  # keys are the same in all tests
        with open(self._out, "wb") as out, open(self._log, "wb") as log:
            self.spawned_s = time.perf_counter()
            self.process = subprocess.Popen(line, env=os.environ | environment(values) | locks, stdout=out, stderr=log)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def said(self, key: str) -> dict[str, Any] | None:
        """Return the first message with this key, if there is one yet."""
        for line in self._out.read_text().splitlines():
            if f'"{key}"' in line and line.endswith("}"):
                message: dict[str, Any] = json.loads(line)
                return message
        return None

    def wait_for(self, key: str, seconds: float = 180.0) -> float:
        """Wait until the engine has said `key`; return the seconds from its spawn. Blocking."""
        while self.said(key) is None:
            assert self.process.poll() is None, self.log()
            assert time.perf_counter() - self.spawned_s < seconds, f"not {key}:\n{self.log()}"
            time.sleep(0.005)
        return time.perf_counter() - self.spawned_s

    def ask(self, verb: str) -> dict[str, Any]:
        """Return the answer to a question. Blocking."""
        answer: dict[str, Any] = command(self.folder, verb, actor="test", timeout_s=60.0)["result"]
        return answer

    def log(self) -> str:
        """Return the end of its log."""
        return self._log.read_text()[-3_000:]
