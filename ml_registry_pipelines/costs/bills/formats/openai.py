"""OpenAI's organisation costs and usage: buckets of the Usage API.

Costs: one day per bucket, an amount in whole units of a lower-case currency, by line item and project.
Usage: `input_tokens` includes cached and cache-write tokens, so what is left of them is uncached;
`output_tokens` includes reasoning.
Described at https://platform.openai.com/docs/api-reference/usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from ml_registry_pipelines.costs.bills.lines import (
    Given,
    Line,
    LineError,
    amount,
    count,
    currency_of,
    from_epoch,
    period,
    text,
)

COSTS, USAGE = "openai_costs", "openai_usage"
PROVIDER = "openai"
COSTS_RESULT = "organization.costs.result"
USAGE_RESULT = ("organization.usage.", ".result")
DIMENSIONS: Mapping[str | None, tuple[str, ...]] = {
    COSTS: ("api_key_id", "line_item", "project_id", "user_id"),
    USAGE: ("api_key_id", "batch", "model", "project_id", "service_tier", "user_id"),
}
"""What a report may be grouped by; a result says it of its own dimensions only."""

_QUANTITIES: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "embeddings": (("input_tokens", "input", "tokens"),),
    "moderations": (("input_tokens", "input", "tokens"),),
    "images": (("images", "images", "images"),),
    "audio_speeches": (("characters", "characters", "characters"),),
    "audio_transcriptions": (("seconds", "seconds", "seconds"),),
    "vector_stores": (("usage_bytes", "storage", "bytes"),),
    "code_interpreter_sessions": (("num_sessions", "sessions", "sessions"),),
}


def is_bucket(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a bucket of either report."""
    return "start_time" in value and "end_time" in value and "results" in value


def bounds(bucket: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """The period of a bucket: Unix seconds, the end exclusive."""
    return period(from_epoch(bucket["start_time"], "start_time"), from_epoch(bucket["end_time"], "end_time"))


def report_of(result: Mapping[str, Any]) -> str | None:
    """Which report a result is of."""
    name = str(result.get("object", ""))
    if name == COSTS_RESULT or (not name and isinstance(result.get("amount"), dict)):
        return COSTS
    return USAGE if name.startswith(USAGE_RESULT[0]) and name.endswith(USAGE_RESULT[1]) else None


def lines(
    result: Mapping[str, Any], start: datetime, end: datetime, given: Given, grouping: str | None
) -> Iterator[Line]:
    """The lines of one result.

    Raises:
        LineError: it does not say what such a result has to.
    """
    report = report_of(result)
    shared = {
        "provider": given.provider or PROVIDER,
        "issuer": PROVIDER,
        "period_start": start,
        "period_end": end,
        "tenant": given.tenant,
        "account": given.account,
        "sub_account": text(result.get("project_id")),
        "api_key_id": text(result.get("api_key_id")),
        "grouping": grouping,
        "identity": tuple(
            f"{name}={result[name]}" for name in ("user_id", "batch") if result.get(name) is not None
        ),
    }
    if report == COSTS:
        yield _cost(result, given, shared)
    elif report == USAGE:
        yield from _usage(result, shared)
    else:
        raise LineError(
            "unknown_result",
            f"object is {str(result.get('object'))[:60]!r}; it has to be {COSTS_RESULT} or a usage result",
        )


def _cost(result: Mapping[str, Any], given: Given, shared: Mapping[str, Any]) -> Line:
    stated = result.get("amount")
    if not isinstance(stated, dict):
        raise LineError("missing_amount", "amount is missing; it has to be an object with value and currency")
    value = amount(stated.get("value"), "amount.value")
    item = text(result.get("line_item"))
    model, kind = _parts(item)
    quantity = result.get("quantity")
    return Line(
        report=COSTS,
        kind="cost",
        line_item=item,
        model=model,
        token_kind=kind,
        charge="usage",
        amount=value,
        currency=currency_of(stated.get("currency"), given, "amount.currency"),
        quantity=None if quantity is None else amount(quantity, "quantity"),
        unit=None if quantity is None else "units",
        **shared,
    )


def _parts(item: str | None) -> tuple[str | None, str | None]:
    """Model and kind of a line item such as `gpt-4o-2024-08-06, input`; one without a comma is no model."""
    name, comma, kind = (item or "").partition(", ")
    return (name, kind) if comma and name and kind else (None, None)


def _usage(result: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Line]:
    what = str(result["object"]).removeprefix(USAGE_RESULT[0]).removesuffix(USAGE_RESULT[1])
    found: list[tuple[str, int, str]] = []
    if what == "completions":
        whole = count(result.get("input_tokens"), "input_tokens")
        cached = count(result.get("input_cached_tokens") or 0, "input_cached_tokens")
        written = count(result.get("input_cache_write_tokens") or 0, "input_cache_write_tokens")
        if cached + written > whole:
            raise LineError(
                "contradiction",
                f"input_tokens is {whole} and holds {cached} cached and {written} cache-write tokens, which is more",
            )
        found += [
            ("input_uncached", whole - cached - written, "tokens"),
            ("input_cached", cached, "tokens"),
            ("input_cache_write", written, "tokens"),
            ("output", count(result.get("output_tokens"), "output_tokens"), "tokens"),
        ]
    elif what in _QUANTITIES:
        found += [(kind, count(result.get(name), name), unit) for name, kind, unit in _QUANTITIES[what]]
    else:
        raise LineError("unknown_result", f"no usage of the kind {what[:60]!r} is known")
    if result.get("num_model_requests") is not None:
        found.append(("requests", count(result["num_model_requests"], "num_model_requests"), "requests"))
    for kind, number, unit in found:
        if number or kind == "requests":
            yield Line(
                report=USAGE,
                kind="usage",
                product=what,
                model=text(result.get("model")),
                token_kind=kind,
                service_tier=text(result.get("service_tier")),
                quantity=Decimal(number),
                unit=unit,
                charge="usage",
                **shared,
            )
