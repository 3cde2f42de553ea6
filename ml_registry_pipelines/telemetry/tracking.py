"""Requests told of by the code that makes them, with no log file in between.

A record is decoded by the rules of the native dialect and compared with what is stored, like a
line of a log; then it lands in `inference_events`, in one commit. What follows the leading
table (`ingested_files`, costs, rollups) is derived from it, at the next start of ingestion.

A commit takes some 15 ms and comparing as long as a look at the keys of 180 days: for more than
a few requests a second, tell of many at once, or write landing files (`producer.py`).
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.outcomes import Landed
from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, INFERENCE_EVENTS, TOKEN_BUCKETS
from ml_registry_pipelines.telemetry.accounting import stamped
from ml_registry_pipelines.telemetry.deduplication import deduplicated
from ml_registry_pipelines.telemetry.ingestion import (
    RACES,
    SOURCE,
    STAGED_BATCH,
    TRACKED,
    Ingestion,
    followers_lag,
    user_salt,
)
from ml_registry_pipelines.telemetry.sources import Sources
from ml_registry_pipelines.telemetry.suppression import without_erased

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

USAGE = (*TOKEN_BUCKETS, *COUNTERS, "audio_seconds", "total")
"""What the usage of a request may name; the token buckets are disjoint, `total` is the provider's own sum."""
MOST_AT_ONCE = 100_000
"""Records of one call."""
FOLLOW_AFTER = 20
"""Batches that the followers of the leading table may lag before a call brings them up."""


class TrackingError(MlregError):
    """A request that cannot be recorded as it was told; nothing of the call was."""


@dataclass(frozen=True)
class Inference:
    """One attempt of one request, as the code that made it tells of it.

    `event_id` makes it the same record when it is told again; without one each telling is a record
    of its own. `ts` is the start, with a time zone; by default now. `usage` has tokens by disjoint
    bucket: `in_uncached` leaves out what a cache served (`in_cache_read`), `out_text` leaves out
    `out_reasoning`. Latencies are in ms. `cost` in `currency` is what a gateway itself says, and
    never used as ours. `user_id` and `session_id` are kept as salted hashes alone.
    """

    model: str
    provider: str
    event_id: str | None = None
    ts: datetime | None = None
    tenant: str = "default"
    usage: Mapping[str, int | float] = field(default_factory=dict)
    status: str = "success"
    latency_ms: float | None = None
    ttft_ms: float | None = None
    stream: bool | None = None
    attempt: int = 1
    application: str | None = None
    environment: str | None = None
    endpoint: str | None = None
    requested_model: str | None = None
    operation: str = "chat"
    error_type: str | None = None
    trace_id: str | None = None
    parent_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    service_tier: str | None = None
    region: str | None = None
    cost: Decimal | None = None
    currency: str | None = None
    source_system: str = "native"
    tags: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def record(self, now: datetime) -> dict[str, Any]:
        """The native record that says the same.

        Raises:
            TrackingError: a field has no place in one.
        """
        if unknown := sorted(set(self.usage) - set(USAGE)):
            raise TrackingError(
                f"usage names {', '.join(unknown)}; it can name {', '.join(USAGE)}, each without what another counts"
            )
        if self.ts is not None and self.ts.tzinfo is None:
            raise TrackingError(f"ts {self.ts.isoformat()} has no time zone; UTC is datetime.UTC")
        if isinstance(self.cost, float):
            raise TrackingError(
                f"cost {self.cost!r} is a binary fraction; give a Decimal, such as Decimal('0.1')"
            )
        told = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        told |= {"event_id": self.event_id or uuid.uuid4().hex, "ts": (self.ts or now).isoformat()}
        if self.cost is not None:
            told["cost"] = str(self.cost)
        return told


@dataclass(frozen=True)
class Tracked:
    """What became of the records of one call: `landed` are new, `duplicates` were there already.

    `suppressed` are of people who were erased, and are not kept.

    `event_ids` has the ids of all of them in their order; `batch` is None where nothing was new.
    """

    event_ids: tuple[str, ...]
    landed: int
    duplicates: int
    batch: int | None
    suppressed: int = 0


class Tracking:
    """Lands records in one lake. Thread-safe; the decoder stays open from call to call."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._lock = threading.Lock()
        self._workspace: Any = None
        self._salt: str | None = None

    def track(self, told: Iterable[Inference]) -> Tracked:
        """Land records in one commit, all or none.

        Raises:
            TrackingError: a record is none, or was taken before with other content; it names the first.
            CommitUnknown: the store failed and shows no trace of the records; tell of them again.
        """
        records = list(told)
        if not 0 < len(records) <= MOST_AT_ONCE:
            raise TrackingError(f"there are {len(records):,} records; give 1 to {MOST_AT_ONCE:,} at once")
        now = datetime.now(UTC)
        natives = []
        for number, record in enumerate(records, start=1):
            try:
                natives.append(record.record(now))
            except TrackingError as wrong:
                raise TrackingError(f"record {number} of {len(records)}: {wrong}") from None
        with self._lock:
            rows = self._decoded(natives, now)
        ids = tuple(str(native["event_id"]) for native in natives)
        for _ in range(RACES):
            batch, lag = followers_lag(self.lake)
            if lag >= FOLLOW_AFTER:
                Ingestion(self.lake, Sources(())).recover()
            # The number is taken before looking what is stored: who lands the same in between takes it away.
            allowed, _, suppressed = without_erased(self.lake, rows)
            new, again = deduplicated(self.lake, allowed)
            _refuse_conflicts(again)
            if not len(new):
                return Tracked(ids, 0, len(again), None, len(suppressed))
            landed = self.lake.append_once(
                "inference_events",
                stamped(new, INFERENCE_EVENTS.schema, batch=batch + 1, now=now),
                source=SOURCE,
                sequence=batch + 1,
                note={STAGED_BATCH: str(batch + 1), TRACKED: str(len(new))},
            )
            if landed is Landed.NOW:
                return Tracked(ids, len(new), len(again), batch + 1, len(suppressed))
        raise TrackingError(
            f"{RACES} batches in a row were taken by other workers; nothing landed, try again"
        )

    def close(self) -> None:
        """Close the decoder; the next call opens another."""
        with self._lock:
            if self._workspace is not None:
                self._workspace.close()
                self._workspace = None

    def _decoded(self, natives: Sequence[Mapping[str, Any]], now: datetime) -> pa.Table:
        """Rows of inference_events without `batch`; raises for the first record that becomes none."""
        import duckdb
        import pyarrow as pa

        from ml_registry_pipelines.telemetry.decoding import Decoder, Origin, Workspace
        from ml_registry_pipelines.telemetry.dialects.native import NATIVE
        from ml_registry_pipelines.telemetry.reading import Chunk, rejects_schema

        if self._salt is None:
            self._salt = user_salt(self.lake.root)
        if self._workspace is None:
            self._workspace = Workspace(0)
        file = f"{now:%Y-%m-%d}/{uuid.uuid4().hex}"
        origin = Origin(TRACKED, file, modified_at=now, recorded_at=now, base_time=now, salt=self._salt)
        raw = [_json(native, number, len(natives)) for number, native in enumerate(natives, start=1)]
        lines = pa.table(
            {"line": pa.array(range(1, len(raw) + 1), pa.int64()), "raw": pa.array(raw, pa.string())}
        )
        try:
            decoded = Decoder(NATIVE, origin, self._workspace).decode(
                Chunk(lines, rejects_schema().empty_table(), 1, len(raw))
            )
        except duckdb.Error:
            self._workspace.renew()
            raise
        if decoded.rejected.num_rows or decoded.ignored:
            (first, *_) = decoded.rejected.slice(0, 1).to_pylist() or [
                {"line": 1, "message": "it is no request"}
            ]
            message = str(first["message"]).removeprefix(f"line {first['line']}: ")
            raise TrackingError(f"record {first['line']} of {len(natives)}: {message}")
        return decoded.rows


def _json(native: Mapping[str, Any], number: int, of: int) -> str:
    try:
        return json.dumps(native, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as wrong:
        raise TrackingError(f"record {number} of {of} is not JSON: {wrong}") from None


def _refuse_conflicts(again: pa.Table) -> None:
    conflicting = again.filter(again["conflict"])
    if len(conflicting):
        first = conflicting.slice(0, 1).to_pylist()[0]
        raise TrackingError(
            f"request {first['event_id']!r} of {first['tenant']!r} was taken before with other content, and "
            "nothing of this call was; if both are right, give the second its own id or attempt number"
        )
