"""Reference pages made from the code: keys, endpoints, commands. `python -m control.reference` writes them.

A page keeps its prose; what stands between the markers is replaced. A test fails when a page is not current.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- generated: python -m control.reference -->", "<!-- end of the generated part -->"


def configuration() -> str:
    """Return a table per section of every key, its environment variable, type, default and meaning."""
    from engine.config import Config

    parts = [_section("general", Config, "")]
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(_section(name, field.annotation, name))
    return "\n\n".join(parts)


def _section(title: str, model: type[BaseModel], prefix: str) -> str:
    lines = [f"## {title}", ""]
    if prefix and model.__doc__:
        lines += [" ".join(model.__doc__.split()), ""]
    lines += ["| key | environment | type | default | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        variable = "TA_" + (f"{prefix.upper()}__" if prefix else "") + name.upper()
        limits = ", ".join(_limit(item) for item in field.metadata)
        kind = _type(field.annotation) + (f", {limits}" if limits else "")
        lines.append(f"| `{name}` | `{variable}` | {kind} | {_default(field)} | {field.description or ''} |")
    return "\n".join(lines)


def _limit(item: Any) -> str:
    for name, sign in (
        ("ge", "≥"),
        ("gt", ">"),
        ("le", "≤"),
        ("lt", "<"),
        ("max_length", "at most"),
        ("pattern", "like"),
    ):
        value = getattr(item, name, None)
        if value is not None:
            return f"{sign} `{value}`" if name == "pattern" else f"{sign} {value}"
    return str(item)


def _type(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    if text is None or "[" in str(annotation):
        text = str(annotation).replace("typing.", "").replace("pydantic.types.", "").replace("pathlib.", "")
    return text.replace("SecretStr", "secret").replace("|", "\\|")


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return ""
    value = field.default
    if isinstance(value, SecretStr):
        return ""
    return f"`{value}`" if value not in ("", []) else "empty"


def endpoints() -> str:
    """Return a table of every endpoint: method, path, scope, what it does."""
    from litestar.handlers import HTTPRouteHandler

    from control.app import ROUTES

    lines = ["| method | path | scope | |", "|---|---|---|---|"]
    for handler in ROUTES:
        path = sorted(handler.paths)[0]
        scope = "open" if handler.opt.get("public") else str(handler.opt.get("needs", "read"))
        if not isinstance(handler, HTTPRouteHandler):
            lines.append(f"| WebSocket | `{path}` | {scope} | live push |")
            continue
        shown = path.replace(":str", "").replace(":path", "")
        for method in sorted(handler.http_methods - {"HEAD", "OPTIONS"}):
            what = handler.summary if isinstance(handler.summary, str) else "the dashboard's files"
            lines.append(f"| {method} | `{shown}` | {scope} | {what} |")
    return "\n".join(lines)


def commands() -> str:
    """Return a table of every command with its options and first line of help."""
    import typer

    from control.cli.app import app, load_groups

    load_groups()
    root = typer.main.get_command(app)
    lines = ["| command | options | |", "|---|---|---|"]

    def walk(command: Any, names: list[str]) -> None:
        if hasattr(command, "commands"):
            for name in sorted(command.commands):
                walk(command.commands[name], [*names, name])
            return
        given = [
            f"`{(item.name or '').upper()}`" if item.param_type_name == "argument" else f"`{item.opts[0]}`"
            for item in command.params
            if item.name != "help"
        ]
        text = (command.help or "").strip().split("\n")[0]
        lines.append(f"| `{' '.join(names)}` | {' '.join(given)} | {text} |")

    walk(root, ["ta"])
    return "\n".join(lines)


def gates() -> str:
    """Return a table of every gate: what it means and the keys that decide about it."""
    from control.gates import known

    lines = ["| gate | the entry was refused because | configuration |", "|---|---|---|"]
    for gate in known():
        keys = ", ".join(f"`{key}`" for key in gate.settings)
        lines.append(f"| `{gate.name}` | {gate.meaning} | {keys} |")
    return "\n".join(lines)


PAGES = {"configuration.md": configuration, "api.md": endpoints, "operations.md": commands, "gates.md": gates}


def current(page: str) -> str:
    """Return the text that `page` should have: its prose with the generated part renewed."""
    text = (DOCS / page).read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{PAGES[page]()}\n\n{END}{after}"


def main() -> None:
    """Write every page."""
    for page in PAGES:
        (DOCS / page).write_text(current(page))


if __name__ == "__main__":
    main()
