"""What the simulator is told at start."""

from __future__ import annotations

import argparse
import atexit
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import ConfigError
from engine.simulator.certificate import make_certificate

HISTORY_DAYS = 61
AHEAD_DAYS = 30


@dataclass(frozen=True)
class AccountOption:
    """`KEY:SECRET[:USDT]`."""

    key: str
    secret: str = field(repr=False)
    balance_usdt: int = 10_000


@dataclass(frozen=True)
class Options:
    """Everything that can be asked of a simulator; defaults are the demonstration's."""

    host: str = "127.0.0.1"
    port: int = 7201
    data: Path | None = None
    symbols: list[str] | None = None
    symbol_count: int = 4
    seed: int = 7
    edge: float = 1.0
    speed: float = 60.0
    clock: str = "replay"
    start_ms: int | None = None
    history_days: float | None = None
    ahead_days: float = AHEAD_DAYS
    minutes: int | None = None
    hold: bool = False
    updates: int | None = None
    books: int | None = None
    weight_limit: int | None = None
    profile: str = "production"
    accounts: tuple[AccountOption, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()  # (key, key of its account)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    admin_port: int | None = None
    scenario: Path | None = None
    latency: float = 1.0
    quiet: bool = False
    frames: Path | None = None


def parse_account(text: str) -> AccountOption:
    """Parse KEY:SECRET[:USDT]; a secret `@FILE` names the PEM file of an RSA or Ed25519 public key."""
    key, _, rest = text.partition(":")
    secret, _, balance = rest.partition(":")
    if secret.startswith("@"):
        try:
            secret = Path(secret[1:]).read_text()
        except OSError as error:
            raise ConfigError([f"--account: {error}"]) from error
    if not key or not secret or (balance and not balance.isdigit()):
        raise ConfigError(["--account: expected KEY:SECRET or KEY:SECRET:USDT with a whole number of USDT"])
    return AccountOption(key, secret, int(balance or 10_000))


def parse_key(text: str) -> tuple[str, str]:
    """Parse KEY:ACCOUNT, another key of the account that ACCOUNT is a key of."""
    key, _, account = text.partition(":")
    if not key or not account or ":" in account:
        raise ConfigError(["--key: expected KEY:ACCOUNT, the second being the key of an --account"])
    return key, account


def self_signed() -> tuple[Path, Path]:
    """Return a new self-signed certificate and key, removed when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="ta-simulator-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_certificate(folder)


def parse(argv: list[str]) -> Options:
    """Parse the command line of `python -m engine.simulator`. Raises ConfigError with every fault."""
    parser = argparse.ArgumentParser(prog="python -m engine.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7201, help="REST and WS API; streams on the next one; 0: any two")
    parser.add_argument("--data", type=Path, help="folder of bar files <SYMBOL>.1m; without it a generated market")
    parser.add_argument("--frames", type=Path, help="recorded frames, replayed verbatim over a generated market")
    parser.add_argument("--symbols", help="comma-separated; default: all in --data, or the first --symbol-count")
    parser.add_argument("--symbol-count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--edge", type=float, default=1.0, help="strength of the learnable component; 0: none")
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--clock", choices=("wall", "replay"), help="default: wall with --account, else replay")
    parser.add_argument("--start-ms", type=int, help="market time at which the replay begins; before it is history")
    parser.add_argument("--history-days", type=float, help="history before the replay begins")
    parser.add_argument("--ahead-days", type=float, default=AHEAD_DAYS, help="generated days after the start")
    parser.add_argument("--minutes", type=int, help="halt the market clock after this many minutes, keep serving")
    parser.add_argument("--hold", action="store_true", help="the clock starts when a client listens to a market stream")
    parser.add_argument("--updates", type=int, help="kline and trade updates per symbol and minute, at most 240")
    parser.add_argument("--books", type=int, help="bookTicker updates per symbol and minute, at most 1,200")
    parser.add_argument("--weight-limit", type=int, help="request weight per minute; default 2400, replay: 1000000")
    parser.add_argument("--profile", choices=("production", "demo"), default="production")
    parser.add_argument("--account", action="append", default=[], metavar="KEY:SECRET[:USDT]")
    parser.add_argument("--key", action="append", default=[], metavar="KEY:ACCOUNT", help="another key of an account")
    parser.add_argument("--tls", action="store_true", help="https and wss; without --tls-cert by a self-signed one")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--admin-port", type=int, help="fault injection; off by default")
    parser.add_argument("--scenario", type=Path, help="a JSON file of faults and when they begin")
    parser.add_argument("--latency", type=float, default=1.0, help="scale of all internal delays of the exchange")
    parser.add_argument("--quiet", action="store_true", help="no progress on the error stream")
    values = vars(parser.parse_args(argv))
    accounts = tuple(parse_account(text) for text in values.pop("account"))
    keys = tuple(parse_key(text) for text in values.pop("key"))
    names = values.pop("symbols")
    if values.pop("tls") and not (values["tls_cert"] or values["tls_key"]):
        values["tls_cert"], values["tls_key"] = self_signed()
    values["clock"] = values["clock"] or ("wall" if accounts else "replay")
    options = Options(
        accounts=accounts,
        keys=keys,
        symbols=[name.strip().upper() for name in names.split(",")] if names else None,
        **values,
    )
    check(options)
    return options


def check(options: Options) -> None:
    """Refuse what cannot be meant; every fault at once."""
    faults = []
    if not 0 <= options.port <= 65_534:
        faults.append(f"--port: expected 0…65534, got {options.port}")
    if not 0 < options.speed <= 100_000:
        faults.append(f"--speed: expected more than 0, at most 100000, got {options.speed}")
    if options.updates is not None and not 1 <= options.updates <= 240:
        faults.append(f"--updates: expected 1…240, got {options.updates}")
    if options.books is not None and not 1 <= options.books <= 1_200:
        faults.append(f"--books: expected 1…1200, got {options.books}")
    if options.data is not None and not options.data.is_dir():
        faults.append(f"--data: {options.data}: no such folder")
    if options.frames is not None and (options.data is not None or options.clock == "wall"):
        faults.append("--frames: only with --clock replay and without --data")
    if options.frames is not None and not options.frames.is_file():
        faults.append(f"--frames: {options.frames}: no such file")
    if not 1 <= options.symbol_count <= 1_023:
        faults.append(f"--symbol-count: expected 1…1023, got {options.symbol_count}")
    if bool(options.tls_cert) != bool(options.tls_key):
        faults.append("--tls-cert and --tls-key: both or neither")
    if options.clock == "wall" and options.speed != 1.0 and options.speed != 60.0:
        faults.append("--speed: the wall clock runs at speed 1")
    if len({account.key for account in options.accounts}) < len(options.accounts):
        faults.append("--account: two accounts have the same key")
    named = {account.key for account in options.accounts}
    faults += [f"--key: no --account has the key {account}" for _, account in options.keys if account not in named]
    faults += [f"--key: {key} is an account's key already" for key, _ in options.keys if key in named]
    if faults:
        raise ConfigError(faults)
