"""What the operators' commands do on this machine: the engine's snapshot and socket, with control up or down."""

from __future__ import annotations

import getpass
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from control import present
from control.alarms import ALARMS
from control.cli.app import fail
from control.shapes import EngineStatus, Status, StoreStatus
from engine.config import Config
from engine.link import SnapshotReader, SnapshotView, command


def read_engine(config: Config) -> SnapshotView | None:
    """Return the engine's snapshot of this data folder, or None where none has run."""
    return SnapshotReader(config.data_dir).read()


def control_url(config: Config) -> str:
    """Return where control of this data folder says it serves; where it says nothing, what is configured."""
    try:
        return str(msgspec.json.decode((config.data_dir / "control.json").read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        scheme = "https" if config.control.tls_cert else "http"
        return f"{scheme}://{config.control.host}:{config.control.port}"


def control_ready(config: Config) -> dict[str, Any] | None:
    """Return control's readiness, or None when it does not answer."""
    try:
        with urllib.request.urlopen(f"{control_url(config)}/readyz", timeout=1.0) as reply:
            return msgspec.json.decode(reply.read(), type=dict[str, Any])
    except urllib.error.HTTPError as error:
        try:
            return msgspec.json.decode(error.read(), type=dict[str, Any])
        except msgspec.DecodeError:
            return None
    except (OSError, ValueError):
        return None


def send(config: Config, verb: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one command to the engine and return its result; a refusal or no engine ends the program with code 1."""
    actor = f"cli:{getpass.getuser()}"[:40]
    try:
        answer = command(Path(config.data_dir), verb, actor=actor, args=args, command_id=secrets.token_hex(16))
    except TimeoutError:
        fail("the engine did not acknowledge within 10 s; look at `ta status` before repeating", code=1)
    except (OSError, ValueError) as error:
        fail(str(error) or "the engine went away before it answered; look at `ta status`", code=1)
    if not answer.get("ok"):
        fail(str(answer.get("error") or "refused"), code=1)
    return answer.get("result") or {}


def status_document(config: Config) -> dict[str, Any]:
    """Return what `ta status --json` prints."""
    view = read_engine(config)
    seen = None if view is None else present.engine_status(view)
    engine = None if seen is None else msgspec.to_builtins(seen)
    held = [] if view is None else msgspec.to_builtins(present.positions(view))
    working = [] if view is None else msgspec.to_builtins(present.open_orders(view))
    ready = control_ready(config)
    return {
        "trading": bool(engine and engine["alive"] and engine["state"] == "running"),
        "mode": engine["mode"] if engine else config.mode,
        "engine": engine,
        "positions": held,
        "open_orders": working,
        "alarms": holding(config, seen),
        "control": {"answers": ready is not None, **(ready or {})},
    }


def holding(config: Config, engine: EngineStatus | None) -> list[dict[str, str]]:
    """Return the alarms of the engine whose condition is true at this moment, however long it has been."""
    store = StoreStatus(True, "", "", None)  # nothing is known of it here: control answers for it
    status = Status(False, config.mode, engine, store, 0, 0, "", [])
    found = [alarm for alarm in ALARMS if alarm.holds(status, config)]
    return [{"name": alarm.name, "severity": alarm.severity, "says": alarm.message(status)} for alarm in found]
