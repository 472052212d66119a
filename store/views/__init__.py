"""Views for analytics: one .sql file each, named like the view; the first comment line says what it answers."""

from __future__ import annotations

from pathlib import Path


def views() -> dict[str, str]:
    """Return the body of every view by name, in the order of creation (a view may use an earlier one)."""
    return {file.stem.split("-", 1)[-1]: file.read_text() for file in sorted(Path(__file__).parent.glob("*.sql"))}
