"""Replaying quarantine: what can be taken is, the rest stays, and what is printed is true."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.batch import Part, Pending, placed
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.normalising import rejected_schema
from ml_registry_pipelines.telemetry.sources import FileRef, Sources
from tests.location import priced_home
from tests.telemetry.logs import lines, native

UNKNOWN = {"hello": "world"}


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    shutil.copytree(priced_home().name, tmp_path / "home")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def land(tmp_path: Path, mlreg: Callable[..., Result]) -> Callable[..., Path]:
    """Writes a file and takes it, or only writes it where it was taken before."""

    def write(name: str, *records: dict[str, Any] | str, take: bool = True) -> Path:
        path = tmp_path / name
        path.write_text(lines(records))
        if take:
            found = mlreg("ingest", path)
            assert found.exit_code == 0, found.output
        return path

    return write


def rows(tmp_path: Path, table: str) -> list[dict[str, Any]]:
    with Lake(str(tmp_path / "home")) as lake, lake.read(table) as reading:
        return list(reading.query("test", f"SELECT * FROM {table} ORDER BY recorded_at").to_pylist())


def balance(tmp_path: Path) -> tuple[int, ...]:
    files = rows(tmp_path, "ingested_files")
    names = ("rows_in", "taken", "duplicates", "quarantined")
    return tuple(sum(row[name] for row in files) for name in names)


def test_a_file_that_is_still_unknown_stays_and_does_not_keep_the_others_out(mlreg, land, tmp_path):
    land("odd.jsonl", UNKNOWN)
    land("mended.jsonl", UNKNOWN)
    land("mended.jsonl", native(1), take=False)
    found = mlreg("quarantine", "replay", "--all")
    assert found.exit_code == 0, found.output
    assert "2 rows tried: 1 taken, 0 duplicates, 1 still in quarantine" in found.output
    found = mlreg("quarantine", "replay", "--reason", "unknown_dialect")
    assert "1 rows tried: 0 taken, 0 duplicates, 1 still in quarantine" in found.output
    assert balance(tmp_path) == (2, 1, 0, 1)


def test_rows_whose_file_is_gone_stay_with_one_sentence_and_the_others_are_replayed(mlreg, land, tmp_path):
    land("gone.jsonl", UNKNOWN).unlink()
    land("mended.jsonl", UNKNOWN)
    land("mended.jsonl", native(1), take=False)
    found = mlreg("quarantine", "replay", "--all")
    assert "2 rows tried: 1 taken, 0 duplicates, 1 still in quarantine" in found.output
    assert found.exit_code == 1
    assert "gone.jsonl" in str(found.exception)
    assert "\n" not in str(found.exception)
    assert balance(tmp_path) == (2, 1, 0, 1)
    assert "unknown_dialect" in mlreg("quarantine", "list").output
    found = mlreg("quarantine", "replay", "--all")
    assert found.exit_code == 1
    assert "1 rows tried: 0 taken, 0 duplicates, 1 still in quarantine" in found.output


@pytest.mark.soak
def test_a_whole_file_that_becomes_several_records_is_counted_as_such(mlreg, land, tmp_path):
    land("a.jsonl", UNKNOWN)
    land("a.jsonl", *(native(n) for n in range(3)), take=False)
    found = mlreg("quarantine", "replay", "--all")
    assert "1 rows tried, which hold 3 records: 3 taken, 0 duplicates, 0 still in quarantine" in found.output
    assert balance(tmp_path) == (3, 3, 0, 0)


def test_a_bad_record_of_a_file_that_was_held_as_a_whole_gets_a_row_of_its_own(mlreg, land, tmp_path):
    land("a.jsonl", UNKNOWN)
    land("a.jsonl", native(1), native(2, ts="yesterday"), native(3), take=False)
    found = mlreg("quarantine", "replay", "--all")
    assert "1 rows tried, which hold 3 records: 2 taken, 0 duplicates, 1 still in quarantine" in found.output
    assert balance(tmp_path) == (3, 2, 0, 1)
    listed = mlreg("quarantine", "list").output
    assert "bad_timestamp" in listed
    assert "unknown_dialect" not in listed
    # The whole file is behind us: now its record is tried alone.
    found = mlreg("quarantine", "replay", "--all")
    assert "1 rows tried: 0 taken, 0 duplicates, 1 still in quarantine" in found.output
    assert balance(tmp_path) == (3, 2, 0, 1)


def held_row(tmp_path: Path, like: dict[str, Any], **changed: object) -> None:
    """A further row of quarantine, with its count, as an earlier version may have left it."""
    with Lake(str(tmp_path / "home")) as lake:
        ingestion = Ingestion(lake, Sources([]), salt="salt")
        row = {**like, **changed}
        parts = [p for p in rows(tmp_path, "ingested_files") if p["path"] == row["file"]]
        file = FileRef(row["source"], row["file"], parts[0]["size"], parts[0]["modified_at"])
        schema = rejected_schema()
        table = pa.Table.from_pylist([{name: row[name] for name in schema.names}], schema)
        part = Part(file, len(parts), first_line=0, rows_in=1)
        ingestion.commit(
            Pending(parts=[part], rejected=[placed(table, file, row["dialect"])]), ingestion.recover() + 1
        )


@pytest.mark.soak
def test_rows_of_one_file_in_two_dialects_are_replayed_together(mlreg, land, tmp_path):
    land("a.jsonl", native(1), "broken", native(2))
    (held,) = rows(tmp_path, "quarantined_rows")
    good = {"raw": json.dumps(native(3)), "reason": "missing_field"}
    held_row(tmp_path, held, line=7, **good)
    trace = json.dumps({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []})
    held_row(tmp_path, held, line=8, dialect="mooncake", raw=trace)
    found = mlreg("quarantine", "replay", "--all")
    assert found.exit_code == 0, found.exception
    assert "3 rows tried: 2 taken, 0 duplicates, 1 still in quarantine" in found.output
    assert balance(tmp_path) == (5, 4, 0, 1)


@pytest.mark.parametrize(
    "state", ["mended", *(pytest.param(state, marks=pytest.mark.soak) for state in ("unknown", "gone"))]
)
def test_a_whole_file_and_lines_of_it_are_replayed_together(mlreg, land, tmp_path, state):
    path = land("a.jsonl", UNKNOWN)
    (held,) = rows(tmp_path, "quarantined_rows")
    held_row(tmp_path, held, line=2, dialect="native", raw=json.dumps(native(2)), reason="missing_field")
    held_row(tmp_path, held, line=3, dialect="native", raw="broken", reason="invalid_json")
    if state == "mended":
        land("a.jsonl", native(1), native(2), "broken", take=False)
    elif state == "gone":
        path.unlink()
    found = mlreg("quarantine", "replay", "--all")
    assert found.exit_code == (state == "gone"), found.exception
    taken, kept = (2, 1) if state == "mended" else (1, 2)
    assert f"3 rows tried: {taken} taken, 0 duplicates, {kept} still in quarantine" in found.output
    assert balance(tmp_path) == (3, taken, 0, kept)
