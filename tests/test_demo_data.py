"""The data that the demo ships: whole, licensed, of the stated shape, and adding up to what is expected.

That the platform makes the expected figures of it is tested end to end, elsewhere.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from genai_prices import calc_price
from genai_prices.types import Usage

from demo import build_data, compute_expected
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.sources import Sources

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "demo"
LANDING = DEMO / "data" / "landing"
NATIVE = sorted(LANDING.glob("native/*/*/*"))
INPUT = ("in_uncached", "in_cache_read", "in_cache_read_audio", "in_cache_read_image", "in_cache_write_5m",
         "in_cache_write_1h", "in_audio", "in_image", "in_video")  # fmt: skip
OUTPUT = ("out_text", "out_reasoning", "out_audio", "out_image")
AT = datetime(2026, 10, 15, 12, tzinfo=UTC)

Record = dict[str, Any]

pytestmark = pytest.mark.xdist_group("demo-data")
"""In one worker: all its records are read once."""


def lines_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Every record that can be taken, duplicates included."""
    lines = [line for path in NATIVE for line in lines_of(path)]
    return [json.loads(line) for line in lines if compute_expected.fault_of(line) is None]


@pytest.fixture(scope="module")
def answers() -> dict[int, Record]:
    lines = (DEMO / "data" / "payloads.jsonl").read_text().splitlines()
    return {answer["line"]: answer for answer in map(json.loads, lines)}


@pytest.fixture(scope="module")
def usages(records: list[Record]) -> dict[int, tuple[str, str, dict[str, int]]]:
    """Provider, model and tokens of each answer, as they stand in the records."""
    found: dict[int, tuple[str, str, dict[str, int]]] = {}
    for record in records:
        if "usage" in record:
            said = record["provider"], record["model"], record["usage"]
            assert found.setdefault(record["tags"]["payload"], said) == said
    return found


@pytest.fixture(scope="module")
def expected() -> Record:
    held: Record = json.loads((DEMO / "expected.json").read_text())
    return held


@pytest.mark.soak  # the shipped data changes with tools alone
def test_requests_fill_thirty_days_that_end_with_october_2026(records: list[Record]) -> None:
    days = {record["ts"][:10] for record in records}
    assert days == {f"{date(2026, 10, 2) + timedelta(days=number)}" for number in range(30)}


def test_three_tenants_own_six_applications_and_share_none(records: list[Record]) -> None:
    owners = {(record["tenant"], record["application"]) for record in records}
    assert owners == {
        ("acme", "code-assistant"),
        ("acme", "support-chat"),
        ("globex", "document-extraction"),
        ("globex", "translation"),
        ("initech", "meeting-notes"),
        ("initech", "research-agent"),
    }


def test_every_record_says_what_of_it_is_assumed(records: list[Record]) -> None:
    assert {record["tags"]["assumed"] for record in records} == {"time tenant application latency status"}


@pytest.mark.soak  # the shipped data changes with tools alone
def test_every_record_keeps_to_the_schema_of_the_native_record(records: list[Record]) -> None:
    jsonschema = import_module("jsonschema")  # it ships no types
    schema = ROOT / "ml_registry_pipelines" / "telemetry" / "dialects" / "native.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
    # Of records that differ in time, id, latency, source lines and numbers of tokens alone, one stands for all.
    kinds = {}
    for record in records:
        usage = record.get("usage", {})
        assert all(type(count) is int and 0 <= count <= 10**9 for count in usage.values()), record
        varying = {
            "ts": "",
            "event_id": "",
            "latency_ms": 0,
            "ttft_ms": 0,
            "tags": {},
            "usage": sorted(usage),
        }
        kinds[json.dumps({name: varying.get(name, value) for name, value in record.items()})] = record
    assert not [error.message for record in kinds.values() for error in validator.iter_errors(record)]


def test_file_names_are_in_the_order_of_landing() -> None:
    moments = []
    for path in NATIVE:
        day, hour = path.parts[-3].removeprefix("dt="), path.parts[-2].removeprefix("hh=")
        landed = datetime.strptime(path.name.split("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert (f"{landed:%Y-%m-%d}", f"{landed:%H}") == (day, hour)
        moments.append(landed)
    assert all(before < after for before, after in pairwise(moments))


def test_compressed_files_hold_neither_a_time_nor_a_name_of_their_own() -> None:
    for path in NATIVE:
        header = path.read_bytes()[:10]
        assert header[:2] == b"\x1f\x8b"
        assert header[3] == 0, f"{path.name} carries a name"
        assert header[4:8] == bytes(4), f"{path.name} carries a time"


def test_what_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 4_000_000


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        (
            "azure-trace-CC-BY-4.0.txt",
            ["https://creativecommons.org/licenses/by/4.0/", "Splitwise", "What was changed"],
        ),
        ("genai-prices-MIT.txt", ["Copyright (c) Pydantic", "The above copyright notice"]),
        ("llmperf-leaderboard-Apache-2.0.txt", ["Apache License", "Version 2.0"]),
        (
            "german-credit-CC-BY-4.0.txt",
            ["https://creativecommons.org/licenses/by/4.0/", "Hans Hofmann", "What was changed"],
        ),
        ("compas-public-records.txt", ["Public records", "ProPublica", "What was changed"]),
    ],
)
def test_every_source_comes_with_its_licence(licence: str, words: list[str]) -> None:
    text = (DEMO / "data" / "licences" / licence).read_text()
    assert all(word in text for word in words)
    assert f"data/licences/{licence}" in (DEMO / "README.md").read_text()


@pytest.mark.soak  # the shipped data changes with tools alone
def test_each_request_is_tried_until_it_is_answered_but_three_times_at_most(records: list[Record]) -> None:
    tries: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        tries[record["event_id"]][record["attempt"]] = record
    assert len(tries) == 8819 * 6
    for attempts in tries.values():
        ordered = [attempts[number] for number in sorted(attempts)]
        assert sorted(attempts) == list(range(1, len(attempts) + 1))
        assert all(attempt["status"] == "error_unbilled" for attempt in ordered[:-1])
        assert ordered[-1]["status"] != "error_unbilled" or len(ordered) == 3
        starts = [datetime.fromisoformat(attempt["ts"]) for attempt in ordered]
        assert all(after - before == timedelta(seconds=1) for before, after in pairwise(starts))


def test_latencies_and_failures_are_those_of_the_call_that_a_record_names(records: list[Record]) -> None:
    (path,) = LANDING.glob("llmperf/*/*/*.csv")
    with path.open(newline="") as lines:
        calls = dict(enumerate(csv.DictReader(lines), start=2))
    statuses = {"": "success", "-100": "error_billed", "429": "error_unbilled", "-1": "error_unbilled"}
    for record in records:
        call = calls[record["tags"]["call"]]
        assert record["status"] == statuses[call["error_code"]]
        if record["status"] == "error_unbilled":
            assert not {"latency_ms", "ttft_ms", "usage"} & set(record)
            continue
        assert record["latency_ms"] == pytest.approx(float(call["end_to_end_latency_s"]) * 1000, abs=0.051)
        if "ttft_ms" in record:
            assert record["ttft_ms"] == pytest.approx(float(call["ttft_s"]) * 1000, abs=0.051)


def test_every_answer_is_replayed_under_its_own_provider_and_model(
    usages: dict[int, tuple[str, str, dict[str, int]]], answers: dict[int, Record]
) -> None:
    assert {line: (provider, model) for line, (provider, model, _) in usages.items()} == {
        line: (answer["provider"], answer["model"]) for line, answer in answers.items()
    }


def test_buckets_add_up_to_the_stated_total_in_all_answers_but_one(
    usages: dict[int, tuple[str, str, dict[str, int]]],
) -> None:
    differing = {
        model
        for _, model, usage in usages.values()
        if "total" in usage and sum(usage.values()) != 2 * usage["total"]
    }
    assert differing == {"gemini-2.5-pro-preview-05-06"}


def test_buckets_cost_what_the_answer_itself_costs(
    usages: dict[int, tuple[str, str, dict[str, int]]],
) -> None:
    prices = compute_expected.Prices()
    compared = 0
    for line, (provider, model, usage) in usages.items():
        answer = prices.answers[line]
        if answer.model is None or answer.provider is None:
            continue
        whole = answer.model.calc_price(answer.usage, answer.provider, genai_request_timestamp=AT)
        name = model.removeprefix("models/")
        parts = calc_price(as_usage(usage), name, provider_id=provider, genai_request_timestamp=AT)
        assert parts.total_price == whole.total_price
        compared += 1
    assert compared == 291


def as_usage(usage: dict[str, int]) -> Usage:
    """Disjoint buckets as the library's counts, which include their subsets."""

    def of(*names: str) -> int:
        return sum(usage.get(name, 0) for name in names)

    return Usage(
        input_tokens=of(*INPUT),
        cache_read_tokens=of("in_cache_read", "in_cache_read_audio", "in_cache_read_image"),
        cache_audio_read_tokens=of("in_cache_read_audio"),
        cache_image_read_tokens=of("in_cache_read_image"),
        cache_write_tokens=of("in_cache_write_5m", "in_cache_write_1h"),
        cache_write_1h_tokens=of("in_cache_write_1h"),
        input_audio_tokens=of("in_audio", "in_cache_read_audio"),
        input_image_tokens=of("in_image", "in_cache_read_image"),
        input_video_tokens=of("in_video"),
        output_tokens=of(*OUTPUT),
        output_reasoning_tokens=of("out_reasoning"),
        output_audio_tokens=of("out_audio"),
        output_image_tokens=of("out_image"),
    )


def test_expected_figures_are_computed_from_what_ships(expected: Record) -> None:
    assert compute_expected.expected() == expected


def test_expected_rows_and_costs_add_up(expected: Record) -> None:
    for rows in expected["rows"].values():
        assert rows["rows_in"] == rows["taken"] + rows["duplicates"] + rows["quarantined"]
    taken = sum(rows["taken"] for rows in expected["rows"].values())
    for group in ("by_tenant", "by_model", "by_day"):
        assert sum(row["attempts"] for row in expected[group]) == taken
        total = sum((Decimal(row["cost"]) for row in expected[group] if row["cost"]), Decimal(0))
        assert total == Decimal(expected["total"]["cost"])
    assert expected["total"]["priced"] < expected["total"]["billable"]


def test_the_readme_names_every_row_and_file_that_is_wrong_on_purpose(expected: Record) -> None:
    readme = (DEMO / "README.md").read_text()
    by_file: dict[str, list[int]] = defaultdict(list)
    for fault in expected["quarantine"]:
        by_file[fault["file"]].append(fault["line"])
    for file, lines in by_file.items():
        row = next(row for row in readme.splitlines() if file.rsplit("/", 1)[0] in row)
        assert f"line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines))} |" in row
    counts = Counter(
        {path.stem.split("-")[1]: len(lines_of(path)) for path in NATIVE if "-day" not in path.name}
    )
    assert set(counts) == {"late.jsonl", "resent.jsonl"}
    assert f"{counts['late.jsonl']} rows taken a day late" in readme
    assert f"{counts['resent.jsonl']:,} duplicates" in readme
    assert expected["rows"]["native"]["duplicates"] == counts["resent.jsonl"]


def test_the_late_file_holds_rows_of_the_day_before_it_landed() -> None:
    (late,) = (path for path in NATIVE if path.name.endswith("-late.jsonl.gz"))
    records = [json.loads(line) for line in lines_of(late)]
    assert {(record["tenant"], record["ts"][:10]) for record in records} == {("globex", "2026-10-19")}
    assert late.parts[-3] == "dt=2026-10-20"


def test_contract_prices_are_all_marked_as_assumed_and_cover_the_comparison(expected: Record) -> None:
    held = yaml.safe_load((DEMO / "contract-prices.yaml").read_text())
    assert held["assumed"] is True
    assert not [entry for entry in held["prices"] if "assumed" in entry]
    assert not [row for row in expected["without_price"] if row["model"].startswith("llama-2-")]
    assert [row["model"] for row in expected["without_price"]] == ["gpt-oss:20b", "x-ai/grok-4"]


def test_the_same_sources_build_the_same_bytes(tmp_path: Path, answers: dict[int, Record]) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    arrivals = (datetime(2023, 11, 16, 18) + timedelta(seconds=7 * number) for number in range(300))  # noqa: DTZ001
    (sources / "azure_llm_code_trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{at}.1234560,1,1\n" for at in arrivals)
    )
    (sources / "usage_payloads.jsonl").write_text(
        "".join(json.dumps(answer) + "\n" for answer in answers.values())
    )
    (path,) = LANDING.glob("llmperf/*/*/*.csv")
    (sources / "llmperf_requests.csv").write_bytes(path.read_bytes())

    built = []
    for name in ("one", "two"):
        target = tmp_path / name
        build_data.build(sources, target)
        built.append(
            {file.relative_to(target): file.read_bytes() for file in target.rglob("*") if file.is_file()}
        )
    assert built[0] == built[1]
    assert len(built[0]) == len(NATIVE) + 2


def test_people_are_shipped_without_names_numbers_and_dates_of_birth() -> None:
    people = list(csv.DictReader(lines_of(DEMO / "data" / "training" / "compas_two_years.csv.gz")))
    assert len(people) == 7214
    assert not {"id", "name", "first", "last", "dob", "c_case_number"} & set(people[0])
    applicants = list(csv.DictReader(lines_of(DEMO / "data" / "training" / "german_credit.csv.gz")))
    assert Counter(applicant["risk"] for applicant in applicants) == {"1": 700, "2": 300}
    assert tuple(applicants[0]) == build_data.GERMAN_CREDIT


def test_the_same_sources_build_the_same_data_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "compas_two_years.csv").write_text("id,sex,age\n1,Male,69\n3,Female,34\n")
    (tmp_path / "german_credit.csv").write_text("A11,6\nA12,48\n")
    built = []
    for name in ("one", "two"):
        build_data.build_training(tmp_path, tmp_path / name)
        built.append([file.read_bytes() for file in sorted((tmp_path / name / "training").iterdir())])
    assert built[0] == built[1]
    assert gzip.decompress(built[0][0]).decode() == "sex,age\nMale,69\nFemale,34\n"
    assert gzip.decompress(built[0][1]).decode().splitlines()[1:] == ["A11,6", "A12,48"]


def test_the_calls_of_the_comparison_belong_to_the_tenant_that_is_expected(home: Path, lake: Lake) -> None:
    """They state none, and the demo takes them from the landing folder, which fixes none either."""
    (file,) = LANDING.glob("llmperf/*/*/*.csv")
    landed = home / "landing" / file.relative_to(LANDING)
    landed.parent.mkdir(parents=True)
    landed.write_bytes(file.read_bytes())
    sources = Sources.load(Settings.from_environment())
    Ingestion(lake, sources).take(sources.look(lake, settled=True).files)
    with lake.read("inference_events") as reading:
        rows = reading.query(
            "test.tenants", "SELECT tenant, count(*) AS attempts FROM inference_events GROUP BY ALL"
        )
    assert rows.to_pylist() == [{"tenant": compute_expected.COMPARISON_TENANT, "attempts": 2845}]
