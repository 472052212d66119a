"""Promote and roll back: the registry's event, the row in `models`, and the running engine's swap."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.priority import lower_session
from engine import model as models_door
from engine.backtest.history import Progress
from engine.config import Config
from engine.errors import DataError
from engine.link import command
from engine.model.building import COMPILER
from engine.model.compiled import COMPILED_FOLDER
from engine.model.opening import read_manifest
from engine.model.registry import Entry, Event, Registry, open_registry
from store import writer
from store.client import Store

LOWEST = 19  # niceness of building the compiled library


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion or a rollback did."""

    model_id: str
    bundle_path: str
    before: str  # the model that was in production, or ""
    forced: bool
    engine: str  # 'swapped', or why no engine was told
    evidence: dict[str, Any]


def store_model(store: Store, registry: Registry, model_id: str) -> None:
    """Write the model's present state to the `models` table."""
    entry = registry.entry(model_id)
    manifest = read_manifest(registry.path(entry.model_id))
    light = {name: value for name, value in manifest.items() if name not in ("golden", "missing_types", "features")}
    row = {
        "model_id": entry.model_id,
        "time": entry.since_ms,
        "state": entry.state,
        "schema_hash": int(manifest["schema_hash"]),
        "backend": "packed",
        "actor": entry.actor,
        "url": registry.url,
        "parent_id": "",
        "manifest": json.dumps(light),
        "metrics": json.dumps(manifest.get("metrics", {})),
        "version": time.time_ns() // 1_000,
    }
    writer.insert_row(store, "models", row)


def promote(
    store: Store | None, config: Config, model_id: str, actor: str, *, force: bool = False, reason: str = "",
    progress: Progress = lambda what, done, total: None,
) -> Promotion:  # fmt: skip
    """Make a registered model the one that decides. Raises DataError when the gate refuses and it is not forced.

    The bundle is opened and proved on its golden rows here before the engine hears of it; the engine proves it again.
    """
    if force and not reason:
        raise DataError("a forced promotion needs a reason: it is recorded")
    registry = open_registry(config)
    entry = registry.entry(model_id)
    path = registry.path(entry.model_id)
    models_door.load(path)
    before = registry.production()
    evidence: dict[str, Any] = {"verdict": "not examined", "detail": "forced"}
    if not force:
        evidence = _examine(store, config, registry, entry, before, actor, progress)
        if registry.production() != before:
            raise DataError(f"{entry.model_id} is not promoted: the production model changed while it was compared")
    told = _tell(config, "promote", actor, {"model_id": entry.model_id, "bundle_path": str(path.resolve())})
    now_ms = time.time_ns() // 1_000_000
    registry.record(Event(entry.model_id, "production", now_ms, actor, reason, force, evidence))
    _store_states(store, registry, entry.model_id, before.model_id if before else "")
    if config.model.compile:
        _compile_in_background(config, path)
    return Promotion(entry.model_id, str(path), before.model_id if before else "", force, told, evidence)


def _examine(
    store: Store | None, config: Config, registry: Registry, entry: Entry, before: Entry | None, actor: str,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Return the gate's evidence. Raises DataError, after recording it, unless the candidate passes."""
    if store is None:
        raise DataError("the promotion gate reads the store, which is not open here; see --force")
    from control.jobs import gate

    same = before is not None and before.model_id == entry.model_id
    found = gate.examine(store, config, registry, entry, None if same else before, progress)
    evidence = found.evidence()
    again = gate.already_tried(registry.events(), entry.model_id, found) if found.trades else ""
    if again:
        evidence["verdict"], evidence["detail"] = "already tried", again
    if evidence["verdict"] != "pass":
        now_ms = time.time_ns() // 1_000_000
        registry.record(Event(entry.model_id, "refused", now_ms, actor, "", False, evidence))
        raise DataError(
            f"{entry.model_id} is not promoted: {evidence['verdict']}: {evidence['detail']} "
            "(--force --reason TEXT promotes all the same)"
        )
    return evidence


def rollback(store: Store | None, config: Config, actor: str, reason: str = "") -> Promotion:
    """Bring back the production model before the present one. Raises DataError when there is none."""
    registry = open_registry(config)
    present, earlier = registry.production(), registry.before_production()
    if present is None or earlier is None:
        raise DataError("nothing to roll back to: no production model has replaced another")
    path = registry.path(earlier)
    models_door.load(path)
    told = _tell(config, "promote", actor, {"model_id": earlier, "bundle_path": str(path.resolve())})
    registry.record(Event(earlier, "rollback", time.time_ns() // 1_000_000, actor, reason))
    _store_states(store, registry, earlier, present.model_id)
    return Promotion(earlier, str(path), present.model_id, False, told, {})


def _tell(config: Config, verb: str, actor: str, args: dict[str, Any]) -> str:
    """Send one command; a refusal raises, an engine that is not there is only reported."""
    try:
        answer = command(config.data_dir, verb, actor=actor, args=args, command_id=secrets.token_hex(16))
    except ConnectionError:
        return "no engine runs: it serves from its next start"
    if not answer.get("ok"):
        raise DataError(f"the engine refused: {answer.get('error')}")
    return "swapped"


def _compile_in_background(config: Config, bundle: Path) -> None:
    """Start gcc at the lowest priority; an engine that is to use tl2cgen switches once it is done.

    It outlives this process, so its session is its own, and that yields to every other: niceness alone would not to an
    engine in another terminal.
    """
    if (bundle / COMPILED_FOLDER).is_dir() or shutil.which(COMPILER) is None:
        return
    log = config.data_dir / "logs" / "tl2cgen.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "engine.model.building", str(bundle.resolve()), str(config.data_dir.resolve())]
    with open(log, "ab") as out:
        nothing = subprocess.DEVNULL
        built = subprocess.Popen(
            ["nice", "-n", str(LOWEST), *line], stdin=nothing, stdout=out, stderr=out, start_new_session=True
        )
    lower_session(built.pid, LOWEST)


def _store_states(store: Store | None, registry: Registry, *model_ids: str) -> None:
    if store is not None:
        for model_id in model_ids:
            if model_id:
                store_model(store, registry, model_id)
