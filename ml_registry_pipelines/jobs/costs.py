"""Commands about closed months and rates of exchange as jobs. What they do is in the costs room."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.closing import Closings


class CloseMonth(InTenant):
    """A month whose costs change by corrections alone from now on."""

    month: str = Field(description="Year and month, such as 2026-10; it has to be over.")
    note: str = Field(default="", description="Why, or under which number it was sent.")


class CloseMonthsAfter(InTenant):
    """When months close by themselves."""

    days: int | None = Field(
        default=None, description="So many days after their end; left out: by command alone."
    )


class AddRate(InTenant):
    """What one unit of a currency costs in another, from a day on. It is every tenant's."""

    day: str = Field(description="First day (UTC), such as 2026-10-01.")
    base: str = Field(description="ISO 4217 code of the currency of which one unit is priced, such as EUR.")
    quote: str = Field(description="ISO 4217 code of the currency in which it is priced, such as USD.")
    rate: str = Field(description="A decimal number, such as 1.0842.")
    source: str = Field(description="Who says so.")


def _close(given: CloseMonth, at: Desks) -> Mapping[str, str]:
    from ml_registry_pipelines.costs.closing import parsed_month

    closing = _closings(at).close(parsed_month(given.month), note=given.note, idempotency_key=at.key)
    booked = ", ".join(f"{one.cost} {one.currency}" for one in closing.booked if one.currency)
    return {"month": given.month, "tenant": closing.tenant, "closed with": booked or "nothing priced"}


def _close_after(given: CloseMonthsAfter, at: Desks) -> Mapping[str, str]:
    days = _closings(at).close_after(given.days, idempotency_key=at.key)
    return {"months close": "by command" if days is None else f"{days} days after their end"}


def _closings(at: Desks) -> "Closings":
    from ml_registry_pipelines.costs.closing import Closings

    desk = at.models
    return Closings(desk.log, actor=desk.actor, tenant=desk.tenant, run_id=desk.run_id)


def _add_rate(given: AddRate, at: Desks) -> int:
    from ml_registry_pipelines.costs.currencies import Rate, add_rates, parsed_day, parsed_rate

    rate = Rate(parsed_day(given.day), given.base, given.quote, parsed_rate(given.rate), given.source)
    return add_rates(at.models.log.lake, [rate]).added


@cache
def costs_jobs() -> tuple[dg.JobDefinition, ...]:
    """The commands about costs that a person gives in the UI."""
    return (
        command_job(
            "close_month", CloseMonth, _close, "Closes a month: its costs change by corrections alone."
        ),
        command_job(
            "close_months_after", CloseMonthsAfter, _close_after, "Says when months close by themselves."
        ),
        command_job("add_currency_rate", AddRate, _add_rate, "Records a dated rate of exchange."),
    )
