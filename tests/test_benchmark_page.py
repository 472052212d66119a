"""docs/benchmarks.md says what docs/benchmarks.json holds: nobody wrote a figure into it by hand."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, report_page, targets

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD, OLDER = "c0ffee0", "0ddba11"
CLOSE = "test_path.py::test_minute_close_of_600_symbols"
PEER = "test_peer_path.py::test_kline_frame_to_decision_against_nautilus[200]"
START = "test_restart.py::test_start_of_fifty_symbols"
SOCKET = "test_market.py::test_socket_to_ring[book-picows]"


def entry(source: str, commit: str = HEAD, **figures: Any) -> dict[str, Any]:
    """Return a benchmark's figures as `benchmarks.report` keeps them."""
    file, _, name = source.partition("::")
    seconds = {key: figures.pop(key, 1.0) for key in ("min_s", "median_s")}
    taken = {"commit": commit, "date": f"the day of {commit}", "load": 1.5}
    return {"file": file, "name": name, **seconds, "rounds": 1, "extra": figures, "taken": taken}


def raw_of(**figures: Any) -> dict[str, Any]:
    """Return what `benchmarks.report` keeps, with these figures and no others."""
    return {"machine": {"commit": HEAD}, "benchmarks": [], "beside": [], "spaced": [], "taken": {}} | figures


def cells(section: str) -> dict[str, list[str]]:
    """Return (target, quiet, met, beside, met) of each row of the targets."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:6] for row in rows[1:]}


def test_the_page_is_what_the_measurements_give(tmp_path: Path) -> None:
    raw = json.loads((DOCS / "benchmarks.json").read_text())
    report_page.write(raw, tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == (DOCS / "benchmarks.md").read_text()
    for name in ("benchmarks_peers.png", "benchmarks_percentiles.png"):
        assert (tmp_path / name).stat().st_size > 10_000 and (DOCS / name).exists()


def test_numbers_read_well() -> None:
    assert [report_page.number(x) for x in (0.0, 0.344, 26.66, 123.4, 2_057_330)] == ["0", "0.344", "26.7", "123", "2,057,330"]  # fmt: skip  # noqa: E501
    assert [report_page.span(x) for x in (15.0, 0.314, 2.5e-5, 9e-8)] == ["15 s", "314 ms", "25 µs", "90 ns"]


def test_a_figure_that_misses_its_target_says_no() -> None:
    case = {"wait": "epoll", "speed": "1x", "p50_us": 29.0, "p99_us": 90.0}
    section = report_page.target_section(
        raw_of(
            benchmarks=[
                entry(CLOSE, min_s=0.011, median_s=0.0121), entry(PEER, ratio_min=20.0, ratio_p50=19.9),
                entry(SOCKET, frames_per_cpu_second=449_999), entry(START, warm_s=[3.5, 2.5, 4.5]),
            ],
            beside=[entry(CLOSE, min_s=0.012, median_s=0.01201), entry(SOCKET, frames_per_cpu_second=450_000)],
            spaced=[case | {"training_beside": False}, case | {"training_beside": True, "p50_us": 31.0}],
            taken={"spaced": {"commit": HEAD, "date": "today", "load": 0.5}},
        )
    )  # fmt: skip
    found = cells(section)
    close, whole = "minute close of 600 symbols, ", "whole path, times faster than nautilus_trader: 8 × 200 trees, "
    absent = ["not measured", ""]
    assert found[f"{close}its first frame → last decision: minimum"] == ["≤ 12 ms", "11 ms", "yes", "12 ms", "yes"]
    assert found[f"{close}its first frame → last decision: median"] == ["≤ 12 ms", "12.1 ms", "**no**", "12.01 ms", "**no**"]  # fmt: skip  # noqa: E501
    assert found[f"{close}a symbol: median"] == ["≤ 20 µs", "20.2 µs", "**no**", "20.0167 µs", "**no**"]
    assert found[f"{whole}minimum"] == ["≥ 20 ×", "20 ×", "yes", *absent]
    assert found[f"{whole}median"] == ["≥ 20 ×", "19.9 ×", "**no**", *absent]
    assert found["socket → ring, bookTicker frames a second of CPU time: best"] == ["≥ 450,000", "449,999", "**no**", "450,000", "yes"]  # fmt: skip  # noqa: E501
    start = "warm start of 50 symbols with stored history: "
    assert found[f"{start}minimum"] == ["≤ 3 s", "2.5 s", "yes", *absent]
    assert found[f"{start}median"] == ["≤ 3 s", "3.5 s", "**no**", *absent]
    assert found["kline frame → decision in epoll, p50: 1 ×"] == ["≤ 30 µs", "29 µs", "yes", "31 µs", "**no**"]
    assert found["kline frame → decision in epoll, p99: 1 ×"] == ["≤ 80 µs", "90 µs", "**no**", "90 µs", "**no**"]
    assert "<sup>" not in section  # all of one commit
    assert f"Quiet: 5 of {len(found)} met" in section and f"Beside training: 3 of {len(found)} met" in section


def test_targets_without_figures_were_not_measured() -> None:
    for raw in (raw_of(), {"machine": {"commit": HEAD}}, raw_of(benchmarks=[entry(START), entry(SOCKET)])):
        found = cells(report_page.target_section(raw))
        assert len(found) == 19
        assert all(row[1:] == ["not measured", "", "not measured", ""] for row in found.values())


def test_a_figure_of_another_commit_says_when_it_was_taken() -> None:
    old, new = entry(CLOSE, OLDER, min_s=0.001, median_s=0.013), entry(SOCKET, frames_per_cpu_second=500_000)
    section = report_page.target_section(raw_of(benchmarks=[old, new], beside=[entry(CLOSE), entry(SOCKET, OLDER)]))
    found = cells(section)
    assert found["minute close of 600 symbols, a symbol: minimum"][1] == "1.67 µs <sup>1</sup>"
    assert found["socket → ring, bookTicker frames a second of CPU time: best"][1] == "500,000"
    assert f"<sup>1</sup> measured at {OLDER}, the day of {OLDER}, load 1.5 before." in section
    assert section.count("measured at") == 1
    page = report_page.everything([old, new], HEAD)
    assert "minute close of 600 symbols <sup>1</sup> |" in page and "book-picows] |" in page
    assert page.endswith(f"<sup>1</sup> measured at {OLDER}, the day of {OLDER}, load 1.5 before.")


def test_a_run_of_some_files_keeps_the_figures_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measured(names: list[str]) -> list[dict[str, Any]]:
        asked.append(names)
        return [entry(name) for name in names if name != START]  # which fails

    monkeypatch.setattr(report, "measure", measured)
    monkeypatch.setattr(report, "training_job", nullcontext)
    before = [entry(name, OLDER) for name in (CLOSE, PEER, START, "test_path.py::test_gone")]

    def commits(entries: list[dict[str, Any]]) -> dict[str, str]:
        return {f"{one['file']}::{one['name']}": one["taken"]["commit"] for one in entries}

    some = report.beside(before, ["test_path.py", "test_restart.py"])
    whole = report.beside(before, [])
    assert report.beside(before, ["test_labels.py"]) == before  # nothing there has a target
    assert asked == [[CLOSE, START], targets.nodes([])]
    assert commits(some) == {CLOSE: HEAD, PEER: OLDER, "test_path.py::test_gone": OLDER}
    assert commits(whole) == dict.fromkeys((name for name in targets.nodes([]) if name != START), HEAD)


def test_every_target_names_a_benchmark_that_exists() -> None:
    for source in targets.nodes([]):
        file, _, name = source.partition("::")
        assert f"def {name.partition('[')[0]}(" in (DOCS.parent / "benchmarks" / file).read_text()


@pytest.mark.parametrize("only", [[], ["test_path.py"]])
def test_what_was_not_measured_again_keeps_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only: list[str]) -> None:  # fmt: skip  # noqa: E501
    """A whole run takes everything anew, a run of a file its benchmarks, quiet and beside, and the gate."""
    now, earlier = {"commit": HEAD}, {"commit": OLDER}
    steps = {"measure": [entry(CLOSE)], "recorded_runs": [], "spaced": [], "printed": "new", "gate_loaded": "new"}
    for name, result in steps.items():
        monkeypatch.setattr(report, name, lambda *given, result=result: result)
    monkeypatch.setattr(report, "machine", lambda: dict(now))
    monkeypatch.setattr(report, "stamp", lambda: now)
    monkeypatch.setattr(report, "training_job", nullcontext)
    monkeypatch.setattr(report.report_page, "write", lambda raw, folder: None)
    monkeypatch.setattr(report, "RAW", tmp_path / "benchmarks.json")
    old = [entry(CLOSE, OLDER), entry(START, OLDER)]
    taken = dict.fromkeys(("runs", "spaced", "instructions"), earlier)
    report.RAW.write_text(json.dumps(raw_of(benchmarks=old, beside=old, taken=taken, instructions="old", gate="old")))
    monkeypatch.setattr("sys.argv", ["report", *only])
    report.main()
    raw = json.loads(report.RAW.read_text())
    expected = {CLOSE: HEAD} | ({START: OLDER} if only else {})
    for part in ("benchmarks", "beside"):
        assert {f"{one['file']}::{one['name']}": one["taken"]["commit"] for one in raw[part]} == expected
    assert raw["taken"] == dict.fromkeys(taken, earlier if only else now)
    assert (raw["gate"], raw["instructions"]) == ("new", "old" if only else "new")
