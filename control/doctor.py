"""What `ta doctor` looks at: each check gives one line, ok, warn or fail, and says what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.link import SnapshotReader
from engine.market.routes import addresses
from kernels.records import TIMEFRAME_MS, TIMEFRAMES
from store import agreement, migrations, owner, queries
from store.client import DATABASE, Store, connect
from store.ddl import Layout
from store.errors import StoreError
from store.schema import tables

TIMEOUT_S = 5.0
SKEW_WARN_MS, SKEW_FAIL_MS = 250, 1_000  # signed requests are refused when the clock is a second ahead
CLOCK_TRIES = 5
REPLAY_MS = 3_600_000  # no machine is so wrong: a simulator replays
FREE_WARN_BYTES, FREE_SEGMENTS = 5 << 30, 4
STALE_S = 300.0


@dataclass(frozen=True)
class Line:
    """One finding. `state` is ok, warn or fail; `remedy` says what to do unless it is ok."""

    check: str
    state: str
    detail: str
    remedy: str = ""


def examine(config: Config) -> Iterator[Line]:
    """Yield the lines, cheap checks first. A check that breaks is a failed line, never an exception."""
    store = connect(config.store.url, config.data_dir, retention_days=config.store.retention_days)
    checks: list[tuple[str, Callable[[], list[Line]]]] = [
        ("permissions", lambda: permissions(config)),
        ("disk", lambda: disk(config)),
        ("ports", lambda: ports(config)),
        ("exchange", lambda: exchange(config)),
        ("engine", lambda: engine(config)),
        ("store", lambda: reach(store)),
        ("schema", lambda: schema(store, config)),
        ("journal", lambda: journal(store, config)),
        ("candles", lambda: candles(store, config)),
        ("model", lambda: model(config)),
    ]
    try:
        for name, check in checks:
            try:
                yield from check()
            except StoreError as error:
                yield Line(name, "fail", str(error).splitlines()[0][:300], "see the line `store`")
            except Exception as error:  # one broken check must not hide the others
                yield Line(name, "fail", f"{type(error).__name__}: {error}", "report this with the version and the log")
    finally:
        store.close()


def permissions(config: Config) -> list[Line]:
    """Can the data folder be written, and are the secrets in it private?"""
    folder = config.data_dir
    probe = folder / f".doctor-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return [
            Line("permissions", "fail", f"{folder}: {error.strerror}", "give this user the folder, or use --data-dir")
        ]
    private = [
        folder / "tokens.json",
        folder / "cookie.key",
        folder / "store" / "front.json",
        folder / "store" / "owner.json",
    ]
    open_files = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_files:
        names = " ".join(str(path) for path in open_files)
        return [Line("permissions", "fail", f"readable by others: {names}", f"chmod 600 {names}")]
    return [Line("permissions", "ok", f"{folder} can be written, its secrets are private")]


def disk(config: Config) -> list[Line]:
    """Is there room for the next journal segments and the store's merges?"""
    usage = shutil.disk_usage(config.data_dir)
    need = FREE_SEGMENTS * config.journal.segment_mib << 20
    text = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f}"
    if usage.free < need:
        return [
            Line(
                "disk",
                "fail",
                text,
                f"free {need >> 20} MiB: the journal needs its next segments, entries stop without",
            )
        ]
    if usage.free < FREE_WARN_BYTES:
        return [Line("disk", "warn", text, "free space, or set store.retention_days")]
    return [Line("disk", "ok", text)]


def ports(config: Config) -> list[Line]:
    """Is control's port free, or taken by our own control process?"""
    host, port = config.control.host, config.control.port
    file = config.data_dir / "control.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if known and Path(f"/proc/{known['pid']}").exists():
        if _get(f"{known['url']}/healthz") is not None:
            return [Line("ports", "ok", f"control answers at {known['url']}")]
        return [Line("ports", "fail", f"control (pid {known['pid']}) does not answer at {known['url']}", "restart it")]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return [Line("ports", "fail", f"{host}:{port}: {error.strerror}", "stop what uses it, or set control.port")]
    return [Line("ports", "ok", f"{host}:{port} is free")]


def exchange(config: Config) -> list[Line]:
    """Does the exchange answer, and does its clock agree with ours?"""
    base = addresses(config).rest_url
    found = _server_time(f"{base}/fapi/v1/time")
    if found is None:
        return [
            Line(
                "exchange",
                "fail",
                f"{base} does not answer",
                "network, proxy or exchange.rest_url; `ta simulator` for sim",
            ),
            Line("clock", "warn", "not compared: the exchange does not answer", "see the line `exchange`"),
        ]
    server_ms, before, after = found
    lines = [Line("exchange", "ok", f"{base} answers in {(after - before) * 1e3:.0f} ms")]
    if config.exchange.clock == "replay":
        return [*lines, Line("clock", "ok", "replay: the simulator's market time is the clock")]
    skew = server_ms - (before + after) / 2 * 1e3
    if config.exchange.name == "sim" and abs(skew) >= REPLAY_MS:
        text, remedy = f"the simulator's market is {skew / 8.64e7:+.0f} days away", 'set exchange.clock = "replay"'
        return [*lines, Line("clock", "fail", text, f"{remedy}; for live mode start it on the wall clock (--account)")]
    text = f"exchange is {skew:+.0f} ms from this machine (± {(after - before) * 500:.0f})"
    if abs(skew) >= SKEW_FAIL_MS:
        return [*lines, Line("clock", "fail", text, "set the clock by NTP; signed requests would be refused")]
    return [*lines, Line("clock", "warn" if abs(skew) >= SKEW_WARN_MS else "ok", text, "set the clock by NTP")]


def engine(config: Config) -> list[Line]:
    """Is the engine there, and does it use one journal layout with this release?"""
    view = SnapshotReader(config.data_dir).read()
    if view is None or not view.alive:
        return [Line("engine", "warn", "no engine runs on this data folder", "`ta up` or `ta engine` starts it")]
    status = view.status[0]
    text = f"run {int(status['run_id'])}, pid {int(status['pid'])}, {int(status['frames'])} frames"
    if int(status["journal_full"]):
        return [Line("engine", "fail", f"{text}; the journal has no room", "free disk space: entries are stopped")]
    if int(status["compilations"]):
        return [Line("engine", "warn", f"{text}; {int(status['compilations'])} compilations while live", "report this")]
    return [Line("engine", "ok", text)]


def reach(store: Store) -> list[Line]:
    """Does the store answer, and how fast?"""
    store.scalar("SELECT 1")
    began = time.perf_counter()
    version = store.scalar("SELECT version()")
    took = (time.perf_counter() - began) * 1e3
    size = store.scalar(f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{DATABASE}'") or 0
    return [Line("store", "ok", f"ClickHouse {version} answers in {took:.1f} ms, {int(size) / (1 << 20):.1f} MiB")]


def schema(store: Store, config: Config) -> list[Line]:
    """Is every table there with every column, and recorded as this release's?"""
    present = {
        (str(t), str(c))
        for t, c in store.rows("SELECT table, name FROM system.columns WHERE database = currentDatabase()")
    }
    missing = [f"{t.name}.{c.name}" for t in tables().values() for c in t.columns if (t.name, c.name) not in present]
    if missing:
        return [
            Line(
                "schema",
                "fail",
                f"missing: {', '.join(missing[:5])}",
                "open the store once with this release's `ta sql`",
            )
        ]
    wanted = migrations.schema_hash(Layout(DATABASE, "", config.store.retention_days))
    newest = store.scalar("SELECT schema_hash FROM schema_migrations ORDER BY applied_time DESC, step DESC LIMIT 1")
    if config.store.url == "embedded" and newest != wanted:
        return [Line("schema", "warn", "another release has changed it since", "use one release per data folder")]
    return [Line("schema", "ok", f"{len(tables())} tables as this release expects")]


def journal(store: Store, config: Config) -> list[Line]:
    """Is what the journal holds in the store?"""
    folder = config.data_dir / "journal"
    if not any(folder.glob("*.seg")):
        return [Line("journal", "ok", "no segments yet")]
    faults = agreement.faults(store, folder)
    if not faults:
        return [Line("journal", "ok", "the store has every record of the segments that are left")]
    running = owner.read_owner(config.data_dir) is not None and (config.data_dir / "control.json").exists()
    remedy = (
        "look again in a few seconds: control is following" if running else "start `ta control`: it follows the journal"
    )
    return [Line("journal", "warn", f"{len(faults)} tables behind: {faults[0]}", remedy)]


def candles(store: Store, config: Config) -> list[Line]:
    """Are there candles for every symbol, without holes, and fresh while an engine runs?"""
    lines = []
    frame = queries.coverage(store)
    have = {row["symbol"]: row for row in frame.to_dicts()}
    absent = [symbol for symbol in config.market.symbols if symbol not in have]
    if absent:
        lines.append(Line("candles", "warn", f"none of {', '.join(absent[:8])}", "`ta collect` or `ta import`"))
    holes = {symbol: row["missing"] for symbol, row in have.items() if row["missing"]}
    if holes:
        worst = max(holes, key=lambda symbol: holes[symbol])
        detail = f"{sum(holes.values())} 1m candles missing in {len(holes)} symbols, most in {worst} ({holes[worst]})"
        lines.append(
            Line("gaps", "warn", detail, "`ta collect` fetches them; `SELECT * FROM v_completeness` shows the days")
        )
    elif have:
        span = int(frame["bars"].sum()) * TIMEFRAME_MS[0] / 86_400_000
        lines.append(
            Line("gaps", "ok", f"{len(have)} symbols, {span:.1f} symbol-days of {TIMEFRAMES[0]} candles without a hole")
        )
    return lines


def model(config: Config) -> list[Line]:
    """Is there a model in production, whole and of this feature schema?"""
    from engine.model.registry import open_registry
    from kernels.schema import SCHEMA_HASH

    entry = open_registry(config).production()
    if entry is None:
        return [
            Line(
                "model",
                "warn",
                "none is in production: the engine refuses every entry",
                "`ta train`, `ta models promote`",
            )
        ]
    path = open_registry(config).path(entry.model_id)
    manifest = json.loads((path / "manifest.json").read_text())
    told = manifest.get("schema_hash")
    if told is not None and int(told) != SCHEMA_HASH:
        return [
            Line("model", "fail", f"{entry.model_id} was trained on another feature schema", "train again: `ta train`")
        ]
    return [Line("model", "ok", f"{entry.model_id} is in production, for this feature schema")]


def _server_time(url: str) -> tuple[int, float, float] | None:
    """Return the exchange's time in ms and when it was asked and answered, in s: of the quickest of some answers.

    What a busy machine or line held up says little about a clock.
    """
    best: tuple[int, float, float] | None = None
    for _ in range(CLOCK_TRIES):
        before = time.time()
        reply = _get(url)
        after = time.time()
        if reply is None:
            break
        if best is None or after - before < best[2] - best[1]:
            best = json.loads(reply)["serverTime"], before, after
        if (after - before) * 1e3 < SKEW_WARN_MS / 5:
            break
    return best


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
            return bytes(reply.read(1 << 16))
    except (OSError, urllib.error.URLError, ValueError):
        return None
