"""What a statement says: usage from the ledger, shares of common costs, and corrections of what was issued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.allocation import Allocated, allocate, next_month
from ml_registry_pipelines.costs.allocation_rules import Allocation
from ml_registry_pipelines.costs.bills.lines import EXACT
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.costs.statements.statement import Statement, StatementLine, sums

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

TABLES = ("cost_rollup", "provider_bills", "currency_rates")
"""What a reading has to hold to compute statements from."""
_ZERO = Decimal(0)


class Months:
    """Statements of one reading and one set of rules; each month's shared costs are computed once."""

    def __init__(self, reading: Reading, rules: Sequence[Allocation], *, rules_sequence: int) -> None:
        self._reading = reading
        self._rules = rules
        self._shared: dict[date, Allocated] = {}
        self.made_of = {
            "cost_rollup_version": reading.version("cost_rollup"),
            "provider_bills_version": reading.version("provider_bills"),
            "currency_rates_version": reading.version("currency_rates"),
            "rules_event": rules_sequence,
            **_computed_from(reading),
        }

    def shared(self, month: date) -> Allocated:
        """The shared costs of a month, over all tenants."""
        if month not in self._shared:
            self._shared[month] = allocate(self._reading, self._rules, month)
        return self._shared[month]

    def tenants(self, month: date) -> list[str]:
        """Tenants that have a line in the month."""
        rows = cost_by(self._reading, ["tenant"], since=month, until=next_month(month))
        return sorted({*rows["tenant"].to_pylist(), *(part.tenant for part in self.shared(month).parts)})

    def statement(self, tenant: str, month: date, issued: Sequence[Statement] = ()) -> Statement:
        """A draft of a tenant's month.

        Args:
            issued: the statements of other months that were issued to the tenant, which later
                differences correct.
        """
        lines = [*self._own(tenant, month), *self._corrections(tenant, month, issued)]
        numbered = tuple(replace(line, number=n) for n, line in enumerate(lines, start=1))
        return Statement(tenant, month, numbered, self.made_of)

    def _own(self, tenant: str, month: date) -> list[StatementLine]:
        rows = cost_by(
            self._reading,
            ["provider", "model"],
            since=month,
            until=next_month(month),
            where={"tenant": tenant},
        )
        usage = [_usage(row) for row in rows.to_pylist()]
        shared = [
            StatementLine(
                0,
                "allocation",
                part.description,
                provider=part.provider,
                rule=part.rule,
                currency=part.currency,
                amount=part.amount,
            )
            for part in self.shared(month).parts
            if part.tenant == tenant
        ]
        return [*usage, *shared]

    def _corrections(self, tenant: str, month: date, issued: Sequence[Statement]) -> Iterator[StatementLine]:
        """What other months come to now, less what was charged for them so far."""
        others = sorted((each for each in issued if each.month != month), key=lambda each: each.month)
        for other in others:
            charged = sums([line for line in other.lines if line.kind != "correction"])
            for each in issued:
                for currency, amount in sums([x for x in each.lines if x.corrects == other.month]).items():
                    charged[currency] = EXACT.add(charged.get(currency, _ZERO), amount)
            now = sums(self._own(tenant, other.month))
            for currency in sorted({*charged, *now}):
                difference = EXACT.subtract(now.get(currency, _ZERO), charged.get(currency, _ZERO))
                if difference:
                    yield StatementLine(
                        0,
                        "correction",
                        f"Correction of {other.month:%Y-%m}: {_exact(now.get(currency, _ZERO))} {currency} now, "
                        f"{_exact(charged.get(currency, _ZERO))} {currency} charged so far",
                        corrects=other.month,
                        currency=currency,
                        amount=difference,
                    )


def _usage(row: Mapping[str, Any]) -> StatementLine:
    return StatementLine(
        0,
        "usage",
        f"{row['provider'] or 'no provider stated'}: {row['model'] or 'no model stated'}",
        provider=row["provider"],
        model=row["model"],
        requests=row["requests"],
        billable_requests=row["billable_requests"],
        priced_requests=row["priced_requests"],
        assumed_requests=row["assumed_requests"],
        tokens=(row["input_tokens"] or 0) + (row["output_tokens"] or 0),
        currency=row["currency"],
        amount=row["cost"] if row["currency"] is not None else None,
    )


def _exact(amount: Decimal) -> str:
    """All digits, without zeros at the end."""
    return f"{amount.normalize(EXACT):f}" if amount else "0"


def _computed_from(reading: Reading) -> dict[str, int]:
    """The newest batch and version of model_costs that the rollup was computed from."""
    rows = reading.query(
        "statements.computed_from",
        "SELECT max(sequence) AS batch, max(costs_version) AS model_costs_version FROM cost_rollup",
    ).to_pylist()
    return {name: int(value) for name, value in rows[0].items() if value is not None}
