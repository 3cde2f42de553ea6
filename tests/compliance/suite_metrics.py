"""Metrics for tests of suites: each does what its parameters say."""

from __future__ import annotations

from collections.abc import Sequence

from ml_registry_pipelines.compliance.evaluations import evaluation
from ml_registry_pipelines.compliance.metrics import Bound, Context, Metric, Parameters
from ml_registry_pipelines.compliance.results import Area, Group, Interval, Measured


class Given(Parameters):
    values: tuple[float, ...]
    half_width: float | None = None


class Nothing(Parameters):
    pass


def given_value(context: Context, asked: Given) -> Sequence[Measured]:
    half = asked.half_width
    return [
        Measured(
            "given_value",
            value,
            None if half is None else Interval(value - half, value + half, 0.95, "given"),
            about=f"part {n}" if len(asked.values) > 1 else "",
            groups=(Group("kind=a", 100), Group("kind=b", 3, left_out="n < 30")),
            n=103,
            detail={"seen": "by anna@example.org"},
        )
        for n, value in enumerate(asked.values)
    ]


def selection_difference(context: Context, asked: Nothing) -> Sequence[Measured]:
    rows = evaluation(context).require("prediction", "group_sex").to_pylist()
    by: dict[str, list[float]] = {}
    for row in rows:
        by.setdefault(row["group_sex"], []).append(row["prediction"])
    rates = [sum(values) / len(values) for values in by.values()]
    return [Measured("selection_difference", max(rates) - min(rates), n=len(rows))]


def raising(context: Context, asked: Nothing) -> Sequence[Measured]:
    raise KeyError("Anna Example")


def silent(context: Context, asked: Nothing) -> Sequence[Measured]:
    return []


def not_a_number(context: Context, asked: Nothing) -> Sequence[Measured]:
    return [Measured("not_a_number", float("nan"))]


def _metric(name, measure, parameters=Nothing, *, bound=Bound.AT_MOST, area=Area.FAIRNESS, needs=True):
    return Metric(name, name, area, bound, parameters, measure, ("AI Act 10(2)(f)",), "", needs)


METRICS = (
    _metric("given_value", given_value, Given, needs=False),
    _metric("given_share", given_value, Given, bound=Bound.BETWEEN),
    _metric("selection_difference", selection_difference),
    _metric("raising", raising, area=Area.GDPR),
    _metric("silent", silent),
    _metric("not_a_number", not_a_number, bound=Bound.AT_LEAST),
)
