"""performance_rollup: requests, errors, tokens and percentile sketches by hour and by day.

By hour all tenants together, by day each tenant for itself; a sketch only where 200 values are,
since below that it is longer than the values. Only the days that got new rows are computed again.

What counts, here and wherever raw rows stand in for a rollup (`attempts`):
- a request is an attempt of a leaf call: aggregate spans and tool calls repeat or surround one;
- a latency is that of an answer, status `success`: a failed call may end in no time at all, a
  cancelled one ends when the caller likes, and a `cache_hit` is the gateway's speed, not the model's;
- an error is `error_billed` or `error_unbilled`.

Questions over a window are answered in `performance.py`; what requests cost is in the costs room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from itertools import count
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.slices import DAY_FILTER, Refreshed, day_parameters, refresh_days
from ml_registry_pipelines.lake.tables.telemetry import INPUT_BUCKETS, OUTPUT_BUCKETS
from ml_registry_pipelines.telemetry.sketches import install

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

SKETCHED_FROM = 200
"""Values that a group needs for a sketch."""
LONGEST_MS = 1e12
"""A latency above it, 31 years, is no latency."""

_INPUT_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in INPUT_BUCKETS)
_OUTPUT_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in OUTPUT_BUCKETS)


def refresh_performance(lake: Lake, days: Collection[date] | None = None) -> Refreshed:
    """Bring performance_rollup up to inference_events: the days that got new rows, or those given.

    Raises:
        LostRace: other writers were faster again and again; try again.
    """
    return refresh_days(
        lake,
        "performance_rollup",
        roll_up,
        complete=lambda reading: reading.sequence("inference_events", "ingestion"),
        days=days,
    )


def define_attempts(connection: duckdb.DuckDBPyConnection) -> None:
    """Define the view `attempts` over inference_events, and the sketch macros.

    One row per attempt of a leaf call: `day`, `event_ts`, `hour` (since 1970), keys, `input_tokens`,
    `output_tokens`, `usage_known`, `error`; `latency_ms` and `ttft_ms` of answers alone; and the
    words that say which parts of the record are `assumed`.
    """
    install(connection)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP VIEW attempts AS
        SELECT day, event_ts, epoch_us(event_ts) // 3_600_000_000 AS hour,
               tenant, application, environment, endpoint, provider, model, operation, status,
               status IN ('error_billed', 'error_unbilled') AS error,
               {_INPUT_TOKENS} AS input_tokens,
               {_OUTPUT_TOKENS} AS output_tokens,
               usage_quality <> 'missing' AS usage_known,
               CASE WHEN status = 'success' AND latency_ms BETWEEN 0 AND {LONGEST_MS} THEN latency_ms END
                   AS latency_ms,
               CASE WHEN status = 'success' AND ttft_ms BETWEEN 0 AND {LONGEST_MS} THEN ttft_ms END
                   AS ttft_ms,
               nullif(concat_ws(
                   ' ',
                   CASE WHEN time_quality = 'assumed' THEN 'time' END,
                   CASE WHEN contains(tags, '"assumed"') THEN json_extract_string(tags, '$.assumed') END
               ), '') AS assumed
        FROM inference_events
        WHERE span_kind = 'leaf'
        """
    )


def roll_up(reading: Reading, days: Sequence[date], sequence: int) -> pa.Table:
    """The rows of performance_rollup for some days, computed from batch `sequence`, in order of the key.

    Sums of times are taken over whole microseconds, so that they do not depend on the order of rows.
    """
    define_attempts(reading.connection)
    salt = _register_keys(reading, days)
    return reading.query(
        "rollups.performance", _ROLL_UP, day_parameters(days) | {"salt": salt, "sequence": sequence}
    )


def _register_keys(reading: Reading, days: Sequence[date]) -> int:
    """Make the keys of some days the relation `keys`, each with a number of its own; returns its salt.

    Millions of rows are grouped by that number: by the four strings themselves it takes twice the time.
    """
    for salt in count():
        keys = reading.query(
            "rollups.performance_keys",
            f"""
            SELECT tenant, provider, model, status, hash(tenant, provider, model, status, $salt) AS number
            FROM attempts
            WHERE {DAY_FILTER}
            GROUP BY ALL
            """,
            day_parameters(days) | {"salt": salt},
        )
        if len(keys["number"].unique()) == keys.num_rows:
            reading.register("keys", keys)
            return salt
    raise AssertionError("unreachable")


_ROLL_UP = f"""
    WITH chosen AS MATERIALIZED (
        SELECT hour, hash(tenant, provider, model, status, $salt) AS number,
               input_tokens, output_tokens, assumed,
               round(latency_ms * 1000)::BIGINT AS latency_us,
               round(ttft_ms * 1000)::BIGINT AS ttft_us,
               CASE WHEN usage_known THEN round(latency_ms * 1000)::BIGINT END AS output_latency_us,
               sketch_bucket(latency_ms) AS latency_bucket,
               sketch_bucket(ttft_ms) AS ttft_bucket
        FROM attempts
        WHERE {DAY_FILTER}
    ),
    counted AS (
        SELECT hour, number, count(*) AS requests,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               count(latency_us) AS timed_requests, sum(latency_us) AS latency_us,
               max(latency_us) AS latency_max_us,
               sum(output_tokens) FILTER (latency_us IS NOT NULL) AS timed_output_tokens,
               sum(output_latency_us) AS output_latency_us,
               count(ttft_us) AS first_token_requests, sum(ttft_us) AS ttft_us,
               count(assumed) AS assumed_requests
        FROM chosen
        GROUP BY ALL
    ),
    latencies AS (
        SELECT hour, number, latency_bucket AS bucket, count(*) AS n
        FROM chosen
        WHERE latency_bucket IS NOT NULL
        GROUP BY ALL
    ),
    first_tokens AS (
        SELECT hour, number, ttft_bucket AS bucket, count(*) AS n
        FROM chosen
        WHERE ttft_bucket IS NOT NULL
        GROUP BY ALL
    ),
    assumptions AS (
        SELECT DISTINCT hour, number, unnest(string_split(assumed, ' ')) AS part
        FROM chosen
        WHERE assumed IS NOT NULL
    ),
    totals AS (
        SELECT hour // 24 AS day, hour, tenant, provider, model, status,
               sum(requests) AS requests,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               sum(timed_requests) AS timed_requests, sum(latency_us) AS latency_us,
               max(latency_max_us) AS latency_max_us,
               sum(timed_output_tokens) AS timed_output_tokens, sum(output_latency_us) AS output_latency_us,
               sum(first_token_requests) AS first_token_requests, sum(ttft_us) AS ttft_us,
               sum(assumed_requests) AS assumed_requests
        FROM counted JOIN keys USING (number)
        GROUP BY GROUPING SETS ((hour // 24, hour, provider, model, status),
                                (hour // 24, tenant, provider, model, status))
    ),
    latency_sketches AS (
        SELECT day, hour, tenant, provider, model, status, sketch_of(bucket, n) AS sketch
        FROM (
            SELECT hour // 24 AS day, hour, tenant, provider, model, status, bucket, sum(n) AS n
            FROM latencies JOIN keys USING (number)
            GROUP BY GROUPING SETS ((hour // 24, hour, provider, model, status, bucket),
                                    (hour // 24, tenant, provider, model, status, bucket))
        )
        GROUP BY ALL
        HAVING sum(n) >= {SKETCHED_FROM}
    ),
    ttft_sketches AS (
        SELECT day, hour, tenant, provider, model, status, sketch_of(bucket, n) AS sketch
        FROM (
            SELECT hour // 24 AS day, hour, tenant, provider, model, status, bucket, sum(n) AS n
            FROM first_tokens JOIN keys USING (number)
            GROUP BY GROUPING SETS ((hour // 24, hour, provider, model, status, bucket),
                                    (hour // 24, tenant, provider, model, status, bucket))
        )
        GROUP BY ALL
        HAVING sum(n) >= {SKETCHED_FROM}
    ),
    assumed_parts AS (
        SELECT hour // 24 AS day, hour, tenant, provider, model, status,
               string_agg(DISTINCT part, ' ' ORDER BY part) FILTER (part <> '') AS parts
        FROM assumptions JOIN keys USING (number)
        GROUP BY GROUPING SETS ((hour // 24, hour, provider, model, status),
                                (hour // 24, tenant, provider, model, status))
    ),
    joined AS (
        SELECT t.*, l.sketch AS latency_sketch, f.sketch AS ttft_sketch, a.parts AS assumed_parts
        FROM totals t
        LEFT JOIN latency_sketches l
            ON (t.day, t.hour, t.tenant, t.provider, t.model, t.status)
            IS NOT DISTINCT FROM (l.day, l.hour, l.tenant, l.provider, l.model, l.status)
        LEFT JOIN ttft_sketches f
            ON (t.day, t.hour, t.tenant, t.provider, t.model, t.status)
            IS NOT DISTINCT FROM (f.day, f.hour, f.tenant, f.provider, f.model, f.status)
        LEFT JOIN assumed_parts a
            ON (t.day, t.hour, t.tenant, t.provider, t.model, t.status)
            IS NOT DISTINCT FROM (a.day, a.hour, a.tenant, a.provider, a.model, a.status)
    )
    SELECT CASE WHEN hour IS NULL THEN 'day' ELSE 'hour' END AS grain,
           to_timestamp(coalesce(hour, day * 24) * 3600) AS period_start,
           DATE '1970-01-01' + day::INTEGER AS day,
           tenant, provider, model, status,
           requests::BIGINT AS requests,
           CASE WHEN status IN ('error_billed', 'error_unbilled') THEN requests ELSE 0 END::BIGINT AS errors,
           input_tokens::BIGINT AS input_tokens, output_tokens::BIGINT AS output_tokens,
           timed_requests::BIGINT AS timed_requests, latency_us / 1000 AS latency_sum_ms,
           timed_output_tokens::BIGINT AS timed_output_tokens,
           output_latency_us / 1000 AS output_latency_sum_ms,
           latency_max_us / 1000 AS latency_max_ms, latency_sketch,
           first_token_requests::BIGINT AS first_token_requests, ttft_us / 1000 AS ttft_sum_ms, ttft_sketch,
           assumed_requests::BIGINT AS assumed_requests, assumed_parts,
           $sequence::BIGINT AS sequence
    FROM joined
    ORDER BY grain, period_start, tenant, provider, model, status
"""
