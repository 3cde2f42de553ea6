"""Made-up records of every log format that the platform reads, one function per format, for benchmarks.

Their sizes and their fields are those of the formats; their values are drawn at random.
"""

# ruff: noqa: ARG001 - every maker is given the same

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

Maker = Callable[[int, datetime, random.Random], dict[str, object]]

MODELS = [
    ("openai", "gpt-4o-2024-08-06"),
    ("anthropic", "claude-sonnet-4-5-20250929"),
    ("google", "gemini-2.5-flash"),
]


def native(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A native record of about 400 bytes."""
    provider, model = MODELS[number % len(MODELS)]
    cached, fresh, out = chance.randrange(0, 2000), chance.randrange(50, 4000), chance.randrange(1, 900)
    return {
        "event_id": f"req-{chance.getrandbits(96):024x}",
        "ts": moment.isoformat().replace("+00:00", "Z"),
        "tenant": f"tenant-{number % 3}",
        "application": f"app-{number % 7}",
        "provider": provider,
        "model": model,
        "latency_ms": round(chance.lognormvariate(7, 0.6), 3),
        "ttft_ms": round(chance.lognormvariate(5.5, 0.5), 3),
        "stream": True,
        "trace_id": f"{chance.getrandbits(128):032x}",
        "usage": {
            "in_uncached": fresh,
            "in_cache_read": cached,
            "out_text": out,
            "total": fresh + cached + out,
        },
    }


def litellm(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A LiteLLM standard logging payload without bodies."""
    provider, model = MODELS[number % len(MODELS)]
    start, took = moment.timestamp(), chance.lognormvariate(0.5, 0.6)
    cached, prompt, out = chance.randrange(0, 50), chance.randrange(50, 4000), chance.randrange(1, 900)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": out,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return {
        "id": f"chatcmpl-{chance.getrandbits(96):024x}", "trace_id": f"tr-{number}", "call_type": "acompletion",
        "stream": True, "response_cost": 0.0021, "status": "success", "custom_llm_provider": provider,
        "total_tokens": prompt + out, "prompt_tokens": prompt, "completion_tokens": out, "startTime": start,
        "endTime": start + took, "completionStartTime": start + took / 4, "response_time": took, "model": model,
        "model_id": "dep-1", "model_group": "prod-chat", "api_base": "https://api.example.org",
        "metadata": {"user_api_key_hash": "88dc28", "user_api_key_team_id": "team-a",
                     "user_api_key_org_id": f"tenant-{number % 3}", "user_api_key_end_user_id": f"u{number % 999}",
                     "usage_object": usage},
        "cache_hit": False, "request_tags": ["ab:b"], "end_user": f"u{number % 999}",
        "model_parameters": {"temperature": 0}, "hidden_params": {"litellm_overhead_time_ms": 3.1},
    }  # fmt: skip


def otel_genai(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """One OTLP span with the attributes that the conventions recommend."""
    provider, model = MODELS[number % len(MODELS)]
    start = int(moment.timestamp() * 1e9)
    prompt, out = chance.randrange(50, 4000), chance.randrange(1, 900)

    def attribute(key: str, kind: str, value: object) -> dict[str, object]:
        return {"key": key, "value": {kind: value}}

    return {
        "traceId": f"{chance.getrandbits(128):032x}", "spanId": f"{chance.getrandbits(64):016x}", "parentSpanId": "",
        "name": f"chat {model}", "kind": "SPAN_KIND_CLIENT", "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + int(chance.lognormvariate(21, 0.6))),
        "attributes": [
            attribute("gen_ai.operation.name", "stringValue", "chat"),
            attribute("gen_ai.provider.name", "stringValue", provider),
            attribute("gen_ai.request.model", "stringValue", model),
            attribute("gen_ai.response.model", "stringValue", model),
            attribute("gen_ai.response.id", "stringValue", f"chatcmpl-{chance.getrandbits(64):016x}"),
            attribute("gen_ai.request.stream", "boolValue", True),
            attribute("gen_ai.response.time_to_first_chunk", "doubleValue", 0.42),
            attribute("gen_ai.usage.input_tokens", "intValue", str(prompt)),
            attribute("gen_ai.usage.cache_read.input_tokens", "intValue", str(prompt // 2)),
            attribute("gen_ai.usage.output_tokens", "intValue", str(out)),
            attribute("gen_ai.usage.reasoning.output_tokens", "intValue", "0"),
            attribute("server.address", "stringValue", "api.example.org"),
        ],
        "status": {"code": "STATUS_CODE_UNSET"},
    }  # fmt: skip


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counts(chance: random.Random) -> tuple[int, int, int]:
    """Input tokens, how many of them were cached, and output tokens."""
    prompt = chance.randrange(50, 4000)
    return prompt, prompt // 2, chance.randrange(1, 900)


def azure_trace(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A row of the public Azure trace, as JSON."""
    prompt, _, out = _counts(chance)
    return {
        "TIMESTAMP": moment.strftime("%Y-%m-%d %H:%M:%S.%f0"),
        "ContextTokens": prompt,
        "GeneratedTokens": out,
    }


def llmperf(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A call of the LLMPerf benchmark."""
    prompt, _, out = _counts(chance)
    took = chance.lognormvariate(0.5, 0.6)
    return {
        "provider": "anyscale", "model": "llama-2-70b", "request_no": number, "error_code": "",
        "ttft_s": took / 4, "end_to_end_latency_s": took, "input_tokens": prompt, "output_tokens": out,
    }  # fmt: skip


def mooncake(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A request of the Mooncake trace with ten prefix blocks."""
    prompt, _, out = _counts(chance)
    blocks = [chance.getrandbits(16) for _ in range(10)]
    return {"timestamp": number * 7, "input_length": prompt, "output_length": out, "hash_ids": blocks}


def cloudflare_ai_gateway(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A log of the gateway with metadata that names a team and a user."""
    provider, model = MODELS[number % len(MODELS)]
    prompt, _, out = _counts(chance)
    return {
        "id": f"01{chance.getrandbits(110):028X}", "provider": provider, "model": model,
        "model_type": "text-generation", "path": "chat/completions", "request_type": "chat",
        "request_content_type": "application/json", "response_content_type": "text/event-stream",
        "status_code": 200, "success": True, "cached": number % 10 == 0, "tokens_in": prompt, "tokens_out": out,
        "cost": 0.0002, "custom_cost": False, "duration": chance.randrange(200, 9000), "step": 0,
        "metadata": json.dumps({"team": f"team-{number % 5}", "user": f"u{number % 999}"}),
        "created_at": _iso(moment),
    }  # fmt: skip


def bedrock_invocations(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A Converse call with a body of about a kilobyte."""
    prompt, cached, out = _counts(chance)
    usage = {
        "inputTokens": prompt - cached, "outputTokens": out, "totalTokens": prompt + out,
        "cacheReadInputTokens": cached, "cacheWriteInputTokens": 0,
    }  # fmt: skip
    return {
        "schemaType": "ModelInvocationLog", "schemaVersion": "1.0", "timestamp": _iso(moment),
        "accountId": "123456789012", "identity": {"arn": "arn:aws:sts::123456789012:assumed-role/app/session"},
        "region": "us-east-1", "requestId": f"{chance.getrandbits(128):032x}", "operation": "Converse",
        "modelId": "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "inferenceRegion": "us-west-2",
        "requestMetadata": {"team": f"team-{number % 5}"},
        "input": {"inputContentType": "application/json", "inputTokenCount": prompt - cached,
                  "inputBodyJson": {"messages": [{"role": "user", "content": [{"text": "word " * 100}]}]}},
        "output": {"outputContentType": "application/json", "outputTokenCount": out,
                   "outputBodyJson": {"output": {"message": {"content": [{"text": "word " * 100}]}},
                                      "usage": usage, "metrics": {"latencyMs": chance.randrange(200, 9000)}}},
    }  # fmt: skip


def openai_api(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A chat completion with an answer of half a kilobyte."""
    prompt, cached, out = _counts(chance)
    return {
        "id": f"chatcmpl-{chance.getrandbits(96):024x}", "object": "chat.completion",
        "created": int(moment.timestamp()), "model": "gpt-4o-2024-08-06", "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 100}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": out, "total_tokens": prompt + out,
                  "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
                  "completion_tokens_details": {"reasoning_tokens": out // 2, "audio_tokens": 0,
                                                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}},
    }  # fmt: skip


def anthropic_api(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A message of half a kilobyte with the time of its request beside it."""
    prompt, cached, out = _counts(chance)
    return {
        "timestamp": _iso(moment), "latency_ms": chance.randrange(200, 9000),
        "response": {
            "id": f"msg_{chance.getrandbits(96):024x}", "type": "message", "role": "assistant",
            "model": "claude-sonnet-4-5-20250929", "stop_reason": "end_turn", "stop_sequence": None,
            "content": [{"type": "text", "text": "word " * 100}],
            "usage": {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": out,
                      "cache_creation_input_tokens": 100, "service_tier": "standard", "inference_geo": "global",
                      "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}},
        },
    }  # fmt: skip


def gemini_api(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """An answer of half a kilobyte with its modalities."""
    prompt, cached, out = _counts(chance)
    return {
        "candidates": [{"content": {"parts": [{"text": "word " * 100}], "role": "model"}, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": prompt, "cachedContentTokenCount": cached, "candidatesTokenCount": out,
            "thoughtsTokenCount": 100, "totalTokenCount": prompt + out + 100, "trafficType": "ON_DEMAND",
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": cached}],
            "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": out}],
        },
        "modelVersion": "gemini-2.5-flash", "createTime": _iso(moment),
        "responseId": f"{chance.getrandbits(96):024x}",
    }  # fmt: skip


def langfuse(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A generation of the API with input and output of half a kilobyte each."""
    prompt, cached, out = _counts(chance)
    end = moment + timedelta(seconds=chance.lognormvariate(0.5, 0.6))
    usage: dict[str, Any] = {"input": prompt - cached, "input_cached_tokens": cached, "output": out}
    return {
        "id": f"{chance.getrandbits(64):016x}", "traceId": f"{chance.getrandbits(128):032x}", "type": "GENERATION",
        "parentObservationId": f"{chance.getrandbits(64):016x}", "name": "answer", "startTime": _iso(moment),
        "endTime": _iso(end), "completionStartTime": _iso(moment), "level": "DEFAULT", "statusMessage": None,
        "environment": "production", "model": "gpt-4o", "modelParameters": {"temperature": 0},
        "input": "word " * 100, "output": "word " * 100, "metadata": {"a": 1},
        "usageDetails": {**usage, "total": prompt + out},
        "costDetails": {"input": 0.00044, "input_cached_tokens": 0.00128, "output": 0.00038, "total": 0.0021},
        "latency": 2.35, "promptName": "qa", "promptVersion": 7, "userId": f"u{number % 999}",
    }  # fmt: skip


def helicone(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """A request as the API exports it, without bodies."""
    prompt, cached, out = _counts(chance)
    took = chance.randrange(200, 9000)
    return {
        "request_id": f"{chance.getrandbits(128):032x}", "response_id": f"{chance.getrandbits(128):032x}",
        "request_created_at": _iso(moment), "response_created_at": _iso(moment + timedelta(milliseconds=took)),
        "response_status": 200, "request_model": "gpt-4o", "response_model": "gpt-4o-2024-08-06",
        "model_override": None, "provider": "OPENAI", "request_path": "/v1/chat/completions",
        "request_user_id": f"u{number % 999}", "delay_ms": took, "time_to_first_token": took // 4,
        "request_properties": {"Helicone-Session-Id": f"s-{number % 99}", "variant": "b"},
        "total_tokens": prompt + out, "prompt_tokens": prompt, "prompt_cache_read_tokens": cached,
        "prompt_cache_write_tokens": 0, "completion_tokens": out, "country_code": "US", "scores": {},
        "costUSD": 0.0021,
    }  # fmt: skip


def portkey(number: int, moment: datetime, chance: random.Random) -> dict[str, object]:
    """An exported log without bodies."""
    provider, model = MODELS[number % len(MODELS)]
    prompt, _, out = _counts(chance)
    return {
        "id": f"pk-{chance.getrandbits(96):024x}", "trace_id": f"tr-{number}", "created_at": _iso(moment),
        "is_success": True, "ai_org": provider, "ai_model": model, "req_units": prompt, "res_units": out,
        "total_units": prompt + out, "request_url": "https://api.example.org/v1/chat/completions", "cost": 0.21,
        "cost_currency": "USD", "response_time": chance.randrange(200, 9000), "response_status_code": 200,
        "mode": "single", "config": "cfg-1", "prompt_slug": "qa", "metadata": {"_user": f"u{number % 999}"},
    }  # fmt: skip


MAKERS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        native, azure_trace, llmperf, mooncake, otel_genai, litellm, cloudflare_ai_gateway, bedrock_invocations,
        openai_api,        anthropic_api, gemini_api, langfuse, helicone, portkey,
    )
}  # fmt: skip
"""A maker for every dialect, by the dialect's name."""
