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
               CASE WHEN status = 'success' AND latency_ms BETWEEN 0 AND {LONGEST_MS} THEN latency_ms END AS latency_ms,
               CASE WHEN status = 'success' AND ttft_ms BETWEEN 0 AND {LONGEST_MS} THEN ttft_ms END AS ttft_ms,
               nullif(concat_ws(' ', CASE WHEN time_quality = 'assumed' THEN 'time' END,
                                CASE WHEN contains(tags, '"assumed"') THEN json_extract_string(tags, '$.assumed') END),
                      '') AS assumed
        FROM inference_events
        WHERE span_kind = 'leaf'
        """
    )


def roll_up(reading: Reading, days: Sequence[date], sequence: int) -> pa.Table:
    """The rows of performance_rollup for some days, computed from batch `sequence`, in order of the key.

    Sums of times are taken over whole microseconds, so that they do not depend on the order of rows.
    """
    define_attempts(reading.connection)
    return reading.query(
        "rollups.performance",
        f"""
        WITH chosen AS MATERIALIZED (
            SELECT day, hour, tenant, provider, model, status, error, input_tokens, output_tokens, assumed,
                   round(latency_ms * 1000)::BIGINT AS latency_us,
                   round(ttft_ms * 1000)::BIGINT AS ttft_us,
                   usage_known AND latency_ms IS NOT NULL AS output_timed,
                   sketch_bucket(latency_ms) AS latency_bucket,
                   sketch_bucket(ttft_ms) AS ttft_bucket
            FROM attempts
            WHERE {DAY_FILTER}
        ),
        by_hour_and_tenant AS (
            SELECT day, hour, tenant, provider, model, status,
                   count(*) AS requests, count(*) FILTER (error) AS errors,
                   sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                   count(latency_us) AS timed_requests, sum(latency_us) AS latency_us, max(latency_us) AS latency_max_us,
                   sum(output_tokens) FILTER (output_timed) AS timed_output_tokens,
                   sum(latency_us) FILTER (output_timed) AS output_latency_us,
                   count(ttft_us) AS first_token_requests, sum(ttft_us) AS ttft_us,
                   count(assumed) AS assumed_requests, list(DISTINCT assumed) FILTER (assumed IS NOT NULL) AS assumed
            FROM chosen
            GROUP BY ALL
        ),
        counted AS (
            SELECT day, hour, tenant, provider, model, status,
                   sum(requests) AS requests, sum(errors) AS errors,
                   sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                   sum(timed_requests) AS timed_requests, sum(latency_us) AS latency_us,
                   max(latency_max_us) AS latency_max_us,
                   sum(timed_output_tokens) AS timed_output_tokens, sum(output_latency_us) AS output_latency_us,
                   sum(first_token_requests) AS first_token_requests, sum(ttft_us) AS ttft_us,
                   sum(assumed_requests) AS assumed_requests, flatten(list(assumed)) AS assumed
            FROM by_hour_and_tenant
            GROUP BY GROUPING SETS ((day, hour, provider, model, status), (day, tenant, provider, model, status))
        ),
        latency_buckets AS (
            SELECT day, hour, tenant, provider, model, latency_bucket AS bucket, count(*) AS n
            FROM chosen
            WHERE latency_bucket IS NOT NULL
            GROUP BY ALL
        ),
        latency_merged AS (
            SELECT day, hour, tenant, provider, model, bucket, sum(n) AS n
            FROM latency_buckets
            GROUP BY GROUPING SETS ((day, hour, provider, model, bucket), (day, tenant, provider, model, bucket))
        ),
        latency_sketches AS (
            SELECT day, hour, tenant, provider, model, sketch_of(bucket, n) AS sketch
            FROM latency_merged
            GROUP BY ALL
            HAVING sum(n) >= {SKETCHED_FROM}
        ),
        ttft_buckets AS (
            SELECT day, hour, tenant, provider, model, ttft_bucket AS bucket, count(*) AS n
            FROM chosen
            WHERE ttft_bucket IS NOT NULL
            GROUP BY ALL
        ),
        ttft_merged AS (
            SELECT day, hour, tenant, provider, model, bucket, sum(n) AS n
            FROM ttft_buckets
            GROUP BY GROUPING SETS ((day, hour, provider, model, bucket), (day, tenant, provider, model, bucket))
        ),
        ttft_sketches AS (
            SELECT day, hour, tenant, provider, model, sketch_of(bucket, n) AS sketch
            FROM ttft_merged
            GROUP BY ALL
            HAVING sum(n) >= {SKETCHED_FROM}
        )
        SELECT CASE WHEN c.hour IS NULL THEN 'day' ELSE 'hour' END AS grain,
               CASE WHEN c.hour IS NULL THEN c.day::TIMESTAMPTZ ELSE to_timestamp(c.hour * 3600) END AS period_start,
               c.day, c.tenant, c.provider, c.model, c.status,
               c.requests::BIGINT AS requests, c.errors::BIGINT AS errors,
               c.input_tokens::BIGINT AS input_tokens, c.output_tokens::BIGINT AS output_tokens,
               c.timed_requests::BIGINT AS timed_requests, c.latency_us / 1000 AS latency_sum_ms,
               c.timed_output_tokens::BIGINT AS timed_output_tokens,
               c.output_latency_us / 1000 AS output_latency_sum_ms,
               c.latency_max_us / 1000 AS latency_max_ms, l.sketch AS latency_sketch,
               c.first_token_requests::BIGINT AS first_token_requests, c.ttft_us / 1000 AS ttft_sum_ms,
               t.sketch AS ttft_sketch,
               c.assumed_requests::BIGINT AS assumed_requests,
               nullif(array_to_string(list_sort(list_distinct(string_split(array_to_string(c.assumed, ' '), ' '))), ' '),
                      '') AS assumed_parts,
               $sequence::BIGINT AS sequence
        FROM counted c
        LEFT JOIN latency_sketches l
            ON c.status = 'success' AND c.day = l.day AND c.hour IS NOT DISTINCT FROM l.hour
            AND c.tenant IS NOT DISTINCT FROM l.tenant AND c.provider IS NOT DISTINCT FROM l.provider
            AND c.model IS NOT DISTINCT FROM l.model
        LEFT JOIN ttft_sketches t
            ON c.status = 'success' AND c.day = t.day AND c.hour IS NOT DISTINCT FROM t.hour
            AND c.tenant IS NOT DISTINCT FROM t.tenant AND c.provider IS NOT DISTINCT FROM t.provider
            AND c.model IS NOT DISTINCT FROM t.model
        ORDER BY ALL
        """,
        day_parameters(days) | {"sequence": sequence},
    )
