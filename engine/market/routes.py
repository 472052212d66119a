"""Where market data lives: the exchange's addresses, the names of streams, which stream goes on which connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from engine.config import Config
from kernels.records import TIMEFRAMES

MAX_STREAMS_PER_CONNECTION = 1_024  # the exchange's limit since 2025-07
KINDS: tuple[str, ...] = ("kline_1m", "kline_15m", "kline_1h", "markPrice@1s", "bookTicker")
MARK_KIND = KINDS.index("markPrice@1s")
BOOK_KIND = KINDS.index("bookTicker")
PUBLIC, MARKET = "public", "market"
PAPER = "shadow"  # the account of every shadow run
ROUTE_OF_KIND: tuple[str, ...] = (MARKET, MARKET, MARKET, MARKET, PUBLIC)

if KINDS[: len(TIMEFRAMES)] != tuple(f"kline_{name}" for name in TIMEFRAMES):
    raise ValueError("the kline kinds must be the timeframes in their order")


@dataclass(frozen=True)
class Addresses:
    """Base addresses without a trailing slash; the stream routes are `<stream_url>/public` and so on."""

    rest_url: str
    stream_url: str
    ws_api_url: str


NAMED = {
    "binance": Addresses(
        "https://fapi.binance.com", "wss://fstream.binance.com", "wss://ws-fapi.binance.com/ws-fapi/v1"
    ),
    "demo": Addresses(
        "https://demo-fapi.binance.com",
        "wss://demo-fstream.binance.com",
        "wss://testnet.binancefuture.com/ws-fapi/v1",
    ),
}


def addresses(config: Config) -> Addresses:
    """Return the addresses of the configured exchange; a configured URL wins over the named one."""
    chosen, port = config.exchange, config.simulator.port
    simulated = Addresses(f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port + 1}", f"ws://127.0.0.1:{port}/ws-fapi/v1")
    named = NAMED.get(chosen.name, simulated)
    return Addresses(
        (chosen.rest_url or named.rest_url).rstrip("/"),
        (chosen.stream_url or named.stream_url).rstrip("/"),
        (chosen.ws_api_url or named.ws_api_url).rstrip("/"),
    )


def account_of(config: Config, live: bool) -> str:
    """Return whose money a run moves: paper, or that of an account on an exchange. Its keys may change."""
    return f"live on {urlsplit(addresses(config).rest_url).hostname}" if live else PAPER


@dataclass(frozen=True)
class StreamSet:
    """The streams of one connection: its route and the stream numbers (kind × symbols + symbol)."""

    route: str
    streams: tuple[int, ...]


def stream_name(symbol: str, kind: int) -> str:
    """Return the exchange's name of a stream: the symbol lower-cased, the kind as it is."""
    return f"{symbol.lower()}@{KINDS[kind]}"


def stream_number(symbol: int, kind: int, symbols: int) -> int:
    """Return the number of a stream among `symbols` symbols; `decode_number` undoes it."""
    return kind * symbols + symbol


def decode_number(stream: int, symbols: int) -> tuple[int, int]:
    """Return (symbol, kind) of a stream number."""
    kind, symbol = divmod(stream, symbols)
    return symbol, kind


def plan(symbols: Sequence[str], limit: int = MAX_STREAMS_PER_CONNECTION) -> list[StreamSet]:
    """Divide all streams of `symbols` into sets of at most `limit`, one route each.

    The market route is cut by symbol, so that a lost connection costs few symbols all their streams rather than
    every symbol one of them.
    """
    count = len(symbols)
    sets = []
    for route in (PUBLIC, MARKET):
        kinds = [kind for kind, of in enumerate(ROUTE_OF_KIND) if of == route]
        per_set = max(1, limit // len(kinds))
        for first in range(0, count, per_set):
            some = range(first, min(first + per_set, count))
            sets.append(StreamSet(route, tuple(stream_number(s, kind, count) for s in some for kind in kinds)))
    return sets


def socket_url(stream_url: str, route: str) -> str:
    """Return the combined-form address of a route; streams are then subscribed by message.

    Streams are never listed in the address: 1,024 names would be longer than servers accept.
    """
    return f"{stream_url}/{quote(route)}/stream"
