"""Which months are closed: decisions of people about their tenant's books, kept as events of the log.

A month closes by a command, or by a rule: so many days after its end. What was priced by then is
never replaced. A price that changes later is booked as a correction (`repricing.py`), and requests
that were logged too late are booked on the day on which they were priced (`ledger.py`); both bear
that day as `booked_day`. Months are UTC, as days are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_text
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.states import State, from_rows
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

KIND = "cost_closing"
RULE = "rule"
"""The name under which a tenant's rule is kept; every other name is a month."""
MOST_DAYS = 366
LOG = "governance_events"
_OF_ALL = """
SELECT * FROM (
    SELECT * FROM states WHERE type = $type
    QUALIFY row_number() OVER (PARTITION BY tenant, id ORDER BY from_sequence DESC) = 1
)
WHERE NOT deleted ORDER BY tenant, name
"""
"""The newest states of every tenant; of the millions of other things no state is looked at."""
_MONTH = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True)
class Booked:
    """What a month held in one currency when it was closed. `cost` None: nothing of it was priced."""

    currency: str | None
    requests: int
    priced_requests: int
    cost: Decimal | None


@dataclass(frozen=True)
class Closing:
    """One closed month of one tenant. `booked` is what stood in `model_costs` at that moment."""

    tenant: str
    month: date
    closed_at: datetime
    actor: str
    note: str
    booked: tuple[Booked, ...]


@dataclass(frozen=True)
class ClosedMonths:
    """The closed months of all tenants, as of one instant.

    `until`: by tenant the first day that its rule leaves open.
    """

    months: frozenset[tuple[str, date]] = frozenset()
    until: Mapping[str, date] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.months or self.until)

    def holds(self, tenant: str, day: date) -> bool:
        """Whether the month of that day is closed for that tenant."""
        return (tenant, day.replace(day=1)) in self.months or day < self.until.get(tenant, date.min)

    def among(self, tenants: Iterable[str], day: date) -> list[str]:
        """Those of some tenants for which the day is closed, in order."""
        return sorted(tenant for tenant in set(tenants) if self.holds(tenant, day))


def parsed_month(text: str) -> date:
    """The first day of a month that is written 2026-10.

    Raises:
        InvalidInput: it is none.
    """
    found = _MONTH.fullmatch(text.strip())
    if found is None or not 1 <= int(found[2]) <= 12 or not int(found[1]):
        raise InvalidInput(f"month {text[:40]!r} is none; write year and month, such as 2026-10")
    return date(int(found[1]), int(found[2]), 1)


def month_after(month: date) -> date:
    """The first day of the next month."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


class Closings(Desk):
    """Closed months of one tenant, for one actor. Every command is one event."""

    def close(self, month: date, *, note: str = "", idempotency_key: str | None = None) -> Closing:
        """Close a month for good: from now on its costs change by corrections alone.

        Raises:
            InvalidInput: the month is not over yet, or is none.
            IllegalTransition: it is closed already.
        """
        first, end = _checked_month(month), month_after(month)
        said = checked_text(note, "note")
        if end > now().date():
            raise InvalidInput(
                f"{first:%Y-%m} is not over yet: it can be closed from {end:%Y-%m-%d} (UTC) on"
            )
        booked = booked_in(self.log.lake, self.tenant, first)

        def decide(view: View) -> list[Change]:
            if any(not s.deleted for s in named(view, KIND, f"{first:%Y-%m}")):
                raise IllegalTransition(f"{first:%Y-%m} is closed already for tenant {view.tenant!r}")
            metadata = {"booked": [_recorded(one) for one in booked]}
            return [Change(KIND, new_id(), _state(f"{first:%Y-%m}", said, metadata))]

        asked = {"month": f"{first:%Y-%m}", "note": said}
        done = self.do("close_costs", KIND, asked, decide, idempotency_key=idempotency_key)
        return _closing(state_of(done))

    def close_after(self, days: int | None, *, idempotency_key: str | None = None) -> int | None:
        """Let every month close so many days after its end, those of the past at once; None: by command alone.

        Raises:
            InvalidInput: the number is outside 0 to 366.
        """
        if days is not None and (type(days) is not int or not 0 <= days <= MOST_DAYS):
            raise InvalidInput(f"months close 0 to {MOST_DAYS} days after their end, not {days!r}")

        def decide(view: View) -> list[Change]:
            before = [s for s in named(view, KIND, RULE) if not s.deleted]
            identity = before[0].id if before else new_id()
            state = _state(RULE, "", {"after_days": days}, deleted=days is None)
            return [Change(KIND, identity, state)] if before or days is not None else []

        self.do("close_costs_after", KIND, {"days": days}, decide, idempotency_key=idempotency_key)
        return days

    def closed(self) -> list[Closing]:
        """The months that were closed by command, in order."""
        states = self.view().select(
            "costs.closings",
            "things",
            "type = $type AND NOT deleted",
            order="name",
            parameters={"type": KIND},
        )
        return [_closing(state) for state in states if state.name != RULE]

    def rule(self) -> int | None:
        """How many days after its end a month closes by itself; None: it does not."""
        found = [s for s in named(self.view(), KIND, RULE) if not s.deleted]
        return int(found[0].data["metadata"]["after_days"]) if found else None


def closed_months(lake: Lake, log: Log | None = None, *, at: datetime | None = None) -> ClosedMonths:
    """What is closed now, or at an instant, for every tenant. A lake without a log has nothing closed.

    Args:
        log: the process's log of this lake, where it has one open.
    """
    if log is None:
        if not lake.exists(LOG):
            return ClosedMonths()
        with Log(lake) as opened:
            return closed_months(lake, opened, at=at)
    found = log.view("default").of_all_tenants(
        "costs.closed_months",
        "things",
        _OF_ALL,
        {"type": KIND},
    )
    today = (at or now()).astimezone(UTC).date()
    months: set[tuple[str, date]] = set()
    until: dict[str, date] = {}
    for row in found.to_pylist():
        if row["name"] == RULE:
            until[row["tenant"]] = _open_from(today, _after_days(row["state"]))
        else:
            months.add((row["tenant"], parsed_month(row["name"])))
    return ClosedMonths(frozenset(months), until)


def booked_in(lake: Lake, tenant: str, month: date) -> tuple[Booked, ...]:
    """What a tenant's month holds, without what was booked after it had been closed."""
    with lake.read("model_costs") as reading:
        rows = reading.query(
            "costs.booked_in_month",
            """
            SELECT currency, count(*) AS requests, count(*) FILTER (WHERE cost_status = 'priced') AS priced_requests,
                sum(cost) FILTER (WHERE cost_status = 'priced') AS cost
            FROM model_costs
            WHERE day >= $first AND day < $end AND tenant = $tenant AND booked_day IS NULL
            GROUP BY currency
            ORDER BY currency
            """,
            {"first": month, "end": month_after(month), "tenant": tenant},
        ).to_pylist()
    return tuple(Booked(**row) for row in rows)


def months_that_differ(lake: Lake) -> tuple[int, list[Closing]]:
    """How many months were closed by command, and those that hold something else by now. One query for all."""
    if not lake.exists(LOG):
        return 0, []
    with Log(lake) as log:
        rows = log.view("default").of_all_tenants(
            "costs.closings_of_all",
            "things",
            _OF_ALL,
            {"type": KIND},
        )
    closings = [_closing(state) for state in from_rows("things", rows) if state.name != RULE]
    if not closings:
        return 0, []
    with lake.read("model_costs") as reading:
        found = reading.query(
            "costs.booked_in_closed_months",
            """
            WITH closed AS (SELECT unnest($tenants::VARCHAR[]) AS tenant, unnest($months::DATE[]) AS month)
            SELECT c.tenant, c.month, m.currency, count(*) AS requests,
                count(*) FILTER (WHERE cost_status = 'priced') AS priced_requests,
                sum(cost) FILTER (WHERE cost_status = 'priced') AS cost
            FROM model_costs AS m
            JOIN closed AS c ON c.tenant = m.tenant AND c.month = date_trunc('month', m.day)
            WHERE m.booked_day IS NULL AND m.day >= $first AND m.day < $end
            GROUP BY ALL
            ORDER BY ALL
            """,
            {
                "tenants": [one.tenant for one in closings],
                "months": [one.month for one in closings],
                "first": min(one.month for one in closings),
                "end": month_after(max(one.month for one in closings)),
            },
        ).to_pylist()
    holds: dict[tuple[str, date], list[Booked]] = {}
    for row in found:
        booked = Booked(row["currency"], row["requests"], row["priced_requests"], row["cost"])
        holds.setdefault((row["tenant"], row["month"]), []).append(booked)
    differing = [one for one in closings if set(holds.get((one.tenant, one.month), ())) != set(one.booked)]
    return len(closings), differing


def tenants_with_costs(lake: Lake, month: date | None = None) -> list[str]:
    """The tenants that have costs, in a month or at all."""
    with lake.read("cost_rollup") as reading:
        rows = reading.query(
            "costs.tenants",
            """
            SELECT DISTINCT tenant FROM cost_rollup
            WHERE grain = 'day' AND day >= $first AND day < $end ORDER BY tenant
            """,
            {"first": month or date.min, "end": month_after(month) if month else date.max},
        )
    found: list[str] = rows["tenant"].to_pylist()
    return found


def _open_from(today: date, after_days: int) -> date:
    """The first day of the oldest month that a rule leaves open: the one whose end is not that long ago."""
    return (today - timedelta(days=after_days)).replace(day=1)


def _after_days(state: str) -> int:
    from ml_registry_pipelines.registry.canonical import parse

    return int(parse(state)["metadata"]["after_days"])


def _checked_month(month: date) -> date:
    if month.day != 1:
        raise InvalidInput(f"{month.isoformat()} is a day; name a month by its first day")
    return month


def _state(name: str, note: str, metadata: Mapping[str, Any], *, deleted: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "description": note,
        "status": "active",
        "deleted": deleted,
        "metadata": dict(metadata),
    }


def _recorded(one: Booked) -> dict[str, Any]:
    return {
        "currency": one.currency,
        "requests": one.requests,
        "priced_requests": one.priced_requests,
        "cost": None if one.cost is None else str(one.cost),
    }


def _closing(state: State) -> Closing:
    booked = tuple(
        Booked(
            row["currency"],
            row["requests"],
            row["priced_requests"],
            None if row["cost"] is None else Decimal(row["cost"]),
        )
        for row in state.data["metadata"]["booked"]
    )
    return Closing(
        state.tenant,
        parsed_month(state.name),
        state.recorded_at,
        state.actor,
        state.data.get("description", ""),
        booked,
    )
