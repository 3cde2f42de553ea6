"""Calibration within groups: whether a score of 0.7 means seven in ten, whoever the person is.

Per bin b of the score, the gap is |mean label - mean score|; a group's expected calibration error is
the sum of n_b / n times the gap. A. P. Dawid, JASA 77, 1982; M. P. Naeini et al., AAAI 2015; within
groups: J. Kleinberg et al., ITCS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.grouping import check_missing
from ml_registry_pipelines.compliance.fairness.parameters import Calibration
from ml_registry_pipelines.compliance.fairness.people import (
    Data,
    Key,
    NotMeasurable,
    group_name,
    keys_of,
)
from ml_registry_pipelines.compliance.results import Group, Interval, Measured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Bin:
    """Rows of one group whose score lies in one bin. `residual` is label less score."""

    index: int
    n: int
    positives: int
    scores: float
    residuals: float
    squares: float


@dataclass(frozen=True)
class Scored:
    """One group's bins, and its rows, those without label or score included."""

    key: Key
    rows: int
    bins: tuple[Bin, ...]

    @property
    def n(self) -> int:
        return sum(b.n for b in self.bins)

    @property
    def error(self) -> float:
        """Expected calibration error."""
        return sum(abs(b.residuals) for b in self.bins) / self.n


def within_groups(metric: str, data: Data, parameters: Calibration) -> list[Measured]:
    """The largest expected calibration error of a group.

    Raises:
        NotMeasurable: scores are no probabilities, are all the same, or no group is large enough.
    """
    names = data.attributes(parameters.groups)
    scored = _bins(data, names, parameters)
    rows = sum(one.rows for one in scored)
    check_missing("", rows, sum(one.rows for one in scored if None in one.key), parameters, "the group")
    judged: list[Scored] = []
    groups: list[Group] = []
    for one in scored:
        name = group_name(names, one.key)
        if None in one.key:
            groups.append(Group(name, one.rows, left_out="the group is not stated"))
            continue
        if one.rows >= parameters.min_group_n:
            check_missing(name, one.rows, one.rows - one.n, parameters, "label or score")
        if one.n < parameters.min_group_n:
            groups.append(Group(name, one.n, left_out=f"{one.n} rows, fewer than {parameters.min_group_n}"))
        else:
            judged.append(one)
    if len(judged) < 2:
        raise NotMeasurable(f"{len(judged)} groups can be judged; a comparison needs two")
    positives = sum(b.positives for one in judged for b in one.bins)
    if positives in (0, total := sum(one.n for one in judged)):
        raise NotMeasurable(f"all {total:,} labels are the same, which calibrates no score")
    level = sampling.each_of(parameters.confidence, len(judged))
    each = [_interval(one, parameters, level) for one in judged]
    worst = Interval(
        max(e.low for e in each),
        max(e.high for e in each),
        parameters.confidence,
        sampling.method(each[0].method, len(judged)),
    )
    single = [_interval(one, parameters, parameters.confidence) for one in judged]
    shown = [
        Group(group_name(names, one.key), one.n, _positives(one), one.n - _positives(one), one.error, of)
        for one, of in zip(judged, single, strict=True)
    ]
    return [
        Measured(
            metric,
            max(one.error for one in judged),
            worst,
            about=" x ".join(names),
            unit="share",
            groups=(*shown, *groups),
            n=sum(one.n for one in scored),
            detail={
                "rows_missing": rows - sum(one.n for one in scored),
                "bins": {group_name(names, one.key): _shown(one, parameters) for one in judged},
            },
        )
    ]


def _positives(one: Scored) -> int:
    return sum(b.positives for b in one.bins)


def _shown(one: Scored, parameters: Calibration) -> list[dict[str, object]]:
    """The bins as evidence; of a bin below the floor only how many rows it has."""
    return [
        {"bin": b.index, "n": b.n}
        if b.n < parameters.min_group_n
        else {"bin": b.index, "n": b.n, "mean_score": b.scores / b.n, "share_positive": b.positives / b.n}
        for b in one.bins
    ]


def _bins(data: Data, names: Sequence[str], parameters: Calibration) -> list[Scored]:
    label, score = data.numbers("label"), data.numbers("score")
    _check(data)
    inner = ", ".join(f"g{i}" for i in range(len(names)))
    rows = data.ask(
        f"""
        WITH given AS (
            SELECT {data.group_columns(names)}, {label} AS y, {score} AS s FROM evaluation
        )
        SELECT {inner}, count(*) AS n, sum(y) AS positives, sum(s) AS scores,
            sum(y - s) AS residuals, sum((y - s) * (y - s)) AS squares,
            CASE WHEN y IS NULL OR s IS NULL THEN NULL ELSE len(list_filter($edges, lambda e: s >= e)) END AS bin
        FROM given GROUP BY ALL ORDER BY {inner}, bin
        """,
        {"edges": _edges(data, score, parameters)},
    )
    found: dict[Key, list[dict[str, Any]]] = {}
    for key, row in zip(keys_of(rows, names), rows.to_pylist(), strict=True):
        found.setdefault(key, []).append(row)
    every = [
        Scored(
            key,
            sum(row["n"] for row in of),
            tuple(
                Bin(
                    row["bin"],
                    row["n"],
                    int(row["positives"]),
                    row["scores"],
                    row["residuals"],
                    row["squares"],
                )
                for row in of
                if row["bin"] is not None
            ),
        )
        for key, of in found.items()
    ]
    return sorted(every, key=lambda one: (-one.rows, str(one.key)))


def _check(data: Data) -> None:
    ends = data.ask(
        "SELECT min(score) AS low, max(score) AS high, "
        "count(*) FILTER (label NOT IN (0.0, 1.0)) AS strange FROM evaluation"
    ).to_pylist()[0]
    if ends["strange"]:
        raise NotMeasurable("labels are no classes, but other numbers than 1 and 0")
    if ends["low"] is None:
        raise NotMeasurable("no row has a score")
    if ends["low"] < 0 or ends["high"] > 1:
        raise NotMeasurable("scores lie outside of 0 and 1; calibration reads them as probabilities")
    if ends["low"] == ends["high"]:
        raise NotMeasurable("all scores are the same, so that there is nothing to calibrate")


def _edges(data: Data, score: str, parameters: Calibration) -> list[float]:
    """Inner edges of the bins, rising; a score on an edge belongs to the bin above."""
    inner = [i / parameters.bins for i in range(1, parameters.bins)]
    if parameters.binning == "uniform":
        return inner
    found = data.ask(f"SELECT quantile_cont({score}, $inner) AS edges FROM evaluation", {"inner": inner})
    return sorted(set(found["edges"][0].as_py()))


def _interval(one: Scored, parameters: Calibration, confidence: float) -> Interval:
    """Rows are drawn anew: how many fall into each bin, and then the mean residual of those."""
    import numpy as np

    n = np.array([b.n for b in one.bins])
    mean = np.array([b.residuals / b.n for b in one.bins])
    spread = np.array([_spread(b) for b in one.bins])

    def draw(random: np.random.Generator) -> NDArray[np.float64]:
        counts = random.multinomial(one.n, n / one.n, parameters.resamples)
        noise = random.standard_normal(counts.shape) * np.sqrt(spread / np.maximum(1, counts))
        error: NDArray[np.float64] = (counts * np.abs(mean + noise)).sum(axis=1) / one.n
        return error

    return sampling.bootstrapped(
        one.error, draw, seed=parameters.seed, resamples=parameters.resamples, confidence=confidence
    )


def _spread(b: Bin) -> float:
    """Variance of a bin's residuals; of few labels that are all the same, what they may yet be."""
    share = (b.positives + 0.5) / (b.n + 1)
    return max(share * (1 - share), b.squares / b.n - (b.residuals / b.n) ** 2)
