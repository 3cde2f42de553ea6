"""The public traces (Azure, LLMPerf, Mooncake), with their traps: rows worked out by hand."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.telemetry.identity import event_key
from ml_registry_pipelines.telemetry.splitting import Limits
from tests.telemetry.logs import WRITTEN, expected, read, shown

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319999,3180,8
2023-11-16 18:17:04.0319999,3180,8
2023-11-16 18:17:04.0319999,3180,9
"""


def test_an_azure_trace_has_utc_times_and_no_model_whatever_the_source_says():
    found = read(AZURE, "AzureLLMInferenceTrace_code.csv", time_zone="America/New_York")
    assert found.dialect == "azure_trace"
    row = shown(found.rows[0])
    digest, _, ordinal = row.pop("event_id").partition("-")
    assert (len(digest), ordinal) == (32, "1")
    assert row == expected(
        dialect="azure_trace",
        source_system="azure_trace",
        file="AzureLLMInferenceTrace_code.csv",
        line=2,
        event_ts=datetime(2023, 11, 16, 18, 17, 3, 979960, tzinfo=UTC),
        in_uncached=4808,
        out_text=10,
    )
    # Finer than microseconds is cut off, not rounded.
    assert found.rows[1]["event_ts"] == datetime(2023, 11, 16, 18, 17, 4, 31999, tzinfo=UTC)


def test_equal_rows_of_a_file_without_ids_are_all_kept_and_a_resent_file_holds_nothing_new():
    first, again = read(AZURE, "a.csv"), read(AZURE, "b/copy.csv", base_time=WRITTEN - timedelta(days=1))
    assert len(set(first.ids)) == 4
    assert [event_id[-2:] for event_id in first.ids] == ["-1", "-1", "-2", "-1"]
    assert [row["event_key"] for row in first.rows] == [row["event_key"] for row in again.rows]
    assert first.rows[0]["event_key"] == event_key("default", "azure_trace", first.ids[0])


def test_ordinals_survive_chunks_and_being_taken_up_again():
    content = AZURE + AZURE.split("\n", 1)[1] * 3
    at_once = read(content, "a.csv")
    assert len(set(at_once.ids)) == 16
    assert read(content, "a.csv", limits=Limits(chunk_rows=3)).rows == at_once.rows
    later = read(content, "a.csv", limits=Limits(chunk_rows=3), start_after_line=9)
    assert later.rows == at_once.rows[8:]


def test_the_same_trace_as_parquet_or_json_lines_holds_the_same_requests():
    header, *rows = AZURE.splitlines()
    records = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    typed = [
        {
            **record,
            "ContextTokens": int(record["ContextTokens"]),
            "GeneratedTokens": int(record["GeneratedTokens"]),
        }
        for record in records
    ]
    keys = [row["event_key"] for row in read(AZURE, "a.csv").rows]
    assert [row["event_key"] for row in read(typed, "a.jsonl").rows] == keys
    moments = [datetime.fromisoformat(record["TIMESTAMP"][:26]) for record in records]
    table = pa.Table.from_pylist([{**r, "TIMESTAMP": m} for r, m in zip(typed, moments, strict=True)])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert [row["event_key"] for row in read(sink.getvalue(), "a.parquet").rows] == keys


LLMPERF = """\
provider,model,request_no,error_code,error_msg,ttft_s,end_to_end_latency_s,inter_token_latency_s,output_tokens_per_s,input_tokens,output_tokens
anyscale,llama-2-13b-chat,0,,,0.5,1.5281514210000182,0.0095,34.02,550,151
bedrock,llama-2-13b-chat,1,429,"Too many requests, wait",0,0,0,0,550,1
bedrock,llama-2-13b-chat,2,-100,Output too few tokens 39,0.25,1.5,1.7,21.9,550,39
"""


def test_llmperf_calls_get_the_base_time_and_latencies_in_milliseconds():
    base = datetime(2024, 1, 2, 3, tzinfo=UTC)
    found = read(LLMPERF, "a.csv", base_time=base)
    assert found.dialect == "llmperf"
    row = shown(found.rows[0])
    row.pop("event_id")
    assert row == expected(
        dialect="llmperf",
        source_system="llmperf",
        file="a.csv",
        line=2,
        time_quality="assumed",
        event_ts=base,
        provider="anyscale",
        model="llama-2-13b-chat",
        operation="chat",
        latency_ms=pytest.approx(1528.1514210000182),
        ttft_ms=500.0,
        in_uncached=550,
        out_text=151,
    )


def test_a_failed_llmperf_call_has_no_latency_where_there_was_no_answer():
    refused, short = read(LLMPERF, "a.csv").rows[1:]
    assert (refused["status"], refused["error_type"]) == ("error_unbilled", "429")
    assert (refused["latency_ms"], refused["ttft_ms"]) == (None, None)
    assert (short["status"], short["error_type"]) == ("error_billed", "-100")
    assert (short["latency_ms"], short["ttft_ms"]) == (1500.0, 250.0)


def test_llmperf_calls_are_the_same_whatever_time_is_assumed():
    one, other = (read(LLMPERF, "a.csv", base_time=WRITTEN - timedelta(days=days)) for days in (1, 2))
    assert one.ids == other.ids


def test_mooncake_times_count_from_the_base_time_and_no_cache_is_made_up():
    base = datetime(2024, 1, 1, tzinfo=UTC)
    blocks = {"input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
    found = read([{"timestamp": 0, **blocks}, {"timestamp": 1500, **blocks}], base_time=base)
    assert found.dialect == "mooncake"
    assert [row["event_ts"] for row in found.rows] == [base, base + timedelta(seconds=1.5)]
    row = shown(found.rows[1])
    row.pop("event_id")
    assert row == expected(
        dialect="mooncake",
        source_system="mooncake",
        file="a.jsonl",
        line=2,
        time_quality="assumed",
        event_ts=base + timedelta(seconds=1.5),
        operation="chat",
        in_uncached=6758,
        out_text=500,
    )


def test_mooncake_requests_are_told_apart_by_their_blocks():
    same = {"timestamp": 0, "input_length": 10, "output_length": 1}
    found = read([{**same, "hash_ids": [1]}, {**same, "hash_ids": [2]}, {**same, "hash_ids": [1]}])
    assert [event_id[-2:] for event_id in found.ids] == ["-1", "-1", "-2"]


@pytest.mark.parametrize("timestamp", ["soon", None, 1e300, -1e15, True])
def test_a_mooncake_time_that_is_none_is_rejected(timestamp: object):
    records = [{"timestamp": 0, "input_length": 1, "output_length": 1}]
    found = read([*records, {**records[0], "timestamp": timestamp}])
    assert len(found.rows) == 1
    assert found.reject["reason"] in ("wrong_type", "missing_field", "absurd_timestamp")
    assert "`timestamp`" in found.reject["message"]
