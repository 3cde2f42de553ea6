"""Which dialect a file is of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.telemetry.detecting import detect
from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.dialects.bills import BILL_FORMATS, bill_format
from ml_registry_pipelines.telemetry.sources import Source
from tests.telemetry.dialects import test_anthropic as anthropic
from tests.telemetry.dialects import test_bedrock as bedrock
from tests.telemetry.dialects import test_cloudflare as cloudflare
from tests.telemetry.dialects import test_gemini as gemini
from tests.telemetry.dialects import test_helicone as helicone
from tests.telemetry.dialects import test_langfuse as langfuse
from tests.telemetry.dialects import test_openai as openai
from tests.telemetry.dialects import test_portkey as portkey
from tests.telemetry.dialects.test_litellm import PAYLOAD
from tests.telemetry.dialects.test_otel_genai import BARE, request, span
from tests.telemetry.dialects.test_traces import LLMPERF
from tests.telemetry.logs import lines, native, read

EXAMPLES = {
    "native": [native()],
    "azure_trace": [dict.fromkeys(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), "1")],
    "llmperf": [dict(zip(LLMPERF.split("\n")[0].split(","), LLMPERF.split("\n")[1].split(","), strict=True))],
    "mooncake": [{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}],
    "otel_genai": [BARE, request(span())],
    "litellm": [PAYLOAD],
    "cloudflare_ai_gateway": [cloudflare.LOG, {"result": [cloudflare.LOG], "success": True}],
    "bedrock_invocations": [bedrock.CONVERSE],
    "openai_api": [
        openai.CHAT,
        openai.RESPONSE,
        openai.batch_line(openai.CHAT),
        openai.batch_line({"error": {"code": "x"}}, 400),
        {"timestamp": 1, "response": openai.CHAT},
        {"id": "a", "model": "gpt-4o", "usage": openai.USAGE},
    ],
    "anthropic_api": [
        anthropic.MESSAGE,
        anthropic.batch_line("succeeded", message=anthropic.MESSAGE),
        anthropic.batch_line("expired"),
        {"timestamp": 1, "body": anthropic.MESSAGE},
        {"id": "a", "model": "claude-sonnet-4-5", "usage": anthropic.USAGE},
        anthropic.ERROR,
    ],
    "gemini_api": [gemini.ANSWER, gemini.SNAKE, {"key": "k", "response": gemini.ANSWER}],
    "langfuse": [langfuse.OBSERVATION, langfuse.EXPORTED, {"data": [langfuse.OBSERVATION], "meta": {}}],
    "helicone": [helicone.REQUEST, helicone.STORED, {"data": [helicone.REQUEST], "error": None}],
    "portkey": [portkey.LOG],
}


def test_every_dialect_is_recognised_by_itself_alone():
    assert set(EXAMPLES) == set(DIALECTS)
    for name, records in EXAMPLES.items():
        for record in records:
            assert [d.name for d in DIALECTS.values() if d.recognises(record)] == [name]
            assert bill_format(record) is None


def test_a_few_broken_lines_do_not_hide_a_dialect():
    assert read(["oops", "{}", "[1]", *[native(number) for number in range(3)]]).dialect == "native"


def test_a_file_of_no_known_dialect_is_one_reject_that_names_those_there_are():
    found = read([{"hello": "world"}] * 3, "odd.jsonl", tenant="acme")
    assert found.dialect is None
    assert found.reject == {
        "line": 0,
        "part": 0,
        "reason": "unknown_dialect",
        "message": "odd.jsonl: its records are of no known dialect (known are native, azure_trace, llmperf, mooncake,"
        " otel_genai, litellm, cloudflare_ai_gateway, bedrock_invocations, openai_api, anthropic_api, gemini_api,"
        " langfuse, helicone, portkey); set the source's dialect, or write one",
        "raw": '{"hello": "world"}\n' * 3,
        "tenant": "acme",
    }
    assert found.digest == hashlib.sha256(lines([{"hello": "world"}] * 3).encode()).hexdigest()


def test_a_file_that_is_half_one_dialect_and_half_another_is_none():
    assert detect([json.dumps(native()), json.dumps(PAYLOAD)]) is None
    assert detect([json.dumps(native()), json.dumps(PAYLOAD), json.dumps(native(2))]) is DIALECTS["native"]


def test_a_forced_dialect_is_not_asked_whether_it_recognises_anything():
    found = read([PAYLOAD, {"hello": "world"}], dialect="native")
    assert found.dialect == "native"
    assert found.reasons == [(1, "missing_field"), (2, "missing_field")]


def test_lines_of_another_format_in_a_recognised_file_are_rejected_one_by_one():
    found = read([native(1), native(2), PAYLOAD, native(3)])
    assert found.ids == ["r1", "r2", "r3"]
    assert found.reasons == [(3, "missing_field")]
    assert found.reject["message"] == "line 3: `event_id` is missing; `ts` is missing; `provider` is missing"


def test_the_page_of_formats_says_of_every_dialect_and_bill_what_it_declares():
    page = (Path(__file__).parents[3] / "docs" / "log-formats.md").read_text(encoding="utf-8")
    listed = dict(
        re.findall(
            r"^\| `(\w+)` \| .+? \| ((?:yes|no|no sums) \| (?:yes|no|no sums)) \|$", page, re.MULTILINE
        )
    )
    words = {True: "yes", False: "no", None: "no sums"}
    assert listed == {
        name: f"{words[dialect.input_includes_cached]} | {words[dialect.output_includes_reasoning]}"
        for name, dialect in DIALECTS.items()
    }
    assert all(f"`{name}`" in page for name in BILL_FORMATS)


def test_a_folder_called_after_a_provider_forces_no_dialect():
    source = Source(name="logs", folder="/")
    for folder in ("openai", "anthropic", "google", "gemini", "aws", "bedrock", "azure"):
        assert source.dialect_of(f"{folder}/a.jsonl", DIALECTS) is None
    assert source.dialect_of("langfuse/a.jsonl", DIALECTS) == "langfuse"


ODD: list[Any] = [None, [], {}, "", "x", -1, 1.5, "9" * 30, True, [1], {"a": 1}, "{", "NaN", "\u0000"]


def _odd_versions(record: Any) -> Iterator[Any]:
    """The record with each value in it, however deep, replaced by each odd one, one at a time."""
    if isinstance(record, dict):
        for name, value in record.items():
            for odd in ODD:
                yield {**record, name: odd}
            for version in _odd_versions(value):
                yield {**record, name: version}
    elif isinstance(record, list) and record:
        for version in _odd_versions(record[0]):
            yield [version, *record[1:]]


@pytest.mark.parametrize("name", EXAMPLES)
def test_whatever_stands_in_a_field_every_record_comes_out_once(name: str):
    records = [version for example in EXAMPLES[name] for version in _odd_versions(example)]
    found = read(records, dialect=name)
    lines_seen = {row["line"] for row in found.rows} | {reject["line"] for reject in found.rejected}
    assert len(lines_seen) + found.ignored >= len(records)
    assert found.rows_in >= len(records)
