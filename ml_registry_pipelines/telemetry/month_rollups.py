"""performance_months: whole months merged from the days of performance_rollup, so that a year is twelve sketches.

Counts are sums of the days'; sketches are theirs merged, and the raw values of groups that were too
small for one are counted into the same buckets. So a month answers just what its days would
(`windows.py`). A month is merged when a later month has begun in the rollup, and again when one of its days
changed; the month under way is left to its days, so that a day's work does not grow with it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.slices import LEADING, Refreshed, days_behind
from ml_registry_pipelines.telemetry.months import BY_TENANT, TABLE, TOGETHER, months_held, months_merged
from ml_registry_pipelines.telemetry.windows import READS, Plan, Question, count_buckets, whole_days

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

MOST = 12
"""Months that one refresh merges, the newest first, so that a first one of a long history is bounded."""
ATTEMPTS = 8
_KEYS = ("tenant", "provider", "model", "deployment_id", "model_id", "model_version")


def refresh_months(lake: Lake, *, most: int = MOST) -> Refreshed:
    """Merge the ended months whose days changed since, at most so many of them.

    Returns:
        The first days of the months that were written.

    Raises:
        LostRace: other writers were faster again and again; what was written stands.
    """
    done: dict[date, int] = {}
    for _ in range(ATTEMPTS):
        with lake.read(*READS) as reading:
            sequence = reading.sequence("performance_rollup", LEADING)
            held, merged = months_held(reading), months_merged(reading)
            behind = days_behind(
                reading, "performance_rollup", reading.sequence("inference_events", "ingestion")
            )
            usable = whole_days(reading) - behind.keys()
            ended = sorted(held)[:-1]
            wanted = [
                m
                for m in ended
                if merged.get(m) != held[m].digest and held[m].days <= usable and m not in done
            ]
            try:
                for month in wanted[::-1][: max(0, most - len(done))]:
                    rows = merge_month(reading, month, held[month].days, held[month].digest)
                    lake.replace(
                        TABLE, rows, predicate=f"month = '{month}'", source=LEADING, sequence=sequence
                    )
                    done[month] = rows.num_rows
            except (LostRace, SnapshotGone, StaleSlice):
                continue
        return Refreshed(tuple(sorted(done)), sum(done.values()), sequence)
    raise LostRace(
        f"{TABLE}: other writers were faster {ATTEMPTS} times in a row; let one of them finish and try again"
    )


def merge_month(reading: Reading, month: date, days: frozenset[date], digest: str) -> pa.Table:
    """The rows of performance_months for one month, in both grains, in order of the key."""
    import pyarrow as pa

    start = datetime.combine(month, time(), UTC)
    asked = Question(start, datetime.combine(max(days), time(), UTC) + timedelta(days=1))
    whole = tuple(sorted(days))
    merged = []
    for grain in (BY_TENANT, TOGETHER):
        by_tenant = grain == BY_TENANT
        plan = Plan(asked, by_tenant, whole, () if by_tenant else whole, (), (), ())
        by = frozenset(_KEYS if by_tenant else ("provider", "model"))
        count_buckets(reading, plan, {0: by})
        rows = reading.query(
            "rollups.performance_months", _MERGED, {"grain": grain, "month": month, "digest": digest}
        )
        merged.append(rows)
    return pa.concat_tables(merged)


def _same(other: str) -> str:
    return " AND ".join(f"c.{name} IS NOT DISTINCT FROM {other}.{name}" for name in _KEYS)


_LISTED = ", ".join(f"c.{name}" for name in _KEYS)
_OF = ", ".join(_KEYS)
_MERGED = f"""
    WITH buckets AS (
        SELECT {_OF}, metric, bucket, sum(n) AS n
        FROM (FROM sketched UNION ALL FROM raw_buckets)
        GROUP BY ALL
    ),
    sketches AS (
        SELECT {_OF}, metric, sketch_of(bucket, n) AS sketch
        FROM buckets
        GROUP BY ALL
    ),
    words AS (
        SELECT {_OF}, status, unnest(string_split(assumed_parts, ' ')) AS word
        FROM parts
        WHERE assumed_parts IS NOT NULL
    ),
    assumptions AS (
        SELECT {_OF}, status, string_agg(DISTINCT word, ' ' ORDER BY word) AS assumed_parts
        FROM words
        GROUP BY ALL
    ),
    counted AS (
        SELECT {_OF}, status,
               sum(requests)::BIGINT AS requests, sum(errors)::BIGINT AS errors,
               sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
               sum(timed_output_tokens)::BIGINT AS timed_output_tokens,
               sum(output_latency_us)::BIGINT AS output_latency_us,
               sum(assumed_requests)::BIGINT AS assumed_requests
        FROM parts
        GROUP BY ALL
    )
    SELECT $month::DATE AS month, $grain AS grain, c.*, a.assumed_parts,
           l.sketch AS latency_sketch, f.sketch AS ttft_sketch,
           $digest AS digest
    FROM counted c
    -- Only what succeeded has times.
    LEFT JOIN sketches l ON c.status = 'success' AND l.metric = 'latency' AND {_same("l")}
    LEFT JOIN sketches f ON c.status = 'success' AND f.metric = 'ttft' AND {_same("f")}
    LEFT JOIN assumptions a ON c.status = a.status AND {_same("a")}
    ORDER BY {_LISTED}, c.status
"""
