"""What a process that does without pandas tells those who ask for it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from ml_registry_pipelines.lake.lean import without_pandas


def test_pandas_is_as_absent_as_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    without_pandas()
    # lancedb asks in this way, and does without where it is told this and nothing else.
    with pytest.raises(ModuleNotFoundError, match="without pandas"):
        importlib.util.find_spec("pandas")
    assert importlib.util.find_spec("json") is not None
