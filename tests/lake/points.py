"""Rows of `model_metrics` for tests of the lake, and what a table holds of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime

import pyarrow as pa

from ml_registry_pipelines.lake.lake import Lake

TABLE = "model_metrics"
DAY = date(2026, 1, 2)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def points(values: Iterable[float], *, tenant: str = "acme", day: date = DAY, model: str = "m") -> pa.Table:
    """A row for each value."""
    numbers = [float(value) for value in values]
    n = len(numbers)
    return pa.table(
        {
            "tenant": pa.array([tenant] * n, pa.string()),
            "day": pa.array([day] * n, pa.date32()),
            "model": pa.array([model] * n, pa.string()),
            "metric": pa.array(["accuracy"] * n, pa.string()),
            "value": pa.array(numbers, pa.float64()),
            "event_ts": pa.array([NOON] * n, pa.timestamp("us", "UTC")),
            "recorded_at": pa.array([NOON] * n, pa.timestamp("us", "UTC")),
        }
    )


def values(lake: Lake, where: str = "true") -> Counter[float]:
    """The stored values and how often each is there."""
    with lake.read(TABLE) as reading:
        rows = reading.query("test.values", f"SELECT value FROM model_metrics WHERE {where}")
    return Counter(rows["value"].to_pylist())


def one_row(table: str, **given: object) -> pa.Table:
    """A row of any table: what is given, and something in every other column that is required."""
    schema = Lake.declaration(table).schema
    some: dict[str, object] = {
        "string": "x",
        "bool": False,
        "date32[day]": DAY,
        "timestamp[us, tz=UTC]": NOON,
    }
    row = {field.name: some.get(str(field.type), 1) for field in schema if not field.nullable}
    return pa.Table.from_pylist([{**row, **given}], schema=schema)
