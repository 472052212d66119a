"""The evaluation of a model as one HTML page with its plots inside: no other file, no script, no address."""

from __future__ import annotations

import html
import io
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kernels.schema import TARGETS

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #d0d7de;"
    "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    ".warning{background:#fff4d6;padding:.5rem .8rem;border-left:4px solid #b07d00}"
)
TOP = 20
REPORT_NAME = "report.html"


def render(manifest: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Return the page of one model."""
    model_id = html.escape(str(manifest["model_id"]))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Model {model_id}</title><style>{STYLE}</style>",
        f"<h1>Model {model_id}</h1>",
        f"<p>{evaluation['rows']:,} out-of-fold rows, {_day(evaluation['from_ms'])} to {_day(evaluation['to_ms'])}; "
        f"trained on {html.escape(', '.join(manifest['symbols']))}, {manifest['rows']:,} rows, "
        f"{manifest['independent_labels']:,.0f} independent labels.</p>",
        *(f"<p class=warning>{html.escape(text)}</p>" for text in manifest.get("problems", [])),
        "<h2>Targets</h2>",
        _targets(evaluation["targets"]),
        "<h2>Policy on out-of-fold predictions, net of costs</h2>",
        _policy(evaluation["policy"]),
        "<h2>Calibration by decile of the prediction</h2>",
        _calibration(evaluation["targets"]),
        "<h2>Importance (share of gain, mean over targets)</h2>",
        _bars(_mean_importance(evaluation["importance"])),
        "<h2>Drift of the tested rows against the training window (PSI; above 0.25 is a shift)</h2>",
        _bars(dict(sorted(evaluation["drift"].items(), key=lambda item: -item[1])[:TOP])),
    ]
    return "\n".join(parts)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d")


def _targets(targets: dict[str, Any]) -> str:
    rows = ["<tr><th>target<th>rank IC<th>error<th>of a constant<th>better by<th>coverage</tr>"]
    for name in TARGETS:
        figures = targets[name]
        kind = "pinball" if "pinball" in figures else "rmse"
        error, base = figures[kind], figures[f"{kind}_constant"]
        gain = 1 - error / base if base else 0.0
        coverage = f"{figures['coverage']:.3f}" if "coverage" in figures else ""
        rows.append(
            f"<tr><td>{name}<td>{figures['rank_ic']:.3f}<td>{error:.5g} ({kind})<td>{base:.5g}"
            f"<td>{gain:.2%}<td>{coverage}</tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _policy(policy: dict[str, Any]) -> str:
    text = (
        f"<p>{policy['trades']:,} trades on {policy['days']} days: net {policy['net']:+.2%} of equity; 90 % interval "
        f"of the day-block bootstrap {policy['net_q05']:+.2%} to {policy['net_q95']:+.2%}; {policy['won']:.0%} won.</p>"
    )
    figure, axes = _figure(1, 1, 3.0)
    axes[0].plot(np.cumsum(policy["per_day"]))
    axes[0].set_xlabel("day")
    axes[0].set_ylabel("net, of equity")
    return text + _svg(figure)


def _calibration(targets: dict[str, Any]) -> str:
    figure, axes = _figure(2, 4, 5.0)
    for axis, name in zip(axes, TARGETS, strict=True):
        deciles = targets[name]["calibration"]
        predicted = [part["predicted"] for part in deciles]
        actual = [part["actual_q05" if name.startswith("q05") else "actual"] for part in deciles]
        axis.plot(predicted, predicted, color="#8c959f", linewidth=1)
        axis.plot(predicted, actual, marker="o", markersize=3)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    return _svg(figure)


def _mean_importance(importance: dict[str, dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for shares in importance.values():
        for name, share in shares.items():
            total[name] = total.get(name, 0.0) + share / len(importance)
    return dict(sorted(total.items(), key=lambda item: -item[1])[:TOP])


def _bars(values: dict[str, float]) -> str:
    figure, axes = _figure(1, 1, 0.22 * max(4, len(values)) + 0.6)
    names = list(values)[::-1]
    axes[0].barh(names, [values[name] for name in names])
    axes[0].tick_params(labelsize=7)
    return _svg(figure)


def _figure(rows: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
