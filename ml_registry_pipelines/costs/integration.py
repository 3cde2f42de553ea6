"""`VibeCodingIntegration`: what requests to models through an AI gateway cost, and what they returned.

A front door: each verb opens one snapshot of the tables and asks the module that knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property

from ml_registry_pipelines.costs.experiments.experiments import Experiments
from ml_registry_pipelines.costs.experiments.looking import Decision, look
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.provenance import READS
from ml_registry_pipelines.costs.providers import COMPARISON_READS, ProviderComparison, compare_providers
from ml_registry_pipelines.costs.queries import Basis
from ml_registry_pipelines.costs.reattribution import reattribute
from ml_registry_pipelines.costs.roi import ROI_READS, Roi, return_on_investment, roi_row
from ml_registry_pipelines.costs.summary import SUMMARY_READS, CostSummary, cost_summary
from ml_registry_pipelines.costs.trends import CostTrends, cost_trends
from ml_registry_pipelines.costs.value_models import Declared
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.tracking import Inference, Tracked, Tracking

WRITER = "get_roi"
"""The writer of roi_results; its sequence only counts commits."""


class VibeCodingIntegration:
    """Costs of models: requests, summaries, trends, returns; experiments between models, providers side by side.

    Days are UTC, from `since` up to, not including, `until`. Amounts are DECIMAL in their own currency; what
    has no price is in no amount and counted in the coverage.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake

    @cached_property
    def _tracking(self) -> Tracking:
        return Tracking(self.lake)

    def track_ai_request(self, *told: Inference) -> Tracked:
        """Record attempts of requests in one commit, all or none, as `PerformanceTracker.track_inference` does.

        Costs follow at the next run of `ingest_logs`, or by `refresh`.

        Raises:
            TrackingError: one is no record, or was taken before with other content.
        """
        return self._tracking.track(told)

    def refresh(self) -> tuple[date, ...]:
        """Price what was taken and roll up the days that it touches, as `ingest_logs` does; these days.

        Raises:
            CostsBusy, LostRace: other writers kept changing the same tables; try again.
        """
        catch_up_costs(self.lake)
        return reattribute(self.lake).days

    def get_cost_summary(
        self,
        since: date | None = None,
        until: date | None = None,
        *,
        by: Sequence[str] = (),
        where: Mapping[str, str] | None = None,
        basis: Basis = Basis.USE,
        currency: str | None = None,
    ) -> CostSummary:
        """Costs by any of `queries.KEYS` and tags, with price and attribution coverage.

        Args:
            by: day, hour, tenant, application, provider, model, status, deployment_id, model_id,
                model_version, or `tag:NAME`; a tag reads single requests, and so not any number of days.
            where: only these, such as `{"tenant": "acme", "tag:team": "search"}`.
            basis: to which days corrections of closed months belong, and requests that came too late.
            currency: converts every amount to this one at the rate of its day; by default none is converted.
                Neither this nor another basis goes with a tag.

        Raises:
            CostsError: days in the wrong order, a filter that names what was never logged (the nearest
                names are given), or a tag over too many requests.
            UnknownKey: costs are not kept by that.
            RateError: the currency is no ISO 4217 code.
        """
        with self.lake.read(*SUMMARY_READS) as reading:
            return cost_summary(
                reading, since=since, until=until, by=by, where=where, basis=basis, currency=currency
            )

    def get_cost_trends(
        self,
        since: date,
        until: date,
        *,
        where: Mapping[str, str] | None = None,
        today: date | None = None,
    ) -> CostTrends:
        """Costs day by day, what this month will come to, and hours out of the ordinary; by currency.

        The forecast looks at the newest 56 complete days and needs 21; the hours are judged by the eight weeks
        before them and need four. With less they say so.

        Args:
            today: the day that is not over yet; by default now's, in UTC.

        Raises:
            CostsError, UnknownKey: as for `get_cost_summary`.
        """
        day = today or datetime.now(UTC).date()
        with self.lake.read(*READS) as reading:
            return cost_trends(reading, since=since, until=until, today=day, where=where)

    def get_roi(self, value_model: Declared, since: date, until: date, *, store: bool = True) -> Roi:
        """What models returned by a value model, as an interval; kept in `roi_results`, also where refused.

        Args:
            value_model: as `ValueModels.get` gives it.
            store: whether the answer is kept.

        Raises:
            CostsError: the days are none, or not all of those that the value model holds for.
        """
        with self.lake.read(*ROI_READS) as reading:
            answer = return_on_investment(reading, value_model, since=since, until=until)
        if store:
            self.lake.append_next("roi_results", roi_row(answer), source=WRITER)
        return answer

    def compare_models(
        self,
        experiments: Experiments,
        name: str,
        *,
        version: int | None = None,
        now: datetime | None = None,
    ) -> Decision:
        """Decide between the models of an experiment, as it was declared; the decision is stored, a winner proposed.

        Args:
            experiments: those of the tenant, and who asks.
            version: of the declaration; by default the newest one.
            now: the instant up to which data are looked at.

        Raises:
            IllegalTransition: it has not been started.
            NotFound: there is none.
        """
        return look(experiments, name, version=version, now=now)

    def compare_providers(
        self,
        *providers: str,
        since: date,
        until: date,
        tenant: str | None = None,
        model: str | None = None,
    ) -> ProviderComparison:
        """Providers side by side: cost per 1,000 tokens by type, latency and error rate, with sample sizes.

        Args:
            providers: by default all that served anything in these days.
            model: of this model alone; else remarks say where they served different ones.

        Raises:
            CostsError: fewer than two.
            PerformanceError: one that was never logged; the nearest names are given.
        """
        with self.lake.read(*COMPARISON_READS) as reading:
            return compare_providers(reading, providers, since=since, until=until, tenant=tenant, model=model)
