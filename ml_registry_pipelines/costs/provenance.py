"""What figures about costs rest on: versions of tables, batches, and requests that are not in them yet."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.queries import FILTERS, UnknownKey
from ml_registry_pipelines.costs.standing import CORRECTIONS
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.attributing import RULES
from ml_registry_pipelines.lake.slices import DAY_FILTER, day_parameters, days_behind

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

READS = ("cost_rollup", "model_costs", CORRECTIONS, "inference_events", RULES)
"""Tables of a reading, in this order: what is derived is never ahead of what it is derived from."""
COVERED = 0.99
"""Share of the billable requests that has to have a price where a decision rests on the figures."""
NEAREST = 3


class CostsError(MlregError):
    """A question about costs that makes no sense, or that the figures cannot answer."""


@dataclass(frozen=True)
class Provenance:
    """Versions of the tables that were read, the batch up to which the figures hold, and when that was.

    `pending` counts attempts that were taken and are in no figure yet: their batch is not priced or
    rolled up. They follow with the next run of `ingest_logs`, or `mlreg ingest`.
    """

    versions: Mapping[str, int]
    sequence: int
    pending: int
    computed_at: datetime

    def recorded(self) -> dict[str, object]:
        """As a result is stored with it."""
        return {
            "versions": dict(self.versions),
            "sequence": self.sequence,
            "pending": self.pending,
            "computed_at": self.computed_at.isoformat(),
        }


def provenance(
    reading: Reading,
    *,
    since: date | None,
    until: date | None,
    where: Mapping[str, str],
    tables: Sequence[str] = READS,
) -> Provenance:
    """What figures of `cost_rollup` over some days rest on; the reading holds `READS`."""
    leading = reading.sequence("inference_events", "ingestion")
    behind = [
        day
        for day in days_behind(reading, "cost_rollup", leading)
        if (since or date.min) <= day < (until or date.max)
    ]
    pending = 0
    if behind:
        chosen = {name: where.get(name) for name in FILTERS[:5]}
        pending = reading.query(
            "costs.pending",
            f"""
            SELECT count(*) AS pending
            FROM inference_events e
            LEFT JOIN (
                SELECT day, min(sequence) AS held FROM cost_rollup WHERE {DAY_FILTER} GROUP BY day
            ) r USING (day)
            WHERE {DAY_FILTER}
                AND e.batch > coalesce(r.held, 0)
                AND {" AND ".join(f"(${name} IS NULL OR e.{name} = ${name})" for name in FILTERS[:5])}
            """,
            day_parameters(behind) | chosen,
        )["pending"][0].as_py()
    versions = {name: reading.version(name) for name in tables}
    sequence = min(leading, reading.sequence("model_costs", "inference_events"))
    return Provenance(versions, sequence, pending, datetime.now(UTC))


def checked_days(since: date | None, until: date | None) -> None:
    """Raises `CostsError` unless these are days, the first before the second."""
    for name, day in (("since", since), ("until", until)):
        if isinstance(day, datetime):
            raise CostsError(
                f"{name} is the time {day.isoformat()}; costs are kept by whole days of UTC: give a datetime.date"
            )
    if since is not None and until is not None and since >= until:
        raise CostsError(f"the days from {since} up to, not including, {until} are none; swap them")


def checked_filters(where: Mapping[str, str] | None) -> dict[str, str]:
    """The filters, each of which names a column and one value."""
    for name in where or {}:
        if name not in FILTERS and not name.startswith("tag:"):
            raise UnknownKey(
                f"costs cannot be limited by {name!r}; the filters are {', '.join(FILTERS)} and tag:NAME"
            )
    return dict(where or {})


def check_logged(reading: Reading, where: Mapping[str, str]) -> None:
    """Raises `CostsError` with the nearest names where a filter names what was never logged.

    Names of other tenants are no hint for one that is named.
    """
    for name in ("tenant", "application", "provider", "model", "deployment_id", "model_id"):
        if name not in where:
            continue
        tenant = None if name == "tenant" else where.get("tenant")
        known = reading.query(
            "costs.known_names",
            f"""
            SELECT DISTINCT {name} AS name FROM cost_rollup
            WHERE grain = 'day' AND {name} IS NOT NULL AND ($tenant IS NULL OR tenant = $tenant)
            """,
            {"tenant": tenant},
        )["name"].to_pylist()
        if where[name] not in known:
            near = difflib.get_close_matches(where[name], sorted(known), n=NEAREST, cutoff=0.4)
            hint = f"the nearest: {', '.join(near)}" if near and name != "tenant" else "nothing like it was"
            raise CostsError(f"no cost was ever rolled up of the {name} {where[name]!r}; {hint}")
