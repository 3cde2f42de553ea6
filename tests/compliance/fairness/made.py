"""Evaluations and parameters for tests of fairness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ml_registry_pipelines.compliance.evaluation_rows import Columns, Evaluation, Outcome, normalised
from ml_registry_pipelines.compliance.fairness.metrics import METRICS, measured
from ml_registry_pipelines.compliance.fairness.people import Data
from ml_registry_pipelines.compliance.metrics import Metric

SHIPPED = Path(__file__).parents[3] / "demo" / "data" / "training"
BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
COMMON: dict[str, Any] = {
    "groups": ["group"],
    "min_group_n": 1,
    "max_missing": 0.0,
    "confidence": 0.95,
    "reference": "max-min",
    "correction": "holm",
    "favourable": "positive",
    "refused": "positive",
    "min_positives": 1,
    "min_negatives": 1,
    "agg": "worst_case",
    "seed": 1,
    "resamples": 500,
    "bins": 10,
    "binning": "uniform",
    "ranking": "query",
    "min_rankings": 1,
    "pair": "prompt",
}


def shipped(name: str) -> pd.DataFrame:
    return pd.read_csv(SHIPPED / f"{name}.csv.gz")


def data_of(rows: pd.DataFrame | dict[str, Any], **columns: Any) -> Data:
    """An evaluation of these rows; by default with the columns label, prediction and group, of which 1 is positive."""
    table = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pandas(rows, preserve_index=False)
    default = {"label": "label", "prediction": "prediction", "groups": {"group": "group"}, "positive": ("1",)}
    given = Columns(**{**default, **columns}).checked()
    return Data(
        Evaluation(
            rows=normalised(table, given),
            task=given.task,
            attributes=tuple(given.groups or {}),
            favourable=given.favourable,
            declared="",
            table_versions={},
        )
    )


def every(name: str, data: Data, **parameters: Any) -> list[Any]:
    """All that a metric gives, with the parameters of tests where none are given."""
    metric = BY_NAME[name]
    fields = metric.parameters.model_fields
    given = metric.parameters(**{**{k: v for k, v in COMMON.items() if k in fields}, **parameters})
    return list(measured(name, data, given))


def one(name: str, data: Data, **parameters: Any) -> Any:
    (found,) = every(name, data, **parameters)
    return found


def value(name: str, data: Data, **parameters: Any) -> float:
    found = one(name, data, **parameters)
    assert found.value is not None, found.problem
    return float(found.value)


NOT_FAVOURABLE = {"favourable": Outcome.NEGATIVE}
