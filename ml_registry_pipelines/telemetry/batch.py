"""What is decoded and waits to be committed: pieces of files, their rows, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.telemetry.sources import FileRef

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.decoding import Decoded


class BatchError(MlregError):
    """The counts of a batch do not add up, which would lose or double a record."""


@dataclass(frozen=True)
class Taken:
    """What a call of `take` did. `rows_in` = `taken` + `duplicates` + `quarantined` + `suppressed`."""

    batches: tuple[int, ...] = ()
    files: int = 0
    rows_in: int = 0
    taken: int = 0
    duplicates: int = 0
    quarantined: int = 0
    ignored: int = 0
    days: tuple[date, ...] = ()
    suppressed: int = 0
    """Records of people who were erased."""

    def plus(self, other: Taken) -> Taken:
        """Both together."""
        return Taken(
            batches=self.batches + other.batches,
            files=self.files + other.files,
            rows_in=self.rows_in + other.rows_in,
            taken=self.taken + other.taken,
            duplicates=self.duplicates + other.duplicates,
            quarantined=self.quarantined + other.quarantined,
            ignored=self.ignored + other.ignored,
            days=tuple(sorted({*self.days, *other.days})),
            suppressed=self.suppressed + other.suppressed,
        )

    def metadata(self) -> dict[str, int | str]:
        """Figures for a materialization."""
        return {
            "files": self.files,
            "rows_in": self.rows_in,
            "taken": self.taken,
            "duplicates": self.duplicates,
            "quarantined": self.quarantined,
            "suppressed": self.suppressed,
            "ignored": self.ignored,
            "batches": ", ".join(map(str, self.batches)) or "none",
            "days": ", ".join(day.isoformat() for day in self.days) or "none",
        }


@dataclass
class Part:
    """One file, or the piece of it that goes into one batch."""

    file: FileRef
    number: int
    first_line: int
    dialect: str | None = None
    last_line: int = 0
    complete: bool = False
    digest: str | None = None
    rows_in: int = 0
    ignored: int = 0
    tried_again: int = 0
    """Records of a replay: they were counted as quarantined before and are not now."""

    def take(self, decoded: Decoded, dialect: str | None) -> None:
        """Count what was decoded of the file."""
        self.dialect = dialect
        self.last_line = max(self.last_line, decoded.last_line)
        self.rows_in += len(decoded.rows) + len(decoded.rejected)
        self.ignored += decoded.ignored

    def next(self) -> Part:
        """The part of the same file that comes behind this one."""
        return Part(self.file, self.number + 1, self.last_line + 1, self.dialect, self.last_line)

    def row(self, batch: int, now: datetime, counts: Mapping[str, int] | None) -> dict[str, object]:
        """The part as a row of `ingested_files`."""
        counted = dict(counts or {"taken": 0, "duplicates": 0, "quarantined": 0, "suppressed": 0})
        counted["quarantined"] -= self.tried_again
        if sum(counted.values()) != self.rows_in:
            raise BatchError(
                f"{self.file.path}: {self.rows_in} records went in and {counted} came out; nothing was taken"
            )
        return {
            "source": self.file.source,
            "path": self.file.path,
            "part": self.number,
            "first_line": self.first_line,
            "last_line": self.last_line,
            "complete": self.complete,
            "size": self.file.size,
            "modified_at": self.file.modified_at,
            "etag": self.file.etag,
            "digest": self.digest if self.complete else None,
            "dialect": self.dialect,
            "batch": batch,
            "rows_in": self.rows_in,
            "ignored": self.ignored,
            "recorded_at": now,
            **counted,
        }


@dataclass
class Pending:
    """What is decoded and not yet committed."""

    parts: list[Part] = field(default_factory=list)
    rows: list[pa.Table] = field(default_factory=list)
    rejected: list[pa.Table] = field(default_factory=list)
    replayed: pa.Table | None = None
    """Rows of `quarantined_rows` that this batch tries again."""
    _count: int = 0
    _size: int = 0

    def add(self, file: FileRef, decoded: Decoded, dialect: str | None) -> None:
        """Take in what was decoded of a file; the rows say already where they are from."""
        self.rows.append(decoded.rows)
        self.rejected.append(placed(decoded.rejected, file, dialect))
        self._count += len(decoded.rows)
        self._size += decoded.rows.nbytes + self.rejected[-1].nbytes

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """All rows and all rejects."""
        import pyarrow as pa

        from ml_registry_pipelines.telemetry.normalising import rejected_schema, rows_schema

        nobody = FileRef("", "", 0, datetime.now(UTC))
        rows = [rows_schema().empty_table(), *self.rows]
        rejected = [placed(rejected_schema().empty_table(), nobody, None), *self.rejected]
        return pa.concat_tables(rows), pa.concat_tables(rejected)

    def full(self, rows: int, size: int) -> bool:
        """Whether so many rows or bytes were added."""
        return self._count >= rows or self._size >= size


def placed(rows: pa.Table, file: FileRef, dialect: str | None) -> pa.Table:
    """Rows with the source, path and dialect that they came from and by."""
    import pyarrow as pa

    for name, value in (("source", file.source), ("file", file.path), ("dialect", dialect)):
        column = pa.repeat(pa.scalar(value, pa.string()), len(rows))
        index = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if index < 0 else rows.set_column(index, name, column)
    return rows
