"""Langfuse exports, with their traps: rows worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.identity import salted_hash
from tests.telemetry.logs import expected, read, shown

OBSERVATION: dict[str, Any] = {
    "id": "obs-1",
    "traceId": "tr-77",
    "type": "GENERATION",
    "parentObservationId": "span-1",
    "name": "answer",
    "startTime": "2026-10-31T12:00:00.000Z",
    "endTime": "2026-10-31T12:00:02.350Z",
    "completionStartTime": "2026-10-31T12:00:00.420Z",
    "level": "DEFAULT",
    "statusMessage": None,
    "environment": "production",
    "model": "gpt-4o",
    "input": "SECRET",
    "metadata": {"x": "SECRET"},
    "usageDetails": {"input": 176, "input_cached_tokens": 1024, "output": 38, "total": 1238},
    "costDetails": {"input": 0.00044, "input_cached_tokens": 0.00128, "output": 0.00038, "total": 0.0021},
    "latency": 2.35,
    "timeToFirstToken": 0.42,
    "promptName": "qa",
    "promptVersion": 7,
    "userId": "u1",
    "sessionId": "s-1",
}
EXPORTED: dict[str, Any] = {
    "id": "obs-1",
    "trace_id": "tr-77",
    "type": "GENERATION",
    "parent_observation_id": "span-1",
    "name": "answer",
    "start_time": "2026-10-31 12:00:00.000",
    "end_time": "2026-10-31 12:00:02.350",
    "completion_start_time": "2026-10-31 12:00:00.420",
    "level": "DEFAULT",
    "environment": "production",
    "provided_model_name": "gpt-4o",
    "usage_details": json.dumps(
        {"input": "176", "input_cached_tokens": "1024", "output": "38", "total": "1238"}
    ),
    "cost_details": json.dumps({"input": 0.00044, "input_cached_tokens": 0.00128, "output": 0.00038}),
    "prompt_name": "qa",
    "prompt_version": "7",
    "user_id": "u1",
    "session_id": "s-1",
}
"""A line of a file export, whose maps are texts; its costs have no total."""


def observation(usage: dict[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
    return {**OBSERVATION, **({} if usage is None else {"usageDetails": usage}), **fields}


ROW = expected(
    dialect="langfuse",
    source_system="langfuse",
    file="a.jsonl",
    event_id="obs-1",
    event_ts=datetime(2026, 10, 31, 12, tzinfo=UTC),
    environment="production",
    model="gpt-4o",
    operation="chat",
    latency_ms=2350.0,
    ttft_ms=420.0,
    trace_id="tr-77",
    parent_id="span-1",
    user_hash=salted_hash("salt", "default", "u1"),
    session_hash=salted_hash("salt", "default", "s-1"),
    in_uncached=176,
    in_cache_read=1024,
    out_text=38,
    provider_total_tokens=1238,
    logged_cost=Decimal("0.0021"),
    logged_currency="USD",
)


@pytest.mark.parametrize("record", [OBSERVATION, EXPORTED])
def test_a_generation_becomes_a_row_from_the_api_and_from_a_file(record: dict[str, Any]):
    row = shown(read([record]).row)
    assert json.loads(row.pop("tags")) == {"name": "answer", "prompt": "qa", "prompt_version": "7"}
    assert row == ROW


def test_a_file_export_may_be_csv():
    written = io.StringIO()
    writer = csv.DictWriter(written, list(EXPORTED))
    writer.writeheader()
    writer.writerow(EXPORTED)
    row = shown(read(written.getvalue(), "a.csv").row)
    assert {**row, "file": "a.jsonl", "line": 1, "tags": None} == {**ROW, "tags": None}


KEYS: list[tuple[dict[str, int], tuple[int | None, ...], str]] = [
        # Disjoint, as meant: 176 + 1024 + 30 + 8.
        (
            {"input": 176, "input_cached_tokens": 1024, "output": 30, "output_reasoning_tokens": 8, "total": 1238},
            (176, 1024, 30, 8), "exact",
        ),
        # The total is input and output alone: the others are within them.
        (
            {"input": 1200, "input_cached_tokens": 1024, "output": 38, "output_reasoning_tokens": 8, "total": 1238},
            (176, 1024, 30, 8), "exact",
        ),
        # Summed up by Langfuse or by nobody: the keys are what they are meant to be.
        (
            {"input": 176, "cache_read_input_tokens": 1024, "output": 30, "output_reasoning": 8},
            (176, 1024, 30, 8), "exact",
        ),
        # The total is neither.
        (
            {"input": 176, "input_cached_tokens": 1024, "output": 38, "total": 999},
            (176, 1024, 38, None), "inconsistent",
        ),
        # More cached within the input than there is input.
        ({"input": 100, "input_cached_tokens": 1024, "output": 38, "total": 138}, (0, 1024, 38, None), "inconsistent"),
        # A key that nobody knows.
        ({"input": 176, "input_of_some_kind": 5, "output": 38}, (176, None, 38, None), "inconsistent"),
        ({"input": 176, "input_of_some_kind": 0, "output": 38}, (176, None, 38, None), "exact"),
        # Two names of one count that differ.
        (
            {"input": 176, "input_cached_tokens": 1024, "input_cache_read": 7, "output": 38},
            (176, 1024, 38, None), "inconsistent",
        ),
        # Predictions are output, texts are input.
        (
            {"input_text_tokens": 176, "output": 20, "output_accepted_prediction_tokens": 10,
             "output_rejected_prediction_tokens": 8, "total": 214},
            (176, None, 38, None), "exact",
        ),
        ({}, (None, None, None, None), "missing"),
    ]  # fmt: skip


def test_free_keys_are_read_as_they_are_meant_unless_the_total_says_otherwise():
    rows = read([observation(usage, id=f"o{n}") for n, (usage, _, _) in enumerate(KEYS)]).rows
    names = ("in_uncached", "in_cache_read", "out_text", "out_reasoning")
    for row, (usage, buckets, quality) in zip(rows, KEYS, strict=True):
        assert (tuple(row[name] for name in names), row["usage_quality"]) == (buckets, quality), usage


def test_cache_writes_are_told_apart_by_their_time():
    usage = {
        "input": 5,
        "input_cache_creation": 500,
        "input_cache_creation_1h": 300,
        "output": 1,
        "total": 506,
    }
    row = read([observation(usage)]).row
    assert (row["in_cache_write_5m"], row["in_cache_write_1h"], row["usage_quality"]) == (200, 300, "exact")


def test_the_old_fields_of_usage_are_taken_where_there_are_no_others():
    old = {"input": 1200, "output": 38, "total": 1238, "unit": "TOKENS"}
    assert read([observation(usageDetails=None, usage=old)]).row["in_uncached"] == 1200
    characters = observation(usageDetails=None, usage={**old, "unit": "CHARACTERS"})
    assert read([characters]).row["usage_quality"] == "inconsistent"
    assert read([observation(usageDetails=None, promptTokens=7, completionTokens=3)]).row["out_text"] == 3


def test_only_generations_and_embeddings_are_model_calls():
    kinds = {
        "GENERATION": "leaf", "EMBEDDING": "leaf", "SPAN": "aggregate", "AGENT": "aggregate", "CHAIN": "aggregate",
        "TOOL": "tool", "RETRIEVER": "tool",
    }  # fmt: skip
    found = read([observation(id=kind, type=kind, parentObservationId=None) for kind in kinds])
    assert {row["event_id"]: row["span_kind"] for row in found.rows} == kinds
    bare = read([OBSERVATION, observation({}, id="b", type="SPAN"), observation({}, id="c", type="EVENT")])
    assert (len(bare.rows), bare.ignored) == (1, 2)


def test_a_generation_around_another_one_repeats_its_usage():
    inner, outer = observation(id="inner", parentObservationId="outer"), observation(id="outer")
    for found in (read([inner, outer]), read([outer, inner]), read([{"data": [outer, inner], "meta": {}}])):
        assert {row["event_id"]: row["span_kind"] for row in found.rows} == {
            "inner": "leaf",
            "outer": "aggregate",
        }


def test_a_failed_generation_is_billed_where_it_used_tokens():
    used, unused = observation(level="ERROR"), observation({}, id="b", level="ERROR", statusMessage="SECRET")
    rows = read([used, unused]).rows
    assert [(row["status"], row["error_type"]) for row in rows] == [
        ("error_billed", "error"),
        ("error_unbilled", "error"),
    ]


def test_a_running_generation_has_its_latency_in_seconds_or_none():
    assert read([observation(endTime=None)]).row["latency_ms"] == 2350.0
    assert read([observation(endTime=None, latency=None, completionStartTime=None)]).row["ttft_ms"] == 420.0


def test_a_page_of_the_api_is_as_many_records_as_it_lists():
    found = read(
        [{"data": [OBSERVATION, observation(id="b")], "meta": {"page": 1}}, {"data": [], "meta": {}}]
    )
    assert (found.ids, found.ignored) == (["obs-1", "b"], 1)


def test_maps_that_are_none_hurt_nothing():
    maps = ("{broken", "[1]", "", 5, [1])
    found = [{**EXPORTED, "id": f"o{n}", "usage_details": m, "cost_details": m} for n, m in enumerate(maps)]
    for row in read(found).rows:
        assert (row["usage_quality"], row["logged_cost"]) == ("missing", None)


def test_a_count_that_is_none_is_complained_about_without_keeping_bodies():
    reject = read([observation({"input": "many", "output": 38})]).reject
    assert "`usageDetails.input` is many" in reject["message"]
    assert "SECRET" not in reject["raw"]
