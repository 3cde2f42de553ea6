"""Artifacts from a shell."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import requests
from click.testing import CliRunner

from ml_registry_pipelines.cli.registry import attach
from ml_registry_pipelines.errors import MlregError

Shell = Callable[..., str]


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for name in ("MLREG_TENANT", "MLREG_CACHE", "MLREG_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    group = click.Group("mlreg")
    attach(group)

    def run(*arguments: object, fails: bool = False) -> str:
        done = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=True)
        if isinstance(done.exception, MlregError):
            assert fails, done.exception
            return str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert (done.exit_code != 0) == fails, done.output
        return done.output

    return run


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(b"weights")
    return tmp_path / "model"


def test_a_version_is_got_compared_and_rolled_back_in_one_command_each(mlreg, weights, tmp_path):
    mlreg("models", "register", "fraud")
    mlreg("models", "add-version", "fraud", weights, "--metric", "auc=0.9")
    (weights / "w.bin").write_bytes(b"others")
    mlreg("models", "add-version", "fraud", weights, "--metric", "auc=0.95")
    for number in (1, 2):
        mlreg("models", "promote", f"fraud@v{number}")
    assert mlreg("get", "fraud@production", tmp_path / "out") == f"{tmp_path}/out/w.bin\n"
    assert mlreg("get", "fraud@production", tmp_path / "out") == f"{tmp_path}/out/w.bin  (was there)\n"
    said = mlreg("diff", "fraud", "v1", "v2")
    assert "metrics.auc: 0.9 -> 0.95 (+0.05)\n" in said
    assert re.search(r'files\.content\.w\.bin: "7 bytes \w+" -> "6 bytes \w+"', said)
    assert json.loads(mlreg("diff", "fraud@v1", "fraud@v2", "--json"))["fields"]["size"] == [7, 6]
    assert mlreg("diff", "fraud", "v1", "v1") == "fraud@v1 and fraud@v1 are alike\n"
    assert "wants NAME v3 v5" in mlreg("diff", "fraud", fails=True)
    assert "fraud@v1" in mlreg("rollback", "fraud", "--former", "staging", "--reason", "drift")
    assert mlreg("get", "fraud@staging", tmp_path / "former").endswith("former/w.bin\n")
    long_ago = ("--as-of", "2020-01-01")
    assert "there is no model" in mlreg("get", "fraud@v1", tmp_path / "x", *long_ago, fails=True)
    assert "there is no model" in mlreg("diff", "fraud", "v1", "v2", *long_ago, fails=True)
    assert "has no version 'champion'" in mlreg("get", "fraud@champion", tmp_path / "x", fails=True)
    assert "there is no model" in mlreg("get", "fraud@v1", tmp_path / "x", "--tenant", "acme", fails=True)


def test_every_form_of_content_and_every_kind_of_artifact_is_taken_listed_and_verified(
    mlreg, weights, tmp_path
):
    (tmp_path / "card.md").write_text("# Card")
    (tmp_path / "graph.json").write_text("{}")
    digest = hashlib.sha256(b"weights").hexdigest()
    mlreg("models", "register", "m")
    mlreg("models", "add-version", "m", weights, "--artifact", f"model_card={tmp_path}/card.md")
    mlreg("models", "add-version", "m", f"file://{weights}/w.bin", "--sha256", digest, "--size", 7)
    mlreg(
        *("models", "add-version", "m", "openai/gpt-4o-2024-11-20", "--hosted"),
        *("--hosted-parameter", "temperature=0", "--prompt-digest", digest),
    )
    mlreg("artifacts", "add", "m@v1", "lineage_graph", tmp_path / "graph.json")
    listed = mlreg("artifacts", "list", "m@v1", "--files")
    assert [line.split()[0] for line in listed.splitlines() if line[0] != " "] == [
        "content",
        "model_card",
        "lineage_graph",
    ]
    assert f"    {digest}                7  w.bin" in listed
    for kind, name in (("model_card", "card.md"), ("lineage_graph", "graph.json")):
        assert name in mlreg("get", "m@v1", tmp_path / kind, "--kind", kind)
    assert "w.bin" in mlreg("artifacts", "get", "m@v2", tmp_path / "from-address")
    verified = mlreg("artifacts", "verify", "--all").splitlines()
    assert verified[:2] == ["m@v1 is what was registered", "m@v2 is what was registered"]
    assert verified[2].startswith("m@v3 is not read from here: openai gpt-4o-2024-11-20 is a hosted model")
    (weights / "w.bin").write_bytes(b"changed")
    assert "DAMAGED m@v2: " in mlreg("artifacts", "verify", "m@v1", "m@v2", fails=True)
    assert "no checkpoint artifact" in mlreg(
        "get", "m@v1", tmp_path / "x", "--kind", "checkpoint", fails=True
    )


def test_contradicting_descriptions_of_content_are_refused(mlreg, weights):
    mlreg("models", "register", "m")
    for arguments, why in (
        (("https://example.com/w",), "give its --sha256"),
        ((weights, "--size", 7), "--size belongs to --sha256"),
        ((weights, "--prompt-digest", "x"), "belong to --hosted"),
        (("a/b", "--hosted", "--upload"), "say different things"),
        (("a/b", "--hosted", "--hosted-parameter", "x"), "NAME=VALUE"),
        ((weights, "--artifact", "card"), "KIND=PATH"),
        (("a", "--hosted"), "a provider and a snapshot"),
    ):
        assert why in mlreg("models", "add-version", "m", *arguments, fails=True)
    assert mlreg("artifacts", "purge", "--dry-run").startswith("0 unreferenced files")


def test_a_bucket_gives_links_takes_uploads_and_is_read_through_a_cache(
    mlreg, s3_root, weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLREG_HOME", s3_root)
    mlreg("models", "register", "m")
    digest = hashlib.sha256(b"weights").hexdigest()
    ticket = json.loads(mlreg("artifacts", "upload", f"{digest}:7:w.bin"))
    (link,) = ticket["links"]
    assert requests.put(link["url"], data=b"weights", headers=link["headers"], timeout=120).ok
    mlreg("models", "add-version", "m", ticket["ticket"], "--upload")
    assert mlreg("get", "m@v1", tmp_path / "a") == f"{tmp_path}/a/w.bin\n"
    assert mlreg("get", "m@v1", tmp_path / "b") == f"{tmp_path}/b/w.bin  (from the cache)\n"
    assert mlreg("artifacts", "cache").startswith(f"{tmp_path}/caches/mlreg: 1 files, 7 of at most")
    assert mlreg("artifacts", "cache", "--clear").startswith("7 bytes removed")
    sha256, path, url = mlreg("artifacts", "link", "m@v1").split()
    assert (sha256, path, requests.get(url, timeout=120).content) == (digest, "w.bin", b"weights")
    monkeypatch.setenv("MLREG_CACHE_GB", "much")
    assert "MLREG_CACHE_GB is 'much'" in mlreg("get", "m@v1", tmp_path / "c", fails=True)


def test_a_home_in_a_folder_has_a_cache_only_where_one_is_named(mlreg, weights, tmp_path, monkeypatch):
    mlreg("models", "register", "m")
    mlreg("models", "add-version", "m", weights)
    mlreg("get", "m@v1", tmp_path / "a")
    assert "no cache unless MLREG_CACHE" in mlreg("artifacts", "cache")
    monkeypatch.setenv("MLREG_CACHE", str(tmp_path / "near"))
    mlreg("get", "m@v1", tmp_path / "b")
    assert "(from the cache)" in mlreg("get", "m@v1", tmp_path / "c")
    assert "(from the cache)" not in mlreg("get", "m@v1", tmp_path / "d", "--no-cache")
    assert "links lead into buckets only" in mlreg("artifacts", "link", "m@v1", fails=True)
    digest = mlreg("models", "show", "m@v1").partition("folder ")[2].split()[0]
    assert "m@v1 needs it" in mlreg("artifacts", "delete", digest, fails=True)
