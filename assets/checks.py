"""Checks on the assets: the audits of the operations room, and what the sensors have found, on the asset's page."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from ml_registry_pipelines.operations import audits
from ml_registry_pipelines.operations.alerts import Alerts
from resources import LakeResource
from resources.instigators import WATCHED, idle_instigators

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.operations.audits import Finding

EVENTS = dg.AssetKey(["telemetry", "inference_events"])
FILES = dg.AssetKey(["telemetry", "ingested_files"])
PERFORMANCE = dg.AssetKey(["telemetry", "performance_rollup"])
COSTS = dg.AssetKey(["costs", "model_costs"])
COST_ROLLUP = dg.AssetKey(["costs", "cost_rollup"])


@dataclass(frozen=True)
class Audit:
    """One audit as a check of one asset."""

    name: str
    asset: dg.AssetKey
    run: "Callable[[Lake], Finding]"
    description: str
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    @property
    def spec(self) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(self.name, asset=self.asset, description=self.description)


def _audit(
    asset: dg.AssetKey,
    run: "Callable[[Lake], Finding]",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> Audit:
    return Audit(run.__name__, asset, run, (run.__doc__ or "").strip(), severity)


AUDITS: Mapping[str, tuple[Audit, ...]] = {
    "telemetry_checks": (_audit(FILES, audits.counts_add_up), _audit(EVENTS, audits.no_negative_tokens)),
    "cost_checks": (
        _audit(COSTS, audits.costs_follow_events),
        _audit(COSTS, audits.closed_months_hold),
    ),
    "rollup_checks": (
        _audit(PERFORMANCE, audits.performance_equals_events),
        _audit(COST_ROLLUP, audits.costs_equal_rollup),
        _audit(COST_ROLLUP, audits.prices_cover_requests, dg.AssetCheckSeverity.WARN),
    ),
}

STANDING = {
    "files_are_taken_in_time": ("lag", "source_unreadable"),
    "no_file_changed": ("file_changed",),
}
"""Checks that show what the sensors alert on, by the kinds of their alerts."""


def audit_checks(name: str, held: tuple[Audit, ...]) -> dg.AssetChecksDefinition:
    """One op that runs several audits: a step costs more than a query."""

    @dg.multi_asset_check(name=name, specs=[audit.spec for audit in held], can_subset=True)
    def run_audits(
        context: dg.AssetCheckExecutionContext, lake: LakeResource
    ) -> Iterator[dg.AssetCheckResult]:
        for audit in held:
            if audit.spec.key not in context.selected_asset_check_keys:
                continue
            finding = audit.run(lake.open())
            yield dg.AssetCheckResult(
                asset_key=audit.asset,
                check_name=audit.name,
                passed=finding.passed,
                severity=audit.severity,
                description=finding.sentence,
                metadata=dict(finding.figures),
            )

    return run_audits


@dg.multi_asset_check(
    name="intake_checks",
    specs=[
        dg.AssetCheckSpec(
            "files_are_taken_in_time",
            asset=FILES,
            description="No file waits longer than ten minutes to be taken.",
        ),
        dg.AssetCheckSpec("no_file_changed", asset=FILES, description="No file changed after it was taken."),
        dg.AssetCheckSpec(
            "sensors_are_running",
            asset=EVENTS,
            description="Every sensor and schedule of this location is on and ticks.",
        ),
    ],
)
def intake_checks(
    context: dg.AssetCheckExecutionContext, lake: LakeResource
) -> Iterator[dg.AssetCheckResult]:
    alerts = Alerts(lake.open())
    for check, kinds in STANDING.items():
        found = alerts.standing(*kinds)
        yield dg.AssetCheckResult(
            asset_key=FILES,
            check_name=check,
            passed=not found,
            description="; ".join(o.title for o in found[:5]) or "Nothing of the kind stands.",
            metadata={"alerts": len(found)},
        )
    idle = idle_instigators(context.instance, WATCHED)
    yield dg.AssetCheckResult(
        asset_key=EVENTS,
        check_name="sensors_are_running",
        passed=not idle,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{i.name} {i.reason}" for i in idle) or "All are on, and tick.",
        metadata={"idle": ", ".join(i.name for i in idle) or "none"},
    )


def all_checks() -> list[dg.AssetChecksDefinition]:
    """Every check of this location."""
    return [*(audit_checks(name, held) for name, held in AUDITS.items()), intake_checks]
