"""FOCUS 1.2 files: the rows of some billing months as Parquet or CSV, written day by day in bounded memory.

Timestamps of a CSV are ISO 8601 in UTC, decimals have all their digits and no exponent, NULL is an empty
field. A file appears under its name when it is whole.
"""

from __future__ import annotations

import csv
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_registry_pipelines.costs.closing import month_after
from ml_registry_pipelines.costs.focus import (
    COLUMNS,
    READS,
    VERSION,
    FocusError,
    focus_day,
    focus_days,
    left_out,
    schema,
    usage_gone,
)
from ml_registry_pipelines.lake.lake import Lake

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "csv")


@dataclass(frozen=True)
class FocusWish:
    """Which rows are wanted. `month` and `last_month` are first days, both included; None: `month` alone.

    `currency` None: each price in its own; `tenant` None: all.
    """

    month: date
    last_month: date | None = None
    tenant: str | None = None
    account: str = "default"
    currency: str | None = None

    @property
    def until(self) -> date:
        """The first day after."""
        return month_after(self.last_month or self.month)


@dataclass(frozen=True)
class FocusWritten:
    """What a file holds: rows, billed cost by currency, and how many attempts are left out, by the reason."""

    path: Path
    rows: int
    billed: Mapping[str, Decimal]
    left_out: Mapping[str, int]


def export_focus(lake: Lake, wish: FocusWish, path: Path) -> FocusWritten:
    """Write the FOCUS rows of the ledger to a file, whose name ends in `.parquet` or `.csv`.

    Raises:
        FocusError: the name ends otherwise, the file cannot be written, the months are in the wrong order, or
            a rate into the currency is missing.
    """
    form = path.suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise FocusError(f"{path}: a FOCUS file is .parquet or .csv; let its name end so")
    if wish.until <= wish.month:
        raise FocusError(
            f"{wish.month:%Y-%m} is after {wish.last_month or wish.month:%Y-%m}; turn them round"
        )
    rows, billed = 0, dict[str, Decimal]()
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    gone = 0
    try:
        with lake.read(*READS) as reading, _writer(form, aside) as writer:
            for day in focus_days(reading, since=wish.month, until=wish.until):
                found = focus_day(
                    reading,
                    day,
                    since=wish.month,
                    until=wish.until,
                    tenant=wish.tenant,
                    account=wish.account,
                    currency=wish.currency,
                )
                writer.write(found)
                gone += usage_gone(reading, day, since=wish.month, until=wish.until, tenant=wish.tenant)
                rows += found.num_rows
                _add(billed, found)
            unknown = left_out(reading, since=wish.month, until=wish.until, tenant=wish.tenant)
            if gone:
                unknown["usage_gone"] = gone
        aside.replace(path)
    except OSError as failure:
        raise FocusError(f"{path} cannot be written: {failure.strerror or failure}") from failure
    finally:
        aside.unlink(missing_ok=True)
    return FocusWritten(path, rows, dict(sorted(billed.items())), unknown)


def _add(billed: dict[str, Decimal], rows: pa.Table) -> None:
    sums = rows.group_by("BillingCurrency").aggregate([("BilledCost", "sum")])
    for row in sums.to_pylist():
        currency = row["BillingCurrency"]
        billed[currency] = billed.get(currency, Decimal(0)) + row["BilledCost_sum"]


class _Writer(Protocol):
    def write(self, rows: pa.Table) -> None: ...


@contextmanager
def _writer(form: str, path: Path) -> Iterator[_Writer]:
    if form == "csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield _Csv(csv.writer(stream, lineterminator="\r\n"))
        return
    import pyarrow.parquet as pq

    metadata = {"focus_version": VERSION}
    with pq.ParquetWriter(path, schema().with_metadata(metadata), compression="zstd") as writer:
        yield _Parquet(writer)


class _Parquet:
    def __init__(self, writer: object) -> None:
        self._writer = writer

    def write(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._writer.write_table(rows.replace_schema_metadata({"focus_version": VERSION}))  # type: ignore[attr-defined]


class _Csv:
    def __init__(self, writer: object) -> None:
        self._writer = writer
        writer.writerow([column.name for column in COLUMNS])  # type: ignore[attr-defined]

    def write(self, rows: pa.Table) -> None:
        for batch in rows.to_batches(max_chunksize=10_000):
            values = ([_text(value) for value in column.to_pylist()] for column in batch.columns)
            self._writer.writerows(zip(*values, strict=True))  # type: ignore[attr-defined]


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        case Decimal():
            plain = f"{value:f}"
            return plain.rstrip("0").rstrip(".") if "." in plain else plain
        case _:
            return str(value)
