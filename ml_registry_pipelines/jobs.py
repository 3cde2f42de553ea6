"""The jobs: few, since each costs load time, and in one process each, since starting one takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

ONE_AT_A_TIME = "mlreg/one_at_a_time"
"""Of the runs that bear this tag with one value, one runs and the others queue; `dagster.yaml` sees to it."""


def _job(name: str, assets: Sequence[str], description: str) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(dg.AssetKey(key.split("/")) for key in assets)),
        executor_def=dg.in_process_executor,
        tags={ONE_AT_A_TIME: name},
        description=description,
    )


def all_jobs() -> list[UnresolvedAssetJobDefinition]:
    """Every job of this location. Checks of the assets run with them."""
    return [
        _job(
            "ingest_logs",
            [
                "telemetry/inference_events",
                "telemetry/ingested_files",
                "telemetry/quarantined_rows",
                "telemetry/performance_rollup",
                "costs/model_costs",
                "costs/cost_rollup",
            ],
            "Takes log files, prices them and rolls up the days that they touch. A sensor names the files; "
            "started by hand, it takes whatever lies in the sources.",
        ),
        _job(
            "sync_prices",
            ["costs/price_catalog"],
            "Brings the price catalogue up to price lists and contracts.",
        ),
        _job(
            "write_reports",
            ["reports/daily_cost_report", "reports/cost_overview"],
            "Writes the reports of some days, and the overview.",
        ),
        _job("maintain_tables", ["operations/table_upkeep"], "Compacts and cleans up all tables."),
    ]
