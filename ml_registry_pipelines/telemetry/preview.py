"""What would become of a file, without taking it: `mlreg ingest --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.lake.tables.telemetry import INPUT_BUCKETS, OUTPUT_BUCKETS
from ml_registry_pipelines.telemetry.decoding import LogFile, Origin
from ml_registry_pipelines.telemetry.dialects import DIALECTS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.decoding import Decoded
    from ml_registry_pipelines.telemetry.sources import FileRef, Source

SHOWN = 10
"""Rejected records that are shown one by one."""


@dataclass
class Preview:
    """Counts over one file. Duplicates of what the tables hold are not known: nothing of them is read."""

    path: str
    dialect: str | None = None
    taken: int = 0
    rejected: int = 0
    ignored: int = 0
    days: set[date] = field(default_factory=set)
    tenants: set[str] = field(default_factory=set)
    input_tokens: int = 0
    output_tokens: int = 0
    repeated: int = 0
    """Records whose identity stands in the file more than once."""
    assumed_times: int = 0
    qualities: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    first_rejects: list[str] = field(default_factory=list)

    def add(self, decoded: Decoded) -> None:
        """Count what was decoded of the file."""
        import pyarrow.compute as pc

        rows = decoded.rows
        self.count(decoded)
        self.input_tokens += sum(pc.sum(rows[name]).as_py() or 0 for name in INPUT_BUCKETS)
        self.output_tokens += sum(pc.sum(rows[name]).as_py() or 0 for name in OUTPUT_BUCKETS)
        self.assumed_times += pc.sum(pc.equal(rows["time_quality"], "assumed")).as_py() or 0
        _add_up(self.qualities, rows["usage_quality"])

    def count(self, decoded: Decoded) -> None:
        """Count what every kind of log has: records, days, tenants, and what is wrong."""
        rows = decoded.rows
        self.taken += rows.num_rows
        self.rejected += decoded.rejected.num_rows
        self.ignored += decoded.ignored
        self.days.update(rows["day"].unique().to_pylist())
        self.tenants.update(rows["tenant"].unique().to_pylist())
        _add_up(self.reasons, decoded.rejected["reason"])
        room = SHOWN - len(self.first_rejects)
        for reject in decoded.rejected.slice(0, max(0, room)).to_pylist():
            self.first_rejects.append(f"{reject['reason']}: {reject['message']}")

    def lines(self) -> Iterator[str]:
        """The preview for a person."""
        records = self.taken + self.rejected
        nothing = "of no known format" if records else "holds no records"
        if self.reasons["bill"]:
            nothing = "a bill, not a log"
        yield f"{self.path}: {self.dialect or nothing}"
        ignored = f", {self.ignored:,} of other kinds ignored" if self.ignored else ""
        yield f"  {records:,} records: {self.taken:,} can be taken, {self.rejected:,} would be quarantined{ignored}"
        if self.days:
            yield f"  days {min(self.days)} to {max(self.days)}, tenants {', '.join(sorted(self.tenants)[:8])}"
        if self.days and self.dialect not in LOG_KINDS:
            yield f"  {self.input_tokens:,} input and {self.output_tokens:,} output tokens"
        if self.assumed_times:
            yield f"  {self.assumed_times:,} records state no time: that of the file or of --base-time is assumed"
        if self.repeated:
            yield f"  {self.repeated:,} records repeat the identity of another one in the file"
        meanings = {"missing": "state no tokens", "inconsistent": "state a total that is not their sum"}
        for quality, meaning in meanings.items():
            if self.qualities[quality]:
                yield f"  {self.qualities[quality]:,} records {meaning} and would not be priced"
        for reason, count in self.reasons.most_common():
            yield f"  {count:,} {reason}"
        for reject in self.first_rejects:
            yield f"    {reject}"
        yield "  nothing was written"


def preview(source: Source, file: FileRef, *, named: str | None = None) -> Preview:
    """Decode a file and count; nothing is written. `named` is how a person calls the file.

    Raises:
        FilesError: the file cannot be read.
    """
    origin = Origin(
        source=source.name,
        file=file.path,
        modified_at=file.modified_at,
        recorded_at=datetime.now(UTC),
        base_time=source.base_time_of(file),
        tenant=source.tenant,
        tenant_field=source.tenant_field,
        time_zone=source.time_zone,
        cost_unit=source.cost_unit,
    )
    seen: set[int] = set()
    found = Preview(path=named or file.path)
    if (kind := source.experiment_log_of(file.path)) is not None:
        return _of_experiments(found, kind, source, file, origin)
    with source.files.open(file.path) as stream:
        forced = source.dialect_of(file.path, DIALECTS)
        log = LogFile(stream, origin, dialect=DIALECTS[forced] if forced else None)
        for decoded in log:
            found.add(decoded)
            keys = decoded.rows["event_key"].to_pylist()
            before = len(seen)
            seen.update(keys)
            found.repeated += len(keys) - (len(seen) - before)
        found.dialect = log.dialect.name if log.dialect else None
    return found


def _of_experiments(found: Preview, kind: str, source: Source, file: FileRef, origin: Origin) -> Preview:
    """A file of assignments or labels."""
    from ml_registry_pipelines.telemetry.decoding import Workspace
    from ml_registry_pipelines.telemetry.experiment_logs import decoded
    from ml_registry_pipelines.telemetry.reading import LogReader

    found.dialect = kind
    with source.files.open(file.path) as stream, Workspace() as workspace:
        for piece in decoded(kind, LogReader(stream, file.path), origin, workspace):
            found.count(piece)
    return found


def _add_up(counter: Counter[str], column: pa.ChunkedArray) -> None:
    counter.update({pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()})
