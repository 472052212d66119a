"""A store as 600 symbols leave it (candles and signals of two days, an account of a week), written by SQL alone."""

from __future__ import annotations

from benchmarks.path_rig import START_MS
from store.client import Store

SYMBOLS = 600
CANDLES = 2_880  # per symbol: two days of minutes
SIGNALS = 2_000_000
ACCOUNT = 600_000  # a week, one a second
TRADES, ORDERS, FILLS = 20_000, 100_000, 60_000
RUN = "77"

_NAME = "if({n} % 600 = 0, 'BTCUSDT', concat('SYM', leftPad(toString({n} % 600), 3, '0'), 'USDT'))"
_HEAD = f"'main' AS engine_id, '{RUN}' AS run_id, number + 1 AS seq"


def _at(ms: str) -> str:
    return f"fromUnixTimestamp64Milli(toInt64({ms}), 'UTC')"


def seed(store: Store) -> None:
    """Fill candles, signals, account, trades, orders, fills, latency and gaps up to START_MS."""
    name = _NAME.format(n="number")
    minute = f"{START_MS} - 60000 * (1 + intDiv(number, {SYMBOLS}))"
    _fill(
        store, "candles_1m", SYMBOLS * CANDLES,
        f"{name} AS symbol, {_at(minute)} AS open_time, 100 + rand(1) % 100 / 100 AS open, open + 0.5 AS high, "
        "open - 0.5 AS low, open + 0.1 AS close, 10.0 AS volume, 1000.0 AS quote_volume, 'ws' AS source, 1 AS version",
    )  # fmt: skip
    per = 604_800_000  # a week
    time = {
        count: _at(f"{START_MS} - {per} + intDiv(number * {per}, {count})")
        for count in (ACCOUNT, TRADES, ORDERS, FILLS)
    }
    decided = _at(f"{START_MS} - 60000 * intDiv({SIGNALS} - number, {SYMBOLS})")  # one a minute of each symbol
    _fill(
        store, "signals", SIGNALS,
        f"{_HEAD}, {decided} AS time, {name} AS symbol, time AS decision_time, 8 + rand(2) % 3 * 16 AS gates, "
        "rand(3) / 1e13 AS er_long, rand(4) / 1e13 AS er_short, 100.1 AS close, 'm1' AS model_id",
    )  # fmt: skip
    _fill(
        store, "account", ACCOUNT,
        f"{_HEAD}, {time[ACCOUNT]} AS time, 10000 + sin(number / 9000) * 300 AS equity_usdt, "
        "cos(number / 9000) * 40 AS day_pnl_usdt",
    )  # fmt: skip
    _fill(
        store, "trades", TRADES,
        f"{_HEAD}, {time[TRADES]} AS time, {name} AS symbol, time AS closed_time, time - 600 AS opened_time, "
        "if(number % 2 = 0, 'long', 'short') AS side, ['tp', 'sl', 'time'][1 + rand(5) % 3] AS reason, 1.5 AS qty, "
        "100.0 AS entry_price, 100.4 AS exit_price, rand(6) % 80 - 38.5 AS net_usdt, 1.2 AS fees_usdt, "
        "'m1' AS model_id",
    )  # fmt: skip
    for table, count in (("orders", ORDERS), ("fills", FILLS)):
        _fill(
            store, table, count,
            f"{_HEAD}, {time[count]} AS time, {name} AS symbol, concat('ta-main-77-', toString(number), '-e') AS "
            "client_order_id, 1.5 AS qty, 100.0 AS price",
        )  # fmt: skip
    _fill(store, "data_gaps", 5_000, f"{_HEAD}, {_at(f'{START_MS} - number * 60000')} AS time, {name} AS symbol")
    _fill(store, "commands", 500, f"{_HEAD}, {_at(f'{START_MS} - number * 60000')} AS time, 'start' AS verb")


def _fill(store: Store, table: str, count: int, select: str) -> None:
    columns = [part.rsplit(" AS ", 1)[1].strip() for part in _parts(select)]
    store.command(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {select} FROM numbers({count}) "
        "SETTINGS max_block_size = 500000, min_insert_block_size_rows = 500000"
    )


def _parts(select: str) -> list[str]:
    """Split a select list at its top-level commas."""
    parts, depth, begin = [], 0, 0
    for index, char in enumerate(select):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(select[begin:index])
            begin = index + 1
    return [*parts, select[begin:]]
