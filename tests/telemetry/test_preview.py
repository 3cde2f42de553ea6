"""What a dry run says of a file, and that it leaves everything as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.telemetry.preview import Preview, preview
from ml_registry_pipelines.telemetry.sources import FileRef, Source
from tests.telemetry.logs import WRITTEN, lines, native


def look_at(folder: Path, name: str, **said: str) -> Preview:
    source = Source(name="files", folder=str(folder), **said)  # type: ignore[arg-type]
    return preview(source, FileRef("files", name, size=0, modified_at=WRITTEN))


def test_a_preview_counts_and_shows_what_would_be_quarantined(tmp_path: Path):
    other = native(2, ts="2026-10-30T12:00:00Z", usage=None, tenant="acme")
    records: list[dict[str, Any] | str] = [native(1), native(1), other, "oops", {"a": 1}]
    (tmp_path / "a.jsonl").write_text(lines(records))
    assert list(look_at(tmp_path, "a.jsonl").lines()) == [
        "a.jsonl: native",
        "  5 records: 3 can be taken, 2 would be quarantined",
        "  days 2026-10-30 to 2026-10-31, tenants acme, default",
        "  200 input and 40 output tokens",
        "  1 records repeat the identity of another one in the file",
        "  1 records state no tokens and would not be priced",
        "  1 invalid_json",
        "  1 missing_field",
        "    invalid_json: line 4: the text is not JSON from character 1 on",
        "    missing_field: line 5: `event_id` is missing; `ts` is missing; `provider` is missing; `model` is missing",
        "  nothing was written",
    ]
    assert [path.name for path in tmp_path.rglob("*")] == ["a.jsonl"]


def test_a_preview_shows_ten_rejects_and_counts_them_all(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(lines([native(1), *["oops"] * 25]))
    shown = list(look_at(tmp_path, "a.jsonl").lines())
    assert "  25 invalid_json" in shown
    assert len([line for line in shown if line.startswith("    invalid_json: ")]) == 10


def test_a_preview_of_an_unknown_format_names_the_known_ones(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(lines([{"hello": "world"}]))
    first, *others = look_at(tmp_path, "a.jsonl").lines()
    assert first == "a.jsonl: of no known format"
    assert any("known are native, azure_trace" in line for line in others)


def test_a_preview_tells_a_bill_from_a_log(tmp_path: Path):
    (tmp_path / "focus.jsonl").write_text(
        lines([{"ChargePeriodStart": "2026-10-22T14:00:00Z", "BilledCost": 1}])
    )
    first, counted, *others = look_at(tmp_path, "focus.jsonl", dialect="openai_api").lines()
    assert first == "focus.jsonl: a bill, not a log"
    assert counted == "  1 records: 0 can be taken, 1 would be quarantined"
    assert any("put it into a bills source" in line for line in others)


def test_a_preview_takes_costs_in_the_unit_of_the_source(tmp_path: Path):
    log: dict[str, Any] = {
        "id": "pk-1", "created_at": "2026-10-31T12:00:00Z", "ai_org": "openai", "ai_model": "gpt-4o",
        "req_units": 1200, "res_units": 38, "cost": 0.21, "cost_currency": "USD",
    }  # fmt: skip
    (tmp_path / "a.jsonl").write_text(lines([log]))
    assert look_at(tmp_path, "a.jsonl", cost_unit="cents").taken == 1


def test_a_preview_obeys_what_the_source_says(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(lines([native(1), native(2, org="acme")]))
    assert look_at(tmp_path, "a.jsonl", tenant_field="org").tenants == {"acme"}
    assert look_at(tmp_path, "a.jsonl", dialect="litellm").taken == 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FilesError, match=r"a\.jsonl"):
        look_at(tmp_path, "a.jsonl")
