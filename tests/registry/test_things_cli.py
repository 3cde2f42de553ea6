"""Things and relationships of any kind from a shell, and what models have beside."""

from __future__ import annotations

import json
import shlex

from tests.registry.test_registry_cli import mlreg

__all__ = ["mlreg"]


def test_a_thing_of_any_kind_goes_through_all_verbs(mlreg):
    mlreg("things", "register", "prompt", "greeting", "--tag", 'v="1"', "--tag", "n=1", "--key", "k")
    mlreg("things", "register", "prompt", "greeting", "--tag", 'v="1"', "--tag", "n=1", "--key", "k")
    assert "already has a prompt 'greeting'" in mlreg("things", "register", "prompt", "greeting", fails=True)
    mlreg("things", "describe", "prompt", "greeting", "says hello", "--valid-from", "2026-01-02")
    mlreg("things", "owners", "prompt", "greeting", "team:x", "team:y")
    mlreg("things", "metadata", "prompt", "greeting", '{"text": "Guten Tag"}')
    mlreg("things", "tag", "prompt", "greeting", "day=2026-03-01", "live=true", "--remove", "n")
    mlreg("things", "rename", "prompt", "greeting", "hi")
    shown = mlreg("things", "show", "prompt", "hi")
    for part in ("says hello", "team:x, team:y", "Guten Tag", "day=2026-03-01, live=True, v=1", "prompt"):
        assert part in shown
    assert mlreg("things", "list", "prompt", "--tag", 'v="1"') == "prompt  hi  active\n"
    assert mlreg("things", "list", "prompt", "--tag", "v=1") == ""
    mlreg("things", "deprecate", "prompt", "hi", "--reason", "old")
    assert mlreg("things", "list", "--status", "deprecated") == "prompt  hi  deprecated\n"
    mlreg("things", "reinstate", "prompt", "hi")
    mlreg("things", "delete", "prompt", "hi")
    assert mlreg("things", "list", "prompt") == ""
    assert mlreg("things", "list", "prompt", "--deleted") == "prompt  hi  deleted\n"
    assert "is deleted; restore it first" in mlreg("things", "show", "prompt", "hi", fails=True)
    mlreg("things", "restore", "prompt", "hi")
    assert len(mlreg("things", "history", "prompt", "hi").splitlines()) == 10


def test_relationships_of_any_type_are_drawn_listed_and_removed(mlreg):
    for name in ("fraud", "risk"):
        mlreg("models", "register", name)
    mlreg("things", "register", "application", "shop")
    drawn = mlreg(
        "relationships",
        "relate",
        "used_by",
        "model:fraud",
        "application:shop",
        "--properties",
        '{"since": 1}',
    )
    assert drawn == 'model:fraud  used_by  application:shop  {"since": 1}\n'
    assert mlreg("relationships", "list", "application:shop") == drawn
    assert mlreg("relationships", "list", "application:shop", "--type", "feeds") == ""
    assert "close a cycle" in mlreg(
        "relationships",
        "relate",
        "feeds",
        "application:shop",
        "model:fraud",
        "--flow",
        "to_target",
        fails=True,
    )
    mlreg("relationships", "unrelate", "used_by", "model:fraud", "application:shop")
    assert mlreg("relationships", "list", "application:shop") == ""
    assert "write KIND:NAME" in mlreg("relationships", "list", "shop", fails=True)
    assert "no JSON" in mlreg(
        "relationships", "relate", "used_by", "model:fraud", "model:risk", "--properties", "{", fails=True
    )


def test_lists_go_in_whole_or_not_at_all(mlreg, tmp_path):
    good, bad, edges = (tmp_path / f"{name}.jsonl" for name in ("good", "bad", "edges"))
    good.write_text("".join(json.dumps({"name": f"m{n}"}) + "\n" for n in range(3)))
    bad.write_text('{"name": "x"}\n{"nam": "y"}\n')
    edges.write_text('{"source": "model:m0", "target": "model:m1"}\n')
    assert mlreg("models", "register-many", good, "--key", "k") == "3 models are registered\n"
    assert mlreg("models", "register-many", good, "--key", "k") == "3 models are registered\n"
    assert "line 2: it has no name" in mlreg("things", "register-many", "team", bad, fails=True)
    assert mlreg("things", "list", "team") == ""
    assert "there is a model 'm0' already" in mlreg("models", "register-many", good, fails=True)
    assert mlreg("relationships", "relate-many", "feeds", edges).startswith("1 relationships")
    assert mlreg("relationships", "list", "model:m1") == "model:m0  feeds  model:m1\n"


def test_a_list_that_is_longer_than_the_page_says_how_to_go_on(mlreg):
    for name in ("a", "b c", "d"):
        mlreg("models", "register", name)
    first = mlreg("models", "list", "--limit", "2")
    *shown, more = first.splitlines()
    assert shown == ["a  active", "b c  active"]
    assert (
        mlreg("models", "list", "--limit", "2", *shlex.split(more.removeprefix("there are more: ")))
        == "d  active\n"
    )
    assert "is no place in a list" in mlreg("models", "list", "--after", "b c", fails=True)
    assert "a tag's number is finite" in mlreg("models", "register", "x", "--tag", "z=NaN", fails=True)


def test_a_models_other_verbs_work_from_a_shell(mlreg, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"one")
    mlreg("models", "register", "fraud")
    mlreg("models", "register", "a@b")
    mlreg("models", "add-version", "fraud", tmp_path / "w.bin", "--key", "v1")
    mlreg("models", "describe", "fraud", "finds fraud")
    mlreg("models", "describe", "fraud@v1", "the first")
    mlreg("models", "describe", "a@b", "its name has an at")
    assert "finds fraud" in mlreg("models", "show", "fraud")
    assert "the first" in mlreg("models", "show", "fraud@v1")
    assert "its name has an at" in mlreg("models", "show", "a@b")
    mlreg("models", "tag", "fraud@v1", "n=1")
    assert "n=1" in mlreg("models", "show", "fraud@v1")
    mlreg("models", "owners", "fraud", "team:x")
    mlreg("models", "alias", "fraud@v1", "champion")
    mlreg("models", "protect", "fraud", "champion")
    assert "is protected" in mlreg("models", "unalias", "fraud", "champion", fails=True)
    mlreg("models", "unprotect", "fraud", "champion")
    mlreg("models", "unalias", "fraud", "champion")
    mlreg("models", "promote", "fraud@v1", "--valid-from", "2026-03-01")
    assert "since  2026-03-01 00:00:00Z by shell" in mlreg("models", "production-on", "fraud", "2026-03-02")
    assert "nothing in production" in mlreg("models", "production-on", "fraud", "2026-02-01")
    mlreg("models", "deprecate", "fraud", "--reason", "old")
    mlreg("models", "reinstate", "fraud")
    assert "2026-03-01" not in mlreg("history", "fraud", "--as-of", "2020-01-01", fails=True)


def test_what_is_wrong_is_one_sentence_and_no_stack(mlreg):
    mlreg("things", "register", "prompt", "there")
    for name in ("", "\x00", "x" * 10_000, "a\nb", "\ud800"):
        assert "the name" in mlreg("things", "register", "prompt", name, fails=True)
        assert "no prompt" in mlreg("things", "show", "prompt", name, fails=True)
    assert "is no kind" in mlreg("things", "register", "Prompt", "x", fails=True)
    assert "track_deployment records it" in mlreg("things", "register", "deployment", "x", fails=True)
    assert "a tag is NAME=VALUE" in mlreg("things", "register", "prompt", "x", "--tag", "oops", fails=True)
