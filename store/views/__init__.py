"""Views for analytics: one .sql file each, named like the view behind a number that orders them.

The first line says what the view answers. `{gates}` and `{features}` stand for what the record dtypes and the feature
schema name, so that a view never lags behind them.
"""

from __future__ import annotations

from pathlib import Path

from kernels.records import GATES
from kernels.schema import NAMES


def views() -> dict[str, str]:
    """Return the body of every view by name, in the order of creation (a view may use an earlier one)."""
    gates = "[" + ", ".join(f"'{name}'" for name in GATES) + "]"
    features = "[" + ", ".join(f"('{name}', `{name}`)" for name in NAMES) + "]"
    return {
        file.stem.split("-", 1)[-1]: file.read_text().replace("{gates}", gates).replace("{features}", features)
        for file in sorted(Path(__file__).parent.glob("*.sql"))
    }


def meanings() -> dict[str, str]:
    """Return what each view answers, by name."""
    return {name: body.splitlines()[0].removeprefix("-- ") for name, body in views().items()}
