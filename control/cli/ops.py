"""The operator's commands: status, start, stop, kill, flatten, close, control. Only the last needs no engine."""

from __future__ import annotations

import enum
import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from control.cli.app import Settings, fail, settings
from engine.config import Config
from engine.link import holder

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]
out = Console()
STATES = {  # what to do about a state in which nothing is entered
    "stopped": ": no entries; `ta start` opens a session",
    "reduce_only": ": exits alone; `ta start` opens a session",
    "halted": ": no entries; `ta start --clear-halt`, once the cause is understood",
}


class LogName(enum.StrEnum):
    """Whose log."""

    engine = "engine"
    control = "control"
    watchdog = "watchdog"


def register(app: typer.Typer) -> None:
    """Add the commands to `ta`."""
    app.command()(status)
    app.command()(logs)
    app.command()(start)
    app.command()(stop)
    app.command()(flatten)
    app.command()(close)
    app.command()(kill)
    app.command()(halt)
    app.command(name="settings")(settings_)
    app.command(name="control")(control_)


def status(as_json: AsJson = False) -> None:
    """Show mode, session, equity, positions and health. Exit code 1 when no engine is alive."""
    from control.cli.local import status_document

    document = status_document(settings())
    engine = document["engine"]
    if as_json:
        print(json.dumps(document))
    elif engine is None:
        fail(_absent(settings()), code=1)
    else:
        _print_status(document, settings())
    if engine is None or not engine["alive"]:
        raise typer.Exit(1)


def _absent(config: Config) -> str:
    """Say why there is nothing to show yet."""
    pid = holder(config.data_dir)
    if pid:
        return (
            f"the engine (pid {pid}) is still starting; what it does is in its log ({config.data_dir}/logs with ta up)"
        )
    return "no engine has run on this data folder; `ta up` starts one"


def _beat(engine: dict[str, Any], config: Config) -> str:
    if engine["alive"]:
        return "alive"
    pid, ago = holder(config.data_dir), f"{engine['heartbeat_age_ms'] / 1_000:.0f} s"
    if pid == engine["pid"]:
        return f"NOT ANSWERING for {ago} (last seen below)"
    return (
        f"gone for {ago}; pid {pid} is starting (last seen below)"
        if pid
        else f"NOT RUNNING for {ago} (last seen below)"
    )


def _print_status(document: dict[str, Any], config: Config) -> None:
    from control.present import plain

    engine, table = document["engine"], Table(show_header=False, box=None, pad_edge=False)
    beat = _beat(engine, config)
    control = document["control"]
    rows = [
        ("engine", f"{engine['engine_id']}, pid {engine['pid']}, {beat}"),
        ("mode", engine["mode"]),
        ("state", engine["state"] + STATES.get(engine["state"], "")),
        ("model", f"{engine['model_id']}, served by {engine['backend']}" if engine["model_id"] else "none"),
        ("equity", _usdt(engine["equity_usdt"])),
        ("today", _usdt(engine["day_pnl_usdt"])),
        ("symbols", f"{engine['symbols_ready']} of {engine['symbols']} ready"),
        ("signals", f"{engine['counters']['signals']}, entries {engine['counters']['entries']} (since its start)"),
        ("trades", f"{engine['counters']['trades']} (since its start)"),
        ("control", "answers" if control["answers"] else "does not answer (the engine trades without it)"),
    ]
    for name, value in rows:
        table.add_row(f"[dim]{name}[/dim]", value)
    for alarm in document["alarms"]:
        colour = "red" if alarm["severity"] == "critical" else "yellow"
        table.add_row(f"[{colour}]alarm[/]", f"{alarm['says']} [dim](run-book: {alarm['name']})[/dim]")
    out.print(table)
    held = document["positions"]
    if held:
        listed = Table("symbol", "side", "qty", "entry", "mark", "result", "to SL", "to TP", box=None, pad_edge=False)
        for item in held:
            listed.add_row(
                item["symbol"], item["side"], plain(item["qty"]), plain(item["entry_price"]),
                plain(item["mark_price"]),
                _usdt(item["unrealised_usdt"]), _percent(item["to_sl"]), _percent(item["to_tp"]),
            )  # fmt: skip
        out.print(listed)
    else:
        out.print("no open positions")
    working = document["open_orders"]
    if working:
        listed = Table("open order", "", "type", "state", "route", "qty", "price", "age", box=None, pad_edge=False)
        for item in working:
            listed.add_row(
                item["symbol"], f"{'buy' if item['side'] == 'long' else 'sell'} ({item['reason']})",
                item["type"].replace("_", " "), item["state"].replace("_", " "), item["route"] or "–",
                "all" if item["qty"] is None else plain(item["qty"]),
                "market" if item["price"] is None else plain(item["price"]), _age(item["created_ms"], engine),
            )  # fmt: skip
        out.print(listed)


def _age(created_ms: int | None, engine: dict[str, Any]) -> str:
    return "–" if created_ms is None else f"{max(0, engine['exchange_ms'] - created_ms) / 1_000:,.0f} s"


def _usdt(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.2f} USDT"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _confirmed(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Not a terminal: repeat with --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _report(result: dict[str, Any], said: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"ok": True, "result": result}))
    else:
        out.print(said)


def logs(
    name: Annotated[LogName, typer.Argument(help="whose log")] = LogName.engine,
    lines: Annotated[int, typer.Option(min=1, max=2_000, help="how many of the newest lines")] = 40,
    as_json: AsJson = False,
) -> None:
    """Show the end of a process's log, as `ta up` keeps it in the data folder."""
    from control.logs import redact, tail

    path = settings().data_dir / "logs" / f"{name.value}.log"
    found = [redact(line) for line in tail(path, lines)]
    if as_json:
        print(json.dumps({"name": name.value, "path": str(path), "lines": found}))
    elif not found:
        fail(f"nothing in {path}: `ta up` writes it; a service's log is with its supervisor", code=1)
    else:
        print("\n".join(found))


def start(
    yes: Yes = False,
    clear_halt: Annotated[bool, typer.Option("--clear-halt", help="the cause of a halt has been looked at")] = False,
    as_json: AsJson = False,
) -> None:
    """Open a trading session: entries are allowed. In live mode it asks first."""
    from control.cli.local import read_engine, send
    from kernels.records import Mode

    config = settings()
    view = read_engine(config)
    if view is not None and view.status["mode"][0] == Mode.LIVE:
        _confirmed("This starts trading with real money. Go on?", yes)
    args = {"clear_halt": True} if clear_halt else {}
    _report(send(config, "start", args), "session open: entries are allowed", as_json)


def stop(as_json: AsJson = False) -> None:
    """Close the session: no new entries, open positions keep their guards."""
    from control.cli.local import send

    _report(send(settings(), "stop"), "session closed: no new entries, positions keep their guards", as_json)


def flatten(yes: Yes = False, as_json: AsJson = False) -> None:
    """Close everything this system opened, at the market, and stop entries. A live engine goes down its kill ladder."""
    from control.cli.local import read_engine, send
    from kernels.records import Mode

    config = settings()
    view = read_engine(config)
    count = 0 if view is None else int(view.status["open_positions"][0])
    _confirmed(f"This closes {count} open positions at the market and stops entries. Go on?", yes)
    live = view is not None and view.status["mode"][0] == Mode.LIVE
    result = send(config, "kill", {"until": "flatten"}) if live else send(config, "flatten")
    _report(result, "flatten acknowledged: exits are on their way, entries are stopped", as_json)


def halt(yes: Yes = False, as_json: AsJson = False) -> None:
    """Stop entries until a start that clears the halt; stops and exits of open positions still work."""
    from control.cli.local import send

    _confirmed("Halt? Starting again then needs the halt to be cleared.", yes)
    _report(send(settings(), "halt"), "halted: no entries until a start that clears the halt", as_json)


def settings_(as_json: AsJson = False) -> None:
    """Show the configuration in force, without secrets, and the hash of what can change a decision."""
    from control.present import shown

    config = settings()
    values = shown(config)
    if as_json:
        print(json.dumps({"config_hash": config.hash(), "values": values}))
        return
    for section, inside in values.items():
        for key, value in inside.items() if isinstance(inside, dict) else [("", inside)]:
            out.print(f"{section}{'.' if key else ''}{key} = {json.dumps(value)}", highlight=False, soft_wrap=True)
    out.print(f"[dim]hash[/dim] {config.hash()}")


class Until(enum.StrEnum):
    """Steps of the kill ladder, gentlest first."""

    PAUSE = "pause"
    REDUCE_ONLY = "reduce_only"
    CANCEL = "cancel"
    FLATTEN = "flatten"


def kill(
    until: Annotated[Until, typer.Option(help="how far down the ladder; each step includes the ones before")],
    wait_s: Annotated[float, typer.Option("--wait", min=0.0, max=600.0, help="seconds to wait for it to hold")] = 30.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Go down the kill ladder: pause entries, reduce-only, cancel own entries, flatten; prints when each step held.

    Exit code 1 when it does not hold within the wait: the engine goes on trying, `ta status` shows what is left.
    """
    from control.cli.local import send

    config = settings()
    if until in (Until.CANCEL, Until.FLATTEN):
        does = "cancels open entries" if until is Until.CANCEL else "cancels open entries and closes every position"
        _confirmed(f"This stops entries, {does}. Go on?", yes)
    report = send(config, "kill", {"until": until.value})["kill"]
    deadline = time.monotonic() + wait_s
    while report["running"] and time.monotonic() < deadline:
        time.sleep(0.1)
        report = send(config, "kill_report")
    if as_json:
        print(json.dumps({"ok": not report["running"], "result": report}))
    else:
        for step in list(Until)[: list(Until).index(until) + 1]:
            took = report["took_ms"].get(step.value)
            out.print(f"{step.value:12s} {'does not hold yet' if took is None else f'held after {took} ms'}")
    if report["running"]:
        raise typer.Exit(1)


def close(
    symbol: Annotated[str, typer.Argument(help="for example BTCUSDT")], yes: Yes = False, as_json: AsJson = False
) -> None:
    """Close one position at the market."""
    from control.cli.local import send

    name = symbol.upper()
    _confirmed(f"This closes the position in {name} at the market. Go on?", yes)
    _report(send(settings(), "close", {"symbol": name}), f"close of {name} acknowledged", as_json)


def control_(
    port: Annotated[int | None, typer.Option(help="port of API and dashboard")] = None,
    host: Annotated[str | None, typer.Option(help="address to bind; not loopback needs TLS or --behind-proxy")] = None,
    behind_proxy: Annotated[bool, typer.Option("--behind-proxy", help="a proxy in front terminates TLS")] = False,
) -> None:
    """Serve the API and the dashboard, follow the journal, run jobs. Works without an engine."""
    from control.main import serve

    given = {"port": port, "host": host, "behind_proxy": behind_proxy or None}
    changed = {key: value for key, value in given.items() if value is not None}
    serve(settings(**({"control": changed} if changed else {})), Settings.file)
