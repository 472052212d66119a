"""docs/benchmarks.md says what docs/benchmarks.json holds: nobody wrote a figure into it by hand."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import report_page

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_is_what_the_measurements_give(tmp_path: Path) -> None:
    raw = json.loads((DOCS / "benchmarks.json").read_text())
    report_page.write(raw, tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == (DOCS / "benchmarks.md").read_text()
    for name in ("benchmarks_peers.png", "benchmarks_percentiles.png"):
        assert (tmp_path / name).stat().st_size > 10_000 and (DOCS / name).exists()


def test_numbers_read_well() -> None:
    assert [report_page.number(x) for x in (0.0, 0.344, 26.66, 123.4, 2_057_330)] == ["0", "0.344", "26.7", "123", "2,057,330"]  # fmt: skip  # noqa: E501
    assert [report_page.span(x) for x in (15.0, 0.314, 2.5e-5, 9e-8)] == ["15 s", "314 ms", "25 µs", "90 ns"]
