"""Requests told of by code: once each, in one commit, with what follows derived; or not at all, and why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.audits import counts_add_up
from ml_registry_pipelines.telemetry.ingestion import FOLLOWERS, LEADING, TRACKED, Ingestion
from ml_registry_pipelines.telemetry.performance import PerformanceTracker
from ml_registry_pipelines.telemetry.sources import Sources
from ml_registry_pipelines.telemetry.tracking import FOLLOW_AFTER, Inference, Tracking, TrackingError

NOW = datetime.now(UTC)


def told(event_id: str, **given: object) -> Inference:
    fields = {"usage": {"in_uncached": 10, "out_text": 5}, "ts": NOW} | given
    return Inference("gpt-4o", "openai", event_id=event_id, **fields)  # type: ignore[arg-type]


def recover(lake: Lake) -> int:
    return Ingestion(lake, Sources(())).recover()


def rows(lake: Lake, table: str) -> list[dict[str, Any]]:
    with lake.read(table) as reading:
        found: list[dict[str, Any]] = reading.query("rows", f"SELECT * FROM {table}").to_pylist()
    return found


def test_a_record_lands_in_one_commit_of_one_table_as_a_log_would_land_it(lake):
    tracker = PerformanceTracker(lake)
    landed = tracker.track_inference(
        told(
            "r1", user_id="someone", cost=Decimal("0.1"), currency="USD", tags={"team": "x"}, latency_ms=12.5
        )
    )
    assert (landed.event_ids, landed.landed, landed.batch) == (("r1",), 1, 1)
    assert [lake.exists(table) for table in (LEADING, *FOLLOWERS)] == [True, False, False]
    (row,) = rows(lake, LEADING)
    assert (row["in_uncached"], row["out_text"], row["latency_ms"]) == (10, 5, 12.5)
    assert (row["logged_cost"], row["tags"], row["source"]) == (Decimal("0.1"), '{"team":"x"}', TRACKED)
    assert row["user_hash"] is not None
    assert "someone" not in str(row)


def test_told_again_it_lands_once_and_with_other_content_not_at_all(lake):
    tracking = Tracking(lake)
    tracking.track([told("r1")])
    again = tracking.track([told("r1", latency_ms=3.0), told("r2"), told("r2")])
    assert (again.landed, again.duplicates, again.batch) == (1, 2, 2)
    assert tracking.track([told("r1")]).batch is None
    with pytest.raises(TrackingError, match="request 'r1' of 'default' was taken before with other content"):
        tracking.track([told("r3"), told("r1", usage={"in_uncached": 11})])
    assert sorted(row["event_id"] for row in rows(lake, LEADING)) == ["r1", "r2"]
    assert tracking.track([told("r1", tenant="globex"), told("r1", attempt=2)]).landed == 2


def test_followers_are_derived_from_the_leading_table_and_counts_add_up(lake):
    tracking = Tracking(lake)
    for number in range(FOLLOW_AFTER + 3):
        tracking.track([told(f"a{number}"), told(f"b{number}")])
    # The lag is bounded, so that the notes of commits are still there.
    assert lake.sequence("ingested_files", LEADING) == FOLLOW_AFTER
    assert recover(lake) == FOLLOW_AFTER + 3
    assert {lake.sequence(table, LEADING) for table in FOLLOWERS} == {FOLLOW_AFTER + 3}
    assert counts_add_up(lake).passed
    files = rows(lake, "ingested_files")
    assert (len(files), sum(row["taken"] for row in files)) == (FOLLOW_AFTER + 3, 2 * (FOLLOW_AFTER + 3))


def test_what_was_erased_before_its_followers_does_not_stop_ingestion(lake):
    Tracking(lake).track([told("r1")])
    Tracking(lake).track([told("r2")])
    lake.erase(LEADING, "event_id = 'r1'")
    assert recover(lake) == 2
    assert [row["batch"] for row in rows(lake, "ingested_files")] == [2]


@pytest.mark.soak
def test_callers_at_once_land_everything_once(lake):
    tracking = [Tracking(lake), Tracking(lake)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: tracking[n % 2].track([told(f"r{n % 12}")]), range(24)))
    assert sum(one.landed for one in found) == 12
    assert sorted(row["event_id"] for row in rows(lake, LEADING)) == sorted(f"r{n}" for n in range(12))


def test_without_an_id_each_telling_is_a_record(lake):
    tracking = Tracking(lake)
    one, other = (tracking.track([Inference("m", "p")]) for _ in range(2))
    assert one.event_ids != other.event_ids
    assert len(rows(lake, LEADING)) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (told("x", usage={"tokens": 5}), "usage names tokens; it can name in_uncached"),
        (told("x", usage={"in_uncached": -5}), "in_uncached"),
        (told("x", latency_ms=float("nan")), "is not JSON"),
        (told("x", latency_ms=-1.0), "`latency_ms` is -1"),
        (told("x", status="fine"), "`status` is fine: not one of success"),
        (told("x", ts=datetime(2026, 10, 5)), "has no time zone"),  # noqa: DTZ001 - that is the mistake
        (told("x", ts=NOW + timedelta(days=30)), "more than a day after"),
        (told("x", cost=0.1, currency="USD"), "is a binary fraction"),
        (Inference("", "openai"), "`model` is missing"),
    ],
)
def test_what_is_no_record_is_named_and_nothing_lands(shared, wrong, message):
    with pytest.raises(TrackingError, match=f"record 2 of 2.*{message}"):
        shared.track([told("right"), wrong])
    assert not shared.lake.exists(LEADING)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Lake(str(tmp_path_factory.mktemp("home") / "home")) as lake:
        yield Tracking(lake)


def test_nothing_and_far_too_much_are_refused(shared):
    with pytest.raises(TrackingError, match="there are 0 records"):
        shared.track([])
