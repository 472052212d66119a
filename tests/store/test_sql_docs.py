"""The views give what plain Python gives, and every example of docs/sql.md runs."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.market.lateness import EDGES_MS
from kernels.records import GATES, LABEL, BarFlag, Reason
from kernels.schema import NAMES
from store import writer
from store.client import Store
from store.schema import tables
from store.views import LATENESS_MS, meanings, views

DOCS = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
DAY_MS = 86_400_000
T0 = 1_750_032_000_000  # 2025-06-16 00:00 UTC
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture
def trades() -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    out = []
    for i in range(120):
        opened = T0 + int(rng.integers(0, 3 * DAY_MS))
        gross, fees, funding = float(rng.normal(0, 10)), float(rng.uniform(0.5, 2)), float(rng.normal(0, 0.2))
        out.append(
            {
                "seq": 1_000 + i,
                "position_id": i + 1,
                "symbol": SYMBOLS[i % 2],
                "side": (1, -1)[i % 3 == 0],
                "reason": (Reason.TP, Reason.SL, Reason.TIME)[i % 3],
                "opened_time": opened,
                "closed_time": opened + int(rng.integers(1, 360)) * 60_000,
                "qty": 2.0,
                "entry_price": 100.0,
                "gross_usdt": gross,
                "fees_usdt": fees,
                "funding_usdt": funding,
                "net_usdt": gross - fees + funding,
                "model_id": f"m{i % 2}",
            }
        )
    return out


def insert(store: Store, table: str, rows: list[dict[str, Any]]) -> None:
    columns = {"engine_id": "main", "run_id": "7"} if "engine_id" in tables()[table].by_name else {}
    names = {name: [row[name] for row in rows] for name in rows[0]}
    writer.insert_columns(store, table, columns | names)


@pytest.fixture
def filled(store: Store, trades, make_bars) -> Store:
    rng = np.random.default_rng(6)
    insert(store, "trades", [row | {"time": row["closed_time"]} for row in trades])
    signals = []
    for i in range(400):
        at = T0 + i * 60_000
        gates = 0 if i < 120 else (1 << 3) | ((1 << 16) if i % 2 else 0)
        signal = {"seq": i + 1, "symbol": SYMBOLS[i % 2], "time": at, "decision_time": at, "gates": gates}
        predictions = {"er_long": i / 1e5, "er_short": -i / 1e5, "q05_long": -0.01, "e_mae_long": 0.001}
        signals.append(signal | predictions | {"entered": int(i < 120), "model_id": "m0"})
    insert(store, "signals", signals)
    for index, symbol in enumerate(SYMBOLS):
        labels = np.zeros(200, LABEL)
        labels["time_ms"] = T0 + (index + 2 * np.arange(200)) * 60_000
        labels["net_return"] = (index + 2 * np.arange(200)) / 1e5 + 0.001
        labels["net_free"] = np.where(np.arange(200) % 20 == 0, -0.02, 0.0)
        for side in ("long", "short"):
            writer.insert_labels(store, side, symbol, labels, 1)
        bars = np.delete(make_bars(2 * 1_440, T0, seed=index), np.arange(100, 130) if index else [])
        bars["flags"] = BarFlag.WS
        writer.insert_bars(store, symbol, 0, bars, "ws")
    fill = {"time": T0, "slip_usdt": 0.25, "fee_usdt": 0.5}
    fills = [fill | {"seq": 5_000 + i, "position_id": 1 + i // 2} for i in range(240)]
    insert(store, "fills", fills)
    stage = {"stage": 7, "p99_ns": 5_000, "p999_ns": 6_000}
    stages = [
        stage
        | {"seq": 6_000 + i, "time": T0 + i * 600_000, "count": 10 + i, "p50_ns": 1_000 * i}
        | {"max_ns": 7_000 + i, "sum_ns": 1_000 * (10 + i)}
        for i in range(12)
    ]
    insert(store, "latency", stages)
    equity = (np.cumsum(rng.normal(0, 5, 200)) + 1_000).tolist()
    account = [{"seq": 7_000 + i, "time": T0 + i * 60_000, "equity_usdt": value} for i, value in enumerate(equity)]
    insert(store, "account", account)
    insert(store, "orders", [{"seq": 8_000 + i, "time": T0 + i, "client_order_id": "a", "state": i} for i in range(4)])
    session = {"session_id": 3, "actor": "ta"}
    events = [{"seq": 9_000 + i, "time": T0 + i * 1_000, "event": 1 + i, "net_usdt": 5.0 * i} for i in range(2)]
    insert(store, "sessions", [session | event for event in events])
    gap = {"symbol": "ETHUSDT", "timeframe": 0, "gap_kind": 1, "from_time": T0, "to_time": T0 + 60_000, "bars": 1}
    insert(store, "data_gaps", [{"seq": 9_500, "time": T0} | gap])
    features = [{"seq": 20_000 + i, "symbol": "BTCUSDT", "close_time": T0 + i * 3_600_000,
                 **{name: float(i >= 48) * 3 + float(rng.normal()) for name in NAMES}} for i in range(60)]  # fmt: skip
    insert(store, "features_1m", features)
    seen = {"symbol": "BTCUSDT", "open_time": T0, "close": 1.0, "timeframe": 0, "time": T0}
    late = [(30, 1), (50, 1), (51, 1), (2_600, 2), (70_000, 2), (-4, 1), (90_000, 1 | 16), (80_000, 1 | 32)]
    bars = [seen | {"seq": 1 + i, "late_ms": ms, "flags": flags} for i, (ms, flags) in enumerate(late)]
    insert(store, "bars_seen", bars)
    twin = {"symbol": "BTCUSDT", "time": T0, "position_id": 1, "side": 1, "event": 3, "qty": 2.0, "live_qty": 2.0}
    insert(store, "twins", [twin | {"seq": 1, "net_usdt": 5.0, "live_net_usdt": 4.0}])
    return store


def named(store: Store, sql: str) -> list[dict[str, Any]]:
    return store.frame(sql).to_dicts()


def test_daily_pnl_and_drawdown(filled: Store, trades) -> None:
    days: dict[int, float] = defaultdict(float)
    for row in trades:
        days[row["closed_time"] // DAY_MS] += row["net_usdt"]
    rows = named(filled, "SELECT * FROM v_daily_pnl ORDER BY day")
    assert len(rows) == len(days)
    total = peak = 0.0
    for row, day in zip(rows, sorted(days), strict=True):
        total += days[day]
        peak = max(peak, total)
        assert row["net_usdt"] == pytest.approx(days[day])
        assert row["total_usdt"] == pytest.approx(total) and row["drawdown_usdt"] == pytest.approx(peak - total)
    assert sum(row["trades"] for row in rows) == len(trades)


@pytest.mark.parametrize(
    ("view", "key", "of"),
    [
        ("v_pnl_by_symbol", "symbol", lambda row: row["symbol"]),
        ("v_pnl_by_hour", "hour", lambda row: row["opened_time"] // 3_600_000 % 24),
        ("v_pnl_by_reason", "reason", lambda row: Reason(row["reason"]).name.lower()),
        ("v_pnl_by_model", "model_id", lambda row: row["model_id"]),
    ],
)
def test_pnl_by(filled: Store, trades, view: str, key: str, of) -> None:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in trades:
        groups[of(row)].append(row)
    rows = {row[key]: row for row in named(filled, f"SELECT * FROM {view}")}
    assert set(rows) == set(groups)
    for name, listed in groups.items():
        nets = [row["net_usdt"] for row in listed]
        row = rows[name]
        assert (row["trades"], row["wins"]) == (len(nets), sum(net > 0 for net in nets))
        assert row["net"] == pytest.approx(sum(nets)) and row["net_per_trade"] == pytest.approx(sum(nets) / len(nets))
        assert row["fees"] == pytest.approx(sum(item["fees_usdt"] for item in listed))
        lost = -sum(net for net in nets if net < 0)
        if lost:
            assert row["profit_factor"] == pytest.approx(sum(net for net in nets if net > 0) / lost)
        held = [(item["closed_time"] - item["opened_time"]) / 60_000 for item in listed]
        assert row["minutes_held"] == pytest.approx(sum(held) / len(held), abs=0.02)


def test_calibration_by_decile(filled: Store) -> None:
    rows = named(filled, "SELECT * FROM v_calibration WHERE side = 'long' ORDER BY decile")
    assert [row["signals"] for row in rows] == [40] * 10
    for index, row in enumerate(rows):
        predicted = np.arange(index * 40, index * 40 + 40) / 1e5
        assert row["predicted_return"] == pytest.approx(predicted.mean())
        assert row["realised_return"] == pytest.approx(predicted.mean() + 0.001)
        assert row["below_q05"] == pytest.approx(0.05)


def test_refusals_costs_latency_completeness(filled: Store) -> None:
    sql = "SELECT gate, sum(refused) AS n, sum(refused_alone) AS alone FROM v_why_no_trade GROUP BY gate"
    rows = {row["gate"]: row for row in named(filled, sql)}
    assert {name: (row["n"], row["alone"]) for name, row in rows.items()} == {GATES[3]: (280, 140), GATES[16]: (140, 0)}
    costs = named(filled, "SELECT sum(slip_usdt) AS slip, min(fills) AS least, avg(slip_bps) AS bps FROM v_trade_costs")
    assert costs == [{"slip": pytest.approx(60.0), "least": 2, "bps": pytest.approx(25.0)}]
    hours = named(filled, "SELECT * FROM v_latency ORDER BY hour")
    assert [row["number"] for row in hours] == [sum(10 + i for i in range(6)), sum(10 + i for i in range(6, 12))]
    assert hours[0]["p50_us"] == 3.0 and hours[1]["max_us"] == 7.011 and hours[0]["mean_us"] == pytest.approx(1.0)
    days = named(filled, "SELECT symbol, candles, expected, missing, from_ws FROM v_completeness ORDER BY symbol, day")
    assert [(row["symbol"], row["candles"], row["missing"]) for row in days] == [
        ("BTCUSDT", 1_440, 0), ("BTCUSDT", 1_440, 0), ("ETHUSDT", 1_410, 30), ("ETHUSDT", 1_440, 0),
    ]  # fmt: skip


def test_lateness_is_a_histogram_with_the_engine_s_edges(filled: Store) -> None:
    assert LATENESS_MS == EDGES_MS
    rows = named(filled, "SELECT * FROM v_lateness ORDER BY up_to_ms NULLS LAST")
    assert {(row["symbol"], row["bar_length"]) for row in rows} == {("BTCUSDT", "1m")}  # without fillings and revisions
    assert [(row["up_to_ms"], row["bars"], row["from_stream"]) for row in rows] == [
        (25, 1, 1), (50, 2, 2), (100, 1, 1), (5_000, 1, 0), (None, 1, 0),
    ]  # fmt: skip
    assert rows[-1]["worst_ms"] == 70_000


def test_drift_entries_equity_and_sessions(filled: Store, trades) -> None:
    drift = named(filled, "SELECT * FROM v_feature_drift")
    assert len(drift) == len(NAMES) and all(1.0 < row["shift"] < 6.0 for row in drift)
    assert {(row["new_rows"], row["old_rows"]) for row in drift} == {(12, 48)}
    entries = named(filled, "SELECT * FROM v_entries ORDER BY decision_time")
    assert len(entries) == 120
    assert entries[4]["predicted_return"] == pytest.approx(4 / 1e5)
    assert entries[4]["realised_return"] == pytest.approx(trades[4]["net_usdt"] / 200.0)
    equity = named(filled, "SELECT time, equity_usdt, peak_usdt, drawdown FROM v_equity ORDER BY time")
    values = np.array([row["equity_usdt"] for row in equity])
    assert [row["peak_usdt"] for row in equity] == np.maximum.accumulate(values).tolist()
    (session,) = named(filled, "SELECT session_id, open, started_by, net FROM v_sessions")
    assert session == {"session_id": 3, "open": 0, "started_by": "ta", "net": 5.0}


def test_every_example_of_the_page_runs_and_answers(filled: Store) -> None:
    examples = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(examples) >= 18
    for example in examples:
        assert len(filled.frame(example)) > 0, example


def test_the_page_names_every_table_and_view() -> None:
    text = DOCS.read_text()
    for name in [*tables(), *views()]:
        assert f"`{name}`" in text, f"docs/sql.md does not name {name}"
    assert all(len(meaning) > 20 for meaning in meanings().values())
