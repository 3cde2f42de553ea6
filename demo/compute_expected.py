"""Computes what the demo must come out with, from the shipped files and nothing of the project's own.

Run as `python demo/compute_expected.py > demo/expected.json`. Rows are read with `json` and `csv`,
priced by the genai-prices library on the usage that the provider's answer itself holds (so not on
the token buckets of the record) or by `contract-prices.yaml`, and summed as `Decimal`. Slow and
plain on purpose: the project's ingestion, pricing and rollups are tested against it.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider, Usage

DEMO = Path(__file__).parent
COMPARISON_TENANT = "default"
"""The llmperf calls state no tenant, and the landing folder, from which the demo takes them, fixes none."""
NO_ANSWER = ("429", "-1")
"""llmperf's error codes of calls that got no answer; the others got one, and pay for it."""
PLACES = Decimal("1e-12")


@dataclass(frozen=True)
class Attempt:
    """One attempt that is taken, with what it costs; `cost` None: it cannot be priced."""

    tenant: str
    application: str | None
    provider: str
    model: str
    status: str
    at: datetime
    cost_status: str
    cost: Decimal | None
    assumed: bool
    input_tokens: int
    output_tokens: int
    latency_ms: Decimal | None
    ttft_ms: Decimal | None


@dataclass(frozen=True)
class Answer:
    """What a provider's real answer says: its usage, read by the price library."""

    usage: Usage
    provider: Provider | None
    model: ModelInfo | None
    consistent: bool
    """Whether the total that the answer states, if any, is input plus output."""


class Prices:
    """The price library, and the contract file for what it lacks."""

    def __init__(self) -> None:
        self._costs: dict[tuple[int, int], Decimal] = {}

    @cached_property
    def contract(self) -> dict[tuple[str, str], Mapping[str, Decimal]]:
        """Prices per million tokens by provider and model; each entry of the demo's file is always valid."""
        import yaml

        held = yaml.safe_load((DEMO / "contract-prices.yaml").read_text())
        return {
            (entry["provider"], entry["model"]): {
                side: Decimal(str(price)) for side, price in entry["per_million_tokens"].items()
            }
            for entry in held["prices"]
        }

    @cached_property
    def answers(self) -> dict[int, Answer]:
        """The shipped payloads by their line in the source file."""
        lines = (DEMO / "data" / "payloads.jsonl").read_text().splitlines()
        return {held["line"]: self._answer(held) for held in map(json.loads, lines)}

    @staticmethod
    def _answer(held: Mapping[str, Any]) -> Answer:
        from genai_prices.data import providers

        known = {provider.id: provider for provider in providers}
        provider = known.get(held["provider"])
        reader = provider or known["openai"]  # Ollama answers in OpenAI's format and is in no price list.
        _, usage = reader.extract_usage(held["body"], api_flavor=held["api_flavor"])
        stated = held["body"].get("usage") or held["body"]["usageMetadata"]
        total = stated.get("total_tokens", stated.get("totalTokenCount"))
        model = held["model"].removeprefix("models/")  # Google's name of a resource: models/<model>
        return Answer(
            usage=usage,
            provider=provider,
            model=provider.find_model(model, all_providers=providers) if provider else None,
            consistent=total in (None, int(usage.input_tokens) + int(usage.output_tokens)),
        )

    def of_answer(
        self, line: int, record: Mapping[str, Any], at: datetime
    ) -> tuple[str, Decimal | None, bool]:
        """Cost status, cost, and whether the price is an assumed one."""
        answer = self.answers[line]
        if not answer.consistent:
            return "inconsistent", None, False
        if (record["provider"], record["model"]) in self.contract:
            cost = self.of_tokens(
                record["provider"],
                record["model"],
                int(answer.usage.input_tokens),
                int(answer.usage.output_tokens),
            )
            return "priced", cost, True
        if answer.provider is None or answer.model is None:
            return "unpriced", None, False
        offer = answer.model.get_prices(at)  # one object per span of validity
        if (line, id(offer)) not in self._costs:
            price = answer.model.calc_price(answer.usage, answer.provider, genai_request_timestamp=at)
            self._costs[line, id(offer)] = price.total_price
        return "priced", self._costs[line, id(offer)], False

    def of_tokens(self, provider: str, model: str, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Cost by the contract file; None where it has no such model."""
        prices = self.contract.get((provider, model))
        if prices is None:
            return None
        return (prices["input"] * input_tokens + prices["output"] * output_tokens) / 1_000_000


@dataclass
class Rows:
    """What became of the rows of some files."""

    files: int = 0
    rows_in: int = 0
    taken: int = 0
    duplicates: int = 0
    quarantined: int = 0


def native(prices: Prices, rows: Rows, quarantine: list[dict[str, object]]) -> Iterator[Attempt]:
    """The attempts of the native files, in the order in which the files are named."""
    landing = DEMO / "data" / "landing"
    seen: set[tuple[str, str, int]] = set()
    for file in sorted(landing.glob("native/*/*/*.jsonl.gz")):
        rows.files += 1
        for number, line in enumerate(gzip.decompress(file.read_bytes()).decode().splitlines(), start=1):
            rows.rows_in += 1
            fault = fault_of(line)
            if fault is not None:
                rows.quarantined += 1
                path = file.relative_to(landing / "native").as_posix()
                quarantine.append({"file": path, "line": number, "fault": fault})
                continue
            record = json.loads(line, parse_float=Decimal)
            identity = (record["tenant"], record["event_id"], record["attempt"])
            if identity in seen:
                rows.duplicates += 1
                continue
            seen.add(identity)
            rows.taken += 1
            yield priced(record, prices)


def fault_of(line: str) -> str | None:
    """Why a row cannot be taken: it is no JSON, or its maker says so in a tag."""
    try:
        tags = json.loads(line)["tags"]
    except ValueError:
        return "cut off"
    fault = tags.get("malformed")
    return None if fault is None else str(fault)


def priced(record: Mapping[str, Any], prices: Prices) -> Attempt:
    at = datetime.fromisoformat(record["ts"])
    line = record["tags"]["payload"]
    usage = prices.answers[line].usage if "usage" in record else None
    cost_status, cost, assumed = (
        ("not_billed", Decimal(0), False) if usage is None else prices.of_answer(line, record, at)
    )
    return Attempt(
        tenant=record["tenant"],
        application=record["application"],
        provider=record["provider"],
        model=record["model"],
        status=record["status"],
        at=at,
        cost_status=cost_status,
        cost=cost,
        assumed=assumed,
        input_tokens=int(usage.input_tokens) if usage else 0,
        output_tokens=int(usage.output_tokens) if usage else 0,
        latency_ms=record.get("latency_ms"),
        ttft_ms=record.get("ttft_ms"),
    )


def comparison(prices: Prices, rows: Rows) -> Iterator[Attempt]:
    """The llmperf calls, which state no time: they count for the hour of their folder."""
    (file,) = (DEMO / "data" / "landing").glob("llmperf/*/*/*.csv")
    day, hour = (part.split("=")[1] for part in file.parts[-3:-1])
    at = datetime.fromisoformat(f"{day}T{hour}:00:00").replace(tzinfo=UTC)
    rows.files += 1
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            rows.rows_in += 1
            rows.taken += 1
            code = row["error_code"]
            answered = code not in NO_ANSWER
            tokens = int(row["input_tokens"]), int(row["output_tokens"])
            cost = prices.of_tokens(row["provider"], row["model"], *tokens) if answered else Decimal(0)
            yield Attempt(
                tenant=COMPARISON_TENANT,
                application=None,
                provider=row["provider"],
                model=row["model"],
                status="success" if not code else "error_billed" if answered else "error_unbilled",
                at=at,
                cost_status="not_billed" if not answered else "unpriced" if cost is None else "priced",
                cost=cost,
                assumed=answered and cost is not None,
                input_tokens=tokens[0] if answered else 0,
                output_tokens=tokens[1] if answered else 0,
                latency_ms=Decimal(row["end_to_end_latency_s"]) * 1000,
                ttft_ms=Decimal(row["ttft_s"]) * 1000,
            )


def summary(attempts: Sequence[Attempt]) -> dict[str, object]:
    """Counts, exact sums, and nearest-rank percentiles over the successful attempts."""
    billable = [a for a in attempts if a.cost_status != "not_billed"]
    good = [a for a in attempts if a.status == "success"]
    return {
        "attempts": len(attempts),
        "errors": sum(a.status.startswith("error") for a in attempts),
        "by_cost_status": dict(sorted(Counter(a.cost_status for a in attempts).items())),
        "billable": len(billable),
        "priced": sum(a.cost is not None for a in billable),
        "priced_by_assumed_price": sum(a.assumed for a in billable),
        "cost": money(a.cost for a in billable),
        "input_tokens": sum(a.input_tokens for a in attempts),
        "output_tokens": sum(a.output_tokens for a in attempts),
        "latency_ms": percentiles([a.latency_ms for a in good if a.latency_ms is not None]),
        "ttft_ms": percentiles([a.ttft_ms for a in good if a.ttft_ms is not None]),
    }


def money(costs: Iterator[Decimal | None]) -> str | None:
    """The sum to twelve decimals, which is exact; None where nothing has a price."""
    known = [cost for cost in costs if cost is not None]
    if inexact := [cost for cost in known if cost != cost.quantize(PLACES)]:
        raise ValueError(f"{inexact[0]} has more than twelve decimals: sums would depend on rounding")
    return format(sum(known, Decimal(0)).quantize(PLACES), "f") if known else None


def percentiles(values: Sequence[Decimal]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"p{share}": float(ordered[max(math.ceil(len(ordered) * share / 100), 1) - 1])
        for share in (50, 95, 99)
        if ordered
    }


def grouped(attempts: Sequence[Attempt], *names: str) -> list[dict[str, object]]:
    """Summaries by some columns of an attempt, `day` included, in their order."""
    groups: dict[tuple[str, ...], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        values = (
            f"{attempt.at:%Y-%m-%d}" if name == "day" else str(getattr(attempt, name)) for name in names
        )
        groups[tuple(values)].append(attempt)
    return [{**dict(zip(names, key, strict=True)), **summary(groups[key])} for key in sorted(groups)]


def expected() -> dict[str, object]:
    """All expected figures of the demo."""
    from genai_prices import __version__

    prices = Prices()
    quarantine: list[dict[str, object]] = []
    rows = {"native": Rows(), "llmperf": Rows()}
    replayed = list(native(prices, rows["native"], quarantine))
    calls = list(comparison(prices, rows["llmperf"]))
    both = [*replayed, *calls]
    return {
        "about": "made by demo/compute_expected.py; percentiles are nearest-rank, over successful attempts",
        "genai_prices": __version__,
        "currency": "USD",
        "rows": {name: vars(counted) for name, counted in rows.items()},
        "quarantine": quarantine,
        "total": summary(both),
        "by_status": dict(sorted(Counter(a.status for a in both).items())),
        "by_tenant": grouped(both, "tenant"),
        "by_application": grouped(replayed, "tenant", "application"),
        "by_model": grouped(both, "provider", "model"),
        "by_day": grouped(both, "day"),
        "without_price": [
            {"provider": provider, "model": model, "attempts": count}
            for (provider, model), count in sorted(
                Counter((a.provider, a.model) for a in both if a.cost_status == "unpriced").items()
            )
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(expected(), indent=1) + "\n")
