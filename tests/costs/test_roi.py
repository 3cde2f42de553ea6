"""What models returned: a hand-worked answer with its interval, refusals, and what is kept of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.costs.value_models import Declared, ValueModel
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.performance import MetricPoint, PerformanceTracker
from tests.costs.made_costs import at, call, put_prices, take

DAY = date(2026, 9, 1)
NEXT = DAY + timedelta(days=1)
END = DAY + timedelta(days=2)
MODEL = ValueModel(
    "support",
    "USD",
    Decimal("0.50"),
    success="resolved",
    judge="judge-1",
    counterfactual_per_request=Decimal("0.40"),
    platform_per_month=Decimal(30),
    judge_per_label=Decimal("0.02"),
    where={"model": "penny"},
)


def declared(model: ValueModel = MODEL) -> Declared:
    return Declared(model.checked(), "f" * 32, "acme", 7, "tester")


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VibeCodingIntegration]:
    """Of `penny`, a cent per token: 200 answers at 10 tokens and 200 at 20 in four hours, 60 USD; ten cache
    hits; ten billed errors of 10 tokens, 1 USD. 100 answers are judged, 80 of them resolved.
    """
    events = []
    for number in range(400):
        ts = at(DAY if number % 2 else NEXT, 9 + number % 4 // 2, number // 60 % 60, number % 60)
        events.append(
            call(
                ts, model="penny", event_id=f"a{number}", in_uncached=10 + number % 2 * 10, application="chat"
            )
        )
    for _ in range(10):
        events.append(call(at(DAY, 9), model="penny", status="cache_hit", application="chat"))
        events.append(call(at(DAY, 9), model="penny", status="error_billed", application="chat"))
    events.append(call(at(DAY, 9), model="euro", application="euro"))
    events += [call(at(DAY, n), model="unknown", application="unknown") for n in (9, 10)]
    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        put_prices(lake)
        take(lake, events)
        PerformanceTracker(lake).record_metrics(
            MetricPoint(
                "penny", "resolved", number < 80, "acme", at(DAY, 12), judge="judge-1", request_id=f"a{number}",
                judge_cost=Decimal("0.01") if number < 50 else None,
                judge_currency="USD" if number < 50 else None,
            )
            for number in range(100)
        )  # fmt: skip
        yield VibeCodingIntegration(lake)


def test_an_answer_is_what_can_be_worked_out_by_hand(costs: VibeCodingIntegration) -> None:
    found = costs.get_roi(declared(), DAY, END)
    assert (found.status, found.reason) == ("stated", None)
    # 400 answers of the model and 10 of the gateway's cache; 80 of 100 labels are True.
    assert (found.answers, found.labels, found.successes) == (410, 100, Decimal(328))
    assert found.value == Decimal(164)
    assert (found.model_cost, found.unpriced_cost) == (Decimal(61), Decimal(0))
    # 50 labels at a cent, 50 at the two cents that the value model states; 2 of 30 days of 30 USD.
    assert (found.judge_cost, found.platform_cost) == (Decimal("1.5"), Decimal(2))
    assert found.net_value is not None
    assert found.net_value.estimate == Decimal(164) - Decimal("64.5")
    assert found.counterfactual_cost == Decimal(164)
    assert found.saving is not None
    assert found.saving.estimate == Decimal("99.5")
    assert found.returns is not None
    assert found.returns.estimate == pytest.approx(99.5 / 64.5)
    assert found.label_coverage == pytest.approx(100 / 410)


def test_its_interval_is_that_of_the_stated_method(costs: VibeCodingIntegration) -> None:
    found = costs.get_roi(declared(), DAY, END, store=False)
    assert found.net_value is not None
    # Wilson, 80 of 100: 0.7111 to 0.8666 (as tables have it), times 0.5 x 410.
    low, high = (0.71115 - 0.8) * 205, (0.86664 - 0.8) * 205
    # Cost by hour and its answers: the 9 o'clock of DAY has the hits and the errors.
    hours = [(20.0 + 1.0, 110.0), (20.0, 100.0), (10.0, 100.0), (10.0, 100.0)]
    ratio = 61 / 410
    half = 1.959964 * math.sqrt(4 / 3 * sum((c - ratio * a) ** 2 for c, a in hours))
    assert float(found.net_value.lower) == pytest.approx(99.5 - math.hypot(low, half), rel=1e-3)
    assert float(found.net_value.upper) == pytest.approx(99.5 + math.hypot(high, half), rel=1e-3)
    assert found.returns is not None
    assert found.returns.lower < found.returns.estimate < found.returns.upper
    assert any("24.4% of the answers are judged" in remark for remark in found.remarks)
    assert any("4 hours alone" in remark for remark in found.remarks)


def test_a_scope_beside_the_model_finds_its_labels_by_their_requests(costs: VibeCodingIntegration) -> None:
    PerformanceTracker(costs.lake).record_metric(
        "penny", "resolved", True, tenant="acme", event_ts=at(DAY), judge="judge-1", request_id="elsewhere"
    )
    chat = replace(MODEL, where={"application": "chat"})
    found = costs.get_roi(declared(chat), DAY, END, store=False)
    assert (found.labels, found.unplaced_labels, found.successes) == (100, 1, Decimal(328))
    assert any("1 labels name no request of the scope" in remark for remark in found.remarks)


def test_an_answer_is_kept_with_all_that_it_was_computed_with(costs: VibeCodingIntegration) -> None:
    answer = costs.get_roi(declared(replace(MODEL, note="as agreed")), DAY, END)
    assert answer.net_value is not None
    with costs.lake.read("roi_results") as reading:
        (row,) = reading.query(
            "kept", "SELECT * FROM roi_results WHERE result_id = $id", {"id": answer.result_id}
        ).to_pylist()
    assert (row["status"], row["net_value"], row["value_model_sequence"]) == (
        "stated",
        answer.net_value.estimate,
        7,
    )
    assumptions, provenance = json.loads(row["assumptions"]), json.loads(row["provenance"])
    assert assumptions["value_model"]["value_per_success"] == "0.50"
    assert assumptions["note"] == "as agreed"
    assert "Wilson" in assumptions["method"]
    assert provenance["versions"]["model_costs"] == answer.provenance.versions["model_costs"]
    assert provenance["sequence"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"where": {"application": "unknown"}, "success": None, "judge": None},
            "0.00% of 2 billable requests",
        ),
        ({"where": {"application": "euro"}, "success": None, "judge": None}, "costs are in EUR as well"),
        ({"success": "solved"}, "'solved' was not recorded of any answer"),
        ({"judge": "judge-2"}, "was not recorded of any answer"),
    ],
)
def test_what_cannot_be_stated_is_refused_and_kept_as_refused(
    costs: VibeCodingIntegration, change: dict[str, Any], reason: str
) -> None:
    found = costs.get_roi(declared(replace(MODEL, **change)), DAY, END)
    assert found.status == "refused"
    assert reason in (found.reason or "")
    assert found.net_value is None
    with costs.lake.read("roi_results") as reading:
        rows = reading.query(
            "kept", "SELECT * FROM roi_results WHERE result_id = $id", {"id": found.result_id}
        )
    assert rows["net_value"].to_pylist() == [None]


def test_two_judges_and_costs_of_two_currencies_are_not_mixed(lake: Lake) -> None:
    put_prices(lake)
    take(lake, [call(at(DAY, n), event_id=f"r{n}") for n in range(3)])
    tracker, costs = PerformanceTracker(lake), VibeCodingIntegration(lake)
    for judge in ("one", "two"):
        tracker.record_metric("m", "ok", True, tenant="acme", event_ts=at(DAY), judge=judge, request_id="r1")
    model = ValueModel("v", "USD", Decimal(20), success="ok", where={"model": "m"})
    assert "one, two; name one" in (costs.get_roi(declared(model), DAY, NEXT).reason or "")
    tracker.record_metric(
        "m", "ok", False, tenant="acme", event_ts=at(DAY), judge="one", request_id="r2",
        judge_cost=Decimal(1), judge_currency="EUR",
    )  # fmt: skip
    found = costs.get_roi(declared(replace(model, judge="one")), DAY, NEXT)
    assert "judging cost EUR as well" in (found.reason or "")


def test_without_a_metric_every_answer_is_a_success(costs: VibeCodingIntegration) -> None:
    plain = ValueModel("plain", "USD", Decimal("0.25"), where={"model": "penny"})
    found = costs.get_roi(declared(plain), DAY, END, store=False)
    assert (found.labels, found.successes, found.value) == (None, Decimal(410), Decimal("102.5"))
    assert found.net_value is not None
    assert found.net_value.estimate == Decimal("41.5")


def test_a_value_model_answers_only_for_days_on_which_it_holds(costs: VibeCodingIntegration) -> None:
    with pytest.raises(
        CostsError, match="holds from 2026-09-02 to further notice, not on all days from 2026-09-01"
    ):
        costs.get_roi(declared(replace(MODEL, valid_from=NEXT)), DAY, END)
    with pytest.raises(CostsError, match="swap them"):
        costs.get_roi(declared(), END, DAY)
    with pytest.raises(CostsError, match="the nearest: penny"):
        costs.get_roi(declared(replace(MODEL, where={"model": "peny"})), DAY, END)
