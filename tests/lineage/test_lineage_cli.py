"""Lineage from a shell."""

from __future__ import annotations

import json
import re

import pytest

from tests.lineage.test_openlineage import dataset, run_event
from tests.registry.test_registry_cli import mlreg

__all__ = ["mlreg"]


@pytest.fixture
def outside(mlreg, tmp_path) -> None:
    """A job of others that makes features, a model trained on them, and where it serves."""
    lineage = {"fields": {"f": {"inputFields": [{"namespace": "s3://lake", "name": "raw", "field": "age"}]}}}
    schema = {"fields": [{"name": "age", "type": "int"}, {"name": "city", "type": "string"}]}
    event = run_event(
        1,
        "COMPLETE",
        1,
        inputs=[dataset("raw", schema=schema)],
        outputs=[
            dataset("features", schema={"fields": [{"name": "f", "type": "int"}]}, columnLineage=lineage)
        ],
    )
    (tmp_path / "spark.jsonl").write_text(json.dumps(event) + "\n")
    assert mlreg("lineage", "import", tmp_path / "spark.jsonl").startswith("1 events taken, 0 known")
    (tmp_path / "w.bin").write_bytes(b"one")
    mlreg("models", "register", "fraud")
    mlreg("models", "add-version", "fraud", tmp_path / "w.bin", "--trained-on", "s3://lake/features@v1")
    mlreg("deployments", "track", "eu", "fraud@v1", "--environment", "production", "--owner", "team:ops")


@pytest.mark.usefixtures("outside")
def test_outside_lineage_leads_to_live_deployments(mlreg, tmp_path):
    hit = mlreg("lineage", "impact", "dataset", "s3://lake/raw", "--column", "age")
    assert "live deployments: 1\n  3  deployment  eu\nowners: team:ops" in hit
    assert "live deployments: 0" in mlreg("lineage", "impact", "dataset", "s3://lake/raw", "--column", "city")
    assert "deployment: 1" in mlreg("lineage", "impact", "fraud@v1")
    shown = mlreg("lineage", "show", "model_version", "fraud@v1", "--type", "dataset_version")
    assert shown.splitlines()[:3] == [
        "upstream: 2",
        "  1  dataset_version  s3://lake/features@v1",
        "  2  dataset_version  s3://lake/raw@v1",
    ]
    part = mlreg("lineage", "show", "dataset", "s3://lake/raw", "--limit", "2")
    (cursor,) = re.findall(r"--cursor (\S+)", part)
    rest = mlreg("lineage", "show", "dataset", "s3://lake/raw", "--limit", "100", "--cursor", cursor)
    assert "partial" not in rest
    again = mlreg("lineage", "import", tmp_path / "spark.jsonl")
    assert again.startswith("0 events taken, 1 known already, 0 refused")


@pytest.mark.usefixtures("outside")
def test_the_graph_is_written_in_every_format(mlreg, tmp_path):
    for name, sign in (
        ("g.json", '"nodes"'),
        ("g.graphml", "<graphml"),
        ("g.mmd", "flowchart LR"),
        ("g.html", "<!doctype html>"),
        ("g.jsonl", "mlreg_entity"),
    ):
        mlreg("lineage", "export", "--output", tmp_path / name)
        text = (tmp_path / name).read_text()
        assert sign in text
        assert "fraud" in text
    mlreg("lineage", "export", "model", "fraud", "--depth", "1", "-o", tmp_path / "part.json")
    part, whole = (json.loads((tmp_path / n).read_text()) for n in ("part.json", "g.json"))
    assert 0 < len(part["nodes"]) < len(whole["nodes"])
    mlreg("lineage", "export", "--output", tmp_path / "x.unknown", fails=True)
    mlreg("lineage", "export", "--output", tmp_path / "absent" / "g.json", fails=True)
    mlreg("lineage", "export", "model", fails=True)


@pytest.mark.usefixtures("outside")
def test_a_bad_event_ends_with_a_failure_that_names_the_line(mlreg, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    said = mlreg("lineage", "import", tmp_path / "bad.jsonl", fails=True)
    assert "0 events taken, 0 known already, 1 refused" in said
    assert f"{tmp_path / 'bad.jsonl'}:1: the event is about no run, no job and no dataset" in said


def test_the_index_says_what_it_holds(mlreg, tmp_path):
    (tmp_path / "home").mkdir()
    assert mlreg("lineage", "index").startswith("generation 0: 0 edges")
    assert "nothing newer to build" in mlreg("lineage", "index", "--build")
