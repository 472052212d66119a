"""The control process over a seeded store and a stand-in engine, for the browser: `python -m tests.control.stage DIR`.

Prints one JSON line with the address and tokens; then reads lines of standard input: `silent`, `blind`,
`alive`, `orders`, `no orders`,
`connected`, `lane down`, `commands`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from control.auth import Scope, TokenBook
from control.main import serve
from engine.config import Config
from kernels.records import BAR, GATES, RECORDS, BarFlag, Kind, Mode, OrderState, Reason, RunState
from kernels.schema import FEATURES, TARGETS
from store import writer
from store.client import Store, connect
from store.schema import tables
from tests.control.fake_engine import SYMBOLS, FakeEngine

MINUTES = 600
PRICES = (50_000.0, 2_500.0, 100.0)


def insert(store: Store, name: str, records: np.ndarray) -> None:
    """Store journal records as the tail would."""
    columns, block = writer.record_block(
        tables()[name], records, engine_id="main", run_id="77", symbols=SYMBOLS, extra={}
    )
    store.insert_block(name, columns, block)


def candles(store: Store, now_ms: int) -> None:
    """Store a seeded walk of each symbol up to now."""
    rng = np.random.default_rng(7)
    for symbol, price in zip(SYMBOLS, PRICES, strict=True):
        bars = np.zeros(MINUTES, BAR)
        close = price * np.exp(np.cumsum(rng.normal(0, 4e-4, MINUTES)[::-1])[::-1] * -1)
        bars["open_ms"] = now_ms // 60_000 * 60_000 - 60_000 * np.arange(MINUTES, 0, -1)
        bars["close"], bars["open"] = close, np.concatenate([close[:1], close[:-1]])
        bars["high"] = np.maximum(bars["open"], close) * (1 + rng.uniform(0, 4e-4, MINUTES))
        bars["low"] = np.minimum(bars["open"], close) * (1 - rng.uniform(0, 4e-4, MINUTES))
        bars["volume"], bars["flags"] = rng.uniform(1, 10, MINUTES), BarFlag.FILE
        bars["quote_volume"] = bars["volume"] * close
        writer.insert_bars(store, symbol, 0, bars, "test")


def history(store: Store, now_ms: int) -> None:
    """Store trades, signals, account and a command."""
    rng = np.random.default_rng(8)
    count = 130
    trades = np.zeros(count, RECORDS[Kind.TRADE])
    trades["seq"], trades["symbol"] = np.arange(1, count + 1), np.arange(count) % 3
    trades["closed_ms"] = now_ms - 60_000 * 4 * np.arange(count, 0, -1)
    trades["opened_ms"] = trades["closed_ms"] - 11 * 60_000
    trades["side"], trades["mode"] = np.where(np.arange(count) % 2, 1, -1), Mode.SHADOW
    trades["reason"] = rng.choice([Reason.TP, Reason.SL, Reason.TIME], count, p=[0.42, 0.53, 0.05])
    trades["entry_price"] = np.array(PRICES)[np.arange(count) % 3]
    trades["exit_price"], trades["qty"] = trades["entry_price"] * 1.001, 0.5
    trades["net_usdt"], trades["fees_usdt"] = np.where(trades["reason"] == Reason.TP, 31.4, -22.5), 1.9
    trades["model_id"] = b"20261122T120000-abcdef01"
    insert(store, "trades", trades)
    signals = np.zeros(count, RECORDS[Kind.SIGNAL])
    signals["seq"], signals["symbol"] = 1_000 + np.arange(count), np.arange(count) % 3
    signals["decision_ms"] = now_ms - 60_000 * np.arange(count, 0, -1)
    signals["gates"] = rng.choice([1 << GATES.index(name) for name in ("er_low", "mae", "spread")], count)
    signals["gates"] |= np.uint64(1 << GATES.index("er_low"))
    signals["predictions"] = rng.normal(-2e-4, 3e-4, (count, 8))
    insert(store, "signals", signals)
    for at, (timeframe, scale) in enumerate((("1m", 1.5), ("15m", 15.0), ("1h", 150.0))):
        vectors = np.zeros(2, RECORDS[Kind.FEATURES])  # that of the newest stored decision, and one after it
        vectors["seq"], vectors["timeframe"] = [40_000 + at, 41_000 + at], at
        vectors["close_ms"], vectors["values"] = [now_ms - 60_000, now_ms], [scale * np.arange(44), np.full(44, 7.0)]
        insert(store, f"features_{timeframe}", vectors)
    account = np.zeros(400, RECORDS[Kind.ACCOUNT])
    account["seq"], account["time_ms"] = 5_000 + np.arange(400), now_ms - 60_000 * np.arange(400, 0, -1)
    account["equity_usdt"] = 10_000 + np.cumsum(rng.normal(0, 6, 400))
    insert(store, "account", account)
    command = np.zeros(1, RECORDS[Kind.COMMAND])
    command["seq"], command["time_ms"], command["verb"], command["actor"] = 9_000, now_ms, b"start", b"ops#0badcafe"
    command["phase"], command["result"] = 1, b"done"
    insert(store, "commands", command)
    for model_id, state in (("20261122T120000-abcdef01", "production"), ("20261122T150000-abcdef02", "candidate")):
        manifest = json.dumps({"symbols": list(SYMBOLS), "rows": 123_456, "independent_labels": 4_321.0})
        row = {"model_id": model_id, "time": now_ms, "state": state, "schema_hash": 1, "backend": "packed"}
        more = {"actor": "cli:ops", "url": "file", "parent_id": "", "manifest": manifest, "version": 1}
        more["metrics"] = json.dumps(metrics(now_ms)) if state == "production" else "{}"
        writer.insert_row(store, "models", row | more)


def orders(store: Store, now_ms: int) -> None:
    """Store 60 orders, each from its intent to its end, every third refused; and a fill of each that filled."""
    steps = (OrderState.INTENT, OrderState.SENT, OrderState.ACKNOWLEDGED, OrderState.FILLED)
    count = 60
    rows = np.zeros(count * len(steps), RECORDS[Kind.ORDER])
    number, step = np.divmod(np.arange(len(rows)), len(steps))
    refused = number % 3 == 2
    rows["seq"], rows["client_order_id"] = 20_000 + np.arange(len(rows)), [f"main-25-{n}-e".encode() for n in number]
    rows["time_ms"] = now_ms - 120_000 * (count - number) + 20 * step
    rows["symbol"], rows["side"], rows["mode"] = number % 3, np.where(number % 2, 1, -1), Mode.LIVE
    rows["state"] = np.where(refused & (step == 3), OrderState.EXPIRED, np.array(steps)[step])
    rows["reason"], rows["reduce_only"] = np.where(number % 2, Reason.TP, Reason.ENTRY), number % 2
    rows["qty"], rows["price"] = 0.5, np.array(PRICES)[number % 3]
    filled = (step == 3) & ~refused
    rows["filled_qty"][filled], rows["average_price"][filled] = 0.5, rows["price"][filled]
    rows["detail"][refused & (step == 3)] = b"beyond the limit"
    insert(store, "orders", rows)
    fills = np.zeros(int(filled.sum()), RECORDS[Kind.FILL])
    for name in ("client_order_id", "time_ms", "symbol", "side", "mode", "qty", "price"):
        fills[name] = rows[name][filled]
    fills["seq"], fills["trade_id"] = 30_000 + np.arange(len(fills)), 1 + np.arange(len(fills))
    fills["fee_usdt"], fills["slip_usdt"], fills["maker"] = 0.0125, 0.0021, number[filled] % 4 == 0
    insert(store, "fills", fills)


def metrics(now_ms: int) -> dict[str, Any]:
    """Return an evaluation of the shape that `engine.model.evaluate` gives: honest, hardly better than a constant."""
    rng = np.random.default_rng(9)

    def target(name: str) -> dict[str, Any]:
        scale = 120.0 if name.startswith("e_hold") else 0.004
        predicted = np.linspace(-1, 1, 10) * scale + (scale * 1.5 if name.startswith("e_") else 0)
        deciles = [
            {"predicted": p, "actual": p * 0.6 + rng.normal(0, scale / 9), "actual_q05": p * 0.8 - scale / 5}
            for p in predicted.tolist()
        ]
        error = "pinball" if name.startswith("q05") else "rmse"
        figures = {error: 0.99, f"{error}_constant": 1.0, "rank_ic": 0.04, "calibration": deciles}
        return figures | ({"coverage": 0.052} if error == "pinball" else {})

    shares = np.sort(rng.exponential(1, len(FEATURES)))[::-1]
    return {
        "rows": 48_000, "from_ms": now_ms - 30 * 86_400_000, "to_ms": now_ms - 86_400_000,
        "targets": {name: target(name) for name in TARGETS},
        "policy": {"trades": 412, "days": 29, "net": 0.0131, "net_q05": -0.0062, "net_q95": 0.0341, "won": 201},
        "drift": dict(zip(FEATURES, rng.exponential(0.03, 132).tolist(), strict=True)) | {"rsi_1m": 0.31},
        "importance": {"er_long": dict(zip(FEATURES, (shares / shares.sum()).tolist(), strict=True))},
    }  # fmt: skip


def listen(engine: FakeEngine) -> None:
    """Follow standard input."""
    for line in sys.stdin:
        word = line.strip()
        if word == "silent":
            engine.beat(age_ms=60_000)
        elif word == "blind":
            engine.snapshot.view.symbols["mark_ms"] -= 60_000
        elif word == "alive":
            engine.snapshot.view.symbols["mark_ms"] = engine.snapshot.view.status["exchange_ms"]
            engine.beat()
        elif word == "orders":
            engine.open_orders()
        elif word == "no orders":
            engine.open_orders(0)
        elif word in ("connected", "lane down"):
            engine.connect("down" if word == "lane down" else "live")
        elif word == "commands":
            said = [" ".join([verb, *filter(None, [args.get("until")])]) for verb, _, args, _ in engine.commands]
            print(json.dumps([text for text in said if text != "kill_report"]), flush=True)


def main(data_dir: Path) -> None:
    """Seed, start the stand-in, serve until SIGTERM."""
    now_ms = time.time_ns() // 1_000_000
    data_dir.mkdir(parents=True, exist_ok=True)
    with connect("embedded", data_dir) as store:
        candles(store, now_ms)
        history(store, now_ms)
        orders(store, now_ms)
    engine = FakeEngine(data_dir)
    view = engine.snapshot.view
    view.status["run_state"], view.status["exchange_ms"] = RunState.RUNNING, now_ms
    view.status["started_ms"] = view.status["session_ms"] = now_ms - 3_600_000
    view.status["model_id"], view.status["backend"] = b"20261122T120000-abcdef01", b"packed"
    view.signals["decision_ms"] = view.symbols["mark_ms"] = now_ms
    view.positions["opened_ms"] = now_ms - 900_000
    book = TokenBook(data_dir / "tokens.json")
    tokens = {scope.value: book.create(scope.value, scope) for scope in Scope}
    threading.Thread(target=listen, args=(engine,), daemon=True).start()
    print(json.dumps(tokens), flush=True)
    serve(Config(data_dir=data_dir, control={"port": 0}))  # type: ignore[arg-type]
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
