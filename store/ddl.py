"""Statements from the schema: for the embedded store, a server, or a cluster by substitution."""

from __future__ import annotations

from dataclasses import dataclass

from store.schema import Column, Table

DEDUPLICATION_WINDOW = 10_000  # inserts whose token is remembered per table; without it a token is silently ignored
DURABLE = frozenset({"orders", "fills", "positions", "trades", "commands"})


@dataclass(frozen=True)
class Layout:
    """Where the tables live. With `cluster`, each is a replicated local table plus a distributed one of its name."""

    database: str = "ta"
    cluster: str = ""
    retention_days: int = 0

    @property
    def on_cluster(self) -> str:
        return f" ON CLUSTER '{self.cluster}'" if self.cluster else ""

    def local(self, table: str) -> str:
        """Return the name of the table that holds the rows."""
        return f"{table}_local" if self.cluster else table


def create_database(layout: Layout) -> str:
    """Return the statement; Atomic, since chdb's default engine is an overlay."""
    return f"CREATE DATABASE IF NOT EXISTS `{layout.database}`{layout.on_cluster} ENGINE = Atomic"


def create_table(table: Table, layout: Layout) -> list[str]:
    """Return the statements that make `table`, idempotent."""
    columns = ",\n  ".join([column.ddl for column in table.columns] + [_index(name) for name in table.indexes])
    name = f"`{layout.database}`.`{layout.local(table.name)}`"
    lines = [
        f"CREATE TABLE IF NOT EXISTS {name}{layout.on_cluster}\n(\n  {columns}\n)",
        f"ENGINE = {_engine(table, layout)}",
    ]
    if table.partition:
        lines.append(f"PARTITION BY toYYYYMM(`{table.partition}`)")
    lines.append("ORDER BY (" + ", ".join(f"`{name}`" for name in table.order) + ")")
    if ttl := _ttl(table, layout):
        lines.append(f"TTL {ttl}")
    lines.append("SETTINGS " + ", ".join(_settings(table, layout)))
    statements = ["\n".join(lines)]
    if layout.cluster:
        statements.append(
            f"CREATE TABLE IF NOT EXISTS `{layout.database}`.`{table.name}`{layout.on_cluster} "
            f"AS `{layout.database}`.`{layout.local(table.name)}` "
            f"ENGINE = Distributed('{layout.cluster}', '{layout.database}', '{layout.local(table.name)}', "
            f"cityHash64({_shard(table)}))"
        )
    return statements


def add_column(table: Table, column: Column, after: str, layout: Layout) -> list[str]:
    """Return the statements that add one column behind `after` (empty: first)."""
    where = f"AFTER `{after}`" if after else "FIRST"
    return _alter(
        table, layout, f"ADD COLUMN IF NOT EXISTS {column.ddl} {where}", f"`{column.name}` {column.type} {where}"
    )


def add_index(table: Table, column: str, layout: Layout) -> list[str]:
    """Return the statements that give a table that has rows already an index on one time column."""
    prefix = f"ALTER TABLE `{layout.database}`.`{layout.local(table.name)}`{layout.on_cluster}"
    return [f"{prefix} ADD {_index(column, 'IF NOT EXISTS ')}", f"{prefix} MATERIALIZE INDEX `by_{column}`"]


def _index(column: str, unless: str = "") -> str:
    return f"INDEX {unless}`by_{column}` `{column}` TYPE minmax GRANULARITY 1"


def modify_column(table: Table, column: Column, layout: Layout) -> list[str]:
    """Return the statements that change a column's type."""
    prefix = f"ALTER TABLE `{layout.database}`."
    statements = [f"{prefix}`{layout.local(table.name)}`{layout.on_cluster} MODIFY COLUMN {column.ddl}"]
    if layout.cluster:
        statements.append(f"{prefix}`{table.name}`{layout.on_cluster} MODIFY COLUMN `{column.name}` {column.type}")
    return statements


def modify_ttl(table: Table, layout: Layout, present: bool) -> list[str]:
    """Return the statements that bring the table's retention to what the layout says."""
    name = f"`{layout.database}`.`{layout.local(table.name)}`{layout.on_cluster}"
    ttl = _ttl(table, layout)
    if ttl:
        return [f"ALTER TABLE {name} MODIFY TTL {ttl}"]
    return [f"ALTER TABLE {name} REMOVE TTL"] if present else []


def _alter(table: Table, layout: Layout, change: str, plain: str) -> list[str]:
    statements = [f"ALTER TABLE `{layout.database}`.`{layout.local(table.name)}`{layout.on_cluster} {change}"]
    if layout.cluster:  # a Distributed table stores nothing: no codec
        statements.append(
            f"ALTER TABLE `{layout.database}`.`{table.name}`{layout.on_cluster} ADD COLUMN IF NOT EXISTS {plain}"
        )
    return statements


def _engine(table: Table, layout: Layout) -> str:
    version = f"`{table.version}`" if table.version else ""
    kind = "ReplacingMergeTree" if table.version else "MergeTree"
    if not layout.cluster:
        return f"{kind}({version})"
    where = f"'/clickhouse/tables/{{shard}}/{layout.database}/{table.name}', '{{replica}}'"
    return f"Replicated{kind}({where}{', ' + version if version else ''})"


def _shard(table: Table) -> str:
    names = table.by_name
    return next((f"`{name}`" for name in ("symbol", "run_id", *table.order) if name in names), "1")


def _ttl(table: Table, layout: Layout) -> str:
    if table.retained or not layout.retention_days or not table.partition:
        return ""
    return f"toDateTime(`{table.partition}`) + toIntervalDay({layout.retention_days})"


def _settings(table: Table, layout: Layout) -> list[str]:
    window = "replicated_deduplication_window" if layout.cluster else "non_replicated_deduplication_window"
    settings = [f"{window} = {DEDUPLICATION_WINDOW}"]
    if table.name in DURABLE:
        settings += ["fsync_after_insert = 1", "fsync_part_directory = 1"]
    return settings
