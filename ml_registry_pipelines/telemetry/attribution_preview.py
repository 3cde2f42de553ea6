"""What a rule would change, asked of the requests that are there; nothing is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.attributing import Outcome, Rules
from ml_registry_pipelines.lake.slices import DAY_FILTER, day_parameters, days_held
from ml_registry_pipelines.lake.tables.attribution import CONDITIONS
from ml_registry_pipelines.lake.tables.telemetry import TOKEN_BUCKETS
from ml_registry_pipelines.telemetry.attribution import NewRule, Rule, planned, rules_in
from ml_registry_pipelines.telemetry.compiling import compiled

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

_TOKENS = " + ".join(f"coalesce({bucket}, 0)" for bucket in TOKEN_BUCKETS)


@dataclass(frozen=True)
class Moved:
    """Requests with the same strings that the rule would assign otherwise; None: to nothing."""

    strings: tuple[str | None, ...]
    """One per `CONDITIONS`."""
    before: Outcome | None
    after: Outcome | None
    requests: int
    tokens: int


@dataclass(frozen=True)
class Preview:
    """The rule as it would be recorded, what would change, largest first, and the days to be rolled up."""

    rule: Rule
    moved: tuple[Moved, ...]
    days: tuple[date, ...]


def preview(lake: Lake, log: Log, tenant: str, asked: NewRule) -> Preview:
    """What `Attribution.add_rule` would change.

    Raises:
        RuleConflict, NotFound, InvalidInput: as it would.
    """
    given = asked.checked()
    view = log.view(tenant)
    rule = planned(view, given)
    present = rules_in(view)
    before, after = Rules(compiled(view, present)), Rules(compiled(view, [*present, rule]))
    with lake.read("inference_events") as reading:
        held = sorted(days_held(reading, "inference_events"))
        days = tuple(day for day in held if before.digest(day) != after.digest(day))
        if not days:
            return Preview(rule, (), ())
        rows = reading.query(
            "attribution.preview",
            f"""
            SELECT {", ".join(CONDITIONS)}, before, after,
                count(*) AS requests, CAST(sum(tokens) AS BIGINT) AS tokens
            FROM (
                SELECT {", ".join(CONDITIONS)}, {before.number} AS before, {after.number} AS after,
                    {_TOKENS} AS tokens
                FROM inference_events
                WHERE {DAY_FILTER} AND tenant = $tenant AND span_kind = 'leaf'
            )
            GROUP BY ALL
            ORDER BY requests DESC, tokens DESC, {", ".join(CONDITIONS)}
            """,
            day_parameters(days) | {"tenant": tenant},
        ).to_pylist()
    moved = (
        Moved(
            tuple(row[name] for name in CONDITIONS),
            None if row["before"] is None else before.outcomes[row["before"]],
            None if row["after"] is None else after.outcomes[row["after"]],
            row["requests"],
            row["tokens"],
        )
        for row in rows
    )
    return Preview(rule, tuple(one for one in moved if one.before != one.after), days)
