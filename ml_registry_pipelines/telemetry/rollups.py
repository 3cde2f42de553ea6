"""performance_rollup: requests, errors, tokens and percentile sketches by hour and by day.

By hour all tenants together, by day each tenant for itself and all together (`whole_day`); a sketch
only where 200 values are, since below that it is longer than the values. Only the days that got new
rows are computed again.

What counts, here and wherever raw rows stand in for a rollup (`attempts`):
- a request is an attempt of a leaf call: aggregate spans and tool calls repeat or surround one;
- a latency is that of an answer, status `success`: a failed call may end in no time at all, a
  cancelled one ends when the caller likes, and a `cache_hit` is the gateway's speed, not the model's;
- an error is `error_billed` or `error_unbilled`.

By day, requests are also told apart by the deployment and version that attribution assigns them to
(`lake/attributing.py`); by hour, where all tenants are together, they are not.

Questions over a window are answered in `performance.py`; what requests cost is in the costs room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import count
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.attributing import Rules, rules_of
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
WHOLE_DAY = "whole_day"
"""The grain of a day's rows of all tenants together: what questions that name no tenant are answered from.

It sorts last, so that the statistics of a file tell whether it has any.
"""
LONGEST_MS = 1e12
"""A latency above it, 31 years, is no latency."""

_INPUT_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in INPUT_BUCKETS)
_OUTPUT_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in OUTPUT_BUCKETS)


def refresh_performance(lake: Lake, days: Collection[date] | None = None) -> Refreshed:
    """Bring performance_rollup up to inference_events: the days that got new rows, or those of `days` that differ.

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


@dataclass(frozen=True)
class Attempts:
    """Defines the view `attempts` over inference_events.

    One row per attempt of a leaf call: `day`, `event_ts`, `hour` (since 1970), keys, `input_tokens`,
    `output_tokens`, `usage_known`, `error`; `latency_ms` and `ttft_ms` of answers alone; the words that
    say which parts of the record are `assumed`; and what attribution says of it, which costs nothing
    where it is not asked for.
    """

    number: str
    columns: str

    @classmethod
    def attributed(cls, rules: Rules) -> Attempts:
        """The view with the deployments and versions that the rules assign attempts to."""
        return cls(rules.number, rules.columns("outcome"))

    def __call__(self, connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP VIEW attempts AS
            SELECT * EXCLUDE (outcome), {self.columns}
            FROM (
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
                       ), '') AS assumed,
                       {self.number} AS outcome
                FROM inference_events
                WHERE span_kind = 'leaf'
            )
            """
        )


def roll_up(reading: Reading, days: Sequence[date], sequence: int) -> pa.Table:
    """The rows of performance_rollup for some days, computed from batch `sequence`, in order of the key.

    Sums of times are taken over whole microseconds, so that they do not depend on the order of rows.
    """
    rules = rules_of(reading)
    reading.define(Attempts.attributed(rules))
    fine = _fine_key(rules, days)
    salt, most = _register_keys(reading, rules, fine, days)
    reading.register("digests", rules.digest_rows(days))
    if sketched := most >= SKETCHED_FROM:
        reading.define(install)
    return reading.query(
        "rollups.performance",
        _roll_up(fine, rules.columns("g.outcome"), sketched=sketched),
        day_parameters(days) | {"salt": salt, "sequence": sequence},
    )


def _fine_key(rules: Rules, days: Sequence[date]) -> list[str]:
    """Expressions over an attempt: its key, and all else that attribution needs to be the same for a group."""
    key = ["tenant", "provider", "model", "status"]
    others = [name for name in rules.used if name not in key]
    return [*key, *others, f"({rules.segment(days)})"]


def _register_keys(
    reading: Reading, rules: Rules, fine: Sequence[str], days: Sequence[date]
) -> tuple[int, int]:
    """Make the groups of some days the relation `groups`, each with a number.

    Returns their salt, and how many attempts the largest of them can have at most.

    A group of a day has its tenant and attribution, one of an hour or of all tenants has neither. Millions of rows are
    grouped by numbers: by the strings themselves it takes twice the time. They are grouped more finely
    than it takes (relation `finest`), so that attribution is found once for many. Should two groups
    get the same number, another salt tells them apart.
    """
    import pyarrow.compute as pc

    named = {f"f{number}": expression for number, expression in enumerate(fine)}
    for salt in count():
        finest = reading.query(
            "rollups.performance_groups",
            f"""
            WITH named AS (
                SELECT {", ".join(f"{expression} AS {name}" for name, expression in named.items())},
                       {"min(event_ts)" if rules else "NULL::TIMESTAMPTZ"} AS event_ts, count(*) AS attempts
                FROM attempts
                WHERE {DAY_FILTER}
                GROUP BY ALL
            ),
            resolved AS (
                SELECT {", ".join(named)}, {rules.number} AS outcome, attempts
                FROM (SELECT *, {", ".join(f"{n} AS {e}" for n, e in named.items() if e.isidentifier())}
                      FROM named)
            )
            SELECT f0 AS tenant, f1 AS provider, f2 AS model, f3 AS status, outcome, attempts,
                   hash({", ".join(named)}, $salt) AS fine,
                   hash(f0, f1, f2, f3, outcome, $salt) AS number,
                   hash(f1, f2, f3, $salt) AS of_all_tenants
            FROM resolved
            """,
            day_parameters(days) | {"salt": salt},
        )
        reading.register("finest", finest)
        groups = reading.query(
            "rollups.performance_group_numbers",
            f"""
            SELECT DISTINCT 'day' AS grain, tenant, provider, model, status, outcome, number FROM finest
            UNION ALL
            SELECT DISTINCT unnest(['hour', '{WHOLE_DAY}']), NULL, provider, model, status, NULL, of_all_tenants
            FROM finest
            """,
        )
        reading.register("groups", groups)
        of_days = groups.filter(pc.not_equal(groups["grain"], "hour"))
        if all(len(t[n].unique()) == t.num_rows for t, n in ((finest, "fine"), (of_days, "number"))):
            of_keys = finest.group_by("of_all_tenants").aggregate([("attempts", "sum")])
            return salt, max(of_keys["attempts_sum"].to_pylist(), default=0)
    raise AssertionError("unreachable")


# A period is an hour since 1970, or the complement of a day, which is below zero.
def _roll_up(fine: Sequence[str], attributed: str, *, sketched: bool) -> str:
    """The statement; without what makes sketches, a third of its planning, where no group is long enough."""
    buckets = """,
               sketch_bucket(latency_ms) AS latency_bucket,
               sketch_bucket(ttft_ms) AS ttft_bucket"""
    sketch = "CAST(NULL AS STRUCT(bucket INTEGER, count BIGINT)[])"
    return f"""
    WITH chosen AS MATERIALIZED (
        SELECT hour, hash({", ".join(fine)}, $salt) AS fine,
               input_tokens, output_tokens, assumed,
               round(latency_ms * 1000)::BIGINT AS latency_us,
               round(ttft_ms * 1000)::BIGINT AS ttft_us,
               CASE WHEN usage_known THEN round(latency_ms * 1000)::BIGINT END AS output_latency_us
               {buckets if sketched else ""}
        FROM attempts
        WHERE {DAY_FILTER}
    ),
    counted AS MATERIALIZED (
        SELECT hour, fine, count(*) AS requests,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               count(latency_us) AS timed_requests, sum(latency_us) AS latency_us,
               max(latency_us) AS latency_max_us,
               sum(output_tokens) FILTER (latency_us IS NOT NULL) AS timed_output_tokens,
               sum(output_latency_us) AS output_latency_us,
               count(ttft_us) AS first_token_requests, sum(ttft_us) AS ttft_us,
               count(assumed) AS assumed_requests
        FROM chosen
        GROUP BY hour, fine
    ),
    assumptions AS MATERIALIZED (
        SELECT DISTINCT hour, fine, unnest(string_split(assumed, ' ')) AS part
        FROM chosen
        WHERE assumed IS NOT NULL
    ),
    totals AS MATERIALIZED (
        SELECT period, number, sum(requests) AS requests,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               sum(timed_requests) AS timed_requests, sum(latency_us) AS latency_us,
               max(latency_max_us) AS latency_max_us,
               sum(timed_output_tokens) AS timed_output_tokens, sum(output_latency_us) AS output_latency_us,
               sum(first_token_requests) AS first_token_requests, sum(ttft_us) AS ttft_us,
               sum(assumed_requests) AS assumed_requests
        FROM (
            SELECT unnest([~(hour // 24), ~(hour // 24), hour]) AS period,
                   unnest([number, of_all_tenants, of_all_tenants]) AS number, counted.* EXCLUDE (hour, fine)
            FROM counted JOIN finest USING (fine)
        )
        GROUP BY period, number
    ),
{_SKETCHES if sketched else ""}
    assumed_parts AS (
        SELECT period, number, string_agg(DISTINCT part, ' ' ORDER BY part) FILTER (part <> '') AS parts
        FROM (
            SELECT unnest([~(hour // 24), ~(hour // 24), hour]) AS period,
                   unnest([number, of_all_tenants, of_all_tenants]) AS number, part
            FROM assumptions JOIN finest USING (fine)
        )
        GROUP BY period, number
    )
    SELECT g.grain,
           to_timestamp(CASE g.grain WHEN 'hour' THEN t.period ELSE (~t.period) * 24 END * 3600)
               AS period_start,
           DATE '1970-01-01' + (CASE g.grain WHEN 'hour' THEN t.period // 24 ELSE ~t.period END)::INTEGER
               AS day,
           g.tenant, g.provider, g.model, g.status,
           requests::BIGINT AS requests,
           CASE WHEN g.status IN ('error_billed', 'error_unbilled') THEN requests ELSE 0 END::BIGINT
               AS errors,
           input_tokens::BIGINT AS input_tokens, output_tokens::BIGINT AS output_tokens,
           timed_requests::BIGINT AS timed_requests, latency_us / 1000 AS latency_sum_ms,
           timed_output_tokens::BIGINT AS timed_output_tokens,
           output_latency_us / 1000 AS output_latency_sum_ms,
           latency_max_us / 1000 AS latency_max_ms, {"l.sketch" if sketched else sketch} AS latency_sketch,
           first_token_requests::BIGINT AS first_token_requests, ttft_us / 1000 AS ttft_sum_ms,
           {"f.sketch" if sketched else sketch} AS ttft_sketch,
           assumed_requests::BIGINT AS assumed_requests, a.parts AS assumed_parts,
           $sequence::BIGINT AS sequence,
           {attributed}, attribution_version
    FROM totals t
    JOIN groups g ON t.number = g.number AND (t.period < 0) = (g.grain <> 'hour')
    {_SKETCH_JOINS if sketched else ""}
    LEFT JOIN assumed_parts a ON t.period = a.period AND t.number = a.number
    LEFT JOIN digests ON digests.day
        = DATE '1970-01-01' + (CASE g.grain WHEN 'hour' THEN t.period // 24 ELSE ~t.period END)::INTEGER
    ORDER BY g.grain, period_start, g.tenant, g.provider, g.model, g.status, deployment_id, model_version
"""


_SKETCHES = f"""
    latencies AS MATERIALIZED (
        SELECT hour, fine, latency_bucket AS bucket, count(*) AS n
        FROM chosen
        WHERE latency_bucket IS NOT NULL
        GROUP BY hour, fine, bucket
    ),
    first_tokens AS MATERIALIZED (
        SELECT hour, fine, ttft_bucket AS bucket, count(*) AS n
        FROM chosen
        WHERE ttft_bucket IS NOT NULL
        GROUP BY hour, fine, bucket
    ),
    latency_sketches AS (
        SELECT period, number, sketch_of(bucket, n) AS sketch
        FROM (
            SELECT period, number, bucket, sum(n) AS n
            FROM (
                SELECT unnest([~(hour // 24), ~(hour // 24), hour]) AS period,
                       unnest([number, of_all_tenants, of_all_tenants]) AS number, bucket, n
                FROM latencies JOIN finest USING (fine)
            )
            SEMI JOIN (FROM totals WHERE timed_requests >= {SKETCHED_FROM}) USING (period, number)
            GROUP BY period, number, bucket
        )
        GROUP BY period, number
    ),
    ttft_sketches AS (
        SELECT period, number, sketch_of(bucket, n) AS sketch
        FROM (
            SELECT period, number, bucket, sum(n) AS n
            FROM (
                SELECT unnest([~(hour // 24), ~(hour // 24), hour]) AS period,
                       unnest([number, of_all_tenants, of_all_tenants]) AS number, bucket, n
                FROM first_tokens JOIN finest USING (fine)
            )
            SEMI JOIN (FROM totals WHERE first_token_requests >= {SKETCHED_FROM}) USING (period, number)
            GROUP BY period, number, bucket
        )
        GROUP BY period, number
    ),
"""

_SKETCH_JOINS = """
    LEFT JOIN latency_sketches l ON t.period = l.period AND t.number = l.number
    LEFT JOIN ttft_sketches f ON t.period = f.period AND t.number = f.number
"""
