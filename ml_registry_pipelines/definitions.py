"""The composition root: every asset, check, job, sensor and schedule of the location, with its resources.

The only module that knows all the others. It works from the repository or an image, where
the packages `assets`, `sensors` and `resources` lie beside this one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import dagster as dg

from assets import (
    artifacts,
    bills,
    checks,
    compliance,
    costs,
    deliveries,
    dossiers,
    experiments,
    governance,
    lineage,
    operations,
    outside,
    reports,
    search,
    sources,
    telemetry,
)
from ml_registry_pipelines import catalog
from ml_registry_pipelines.jobs.ai_act import ai_act_jobs
from ml_registry_pipelines.jobs.approvals import approvals_jobs
from ml_registry_pipelines.jobs.bills import bills_jobs
from ml_registry_pipelines.jobs.budgets import budget_jobs
from ml_registry_pipelines.jobs.checks import checks_jobs
from ml_registry_pipelines.jobs.costs import costs_jobs
from ml_registry_pipelines.jobs.dossier import dossier_jobs
from ml_registry_pipelines.jobs.erasure import erasure_jobs
from ml_registry_pipelines.jobs.exchange import exchange_jobs
from ml_registry_pipelines.jobs.experiments import experiments_jobs
from ml_registry_pipelines.jobs.gdpr import gdpr_jobs
from ml_registry_pipelines.jobs.platform import all_jobs
from ml_registry_pipelines.jobs.registry import registry_jobs
from ml_registry_pipelines.jobs.reports import reports_jobs
from ml_registry_pipelines.jobs.security import security_jobs
from ml_registry_pipelines.jobs.values import value_jobs
from ml_registry_pipelines.schedules import all_schedules
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.telemetry.sources import Source, Sources, SourcesError
from resources import resources_for
from sensors import alerting, attribution, delivering, ingestion, reporting, watching
from sensors import approvals as approval_sensors
from sensors import bills as bill_sensors
from sensors import experiments as experiments_sensors
from sensors import outside as outside_sensors
from sensors import registry as registry_sensors
from sensors import search as search_sensors

# By its owner a reviewer may launch a job. Dagster says in every process, at every load, that this is beta.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `JobDefinition")


def build_defs(
    settings: Settings | None = None, *, overrides: Mapping[str, object] | None = None
) -> dg.Definitions:
    """The whole location.

    Args:
        settings: where it works; by default what the environment says.
        overrides: resources that replace those of the environment, by name.
    """
    settings = settings or Settings.from_environment()
    registry = catalog.configured(settings.home)
    catalogued = registry.current()
    landed = sources.source_specs(_sources(settings), catalog.live_deployments(catalogued))
    own: list[dg.AssetSpec | dg.AssetsDefinition] = [
        *landed,
        telemetry.ingestion([spec.key for spec in landed]),
        telemetry.attribution_rules,
        telemetry.performance_rollup,
        telemetry.performance_months,
        costs.price_catalog,
        costs.model_costs,
        costs.cost_rollup,
        costs.attribution_gaps,
        experiments.decisions,
        compliance.production_checks,
        bills.provider_bills,
        bills.bill_reconciliation,
        reports.daily_cost_report,
        reports.cost_overview,
        deliveries.provider_comparison,
        deliveries.report_deliveries,
        dossiers.dossiers,
        lineage.lineage_index,
        operations.table_upkeep,
        governance.governance_pages,
        search.model_embeddings,
        outside.mlflow_models,
        outside.log_anchors,
        artifacts.artifact_store,
    ]
    keys = {key for each in own for key in ([each.key] if isinstance(each, dg.AssetSpec) else each.keys)}
    shown = registry.definitions(catalog.show(catalogued, besides=keys))
    location = dg.Definitions(
        assets=own,
        asset_checks=[*checks.all_checks(), bills.bill_checks, search.vectors_are_current],
        jobs=[
            *all_jobs(),
            *registry_jobs(),
            *bills_jobs(),
            *budget_jobs(),
            *gdpr_jobs(),
            *erasure_jobs(),
            *costs_jobs(),
            *exchange_jobs(),
            *experiments_jobs(),
            *checks_jobs(),
            *value_jobs(),
            *ai_act_jobs(),
            *approvals_jobs(),
            *dossier_jobs(),
            *reports_jobs(),
            *security_jobs(),
        ],
        schedules=all_schedules(),
        sensors=[
            ingestion.new_inference_logs,
            ingestion.reconcile_inference_logs,
            ingestion.new_prices,
            bill_sensors.new_bills,
            attribution.new_attribution,
            experiments_sensors.experiment_looks,
            reporting.reports_of_touched_days,
            delivering.due_reports,
            registry_sensors.registry_changes,
            registry_sensors.registry_events,
            approval_sensors.granted_approvals,
            approval_sensors.approval_turns,
            alerting.run_failures,
            alerting.check_failures,
            alerting.evaluate_alert_rules,
            watching.watch,
            search_sensors.changed_models,
            outside_sensors.deliver_webhooks,
            outside_sensors.mlflow_changes,
        ],
        resources={**resources_for(settings), **(overrides or {})},
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(location, shown)


def _sources(settings: Settings) -> list[Source]:
    """The configured sources. A file that cannot be used costs their nodes, not the location: sensors say why."""
    try:
        return list(Sources.load(settings))
    except SourcesError as wrong:
        logging.getLogger(__name__).warning("no source is shown in the asset graph: %s", wrong)
        return []


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads."""
    return build_defs()
