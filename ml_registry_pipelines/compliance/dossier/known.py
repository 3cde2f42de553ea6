"""What the registry, lineage, results, traffic and costs know about a version, each read once and with its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.ai_act.classifications import Classification, classified
from ml_registry_pipelines.compliance.dossier.content import Source
from ml_registry_pipelines.compliance.evidence import evidence
from ml_registry_pipelines.compliance.results import Area, Result
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.references import living, version_state, versions_of
from ml_registry_pipelines.registry.states import MODEL, State
from ml_registry_pipelines.registry.things import Thing, thing_of
from ml_registry_pipelines.registry.versions import Version, version_of

if TYPE_CHECKING:
    from ml_registry_pipelines.telemetry.performance import GroupStatistics

DAYS = 30
"""The window that traffic and costs are read over."""
RUNS = 50
"""Runs of suites that are looked through for the newest result of each check."""


@dataclass(frozen=True)
class Costs:
    """Costs of a version by currency, and how many of its billable requests have a price."""

    totals: Mapping[str, Decimal]
    billable: int
    priced: int


class Known:
    """All that is known about one version. Reads happen when they are first asked for."""

    def __init__(self, desk: Desk, reference: str, at: datetime) -> None:
        self.desk = desk
        self.at = at
        self.view = desk.view()
        state = version_state(self.view, reference)
        model = living(self.view, MODEL, str(state.data["model_id"]))
        self.model: Thing = thing_of(model)
        self.version: Version = version_of(state, model.name)

    @property
    def event(self) -> Source:
        """The state of the version."""
        return self.log_source(self.version.sequence)

    def log_source(self, sequence: int) -> Source:
        return Source("governance_events", f"event {sequence}")

    @cached_property
    def classification(self) -> Classification | None:
        """By the text of now, on the day of the dossier."""
        return classified(self.view, self.model.id, self.at.astimezone(UTC).date())

    @cached_property
    def versions(self) -> list[Version]:
        return [version_of(s, self.model.name) for s in versions_of(self.view, self.model.id, deleted=True)]

    @cached_property
    def history(self) -> list[State]:
        """What was recorded about the model and its versions, oldest first."""
        states = self.view.history("things", self.model.id)
        for version in self.versions:
            states += self.view.history("model_versions", version.id)
        return sorted(states, key=lambda state: state.sequence)

    @cached_property
    def registration(self) -> State:
        """The first state of the version."""
        return next(state for state in self.history if state.id == self.version.id)

    @cached_property
    def run_id(self) -> str | None:
        """The run that registered the version."""
        (event,) = self.desk.log.events(self.desk.tenant, [self.registration.sequence])
        return event.run_id

    @cached_property
    def datasets(self) -> list[tuple[State, Sequence[str] | None]]:
        """Dataset versions that it learned from, with the columns that were used, None for all."""
        return [(s, columns) for s, columns in self._data("trained_on")]

    @cached_property
    def evaluated_on(self) -> list[State]:
        return [state for state, _ in self._data("evaluated_on")]

    def _data(self, relation: str) -> list[tuple[State, Sequence[str] | None]]:
        drawn = {
            str(s.data["target_id"]): s.data.get("properties") or {}
            for s in self.view.by_column("relationships", "source_id", self.version.id)
            if s.data["type"] == relation and not s.deleted
        }
        return [(s, drawn[s.id].get("columns")) for s in self.view.by_any("things", "id", sorted(drawn))]

    @cached_property
    def deployments(self) -> list[State]:
        """The deployments that serve it."""
        ids = [
            str(s.data["target_id"])
            for s in self.view.by_column("relationships", "source_id", self.version.id)
            if s.data["type"] == "deployed_to" and not s.deleted
        ]
        return [s for s in self.view.by_any("things", "id", sorted(ids)) if not s.deleted]

    @cached_property
    def results(self) -> list[Result]:
        """The newest result of each check on exactly this content."""
        newest: dict[tuple[str, str, str], Result] = {}
        for run in evidence(self.desk.log.lake, self.desk.tenant, version_id=self.version.id, limit=RUNS):
            for result in run.results:
                if (
                    result.subject is not None
                    and result.subject.content_digest == self.version.content_digest
                ):
                    newest.setdefault((result.suite, result.check, result.about), result)
        return list(newest.values())

    def results_of(self, area: Area) -> list[Result]:
        return [result for result in self.results if result.area is area]

    def results_source(self, results: Sequence[Result]) -> Source:
        newest = max((r.measured_at for r in results if r.measured_at is not None), default=None)
        return Source("compliance_results", f"measured {newest:%Y-%m-%d %H:%M:%S}Z" if newest else "no run")

    @cached_property
    def traffic(self) -> tuple[GroupStatistics, Source] | None:
        """Requests that were attributed to the version over the last days; None where there were none."""
        from ml_registry_pipelines.telemetry.metrics import PerformanceError
        from ml_registry_pipelines.telemetry.performance import PerformanceTracker

        try:
            found = PerformanceTracker(self.desk.log.lake).get_statistics(
                self.at - timedelta(days=DAYS),
                self.at,
                tenant=self.desk.tenant,
                model_id=self.model.id,
                model_version=self.version.number,
            )
        except PerformanceError:  # Nothing was ever logged of it.
            return None
        group = found.groups[0] if found.groups else None
        if group is None or not group.requests:
            return None
        return group, Source("performance_rollup", f"batch {found.sequence}")

    @cached_property
    def costs(self) -> tuple[Costs, Source] | None:
        """What the version cost over the last days; None where nothing was billable."""
        from ml_registry_pipelines.costs.integration import VibeCodingIntegration
        from ml_registry_pipelines.costs.provenance import CostsError

        day = self.at.astimezone(UTC).date()
        try:
            found = VibeCodingIntegration(self.desk.log.lake).get_cost_summary(
                day - timedelta(days=DAYS),
                day + timedelta(days=1),
                by=("model_version",),
                where={"tenant": self.desk.tenant, "model_id": self.model.id},
            )
        except CostsError:  # Nothing was ever logged of it.
            return None
        totals: dict[str, Decimal] = {}
        billable = priced = 0
        for line in found.lines.to_pylist():
            if line["model_version"] == self.version.number:
                billable += line["billable_requests"]
                priced += line["priced_requests"]
                if line["currency"] is not None and line["cost"] is not None:
                    totals[line["currency"]] = totals.get(line["currency"], Decimal(0)) + line["cost"]
        if not billable:
            return None
        return Costs(totals, billable, priced), Source("cost_rollup", f"batch {found.provenance.sequence}")

    @cached_property
    def alert_rules(self) -> tuple[list[str], Source] | None:
        """The alert rules that are on, by name."""
        from ml_registry_pipelines.operations.alert_rules import AlertRules, RulesError, configured_rules

        try:
            rules = configured_rules(self.desk.log.lake.root)
        except RulesError:
            return None
        on = [name.replace("_", " ") for name in AlertRules.model_fields if getattr(rules, name).enabled]
        return on, Source("alert-rules.yaml", f"SHA-256 {digest(rules.model_dump(mode='json'))[:12]}")

    def tagged(self, name: str) -> tuple[str, Source] | None:
        """What a tag or metadata of the version, a deployment or the model says, nearest first."""
        said: list[tuple[object, int]] = [(self.version.tags.get(name), self.version.sequence)]
        for deployment in self.deployments:
            metadata: Mapping[str, Any] = deployment.data.get("metadata") or {}
            tag = dict(deployment.data.get("tags") or {}).get(name) or {}
            said += [(tag.get("value"), deployment.sequence), (metadata.get(name), deployment.sequence)]
        said += [(self.model.tags.get(name), self.model.sequence)]
        said += [(self.model.metadata.get(name), self.model.sequence)]
        for value, sequence in said:
            if value not in (None, ""):
                return str(value), self.log_source(sequence)
        return None
