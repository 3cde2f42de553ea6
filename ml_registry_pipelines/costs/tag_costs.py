"""`tag_costs`: hours of the tags that budgets name, so that a budget on a tag needs no look at raw rows.

A day is summed up anew when its `cost_rollup` was, or when budgets name other tags. Tags that
no budget names are not kept here: a tag may hold anything, an id of each request as well.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.budgets import Budget
from ml_registry_pipelines.costs.rollups import complete_sequence
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing
from ml_registry_pipelines.lake.attributing import RULES, rules_of
from ml_registry_pipelines.lake.outcomes import LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.slices import LEADING
from ml_registry_pipelines.lake.tables.costs import TAG_COSTS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

TAG_COSTS_NAME = TAG_COSTS.name
ATTEMPTS = 8
Tags = tuple[tuple[str, str], ...]
"""(tenant, name of a tag), each once and in order."""


@dataclass(frozen=True)
class TagsSummed:
    """Days that were summed up, and days that are left because time was up, the newest done first."""

    days: tuple[date, ...]
    left: tuple[date, ...]


def wanted_tags(budgets: Iterable[Budget]) -> Tags:
    """The tags that budgets name."""
    return tuple(sorted({(budget.tenant, budget.tag[0]) for budget in budgets if budget.tag is not None}))


def sum_up_tags(lake: Lake, wanted: Tags, since: date, *, seconds: float = 20.0) -> TagsSummed:
    """Bring `tag_costs` up to `cost_rollup` from a day on, for about so long.

    Raises:
        LostRace: other writers were faster again and again.
    """
    done: list[date] = []
    until = time.monotonic() + seconds
    races = 0
    while True:
        with lake.read(
            TAG_COSTS.name, "cost_rollup", "inference_events", "model_costs", CORRECTIONS, RULES
        ) as reading:
            behind = sorted(set(days_behind(reading, wanted, since)) - set(done), reverse=True)
            if not behind or time.monotonic() > until:
                return TagsSummed(tuple(sorted(done)), tuple(sorted(behind)))
            sequence = complete_sequence(reading)
            try:
                for day in behind:
                    rows = _rows(reading, wanted, day)
                    lake.replace(
                        TAG_COSTS.name,
                        rows,
                        predicate=f"day = '{day.isoformat()}'",
                        source=LEADING,
                        sequence=sequence,
                    )
                    done.append(day)
                    if time.monotonic() > until:
                        break
            except (LostRace, StaleSlice, SnapshotGone):
                races += 1
                if races >= ATTEMPTS:
                    raise LostRace(
                        f"{TAG_COSTS.name}: other writers were faster {ATTEMPTS} times in a row; try again"
                    ) from None


def days_behind(reading: Reading, wanted: Tags, since: date) -> list[date]:
    """Days whose sums by tag are older than their `cost_rollup`, or of other tags, in order."""
    if not wanted:
        return []
    found = reading.query(
        "tag_costs.behind",
        """
        WITH rolled AS (
            SELECT day, max(sequence) AS sequence, max(costs_version) AS costs_version,
                   max(attribution_version) AS attribution_version
            FROM cost_rollup
            WHERE grain = 'day' AND day >= $since AND list_contains($tenants, tenant)
            GROUP BY day
        ),
        summed AS (
            SELECT day, max(sequence) AS sequence, max(costs_version) AS costs_version,
                   max(attribution_version) AS attribution_version, max(tags_digest) AS tags_digest
            FROM tag_costs
            WHERE day >= $since
            GROUP BY day
        )
        SELECT rolled.day
        FROM rolled LEFT JOIN summed ON summed.day = rolled.day
        WHERE summed.sequence IS DISTINCT FROM rolled.sequence
           OR summed.costs_version IS DISTINCT FROM rolled.costs_version
           OR summed.attribution_version IS DISTINCT FROM rolled.attribution_version
           OR summed.tags_digest IS DISTINCT FROM $digest
        ORDER BY rolled.day
        """,
        {"since": since, "tenants": sorted({tenant for tenant, _ in wanted}), "digest": _digest(wanted)},
    )
    days: list[date] = found["day"].to_pylist()
    return days


def _digest(wanted: Tags) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(wanted).encode()).digest()[:8], "big") >> 1


def _rows(reading: Reading, wanted: Tags, day: date) -> pa.Table:
    """Rows of `tag_costs` of one day, of the batches that its rollup holds."""
    rules = rules_of(reading)
    reading.register("wanted_tags", _wanted(wanted))
    rows = reading.query(
        "tag_costs.rows",
        f"""
        WITH rolled AS (
            SELECT max(sequence) AS sequence, max(costs_version) AS costs_version,
                   max(attribution_version) AS attribution_version
            FROM cost_rollup
            WHERE grain = 'day' AND day = $day AND tenant IN (SELECT tenant FROM wanted_tags)
        ),
        attempts AS (
            SELECT tenant, event_ts, event_key, batch, application, provider, model, tags,
                   {rules.columns(rules.number)}
            FROM inference_events
            WHERE day = $day AND tenant IN (SELECT tenant FROM wanted_tags)
              AND batch <= (SELECT sequence FROM rolled)
        ),
        tagged AS (
            SELECT attempts.tenant, tag, json_extract_string(tags, path) AS value, event_ts, event_key, batch,
                   application, provider, model, model_id
            FROM attempts JOIN wanted_tags ON wanted_tags.tenant = attempts.tenant
        )
        SELECT
            date_trunc('hour', tagged.event_ts) AS period_start, CAST($day AS DATE) AS day,
            tagged.tenant, tag, value, tagged.application, tagged.provider, tagged.model, model_id, currency,
            count(*) AS requests,
            count(*) FILTER (WHERE cost_status <> 'not_billed') AS billable_requests,
            count(*) FILTER (WHERE cost_status = 'priced') AS priced_requests,
            count(*) FILTER (WHERE assumed) AS assumed_requests,
            CAST(sum(cost) AS DECIMAL(38, 12)) AS cost,
            CAST(any_value(rolled.sequence) AS BIGINT) AS sequence,
            CAST(any_value(rolled.costs_version) AS BIGINT) AS costs_version,
            CAST(any_value(rolled.attribution_version) AS BIGINT) AS attribution_version,
            CAST($digest AS BIGINT) AS tags_digest
        FROM tagged
        JOIN ({standing(reading, "day = $day")}) AS costs
            ON costs.tenant = tagged.tenant AND costs.event_key = tagged.event_key
            AND costs.batch = tagged.batch AND costs.day = $day
        CROSS JOIN rolled
        GROUP BY date_trunc('hour', tagged.event_ts), tagged.tenant, tag, value, tagged.application,
                 tagged.provider, tagged.model, model_id, currency
        """,
        {"day": day, "digest": _digest(wanted)},
    )
    return rows.select(TAG_COSTS.column_names).cast(TAG_COSTS.schema)


def _wanted(wanted: Tags) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "tenant": pa.array([tenant for tenant, _ in wanted], pa.string()),
            "tag": pa.array([name for _, name in wanted], pa.string()),
            "path": pa.array([json_path(name) for _, name in wanted], pa.string()),
        }
    )


def json_path(name: str) -> str:
    """The path of a field of a JSON object, whatever its name."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{escaped}"'
