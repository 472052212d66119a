"""Bring a database to the schema of this release: create what is missing, add columns, change types, renew views.

The schema is declared once (`store.schema`, derived from the record dtypes); the difference to what the database has is
computed, applied and recorded, statement by statement, in `schema_migrations`. Columns that a newer release added are
left alone, so two releases can share a server. Nothing is ever dropped but views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from store import ddl, native
from store.ddl import Layout
from store.schema import Column, Table, tables
from store.views import views

LEDGER = Table(
    "schema_migrations",
    (
        Column("schema_hash", "String"),
        Column("step", "UInt32"),
        Column("applied_time", "DateTime64(3, 'UTC')"),
        Column("statement", "String"),
    ),
    ("schema_hash", "step"),
    "",
    "applied_time",
)


@dataclass(frozen=True)
class Door:
    """How the migrator reaches a database: a command, a query returning rows, and an insert of one Native block."""

    command: Callable[[str], object]
    rows: Callable[[str], list[tuple]]
    insert: Callable[[str, list[str], bytes], object]


def schema_hash(layout: Layout) -> str:
    """Return a hash over every statement that makes the schema from nothing."""
    return hashlib.blake2b("\n".join(render(layout)).encode(), digest_size=16).hexdigest()


def render(layout: Layout) -> list[str]:
    """Return every statement that makes the schema from nothing, in order."""
    statements = [ddl.create_database(layout)]
    for table in (LEDGER, *tables().values()):
        statements += ddl.create_table(table, layout)
    for name, body in views().items():
        statements.append(f"CREATE OR REPLACE VIEW `{layout.database}`.`{name}`{layout.on_cluster} AS {body}")
    return statements


def migrate(door: Door, layout: Layout, now_ms: int) -> list[str]:
    """Apply what is missing and return the applied statements (none: the database is up to date)."""
    door.command(ddl.create_database(layout))
    for statement in ddl.create_table(LEDGER, layout):
        door.command(statement)
    target = schema_hash(layout)
    ledger = f"`{layout.database}`.`{LEDGER.name}`"
    newest = door.rows(f"SELECT schema_hash FROM {ledger} ORDER BY applied_time DESC, step DESC LIMIT 1")
    if newest and newest[0][0] == target:
        return []
    statements = difference(door, layout)
    for statement in statements:
        door.command(statement)
    _record(door, layout, target, statements, now_ms)
    return statements


def difference(door: Door, layout: Layout) -> list[str]:
    """Return the statements between the database as it is and the schema."""
    present: dict[str, dict[str, str]] = {}
    for table_name, name, kind in door.rows(
        f"SELECT table, name, type FROM system.columns WHERE database = '{layout.database}' ORDER BY table, position"
    ):
        present.setdefault(table_name, {})[name] = kind
    expiring = {
        name
        for (name,) in door.rows(
            f"SELECT name FROM system.tables WHERE database = '{layout.database}' "
            "AND position(create_table_query, ' TTL ') > 0"
        )
    }
    indexed = set(
        door.rows(f"SELECT table, name FROM system.data_skipping_indices WHERE database = '{layout.database}'")
    )
    statements: list[str] = []
    for table in tables().values():
        have = present.get(layout.local(table.name))
        if have is None:
            statements += ddl.create_table(table, layout)
            continue
        statements += _columns(table, have, layout)
        for name in table.indexes:
            if (layout.local(table.name), f"by_{name}") not in indexed:
                statements += ddl.add_index(table, name, layout)
        expires = layout.local(table.name) in expiring
        if expires or (layout.retention_days and not table.retained):
            statements += ddl.modify_ttl(table, layout, expires)
    statements += [
        f"CREATE OR REPLACE VIEW `{layout.database}`.`{name}`{layout.on_cluster} AS {body}"
        for name, body in views().items()
    ]
    return statements


def _columns(table: Table, have: dict[str, str], layout: Layout) -> list[str]:
    statements: list[str] = []
    previous = ""
    for column in table.columns:
        if column.name not in have:
            statements += ddl.add_column(table, column, previous, layout)
        elif _plain(have[column.name]) != _plain(column.type):
            statements += ddl.modify_column(table, column, layout)
        previous = column.name
    return statements


def _plain(kind: str) -> str:
    return kind.replace(" ", "")


def _record(door: Door, layout: Layout, target: str, statements: list[str], now_ms: int) -> None:
    listed = statements or ["-- nothing to change"]
    rows = len(listed)
    kinds = {column.name: column.type for column in LEDGER.columns}
    block = native.block(
        {
            "schema_hash": (kinds["schema_hash"], target),
            "step": (kinds["step"], np.arange(rows)),
            "applied_time": (kinds["applied_time"], np.full(rows, now_ms)),
            "statement": (kinds["statement"], listed),
        },
        rows,
    )
    door.insert(f"`{layout.database}`.`{LEDGER.name}`", list(kinds), block)
