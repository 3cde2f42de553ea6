"""Fairness on what a version answered in production: requests by attribution, labels as they arrive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from ml_registry_pipelines.compliance.evaluation_rows import Columns, EvaluationProblem
from ml_registry_pipelines.compliance.evaluations import Evaluations, evaluation
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.metrics import Context
from ml_registry_pipelines.compliance.production import check_production
from ml_registry_pipelines.compliance.results import Subject
from ml_registry_pipelines.compliance.served_rows import Served
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from tests.made_events import event, land
from tests.telemetry.attributed import ACTOR, World, at

COLUMNS = Columns(label="came", prediction="says", score="p", groups={"sex": "sex"}, positive=("1",))
UNTIL = at(0, day=30)
WINDOW = (UNTIL - timedelta(days=28), UNTIL)
SUITE = """
suite: live
description: Error rates in production.
expectations:
  - metric: false_positive_rate_difference
    name: errors
    severity: critical
    article: AI Act 15(1)
    at_most: 0.2
    parameters: {groups: [sex], reference: max-min, min_group_n: 10, min_positives: 1, min_negatives: 10,
                 max_missing: 0.1, confidence: 0.95, correction: holm}
"""
_tenants = itertools.count(1)
_keys = itertools.count(1)


class Live(World):
    """Version 1 of `risk` behind one endpoint and version 2 behind another, in a tenant of its own."""

    def __init__(self, lake: Lake, log: Log) -> None:
        super().__init__(lake, log, tenant=f"t{next(_tenants)}")
        self.versions("risk")
        for number in (1, 2):
            self.deploy(f"api-{number}", f"risk@v{number}", at(0), endpoint=f"e{number}")
            self.rule(f"api-{number}", endpoint=f"e{number}")

    def declare(self, columns: Columns = COLUMNS, **served: Any) -> None:
        desk = Evaluations(self.log, actor=ACTOR, tenant=self.tenant)
        desk.declare_evaluation("risk@v1", columns, suites=["live"], served=Served(**served))

    def answer(
        self, name: str, ts: datetime, tags: Mapping[str, object] | None = None, **given: Any
    ) -> dict[str, Any]:
        told = {"says": 1, "p": 0.9, "sex": "f"} if tags is None else tags
        made = {"event_id": name, "tenant": self.tenant, "endpoint": "e1", "tags": json.dumps(told), **given}
        return event(ts, **made)

    def label(self, ts: datetime, value: float, **given: Any) -> dict[str, Any]:
        return {
            "tenant": self.tenant, "day": ts.date(), "metric": "came", "value": value, "observed_at": ts,
            "row_key": next(_keys), "batch": 1, "recorded_at": ts, "source": "landing", "file": "f", "line": 1,
        } | given  # fmt: skip

    def learn(self, *labels: dict[str, Any]) -> None:
        table = pa.Table.from_pylist(list(labels), schema=TABLES["outcomes"].schema)
        self.lake.append_next("outcomes", table, source=f"test-{next(_keys)}")

    def read(self, window: tuple[datetime, datetime] = WINDOW) -> Any:
        version = self.registry.get_version("risk@v1")
        subject = Subject(
            self.tenant, version.model_id, version.id, version.reference, version.content_digest
        )
        return evaluation(Context(self.lake, self.log, self.tenant, UNTIL, subject, production=window))

    def labels(self, window: tuple[datetime, datetime] = WINDOW) -> list[float | None]:
        found: list[float | None] = self.read(window).rows["label"].to_pylist()
        return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, Log]]:
    root = tmp_path_factory.mktemp("lake")
    (root / "suites").mkdir()
    (root / "suites/live.yaml").write_text(SUITE)
    with Lake(str(root)) as lake, Log(lake) as log:
        yield lake, log


@pytest.fixture
def live(opened: tuple[Lake, Log]) -> Live:
    return Live(*opened)


def test_a_request_counts_once_for_the_version_that_answered_it(live: Live) -> None:
    live.declare(label_metric="came")
    day = at(9, day=10)
    land(
        live.lake,
        [
            live.answer("a", day, {"says": 1, "p": 0.8, "sex": "f"}),
            live.answer("of-v2", day, endpoint="e2"),
            live.answer("of-nobody", day, endpoint="e3"),
            live.answer("failed", day, status="error_billed"),
            live.answer("again", day, {"says": 0, "p": 0.1, "sex": "m"}, status="success", attempt=1),
            live.answer("again", day + timedelta(hours=1), {"says": 1, "p": 0.7, "sex": "m"}, attempt=2),
            live.answer("span", day, span_kind="aggregate"),
            live.answer("before", WINDOW[0] - timedelta(microseconds=1)),
            live.answer("first", WINDOW[0], {"says": 0, "p": 0.2, "sex": None}),
            live.answer("after", WINDOW[1]),
        ],
    )
    found = live.read()
    assert found.origin == "production"
    assert found.rows.to_pydict() == {
        "label": [None, None, None],
        "prediction": [0, 1, 1],
        "score": [0.2, 0.8, 0.7],
        "group_sex": [None, "f", "m"],
    }
    assert set(found.table_versions) == {"inference_events", "outcomes", "attribution_rules"}
    assert (found.facts["predictions"], found.facts["labelled"]) == (3, 0)


def test_labels_find_their_request_and_the_newest_counts(live: Live) -> None:
    live.declare(label_metric="came")
    day = at(9, day=10)
    later = day + timedelta(days=3)
    names = [
        "by-id",
        "corrected",
        "early",
        "late",
        "none",
        "of-trace",
        "of-two",
        "other-metric",
        "two-systems",
    ]
    land(
        live.lake,
        [
            *(live.answer(name, day) for name in names),
            live.answer("in-trace", day, trace_id="t1"),
            live.answer("z1-in-shared", day, trace_id="t2"),
            live.answer("z2-in-shared", day, trace_id="t2", endpoint="e2"),
            live.answer("two-systems", day, source_system="other", endpoint="e2"),
        ],
    )
    live.learn(
        live.label(later, 1, event_id="by-id", source_system="native"),
        live.label(later, 1, event_id="corrected"),
        live.label(later + timedelta(days=1), 0, event_id="corrected"),
        live.label(day - timedelta(hours=1), 1, event_id="early"),
        live.label(UNTIL, 1, event_id="late"),
        live.label(later, 1, event_id="other-metric", metric="clicked"),
        live.label(later, 1, event_id="two-systems"),
        live.label(later, 0, trace_id="t1"),
        live.label(later, 1, trace_id="t2"),
        live.label(later, 1, event_id="nobody"),
        {**live.label(later, 1, event_id="none"), "tenant": "stranger"},
    )
    wanted = {"by-id": 1.0, "corrected": 0.0, "in-trace": 0.0}
    asked = sorted([*names, "in-trace", "z1-in-shared"])
    assert live.labels() == [wanted.get(name) for name in asked]
    live.learn(live.label(later, 1, event_id="two-systems", source_system="native"))
    assert live.labels()[asked.index("two-systems")] == 1.0


def test_predictions_wait_for_their_labels(live: Live) -> None:
    live.declare(label_metric="came", label_days=20)
    old, young = at(9, day=5), at(9, day=25)
    land(live.lake, [live.answer("old", old), live.answer("young", young)])
    live.learn(live.label(at(9, day=24), 1, event_id="old"), live.label(at(9, day=26), 1, event_id="young"))
    assert live.labels() == [1.0]
    assert live.labels((WINDOW[0] + timedelta(days=20), UNTIL + timedelta(days=20))) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("tags", "value", "said"),
    [
        ({"says": 1, "p": "high", "sex": "f"}, 1, "tag 'p' of some requests holds no number"),
        ({"says": 1, "sex": "f"}, 1, "no request of this window has a tag 'p'"),
        ({"says": [1], "p": 1, "sex": "f"}, 1, "holds a list or an object"),
        ({"says": 1, "p": 1, "sex": "f"}, 2, "neither 1 .the positive class. nor 0"),
        ({"says": "yes", "p": 1, "sex": "f"}, 1, "is one of the positive class"),
        ({"says": 1, "p": 1, "sex": "anna@example.org"}, 1, "point at persons"),
    ],
)
def test_tags_and_labels_that_are_not_what_was_declared_could_not_run(
    live: Live, tags: Mapping[str, object], value: float, said: str
) -> None:
    live.declare(label_metric="came")
    land(live.lake, [live.answer("a", at(9, day=10), tags)])
    live.learn(live.label(at(9, day=11), value, event_id="a"))
    with pytest.raises(EvaluationProblem, match=said) as problem:
        live.read()
    assert "anna@example.org" not in str(problem.value)


def test_a_window_of_one_class_is_no_misspelt_class(live: Live) -> None:
    live.declare(label_metric="came")
    land(live.lake, [live.answer("a", at(9, day=10), {"says": "0", "p": 0, "sex": "f"})])
    live.learn(live.label(at(9, day=11), 0, event_id="a"))
    assert live.read().rows.to_pydict()["prediction"] == [0.0]
    assert live.labels() == [0.0]


def test_silence_and_traffic_that_no_rule_covers_could_not_run(live: Live, opened: tuple[Lake, Log]) -> None:
    live.declare(label_metric="came")
    with pytest.raises(EvaluationProblem, match="was answered by it"):
        live.read()
    bare = World(*opened, tenant=f"t{next(_tenants)}")
    bare.versions("risk")
    desk = Evaluations(bare.log, actor=ACTOR, tenant=bare.tenant)
    desk.declare_evaluation("risk@v1", COLUMNS, suites=["live"], served=Served("came"))
    with pytest.raises(EvaluationProblem, match="no attribution rule"):
        Live.read(bare)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "served", "said"),
    [
        ({"label": None}, {"label_metric": "came"}, "declares none; name its column"),
        ({}, {"label_metric": " "}, "no name of a metric"),
        ({}, {"label_metric": "came", "label_days": -1}, "within 0 to"),
        ({}, {"label_days": 3}, "need the metric"),
        ({"subject": "person"}, {"label_metric": "came"}, "leave the column of the subject out"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    live: Live, columns: dict[str, Any], served: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        live.declare(Columns(**{**vars(COLUMNS), **columns}), **served)


def test_rows_are_recorded_or_read_from_requests_and_never_both(live: Live) -> None:
    live.declare(label_metric="came")
    desk = Evaluations(live.log, actor=ACTOR, tenant=live.tenant)
    with pytest.raises(InvalidInput, match="the requests that it answers"):
        desk.record_evaluation("risk@v1", pa.table({"came": [1]}), origin="production")


def test_the_daily_check_measures_what_came_true_and_says_what_it_read(live: Live) -> None:
    live.declare(label_metric="came", label_days=2)
    live.registry.set_stage("risk@v1", "staging")
    day = at(9, day=10)
    rows = [(f"{sex}{n}", sex, int(n < share)) for sex, share in (("f", 2), ("m", 30)) for n in range(40)]
    land(
        live.lake, [live.answer(name, day, {"says": says, "p": 0.5, "sex": sex}) for name, sex, says in rows]
    )
    # One of forty labels is missing, which the suite allows for.
    live.learn(
        *(
            live.label(day + timedelta(days=1), float(name[1:] == "0"), event_id=name)
            for name, _, _ in rows
            if name != "f39"
        )
    )
    made = [
        each for each in check_production(live.log, ACTOR, until=UNTIL) if each.declared.tenant == live.tenant
    ]
    (result,) = made[0].evidence.results
    assert (result.suite, result.verdict.value) == ("live@production", "fail")
    assert {g.name: g.n for g in result.groups} == {"sex=f": 39, "sex=m": 40}
    assert [g.value for g in result.groups] == [pytest.approx(1 / 38), pytest.approx(29 / 39)]
    assert dict(result.detail["read"].items())["labelled"] == 79  # type: ignore[attr-defined]
    assert result.table_versions["outcomes"] > 0
    again = ComplianceManager(live.log, actor=ACTOR, tenant=live.tenant).get_checks("risk@v1")
    list(check_production(live.log, ACTOR, until=UNTIL))
    assert len(ComplianceManager(live.log, actor=ACTOR, tenant=live.tenant).get_checks("risk@v1")) == len(
        again
    )
