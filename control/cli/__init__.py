"""The `ta` command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from control.cli.app import run

    run()
