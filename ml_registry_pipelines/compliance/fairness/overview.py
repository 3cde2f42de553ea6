"""All that can be measured on one file, before anything is registered: what a data scientist looks at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluation_rows import Columns, Evaluation, Task, normalised
from ml_registry_pipelines.compliance.fairness import parameters
from ml_registry_pipelines.compliance.fairness.grouping import FNR, FPR, PPV, TPR, selection_rate
from ml_registry_pipelines.compliance.fairness.metrics import METRICS, measured
from ml_registry_pipelines.compliance.fairness.people import Data, NotMeasurable
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    import pyarrow as pa

FLOORS = ("min_group_n", "min_positives", "min_negatives")
_ONE_REFERENCE = frozenset({"statistical_parity_difference", "disparate_impact"})


class FileUnreadable(MlregError):
    """A file is not there, or is no CSV or Parquet file."""


@dataclass(frozen=True)
class Overview:
    """Every metric that applies, by set of group attributes.

    Attributes:
        given: parameters that all metrics share.
        groups: rates of each group, by set of attributes; of classes alone.
    """

    rows: int
    given: Mapping[str, Any]
    groups: tuple[dict[str, Any], ...]
    metrics: tuple[Measured, ...]

    def recorded(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rows": self.rows,
            "parameters": dict(self.given),
            "groups": list(self.groups),
            "metrics": [asdict(metric) for metric in self.metrics],
        }


def read_file(path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a CSV (also `.csv.gz`) or Parquet file.

    Raises:
        FileUnreadable: it is not there, is neither, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FileUnreadable(f"there is no file {path}")
    try:
        rows = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as failure:
        # What comes after are the contents of a row.
        first = ": ".join(str(failure).splitlines()[0].split(": ")[:2])
        raise FileUnreadable(f"{path} cannot be read as {_form(path)}: {first:.200}") from failure
    if absent := [name for name in columns if name not in rows.column_names]:
        raise FileUnreadable(
            f"{path} has no column {', '.join(absent)}; it has {', '.join(rows.column_names)}"
        )
    return rows.select(list(columns))


def _form(path: Path) -> str:
    return "Parquet" if path.suffix == ".parquet" else "CSV"


def data_of_file(path: Path, columns: Columns) -> Data:
    """A file as metrics read it.

    Raises:
        FileUnreadable: it cannot be read.
        InvalidInput, EvaluationProblem: columns cannot be meant, or do not hold what was said.
    """
    columns = columns.checked()
    rows = normalised(read_file(path, columns.needed), columns)
    return Data(
        Evaluation(
            rows=rows,
            task=columns.task,
            attributes=tuple(columns.groups or {}),
            favourable=columns.favourable,
            declared=columns.digest,
            table_versions={},
        )
    )


def overview(data: Data, attributes: Sequence[Sequence[str]], given: Mapping[str, Any]) -> Overview:
    """Measure what the columns allow, for each set of group attributes.

    Args:
        attributes: such as `[["race"], ["sex"], ["race", "sex"]]`.
        given: parameters by name, those that no metric has a default for.

    Raises:
        NotMeasurable: an attribute is not declared.
    """
    found: list[Measured] = []
    rows: list[dict[str, Any]] = []
    for groups in attributes:
        data.attributes(groups)
        for metric in METRICS:
            if _applies(metric.name, metric.parameters, data, str(given["reference"])):
                fields = metric.parameters.model_fields
                wanted = {name: value for name, value in given.items() if name in fields}
                found += measured(
                    metric.name, data, metric.parameters.model_validate({**wanted, "groups": list(groups)})
                )
        if data.evaluation.task is Task.CLASSIFICATION:
            rows += _rates(data, groups, {name: int(given[name]) for name in FLOORS})
    if not found:
        raise NotMeasurable(
            "name a prediction, or a label and a score: without them there is nothing to measure"
        )
    return Overview(data.rows.num_rows, given, tuple(rows), tuple(found))


def _applies(name: str, kind: type, data: Data, reference: str) -> bool:
    columns = set(data.rows.column_names)
    if data.evaluation.task is Task.REGRESSION:
        return kind is parameters.Regression and {"label", "prediction"} <= columns
    if kind is parameters.Selection:
        if name in _ONE_REFERENCE and not reference.startswith("ref="):
            return False
        return "prediction" in columns and not (name == "four_fifths_rule" and reference == "overall")
    if kind in (parameters.Errors, parameters.Odds):
        return {"label", "prediction"} <= columns
    return kind is parameters.Calibration and {"label", "score"} <= columns


def _rates(data: Data, groups: Sequence[str], floors: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Rates of each group; none that is over too few rows to be judged."""
    columns = set(data.rows.column_names)
    if "prediction" not in columns:
        return
    favourable = selection_rate(data.evaluation.favourable.value == "positive", "favourable")
    rates = {"favourable": favourable}
    if "label" in columns:
        rates |= {"tpr": TPR, "fpr": FPR, "fnr": FNR, "ppv": PPV}
    for people in data.people(groups):
        shown: dict[str, Any] = {"group": people.name, "n": people.n}
        for name, rate in rates.items():
            of = rate.of(people)
            least = max(1, floors[rate.floor]) if rate.floor else floors["min_group_n"]
            big = rate.known(people) >= floors["min_group_n"] and None not in people.key and of >= least
            shown[name] = rate.hits(people) / of if big else None
        yield shown
