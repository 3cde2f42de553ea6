"""Fairness of a million predictions: seconds and memory of all metrics, beside Fairlearn's MetricFrame.

Made people of six races and two sexes. Each side runs in a process of its own and gets the same Arrow table from
a Parquet file; imports and a warm-up on a few rows come before the clock. Memory is the most that the process
held, less what it held before.

    python -m benchmarks.fairness
    python -m benchmarks.fairness --rows 10000000
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.compliance.evaluation_rows import Columns, Evaluation, Task, normalised
from ml_registry_pipelines.compliance.fairness.metrics import METRICS, measured
from ml_registry_pipelines.compliance.fairness.parameters import (
    Calibration,
    Errors,
    Odds,
    Regression,
    Selection,
)
from ml_registry_pipelines.compliance.fairness.people import Data

ROUNDS = 5
LIMIT = 2.0
"""Seconds that a million rows may take."""
RACES = ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")
COLUMNS = Columns(
    label="label",
    prediction="prediction",
    score="score",
    groups={"race": "race", "sex": "sex"},
    positive=("1",),
)
SETS = (["race"], ["sex"], ["race", "sex"])
GIVEN = {
    "min_group_n": 30, "min_positives": 10, "min_negatives": 10, "max_missing": 0.0, "confidence": 0.95,
    "reference": "max-min", "correction": "holm", "favourable": "positive", "agg": "worst_case", "seed": 1,
    "resamples": 1000, "bins": 10, "binning": "uniform",
}  # fmt: skip


def people(rows: int) -> pa.Table:
    """Made predictions, with a gap between groups."""
    random = np.random.default_rng(5)
    race = random.choice(len(RACES), rows, p=[0.45, 0.01, 0.33, 0.1, 0.01, 0.1])
    score = np.clip(random.beta(2, 3, rows) + 0.02 * race, 0, 1)
    return pa.table(
        {
            "race": pa.DictionaryArray.from_arrays(race, pa.array(RACES)).cast(pa.string()),
            "sex": np.where(random.random(rows) < 0.8, "Male", "Female"),
            "label": (random.random(rows) < score).astype(np.int64),
            "prediction": (score > 0.4).astype(np.int64),
            "score": score,
        }
    )


def ours(table: pa.Table) -> int:
    """Read the rows under their roles, and every metric of classes for three sets of groups."""
    data = data_of(table, COLUMNS)
    return sum(_measure(data, kinds=(Selection, Errors, Odds, Calibration)))


def four(table: pa.Table) -> int:
    """The four figures that `theirs` has, for one set of groups."""
    data = data_of(table, COLUMNS)
    names = {"demographic_parity_difference", "demographic_parity_ratio", "equalized_odds_difference",
             "equalized_odds_ratio"}  # fmt: skip
    return sum(_measure(data, kinds=(Selection, Odds), sets=SETS[:1], names=names))


def numbers(table: pa.Table) -> int:
    """Every metric of regressions for three sets of groups: the score as a prediction."""
    columns = Columns(Task.REGRESSION, label="label", prediction="score", groups=COLUMNS.groups)
    return sum(_measure(data_of(table, columns), kinds=(Regression,)))


def data_of(table: pa.Table, columns: Columns) -> Data:
    rows = normalised(table, columns)
    return Data(Evaluation(rows, columns.task, ("race", "sex"), columns.favourable, "", {}))


def _measure(
    data: Data, *, kinds: tuple[type, ...], sets: tuple[list[str], ...] = SETS, names: set[str] | None = None
) -> list[int]:
    done = []
    for groups in sets:
        for metric in METRICS:
            if metric.parameters not in kinds or metric.name in (
                "statistical_parity_difference",
                "disparate_impact",
            ):
                continue
            if names is not None and metric.name not in names:
                continue
            fields = metric.parameters.model_fields
            given = {name: value for name, value in GIVEN.items() if name in fields}
            found = measured(metric.name, data, metric.parameters.model_validate({**given, "groups": groups}))
            done.append(sum(one.value is not None for one in found))
    return done


def theirs(table: pa.Table) -> int:
    """The same by MetricFrame on rows: selection rate, TPR and FPR of one set of groups, compared."""
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    rows = table.to_pandas()
    frame = MetricFrame(
        metrics={"selection": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate},
        y_true=rows["label"],
        y_pred=rows["prediction"],
        sensitive_features=rows["race"],
    )
    return len(frame.difference()) + len(frame.ratio())


SIDES: dict[str, Callable[[pa.Table], int]] = {
    "all metrics of classes, 3 sets of groups": ours,
    "all metrics of regressions, 3 sets of groups": numbers,
    "parity and equalized odds of one set": four,
    "MetricFrame: the rates of one set": theirs,
}


def run(name: str, file: str, rounds: int) -> tuple[float, float, float, int]:
    """Median seconds, median seconds of the processor, MB and figures of one side."""
    table = pq.read_table(file)
    SIDES[name](people(5_000))
    before = peak_mb()
    took, worked, figures = [], [], 0
    for _ in range(rounds):
        started, before_work = perf_counter(), process_time()
        figures = SIDES[name](table)
        took.append(perf_counter() - started)
        worked.append(process_time() - before_work)
    return statistics.median(took), statistics.median(worked), peak_mb() - before, figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "people.parquet")
        pq.write_table(people(given.rows), file)
        print(f"{given.rows:,} rows, median of {given.rounds}")
        slow = False
        for name in SIDES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, worked, memory, figures = pool.apply(run, (name, file, given.rounds))
            print(
                f"  {name:<46} {seconds:>7.3f} s   processor {worked:>7.3f} s   {memory:>6,.0f} MB   "
                f"{figures} figures",
                flush=True,
            )
            slow |= SIDES[name] is ours and seconds > LIMIT * max(1, given.rows / 1_000_000)
    if slow:
        raise SystemExit(f"slower than {LIMIT:g} s for a million rows")


if __name__ == "__main__":
    main()
