"""What each attempt costs by now: its row of `model_costs`, or what corrected it last.

For whoever asks about single attempts, such as experiments that join costs to requests. Sums of
days, hours and keys are in `cost_rollup`, corrections included.
"""

from __future__ import annotations

from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import MODEL_COSTS

CORRECTIONS = "cost_corrections"


def standing(reading: Reading, where: str) -> str:
    """A SELECT of one row per attempt, with the columns of `model_costs`, of the attempts that fulfil a condition.

    Args:
        reading: holds `model_costs` and `cost_corrections`.
        where: the condition in SQL, over columns of `model_costs` that corrections do not change: tenant,
            day, event_ts, batch, event_key, application, provider, model, status.
    """
    columns = ", ".join(MODEL_COSTS.column_names)
    if reading.is_empty(CORRECTIONS):
        return f"SELECT {columns} FROM model_costs WHERE {where}"
    return f"""
        SELECT {columns} FROM (FROM model_costs WHERE {where})
        ANTI JOIN (FROM {CORRECTIONS} WHERE {where}) USING (tenant, event_key, batch)
        UNION ALL
        SELECT {columns} FROM (
            SELECT * FROM {CORRECTIONS} WHERE {where} AND entry = 'restated'
            QUALIFY row_number() OVER (PARTITION BY tenant, event_key, batch ORDER BY correction DESC) = 1
        )
    """
