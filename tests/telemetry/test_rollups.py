import random
import threading
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake import slices
from ml_registry_pipelines.lake.lake import Lake, LostRace
from ml_registry_pipelines.telemetry.rollups import SKETCHED_FROM, refresh_performance
from tests.examples import examples
from tests.made_events import event, land

START = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = [date(2026, 10, 1), date(2026, 10, 2), date(2026, 10, 3)]


def many(count, *, day=0, seed=0, **given_fields):
    chance = random.Random(seed)
    return [
        event(
            START + timedelta(days=day, seconds=chance.randrange(86_400)),
            **{
                "tenant": chance.choice(["acme", "globex"]),
                "model": chance.choice(["gpt-4o", "claude"]),
                "status": chance.choice(["success"] * 6 + ["error_billed", "error_unbilled", "cache_hit"]),
                "latency_ms": chance.lognormvariate(6, 1),
                "ttft_ms": chance.choice([None, chance.lognormvariate(4, 1)]),
                **given_fields,
            },
        )
        for _ in range(count)
    ]


def rollup(lake, columns="* EXCLUDE (sequence)", where="true"):
    with lake.read("performance_rollup") as reading:
        return reading.query(
            "rollup",
            f"""
            SELECT {columns} FROM performance_rollup WHERE {where}
            ORDER BY grain, period_start, tenant, provider, model, status
            """,
        )


def totals(rows: pa.Table, *columns):
    return {name: sum(value or 0 for value in rows[name].to_pylist()) for name in columns}


def test_only_days_with_new_rows_are_computed_again(lake):
    for day in range(3):
        land(lake, many(50, day=day, seed=day))
    assert refresh_performance(lake).days == tuple(DAYS)
    assert refresh_performance(lake).days == ()
    before = {
        row["day"]: row for row in rollup(lake, "day, max(sequence) OVER (PARTITION BY day) AS s").to_pylist()
    }

    late = land(lake, many(5, day=1, seed=9))
    found = refresh_performance(lake)

    assert found.days == (DAYS[1],)
    assert found.sequence == late
    after = {
        row["day"]: row for row in rollup(lake, "day, max(sequence) OVER (PARTITION BY day) AS s").to_pylist()
    }
    assert after[DAYS[0]] == before[DAYS[0]]
    assert after[DAYS[2]] == before[DAYS[2]]
    assert after[DAYS[1]]["s"] == late


def test_both_grains_add_up_to_the_raw_rows(lake):
    events = many(400)
    land(lake, events)
    refresh_performance(lake)
    for grain in ("hour", "day"):
        rows = rollup(lake, where=f"grain = '{grain}'")
        found = totals(
            rows, "requests", "errors", "input_tokens", "output_tokens", "timed_requests", "latency_sum_ms"
        )
        answers = [e for e in events if e["status"] == "success"]
        assert found == {
            "requests": 400,
            "errors": sum(e["status"].startswith("error") for e in events),
            "input_tokens": 400 * 100,
            "output_tokens": 400 * 20,
            "timed_requests": len(answers),
            "latency_sum_ms": pytest.approx(sum(e["latency_ms"] for e in answers)),
        }


def test_hours_are_of_all_tenants_and_days_of_each(lake):
    land(lake, many(100))
    refresh_performance(lake)
    assert set(rollup(lake, where="grain = 'hour'")["tenant"].to_pylist()) == {None}
    assert set(rollup(lake, where="grain = 'day'")["tenant"].to_pylist()) == {"acme", "globex"}
    assert set(rollup(lake, where="grain = 'day'")["period_start"].to_pylist()) == {START}


@given(seed=st.integers(0, 2**32), cut=st.integers(1, 59))
@settings(deadline=None, max_examples=examples(5, least=2))
def test_the_order_and_the_batches_in_which_rows_come_change_no_bit(tmp_path_factory, seed, cut):
    events = many(60, seed=1) + many(
        SKETCHED_FROM + 40, seed=2, tenant="acme", model="gpt-4o", status="success"
    )
    shuffled = random.Random(seed).sample(events, len(events))
    found = []
    for batches in ([events], [shuffled[cut:], shuffled[:cut]]):
        with Lake(str(tmp_path_factory.mktemp("home"))) as lake:
            for batch in batches:
                land(lake, batch)
                refresh_performance(lake)
            found.append(rollup(lake))
    assert found[0].equals(found[1])


def test_computing_the_same_day_twice_changes_nothing(lake):
    land(lake, many(300))
    refresh_performance(lake)
    before = rollup(lake)
    assert refresh_performance(lake, [DAYS[0]]).days == ()
    assert rollup(lake).equals(before)


@pytest.mark.parametrize("status", ["error_billed", "error_unbilled", "cancelled_billed", "cache_hit"])
def test_only_answers_of_the_model_have_a_latency(lake, status):
    land(lake, many(SKETCHED_FROM + 1, status=status, latency_ms=0.0, model="gpt-4o", tenant="acme"))
    land(lake, [event(START, latency_ms=900.0)])
    refresh_performance(lake)
    by_day = rollup(lake, where="grain = 'day'").to_pylist()
    failed = next(row for row in by_day if row["status"] == status)
    assert (failed["timed_requests"], failed["latency_sum_ms"], failed["latency_sketch"]) == (0, None, None)
    answered = next(row for row in by_day if row["status"] == "success")
    assert answered["latency_sum_ms"] == 900


@pytest.mark.parametrize("kind", ["aggregate", "tool"])
def test_spans_that_are_no_model_call_are_no_requests(lake, kind):
    land(lake, [event(START), event(START, span_kind=kind)])
    refresh_performance(lake)
    assert totals(rollup(lake, where="grain = 'day'"), "requests") == {"requests": 1}


def test_a_day_without_a_model_call_is_no_news_for_ever(lake):
    land(lake, [event(START, span_kind="tool")])
    assert refresh_performance(lake).days == ()
    assert rollup(lake).num_rows == 0


@pytest.mark.parametrize(("count", "sketched"), [(SKETCHED_FROM - 1, False), (SKETCHED_FROM, True)])
def test_a_group_has_a_sketch_from_200_values_on(lake, count, sketched):
    land(lake, [event(START, latency_ms=float(n + 1), ttft_ms=None) for n in range(count)])
    refresh_performance(lake)
    for row in rollup(lake).to_pylist():
        assert (row["latency_sketch"] is not None) == sketched
        assert row["ttft_sketch"] is None
        if sketched:
            assert sum(entry["count"] for entry in row["latency_sketch"]) == count


def test_a_latency_that_is_no_number_is_not_counted(lake):
    land(
        lake,
        [event(START, latency_ms=value) for value in (float("nan"), float("inf"), -1.0, 1e300, None, 40.0)],
    )
    refresh_performance(lake)
    found = totals(rollup(lake, where="grain = 'day'"), "requests", "timed_requests", "latency_sum_ms")
    assert found == {"requests": 6, "timed_requests": 1, "latency_sum_ms": 40}


def test_rows_without_a_provider_or_model_are_kept_as_such(lake):
    land(lake, [event(START, provider=None, model=None) for _ in range(SKETCHED_FROM)])
    refresh_performance(lake)
    (row,) = rollup(lake, where="grain = 'day'").to_pylist()
    assert (row["provider"], row["model"], row["requests"]) == (None, None, SKETCHED_FROM)
    assert row["latency_sketch"]


def test_what_the_log_calls_assumed_is_counted_and_named(lake):
    land(
        lake,
        [
            event(START, tags='{"assumed":"tenant latency","team":"x"}'),
            event(START, tags='{"assumed":"latency"}', time_quality="assumed"),
            event(START, tags='{"team":"assumed"}'),
            event(START),
        ],
    )
    refresh_performance(lake)
    for row in rollup(lake).to_pylist():
        assert (row["assumed_requests"], row["assumed_parts"]) == (2, "latency tenant time")


def test_answers_without_a_token_count_do_not_slow_the_throughput(lake):
    land(lake, [event(START, latency_ms=1000.0, out_text=50)])
    land(lake, [event(START, latency_ms=9000.0, out_text=None, in_uncached=None, usage_quality="missing")])
    refresh_performance(lake)
    (row,) = rollup(lake, where="grain = 'day'").to_pylist()
    assert (row["timed_output_tokens"], row["output_latency_sum_ms"], row["latency_sum_ms"]) == (
        50,
        1000,
        10_000,
    )


def test_days_whose_raw_rows_are_gone_keep_their_figures(lake):
    land(lake, many(30, day=0))
    land(lake, many(30, day=1))
    refresh_performance(lake)
    before = rollup(lake)
    lake.erase("inference_events", "day = '2026-10-01'")
    assert refresh_performance(lake).days == ()
    assert refresh_performance(lake, DAYS).days == ()
    assert rollup(lake).equals(before)


def test_many_days_are_computed_in_portions_of_bounded_size(lake, monkeypatch):
    monkeypatch.setattr(slices, "ROWS_AT_ONCE", 100)
    for day in range(3):
        land(lake, many(60, day=day))
    version = lake.version("performance_rollup")
    assert refresh_performance(lake).days == tuple(DAYS)
    assert lake.version("performance_rollup") == version + 3


def test_two_that_refresh_at_once_leave_the_newest_figures(lake):
    for day in range(3):
        land(lake, many(40, day=day))
    failures = []

    def refresh_until_done():
        try:
            with Lake(lake.root) as other:
                for _ in range(4):
                    refresh_performance(other)
        except LostRace as failure:
            failures.append(failure)

    workers = [threading.Thread(target=refresh_until_done) for _ in range(2)]
    for worker in workers:
        worker.start()
    for batch in range(3):
        land(lake, many(10, day=batch, seed=batch))
    for worker in workers:
        worker.join()
    refresh_performance(lake)
    assert failures == []
    assert totals(rollup(lake, where="grain = 'day'"), "requests") == {"requests": 150}


def test_figures_of_an_older_snapshot_do_not_replace_newer_ones(lake):
    land(lake, many(20))
    taken: list[int] = []

    def interrupted(reading, days, sequence):
        from ml_registry_pipelines.telemetry.rollups import roll_up

        rows = roll_up(reading, days, sequence)
        if not taken:
            taken.append(sequence)
            with Lake(lake.root) as other:
                land(other, many(5, seed=4))
                refresh_performance(other)
        return rows

    found = slices.refresh_days(
        lake,
        "performance_rollup",
        interrupted,
        complete=lambda reading: reading.sequence("inference_events", "ingestion"),
    )
    assert found.sequence == 2
    assert totals(rollup(lake, where="grain = 'day'"), "requests") == {"requests": 25}
