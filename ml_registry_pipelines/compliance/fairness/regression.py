"""Fairness of numbers: residuals, errors and distributions of a regression by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.comparing import (
    OVERALL,
    Pair,
    Quantity,
    Sides,
    described,
    largest_difference,
    mean,
    pairs,
    share,
    smallest_ratio,
)
from ml_registry_pipelines.compliance.fairness.grouping import check_missing
from ml_registry_pipelines.compliance.fairness.parameters import Compared, Regression
from ml_registry_pipelines.compliance.fairness.people import (
    Data,
    Key,
    NotMeasurable,
    group_name,
)
from ml_registry_pipelines.compliance.fairness.significance import Tested, shown
from ml_registry_pipelines.compliance.results import Group, Interval, Measured
from ml_registry_pipelines.telemetry.intervals import Interval as Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


EXPRESSIONS = RESIDUAL, ABSOLUTE, SQUARED = ("y - p", "abs(y - p)", "(y - p) * (y - p)")
"""What means are made of, of label y and prediction p: all of them in one pass over the rows."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance of one quantity in one group; None where there is no row."""

    key: Key
    rows: int
    n: int
    mean: float
    variance: float


def residual_difference(metric: str, data: Data, parameters: Regression) -> list[Measured]:
    """Largest difference of mean residuals, label less prediction, in the unit of the label."""
    every = _moments(data, parameters, RESIDUAL)
    sides, left_out = _sides(parameters, every)
    found = pairs(sides, parameters.reference)
    value, interval = largest_difference(found, parameters.confidence, "normal")
    return [
        _measured(metric, parameters, value, interval, sides, found, left_out, every, "unit of the label")
    ]


def absolute_error_ratio(metric: str, data: Data, parameters: Regression) -> list[Measured]:
    """Smallest mean absolute error by the largest one."""
    return _error_ratio(metric, data, parameters, ABSOLUTE, rooted=False)


def squared_error_ratio(metric: str, data: Data, parameters: Regression) -> list[Measured]:
    """Smallest root mean squared error by the largest one."""
    return _error_ratio(metric, data, parameters, SQUARED, rooted=True)


def _error_ratio(
    metric: str, data: Data, parameters: Regression, expression: str, *, rooted: bool
) -> list[Measured]:
    if parameters.reference == OVERALL:
        raise NotMeasurable("compare errors by `max-min` or with `ref=`, not with `overall`")
    every = _moments(data, parameters, expression)
    sides, left_out = _sides(parameters, every, positive=True)
    if rooted:
        sides = Sides(tuple(_root(q) for q in sides.judged))
    found = pairs(sides, parameters.reference)
    value, interval = smallest_ratio(found, parameters.confidence, "normal on the log scale")
    return [_measured(metric, parameters, value, interval, sides, found, left_out, every, "ratio")]


def _root(quantity: Quantity) -> Quantity:
    def at(confidence: float) -> Estimate:
        of = quantity.at(confidence)
        return Estimate(math.sqrt(of.estimate), math.sqrt(of.lower), math.sqrt(of.upper))

    return Quantity(quantity.name, quantity.values, quantity.n, at)


def demographic_parity(metric: str, data: Data, parameters: Regression) -> list[Measured]:
    """Largest distance of two groups' distributions of predictions, or of a group's from everybody's.

    sup_z |F_a(z) - F_b(z)|, the statistic of Kolmogorov and Smirnov. A. Agarwal et al., "Fair Regression",
    ICML 2019. Interval: A. Dvoretzky, J. Kiefer, J. Wolfowitz, with the constant of P. Massart, Annals
    of Probability 18, 1990.
    """
    import numpy as np
    from scipy.stats import kstwo

    names = data.attributes(parameters.groups)
    drawn = _predictions(data, names)
    rows, left_out = _leave_out(parameters, names, [(key, n, known) for key, (n, known, _) in drawn.items()])
    everybody = sum(known for _, known, _ in drawn.values())
    total = sum(below for *_, below in drawn.values()) / max(1, everybody)
    if everybody and np.size(total) == 1:
        raise NotMeasurable("all predictions are the same, so that groups cannot differ")
    level = {group_name(names, key): drawn[key][2] / drawn[key][1] for key in rows}
    sides = Sides(
        tuple(share(group_name(names, key), key, 0, drawn[key][1]) for key in rows),
        tuple(
            share(f"all but {group_name(names, key)}", (), 0, everybody - drawn[key][1])
            for key in rows
            if drawn[key][1] < everybody
        ),
    )
    found = pairs(sides, parameters.reference)
    distances, tests = [], []
    confidence = sampling.each_of(parameters.confidence, 2 * len(found))
    for pair in found:
        one = level[pair.first.name]
        if pair.second.name in level:
            other = level[pair.second.name]
        else:
            other = (total * everybody - one * pair.first.n) / pair.second.n
        apart = one - other
        distance = float(max(apart.max(), -apart.min()))
        band = sum(math.sqrt(math.log(2 / (1 - confidence)) / (2 * q.n)) for q in (pair.first, pair.second))
        distances.append(
            Estimate(
                distance * pair.weight,
                max(0.0, distance - band) * pair.weight,
                min(1.0, distance + band) * pair.weight,
            )
        )
        half = pair.first.n * pair.second.n / (pair.first.n + pair.second.n)
        p = float(kstwo.sf(distance, max(1, round(half))))
        tests.append(Tested(pair.first.name, pair.second.name, "kolmogorov-smirnov", p))
    interval = sampling.largest(
        distances, parameters.confidence, sampling.method("dvoretzky-kiefer-wolfowitz", len(found))
    )
    return [
        Measured(
            metric,
            max(d.estimate for d in distances),
            interval,
            about=" x ".join(names),
            unit="share",
            reference=parameters.reference,
            groups=(*(Group(q.name, q.n) for q in sides.judged), *left_out),
            n=everybody,
            detail={"tests": shown(tests, parameters.corrected_by)},
        )
    ]


def _predictions(data: Data, names: Sequence[str]) -> dict[Key, tuple[int, int, NDArray[np.int64]]]:
    """Of each group its rows, those with a prediction, and how many of these lie at or below each value.

    The values are those that occur in any group, rising.
    """
    import numpy as np

    data.numbers("prediction")
    if "rising" not in data.memo:
        column = data.rows["prediction"].to_numpy()
        order = np.argsort(column, kind="stable")
        # NULL reads as NaN, which sorts last.
        order = order[: len(column) - int(np.isnan(column).sum())]
        values = column[order]
        last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else order
        data.memo["rising"] = order, last
    order, last = data.memo["rising"]
    keys, group = data.groups(names)
    n, inside = np.bincount(group, minlength=len(keys)), group[order]
    known = np.bincount(inside, minlength=len(keys))
    return {key: (int(n[i]), int(known[i]), np.cumsum(inside == i)[last]) for i, key in enumerate(keys)}


def _moments(data: Data, parameters: Compared, expression: str) -> list[Moments]:
    """Mean and variance of an expression of label `y` and prediction `p`, by group."""
    names = data.attributes(parameters.groups)
    label = data.numbers("label")
    prediction = data.numbers("prediction")
    if (memo := ("moments", names)) not in data.memo:
        figures = ", ".join(
            f"count({of}) AS known_{n}, avg({of}) AS mean_{n}, var_samp({of}) AS variance_{n}"
            for n, of in enumerate(EXPRESSIONS)
        )
        keys, group = data.groups(names)
        data.memo[memo] = (
            keys,
            data.ask(
                f"""
            SELECT g, count(*) AS n, min(p) AS low, max(p) AS high, {figures}
            FROM (SELECT g, {label} AS y, {prediction} AS p FROM evaluation)
            GROUP BY g ORDER BY g
            """,
                beside={"g": group},
            ),
        )
    keys, rows = data.memo[memo]
    if not len(rows):
        raise NotMeasurable("the evaluation data have no rows")
    found = rows.to_pylist()
    ends = {row[end] for row in found for end in ("low", "high")} - {None}
    if len(ends) == 1:
        raise NotMeasurable("all predictions are the same, so that groups cannot differ")
    which = EXPRESSIONS.index(expression)
    made = [
        Moments(
            keys[row["g"]],
            row["n"],
            row[f"known_{which}"],
            row[f"mean_{which}"] or 0.0,
            row[f"variance_{which}"] or 0.0,
        )
        for row in found
    ]
    return sorted(made, key=lambda one: (-one.rows, str(one.key)))


def _leave_out(
    parameters: Compared, names: Sequence[str], every: Sequence[tuple[Key, int, int]]
) -> tuple[list[Key], list[Group]]:
    """Keys of the groups that are judged, and the others; each with its rows, and those that are known."""
    rows = sum(n for _, n, _ in every)
    unstated = sum(n for key, n, _ in every if None in key)
    check_missing("", rows, unstated, parameters, "the group")
    judged: list[Key] = []
    left_out: list[Group] = []
    least = max(2, parameters.min_group_n)
    for key, n, known in sorted(every, key=lambda one: (-one[1], str(one[0]))):
        name = group_name(names, key)
        if None in key:
            left_out.append(Group(name, n, left_out="the group is not stated"))
            continue
        if n >= least:
            check_missing(name, n, n - known, parameters, "label or prediction")
        if known < least:
            left_out.append(Group(name, known, left_out=f"{known} rows, fewer than {least}"))
        else:
            judged.append(key)
    return judged, left_out


def _sides(
    parameters: Compared, every: Sequence[Moments], *, positive: bool = False
) -> tuple[Sides, list[Group]]:
    names = parameters.groups
    keys, left_out = _leave_out(parameters, names, [(one.key, one.rows, one.n) for one in every])
    of = {one.key: one for one in every}
    judged, others = [], []
    for key in keys:
        one, name = of[key], group_name(names, key)
        make = _positive_mean if positive else mean
        judged.append(make(name, key, one.mean, one.variance, one.n))
        rest = _pooled([other for other in every if other.key != key and other.n])
        if rest.n >= 2:
            others.append(mean(f"all but {name}", (), rest.mean, rest.variance, rest.n))
    return Sides(tuple(judged), tuple(others)), left_out


def _positive_mean(
    name: str, values: tuple[str | None, ...], average: float, variance: float, n: int
) -> Quantity:
    """A mean of values that are never below 0, with an interval on the log scale (delta method)."""

    def at(confidence: float) -> Estimate:
        from ml_registry_pipelines.telemetry.intervals import z_value

        if average <= 0:
            return Estimate(0.0, 0.0, 0.0)
        half = z_value(confidence) * math.sqrt(variance / n) / average
        return Estimate(average, average * math.exp(-half), average * math.exp(half))

    return Quantity(name, values, n, at)


def _pooled(parts: Sequence[Moments]) -> Moments:
    """Several groups as one."""
    n = sum(p.n for p in parts)
    if not n:
        return Moments((), 0, 0, 0.0, 0.0)
    average = math.fsum(p.mean * p.n for p in parts) / n
    squares = math.fsum(p.variance * (p.n - 1) + p.n * (p.mean - average) ** 2 for p in parts)
    return Moments((), sum(p.rows for p in parts), n, average, squares / max(1, n - 1))


def _measured(
    metric: str,
    parameters: Compared,
    value: float,
    interval: Interval,
    sides: Sides,
    found: Sequence[Pair],
    left_out: Sequence[Group],
    every: Sequence[Moments],
    unit: str,
) -> Measured:
    confidence = parameters.confidence
    tests = [Tested(p.first.name, p.second.name, "z", _apart(p)) for p in found]
    known, rows = sum(one.n for one in every), sum(one.rows for one in every)
    return Measured(
        metric,
        value,
        interval,
        about=" x ".join(parameters.groups),
        unit=unit,
        reference=parameters.reference,
        groups=(*(described(q, confidence, "normal") for q in sides.judged), *left_out),
        n=known,
        detail={"rows_missing": rows - known, "tests": shown(tests, parameters.corrected_by)},
    )


def _apart(pair: Pair) -> float:
    """Two-sided p value that two means are the same, from the widths of their intervals."""
    from ml_registry_pipelines.telemetry.intervals import z_value

    one, other = pair.first.at(0.95), pair.second.at(0.95)
    spread = math.hypot(one.upper - one.lower, other.upper - other.lower) / (2 * z_value(0.95))
    if not spread:
        return 1.0 if one.estimate == other.estimate else 0.0
    return math.erfc(abs(one.estimate - other.estimate) / spread / math.sqrt(2))
