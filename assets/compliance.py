"""Compliance checks that go by the clock. How they are made, is in compliance/."""

import dagster as dg

from assets.tables import OWNERS, RARE, written
from resources import LakeResource, RegistryResource

ROOM = "compliance"


class ProductionWindow(dg.Config):
    """Which predictions are looked at."""

    until: str | None = None
    """Time at which the window ends, such as 2026-11-01; by default last midnight (UTC)."""
    days: int = 28
    """Length of the window."""


@dg.asset(
    key=[ROOM, "production_checks"],
    group_name=ROOM,
    kinds={"deltalake"},
    owners=OWNERS,
    pool="production_checks",
    freshness_policy=RARE,
)
def production_checks(
    context: dg.AssetExecutionContext,
    config: ProductionWindow,
    lake: LakeResource,
    registry: RegistryResource,
) -> dg.MaterializeResult[None]:
    """One row is one check of a live version's declared suites on what it predicted in production.

    Read are rows of `evaluation_data` with origin `production`, by their time; written are rows of
    `compliance_results` under the suites' names with `@production`.
    """
    from datetime import timedelta

    from ml_registry_pipelines.compliance.production import check_production, last_midnight
    from ml_registry_pipelines.errors import MlregError

    try:
        until = last_midnight(config.until)
        made = list(
            check_production(
                registry.log(),
                registry.actor(),
                until=until,
                window=timedelta(days=config.days),
                run_id=context.run.run_id,
            )
        )
    except MlregError as wrong:
        raise dg.Failure(str(wrong), allow_retries=False) from None
    for each in made:
        context.log.info("%s: %s", each.declared.version_id, each.evidence.verdict.value)
    verdicts = [each.evidence.verdict.value for each in made]
    figures = {
        "versions": len(made),
        **{verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
    }
    return dg.MaterializeResult(
        metadata=written(lake.open(), "compliance_results", {**figures, "until": until.isoformat()})
    )
