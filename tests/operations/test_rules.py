"""Rules over a lake of one day, every figure worked out by hand."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.costs.budget_forecasts import PeriodForecast
from ml_registry_pipelines.costs.budget_spend import BudgetStatus, Burn
from ml_registry_pipelines.costs.budgets import Budget, Budgets, NewBudget
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.periods import PeriodKind, period_at
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.operations import QUERY_TIMINGS
from ml_registry_pipelines.lake.tables.telemetry import INGESTED_FILES
from ml_registry_pipelines.operations.alert_rules import (
    AlertRules,
    BudgetRule,
    RulesError,
    StorageRule,
    read_rules,
    shown_rules,
)
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity
from ml_registry_pipelines.operations.budget_alerts import budget_alerts
from ml_registry_pipelines.operations.evaluating import RULES, Evaluated, Rule, evaluate_rules
from ml_registry_pipelines.operations.platform_alerts import storage_alerts
from ml_registry_pipelines.operations.traffic_alerts import ONE_SIDED_95, mann_whitney
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.tenants import Tenants
from ml_registry_pipelines.telemetry.intervals import share_interval
from ml_registry_pipelines.telemetry.performance import MetricPoint, PerformanceTracker
from tests.costs.test_budgets import PRICES, call
from tests.costs.test_ledger_and_rollups import put_prices
from tests.examples import examples
from tests.made_events import event, land

stats: Any = importlib.import_module("scipy.stats")  # which has no types
NOW = datetime(2026, 10, 20, 12, 30, tzinfo=UTC)
ACTOR = Actor("p1")


def requests(count: int, at: datetime, **more: object) -> list[dict[str, object]]:
    given = {"provider": "acme", "model": "m", "in_uncached": 1, "out_text": None, "recorded_at": at, **more}
    return [event(at + timedelta(seconds=n), **given) for n in range(count)]


def points(model: str, metric: str, recent: list[float], earlier: list[float]) -> list[MetricPoint]:
    moments = [(NOW - timedelta(hours=1 + n), v) for n, v in enumerate(recent)]
    moments += [(NOW - timedelta(days=8, hours=n), v) for n, v in enumerate(earlier)]
    return [MetricPoint(model, metric, value, "acme", at) for at, value in moments]


def fill(lake: Lake) -> None:
    hour = NOW.replace(minute=0)
    put_prices(lake, PRICES)
    land(
        lake,
        [
            *requests(80, hour, latency_ms=1_000.0),
            *requests(20, hour, status="error_billed", latency_ms=None),
            *requests(120, hour, model="slow", latency_ms=40_000.0),
            # Too few to say anything, although all of them fail.
            *requests(99, hour, model="few", status="error_unbilled", latency_ms=None),
            # Of a tenant that has gone silent.
            *(r for day in range(13, 19) for r in requests(1, NOW.replace(day=day, hour=3), tenant="gone")),
        ],
    )
    land(
        lake,
        requests(
            3, datetime(2026, 10, 2, 9, tzinfo=UTC), recorded_at=NOW - timedelta(hours=2), source="slow"
        ),
    )
    file = {
        "source": "slow", "path": "a", "part": 0, "first_line": 1, "last_line": 1, "complete": True, "size": 1,
        "modified_at": NOW, "batch": 2, "rows_in": 3, "taken": 3, "duplicates": 0, "quarantined": 0, "ignored": 0,
        "recorded_at": NOW - timedelta(hours=2),
    }  # fmt: skip
    first = {**file, "path": "0", "batch": 1, "recorded_at": NOW - timedelta(days=30)}
    files = pa.Table.from_pylist([first, file], schema=INGESTED_FILES.schema)
    lake.append_next("ingested_files", files, source="test")
    catch_up_costs(lake)
    roll_up_costs(lake)
    PerformanceTracker(lake).record_metrics(
        [
            *points("m", "quality_score", [0.6, 0.62] * 20, [0.8, 0.82] * 20),
            *points("m", "accuracy", [0.9] * 40, [0.8] * 40),
            *points("m", "loss", [9.0] * 40, [1.0] * 40),
            *points("young", "quality", [0.1] * 29, [0.9] * 40),
            *points("wild", "quality", [float("nan")] * 40, [0.9] * 40),
        ]
    )
    timings = [
        {
            "name": name,
            "recorded_at": NOW - timedelta(minutes=n),
            "ms": ms,
            "rows": 1,
            "bytes": 1,
            "process": "cli",
        }
        for name, ms in (("quick", 20.0), ("long", 6_000.0), ("cost_rollup_rows", 60_000.0))
        for n in range(5)
    ]
    rows = pa.Table.from_pylist(timings, schema=QUERY_TIMINGS.schema)
    lake.append_next("query_timings", rows, source="test")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("rules") / "home"
    with Lake(str(home)) as lake:
        fill(lake)
    return home


@pytest.fixture
def lake(filled: Path, tmp_path: Path) -> Iterator[Lake]:
    shutil.copytree(filled, tmp_path / "home")
    with Lake(str(tmp_path / "home")) as lake:
        yield lake


def evaluate(lake: Lake, *, now: datetime = NOW, **more: Any) -> Evaluated:
    with Log(lake) as log:
        return evaluate_rules(lake, log, now=lambda: now, **more)


def standing(lake: Lake) -> dict[str, tuple[str, str]]:
    return {o.key: (o.severity.value, o.title) for o in Alerts(lake).standing() if o.kind != "storage"}


def test_every_rule_finds_what_is_wrong_and_nothing_else(lake):
    assert evaluate(lake).failed == {}
    assert standing(lake) == {
        # 20 of 100; the lower bound by hand: (0.2 + 0.01353 - 0.0671) / 1.02706 = 0.143.
        "error_rate/acme/acme/m": ("warning", "20.0% of requests of tenant acme to acme/m fail"),
        # 40 s, within the 1 % of a sketch.
        "slow_requests/acme/acme/slow": (
            "warning",
            "Requests of tenant acme to acme/slow are slow: p95 39.7 s",
        ),
        "quality_drift/acme/m/quality_score": ("error", "quality_score of m is lower than before"),
        "late_data/acme/slow": ("warning", "3 requests of tenant acme came more than 48 hours late"),
        "silent_tenant/gone": ("warning", "No request of tenant gone for more than 24 hours"),
        "slow_queries/long": ("warning", "The platform's query long is slow: p95 6.0 s"),
    }
    assert not evaluate(lake).settled
    # Two days on, nothing of it is in any window; what drifted is still in its.
    later = evaluate(lake, now=NOW + timedelta(days=2))
    assert set(later.settled.resolved) == {
        "error_rate/acme/acme/m",
        "slow_requests/acme/acme/slow",
        "late_data/acme/slow",
        "slow_queries/long",
    }


def test_a_lake_without_anything_is_not_wrong(tmp_path):
    with Lake(str(tmp_path / "new")) as lake:
        done = evaluate_rules(lake, None)
        assert done.failed == {}
        assert standing(lake) == {}


def test_a_rule_that_fails_is_an_alert_and_the_others_go_on(lake):
    def breaks(_: object) -> list[Alert]:
        raise ZeroDivisionError("no month has no days")

    evaluate(lake)
    before = standing(lake)
    broken = tuple(Rule(r.name, r.kinds, breaks) if r.name == "error_rate" else r for r in RULES)
    done = evaluate(lake, now=NOW + timedelta(days=2), rules=broken)
    assert done.failed == {"error_rate": "ZeroDivisionError: no month has no days"}
    after = standing(lake)
    assert after["error_rate/acme/acme/m"] == before["error_rate/acme/acme/m"]
    assert after["rule_failed/error_rate"][0] == "error"
    assert "slow_queries/long" not in after
    evaluate(lake, now=NOW + timedelta(days=2))
    assert "rule_failed/error_rate" not in standing(lake)


def test_a_damaged_table_fails_the_rules_that_read_it_and_no_other(lake):
    for file in Path(lake.root, "tables", "query_timings").glob("*.parquet"):
        file.write_bytes(b"no parquet at all")
    done = evaluate(lake)
    assert set(done.failed) == {"slow_queries"}
    assert "error_rate/acme/acme/m" in standing(lake)


def test_a_file_of_rules_that_cannot_be_used_leaves_the_defaults_and_says_so(lake):
    file = Path(lake.root, "alert-rules.yaml")
    file.write_text("error_rate: {rate: 2}")
    assert "rate: Input should be less than or equal to 1, not 2" in evaluate(lake).failed["alert-rules.yaml"]
    assert standing(lake)["rule_failed/alert-rules.yaml"] == ("error", "alert-rules.yaml cannot be used")
    assert "error_rate/acme/acme/m" in standing(lake)
    file.write_text(
        "error_rate: {enabled: false}\nslow_requests: {models: {slow: 50000}}\nquality_drift: {enabled: no}"
    )
    evaluate(lake)
    assert set(standing(lake)) == {"late_data/acme/slow", "silent_tenant/gone", "slow_queries/long"}


def test_what_a_source_held_when_it_was_first_taken_is_not_late(lake):
    lake.erase("ingested_files", "path = '0'")
    evaluate(lake)
    assert "late_data/acme/slow" not in standing(lake)


def test_two_looks_at_once_open_each_alert_once(lake):
    from concurrent.futures import ThreadPoolExecutor

    others = [Lake(lake.root) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda own: evaluate_rules(own, None, now=lambda: NOW), others))
    for own in others:
        own.close()
    with lake.read("alerts") as reading:
        rows = reading.query("test", "SELECT alert_key, count(*) AS n FROM alerts GROUP BY 1").to_pylist()
    assert rows
    assert {row["n"] for row in rows} == {1}


# -- budgets ---------------------------------------------------------------------------------------


def test_a_budget_alerts_per_period_escalates_and_ends_with_its_month(tmp_path):
    with Lake(str(tmp_path / "home")) as lake, Log(lake) as log:
        put_prices(lake, PRICES)
        desk = Budgets(log, actor=ACTOR, tenant="acme")
        Tenants(log, actor=ACTOR, tenant="acme").set_time_zone("Europe/Berlin")
        desk.set(NewBudget("all", 100, "USD"))
        Budgets(log, actor=ACTOR, tenant="none").set(NewBudget("nothing", 0, "USD"))

        def spend(*calls: dict[str, object]) -> None:
            land(lake, calls)
            catch_up_costs(lake)
            roll_up_costs(lake)

        def look(now: datetime) -> dict[str, tuple[str, str]]:
            assert evaluate_rules(lake, log, now=lambda: now).failed == {}
            return {key: found for key, found in standing(lake).items() if key.startswith("budget_spent/")}

        spend(call("2026-09-30T22:30", 70), call("2026-10-05T10:00", 15))
        october = datetime(2026, 10, 10, tzinfo=UTC)
        assert look(october) == {
            "budget_spent/acme/all/2026-10": (
                "warning",
                "Budget all of tenant acme: 85.0 % is spent in 2026-10",
            )
        }
        spend(call("2026-10-06T10:00", 15))
        assert look(october)["budget_spent/acme/all/2026-10"][0] == "error"
        # In Berlin, November begins at 23:00 UTC.
        assert look(datetime(2026, 10, 31, 22, 59, tzinfo=UTC))
        november = datetime(2026, 10, 31, 23, 1, tzinfo=UTC)
        assert "budget_spent/acme/all/2026-10" not in look(november)
        spend(call("2026-11-01T00:10", 1, tenant="none"))
        found = look(datetime(2026, 11, 1, 1, tzinfo=UTC))
        assert found["budget_spent/none/nothing/2026-11"] == (
            "error",
            "Budget nothing of tenant none is zero, and 1.00 USD is spent",
        )


def status(**given: Any) -> BudgetStatus:
    zone = ZoneInfo("UTC")
    budget = Budget("acme", "id", "all", Decimal(1000), "USD", PeriodKind.MONTH, {})
    terms: dict[str, Any] = {"spent": Decimal(100), "billable": 100, "priced": 100, **given}
    burns = {1: 0, 6: 0, 72: 0, **terms.pop("rates", {})}
    made = tuple(
        Burn(h, NOW - timedelta(hours=h), NOW, Decimal(1), Decimal(str(rate))) for h, rate in burns.items()
    )
    return BudgetStatus(budget, period_at(PeriodKind.MONTH, NOW, zone), NOW, burns=made, **terms)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"spent": Decimal("799.99")}, {}),
        ({"spent": Decimal(800)}, {"budget_spent": "warning"}),
        ({"spent": Decimal(1000)}, {"budget_spent": "error"}),
        ({"rates": {6: 6, 1: 6}}, {"budget_burn": "error"}),
        ({"rates": {6: 6, 1: 5.9}}, {}),
        ({"rates": {72: 2, 6: 2}}, {"budget_burn": "warning"}),
        ({"rates": {72: 2, 6: 1.9}}, {}),
        (
            {"forecast": PeriodForecast(Decimal(1001), Decimal(900), Decimal(1100), 28)},
            {"budget_forecast": "warning"},
        ),
        (
            {"forecast": PeriodForecast(Decimal(1100), Decimal(1001), Decimal(1200), 28)},
            {"budget_forecast": "error"},
        ),
        ({"forecast": PeriodForecast(Decimal(1000), Decimal(900), Decimal(1100), 28)}, {}),
        ({"priced": 94}, {"budget_coverage": "warning"}),
        ({"priced": 95}, {}),
        ({"unconverted": {"EUR": Decimal(3)}}, {"budget_coverage": "warning"}),
        ({"pending_days": 2}, {"budget_coverage": "warning"}),
    ],
)
def test_what_a_budget_says_at_its_limits(given, expected):
    found = list(budget_alerts([status(**given)], BudgetRule()))
    assert {alert.kind: alert.severity.value for alert in found} == expected


def test_a_budget_names_its_zone_its_coverage_and_what_cannot_be_converted():
    (alert,) = budget_alerts(
        [status(unconverted={"EUR": Decimal("3.50")}, sequence=7, costs_version=3)], BudgetRule()
    )
    assert alert.message == (
        "3.50 EUR beside it cannot be converted to USD: no rate is known. `mlreg budgets show` says more; add prices "
        "or rates. 100.00 USD of 1,000.00 USD since 2026-10-01 00:00 (UTC) for everything, 100.0 % of requests "
        "priced; from batch 7, version 3 of model_costs."
    )


# -- space and statistics --------------------------------------------------------------------------


def test_storage_near_its_limit_is_a_warning_and_beyond_it_an_error(lake):
    def found(**given: Any) -> list[tuple[str, Severity]]:
        rule = StorageRule(**{"free_bytes": 0, "free_share": 1e-9, **given})
        return [(alert.about, alert.severity) for alert in storage_alerts(lake, rule)]

    held = sum(table.bytes for table in lake.status())
    assert found() == []
    assert found(most_bytes=held * 2) == []
    assert found(most_bytes=int(held * 1.2)) == [("tables", Severity.WARNING)]
    assert found(most_bytes=held) == [("tables", Severity.ERROR)]
    assert found(free_share=1) == [("disk", Severity.WARNING)]
    assert found(free_bytes=10**18) == [("disk", Severity.ERROR)]


@settings(deadline=None, max_examples=examples(100))
@given(
    recent=st.lists(st.integers(0, 6), min_size=8, max_size=40),
    earlier=st.lists(st.integers(0, 6), min_size=8, max_size=40),
)
def test_the_test_of_drift_is_that_of_scipy(recent, earlier):
    values = sorted(recent + earlier)
    rank = {v: values.index(v) + (values.count(v) + 1) / 2 for v in set(values)}
    ties = sum(values.count(v) ** 3 - values.count(v) for v in set(values))
    given = {"recent_points": len(recent), "earlier_points": len(earlier), "ties": ties}
    higher, p = mann_whitney({**given, "recent_ranks": sum(rank[v] for v in recent)})
    if len(set(values)) == 1:
        assert (higher, p) == (0.5, 1.0)
        return
    expected = stats.mannwhitneyu(recent, earlier, method="asymptotic")
    assert higher == pytest.approx(expected.statistic / (len(recent) * len(earlier)))
    assert p == pytest.approx(min(1.0, expected.pvalue), rel=1e-6)


def test_the_lower_bound_of_a_share_is_wilsons():
    for hits, lower in ((20, 0.14256), (0, 0), (100, 0.97366)):
        share = share_interval(hits, 100, ONE_SIDED_95)
        assert share is not None
        assert share.lower == pytest.approx(lower, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "has to be a mapping of rules; the rules are budgets, error_rate"),
        ("errors: {}", "errors: there is no such setting; there are budgets, error_rate"),
        (
            "error_rate: {rates: 1}",
            "error_rate.rates: there is no such setting; there are enabled, cooldown_minutes",
        ),
        ("error_rate: {rate: much}", "error_rate.rate: Input should be a valid number.*, not 'much'"),
        ("budgets: {shares: [-1]}", "budgets.shares.0: Input should be greater than 0, not -1"),
        ("slow_queries: {hours: 0}", "slow_queries.hours: Input should be greater than 0"),
        ("storage: {most_bytes: 1, most_bytes: 2}", "stands twice"),
    ],
)
def test_a_file_of_rules_is_refused_in_one_sentence_with_its_place(text, said):
    with pytest.raises(RulesError, match=f"alert-rules.yaml.*{said}"):
        read_rules(text, file="alert-rules.yaml")


def test_every_setting_is_shown_with_its_value_and_meaning():
    shown = shown_rules(read_rules("error_rate: {rate: 0.02}", file="f"))
    assert ("error_rate", "rate", "0.02", False) in [row[:4] for row in shown]
    assert ("budgets", "shares", "0.8, 1", True) in [row[:4] for row in shown]
    assert all(meaning for *_, meaning in shown)
    assert {rule.name for rule in RULES} == set(AlertRules.model_fields)
