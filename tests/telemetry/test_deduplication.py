"""What counts as the same record, and what as another one under the same id."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.telemetry import INFERENCE_EVENTS
from ml_registry_pipelines.telemetry.accounting import stamped
from ml_registry_pipelines.telemetry.deduplication import deduplicated
from tests.telemetry.dialects.test_otel_genai import request, span
from tests.telemetry.logs import WRITTEN, native, read

SAME = native(usage={"in_uncached": 5, "out_text": 1, "in_audio": 0}, latency_ms=3)
OTHERS: list[dict[str, Any]] = [
    {"usage": {"in_uncached": 6, "out_text": 1}},
    {"usage": {"in_uncached": 1, "out_text": 5}},
    {"usage": {"in_cache_read": 5, "out_text": 1}},
    {"model": "gpt-4"},
    {"provider": "azure"},
    {"status": "error_billed"},
    {"kind": "tool"},
    {"kind": "aggregate"},
    {"service_tier": "flex"},
    {"region": "flex"},
    {"usage": {"in_uncached": 5, "out_text": 1, "total": 7}},
    {"usage": {"in_uncached": 5, "out_text": 1, "pages": 1}},
    {"usage": {"in_uncached": 5, "out_text": 1, "audio_seconds": 1}},
]


def rows_of(*records: dict[str, Any]) -> pa.Table:
    return pa.concat_tables(part.rows for part in read(list(records)).parts)


def store(lake: Lake, rows: pa.Table) -> None:
    batch = lake.sequence("inference_events", "ingestion") + 1
    made = stamped(rows, INFERENCE_EVENTS.schema, batch=batch, now=WRITTEN)
    lake.append_once("inference_events", made, source="ingestion", sequence=batch)


def verdicts(lake: Lake, rows: pa.Table) -> tuple[list[int], list[tuple[int, bool]]]:
    """Lines that are new, and lines that are not with whether they conflict."""
    new, again = deduplicated(lake, rows)
    return new["line"].to_pylist(), list(
        zip(again["line"].to_pylist(), again["conflict"].to_pylist(), strict=True)
    )


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "same batch"])
def test_a_resend_with_other_times_and_labels_is_the_same_record(lake: Lake, stored: bool):
    again = {
        **SAME,
        "ts": "2026-10-30T12:00:00Z",
        "latency_ms": 9,
        "application": "x",
        "usage": {"in_uncached": 5, "out_text": 1},
    }
    if stored:
        store(lake, rows_of(SAME))
        assert verdicts(lake, rows_of(again)) == ([], [(1, False)])
    else:
        assert verdicts(lake, rows_of(SAME, again)) == ([1], [(2, False)])


def test_what_is_billed_differently_under_the_same_id_conflicts(lake: Lake):
    changed = [{**SAME, **change} for change in OTHERS]
    expected = [(line, True) for line in range(2, len(OTHERS) + 2)]
    assert verdicts(lake, rows_of(SAME, *changed)) == ([1], expected)
    store(lake, rows_of(SAME))
    everything = rows_of(SAME, *changed)
    assert verdicts(lake, everything) == ([], [(1, False), *expected])


def test_a_repeat_within_a_batch_is_judged_by_what_is_stored(lake: Lake):
    store(lake, rows_of(SAME))
    other = {**SAME, "model": "gpt-4"}
    assert verdicts(lake, rows_of(other, other, SAME)) == ([], [(1, True), (2, True), (3, False)])


def test_other_attempts_tenants_and_systems_are_other_records(lake: Lake):
    store(lake, rows_of(SAME))
    others = rows_of(
        {**SAME, "attempt": 2},
        {**SAME, "tenant": "other"},
        {**SAME, "source_system": "x"},
        {**SAME, "event_id": "y"},
    )
    assert verdicts(lake, others) == ([1, 2, 3, 4], [])


def test_equal_keys_alone_make_no_duplicate(lake: Lake):
    """64 bits may collide; what decides is the whole identity."""
    store(lake, rows_of(SAME))
    other = rows_of({**SAME, "event_id": "another"})
    key = rows_of(SAME)["event_key"]
    place = other.schema.get_field_index("event_key")
    forged = other.set_column(place, other.schema.field(place), key)
    assert verdicts(lake, forged) == ([1], [])
    assert verdicts(lake, pa.concat_tables([forged, rows_of(SAME)])) == ([1], [(1, False)])


def test_a_day_outside_the_horizon_is_not_looked_at_and_one_inside_is(lake: Lake):
    store(lake, rows_of({**SAME, "ts": "2026-07-20T00:00:00Z"}))
    assert verdicts(lake, rows_of({**SAME, "ts": "2026-10-18T00:00:00Z"})) == ([], [(1, False)])
    assert verdicts(lake, rows_of({**SAME, "ts": "2026-10-19T00:00:00Z"})) == ([1], [])


def test_a_span_that_is_an_aggregate_only_beside_its_inner_one_does_not_conflict(lake: Lake):
    (together,) = read([request(span(1), span(2, 1))]).parts
    (alone,) = read([span(1)]).parts
    store(lake, together.rows)
    assert verdicts(lake, alone.rows) == ([], [(1, False)])


def test_an_empty_batch_stays_empty(lake: Lake):
    assert verdicts(lake, rows_of(SAME).slice(0, 0)) == ([], [])
