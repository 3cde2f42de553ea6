"""What models cost over some days, by any key: with coverage, and with what the figures rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.provenance import (
    READS,
    CostsError,
    Provenance,
    check_logged,
    checked_days,
    checked_filters,
    provenance,
)
from ml_registry_pipelines.costs.queries import Basis, Coverage, cost_by
from ml_registry_pipelines.costs.tagged import cost_by_tag, is_tagged

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

SUMMARY_READS = (*READS, "currency_rates")
"""Tables of a reading that a summary in one currency needs."""


@dataclass(frozen=True)
class CostSummary:
    """Costs over the days from `since` up to, not including, `until` (UTC; None: no bound).

    `lines` are as `queries.cost_by` gives them: a row per combination of keys and currency. `totals` are
    sums by currency, of what is priced; amounts of different currencies are never added. `unconverted` are
    those that no rate is known for, where one currency was asked for.
    """

    since: date | None
    until: date | None
    by: tuple[str, ...]
    where: Mapping[str, str]
    lines: pa.Table
    totals: Mapping[str, Decimal]
    requests: int
    coverage: Coverage
    attributed: int
    """Billable attempts of which it is known which version answered."""
    unconverted: Mapping[str, Decimal]
    provenance: Provenance

    @property
    def attribution_share(self) -> float | None:
        """Attempts with a version per billable, 0 to 1; None where nothing was billable."""
        return self.attributed / self.coverage.billable if self.coverage.billable else None

    def remarks(self) -> list[str]:
        """What a reader has to know beside the figures."""
        said = []
        cover = self.coverage
        if cover.share is not None and cover.priced < cover.billable:
            said.append(
                f"{cover.billable - cover.priced:,} of {cover.billable:,} billable requests have no price "
                f"({cover.share:.2%} have); their cost is in no figure"
            )
        if cover.assumed:
            said.append(f"{cover.assumed:,} requests are priced by an assumed price")
        if self.provenance.pending:
            said.append(f"{self.provenance.pending:,} requests were taken and are not rolled up yet")
        if len(self.totals) > 1:
            said.append(f"amounts are in {', '.join(sorted(self.totals))}, which are not added")
        if self.unconverted:
            amounts = " and ".join(
                f"{amount:,.6f} {code}" for code, amount in sorted(self.unconverted.items())
            )
            said.append(f"{amounts} are in no amount: no rate is known for their days")
        return said


def cost_summary(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    basis: Basis = Basis.USE,
    currency: str | None = None,
) -> CostSummary:
    """As `VibeCodingIntegration.get_cost_summary`; the reading holds `SUMMARY_READS`."""
    checked_days(since, until)
    limits = checked_filters(where)
    keys = list(dict.fromkeys(by))
    if is_tagged(keys, limits):
        if currency is not None or basis is not Basis.USE:
            raise CostsError(
                "costs by tag are of single requests, as they stand by now and in their own currency; "
                "leave out the currency and the basis, or the tag"
            )
        lines = cost_by_tag(reading, keys, since=since, until=until, where=limits)
    else:
        lines = cost_by(reading, keys, since=since, until=until, where=limits, basis=basis, currency=currency)
    if not lines.num_rows:
        check_logged(reading, limits)
    totals: dict[str, Decimal] = {}
    unconverted: dict[str, Decimal] = {}
    counted = dict.fromkeys(
        ("requests", "billable_requests", "priced_requests", "assumed_requests", "attributed_requests"), 0
    )
    amounts = {"cost": totals, "unconverted_cost": unconverted}
    told = [name for name in lines.column_names if name in ("currency", *amounts, *counted)]
    for line in lines.select(told).to_pylist():
        for amount, sums in amounts.items():
            if line["currency"] is not None and line.get(amount) is not None:
                sums[line["currency"]] = sums.get(line["currency"], Decimal(0)) + line[amount]
        for name in counted:
            counted[name] += line[name]
    return CostSummary(
        since,
        until,
        tuple(keys),
        limits,
        lines,
        totals,
        counted["requests"],
        Coverage(counted["billable_requests"], counted["priced_requests"], counted["assumed_requests"]),
        counted["attributed_requests"],
        {code: amount for code, amount in unconverted.items() if amount},
        provenance(reading, since=since, until=until, where=limits),
    )
