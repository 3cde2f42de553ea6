"""A process without pandas is one where pandas is not installed, to whoever looks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from ml_registry_pipelines.lake.lean import with_pandas, without_pandas


def test_to_a_lean_process_pandas_is_not_installed_until_it_is_wanted(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "path", [])  # What is let in again need not be found here.
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    without_pandas()
    for look in (importlib.import_module, importlib.util.find_spec):
        # lancedb looks whether there is pandas and takes this one error for no.
        with pytest.raises(ModuleNotFoundError, match="does without pandas") as absent:
            look("pandas")
        assert absent.value.name == "pandas"
    with_pandas()
    assert importlib.util.find_spec("pandas") is None


@pytest.mark.soak
def test_commands_that_do_without_pandas_search_vectors_and_warn_of_near_duplicates(tmp_path):
    def mlreg(*arguments: str) -> str:
        code = "from ml_registry_pipelines.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={"MLREG_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    mlreg("models", "register", "fraud-cards", "--description", "finds fraud in payments with cards")
    mlreg("embeddings", "update")
    said = mlreg("models", "register", "other", "--description", "finds fraud in payments with cards")
    assert "other may be there already: fraud-cards has the same description" in said
    assert "fraud-cards" in mlreg("search", "--hybrid", "stolen cards")
