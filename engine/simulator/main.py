"""The simulator as a program."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import orjson
import uvloop

from engine.errors import ConfigError, DataError
from engine.simulator.exchange import Exchange
from engine.simulator.options import Options, parse
from engine.simulator.server import Server
from engine.simulator.warm import warm


async def serve(options: Options, ready: Any = None) -> None:
    """Serve until SIGTERM or SIGINT; `ready(facts)` is called once with the ports and market times."""
    exchange = Exchange(options)
    server = Server(exchange)
    server.bind()
    warm(exchange)
    await server.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    scheme = ("https", "wss") if options.tls_cert else ("http", "ws")
    facts = {
        "event": "ready",
        "port": server.port,
        "stream_port": server.stream_port,
        "admin_port": server.admin_port,
        "rest_url": f"{scheme[0]}://{options.host}:{server.port}",
        "stream_url": f"{scheme[1]}://{options.host}:{server.stream_port}",
        "ws_api_url": f"{scheme[1]}://{options.host}:{server.port}/ws-fapi/v1",
        **({"tls_cert": str(options.tls_cert)} if options.tls_cert else {}),
        **exchange.summary(),
    }
    if ready is not None:
        ready(facts)
    running, waiting = server.market_task, asyncio.create_task(stop.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    failed = running.done()
    await server.stop()
    if failed:
        running.result()  # the market has stopped by a mistake of ours: say so and end


def _print_ready(facts: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    sys.stdout.flush()


def run(options: Options) -> None:
    """Serve until a signal, printing the line of facts when ready. Raises ConfigError or DataError before that."""
    uvloop.run(serve(options, _print_ready))


def main(argv: list[str]) -> int:
    """Run the simulator; returns the exit code. A refused option is one message and code 2."""
    try:
        run(parse(argv))
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
