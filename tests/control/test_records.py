"""Lists from a real embedded store: paging without loss or repetition, filters, ETags."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.reader import StoreReader
from control.recent import Lists
from engine.config import Config
from kernels.records import GATES, RECORDS, GapKind, Kind, Mode, Reason, Stage
from store.client import Store, connect
from store.schema import tables
from store.writer import record_block

SYMBOLS = ("BTCUSDT", "ETHUSDT")
ROWS = 25


def insert(store: Store, name: str, records: np.ndarray) -> None:
    columns, block = record_block(tables()[name], records, engine_id="main", run_id="77", symbols=SYMBOLS, extra={})
    store.insert_block(name, columns, block)


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Iterator[Store]:
    folder: Path = tmp_path_factory.mktemp("store")
    with connect("embedded", folder) as opened:
        trades = np.zeros(ROWS, RECORDS[Kind.TRADE])
        trades["seq"] = np.arange(1, ROWS + 1)
        # three share each closing time, so a cursor of time alone would lose or repeat rows
        trades["closed_ms"] = 1_700_000_000_000 + 60_000 * (np.arange(ROWS) // 3)
        trades["opened_ms"] = trades["closed_ms"] - 60_000
        trades["symbol"] = np.arange(ROWS) % 2
        trades["side"], trades["mode"], trades["model_id"] = 1, Mode.SHADOW, b"m1"
        trades["reason"] = np.where(np.arange(ROWS) % 5 == 0, Reason.TP, Reason.SL)
        trades["net_usdt"] = np.arange(ROWS)
        trades["mae"] = np.nan
        insert(opened, "trades", trades)
        signals = np.zeros(2, RECORDS[Kind.SIGNAL])
        signals["seq"], signals["decision_ms"] = [100, 101], 1_700_000_000_000
        signals["gates"] = [1 << GATES.index("spread") | 1 << GATES.index("er_low"), 1 << GATES.index("er_low")]
        signals["predictions"][:, 0], signals["predictions"][:, 1] = 0.5, np.nan
        signals["frame_ns"], signals["decide_ns"] = [1_000, 0], 2_500
        insert(opened, "signals", signals)
        vectors = np.zeros(3, RECORDS[Kind.FEATURES])
        vectors["seq"], vectors["symbol"] = [200, 201, 202], 1
        vectors["close_ms"] = 1_700_000_000_000 + 60_000 * np.arange(3)
        vectors["values"] = np.arange(3)[:, None]
        insert(opened, "features_1m", vectors)
        gap = np.zeros(1, RECORDS[Kind.GAP])
        gap["seq"], gap["time_ms"], gap["gap_kind"], gap["bars"] = 7, 1_700_000_000_000, GapKind.MISSING, 3
        insert(opened, "data_gaps", gap)
        insert(opened, "account", account(0, 3_000))
        yield opened


@pytest.fixture
def read(store: Store, services: Any, client: Any, bearer: Any) -> Iterator[Any]:
    services.reader, services.lists = StoreReader(store), Lists()
    headers = bearer()

    def get(path: str, **more: str) -> Any:
        return client.get(path, headers=headers | more)

    yield get
    services.reader.close()


@pytest.mark.parametrize("limit", [1, 4, 24, 25, 1_000])
def test_pages_give_every_trade_once_newest_first(read: Any, limit: int) -> None:
    seen, before = [], ""
    while True:
        body = read(f"/api/trades?limit={limit}{before}").json()
        seen += [item["seq"] for item in body["items"]]
        assert len(body["items"]) <= limit
        if body["next"] is None:
            break
        before = f"&before={body['next']}"
    assert seen == list(range(ROWS, 0, -1))


def test_a_trade_has_its_reason_side_and_times(read: Any) -> None:
    trade = read("/api/trades?limit=1").json()["items"][0]
    assert (trade["symbol"], trade["side"], trade["mode"], trade["reason"]) == ("BTCUSDT", "long", "shadow", "sl")
    assert trade["closed_ms"] == 1_700_000_000_000 + 60_000 * 8 and trade["opened_ms"] == trade["closed_ms"] - 60_000
    assert trade["mae"] is None and trade["net_usdt"] == 24.0 and trade["model_id"] == "m1"


def test_filters_select(read: Any) -> None:
    assert [i["seq"] for i in read("/api/trades?reason=tp").json()["items"]] == [21, 16, 11, 6, 1]
    assert {i["symbol"] for i in read("/api/trades?symbol=ETHUSDT").json()["items"]} == {"ETHUSDT"}
    window = read(f"/api/trades?from_ms={1_700_000_060_000}&to_ms={1_700_000_120_000}").json()["items"]
    assert [item["seq"] for item in window] == [6, 5, 4]
    assert read("/api/trades?model_id=other").json() == {"items": [], "next": None}
    quoted = read("/api/trades?model_id=x' OR 1=1 --")
    assert quoted.json() == {"items": [], "next": None}


def test_signals_can_be_asked_for_a_gate(read: Any) -> None:
    (item,) = read("/api/signals?gate=spread").json()["items"]
    assert item["refused_by"] == ["er_low", "spread"] and item["seq"] == 100
    assert item["predictions"]["er_long"] == 0.5 and item["predictions"]["er_short"] is None
    assert item["frame_to_decision_us"] == 2.5
    both = read("/api/signals?gate=er_low&entered=false").json()["items"]
    assert [row["seq"] for row in both] == [101, 100] and both[0]["frame_to_decision_us"] is None
    assert read("/api/signals?gate=no_such_gate").json()["items"] == []


def test_a_gap_names_its_kind(read: Any) -> None:
    (gap,) = read("/api/data/gaps").json()["items"]
    assert (gap["seq"], gap["gap_kind"], gap["bars"], gap["symbol"]) == (7, "missing", 3, "BTCUSDT")


def test_an_unchanged_list_answers_304(read: Any) -> None:
    first = read("/api/trades?limit=3")
    again = read("/api/trades?limit=3", **{"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize("path", ["/api/orders", "/api/fills", "/api/commands"])
def test_empty_tables_are_empty_pages(read: Any, path: str) -> None:
    assert read(path).json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    "path",
    [
        "/api/candles?symbol=BTCUSDT",
        "/api/candles?symbol=BTCUSDT&timeframe=1h&from_ms=0&to_ms=5",
        "/api/features/BTCUSDT",
        "/api/features/BTCUSDT/rsi?timeframe=15m",
        "/api/data/coverage",
        "/api/data/gaps?symbol=ETHUSDT",
        "/api/audit",
        "/api/audit?symbol=BTCUSDT",
        "/api/jobs",
        "/api/models",
        "/api/models/m1/calibration",
        "/api/latency",
        "/api/settings",
    ],
)
def test_every_read_works_on_a_store_without_such_rows(read: Any, path: str) -> None:
    answer = read(path)
    assert answer.status_code == 200, answer.text
    assert answer.json().get("items", []) == []


def test_trades_are_summed_by_exit_reason(read: Any) -> None:
    items = {item["reason"]: item for item in read("/api/trades/summary").json()["items"]}
    assert items["tp"]["trades"] == 5 and items["tp"]["net_usdt"] == 0 + 5 + 10 + 15 + 20
    assert items["sl"]["trades"] == 20 and items["sl"]["wins"] == 20


@pytest.mark.parametrize("by", ["reason", "symbol", "side", "mode", "model", "day"])
def test_trades_are_summed_by_whatever_is_asked(read: Any, by: str) -> None:
    """Each grouping is of the same trades: counts and money add up to those of the list."""
    listed = read("/api/trades?limit=1000").json()["items"]
    items = read(f"/api/trades/summary?by={by}").json()["items"]
    keys = {"model": "model_id"}
    groups = {str(row.get(keys.get(by, by))) for row in listed}
    if by == "day":
        groups = {datetime.fromtimestamp(row["closed_ms"] / 1_000, UTC).strftime("%Y-%m-%d") for row in listed}
    assert {item["group"] for item in items} == groups
    for name in ("net_usdt", "fees_usdt", "funding_usdt"):
        assert sum(item[name] for item in items) == pytest.approx(sum(row[name] for row in listed))
    assert sum(item["trades"] for item in items) == len(listed)
    held_ms = sum(row["closed_ms"] - row["opened_ms"] for row in listed)
    held_minutes = sum(item["mean_hold_minutes"] * item["trades"] for item in items)
    assert held_minutes == pytest.approx(held_ms / 60_000, abs=len(listed) / 60)
    lost = sum(-row["net_usdt"] for row in listed if row["net_usdt"] < 0)
    assert lost or all(item["profit_factor"] is None for item in items)


def test_every_gate_has_a_meaning_and_names_keys_that_exist(read: Any) -> None:
    items = read("/api/signals/gates").json()["items"]
    assert [item["name"] for item in items] == list(GATES)
    values = Config().model_dump()
    for item in items:
        assert item["meaning"]
        for key in item["settings"]:
            section, name = key.split(".")
            assert name in values[section], key


def test_why_not_counts_each_gate(read: Any) -> None:
    body = read("/api/signals/why-not").json()
    assert body["signals"] == 2 and body["entered"] == 0
    assert body["gates"] == [{"gate": "er_low", "count": 2}, {"gate": "spread", "count": 1}]


def test_what_is_not_there_is_404(read: Any) -> None:
    for path in ("/api/models/none", "/api/jobs/train-1-a", "/api/features/BTCUSDT/no_such"):
        assert read(path).status_code == 404, path


def test_settings_hold_no_secret(read: Any, services: Any) -> None:
    body = read("/api/settings").json()
    assert "secrets" not in body["values"] and body["config_hash"] == services.config.hash()
    assert "fraction" in body["meanings"]["risk.max_day_loss"] and body["meanings"]["mode"]
    shown = {f"{section}.{key}" for section, keys in body["values"].items() if isinstance(keys, dict) for key in keys}
    assert shown <= set(body["meanings"])


def account(first: int, count: int) -> np.ndarray:
    """Return one account record a second: the equity tells the second."""
    rows = np.zeros(count, RECORDS[Kind.ACCOUNT])
    seconds = first + np.arange(count)
    rows["seq"], rows["time_ms"] = seconds + 1, 1_700_000_000_000 + 1_000 * seconds
    rows["equity_usdt"], rows["day_pnl_usdt"] = 10_000 + seconds, seconds
    return rows


def test_the_equity_curve_is_thinned_to_its_last_points_and_continued(read: Any, store: Store, services: Any) -> None:
    for count, more in ((3_000, 700), (3_700, 2_000), (5_700, 0)):
        services.answers.forget()
        items = read("/api/equity").json()["items"]
        assert 500 <= len(items) <= 1_000
        last = 1_700_000_000_000 + 1_000 * (count - 1)
        assert items[-1] == {"time_ms": last, "equity_usdt": 9_999.0 + count, "day_pnl_usdt": count - 1.0}
        assert all(item["equity_usdt"] - 10_000 == (item["time_ms"] - 1_700_000_000_000) / 1_000 for item in items)
        steps = np.diff([item["time_ms"] for item in items])[:-1]
        assert len(set(steps.tolist())) == 1
        if more:
            insert(store, "account", account(count, more))


def test_what_held_the_engines_loop_up_is_told_by_the_api_and_counted_in_the_metrics(
    client: Any, bearer: Any, engine: Any
) -> None:
    stated = {"gc_pauses": 3, "compilations": 0, "voluntary_switches": 120, "involuntary_switches": 7}
    engine.snapshot.begin()
    for name, value in stated.items():
        engine.snapshot.view.status[name] = value
    engine.snapshot.view.latency[Stage.GC_PAUSE]["count"] = 3
    engine.snapshot.end()
    body = client.get("/api/latency", headers=bearer()).json()
    assert body["disturbances"] == stated
    assert {"gc_pause", "loop_lag"} <= {item["stage"] for item in body["items"]}
    metrics = client.get("/metrics", headers=bearer()).text
    for name, value in stated.items():
        assert f"ta_{name}_total {float(value)}" in metrics
    assert 'ta_stage_microseconds{quantile="0.99",stage="gc_pause"}' in metrics


def test_features_of_a_time_are_those_that_had_closed_before(read: Any) -> None:
    def seen(query: str = "") -> list[tuple[str, int, float]]:
        items = read(f"/api/features/ETHUSDT{query}").json()["items"]
        return [(item["timeframe"], item["close_ms"], item["values"]["rsi"]) for item in items]

    assert seen() == [("1m", 1_700_000_120_000, 2.0)]
    assert seen("?to_ms=1700000060001") == [("1m", 1_700_000_060_000, 1.0)]
    assert seen("?to_ms=1700000000000") == []
