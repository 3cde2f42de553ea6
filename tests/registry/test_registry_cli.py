"""The registry from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from ml_registry_pipelines.cli.registry import attach
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry import tail


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    group = click.Group("mlreg")
    attach(group)

    def run(*arguments: str, fails: bool = False) -> str:
        done = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=True)
        if done.exception is not None and isinstance(done.exception, MlregError):
            assert fails, done.exception
            return str(done.exception)
        assert (done.exit_code != 0) == fails, done.output
        return done.output

    return run


def test_a_model_goes_from_file_to_production_and_back_out(mlreg, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"one")
    (tmp_path / "d.csv").write_text("age,label\n1,0\n")
    assert "credit@v1" in mlreg("datasets", "track", "credit", tmp_path / "d.csv")
    mlreg(
        "models",
        "register",
        "fraud",
        "--tag",
        "n=3",
        "--tag",
        "live=true",
        "--owner",
        "team:risk",
        "--key",
        "k",
    )
    mlreg(
        "models",
        "register",
        "fraud",
        "--tag",
        "n=3",
        "--tag",
        "live=true",
        "--owner",
        "team:risk",
        "--key",
        "k",
    )
    version = mlreg(
        "models",
        "add-version",
        "fraud",
        tmp_path / "w.bin",
        "--metric",
        "auc=0.9",
        "--trained-on",
        "credit@v1",
        "--evaluated-on",
        "credit@v1",
        "--parameter",
        "depth=3",
        "--parameter",
        "loss=log",
        "--tag",
        "tier=1",
    )
    assert "fraud@v1" in version
    assert '{"depth": 3, "loss": "log"}' in version
    assert "tier=1" in version
    (tmp_path / "w.bin").write_bytes(b"two")
    mlreg("models", "add-version", "fraud", tmp_path / "w.bin", "--metric", "auc=0.95")
    mlreg("models", "promote", "fraud@v1")
    mlreg("models", "promote", "fraud@v2", "--reason", "better", "--former", "staging")
    assert "staging" in mlreg("models", "show", "fraud@v1")
    assert "fraud@v1" in mlreg("models", "rollback", "fraud")
    mlreg("models", "alias", "fraud@v1", "champion", "--protect")
    assert "is protected" in mlreg("models", "alias", "fraud@v2", "champion", fails=True)
    assert mlreg("models", "list", "--tag", "n=3", "--stage", "production") == "fraud  active  champion=v1\n"
    assert mlreg("models", "list", "--tag", "n=4") == ""
    assert "metrics.auc: 0.9 -> 0.95" in mlreg("models", "diff", "fraud@v1", "fraud@v2")
    (tmp_path / "out").mkdir()
    mlreg("models", "get", "fraud@champion", tmp_path / "out")
    assert (tmp_path / "out" / "w.bin").read_bytes() == b"one"
    assert mlreg("models", "verify", "fraud@v2") == "fraud@v2 is what was registered\n"
    mlreg("deployments", "track", "eu", "fraud@v1", "--environment", "production", "--start", "2026-03-01")
    assert mlreg("deployments", "on", "2026-03-02").startswith(
        "eu  fraud@v1  production  100%  since 2026-03-01"
    )
    assert "live deployments: 1\n  2  deployment  eu\nowners: team:risk" in mlreg(
        "lineage", "impact", "dataset", "credit", "--column", "age"
    )
    assert "upstream: 2" in mlreg("lineage", "show", "deployment", "eu")
    assert '"type": "deployed_to"' in mlreg("lineage", "graph", "model", "fraud")
    assert "promote_to_production" in mlreg("history", "fraud")
    assert "track_deployment" in mlreg("audit", "log", "--limit", "2")


def test_the_chain_is_verified_anchored_and_moved_from_a_shell(mlreg, tmp_path, monkeypatch):
    mlreg("models", "register", "fraud")
    assert "1 events are whole; no anchor covers it" in mlreg("audit", "verify")
    private, public, anchors = tmp_path / "k.pem", tmp_path / "p.pem", tmp_path / "anchors"
    mlreg("audit", "keys", private, public)
    mlreg("audit", "anchor", anchors, "--key", private, "--public-key", public)
    assert (
        mlreg("audit", "verify", "--anchors", anchors, "--public-key", public)
        == "default: 1 events are whole\n"
    )
    assert "belong together" in mlreg("audit", "verify", "--anchors", anchors, fails=True)
    mlreg("audit", "export", tmp_path / "export")
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "other"))
    assert mlreg("audit", "import", tmp_path / "export") == "1 events of tenant default imported\n"
    assert mlreg("models", "list") == "fraud  active\n"
    for log in (tmp_path / "other" / "tables" / "governance_events").glob("*.parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pq.read_table(log)
        actors = pa.array(["somebody"] * len(rows))
        pq.write_table(
            rows.set_column(rows.schema.get_field_index("actor"), rows.schema.field("actor"), actors), log
        )
    assert "default: DAMAGED, changed: event 1 was changed" in mlreg("audit", "verify", fails=True)


def test_who_acts_from_a_shell_is_a_pseudonym_that_nobody_has_checked(mlreg, monkeypatch):
    mlreg("models", "register", "fraud")
    monkeypatch.setenv("MLREG_ACTOR", "p-7f3a")
    mlreg("models", "register", "other")
    first, second = mlreg("audit", "log").splitlines()
    assert "  shell  register_model  " in first
    assert "  p-7f3a  register_model  " in second


@pytest.mark.soak
def test_projections_that_lost_rows_are_found_and_computed_anew(mlreg, tmp_path, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 4)
    for n in range(9):
        mlreg("models", "register", f"m{n}", "--key", f"k{n}")
    things = str(tmp_path / "home" / "tables" / "things")
    rows = DeltaTable(things).to_pyarrow_table().sort_by("position")
    assert len(rows) == 8
    for spoilt in (rows.slice(1), pa.concat_tables([rows, rows.slice(0, 1)])):
        write_deltalake(things, spoilt, mode="overwrite")
        said = mlreg("audit", "verify", fails=True)
        assert "event 1 of tenant 'default'" in said
        assert "mlreg audit rebuild" in said
        assert mlreg("audit", "rebuild") == "2 blocks of the log were folded anew\n"
        assert "DAMAGED" not in mlreg("audit", "verify")
        assert len(mlreg("models", "list").splitlines()) == 9


def test_the_log_is_listed_for_whoever_may_read_it(mlreg):
    mlreg("models", "register", "m")
    assert "register_model" in mlreg("audit", "log", "--limit", "1")
    assert "-1 is not in the range" in mlreg("audit", "log", "--limit", "-1", fails=True)


def test_a_read_of_a_home_that_is_not_there_says_so_and_makes_nothing(mlreg, tmp_path):
    for command in (("models", "list"), ("models", "show", "m"), ("audit", "verify"), ("audit", "log")):
        assert "there is no registry at" in mlreg(*command, fails=True)
    assert not (tmp_path / "home").exists()


def test_a_home_or_cache_that_cannot_be_made_is_told_in_one_sentence(mlreg, tmp_path, monkeypatch):
    (tmp_path / "w").write_bytes(b"w")
    mlreg("models", "register", "m")
    mlreg("models", "add-version", "m", tmp_path / "w")
    monkeypatch.setenv("MLREG_CACHE", "/proc/cache-of-nobody")
    assert "set MLREG_CACHE" in mlreg("get", "m@v1", tmp_path / "out", fails=True)
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "w"))
    for command in (("models", "register", "x"), ("models", "list")):
        assert "MLREG_HOME" in mlreg(*command, fails=True)
