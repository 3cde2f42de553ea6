"""Providers side by side: what tokens cost by type, how quick and how reliable, each with its sample.

Latencies and error rates, and what of them can be told apart, are `telemetry/comparing.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.provenance import READS, CostsError, Provenance, checked_days, provenance
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.lake.tables.costs import TOKEN_TYPES
from ml_registry_pipelines.telemetry.comparing import Comparison, compare
from ml_registry_pipelines.telemetry.performance import GroupStatistics
from ml_registry_pipelines.telemetry.windows import READS as WINDOW_READS
from ml_registry_pipelines.telemetry.windows import Question

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

COMPARISON_READS = tuple(dict.fromkeys(("performance_rollup", *READS, *WINDOW_READS, "model_metrics")))


@dataclass(frozen=True)
class ProviderCost:
    """What one provider's requests cost in one currency; `per_1k` by type of token, None where it is not known."""

    currency: str | None
    requests: int
    billable: int
    priced: int
    cost: Decimal | None
    cost_per_request: float | None
    cost_per_1k_tokens: float | None
    per_1k: Mapping[str, float | None]
    priced_tokens: Mapping[str, int]
    """Tokens by type that these rates rest on."""

    @property
    def coverage(self) -> float | None:
        """Priced per billable; None where nothing was billable."""
        return self.priced / self.billable if self.billable else None


@dataclass(frozen=True)
class ProviderLine:
    """One provider: its costs by currency, its traffic (None: none in these days), and the models that it served."""

    provider: str
    costs: tuple[ProviderCost, ...]
    group: GroupStatistics | None
    models: tuple[str, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class ProviderComparison:
    """Providers in the order that they were asked for, and of each pair what can be told apart."""

    since: date
    until: date
    where: Mapping[str, str]
    lines: tuple[ProviderLine, ...]
    comparison: Comparison
    provenance: Provenance


def compare_providers(
    reading: Reading,
    providers: Sequence[str] = (),
    *,
    since: date,
    until: date,
    tenant: str | None = None,
    model: str | None = None,
) -> ProviderComparison:
    """As `VibeCodingIntegration.compare_providers`; the reading holds `COMPARISON_READS`."""
    checked_days(since, until)
    where = {name: given for name, given in (("tenant", tenant), ("model", model)) if given is not None}
    rows = cost_by(reading, ["provider"], since=since, until=until, where=where).to_pylist()
    served = cost_by(reading, ["provider", "model"], since=since, until=until, where=where).to_pylist()
    asked = list(providers) or list(dict.fromkeys(row["provider"] for row in rows if row["provider"]))
    if len(asked) < 2:
        raise CostsError(
            f"a comparison needs two providers; these days have {', '.join(asked) if asked else 'none'}"
        )
    start, end = (datetime.combine(day, time(), UTC) for day in (since, until))
    question = Question(start, end, tenant, None, model, intervals=True)
    found = compare(reading, asked, question, by="provider")
    models = {
        name: tuple(sorted({row["model"] for row in served if row["provider"] == name and row["model"]}))
        for name in asked
    }
    lines = []
    for candidate in found.candidates:
        name = str(candidate.name)
        costs = tuple(_cost(row) for row in rows if row["provider"] == name)
        remarks = [*candidate.remarks, *_remarks(costs, models, name)]
        lines.append(ProviderLine(name, costs, candidate.group, models[name], tuple(remarks)))
    return ProviderComparison(
        since,
        until,
        where,
        tuple(lines),
        found,
        provenance(reading, since=since, until=until, where=where, tables=COMPARISON_READS),
    )


def _cost(row: Mapping[str, Any]) -> ProviderCost:
    return ProviderCost(
        row["currency"],
        row["requests"],
        row["billable_requests"],
        row["priced_requests"],
        row["cost"],
        row["cost_per_request"],
        row["cost_per_1k_tokens"],
        {kind: row[f"{kind}_per_1k"] for kind in TOKEN_TYPES},
        {kind: row[f"priced_{kind}_tokens"] or 0 for kind in TOKEN_TYPES},
    )


def _remarks(costs: Sequence[ProviderCost], models: Mapping[str, tuple[str, ...]], name: str) -> list[str]:
    said = [
        f"{cost.billable - cost.priced:,} of {cost.billable:,} billable requests have no price"
        for cost in costs
        if cost.priced < cost.billable
    ]
    if len(costs) > 1:
        said.append("costs are in several currencies, which are not added")
    others = {model for other, served in models.items() if other != name for model in served}
    if others and set(models[name]) != others:
        said.append(
            f"served {', '.join(models[name][:3]) or 'nothing'}{' ...' if len(models[name]) > 3 else ''}, "
            "and the others not the same models: compare one model"
        )
    return said
