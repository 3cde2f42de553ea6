"""Who read what is noted at every door, without a value of theirs in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.access.access_log import AccessLog, Outcome, tables_of, without_literals
from ml_registry_pipelines.access.sql import Asker, ask_sql
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.statement import SqlError
from ml_registry_pipelines.registry.actors import Actor, Decision
from ml_registry_pipelines.registry.errors import NotAllowed
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.examples import examples

ALICE = Actor("p-7f3a", authenticated_by="api_key")


def noted(root: Path) -> list[dict[str, Any]]:
    with Lake(str(root)) as lake, lake.read("access_log") as reading:
        rows: list[dict[str, Any]] = reading.query(
            "t", "SELECT * FROM access_log ORDER BY access_id"
        ).to_pylist()
        return rows


def test_a_query_is_noted_with_its_tables_and_without_its_literals(tmp_path: Path) -> None:
    with Lake(str(tmp_path), process="cli") as lake:
        lake.version("things")
        asked = "SELECT count(*) AS jane FROM things WHERE name = 'jane@example.org' -- about Jane"
        ask_sql(lake, asked, Asker(ALICE, "acme", "support"))
        with pytest.raises(SqlError):
            ask_sql(lake, "SELECT CAST('jane@example.org' AS INTEGER)", Asker(ALICE, "acme"))
    first, second = noted(tmp_path)
    assert first["actor"] == "p-7f3a"
    assert first["authenticated_by"] == "api_key"
    assert (first["tenant"], first["door"], first["action"]) == ("acme", "cli", "sql")
    assert (first["subject"], first["purpose"], first["rows"]) == ("things", "support", 1)
    assert first["statement"] == "SELECT count(*) AS ? FROM things WHERE name = ?"
    assert second["outcome"] == Outcome.REFUSED.value
    assert not [row for row in (first, second) if "jane" in str(row).lower()]


def test_a_refusal_of_the_policy_is_noted(tmp_path: Path) -> None:
    with (
        Lake(str(tmp_path), process="run") as lake,
        Log(lake, policy=lambda _: Decision(False, "viewers change nothing")) as log,
    ):
        lake.version("things")
        with pytest.raises(NotAllowed):
            ModelRegistry(log, actor=ALICE).register_model("credit")
    (row,) = noted(tmp_path)
    assert (row["action"], row["outcome"], row["reason"]) == (
        "register_model",
        "refused",
        "viewers change nothing",
    )
    assert row["door"] == "run"


def test_a_download_is_noted_and_so_is_one_that_fails(tmp_path: Path) -> None:
    root, content = tmp_path / "lake", tmp_path / "weights.bin"
    content.write_bytes(b"weights")
    with Lake(str(root)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ALICE)
        registry.register_model("credit")
        version = registry.create_model_version("credit", content)
        registry.fetch("credit@v1", tmp_path / "there", purpose="audit")
        for blob in (root / "artifacts" / "blobs").rglob("*"):
            if blob.is_file():
                blob.chmod(0o600)
                blob.write_bytes(b"changed")
        with pytest.raises(Exception, match="credit"):
            registry.fetch("credit@v1", tmp_path / "elsewhere")
    good, bad = noted(root)
    assert (good["action"], good["subject"], good["rows"]) == ("download", f"version:{version.id}", 1)
    assert (good["purpose"], good["outcome"], bad["outcome"]) == ("audit", "allowed", "failed")


def test_nothing_is_lost_when_the_process_ends_without_closing_the_lake(tmp_path: Path) -> None:
    code = f"""
from ml_registry_pipelines.access.access_log import AccessLog
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
lake = Lake({str(tmp_path)!r}, process="web")
for n in range(3):
    AccessLog(lake).note(Actor("p"), "login", "ui", tenant=None)
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 3
    assert [row["action"] for row in noted(tmp_path)] == ["login"] * 3


def test_many_notes_are_one_commit(tmp_path: Path) -> None:
    with Lake(str(tmp_path)) as lake:
        for _ in range(50):
            AccessLog(lake).note(ALICE, "read", "things", tenant="acme")
    with Lake(str(tmp_path)) as lake:
        assert lake.sequence("access_log", "access") == 1
    assert len(noted(tmp_path)) == 50


@settings(max_examples=examples(300), deadline=None)
@given(
    st.sampled_from(["'{}'", '"{}"', "$$ {} $$", "/* {} */ 1", "-- {}\n1", "E'{}'", "{}", "$t${}$t$", "'{}"]),
    st.text("abc'\"$-/*\\\n ;", max_size=8),
)
def test_no_word_of_a_literal_is_left_however_it_is_quoted(form: str, noise: str) -> None:
    kept = without_literals(f"SELECT {noise} {form.format('mx5jane@x.org ' + noise)} FROM things")
    assert "mx5jane" not in kept


def test_tables_are_found_by_their_names() -> None:
    assert tables_of('SELECT 1 FROM "Things" JOIN model_costs USING (tenant)') == "model_costs, things"
