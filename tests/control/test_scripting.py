"""Everything the dashboard can do can be scripted: the table in docs/operations.md, held against page, API and `ta`."""

from __future__ import annotations

import re
from typing import Any

import typer.main

from control.cli.app import app, load_groups
from tests.control.browser import ROOT

SOURCES = ROOT / "control" / "dashboard" / "src"
ROW = re.compile(r"^\| ([^|]+) \| `(GET|POST|WebSocket) (/api[^`]*)` \| ([^|]+) \|$", re.M)


def table() -> list[tuple[str, str, str, str]]:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("## Scripting") : text.index("## Backup")]
    return ROW.findall(section)


def plain(path: str) -> str:
    """Return a path with every variable part as `{}`."""
    return re.sub(r"\$\{[^}]*\}|\{[^}]*\}", "{}", path).split("?")[0].rstrip("/")


def used_by_the_page() -> set[str]:
    found = set()
    for source in SOURCES.rglob("*.ts"):
        found |= {plain(path) for path in re.findall(r'["`](/api/[^"`]*)', source.read_text())}
    return found


def test_each_thing_the_page_asks_for_is_in_the_table() -> None:
    listed = {plain(path) for _, _, path, _ in table()}
    assert used_by_the_page() - listed == set()


def test_each_line_names_an_endpoint_and_commands_that_exist(client: Any) -> None:
    load_groups()
    tree = typer.main.get_command(app)
    paths = client.get("/schema").json()["paths"]
    known = {(method.upper(), plain(path)) for path, operations in paths.items() for method in operations}
    known.add(("WebSocket", "/api/live"))
    for what, method, path, commands in table():
        assert (method, plain(path)) in known, what
        named = re.findall(r"`ta ([a-z-]+)(?: ([a-z-]+))?", commands)
        assert named, f"{what}: no command"
        for first, second in named:
            command = tree.commands.get(first)  # type: ignore[attr-defined]
            assert command is not None, f"{what}: ta {first}"
            if second and hasattr(command, "commands"):
                assert second in command.commands, f"{what}: ta {first} {second}"


def test_each_command_of_the_table_that_shows_something_can_say_it_in_json() -> None:
    load_groups()
    tree = typer.main.get_command(app)
    for what, _, _, commands in table():
        for first, second in re.findall(r"`ta ([a-z-]+)(?: ([a-z-]+))?", commands):
            command = tree.commands[first]  # type: ignore[attr-defined]
            command = command.commands[second] if second and hasattr(command, "commands") else command
            options = {option for item in command.params for option in item.opts}
            assert "--json" in options, f"{what}: ta {first} {second}"
