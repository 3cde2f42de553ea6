"""However a provider or a gateway counts, the same tokens come out in the same buckets, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.telemetry.dialects.test_anthropic import logged, message
from tests.telemetry.dialects.test_bedrock import answered
from tests.telemetry.dialects.test_gemini import answer
from tests.telemetry.dialects.test_helicone import request
from tests.telemetry.dialects.test_langfuse import observation
from tests.telemetry.dialects.test_litellm import payload
from tests.telemetry.dialects.test_openai import chat
from tests.telemetry.logs import read

Tokens = dict[str, int]
BUCKETS = ("in_uncached", "in_cache_read", "in_cache_write_5m", "out_text", "out_reasoning")


def _sums(t: Tokens) -> tuple[int, int]:
    return sum(t[name] for name in BUCKETS[:3]), t["out_text"] + t["out_reasoning"]


def _openai(n: int, t: Tokens) -> dict[str, Any]:
    prompt, out = _sums(t)
    usage = {
        "prompt_tokens": prompt, "completion_tokens": out, "total_tokens": prompt + out,
        "prompt_tokens_details": {"cached_tokens": t["in_cache_read"], "cache_write_tokens": t["in_cache_write_5m"]},
        "completion_tokens_details": {"reasoning_tokens": t["out_reasoning"]},
    }  # fmt: skip
    return chat(usage, id=f"c{n}")


def _litellm(n: int, t: Tokens) -> dict[str, Any]:
    prompt, out = _sums(t)
    details = {"cached_tokens": t["in_cache_read"], "cache_creation_tokens": t["in_cache_write_5m"]}
    held = {
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": t["out_reasoning"]},
    }
    return payload(
        id=f"c{n}",
        prompt_tokens=prompt,
        completion_tokens=out,
        total_tokens=prompt + out,
        metadata={"usage_object": held},
    )


def _anthropic(n: int, t: Tokens) -> dict[str, Any]:
    usage = {
        "input_tokens": t["in_uncached"],
        "cache_read_input_tokens": t["in_cache_read"],
        "cache_creation_input_tokens": t["in_cache_write_5m"],
        "cache_creation": None,
        "output_tokens": _sums(t)[1],
        "output_tokens_details": {"thinking_tokens": t["out_reasoning"]},
    }
    return logged(message(usage, id=f"m{n}"))


def _bedrock(n: int, t: Tokens) -> dict[str, Any]:
    out = _sums(t)[1]
    usage = {
        "inputTokens": t["in_uncached"],
        "outputTokens": out,
        "cacheReadInputTokens": t["in_cache_read"],
        "cacheWriteInputTokens": t["in_cache_write_5m"],
        "totalTokens": sum(t.values()),
    }
    return answered({"usage": usage}, counts=(t["in_uncached"], out), requestId=f"b{n}")


def _gemini(n: int, t: Tokens) -> dict[str, Any]:
    # Written to the cache beforehand, so a write is plain input here.
    usage = {
        "promptTokenCount": t["in_uncached"] + t["in_cache_read"],
        "cachedContentTokenCount": t["in_cache_read"],
        "toolUsePromptTokenCount": t["in_cache_write_5m"],
        "candidatesTokenCount": t["out_text"],
        "thoughtsTokenCount": t["out_reasoning"],
        "totalTokenCount": sum(t.values()),
    }
    return answer(usage, responseId=f"g{n}")


def _langfuse(n: int, t: Tokens) -> dict[str, Any]:
    usage = {
        "input": t["in_uncached"],
        "input_cached_tokens": t["in_cache_read"],
        "input_cache_creation": t["in_cache_write_5m"],
        "output": t["out_text"],
        "output_reasoning_tokens": t["out_reasoning"],
    }
    return observation({**usage, "total": sum(t.values())}, id=f"o{n}", parentObservationId=None)


def _langfuse_within(n: int, t: Tokens) -> dict[str, Any]:
    prompt, out = _sums(t)
    record = _langfuse(n, t)
    record["usageDetails"] |= {"input": prompt, "output": out}
    return record


def _helicone(n: int, t: Tokens) -> dict[str, Any]:
    prompt, out = _sums(t)
    return request(
        request_id=f"h{n}",
        prompt_tokens=prompt,
        completion_tokens=out,
        total_tokens=prompt + out,
        prompt_cache_read_tokens=t["in_cache_read"],
        prompt_cache_write_tokens=t["in_cache_write_5m"],
    )


def _helicone_beside(n: int, t: Tokens) -> dict[str, Any]:
    return {**_helicone(n, t), "prompt_tokens": t["in_uncached"], "provider": "ANTHROPIC"}


WRITERS: dict[str, Callable[[int, Tokens], dict[str, Any]]] = {
    "openai": _openai,
    "litellm": _litellm,
    "anthropic": _anthropic,
    "bedrock": _bedrock,
    "gemini": _gemini,
    "langfuse": _langfuse,
    "langfuse, cached within input": _langfuse_within,
    "helicone": _helicone,
    "helicone, cached beside input": _helicone_beside,
}
_MERGED = {
    "gemini": (("in_cache_write_5m", "in_uncached"),),
    "helicone": (("out_reasoning", "out_text"),),
    "helicone, cached beside input": (("out_reasoning", "out_text"),),
    "bedrock": (("out_reasoning", "out_text"),),
}
"""What a format cannot tell apart: the first is counted as the second."""


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=examples(8), deadline=None)
@given(
    counts=st.lists(
        st.tuples(*(st.integers(0, 5) | st.integers(0, 1_000_000) for _ in BUCKETS)), min_size=1, max_size=20
    )
)
def test_the_same_tokens_come_out_whoever_counted_them(name: str, counts: list[tuple[int, ...]]):
    tokens = [dict(zip(BUCKETS, count, strict=True)) for count in counts]
    rows = read([WRITERS[name](n, t) for n, t in enumerate(tokens)]).rows
    assert len(rows) == len(tokens)
    for row, wanted in zip(rows, tokens, strict=True):
        for bucket, into in _MERGED.get(name, ()):
            wanted[into] += wanted.pop(bucket)
        assert {bucket: row[bucket] or 0 for bucket in wanted} == wanted
        assert row["usage_quality"] == "exact"
