"""`mlreg search` from a shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.content import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from tests.registry.conftest import ACTOR


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shell") / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_many(
            NewThing(f"model {n}", tags={"n": n, "team": "fraud"}, description="scores cards")
            for n in range(3)
        )
        registry.create_model_version("model 1", HostedModel("openai", "gpt-4o"))
        registry.set_alias("model 1@v1", "champion")
        registry.deprecate_model("model 2", reason="old")
    return home


@pytest.fixture
def mlreg(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("MLREG_HOME", str(filled))
    monkeypatch.delenv("MLREG_TENANT", raising=False)

    def run(*arguments: str, fails: bool = False) -> str:
        done = CliRunner().invoke(cli, [str(a) for a in arguments])
        if isinstance(done.exception, MlregError):
            assert fails, done.exception
            return str(done.exception)
        assert (done.exit_code != 0) == fails, done.output
        return done.output

    return run


def test_a_query_lists_models(mlreg):
    assert mlreg("search", "tags.team = 'fraud' AND tags.n >= 1") == "model 1  v1  active  champion=v1\n"
    assert mlreg("search").splitlines() == ["model 0  active", "model 1  v1  active  champion=v1"]
    assert "model 2  deprecated" in mlreg("search", "--deprecated")
    assert (
        mlreg("search", "--versions", "alias = 'champion'") == "model 1@v1  registered  active  champion=v1\n"
    )
    assert mlreg("search", "name LIKE 'model%'", "--count") == "2\n"
    assert mlreg("search", "--order", "name DESC", "--limit", "1").splitlines()[0].startswith("model 1")
    assert "'cards' in description" in mlreg("search", "--text", "cards")


def test_pages_are_turned_by_the_cursor(mlreg):
    first = json.loads(mlreg("search", "--json", "--limit", "1"))
    assert [hit["name"] for hit in first["hits"]] == ["model 0"]
    second = json.loads(mlreg("search", "--json", "--limit", "1", "--cursor", first["cursor"]))
    assert [hit["name"] for hit in second["hits"]] == ["model 1"]
    assert second["cursor"] is None
    assert f"there are more: --cursor {first['cursor']}" in mlreg("search", "--limit", "1")


def test_a_wrong_query_is_pointed_at(mlreg):
    said = mlreg("search", "tags.n = 1 AND stag = 'production'", fails=True)
    assert said.splitlines() == [
        "there is no field 'stag'; did you mean stage?",
        "  tags.n = 1 AND stag = 'production'",
        "                 ^",
    ]


def test_the_index_is_made_anew_by_one_command(mlreg):
    assert "states up to event" in mlreg("search", "rebuild")
    assert mlreg("search", "tags.n = 0") == "model 0  active\n"


def test_the_fields_are_listed(mlreg):
    assert "metrics.<name>" in mlreg("search", "fields")
    assert "model_tags" not in mlreg("search", "fields")
    assert "cost_<N>d" in mlreg("search", "fields", "--versions")
    assert "QUERY" in mlreg("search", "find", "--help")
