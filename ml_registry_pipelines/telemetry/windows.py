"""How a window of requests is answered: sketches where they cover it, raw rows for the rest.

Months that are merged (`months.py`) answer for themselves, as long as they are what their days would say
and the answer is not by day. The rollup answers for whole days, and, where neither tenants nor versions
are told apart, for whole hours of the days at the edges. Raw rows answer for the minutes around them, for
groups with fewer values than a sketch is made of, and for days that the rollup does not hold completely, or
holds under other attribution rules than those of now. Raw values fall into the same buckets as sketched
ones, so the sum of both has the same error.

What is asked and answered is in `performance.py`; what the rollup holds is in `rollups.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.attributing import RULES, Rules, rules_of
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.slices import DAY_FILTER, day_parameters, days_behind, days_held
from ml_registry_pipelines.telemetry.intervals import z_value
from ml_registry_pipelines.telemetry.months import BY_TENANT, TOGETHER, months_held, months_merged
from ml_registry_pipelines.telemetry.months import TABLE as MONTHS
from ml_registry_pipelines.telemetry.rollups import SKETCHED_FROM, WHOLE_DAY, Attempts
from ml_registry_pipelines.telemetry.sketches import install

if TYPE_CHECKING:
    import pyarrow as pa

GROUPINGS = ("tenant", "provider", "model", "day", "deployment_id", "model_id", "model_version")
ATTRIBUTED = ("deployment_id", "model_id", "model_version")
"""Those of them that attribution gives."""
QUANTILES = (0.5, 0.95, 0.99)
READS = (MONTHS, "performance_rollup", "inference_events", RULES)
"""Tables that a reading needs, in this order: a rollup is never ahead of the rows beside it."""

_NO_DAY = date(1, 1, 1)
_DAY = timedelta(days=1)
_Group = tuple[object, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of a window, and whose requests."""

    start: datetime
    end: datetime
    tenant: str | None = None
    provider: str | None = None
    model: str | None = None
    exact: bool = False
    deployment_id: str | None = None
    model_id: str | None = None
    model_version: int | None = None
    intervals: bool = False
    """Whether the bounds between which the quantiles lie are asked for as well."""

    def by_day_alone(self, by: frozenset[str]) -> bool:
        """Whether the hours of the rollup, which know neither tenant nor version, cannot answer it."""
        filters = (self.tenant, self.deployment_id, self.model_id, self.model_version)
        return not by.isdisjoint(("tenant", *ATTRIBUTED)) or any(f is not None for f in filters)


@dataclass(frozen=True)
class Answer:
    """One group: its counts by name, and by metric (`latency`, `ttft`) the number of values and quantiles."""

    counts: Mapping[str, Any]
    values: Mapping[str, int]
    quantiles: Mapping[tuple[str, float], float]
    bounds: Mapping[tuple[str, float, str], float]
    """`lower` and `upper` values by metric and quantile: none where there are too few values."""


def answers(reading: Reading, question: Question, groupings: Sequence[frozenset[str]]) -> list[list[Answer]]:
    """The groups of a window for each of `groupings`, those with most requests first."""
    found: list[list[Answer]] = [[] for _ in groupings]
    for by_day_alone in (False, True):
        # Together: planning these statements takes longer than a small lake's rows do.
        asked = {
            number: by for number, by in enumerate(groupings) if question.by_day_alone(by) == by_day_alone
        }
        if asked:
            monthly = not any("day" in by for by in asked.values())
            plan = Plan.of(reading, question, by_day_alone=by_day_alone, monthly=monthly)
            for number, one in _answers(reading, plan, asked):
                found[number].append(one)
    return found


def _answers(
    reading: Reading, plan: Plan, groupings: Mapping[int, frozenset[str]]
) -> Iterator[tuple[int, Answer]]:
    """Groups with the number of their grouping."""
    rules, raw = _register_parts(reading, plan, groupings)
    edges = bool(plan.others)
    if plan.question.exact and not plan.question.intervals:
        # All of it is raw then, and one look at it is enough.
        rows = reading.query("performance.raw", _raw_counts(rules, quantiles=True), raw)
        reading.register("raw_counts", rows.drop_columns(_QUANTILE_COLUMNS))
        found = _quantile_rows(rows)
    else:
        if edges:
            reading.register("raw_counts", reading.query("performance.raw_counts", _raw_counts(rules), raw))
        _register_buckets(reading, rules, raw)
        table = reading.query("performance.quantiles", _quantiles(intervals=plan.question.intervals))
        if plan.question.exact:
            reading.register("targets", table)
            table = reading.query("performance.exact", _exact(rules), raw)
        found = table.to_pylist()
    edges = edges or plan.question.exact
    values: dict[_Group, dict[str, int]] = {}
    quantiles: dict[_Group, dict[tuple[str, float], float]] = {}
    bounds: dict[_Group, dict[tuple[str, float, str], float]] = {}
    for row in found:
        group = tuple(row[name] for name in _GROUP_KEYS)
        values.setdefault(group, {})[row["metric"]] = row["n"]
        if row["part"] == "at":
            quantiles.setdefault(group, {})[row["metric"], row["q"]] = row["value"]
        else:
            bounds.setdefault(group, {})[row["metric"], row["q"], row["part"]] = row["value"]
    for counts in reading.query("performance.counts", _counts(edges=edges)).to_pylist():
        group = tuple(counts[name] for name in _GROUP_KEYS)
        yield (
            counts["grouping"],
            Answer(counts, values.get(group, {}), quantiles.get(group, {}), bounds.get(group, {})),
        )


def count_buckets(reading: Reading, plan: Plan, groupings: Mapping[int, frozenset[str]]) -> None:
    """Make `parts`, and the buckets `sketched` and `raw_buckets` of each of its groups, relations of a reading."""
    _register_buckets(reading, *_register_parts(reading, plan, groupings))


def _register_parts(
    reading: Reading, plan: Plan, groupings: Mapping[int, frozenset[str]]
) -> tuple[Rules, dict[str, object]]:
    """The rules, and the parameters of statements over the raw rows that the parts need beside them."""
    rules = rules_of(reading)
    reading.define(install)
    reading.define(Attempts.attributed(rules))
    reading.register("groupings", _relation(groupings))
    parts = reading.query(
        "performance.parts", _parts(plan.grains(), monthly=bool(plan.months)), plan.parameters()
    )
    reading.register("parts", parts)
    return rules, plan.raw_parameters(sparse=set(parts.filter(parts["sparse"])["day"].to_pylist()))


def _register_buckets(reading: Reading, rules: Rules, raw: Mapping[str, object]) -> None:
    reading.register("sketched", reading.query("performance.sketched", _SKETCHED))
    reading.register("raw_buckets", reading.query("performance.raw_buckets", _raw_buckets(rules), raw))


def _quantile_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Quantiles of raw rows as those of sketches come: a row per group, metric and quantile."""
    return [
        {**{name: row[name] for name in _GROUP_KEYS}, "metric": metric, "n": row[f"{metric}_n"], "q": q, "part": "at",
         "value": value}
        for row in rows.to_pylist()
        for metric in ("latency", "ttft")
        # Only what succeeded has values, so that no group has them twice.
        if row[f"{metric}_n"]
        for q, value in zip(QUANTILES, row[f"{metric}_quantiles"], strict=True)
    ]  # fmt: skip


def _relation(groupings: Mapping[int, frozenset[str]]) -> pa.Table:
    """A row per grouping: its number, and of each key whether it is grouped by."""
    import pyarrow as pa

    return pa.table(
        {"grouping": pa.array(list(groupings), pa.int32())}
        | {f"by_{name}": pa.array([name in by for by in groupings.values()]) for name in GROUPINGS}
    )


@dataclass(frozen=True)
class Plan:
    """What a window is answered from: which days come whole from the rollup, which by the hour, of which raw rows
    are counted, and which months come merged, whose days are in none of these."""

    question: Question
    by_day_alone: bool
    whole: tuple[date, ...]
    together: tuple[date, ...]
    hourly: tuple[date, ...]
    others: tuple[date, ...]
    months: tuple[date, ...]

    @classmethod
    def of(cls, reading: Reading, question: Question, *, by_day_alone: bool, monthly: bool) -> Plan:
        behind = days_behind(reading, "performance_rollup", reading.sequence("inference_events", "ingestion"))
        raw = days_held(reading, "inference_events")
        rolled = set() if question.exact else days_held(reading, "performance_rollup") - behind.keys()
        inside = [day for day in sorted(raw | rolled) if _midnight(day) < question.end]
        inside = [day for day in inside if _midnight(day) + _DAY > question.start]
        whole = [
            day
            for day in inside
            if day in rolled and question.start <= _midnight(day) and _midnight(day) + _DAY <= question.end
        ]
        hourly = [day for day in inside if day in rolled and day not in whole and not by_day_alone]
        # Of a day that the window cuts at whole hours, the hours of the rollup are all that is in it.
        even = question.start == _hour(question.start) and question.end == _hour(question.end)
        others = tuple(day for day in inside if day not in whole and not (even and day in hourly))
        months = _months(reading, set(whole), raw | rolled) if monthly and len(whole) > 1 else []
        whole = [day for day in whole if day.replace(day=1) not in months]
        together = [] if by_day_alone else sorted(whole_days(reading) & set(whole))
        return cls(
            question, by_day_alone, tuple(whole), tuple(together), tuple(hourly), others, tuple(months)
        )

    def rolled_days(self) -> dict[str, object]:
        return day_parameters(self.whole + self.hourly or (_NO_DAY,))

    def parameters(self) -> dict[str, object]:
        asked = self.question
        return self.rolled_days() | {
            "whole": list(self.whole), "together": list(self.together), "hourly": list(self.hourly),
            "hours": not self.by_day_alone,
            "start": asked.start, "end": asked.end,
            "tenant": asked.tenant, "provider": asked.provider, "model": asked.model,
            "deployment_id": asked.deployment_id, "model_id": asked.model_id,
            "model_version": asked.model_version,
        } | ({} if not self.months else {
            "months": list(self.months), "first_month": min(self.months), "last_month": max(self.months),
            "month_grain": BY_TENANT if self.by_day_alone else TOGETHER,
        })  # fmt: skip

    def grains(self) -> list[str]:
        """The grains of the rollup that any day is taken from."""
        given = {"hour": self.hourly, "day": set(self.whole) - set(self.together), WHOLE_DAY: self.together}
        return [grain for grain, days in given.items() if days]

    def raw_parameters(self, *, sparse: Collection[date]) -> dict[str, object]:
        """As `parameters`, for the raw rows of the days that need any."""
        given = self.parameters() | day_parameters(sorted({*self.others, *sparse}) or [_NO_DAY])
        return {name: value for name, value in given.items() if name not in _OF_PARTS}


_OF_PARTS = {"hours", "together", "months", "first_month", "last_month", "month_grain"}


def _months(reading: Reading, whole: set[date], held: Collection[date]) -> list[date]:
    """The merged months of which every day that there is comes whole, and is as when the month was merged."""
    merged = months_merged(reading)
    if not merged:
        return []
    apart = {day.replace(day=1) for day in held if day not in whole}
    return [
        month
        for month, now in months_held(reading).items()
        if merged.get(month) == now.digest and now.days <= whole and month not in apart
    ]


def whole_days(reading: Reading) -> set[date]:
    """The days of which the rollup has all tenants together, by the statistics of its files."""
    files = reading.files("performance_rollup")
    if "max.grain" not in files.schema.names:
        return set()
    pairs = zip(files["partition.day"].to_pylist(), files["max.grain"].to_pylist(), strict=True)
    return {day for day, last in pairs if last == WHOLE_DAY}


def _hour(moment: datetime) -> datetime:
    """The whole hour of UTC that a moment lies in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


_GROUP_KEYS = ("grouping", *GROUPINGS)
_GROUP = ", ".join(["grouping", *(f"CASE WHEN by_{name} THEN {name} END AS {name}" for name in GROUPINGS)])
"""The keys of a row's group in a grouping: those that it groups by, and NULL for the others."""

_WANTED = """
              ($tenant IS NULL OR tenant = $tenant)
          AND ($provider IS NULL OR provider = $provider)
          AND ($model IS NULL OR model = $model)
          AND ($deployment_id IS NULL OR deployment_id = $deployment_id)
          AND ($model_id IS NULL OR model_id = $model_id)
          AND ($model_version IS NULL OR model_version = $model_version)
"""
_KEYS = ", ".join(_GROUP_KEYS)


def _same(left: str, right: str, names: tuple[str, ...]) -> str:
    """Condition that two relations have the same values, NULL included."""
    return " AND ".join(f"{left}.{name} IS NOT DISTINCT FROM {right}.{name}" for name in names)


def _parts(grains: Sequence[str], *, monthly: bool) -> str:
    """Rows of the rollup that the window covers. Grains as constants pass over row groups of the others."""
    listed = ", ".join(f"'{grain}'" for grain in grains) or "NULL"
    return f"""
    -- Hours, where the window's edges cut a day; whole days of all tenants together where it may be those,
    -- else by tenant, as of days from before there were others.
    WITH covered AS (
        SELECT *,
               CASE WHEN timed_requests < {SKETCHED_FROM} THEN timed_requests ELSE 0 END AS raw_latencies,
               CASE WHEN first_token_requests < {SKETCHED_FROM} THEN first_token_requests ELSE 0 END
                   AS raw_ttfts
        FROM performance_rollup
        WHERE {DAY_FILTER}
          AND grain IN ({listed})
          AND CASE grain
              WHEN 'hour' THEN $hours AND list_contains($hourly::DATE[], day)
                   AND period_start >= $start AND period_start + INTERVAL 1 HOUR <= $end
              WHEN 'day' THEN list_contains($whole::DATE[], day) AND NOT list_contains($together::DATE[], day)
              ELSE list_contains($together::DATE[], day) END
          AND {_WANTED}
    )
    SELECT grain, day, tenant, provider, model, status, deployment_id, model_id, model_version, attribution,
           raw_latencies, raw_ttfts, raw_latencies + raw_ttfts > 0 AS sparse,
           CASE WHEN grain = 'hour' THEN epoch_us(period_start) // 3_600_000_000 END AS hour,
           requests, errors, input_tokens, output_tokens, timed_output_tokens,
           round(output_latency_sum_ms * 1000)::BIGINT AS output_latency_us,
           assumed_requests, assumed_parts, latency_sketch, ttft_sketch
    FROM covered
    {_MONTHLY if monthly else ""}
"""


_MONTHLY = f"""
    UNION ALL
    SELECT grain, month, tenant, provider, model, status, deployment_id, model_id, model_version, NULL,
           0, 0, FALSE, NULL,
           requests, errors, input_tokens, output_tokens, timed_output_tokens, output_latency_us,
           assumed_requests, assumed_parts, latency_sketch, ttft_sketch
    FROM {MONTHS}
    WHERE month BETWEEN $first_month AND $last_month AND list_contains($months::DATE[], month)
      AND grain = $month_grain AND {_WANTED}
"""


_SKETCHED = f"""
    WITH chosen AS (
        SELECT {_GROUP}, latency_sketch, ttft_sketch
        FROM parts, groupings
        WHERE latency_sketch IS NOT NULL OR ttft_sketch IS NOT NULL
    ),
    counted AS (
        SELECT {_KEYS}, 'latency' AS metric, unnest(latency_sketch, recursive := true)
        FROM chosen
        UNION ALL
        SELECT {_KEYS}, 'ttft', unnest(ttft_sketch, recursive := true)
        FROM chosen
    )
    SELECT {_KEYS}, metric, bucket, sum(count)::BIGINT AS n
    FROM counted
    GROUP BY ALL
"""


def _raw(rules: Rules) -> str:
    # Without a rule nothing is attributed, neither in raw rows nor in what was rolled up of them.
    same_version = f"AND {_same('a', 'd', (*ATTRIBUTED, 'attribution'))}" if rules else ""
    return f"""
    -- Raw rows that the rollup does not answer for, and of which metric.
    SELECT a.*, a.edge OR coalesce(h.raw_latencies, t.raw_latencies, d.raw_latencies, 0) > 0 AS counts_latency,
           a.edge OR coalesce(h.raw_ttfts, t.raw_ttfts, d.raw_ttfts, 0) > 0 AS counts_ttft
    FROM (
        SELECT *, NOT (list_contains($whole::DATE[], day)
                       OR (list_contains($hourly::DATE[], day) AND to_timestamp(hour * 3600) >= $start
                           AND to_timestamp((hour + 1) * 3600) <= $end)) AS edge
        FROM attempts
        WHERE {DAY_FILTER} AND event_ts >= $start AND event_ts < $end
          AND {_WANTED}
    ) a
    LEFT JOIN (FROM parts WHERE sparse AND grain = 'hour' AND status = 'success') h
        ON a.hour = h.hour
        AND a.provider IS NOT DISTINCT FROM h.provider AND a.model IS NOT DISTINCT FROM h.model
    LEFT JOIN (FROM parts WHERE sparse AND grain = 'whole_day' AND status = 'success') t
        ON a.day = t.day
        AND a.provider IS NOT DISTINCT FROM t.provider AND a.model IS NOT DISTINCT FROM t.model
    LEFT JOIN (FROM parts WHERE sparse AND grain = 'day' AND status = 'success') d
        ON a.day = d.day AND a.tenant = d.tenant
        AND a.provider IS NOT DISTINCT FROM d.provider AND a.model IS NOT DISTINCT FROM d.model
        {same_version}
"""


_QUANTILE_COLUMNS = ["latency_n", "ttft_n", "latency_quantiles", "ttft_quantiles"]


def _raw_counts(rules: Rules, *, quantiles: bool = False) -> str:
    """Counts of raw rows that the rollup does not answer for; with `quantiles` those of their values as well."""
    exact = f""",
           count(latency_ms) AS latency_n, count(ttft_ms) AS ttft_n,
           quantile_disc(latency_ms, {list(QUANTILES)}) AS latency_quantiles,
           quantile_disc(ttft_ms, {list(QUANTILES)}) AS ttft_quantiles"""
    return f"""
    SELECT {_GROUP}, status,
           count(*) AS requests, count(*) FILTER (error) AS errors,
           sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
           (sum(output_tokens) FILTER (latency_ms IS NOT NULL AND usage_known))::BIGINT
               AS timed_output_tokens,
           (sum(round(latency_ms * 1000)::BIGINT) FILTER (usage_known))::BIGINT AS output_latency_us,
           count(assumed) AS assumed_requests, string_agg(DISTINCT assumed, ' ') AS assumed_parts
           {exact if quantiles else ""}
    FROM ({_raw(rules)}), groupings
    WHERE edge
    GROUP BY ALL
"""


def _raw_values(rules: Rules) -> str:
    return f"""
    WITH chosen AS (
        SELECT {_GROUP},
               CASE WHEN counts_latency THEN latency_ms END AS latency_ms,
               CASE WHEN counts_ttft THEN ttft_ms END AS ttft_ms
        FROM ({_raw(rules)}), groupings
        WHERE counts_latency OR counts_ttft
    ),
    valued AS (
        SELECT {_KEYS}, 'latency' AS metric, latency_ms AS value,
               sketch_bucket(latency_ms) AS bucket
        FROM chosen
        WHERE latency_ms IS NOT NULL
        UNION ALL
        SELECT {_KEYS}, 'ttft', ttft_ms, sketch_bucket(ttft_ms)
        FROM chosen
        WHERE ttft_ms IS NOT NULL
    )
"""


def _raw_buckets(rules: Rules) -> str:
    return f"""
    {_raw_values(rules)}
    SELECT {_KEYS}, metric, bucket, count(*) AS n
    FROM valued
    GROUP BY ALL
"""


def _quantiles(*, intervals: bool) -> str:
    """Of each quantile its bucket, and its place among that bucket's values; likewise of its bounds.

    A quantile's bounds are values, whose ranks `intervals.ranks_around` gives; a rank that there is not has no row.
    """
    half = f"{z_value()!r} * sqrt(total * q * (1 - q))"
    return f"""
    WITH merged AS (
        SELECT {_KEYS}, metric, bucket, sum(n) AS n
        FROM (FROM sketched UNION ALL FROM raw_buckets)
        GROUP BY ALL
    ),
    running AS (
        SELECT *, sum(n) OVER in_order AS up_to,
               sum(n) OVER (PARTITION BY {_KEYS}, metric) AS total
        FROM merged
        WINDOW in_order AS (PARTITION BY {_KEYS}, metric ORDER BY bucket)
    ),
    ranked AS (
        SELECT *, CASE part WHEN 'at' THEN sketch_rank(total, q) WHEN 'lower' THEN floor(total * q - {half})
                  ELSE ceil(total * q + {half}) + 1 END AS rank
        FROM running, (SELECT unnest({list(QUANTILES)}::DOUBLE[]) AS q),
             (SELECT unnest({["at", "lower", "upper"] if intervals else ["at"]}) AS part)
    )
    SELECT {_KEYS}, metric, total::BIGINT AS n, q, part, bucket,
           (rank - (up_to - n))::BIGINT AS place, sketch_value(bucket)::DOUBLE AS value
    FROM ranked
    WHERE rank <= up_to AND rank > up_to - n
"""


def _exact(rules: Rules) -> str:
    return f"""
    {_raw_values(rules)},
    placed AS (
        SELECT *, row_number() OVER of_bucket AS place
        FROM valued SEMI JOIN targets USING (metric, bucket)
        WINDOW of_bucket AS (PARTITION BY {_KEYS}, metric, bucket ORDER BY value)
    )
    SELECT {", ".join(f"t.{name}" for name in _GROUP_KEYS)}, t.metric, t.n, t.q, t.part, p.value
    FROM targets t JOIN placed p
        ON {_same("t", "p", (*_GROUP_KEYS, "metric", "bucket", "place"))}
"""


def _counts(*, edges: bool) -> str:
    """The counts of the parts that the rollup has whole, and of raw rows where the window has edges."""
    return f"""
    WITH counted AS (
        SELECT {_GROUP}, status,
               requests, errors, input_tokens, output_tokens, timed_output_tokens, output_latency_us,
               assumed_requests, assumed_parts
        FROM parts, groupings
        {"UNION ALL FROM raw_counts" if edges else ""}
    )
    SELECT {_KEYS},
           sum(requests)::BIGINT AS requests,
           coalesce(sum(requests) FILTER (status = 'success'), 0)::BIGINT AS successes,
           sum(errors)::BIGINT AS errors,
           coalesce(sum(requests) FILTER (status = 'cancelled_billed'), 0)::BIGINT AS cancelled,
           coalesce(sum(requests) FILTER (status = 'cache_hit'), 0)::BIGINT AS cache_hits,
           sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
           CASE WHEN sum(output_latency_us) > 0
                THEN sum(timed_output_tokens) / (sum(output_latency_us) / 1e6) END::DOUBLE
               AS output_tokens_per_second,
           sum(assumed_requests)::BIGINT AS assumed_requests,
           string_agg(DISTINCT assumed_parts, ' ') AS assumed_parts
    FROM counted
    GROUP BY ALL
    ORDER BY sum(requests) DESC, {_KEYS}
"""
