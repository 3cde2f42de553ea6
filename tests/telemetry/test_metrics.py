"""Recorded points: numbers, truths and categories, their judges, and what they come to."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.metrics import Kind, MetricPoint, PerformanceError
from ml_registry_pipelines.telemetry.performance import PerformanceTracker

START = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    def cost(amount, currency="USD"):
        return {"judge": "j1", "judge_cost": Decimal(amount), "judge_currency": currency}

    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        tracker = PerformanceTracker(lake)
        tracker.record_metrics(
            [
                *(MetricPoint("m", "score", v, event_ts=START, **cost("0.001")) for v in (1, 2, 3, 6)),
                MetricPoint("m", "score", 10.0, event_ts=START, judge="j2"),
                MetricPoint("m", "score", math.nan, event_ts=START, **cost("0.5", "EUR")),
                *(MetricPoint("m", "resolved", n < 8, event_ts=START, request_id=f"r{n}") for n in range(10)),
                *(MetricPoint("m", "tone", label=t, event_ts=START) for t in ("kind", "kind", "rude")),
                MetricPoint("m", "score", 100.0, event_ts=START + HOUR, **cost(1)),
                MetricPoint("n", "loss", 0.5, event_ts=START, tenant="globex", model_version=3),
            ]
        )
        yield tracker


def test_each_kind_and_judge_has_its_own_figures(tracker):
    found = {
        (one.metric, one.judge): one
        for one in tracker.get_metric_statistics("m", start=START, end=START + HOUR)
    }
    assert set(found) == {("score", "j1"), ("score", "j2"), ("resolved", None), ("tone", None)}
    score = found["score", "j1"]
    assert (score.n, score.not_finite, score.mean, score.minimum, score.maximum) == (4, 1, 3.0, 1.0, 6.0)
    # Variance (4 + 1 + 0 + 9) / 3; half 1.96 sqrt(14 / 3 / 4).
    assert score.average.upper == pytest.approx(3 + 1.959964 * math.sqrt(14 / 12))
    assert (score.p50, score.p99, score.too_few) == (2.0, 6.0, True)
    assert score.judge_costs == {"USD": Decimal("0.004"), "EUR": Decimal("0.5")}
    assert score.judged_at_cost == 5
    assert (found["score", "j2"].mean, found["score", "j2"].average) == (10.0, None)


def test_truths_have_a_share_and_categories_are_counted_and_never_averaged(tracker):
    found = {one.metric: one for one in tracker.get_metric_statistics("m", start=START, end=START + HOUR)}
    resolved = found["resolved"]
    assert (resolved.kind, resolved.n, resolved.mean, resolved.requests) == (Kind.BOOLEAN, 10, 0.8, 10)
    assert resolved.average.lower == pytest.approx(0.4902, abs=1e-4)
    assert resolved.average.upper == pytest.approx(0.9433, abs=1e-4)
    tone = found["tone"]
    assert (tone.kind, tone.labels) == (Kind.CATEGORY, {"kind": 2, "rude": 1})
    with pytest.raises(
        PerformanceError, match=r"'tone' of 'm' has categories .kind, rude., which have no mean"
    ):
        _ = tone.mean
    points = tracker.get_metrics("m", "tone").to_pylist()
    assert [(row["value"], row["label"]) for row in points] == [
        (None, "kind"),
        (None, "kind"),
        (None, "rude"),
    ]


def test_points_of_a_version_and_of_a_tenant_stand_alone(tracker):
    (one,) = tracker.get_metric_statistics("n", by_version=True)
    assert (one.model_version, one.mean) == (3, 0.5)
    assert tracker.get_metric_statistics("n", tenant="default") == []


def test_a_point_told_again_counts_once_with_what_was_told_last(lake):
    tracker = PerformanceTracker(lake)
    for value, ts in ((1.0, START), (2.0, START), (3.0, START + 2 * HOUR)):
        tracker.record_metric("m", "score", value, point_id="p", event_ts=ts)
    tracker.record_metric("m", "score", 7.0, event_ts=START)
    assert tracker.get_metrics("m")["value"].to_pylist() == [7.0, 3.0]
    assert tracker.get_metrics("m", end=START + HOUR)["value"].to_pylist() == [7.0]
    (one,) = tracker.get_metric_statistics("m")
    assert (one.n, one.mean) == (2, 5.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"value": 1.0, "label": "a"}, "has a value and a label"),
        ({"label": ""}, "has 1 to 200 characters"),
        ({}, "None, which is no number; a category goes into label"),
        ({"value": 1.0, "judge": "jane@example.org"}, "never an e-mail address"),
        ({"value": 1.0, "judge": "j", "judge_cost": 0.1, "judge_currency": "USD"}, "give a Decimal"),
        ({"value": 1.0, "judge": "j", "judge_cost": Decimal(1)}, "needs a currency"),
        ({"value": 1.0, "judge_cost": Decimal(1), "judge_currency": "USD"}, "needs the judge"),
    ],
)
def test_a_point_that_makes_no_sense_is_refused(tracker, given, message):
    with pytest.raises(PerformanceError, match=f"point 1 of 1: .*{message}"):
        tracker.record_metric("bad", "x", **given)
    assert tracker.get_metrics("bad").num_rows == 0


def test_a_window_that_ends_before_it_begins_is_refused(tracker):
    with pytest.raises(PerformanceError, match="is empty; its end has to be after its start"):
        tracker.get_metrics("m", start=START + HOUR, end=START)
