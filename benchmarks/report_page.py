"""The page docs/benchmarks.md and its two plots, from the figures that `benchmarks.report` keeps."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.targets import Measured
from engine.spin import AFTER_MS, BEFORE_MS, PAUSE_NS

GAINS = Path(__file__).with_name("gains.toml")
SHOWN = ("0.5", "0.9", "0.99", "0.999", "1.0")
METHOD = """\
Written by `make bench-report` (`python -m benchmarks.report`); the figures are in `docs/benchmarks.json`.

**Method.** pytest-benchmark and time.perf_counter_ns; a figure is the minimum over rounds where a stage is timed alone,
and the median or a quantile where a distribution is meant, and says which. Peers run in the same process and the same
run, interleaved round by round (mlfinpy, which needs older packages, in a worker process); a comparison first checks
that both sides gave the same numbers, and counts only then. On a shared machine read ratios, not times: the load is
stated. A run of some files replaces their figures alone: under Targets and All benchmarks those of another commit than
the machine line's carry a footnote. The regression gate compares ratios to a calibration workload of the same run."""


class Notes:
    """The footnotes of a section: when its figures were taken, where that was on another commit than the page's."""

    def __init__(self, commit: str) -> None:
        self._commit = commit
        self._texts: list[str] = []

    def mark(self, taken: dict[str, Any]) -> str:
        """Return the mark that stands behind a figure, empty if it is of the page's commit."""
        if taken.get("commit") == self._commit:
            return ""
        text = f"measured at {when(taken)}"
        if text not in self._texts:
            self._texts.append(text)
        return f" <sup>{self._texts.index(text) + 1}</sup>"

    def lines(self) -> list[str]:
        """Return the notes as a paragraph of the page, nothing if there are none."""
        notes = [f"<sup>{number}</sup> {text}" for number, text in enumerate(self._texts, 1)]
        return ["", "; ".join(notes) + "."] if notes else []


def when(taken: dict[str, Any]) -> str:
    """Return what is known of when a figure was taken: commit, date, load, and what else the machine did."""
    load = f"load {taken['load']} before" if taken.get("load") is not None else ""
    parts = (taken.get("commit") or "an unstated commit", taken.get("date"), load, taken.get("note"))
    return ", ".join(part for part in parts if part)


def write(raw: dict[str, Any], folder: Path) -> None:
    """Write benchmarks.md, benchmarks_peers.png and benchmarks_percentiles.png into `folder`."""
    pairs, commit, taken = peers(raw["benchmarks"]), raw["machine"]["commit"], raw.get("taken", {})
    parts = ["# Benchmarks", METHOD, machine(raw["machine"]), target_section(raw), peer_section(pairs)]
    parts += [
        run_section(raw["runs"], taken.get("runs", {})),
        spaced_section(raw["spaced"], taken.get("spaced", {})),
        gate_section(raw["gate"], raw["gate_loaded"]),
        instruction_section(raw.get("instructions", ""), taken.get("instructions", {})),
        gain_section(),
        everything(raw["benchmarks"], commit),
    ]
    if pairs:
        plot_peers(pairs, folder / "benchmarks_peers.png")
    if raw["runs"]:
        plot_runs(raw["runs"], folder / "benchmarks_percentiles.png")
    (folder / "benchmarks.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def target_section(raw: dict[str, Any]) -> str:
    """Return the latency budget: each target, its figure quiet and beside a training job, and whether it is met."""
    rows, notes = targets.rows(raw), Notes(raw["machine"]["commit"])

    def cells(one: Measured | None, bound: float, unit: str) -> str:
        if one is None:
            return "not measured | "
        digits = number(one.value) if one.met or number(one.value) != number(bound) else f"{one.value:,.6g}"
        return f"{digits}{unit}{notes.mark(one.taken)} | {'yes' if one.met else '**no**'}"

    table = ["| what | target | quiet | met | beside training | met | from |", "|---|---:|---:|---|---:|---|---|"]
    for row in rows:
        unit = f" {row.unit}" if row.unit else ""
        bound = f"{'≤' if row.upper else '≥'} {number(row.bound)}{unit}"
        figures = f"{cells(row.quiet, row.bound, unit)} | {cells(row.beside, row.bound, unit)}"
        table.append(f"| {row.what}: {row.case} | {bound} | {figures} | `{row.source}` |")
    lines = ["## Targets", ""]
    for name, column in (("Quiet", [row.quiet for row in rows]), ("Beside training", [row.beside for row in rows])):
        found = [one for one in column if one is not None]
        absent = f", {len(rows) - len(found)} not measured" if len(found) < len(rows) else ""
        taken = dict.fromkeys(when(one.taken) for one in found if not notes.mark(one.taken))
        measured = f" Measured at {'; '.join(taken)}." if taken else ""
        lines.append(f"- {name}: {sum(one.met for one in found)} of {len(rows)} met{absent}.{measured}")
    lines += ["", "The training job is LightGBM at nice 10 with two threads. Targets: `benchmarks/targets.toml`."]
    return "\n".join([*lines, "", *table, *notes.lines()])


def machine(facts: dict[str, Any]) -> str:
    """Return the machine, versions, load and date."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    load = f"{facts['load']} before, {facts.get('load_after', '?')} after"
    return (
        f"**Machine.** {facts.get('cpu', '?')}, {facts['cores']} cores, {facts['memory_gib']} GiB, kernel "
        f"{facts['kernel']}, governor {facts['governor']}; Python {facts['python']}; {facts['date']}, commit "
        f"{facts['commit']}. Load averages (1, 5, 15 min): {load}.\n\n**Versions.** {packages}."
    )


def one(benchmarks: list[dict[str, Any]], file: str, name: str) -> dict[str, Any] | None:
    """Return one benchmark or None."""
    return next((x for x in benchmarks if x["file"] == file and x["name"] == name), None)


def peers(benchmarks: list[dict[str, Any]]) -> list[tuple[str, str, float, str, float]]:
    """Return (what, unit, ours, peer, theirs) of every comparison that was measured."""
    pairs: list[tuple[str, str, float, str, float]] = []
    for trees in (200, 500):
        path = one(benchmarks, "test_peer_path.py", f"test_kline_frame_to_decision_against_nautilus[{trees}]")
        if path is not None:
            extra = path["extra"]
            what = f"kline frame → decision, 8 × {trees} trees"
            pairs.append((f"{what}, median", "µs", extra["ours_p50_us"], extra["peer"], extra["peer_p50_us"]))
            pairs.append((f"{what}, minimum", "µs", extra["ours_min_us"], extra["peer"], extra["peer_min_us"]))
    labels = one(benchmarks, "test_peer_labels.py", "test_labels_against_mlfinpy")
    if labels is not None:
        extra = labels["extra"]
        pairs.append(("a triple-barrier label", "µs", extra["us_per_label"], extra["peer"], extra["peer_us_per_label"]))
    for kind in ("book", "kline"):
        decode = one(benchmarks, "test_peer_decode.py", f"test_decoding_against_json_and_msgspec[{kind}]")
        if decode is not None:
            extra = dict(decode["extra"])
            mine = extra.pop("ns_per_frame")
            what = f"{'bookTicker' if kind == 'book' else 'kline'} frame → doubles (ours with all checks)"
            pairs += [(what, "ns", mine, name.removesuffix(", ns_per_frame"), x) for name, x in extra.items()]
    live = one(benchmarks, "test_features.py", "test_live_call")
    for name in ("test_peer_talib_stream", "test_peer_talipp", "test_peer_nautilus"):
        peer = one(benchmarks, "test_features.py", name)
        if live is not None and peer is not None and "peer" in peer["extra"]:
            extra = peer["extra"]
            ours, theirs, count = live["extra"]["us_per_bar"], extra["us_per_bar"], extra["indicators"]
            what = f"one feature of a bar (ours 44 in {number(ours)} µs, peer {count} in {number(theirs)} µs)"
            pairs.append((what, "ns", ours / 44 * 1e3, extra["peer"], theirs / count * 1e3))
    return pairs + forests(benchmarks)


def forests(benchmarks: list[dict[str, Any]]) -> list[tuple[str, str, float, str, float]]:
    """Return the comparisons of 8 models on one row and on 600, and of the ways from a socket to the ring."""
    rows = {x["name"]: x for x in benchmarks if x["file"] == "test_forest.py"}
    pairs: list[tuple[str, str, float, str, float]] = []
    for start, what in (("test_one_row", "8 models on one row"), ("test_batch_of_600", "8 models on 600 rows")):
        ours = rows.get(f"{start}[vbmi]") or rows.get(start) or rows.get(f"{start}_packed")
        if ours is None:
            continue
        for name, x in rows.items():
            peer = name.removeprefix(f"{start}_").replace("_", " ")
            if name.startswith(f"{start}_") and x is not ours and "[" not in name:
                models = 8 if peer == "tl2cgen" else 1  # timed on one of the eight
                pairs.append((what, "µs", ours["min_s"] * 1e6, peer, x["min_s"] * 1e6 * models))
    market = {x["name"]: x["extra"] for x in benchmarks if x["file"] == "test_market.py"}
    for kind, what in (("book", "bookTicker"), ("kline", "kline")):
        ours_per_s = market.get(f"test_socket_to_ring[{kind}-picows]", {}).get("frames_per_cpu_second")
        for client in ("websockets", "aiohttp"):
            theirs = market.get(f"test_socket_to_ring[{kind}-{client}]", {}).get("frames_per_cpu_second")
            if ours_per_s and theirs:
                work = f"{what} frame, socket → ring (CPU time)"
                pairs.append((work, "ns", 1e9 / ours_per_s, f"{client} + our decoder", 1e9 / theirs))
    return pairs


def peer_section(pairs: list[tuple[str, str, float, str, float]]) -> str:
    """Return the table of comparisons."""
    if not pairs:
        return ""
    lines = ["## Beside peers", "", "![](benchmarks_peers.png)", "", "| work | ours | peer | theirs | theirs / ours |"]
    lines.append("|---|---:|---|---:|---:|")
    for what, unit, ours, peer, theirs in pairs:
        lines.append(f"| {what} | {number(ours)} {unit} | {peer} | {number(theirs)} {unit} | {theirs / ours:,.1f} |")
    return "\n".join(lines)


def run_section(runs: list[dict[str, Any]], taken: dict[str, Any]) -> str:
    """Return the table of recorded runs; `taken`: when."""
    if not runs:
        return ""
    lines = ["## Recorded runs: kline frame → decision", "", "![](benchmarks_percentiles.png)", ""]
    lines.append(
        "Engine, control and simulated exchange as processes on this machine, over sockets; the engine waits in epoll. "
        "A minute closes for all symbols at once, so a decision's time includes waiting for BTCUSDT's bar and for the "
        f"symbols before it in the burst. Measured at {when(taken)}."
    )
    lines += ["", "| replay | training job | symbols | decisions | load | p50 | p90 | p99 | p99.9 | max |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for run in runs:
        times = " | ".join(f"{number(run['frame_to_decision_us'][q])} µs" for q in SHOWN)
        beside = "beside" if run["training"] else "none"
        lines.append(
            f"| {run['speed']:g} × | {beside} | {run['symbols']} | {run['decisions']:,} | {run['load']} | {times} |"
        )
    lines += ["", "The engine's own stage histograms of the same runs, p50 / p99 in µs:", ""]
    stages = [name for name in runs[0]["stages_us"] if not name.startswith("late_")]
    lines.append("| replay | training job | " + " | ".join(f"`{name}`" for name in stages) + " |")
    lines.append("|---|---|" + "---:|" * len(stages))
    for run in runs:
        cells = []
        for name in stages:
            stage = run["stages_us"].get(name)
            cells.append(f"{number(stage['p50'])} / {number(stage['p99'])}" if stage else "")
        lines.append(f"| {run['speed']:g} × | {'beside' if run['training'] else 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spaced_section(cases: list[dict[str, Any]], taken: dict[str, Any]) -> str:
    """Return the table of one symbol's evenly spaced frames; `taken`: when, and what else the machine did."""
    if not cases:
        return ""
    lines = ["## One frame at a time: kline frame → decision", ""]
    lines.append(
        "`benchmarks.percentiles`: a process sends the closing frames of one symbol evenly spaced, every 100 ms at 1 × "
        "and every 10 ms at 10 ×. The receiver sleeps in epoll and rehearses every "
        f"{PAUSE_NS // 1_000} µs when a timer wakes it (`epoll`), sleeps in "
        "epoll without rehearsals (`epoll_cold`), or spins and rehearses as often on a core of its own, sender and job "
        "on the other (`busy_poll` with `cpu`). The engine in epoll rehearses from "
        f"{BEFORE_MS} ms before a minute's end to {AFTER_MS:,} ms after it; each frame here stands for one that ends a "
        "minute, so that window is open all the time. A closing frame that comes after the window meets what "
        "`epoll_cold` shows. The times are from the frame in the callback to the decision; beside them what a frame "
        "takes from the sender's send to the callback: socket, the kernel's wake-up of an idle core, event loop, frame "
        f"parser. Measured at {when(taken)}."
    )
    lines += [
        "",
        "| waiting | replay | training job | decisions | min | p50 | p90 | p99 | p99.9 | to the callback, p50 / p99 |",
    ]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for x in cases:
        times = " | ".join(f"{number(x[name])} µs" for name in ("min_us", "p50_us", "p90_us", "p99_us", "p999_us"))
        beside = "beside" if x["training_beside"] else "none"
        wire = f"{number(x['wire_p50_us'])} / {number(x['wire_p99_us'])} µs"
        lines.append(f"| {x['wait']} | {x['speed']} | {beside} | {x['decisions']:,} | {times} | {wire} |")
    return "\n".join(lines)


def gate_section(text: str, loaded: str) -> str:
    """Return what the gate printed, by itself and beside a busy loop for every core."""
    shown = f"## Regression gate\n\n`make bench-check` in this run:\n\n```\n{text}\n```" if text else ""
    if loaded:
        shown += f"\n\nThree runs in a row beside a busy loop for every core:\n\n```\n{loaded}\n```"
    return shown


def instruction_section(text: str, taken: dict[str, Any]) -> str:
    """Return the instruction counts: they do not depend on the machine's load."""
    if not text:
        return ""
    how = "`make bench-instructions`: callgrind; kernels are compiled without AVX-512, the forest is its portable form."
    return f"## Instructions\n\n{how} Measured at {when(taken)}.\n\n```\n{text}\n```"


def gain_section() -> str:
    """Return the table of tuning steps."""
    if not GAINS.exists():
        return ""
    steps = tomllib.loads(GAINS.read_text())["step"]
    lines = ["## What tuning gained", "", "| date | step | path | before | after |", "|---|---|---|---:|---:|"]
    lines += [f"| {x['date']} | {x['what']} | {x['path']} | {x['before']} | {x['after']} |" for x in steps]
    return "\n".join(lines)


def everything(benchmarks: list[dict[str, Any]], commit: str) -> str:
    """Return all benchmarks, a table per file; marked: those of another commit than the page's."""
    lines, notes = ["## All benchmarks"], Notes(commit)
    for file in sorted({x["file"] for x in benchmarks}):
        lines += ["", f"### `benchmarks/{file}`", "", "| benchmark | min | median | rounds | figures |"]
        lines.append("|---|---:|---:|---:|---|")
        for x in benchmarks:
            if x["file"] == file:
                figures = "; ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in x["extra"].items())
                name = x["name"].removeprefix("test_").replace("_", " ") + notes.mark(x.get("taken", {}))
                lines.append(f"| {name} | {span(x['min_s'])} | {span(x['median_s'])} | {x['rounds']} | {figures} |")
    return "\n".join([*lines, *notes.lines()])


def shown(value: Any) -> str:
    """Return a figure of any kind as text without table bars."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(x)}" for name, x in value.items())
    return str(value).replace("|", "/")


def number(value: float) -> str:
    """Return three significant digits, thousands separated."""
    if value != 0 and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def span(seconds: float) -> str:
    """Return a duration in the unit that reads best."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{number(seconds * scale)} {unit}"
    return f"{number(seconds * 1e9)} ns"


def plot_peers(pairs: list[tuple[str, str, float, str, float]], path: Path) -> None:
    """Draw how many times longer each peer takes, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.34 * len(pairs) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    ratios = [theirs / ours for *_, ours, _, theirs in pairs]
    names = [f"{what}\n{peer}" for what, _, _, peer, _ in pairs]
    axes.barh(range(len(pairs)), ratios, color=["#3b6ea5" if ratio >= 1 else "#b5543c" for ratio in ratios])
    axes.set_yticks(range(len(pairs)), names, fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of the peer / our time")
    for at, ratio in enumerate(ratios):
        axes.annotate(f" {ratio:,.1f}", (ratio, at), va="center", fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def plot_runs(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw each run's quantiles; the axis stretches towards 1 so that the tail can be read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        points = [(float(q), us) for q, us in run["frame_to_decision_us"].items() if float(q) < 1]
        label = f"{run['speed']:g} ×{', training beside' if run['training'] else ''}"
        style = "--" if run["training"] else "-"
        axes.plot(
            [1 / (1 - q) for q, _ in points], [us for _, us in points], style, marker="o", markersize=3, label=label
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 10, 100, 1_000], ["min", "p50", "p90", "p99", "p99.9"])
    axes.minorticks_off()
    axes.set_ylabel("kline frame → decision, µs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
