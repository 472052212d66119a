"""The registry: bundles and the log of their states on any fsspec URL (`file://`, `s3://`, …).

    <url>/<model_id>/…                 a bundle exists once its manifest does: it is written last
    <url>/events/<time>-<number>.json  one object per change of state; never rewritten; in order of their numbers

States follow from the events in order: candidate → production → retired. A rollback retires the production model and
brings back the one before it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.errors import DataError
from engine.model.files import check_files
from engine.model.opening import MANIFEST_NAME, read_manifest

MAX_EVENTS = 100_000  # one per publication, promotion, refusal and rollback: a person's lifetime of them
ACTIONS = ("candidate", "production", "refused", "rollback")


@dataclass(frozen=True, slots=True)
class Event:
    """One change: who did what to which model, when and why. `evidence` is what the promotion gate found."""

    model_id: str
    action: str
    time_ms: int
    actor: str
    reason: str = ""
    forced: bool = False
    evidence: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered model as of now; `since_ms`, `actor`, `reason` are those of its last change of state."""

    model_id: str
    state: str
    created_ms: int
    since_ms: int
    actor: str
    reason: str


def open_registry(config: Config) -> Registry:
    """Return the configured registry."""
    url = config.model.registry_url or f"file://{(config.data_dir / 'models').resolve()}"
    return Registry(url, config.data_dir / "cache" / "bundles")


class Registry:
    """Publish, look up and promote bundles. Bundles of a remote registry are copied to `cache` and checked there."""

    def __init__(self, url: str, cache: Path) -> None:
        import fsspec

        self.url = url
        self._cache = cache
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = self._fs.protocol == "file" or "file" in self._fs.protocol

    def publish(self, bundle: Path, actor: str, now_ms: int) -> str:
        """Copy a bundle into the registry as a candidate and return its id. Raises DataError on altered files."""
        check_files(bundle)
        model_id = bundle.name
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._bundle(model_id)}/{MANIFEST_NAME}"):
            raise DataError(f"{model_id}: already in the registry at {self.url}")
        self._fs.makedirs(self._bundle(model_id), exist_ok=True)
        for path in sorted(bundle.iterdir()):
            if path.name != MANIFEST_NAME:
                self._fs.put_file(str(path), f"{self._bundle(model_id)}/{path.name}")
        self._write(f"{self._bundle(model_id)}/{MANIFEST_NAME}", (bundle / MANIFEST_NAME).read_bytes())
        self.record(Event(model_id, "candidate", now_ms, actor))
        return model_id

    def record(self, event: Event) -> None:
        """Append one event."""
        if event.action not in ACTIONS:
            raise DataError(f"registry: expected one of {', '.join(ACTIONS)}, got {event.action!r}")
        body = {name: getattr(event, name) for name in Event.__dataclass_fields__}
        self._fs.makedirs(f"{self._root}/events", exist_ok=True)
        number = len(self._event_names())
        name = f"{event.time_ms:013d}-{number:06d}-{uuid.uuid4().hex[:6]}.json"
        self._write(f"{self._root}/events/{name}", json.dumps(body, indent=1).encode())

    def events(self) -> list[Event]:
        """Return all events in order."""
        names = self._event_names()
        if len(names) > MAX_EVENTS:
            raise DataError(f"{self.url}: {len(names)} events, expected at most {MAX_EVENTS}")
        return [Event(**json.loads(self._fs.cat_file(name))) for name in names]

    def _event_names(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(f"{self._root}/events", detail=False)
        except FileNotFoundError:  # an object store has no empty folders
            return []
        return sorted((str(name) for name in found if str(name).endswith(".json")), key=_place)

    def entries(self) -> list[Entry]:
        """Return every registered model with its state, newest publication first."""
        found: dict[str, Entry] = {}
        stack: list[str] = []

        def mark(model_id: str, state: str, event: Event) -> None:
            created = found[model_id].created_ms if model_id in found else event.time_ms
            found[model_id] = Entry(model_id, state, created, event.time_ms, event.actor, event.reason)

        for event in self.events():
            if event.action == "candidate":
                mark(event.model_id, "candidate", event)
            elif event.action == "production" and (not stack or stack[-1] != event.model_id):
                if stack:
                    mark(stack[-1], "retired", event)
                stack.append(event.model_id)
                mark(event.model_id, "production", event)
            elif event.action == "rollback" and len(stack) > 1:
                mark(stack.pop(), "retired", event)
                mark(stack[-1], "production", event)
        return sorted(found.values(), key=lambda entry: (entry.created_ms, entry.model_id), reverse=True)

    def entry(self, model_id: str) -> Entry:
        """Return one model; an unambiguous beginning of its id is enough."""
        matches = [entry for entry in self.entries() if entry.model_id.startswith(model_id)]
        exact = [entry for entry in matches if entry.model_id == model_id]
        if len(exact or matches) != 1:
            known = ", ".join(entry.model_id for entry in (matches or self.entries())[:5]) or "none"
            raise DataError(f"model {model_id!r}: expected one registered model, found {len(matches)} (known: {known})")
        return (exact or matches)[0]

    def production(self) -> Entry | None:
        """Return the model in production."""
        return next((entry for entry in self.entries() if entry.state == "production"), None)

    def before_production(self) -> str | None:
        """Return the id that a rollback would bring back."""
        stack: list[str] = []
        for event in self.events():
            if event.action == "production" and (not stack or stack[-1] != event.model_id):
                stack.append(event.model_id)
            elif event.action == "rollback" and len(stack) > 1:
                stack.pop()
        return stack[-2] if len(stack) > 1 else None

    def path(self, model_id: str) -> Path:
        """Return a local folder with the bundle, its files checked against the manifest's hashes."""
        if self._local:
            folder = Path(self._bundle(model_id))
            check_files(folder)
            return folder
        folder = self._cache / model_id
        if not folder.is_dir():
            self._copy_here(model_id, folder)
        try:
            check_files(folder)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)  # the next try copies it anew
            raise
        return folder

    def _copy_here(self, model_id: str, folder: Path) -> None:
        partial = folder.with_name(f".{model_id}.{uuid.uuid4().hex[:6]}")
        partial.mkdir(parents=True)
        try:
            self._fs.invalidate_cache()
            for name in self._fs.ls(self._bundle(model_id), detail=False):
                self._fs.get_file(name, str(partial / str(name).rsplit("/", 1)[-1]))
            with contextlib.suppress(OSError):  # another process was quicker: its copy is as good
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def read(self, model_id: str, name: str) -> bytes:
        """Return one file of a bundle, checked. Raises DataError when the bundle has no such file."""
        path = self.path(model_id) / name
        if name not in read_manifest(path.parent)["files"]:
            raise DataError(f"{model_id}: its bundle holds no {name}")
        return path.read_bytes()

    def _bundle(self, model_id: str) -> str:
        return f"{self._root}/{model_id}"

    def _write(self, path: str, body: bytes) -> None:
        if self._local:  # objects appear whole, files do not: write aside and rename
            self._fs.pipe_file(path + ".new", body)
            Path(path + ".new").rename(path)
        else:
            self._fs.pipe_file(path, body)


def _place(name: str) -> tuple[str, str]:
    """Return what an event is sorted by: how many there were before it, since clocks are set back, then its time."""
    file = name.rsplit("/", 1)[-1]
    return file.split("-")[1], file
