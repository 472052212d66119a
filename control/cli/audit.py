"""`ta audit`, `ta allow` and `ta features`: parity of live and batch features, and batch vectors to a file."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from control.cli.app import console, fail, settings
from control.cli.data import open_store
from control.cli.model import FOREVER_MS, From, Json, Symbols, To, moment_ms, progress_bar


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("audit")(audit)
    app.command("allow")(allow)
    app.command("features")(features)


def audit(
    symbol: Symbols = None,
    start: From = "",
    to: To = "",
    halt: Annotated[bool, typer.Option("--halt", help="tell the engine to stop entries of symbols that fail")] = False,
    json: Json = False,
) -> None:
    """Recompute live vectors from stored candles and compare them bit for bit; exit code 1 if any differs."""
    from control.jobs import audit as job

    config = settings()
    with open_store() as store, progress_bar("audit") as progress:
        reports = job.run(store, config, symbol or [], moment_ms(start, 0), moment_ms(to, FOREVER_MS), progress)
    failed = sorted({report.symbol for report in reports if report.failed})
    if halt:
        from control.cli.local import send

        for name in failed:
            send(config, "halt_symbol", {"symbol": name, "reason": "audit"})
    if json:
        rows = [asdict(report) | {"failed": report.failed} for report in reports]
        typer.echo(jsonlib.dumps({"reports": rows, "failed": failed, "halted": failed if halt else []}))
    else:
        for report in reports:
            console.print(_line(report), highlight=False)
        if not reports:
            console.print("no signals in this range: nothing to audit")
    if failed:
        raise typer.Exit(1)


def allow(
    symbol: Annotated[str, typer.Argument(help="a configured symbol")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Allow entries of a symbol again that an audit, or the engine itself, had halted."""
    from control.cli.local import send

    result = send(settings(), "allow_symbol", {"symbol": symbol.upper()})
    if as_json:
        print(jsonlib.dumps({"ok": True, "result": result}))
        return
    console.print(f"{symbol.upper()}: entries are allowed again")


def _line(report: Any) -> str:
    """Return one report in words."""
    text = f"{report.symbol} {report.run_id}: {report.compared} vectors compared, {report.differing} differ"
    if report.differing_ms:
        text += f" (first at {report.differing_ms[0]})"
    if report.unreachable:
        text += f"; {report.unreachable} could not be recomputed: {report.detail}"
    stored = sum(report.rows_compared.values())
    text += f"; {stored} stored rows, {len(report.columns)} features differ"
    for name, difference in report.columns.items():
        text += f"\n  {name}: {difference.differing} of {difference.compared}, up to {difference.max_ulp:.0f} ulp"
    for timeframe, times in report.candles_differing.items():
        text += f"\n  {timeframe} candles: {len(times)} are not the bars that were seen, first {times[0]}"
    return text + f"; whole history: {report.drift_vectors} differ, at most {report.drift_relative:.1e}"


def features(
    symbol: Annotated[str, typer.Option("--symbol")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    start: From = "",
    to: To = "",
) -> None:
    """Write the 132 features of a symbol's stored candles to Parquet: `time` and a column per feature."""
    import numpy as np
    import polars as pl

    from control.jobs.inputs import choose_symbols, read_symbol
    from kernels.schema import FEATURES

    config = settings()
    with open_store() as store:
        choose_symbols(store, config, [symbol])
        _, vectors = read_symbol(store, config, symbol, moment_ms(to, FOREVER_MS))
    inside = vectors.close_ms >= moment_ms(start, 0)
    if not inside.any():
        fail(f"{symbol}: no closed candles in this range", code=1)
    frame = pl.DataFrame(
        {"time": vectors.close_ms[inside]}
        | {name: np.ascontiguousarray(vectors.values[inside, k]) for k, name in enumerate(FEATURES)}
    ).with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(out)
    console.print(f"{len(frame)} rows of {len(FEATURES)} features: {out}")
