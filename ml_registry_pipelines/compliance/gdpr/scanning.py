"""Looking for personal identifiers where none are declared: bounded samples, and counts as the answer.

Values are looked at in memory and never kept, told or logged. What can be found, and that names
cannot, is in `pii.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.gdpr import pii
from ml_registry_pipelines.compliance.gdpr.columns import (
    CataloguedColumn,
    Holds,
    columns_of_version,
    declared_columns,
    newest_versions,
)
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lineage.contents import UNREAD, read_content
from ml_registry_pipelines.lineage.fingerprints import DatasetUnreadable

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.declarations import Table
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.view import View

ROWS_READ = 20_000
"""Rows of a table or dataset among which values are drawn."""
MOST_CHARACTERS = 200_000
"""Of one column: Presidio reads some 50,000 a second."""
SEED = 20_160_679
FOLDED = frozenset(
    {"things", "relationships", "model_versions", "approvals", "idempotency_keys", "lineage_index"}
)
"""Projections of the log: what is in them is in the log."""


@dataclass(frozen=True)
class Scanned:
    """What a look at one column came to. `problem`: why it could not be looked at."""

    column: str
    looked_at: int
    hits: int
    kinds: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    problem: str = ""
    whole: bool = False
    """Whether every value of the column was looked at, so that the share is no estimate."""


def scan(
    lake: Lake,
    view: View,
    *,
    sample: int,
    kinds: Sequence[str],
    only: Iterable[str] | None = None,
) -> list[Scanned]:
    """Look through text columns that are declared to hold nothing personal.

    Args:
        sample: distinct values of a column that are looked at, at most.
        kinds: of `pii.KINDS`.
        only: names of tables and datasets; None: all that have rows.
    """
    wanted = None if only is None else set(only)
    return [
        *_tables(lake, view.tenant, sample, kinds, wanted),
        *_datasets(lake, view, sample, kinds, wanted),
    ]


def look(given: set[str], column: str, *, sample: int, rows: int, kinds: Sequence[str]) -> Scanned:
    """Count identifiers among distinct values of the first rows, as far as sample and `MOST_CHARACTERS` reach."""
    values = _drawn(given, sample)
    found: Counter[str] = Counter()
    looked = characters = hits = 0
    for value in values:
        if characters > MOST_CHARACTERS:
            break
        characters += min(len(value), pii.LONGEST)
        looked += 1
        there = {finding.kind for finding in pii.find(value, kinds=kinds)}
        hits += bool(there)
        found.update(there)
    whole = looked == len(given) and rows < ROWS_READ and all(len(v) <= pii.LONGEST for v in values)
    return Scanned(column, looked, hits, dict(found), rows, whole=whole)


def _tables(
    lake: Lake, tenant: str, sample: int, kinds: Sequence[str], only: set[str] | None
) -> Iterator[Scanned]:
    for table in TABLES.values():
        if (
            table.name in FOLDED
            or (only is not None and table.name not in only)
            or not lake.exists(table.name)
        ):
            continue
        columns = [c.name for c in table.columns if c.type == "string" and not c.personal]
        if table.tenant_column is None and tenant != "default":
            # The operator's own rows; of the default tenant they are looked at once.
            continue
        values, rows = _values(lake, table, columns, tenant)
        for name in columns:
            if values[name]:
                yield look(values[name], f"{table.name}.{name}", sample=sample, rows=rows, kinds=kinds)


def _values(lake: Lake, table: Table, columns: Sequence[str], tenant: str) -> tuple[dict[str, set[str]], int]:
    listed = ", ".join(f'"{name}"' for name in columns)
    mine = "true" if table.tenant_column is None else f'"{table.tenant_column}" = $tenant'
    with lake.read(table.name) as reading:
        rows = reading.query(
            f"gdpr.scan.{table.name}",
            f"SELECT {listed} FROM {table.name} WHERE {mine} LIMIT {ROWS_READ}",
            {} if table.tenant_column is None else {"tenant": tenant},
        )
    return {name: {v for v in rows[name].to_pylist() if v} for name in columns}, rows.num_rows


def _datasets(
    lake: Lake, view: View, sample: int, kinds: Sequence[str], only: set[str] | None
) -> Iterator[Scanned]:
    declared = declared_columns(view)
    for dataset, version in newest_versions(view).items():
        columns = [
            column
            for column in columns_of_version(dataset, version, declared)
            if column.holds is Holds.NOT_PERSONAL and column.text
        ]
        if not columns or (only is not None and dataset not in only):
            continue
        try:
            rows = read_content(
                version.data["metadata"],
                [column.column for column in columns],
                reference=dataset,
                storage_options=lake.storage_options,
                readable=lake.readable,
            )
        except DatasetUnreadable:
            yield from (_unread(column) for column in columns)
            continue
        for column in columns:
            chosen = {
                str(v) for v in rows[column.column].slice(0, ROWS_READ).to_pylist() if v not in (None, "")
            }
            if chosen:
                yield look(chosen, column.name, sample=sample, rows=rows.num_rows, kinds=kinds)


def _unread(column: CataloguedColumn) -> Scanned:
    return Scanned(column.name, 0, 0, problem=f"its data cannot be read; {UNREAD}")


def _drawn(values: set[str], sample: int) -> list[str]:
    listed = sorted(values)
    if len(listed) <= sample:
        return listed
    return random.Random(SEED).sample(listed, sample)
