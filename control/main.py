"""Build and run the control process: the one place that makes its objects."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from litestar import Litestar

from control import logs, priority
from control.alerts import apprise_notifier
from control.app import create_app
from control.auth import CookieSigner, TokenBook, now_ms
from control.commands import Commands
from control.door import LinkedEngine
from control.gate import Gate
from control.jobs import models
from control.jobs.promotion import promotion
from control.jobs.runner import JobRunner
from control.keeper import Keeper
from control.live import Hub
from control.reader import StoreReader
from control.services import Services
from control.store_health import StoreHealth
from engine.config import Config
from engine.errors import ConfigError
from store import writer
from store.client import connect

ADDRESS_FILE = "control.json"
logger = structlog.get_logger("control")


def check_bind(config: Config) -> None:
    """Refuse an address that others can reach unless TLS or a proxy protects the tokens. Raises ConfigError."""
    control = config.control
    faults = []
    if bool(control.tls_cert) != bool(control.tls_key):
        faults.append("control.tls_cert and control.tls_key: both or neither")
    for key, name in (("tls_cert", control.tls_cert), ("tls_key", control.tls_key)):
        if name and not Path(name).is_file():
            faults.append(f"control.{key}: no such file: {name}")
    if not (is_loopback(control.host) or control.tls_cert or control.behind_proxy):
        faults.append(
            f"control.host: {control.host} can be reached by others and tokens would travel in clear text; "
            "set control.tls_cert and control.tls_key, or say --behind-proxy if a proxy in front terminates TLS"
        )
    if faults:
        raise ConfigError(faults)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError when the port is taken or the address not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        why = f"cannot listen on {host}:{port}: {error.strerror}; TA_CONTROL__PORT says another port"
        raise ConfigError([f"control.host, control.port: {why}"]) from error
    opened.listen(256)
    return opened


def build(config: Config, config_file: Path | None = None) -> tuple[Services, Keeper]:
    """Make everything of the control plane; nothing runs yet but worker threads' pools."""
    data_dir = config.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    store = connect(config.store.url, data_dir, retention_days=config.store.retention_days)
    kind = "embedded" if config.store.url == "embedded" else "server"
    health = StoreHealth(kind=kind)
    engine = LinkedEngine(data_dir)
    gate = Gate(TokenBook(data_dir / "tokens.json"), CookieSigner(data_dir / "cookie.key"), config.control.behind_proxy)
    reader = StoreReader(store)
    hub = Hub()
    runner = JobRunner(
        data_dir,
        config_file,
        lambda row: writer.insert_row(store, "training_jobs", row),
        lambda job: hub.publish("jobs", job, now_ms()),
    )
    services = Services(
        config=config,
        engine=engine,
        reader=reader,
        gate=gate,
        commands=Commands(engine),
        jobs=runner,
        promote=lambda model, actor, force, reason: promotion(runner, model, actor, force, reason),
        rollback=lambda actor, reason: asdict(models.rollback(store, config, actor, reason)),
        store=health,
        hub=hub,
        started_ms=now_ms(),
    )
    return services, Keeper(store, config, health)


class _Server(uvicorn.Server):
    """uvicorn raises a caught signal again after its shutdown, which would end the process before the store closes."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.handle_exit)
        yield


def serve(config: Config, config_file: Path | None = None) -> None:
    """Serve the API and the dashboard, own the store, follow the journal; returns after SIGTERM or Ctrl-C.

    Raises ConfigError for an address that may not be used or a port that is taken.
    """
    check_bind(config)
    priority.for_requests(config.cpu)
    opened = listen(config.control.host, config.control.port)
    logs.configure()
    try:
        notify = apprise_notifier(config)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    services, keeper = build(config, config_file)
    scheme = "https" if config.control.tls_cert else "http"
    host, port = opened.getsockname()[:2]
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    address = config.data_dir / ADDRESS_FILE
    address.write_text(json.dumps({"pid": os.getpid(), "url": url}))
    logger.info("control serves", url=url, schema=f"{url}/schema", data_dir=str(config.data_dir))
    keeper.start()
    app = create_app(services, notify)
    gc.collect()
    gc.freeze()  # a full collection over everything imported would hold every request for a tenth of a second
    try:
        _Server(_server_config(app, config)).run(sockets=[opened])
    finally:
        keeper.stop()
        address.unlink(missing_ok=True)


def _server_config(app: Litestar, config: Config) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if config.control.tls_cert:
        tls = {"ssl_certfile": config.control.tls_cert, "ssl_keyfile": config.control.tls_key}
    return uvicorn.Config(
        app,
        loop="uvloop",
        ws="websockets-sansio",  # said, not left to what happens to be installed: /api/live must not silently be absent
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=16 << 10,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 << 10,
        **tls,
    )
