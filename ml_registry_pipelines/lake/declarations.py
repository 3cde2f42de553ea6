"""How a table is declared: its columns, key, layout and retention, in one value.

The declarations themselves live in `ml_registry_pipelines.lake.tables`; reading and
writing live in `lake.py`. Nothing here touches a disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

MONEY = "decimal(38,12)"
"""Every amount of money: exact, twelve decimals, so that a single token has a price."""


class Precedence(Enum):
    """Which rule wins where a retention period and an erasure request disagree."""

    ERASURE = "erasure"
    RETENTION = "retention"


@dataclass(frozen=True)
class Column:
    """One column: Arrow type by name, unit and meaning.

    `type` is a scalar name (`string`, `int64`, `float64`, `bool`, `date`, `timestamp`
    (microseconds, UTC), `decimal(p,s)`), or `list<struct<name:type,...>>`.
    `personal` marks a value that can point at a person: it never gets file statistics.
    """

    name: str
    type: str
    meaning: str
    unit: str | None = None
    required: bool = False
    personal: bool = False


@dataclass(frozen=True)
class Table:
    """One Delta table.

    `statistics` names the columns that carry min/max per file in the Delta log.
    `sort_by` is the order of the rows of a commit, which compaction keeps; batches of more
    than 50,000 rows stay as they come. `retention_days` None keeps rows for ever.
    """

    name: str
    row: str
    """What one row is, as a sentence without a full stop."""
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    statistics: tuple[str, ...]
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    retention_days: int | None = None
    precedence: Precedence = Precedence.ERASURE
    tenant_column: str | None = "tenant"
    """Column by which a read is limited to one tenant; None: no tenant owns its rows."""
    shared: bool = False
    """Without a tenant column: whether every tenant may read it (prices), or only the operator."""
    plain: tuple[str, ...] = field(default=())
    """Columns whose values hardly repeat: a dictionary of them would only cost time and space."""

    row_group: int | None = None
    """Rows of a row group, where single rows are looked up; None: as many as fit."""
    bloom: tuple[str, ...] = field(default=())
    """Columns by which rows are looked up that the order does not bring together: row groups that
    surely lack a value are then passed over. For tables with a `row_group`."""

    def __post_init__(self) -> None:
        names = {column.name for column in self.columns}
        for role in ("key", "statistics", "partition_by", "sort_by", "plain", "bloom"):
            if unknown := set(getattr(self, role)) - names:
                raise ValueError(f"{self.name}: {role} names {sorted(unknown)}, which no column has")
        personal = {column.name for column in self.columns if column.personal}
        if self.bloom and self.row_group is None:
            raise ValueError(f"{self.name}: a bloom filter needs the rows of a row_group")
        if leaked := personal & {*self.statistics, *self.partition_by, *self.bloom}:
            raise ValueError(f"{self.name}: {sorted(leaked)} is personal and would leak into the Delta log")
        if self.tenant_column is not None and self.tenant_column not in names:
            raise ValueError(f"{self.name}: no column {self.tenant_column!r} to tell tenants apart")

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema in declared order; units and meanings ride along as field metadata."""
        import pyarrow as pa

        return pa.schema(
            pa.field(c.name, arrow_type(c.type), nullable=not c.required, metadata=_field_metadata(c))
            for c in self.columns
        )

    def empty(self) -> pa.Table:
        """A table of no rows with the declared schema."""
        return self._empty

    @cached_property
    def _empty(self) -> pa.Table:
        return self.schema.empty_table()


def _field_metadata(column: Column) -> dict[str, str]:
    metadata = {"comment": column.meaning}
    if column.unit:
        metadata["unit"] = column.unit
    return metadata


_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_STRUCT_LIST = re.compile(r"list<struct<(.+)>>")


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type that a declaration means by `name`."""
    import pyarrow as pa

    scalars: dict[str, pa.DataType] = {
        "string": pa.string(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", "UTC"),
    }
    if name in scalars:
        return scalars[name]
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _STRUCT_LIST.fullmatch(name):
        fields = (part.split(":") for part in match[1].split(","))
        return pa.list_(pa.struct([pa.field(f, arrow_type(t)) for f, t in fields]))
    raise ValueError(f"no Arrow type is declared under the name {name!r}")
