"""Data protection from a shell: what a person types and what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ml_registry_pipelines.cli.main import cli

Mlreg = Callable[..., Result]


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlreg:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, words)

    return run


def test_registers_requests_and_retention_from_a_shell(mlreg: Mlreg, tmp_path: Path) -> None:
    (tmp_path / "gdpr.yaml").write_text("processors: [{name: hosting, region: US, contract: C-1}]\n")
    assert mlreg("gdpr", "load", "gdpr.yaml").output == "1 entries declared\n"
    assert mlreg("gdpr", "list", "processor").output == "hosting  region=US  contract=C-1\n"
    opened = mlreg(
        "gdpr", "request", "open", "s-1", "erasure", "--name", "r-1", "--received-at", "2026-01-31"
    )
    assert "open, due 2026-02-28" in opened.output
    assert "LATE" in mlreg("gdpr", "deadlines").output
    assert "closed" in mlreg("gdpr", "request", "close", "r-1", "--outcome", "erased").output
    assert mlreg("gdpr", "deadlines").output == "nothing is due\n"
    assert "0 rows would go" in mlreg("gdpr", "retention", "--dry-run").output
    assert mlreg("gdpr", "remove", "processor", "hosting").output == "processor hosting is ended\n"


def test_what_is_wrong_is_one_sentence(mlreg: Mlreg) -> None:
    said = mlreg("gdpr", "list", "purpos")
    assert "there is no register" in str(said.exception)
    assert "pseudonym" in str(mlreg("gdpr", "request", "open", "Jane Doe", "access").exception)
    assert "is no kind of identifier" in mlreg("gdpr", "scan", "--kind", "NAME").output
