"""Which identifiers are words that mean something else here as well, such as `success`, `test` or `gpt-4o`.

Replaced wherever it stands, such a word would be taken from statuses, names of models and records of
Dagster's. It is erased by its salted hash alone, and the proof says that it cannot be searched for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

NAMES = {
    "inference_events": (
        "provider", "model", "requested_model", "operation", "environment", "application", "endpoint",
        "source_system", "source", "dialect", "service_tier", "region", "error_type",
    ),
    "model_metrics": ("model", "metric"),
    "assignments": ("experiment", "arm", "source"),
    "outcomes": ("metric", "source_system", "source"),
}  # fmt: skip
"""Columns whose values are names of things that many share."""
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_.-][A-Za-z0-9]+)*")
_OF_FORMATS = """
    true false null none string integer number timestamp double float boolean list struct map array object
    add remove metadata protocol commitinfo parquet delta schema utf8 int32 int64 default admin root user
    test production staging shadow champion dev unknown anonymous guest system service python dagster
    succeeded failed started canceled queued success failure error warning info debug critical
"""


def is_word(identifier: str, names: Collection[str] = ()) -> bool:
    """Whether an identifier is such a word. An address, or what has a digit besides letters, is none by itself.

    Args:
        names: further words, in lower case, such as `names_in` gives.
    """
    text = identifier.strip().lower()
    return "@" not in text and (text in names or text in _declared())


@cache
def _declared() -> frozenset[str]:
    """Words of formats, and of the declarations of tables, which are in the log of each table."""
    texts = [
        text
        for table in TABLES.values()
        for text in (table.name, table.row, *(f"{c.name} {c.meaning} {c.unit or ''}" for c in table.columns))
    ]
    found = {word.lower() for text in texts for word in _WORD.findall(text)}
    # A name such as `model_costs` holds words that stand alone elsewhere.
    parts = {part for word in found for part in re.split(r"[_.-]", word)}
    return frozenset(_OF_FORMATS.split()) | found | parts


def names_in(lake: Lake) -> frozenset[str]:
    """What providers, models, applications, metrics ... are called in the tables, in lower case."""
    found: set[str] = set()
    for table, columns in NAMES.items():
        if not lake.exists(table):
            continue
        each = ", ".join(f"lower({column})" for column in columns)
        with lake.read(table) as reading:
            rows = reading.query("erasure.names", f"SELECT DISTINCT unnest([{each}]) AS name FROM {table}")
        found.update(name for name in rows["name"].to_pylist() if name)
    return frozenset(found)
