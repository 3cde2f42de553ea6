"""Builds the demo's data from its published sources, the same bytes every time.

Run as `python demo/build_data.py --from SOURCES --to demo/data`. SOURCES holds
`azure_llm_code_trace.csv`, `llmperf_requests.csv`, `usage_payloads.jsonl`, `compas_two_years.csv` and
`german_credit.csv`, which the project does not ship; what it ships is the outcome, below `demo/data`.

What is real, what is assumed and by which rule is told in `demo/README.md`. What the outcome
should cost is computed elsewhere, by `compute_expected.py`, which shares no code with this.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import shutil
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from genai_prices.types import Provider, Usage

FIRST_DAY = date(2026, 10, 2)
DAYS = 30
SEED = 20261031
REQUESTS_PER_ARRIVAL = 6
MOST_ATTEMPTS = 3
RETRY_AFTER = timedelta(seconds=1)
ASSUMED = "time tenant application latency status"
"""Which parts of a record no source states; every record carries it as a tag."""
REFUSED = {"429": "rate_limited", "-1": "request_failed"}
"""Error codes of llmperf calls that got no answer: the attempt costs nothing, and another follows."""
CUT_SHORT = {"-100": "output_too_short"}
"""Error codes of calls that got an answer, which is billed, but a shorter one than was asked for."""

NAMES = {
    "deepseek-reasoner": "deepseek",
    "glm-4.7": "zhipuai",
    "gpt-oss:20b": "ollama",
    "zai-glm-4.7": "cerebras",
}
"""Model names that one provider alone uses, in just this spelling."""
FIRST_LETTERS = (
    ("gpt-4", "openai"),
    ("gpt-5", "openai"),
    ("o3-", "openai"),
    ("text-embedding-3", "openai"),
    ("gemini-", "google"),
    ("mistral-", "mistral"),
    ("anthropic/", "openrouter"),
    ("google/", "openrouter"),
    ("openai/", "openrouter"),
    ("x-ai/", "openrouter"),
    ("z-ai/", "openrouter"),
)
"""How the names of one provider begin, once Groq's timings have been looked for."""

GERMAN_CREDIT = (
    *("account", "months", "history", "purpose", "amount", "savings", "employed_since", "instalment_rate"),
    *("sex_and_marital_status", "other_debtors", "resident_since", "property", "age", "other_instalments"),
    *("housing", "credits", "job", "dependants", "telephone", "foreign_worker", "risk"),
)
"""Columns of a file that names none, in our words, in the order in which UCI describes them."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Application:
    """One application of one tenant, with its share of all requests and of its providers, in percent."""

    tenant: str
    name: str
    share: int
    providers: Mapping[str, int]


APPLICATIONS = (
    Application("acme", "code-assistant", 30, {"anthropic": 60, "openai": 30, "openrouter": 10}),
    Application("acme", "support-chat", 22, {"openai": 70, "google": 20, "mistral": 10}),
    Application("globex", "document-extraction", 18, {"google": 80, "openai": 20}),
    Application("globex", "translation", 8, {"mistral": 60, "groq": 20, "deepseek": 10, "zhipuai": 10}),
    Application("initech", "meeting-notes", 12, {"groq": 50, "google": 30, "openai": 20}),
    Application(
        "initech",
        "research-agent",
        10,
        {"openrouter": 30, "openai": 30, "anthropic": 20, "ollama": 15, "cerebras": 5},
    ),
)

LATE_TENANT, LATE_DAY, LATE_HOURS = "globex", date(2026, 10, 19), range(6, 12)
"""Rows that are missing from their day's file and arrive in a file of the next morning."""
RESENT_DAY = date(2026, 10, 15)
"""The day whose file is sent a second time."""
MALFORMED_DAY = date(2026, 10, 24)
"""The day in whose file rows stand that nobody can take."""
LLMPERF_LANDING = "llmperf/dt=2026-10-31/hh=12/20261031T120000Z-llmperf.csv"


@dataclass(frozen=True)
class Payload:
    """One real answer of one provider's API: who gave it, and what it says of its usage."""

    line: int
    provider: str
    api_flavor: str
    model: str
    body: Mapping[str, Any]
    usage: Mapping[str, int]
    """Disjoint token buckets above zero, and `total` where the provider states one."""


@dataclass(frozen=True)
class Call:
    """One call that llmperf made: its times in ms, or the failure."""

    line: int
    error: str | None
    ttft_ms: float
    latency_ms: float


Record = dict[str, Any]


def provider_of(model: str | None, body: Mapping[str, Any]) -> str | None:
    """Who answered with `body`; None where neither its shape nor the model's name tells."""
    if model is None:
        return None
    if "usageMetadata" in body:
        return "google"
    if "queue_time" in body["usage"]:
        return "groq"
    if model.startswith("claude-"):
        return "anthropic" if "cache_creation" in body["usage"] else None
    if model in NAMES:
        return NAMES[model]
    return next((provider for start, provider in FIRST_LETTERS if model.startswith(start)), None)


def api_flavor_of(provider: str, body: Mapping[str, Any]) -> str:
    """Which of the provider's extractors in the price library reads `body`."""
    if provider in ("anthropic", "groq", "mistral") or "usageMetadata" in body:
        return "default"
    if "input_tokens" in body["usage"]:
        return "default" if provider == "openrouter" else "responses"
    return "chat" if "completion_tokens" in body["usage"] else "embeddings"


REPORTED = (
    "input_tokens",
    "cache_read_tokens",
    "cache_audio_read_tokens",
    "cache_image_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "input_video_tokens",
    "output_tokens",
    "output_reasoning_tokens",
    "output_audio_tokens",
    "output_image_tokens",
)


def buckets(usage: Usage) -> dict[str, int]:
    """The disjoint token buckets of what the library extracted, where a count includes its subsets.

    A cache write of unstated duration counts as the 5-minute one; the library counts the tokens
    of a document as image tokens.
    """
    reported = {name: int(usage.reported_value(name)) for name in REPORTED}
    cached, cached_audio, cached_image = (
        reported[name] for name in ("cache_read_tokens", "cache_audio_read_tokens", "cache_image_read_tokens")
    )
    written, written_1h = reported["cache_write_tokens"], reported["cache_write_1h_tokens"]
    audio = reported["input_audio_tokens"] - cached_audio
    image = reported["input_image_tokens"] - cached_image
    video = reported["input_video_tokens"]
    reasoning, audio_out, image_out = (
        reported[name] for name in ("output_reasoning_tokens", "output_audio_tokens", "output_image_tokens")
    )
    counts = {
        "in_uncached": reported["input_tokens"] - cached - written - audio - image - video,
        "in_cache_read": cached - cached_audio - cached_image,
        "in_cache_read_audio": cached_audio,
        "in_cache_read_image": cached_image,
        "in_cache_write_5m": written - written_1h,
        "in_cache_write_1h": written_1h,
        "in_audio": audio,
        "in_image": image,
        "in_video": video,
        "out_text": reported["output_tokens"] - reasoning - audio_out - image_out,
        "out_reasoning": reasoning,
        "out_audio": audio_out,
        "out_image": image_out,
    }
    if negative := [name for name, count in counts.items() if count < 0]:
        raise ValueError(f"the buckets {negative} of {usage} are below zero: its subsets overlap")
    return {name: count for name, count in counts.items() if count}


def read_payloads(path: Path) -> tuple[list[Payload], int]:
    """The payloads whose provider can be told, and how many others there are."""
    from genai_prices.data import providers

    extractors: dict[str, Provider] = {provider.id: provider for provider in providers}
    extractors["ollama"] = extractors["openai"]  # it answers in OpenAI's chat format
    payloads: list[Payload] = []
    others = 0
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        entry = json.loads(text)
        provider = provider_of(entry["model"], entry["body"])
        if provider is None:
            others += 1
            continue
        flavor = api_flavor_of(provider, entry["body"])
        _, usage = extractors[provider].extract_usage(entry["body"], api_flavor=flavor)
        counts = buckets(usage)
        stated = entry["body"].get("usage") or entry["body"]["usageMetadata"]
        total = stated.get("total_tokens", stated.get("totalTokenCount"))
        if total is not None:
            counts["total"] = total
        payloads.append(Payload(line, provider, flavor, entry["model"], entry["body"], counts))
    return payloads, others


def read_calls(path: Path) -> list[Call]:
    with path.open(newline="") as lines:
        return [
            Call(
                line=line,
                error=row["error_code"] or None,
                ttft_ms=round(float(row["ttft_s"]) * 1000, 1),
                latency_ms=round(float(row["end_to_end_latency_s"]) * 1000, 1),
            )
            for line, row in enumerate(csv.DictReader(lines), start=2)
        ]


def read_arrivals(path: Path) -> list[datetime]:
    with path.open(newline="") as lines:
        return [
            datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC) for row in csv.DictReader(lines)
        ]


def stretched(arrivals: Sequence[datetime]) -> list[datetime]:
    """The arrivals on a linear time scale of `DAYS` days, followed by the end of the last day.

    The first arrival falls on the first midnight; the last one keeps a slot of mean length before
    the end.
    """
    start = datetime.combine(FIRST_DAY, datetime.min.time(), UTC)
    span = arrivals[-1] - arrivals[0]
    factor = timedelta(days=DAYS) / (span + span / (len(arrivals) - 1))
    return [start + (at - arrivals[0]) * factor for at in arrivals] + [start + timedelta(days=DAYS)]


class Dice:
    """Seeded choices, one number of the generator each, so that a build repeats itself everywhere."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def share(self) -> float:
        """A number from 0 up to, but not including, 1."""
        return self._random.random()

    def one_of(self, values: Sequence[T]) -> T:
        return values[int(self.share() * len(values))]

    def weighted(self, weights: Mapping[T, int]) -> T:
        bounds = list(accumulate(weights.values()))
        return list(weights)[bisect_right(bounds, self.share() * bounds[-1])]


def replay(
    arrivals: Sequence[datetime], payloads: Sequence[Payload], calls: Sequence[Call], dice: Dice
) -> Iterator[Record]:
    """Every attempt of every request; `arrivals` ends with the instant at which the last slot ends.

    The first request of an arrival starts with it, the others at drawn times before the next.
    """
    shares = {application: application.share for application in APPLICATIONS}
    answers: dict[str, list[Payload]] = defaultdict(list)
    for payload in payloads:
        answers[payload.provider].append(payload)
    for number, (at, following) in enumerate(pairwise(arrivals), start=1):
        for copy in range(REQUESTS_PER_ARRIVAL):
            start = at + (following - at) * dice.share() if copy else at
            application = dice.weighted(shares)
            payload = dice.one_of(answers[dice.weighted(application.providers)])
            request = f"{number:04}-{copy}"
            yield from attempts(
                request, start, application, payload, [dice.one_of(calls) for _ in range(MOST_ATTEMPTS)]
            )


def attempts(
    request: str, start: datetime, application: Application, payload: Payload, drawn: Sequence[Call]
) -> Iterator[Record]:
    """One record per drawn call, up to and including the first that was answered."""
    for attempt, call in enumerate(drawn, start=1):
        record: Record = {
            "event_id": request,
            "attempt": attempt,
            "ts": as_text(start),
            "tenant": application.tenant,
            "application": application.name,
            "provider": payload.provider,
            "model": payload.model,
            "status": "success",
        }
        if payload.api_flavor == "embeddings":
            record["operation"] = "embeddings"
        tags = {"assumed": ASSUMED, "payload": payload.line, "call": call.line}
        if call.error in REFUSED:
            yield record | {"status": "error_unbilled", "error_type": REFUSED[call.error], "tags": tags}
            start += RETRY_AFTER
            continue
        if call.error is not None:
            record |= {"status": "error_billed", "error_type": CUT_SHORT[call.error]}
        record["latency_ms"] = call.latency_ms
        if payload.api_flavor != "embeddings":
            record |= {"ttft_ms": call.ttft_ms, "stream": True}
        record["usage"] = payload.usage
        record |= stated_cost_and_tier(payload)
        yield record | {"tags": tags}
        return


def stated_cost_and_tier(payload: Payload) -> Record:
    """What the body itself says of cost (OpenRouter does) and of the service tier."""
    stated = payload.body.get("usage") or payload.body["usageMetadata"]
    said: Record = {}
    if (cost := stated.get("cost")) is not None:
        said |= {"cost": format(Decimal(str(cost)), "f"), "currency": "USD"}
    if (tier := stated.get("service_tier", stated.get("serviceTier"))) is not None:
        said["service_tier"] = tier
    return said


def as_text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def files_of(records: Sequence[Record]) -> dict[str, list[str]]:
    """Lines by path below the landing folder: one file per day, and what went wrong on purpose."""
    days = [FIRST_DAY + timedelta(days=number) for number in range(DAYS)]
    lines: dict[date, list[str]] = {day: [] for day in days}
    late: list[str] = []
    for record in sorted(records, key=lambda record: (record["ts"], record["event_id"], record["attempt"])):
        at = datetime.fromisoformat(record["ts"])
        missed = record["tenant"] == LATE_TENANT and at.date() == LATE_DAY and at.hour in LATE_HOURS
        # The retry of a request of the last second may start after midnight of the last day.
        (late if missed else lines[min(at.date(), days[-1])]).append(as_line(record))
    conflicting = next(line for line in lines[MALFORMED_DAY] if '"status":"success"' in line)
    lines[MALFORMED_DAY] = with_inserted(lines[MALFORMED_DAY], malformed_lines())
    day_after = MALFORMED_DAY + timedelta(days=1)
    lines[day_after] = with_inserted(lines[day_after], [conflict_with(json.loads(conflicting))])

    files = {landing(day, 23, "day"): lines[day] for day in days}
    files[landing(LATE_DAY + timedelta(days=1), 9, "late")] = late
    files[landing(RESENT_DAY + timedelta(days=1), 2, "resent")] = lines[RESENT_DAY]
    return dict(sorted(files.items()))


def landing(day: date, hour: int, name: str) -> str:
    minute = 59 if name == "day" else 15
    return f"native/dt={day}/hh={hour:02}/{day:%Y%m%d}T{hour:02}{minute}00Z-{name}.jsonl.gz"


def as_line(record: Record) -> str:
    return json.dumps(record, separators=(",", ":"))


def with_inserted(lines: Sequence[str], others: Sequence[str]) -> list[str]:
    """The lines with the others among them, at even distances."""
    step = len(lines) // (len(others) + 1)
    mixed = list(lines)
    for number in range(len(others), 0, -1):
        mixed.insert(number * step, others[number - 1])
    return mixed


def malformed_lines() -> list[str]:
    """Rows that nobody can take, each for one reason of its own, which its tag names."""
    sound: Record = {
        "event_id": "",
        "ts": f"{MALFORMED_DAY}T10:00:00.000Z",
        "tenant": "acme",
        "application": "code-assistant",
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "latency_ms": 1000.0,
        "usage": {"in_uncached": 100, "out_text": 10},
    }
    faults: list[tuple[str, Record]] = [
        ("negative tokens", {"usage": {"in_uncached": -100, "out_text": 10}}),
        ("tokens in words", {"usage": {"in_uncached": "many", "out_text": 10}}),
        ("no time", {"ts": "last tuesday"}),
        ("absurd time", {"ts": "2199-10-27T10:00:00.000Z"}),
        ("no id", {"event_id": None}),
        ("unknown status", {"status": "perhaps"}),
    ]
    lines = [
        as_line(sound | {"event_id": f"malformed-{number}"} | fault | {"tags": {"malformed": name}})
        for number, (name, fault) in enumerate(faults, start=1)
    ]
    cut = as_line(sound | {"event_id": "malformed-cut"})
    return [*lines[:3], cut[: len(cut) // 2], *lines[3:]]


def conflict_with(record: Record) -> str:
    """The same request once more, with other tokens: it cannot be told which of the two is right."""
    usage = record["usage"] | {"in_uncached": record["usage"].get("in_uncached", 0) + 1000}
    usage.pop("total", None)
    return as_line(record | {"usage": usage, "tags": {"malformed": "other content under a known id"}})


def write_gz(path: Path, lines: Sequence[str]) -> None:
    """Gzip without a time or a name in its header, so that equal rows are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text, compresslevel=9, mtime=0))


def build(sources: Path, target: Path) -> str:
    """Write the demo's data below `target`, instead of what was there; returns what was done, in words."""
    payloads, others = read_payloads(sources / "usage_payloads.jsonl")
    calls = read_calls(sources / "llmperf_requests.csv")
    arrivals = stretched(read_arrivals(sources / "azure_llm_code_trace.csv"))
    records = list(replay(arrivals, payloads, calls, Dice(SEED)))
    files = files_of(records)

    shutil.rmtree(target / "landing", ignore_errors=True)
    for path, lines in files.items():
        write_gz(target / "landing" / path, lines)
    (target / "landing" / LLMPERF_LANDING).parent.mkdir(parents=True)
    shutil.copyfile(sources / "llmperf_requests.csv", target / "landing" / LLMPERF_LANDING)
    (target / "payloads.jsonl").write_text(
        "".join(
            as_line(
                {
                    "line": p.line,
                    "provider": p.provider,
                    "api_flavor": p.api_flavor,
                    "model": p.model,
                    "body": p.body,
                }
            )
            + "\n"
            for p in payloads
        )
    )
    return (
        f"{len(arrivals) - 1} arrivals, {len(payloads)} payloads ({others} of unknown provider left out) and "
        f"{len(calls)} calls became {len(records)} attempts in {len(files)} files below {target}"
    )


def build_training(sources: Path, target: Path) -> str:
    """Write the data that models are trained on below `target`; returns what was done, in words."""
    with (sources / "compas_two_years.csv").open(encoding="utf-8", newline="") as file:
        people = list(csv.DictReader(file))
    # The number leads back to the person, and nothing learns from it.
    names = [name for name in people[0] if name != "id"]
    applicants = (sources / "german_credit.csv").read_text(encoding="utf-8").splitlines()
    write_gz(
        target / "training" / "compas_two_years.csv.gz",
        [",".join(names), *(",".join(person[name] for name in names) for person in people)],
    )
    write_gz(target / "training" / "german_credit.csv.gz", [",".join(GERMAN_CREDIT), *applicants])
    return f"{len(people)} people and {len(applicants)} applicants to train on"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--from", dest="sources", type=Path, required=True, help="folder of the source files")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="folder of the demo's data")
    given = parser.parse_args()
    sys.stdout.write(build(given.sources, given.target) + "\n")
    sys.stdout.write(build_training(given.sources, given.target) + "\n")


if __name__ == "__main__":
    main()
