"""Lists of things and relationships: whole or not at all, and every bad row named."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.registry import bulk
from ml_registry_pipelines.registry import things as things_module
from ml_registry_pipelines.registry.errors import Deleted, InvalidInput, LineageCycle, NotFound
from ml_registry_pipelines.registry.intake import (
    BadRows,
    parsed_end,
    read_edges,
    read_things,
    register_file,
)
from ml_registry_pipelines.registry.relationships import Flow, NewEdge
from ml_registry_pipelines.registry.things import NewThing


def jsonl(path: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_things_of_a_list_are_registered_with_everything_that_it_says(registry, tmp_path):
    path = jsonl(
        tmp_path / "models.jsonl",
        {"name": "a/ü"},
        {
            "name": "b",
            "description": "scores",
            "tags": {"n": 3, "share": 0.5, "live": True, "text": "1", "review": {"date": "2026-03-01"}},
            "owners": ["team:risk"],
            "metadata": {"x": [1, None]},
        },
    )
    assert register_file(registry.things, "model", path) == 2
    assert registry.get_model("a/ü").description == ""
    model = registry.get_model("b")
    assert model.tags == {"n": 3, "share": 0.5, "live": True, "text": "1", "review": date(2026, 3, 1)}
    assert (model.description, model.owners, model.metadata) == ("scores", ("team:risk",), {"x": [1, None]})
    assert [e.action for e in registry.history("b")] == ["register_many_model"]


@pytest.mark.parametrize("shape", ["struct", "map", "text"])
def test_a_parquet_file_may_hold_tags_as_struct_map_or_json(things, tmp_path, shape):
    tags: Any = [{"team": "x"}, None]
    kind = {
        "struct": pa.struct([("team", pa.string()), ("other", pa.string())]),
        "map": pa.map_(pa.string(), pa.string()),
        "text": pa.string(),
    }[shape]
    if shape == "text":
        tags = ['{"team": "x"}', None]
    if shape == "map":
        tags = [[("team", "x")], None]
    rows = pa.table({"name": ["a", "b"], "tags": pa.array(tags, kind)})
    pq.write_table(rows, tmp_path / "p.parquet")
    register_file(things, "prompt", tmp_path / "p.parquet")
    assert [(t.name, t.tags) for t in things.find("prompt")] == [("a", {"team": "x"}), ("b", {})]


def test_every_bad_row_is_named_with_its_line_and_reason_and_nothing_is_written(registry, tmp_path):
    registry.register_model("taken")
    rows = [
        (b'{"name": "good"}', None),
        (b'{"name": "good"}', "stands in line 1 already"),
        (b'{"name": ', "is no JSON"),
        (b'{"name": "\xff"}', "no UTF-8 at byte"),
        (b"[1]", "it is a list and not an object"),
        (b"{}", "it has no name"),
        (b'{"name": 7}', "name is a number and not text"),
        (b'{"name": " x"}', "spaces at an end"),
        (b'{"name": "x", "colour": 1}', "a field 'colour'; known are name, description"),
        (b'{"name": "x", "owners": "jane"}', "owners is text and not a list"),
        (b'{"name": "x", "owners": ["a@b.c"]}', "never an e-mail address"),
        (b'{"name": "x", "tags": {"t": {"date": "soon"}}}', "no date such as"),
        (b'{"name": "x", "tags": {"t": []}}', "tag 't' is a list"),
        (b'{"name": "x", "tags": [1]}', "tags is a list and not an object"),
        (b'{"name": "x", "metadata": {"n": NaN}}', "finite"),
        (b'{"name": "x", "name": "y"}', "a field twice"),
        (b'{"name": "x", "description": 4}', "description is text"),
        (b'{"name": "x", "metadata": {"big": "' + b"y" * 5_000_000 + b'"}}', "put large values"),
        (b'{"name": "x", "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
        (b'{"name": "x", "metadata": {"big": "' + b"y" * 17_000_000 + b'"}}', "longer than"),
    ]
    path = jsonl(tmp_path / "m.jsonl", *(row for row, _ in rows))
    before = registry.log.head(registry.tenant)
    with pytest.raises(BadRows) as failure:
        register_file(registry.things, "model", path)
    found = dict(failure.value.rows)
    assert list(found) == [n for n, (_, reason) in enumerate(rows, start=1) if reason is not None]
    for number, (_, reason) in enumerate(rows, start=1):
        assert reason is None or reason in found[number]
    assert "line 3: it is no JSON" in str(failure.value)
    path = jsonl(tmp_path / "n.jsonl", {"name": "fresh"}, {"name": "taken"})
    with pytest.raises(BadRows, match="line 2: there is a model 'taken' already"):
        register_file(registry.things, "model", path)
    assert registry.log.head(registry.tenant) == before


def test_a_file_that_is_no_list_is_one_clear_error(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"nonsense")
    (tmp_path / "x.txt").write_text("x")
    for name in ("x.parquet", "x.txt", "missing.jsonl"):
        with pytest.raises(InvalidInput, match=name.split(".")[0]):
            read_things(tmp_path / name)


def test_a_list_under_a_key_is_registered_once(registry, tmp_path):
    path = jsonl(tmp_path / "m.jsonl", *({"name": f"m{n}"} for n in range(5)))
    assert register_file(registry.things, "model", path, idempotency_key="k") == 5
    assert register_file(registry.things, "model", path, idempotency_key="k") == 5
    assert registry.log.head(registry.tenant)[0] == 1


def test_a_long_list_is_several_events_of_one_command(registry, monkeypatch):
    monkeypatch.setattr(things_module, "MAX_ROWS", 4)
    registry.register_many(NewThing(f"m{n:02}") for n in range(10))
    events = registry.log.events(registry.tenant, range(1, 9))
    assert [(e.part, e.parts, e.weight) for e in events] == [(1, 3, 4), (2, 3, 4), (3, 3, 2)]
    assert len({e.command_id for e in events}) == 1
    assert [m.name for m in registry.list_models()] == [f"m{n:02}" for n in range(10)]
    monkeypatch.setattr(things_module, "MAX_MANY", 3)
    with pytest.raises(InvalidInput, match="give them in parts"):
        registry.register_many(NewThing(f"x{n}") for n in range(4))


def test_what_a_bulk_event_lists_is_found_before_and_after_it_is_folded(log, registry, relationships):
    names = [f"m{n:05}" for n in range(bulk.WORTH_INDEXING * 2)]
    registry.register_many([NewThing(n, tags={"t": n}) for n in names])
    ids = [registry.get_model(n).id for n in names]
    assert [registry.get_model(i).tags for i in ids] == [{"t": n} for n in names]
    relationships.relate_many("derived_from", [NewEdge(("model", names[0]), ("model", n)) for n in names[1:]])
    assert len(relationships.list("model", names[0])) == len(names) - 1
    registry.register_many(NewThing(f"other{n}") for n in range(10_000))  # Fills the block.
    log.settle()
    assert [registry.get_model(n).id for n in names] == ids
    assert len(relationships.list("model", names[0])) == len(names) - 1
    assert registry.tag_model(names[1], {"x": 1}).tags == {"t": names[1], "x": 1}


def test_relationships_of_a_list_are_drawn_together(things, relationships, tmp_path):
    for name in ("a", "b", "c"):
        things.register("feature", name)
    path = jsonl(
        tmp_path / "e.jsonl",
        {"source": "feature:a", "target": "feature:b", "properties": {"share": 1}},
        {"source": "feature:b", "target": "feature:c"},
    )
    assert relationships.relate_many("feeds", read_edges(path)) == 2
    assert [(r.type, r.properties, r.flow) for r in relationships.list("feature", "a")] == [
        ("feeds", {"share": 1}, Flow.TO_TARGET)
    ]
    relationships.unrelate("feeds", ("feature", "a"), ("feature", "b"))
    assert relationships.list("feature", "a") == []


def test_a_list_of_relationships_is_drawn_whole_or_not_at_all(things, relationships, tmp_path):
    for name in ("a", "b", "c"):
        things.register("feature", name)
    relationships.relate("feeds", ("feature", "c"), ("feature", "a"))

    def edge(source: str, target: str) -> NewEdge:
        return NewEdge(("feature", source), ("feature", target))

    with pytest.raises(LineageCycle, match="'a' -> 'b' -> 'c' -> 'a'"):
        relationships.relate_many("feeds", [edge("a", "b"), edge("b", "c")])
    with pytest.raises(LineageCycle):
        relationships.relate_many("feeds", [edge("a", "a")])
    with pytest.raises(NotFound, match="no feature 'x'"):
        relationships.relate_many("feeds", [edge("a", "b"), edge("a", "x")])
    with pytest.raises(InvalidInput, match="listed twice"):
        relationships.relate_many("feeds", [edge("a", "b"), edge("a", "b")])
    things.delete("feature", "b")
    with pytest.raises(Deleted):
        relationships.relate_many("feeds", [edge("a", "b")])
    assert len(relationships.list("feature", "a")) == 1
    assert relationships.relate_many("feeds", []) == 0


def test_a_bad_relationship_in_a_list_is_named(tmp_path):
    path = jsonl(
        tmp_path / "e.jsonl",
        {"source": "feature:a", "target": "b"},
        {"source": "feature:a"},
        {"source": "feature:a", "target": "feature:b", "properties": 3},
    )
    with pytest.raises(BadRows) as failure:
        read_edges(path)
    assert [n for n, _ in failure.value.rows] == [1, 2, 3]
    assert parsed_end("dataset_version:a:b@v1") == ("dataset_version", "a:b@v1")


def test_no_circle_gets_past_a_list(things, relationships):
    for n in range(6):
        things.register("feature", f"{n}")
    edges = [NewEdge(("feature", f"{n}"), ("feature", f"{m}")) for n in range(6) for m in range(n + 1, 6)]
    assert relationships.relate_many("feeds", edges) == 15
    with pytest.raises(LineageCycle):
        relationships.relate_many("feeds", [NewEdge(("feature", "5"), ("feature", "0"))])


def test_the_limit_of_relationships_is_said(relationships, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.registry.relationships.MAX_MANY", 1)
    edges = [NewEdge(("a", "1"), ("a", "2"))] * 2
    with pytest.raises(InvalidInput, match="give them in parts"):
        relationships.relate_many("feeds", edges)
