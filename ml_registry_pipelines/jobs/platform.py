"""The jobs: few, since each costs load time, and in one process each, since starting one takes seconds."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, field_validator

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

ONE_AT_A_TIME = "mlreg/one_at_a_time"
"""Of the runs that bear this tag with one value, one runs and the others queue; `dagster.yaml` sees to it."""


class PastDays(dg.Config):
    """First and last UTC day, YYYY-MM-DD; where one is left out, the first or last day that has costs."""

    since: str | None = None
    until: str | None = None

    @field_validator("since", "until")
    @classmethod
    def _is_a_day(cls, day: str | None) -> str | None:
        if day is not None:
            date.fromisoformat(day)
        return day


@dg.config_mapping
def past_days(config: PastDays) -> dict[str, Any]:
    """The days of a `reprice_costs` run, as its ops take them."""
    days = {"reprice": True, "since": config.since, "until": config.until}
    return {"ops": {op: {"config": days} for op in ("model_costs", "cost_rollup", "attribution_gaps")}}


class PulledDays(dg.Config):
    """UTC days, YYYY-MM-DD, `until` left out, and the pulls to make; by default the last days, and all."""

    since: str | None = None
    until: str | None = None
    pulls: list[str] = Field(default_factory=list)

    @field_validator("since", "until")
    @classmethod
    def _is_a_day(cls, day: str | None) -> str | None:
        if day is not None:
            date.fromisoformat(day)
        return day


@dg.config_mapping
def pulled_days(config: PulledDays) -> dict[str, Any]:
    """What a `pull_bills` run asks for, as its ops take it."""
    asked = {"pull": True, "since": config.since, "until": config.until, "pulls": config.pulls}
    return {"ops": {"provider_bills": {"config": asked}}}


def _job(
    name: str,
    assets: Sequence[str],
    description: str,
    config: dg.ConfigMapping | None = None,
) -> "UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(dg.AssetKey(key.split("/")) for key in assets)),
        executor_def=dg.in_process_executor,
        tags={ONE_AT_A_TIME: name},
        description=description,
        config=config,
    )


def all_jobs() -> "list[UnresolvedAssetJobDefinition]":
    """Every job of this location. Checks of the assets run with them."""
    return [
        _job(
            "ingest_logs",
            [
                "telemetry/inference_events",
                "telemetry/ingested_files",
                "telemetry/quarantined_rows",
                "telemetry/assignments",
                "telemetry/outcomes",
                "telemetry/performance_rollup",
                "telemetry/performance_months",
                "costs/model_costs",
                "costs/cost_corrections",
                "telemetry/attribution_rules",
                "costs/cost_rollup",
                "costs/attribution_gaps",
            ],
            "Takes log files, prices them and rolls up the days that they touch. A sensor names the files; "
            "started by hand, it takes whatever lies in the sources.",
        ),
        _job(
            "sync_prices",
            ["costs/price_catalog", "costs/currency_rates"],
            "Brings the price catalogue up to price lists and contracts, and rates of exchange up to their file.",
        ),
        _job(
            "reprice_costs",
            [
                "costs/price_catalog",
                "costs/currency_rates",
                "costs/model_costs",
                "costs/cost_corrections",
                "costs/cost_rollup",
                "costs/attribution_gaps",
            ],
            "Prices past days anew at the prices of now, and rolls up those that changed; their reports follow. "
            "Open months are replaced, closed ones corrected. "
            "Without configuration: all days.",
            past_days,
        ),
        _job(
            "attribute_logs",
            [
                "telemetry/attribution_rules",
                "telemetry/performance_rollup",
                "telemetry/performance_months",
                "costs/cost_rollup",
                "costs/attribution_gaps",
            ],
            "Computes again the days on which other attribution rules hold, or deployments served something else, "
            "than when they were rolled up; their reports follow.",
        ),
        _job(
            "decide_experiments",
            ["costs/decisions"],
            "Looks at every experiment that has not been looked at for an hour, and stores what is decided.",
        ),
        _job(
            "write_governance_pages",
            ["compliance/governance_page"],
            "Writes the governance page of all tenants, and the evidence page of each approval that waits.",
        ),
        _job(
            "write_dossiers",
            ["reports/dossiers"],
            "Writes the technical documentation and model cards of all versions that are live or about to be.",
        ),
        _job(
            "check_production",
            ["compliance/production_checks"],
            "Runs the declared suites of live versions on what they predicted in production in the last four weeks.",
        ),
        _job(
            "take_bills",
            ["costs/provider_bills", "costs/bill_reconciliation"],
            "Takes providers' bills that have landed, and compares them with our costs. A sensor names the files; "
            "started by hand, it takes whatever lies in the sources.",
        ),
        _job(
            "pull_bills",
            ["costs/provider_bills", "costs/bill_reconciliation"],
            "Asks providers' cost APIs for the last days, and compares what they bill with our costs.",
            pulled_days,
        ),
        _job(
            "write_reports",
            ["reports/daily_cost_report", "reports/cost_overview"],
            "Writes the reports of some days, and the overview.",
        ),
        _job(
            "compare_providers",
            ["reports/provider_comparison"],
            "Writes the comparison of providers of some weeks.",
        ),
        _job(
            "deliver_reports",
            ["reports/report_deliveries"],
            "Makes and sends the reports that are due, and corrections of those that came out otherwise since.",
        ),
        _job(
            "build_lineage_index",
            ["lineage/lineage_index"],
            "Adds to the lineage index what is newer than it, so that questions stay quick.",
        ),
        _job(
            "import_mlflow",
            ["registry/mlflow_models"],
            "Copies models from the MLflow server that MLREG_MLFLOW names; again, only what changed.",
        ),
        _job(
            "anchor_log",
            ["registry/log_anchors"],
            "Verifies the log, then signs the heads of its chains into MLREG_ANCHORS.",
        ),
        _job(
            "purge_artifacts",
            ["operations/artifact_store"],
            "Removes files that no model version has ever needed; with `dry_run`, says which.",
        ),
        _job(
            "embed_models",
            ["search/model_embeddings"],
            "Embeds models that changed, so that likeness and hybrid search know them. `whole` compares all models; "
            "`rebuild` makes every vector anew. With another embedder set, all go into a new table.",
        ),
        _job("maintain_tables", ["operations/table_upkeep"], "Compacts and cleans up all tables."),
    ]
