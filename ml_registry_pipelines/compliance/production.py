"""The declared suites again, on what versions in use have predicted in production.

Each version in production, staging or shadow is checked whose evaluation says where its predictions are: in
the requests that it answered, with labels from `outcomes` as they arrive (`served_rows.py`), or in rows of
`evaluation_data` with origin `production`, which a user's own asset records with their labels once those are
known (`record_evaluation(..., origin="production")`) and which need a column `observed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.evaluations import KIND, DeclaredEvaluation, declared_evaluations
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.needs import LIVE_STAGES

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.evidence import Evidence
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

WINDOW = timedelta(days=28)
"""Whole weeks, so that each weekday counts as often."""


@dataclass(frozen=True)
class OnProduction:
    """What the suites of one version say of its predictions in production."""

    declared: DeclaredEvaluation
    evidence: Evidence


def check_production(
    log: Log, actor: Actor, *, until: datetime, window: timedelta = WINDOW, run_id: str | None = None
) -> Iterator[OnProduction]:
    """Run the suites of every live version of every tenant on its production data, once per window.

    A version without labelled predictions in the window gets evidence that could not run: silence is no pass.

    Args:
        until: end of the window, which does not belong to it.
    """
    for tenant in log.tenants():
        view = log.view(tenant)
        manager = ComplianceManager(log, actor=actor, tenant=tenant, run_id=run_id)
        for declared in declared_evaluations(view):
            version = view.by_id("model_versions", declared.version_id)
            live = version is not None and not version.deleted and version.data["stage"] in LIVE_STAGES
            if live and (declared.served is not None or declared.columns.observed is not None):
                yield OnProduction(
                    declared,
                    manager.run_compliance_checks(
                        declared.version_id,
                        production=(until - window, until),
                        idempotency_key=f"{KIND}/{declared.version_id}/production/{until.isoformat()}",
                    ),
                )


def last_midnight(given: str | None = None) -> datetime:
    """The end of a window: as it is given, else the last midnight (UTC).

    Raises:
        InvalidInput: it is no time.
    """
    if not given:
        return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        until = datetime.fromisoformat(given)
    except ValueError:
        raise InvalidInput(f"until {given!r} is no time; write 2026-09-01 or 2026-09-01T12:00Z") from None
    return until if until.tzinfo else until.replace(tzinfo=UTC)
