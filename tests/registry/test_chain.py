"""Tampering is found and located; what cannot be found without an anchor is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from ml_registry_pipelines.lake.lake import Lake, LakeError
from ml_registry_pipelines.registry import chain, stretches, tail
from ml_registry_pipelines.registry.anchors import AnchorError, make_keys, read_anchors, write_anchor
from ml_registry_pipelines.registry.chain import Damage, Verdict, verify
from ml_registry_pipelines.registry.errors import EventUnreadable, LogDamaged
from ml_registry_pipelines.registry.events import event_hash
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.log_table import LogTable
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from tests.registry.conftest import ACTOR

Rows = list[dict[str, Any]]

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve events of tenant a, three of b."""
    root = tmp_path_factory.mktemp("whole")
    with Lake(str(root)) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR, tenant="a")
        for n in range(11):
            registry.register_model(f"m{n}")
        registry.register_many([NewThing("bulk")])
        for n in range(3):
            ModelRegistry(log, actor=ACTOR, tenant="b").register_model(f"m{n}")
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture
def rewrite(root: Path) -> Callable[[Callable[[Rows], Rows]], None]:
    """Does what somebody with the storage credentials could: writes the whole table anew."""

    def forge(change: Callable[[Rows], Rows]) -> None:
        table = DeltaTable(str(root / "tables" / "governance_events"))
        rows = table.to_pyarrow_table()
        ordered = rows.sort_by([("tenant", "ascending"), ("sequence", "ascending")]).to_pylist()
        write_deltalake(table, pa.Table.from_pylist(change(ordered), schema=rows.schema), mode="overwrite")

    return forge


def verified(lake: Lake, **options: object) -> list[Verdict]:
    """What is found does not depend on where the portions end in which a long log is checked."""
    at_once = verify(lake, **options)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        for module in (chain, stretches):
            patch.setattr(module, "AT_ONCE", 4)
        assert verify(lake, **options) == at_once  # type: ignore[arg-type]
    return at_once


def found(root: Path, **options: object) -> dict[str, Damage | None]:
    with Lake(str(root)) as lake:
        return {v.tenant: v.damage for v in verified(lake, **options)}


def test_a_whole_log_verifies_and_says_what_it_cannot_know(root):
    with Lake(str(root)) as lake:
        a, b = verified(lake)
        assert (a.events, a.damage, b.events, b.damage) == (12, None, 3, None)
        assert a.caveat is not None
        assert "cut off" in a.caveat
        assert [v.tenant for v in verified(lake, tenant="b")] == ["b"]


COLUMNS = ["payload", "actor", "recorded_at", "valid_from", "action", "idempotency_key", "command_id", "hash"]


def test_a_changed_field_is_found_and_named(root, rewrite):
    for sequence, column in zip(range(len(COLUMNS), 0, -1), COLUMNS, strict=True):

        def change(rows: Rows, row: int = sequence - 1, column: str = column) -> Rows:
            value = NOW if column.endswith(("_at", "_from")) else f"{rows[row][column] or ''}x"
            return [*rows[:row], {**rows[row], column: value}, *rows[row + 1 :]]

        # The one before is still there, and it is the first of them that is named.
        rewrite(change)
        with Lake(str(root)) as lake:
            a, b = verified(lake)
        assert a.damage is not None, column
        assert (a.damage.sequence, a.damage.what) == (sequence, "changed"), column
        assert b.damage is None


def test_a_dropped_event_is_found_and_named(root, rewrite):
    rewrite(lambda rows: rows[:6] + rows[7:])
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what, damage.text) == (
        7,
        "dropped",
        "event 7 is missing; event 8 is the next",
    )


def test_a_dropped_beginning_is_found(root, rewrite):
    rewrite(lambda rows: rows[2:])
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (1, "dropped")


def test_an_inserted_event_is_found_and_named(root, rewrite):
    def insert(rows: Rows) -> Rows:
        forged = {**rows[4], "payload": '{"change":{},"state":{"name":"evil"}}'}
        forged["hash"] = event_hash(forged)
        return [*rows[:5], forged, *rows[5:]]

    rewrite(insert)
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (5, "inserted")


def test_a_doubled_event_is_found(root, rewrite):
    rewrite(lambda rows: [*rows, rows[3]])
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (4, "inserted")


def test_reordered_events_are_found_and_named(root, rewrite):
    def swap(rows: Rows) -> Rows:
        rows[2]["sequence"], rows[7]["sequence"] = rows[7]["sequence"], rows[2]["sequence"]
        return rows

    rewrite(swap)
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (3, "reordered")
    assert damage.text == "event 8 stands as event 3: events were reordered"


def test_an_event_that_was_replaced_with_a_fitting_hash_breaks_the_link(root, rewrite):
    def replace(rows: Rows) -> Rows:
        rows[5]["actor"] = "somebody"
        rows[5]["hash"] = event_hash(rows[5])
        return rows

    rewrite(replace)
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (6, "changed")


def test_a_changed_or_lost_file_of_a_bulk_event_is_found(root):
    (file,) = Path(root, "artifacts", "bulk").rglob("*.parquet")
    data = file.read_bytes()
    file.write_bytes(data + b"x")
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (12, "changed")
    file.unlink()
    damage = found(root)["a"]
    assert damage is not None
    assert "is gone" in damage.text


def test_rows_in_another_order_are_the_same_log(root, rewrite):
    rewrite(lambda rows: rows[::-1])
    assert set(found(root).values()) == {None}


def forged_from(rows: Rows, start: int) -> Rows:
    """The chain of tenant a with event `start` changed, and everything after it computed anew."""
    previous = rows[start - 2]["hash"]
    for row in rows[start - 1 : 12]:
        row["actor"] = "somebody" if row["sequence"] == start else row["actor"]
        row["previous_hash"] = previous
        previous = row["hash"] = event_hash(row)
    return rows


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    return tmp_path / "private.pem", tmp_path / "public.pem"


@pytest.fixture
def anchors(root: Path, tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """Two anchors, one at the end and one two events later."""
    folder = tmp_path / "anchors"
    with Lake(str(root)) as lake, Log(lake) as log:
        write_anchor(lake, folder, keys[0], public=keys[1], now=NOW)
        registry = ModelRegistry(log, actor=ACTOR, tenant="b")
        registry.register_model("later")
        write_anchor(lake, folder, keys[0], public=keys[1], now=NOW)
        registry.register_model("after the anchors")
    return folder


def test_a_forgery_computed_to_the_end_is_seen_by_an_anchor_alone(root, rewrite, anchors, keys):
    known = read_anchors(anchors, keys[1])
    assert set(found(root, anchors=known).values()) == {None}
    rewrite(lambda rows: forged_from(rows, 4))
    assert found(root)["a"] is None
    damage = found(root, anchors=known)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (4, "changed")


def test_a_lost_end_is_seen_by_an_anchor(root, rewrite, anchors, keys):
    known = read_anchors(anchors, keys[1])
    rewrite(lambda rows: rows[:10] + rows[12:])
    damage = found(root, anchors=known)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (11, "dropped")
    rewrite(lambda rows: [r for r in rows if r["tenant"] == "b"])
    damage = found(root, anchors=known)["a"]
    assert damage is not None
    assert damage.text == "all 12 events are missing, which an anchor has seen"


def test_a_lost_end_is_seen_by_its_positions_when_others_wrote_later(root, rewrite):
    rewrite(lambda rows: rows[:11] + rows[12:])
    (damage,) = [d for d in found(root).values() if d]
    assert "a tenant's newest events are missing" in damage.text


def test_an_anchor_says_how_far_it_reaches(root, anchors, keys):
    with Lake(str(root)) as lake:
        a, b = verified(lake, anchors=read_anchors(anchors, keys[1]))
    assert a.caveat is None
    assert b.anchored == 4
    assert b.caveat is not None
    assert b.caveat.startswith("events 5 to 5 are newer than the last anchor")


def test_a_forged_or_missing_anchor_is_refused(root, anchors, keys, tmp_path):
    first, second = sorted(anchors.glob("*.json"))
    signed = json.loads(first.read_text())
    first.write_text(json.dumps({**signed, "content": signed["content"].replace('"a"', '"c"')}))
    with pytest.raises(AnchorError, match="forged"):
        read_anchors(anchors, keys[1])
    first.unlink()
    with pytest.raises(AnchorError, match="missing"):
        read_anchors(anchors, keys[1])
    second.unlink()
    make_keys(tmp_path / "k2", tmp_path / "p2")
    with pytest.raises(AnchorError, match="not overwritten"):
        make_keys(tmp_path / "k2", tmp_path / "p2")
    with Lake(str(root)) as lake, pytest.raises(AnchorError, match="inside"):
        write_anchor(lake, root / "anchors", keys[0], public=keys[1], now=NOW)


def test_commands_are_refused_on_a_log_with_a_hole(root, rewrite):
    rewrite(lambda rows: rows[:6] + rows[7:])
    with Lake(str(root)) as lake, Log(lake) as log, pytest.raises(LogDamaged, match="mlreg audit verify"):
        ModelRegistry(log, actor=ACTOR, tenant="a").register_model("x")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("block", 77, "event 7 stands in block 77 and not in block 1"),
        ("block", 2, "event 7 stands in block 2 and not in block 1"),
        ("block", 0, "event 7 stands in block 0 and not in block 1"),
        ("position", 6, "event 7 lies at position 6, where another event lies"),
        ("position", 0, "event 7 lies at 0"),
    ],
)
def test_an_event_in_another_place_is_found_before_it_is_lost_to_readers(root, rewrite, column, value, said):
    rewrite(lambda rows: [r | {column: value} if r["sequence"] == 7 else r for r in rows])
    damage = found(root)["a"]
    assert damage is not None
    assert damage.sequence == 7
    if column == "block":
        assert damage.text.startswith(said)
    with Lake(str(root)) as lake, Log(lake) as log, pytest.raises(LogDamaged, match="mlreg audit verify"):
        ModelRegistry(log, actor=ACTOR, tenant="b").list_models()


def test_an_event_whose_block_was_taken_away_is_found(root, rewrite):
    rewrite(lambda rows: [r | {"block": None} if r["sequence"] == 7 else r for r in rows])
    damage = found(root)["a"]
    assert damage is not None
    assert (damage.sequence, damage.what) == (7, "reordered")


def test_a_log_with_moved_events_is_not_folded_anew(root, rewrite):
    def move(rows: Rows) -> Rows:
        return [r | {"block": r["position"] // 4 + 1} for r in rows]

    rewrite(move)
    with Lake(str(root)) as lake, pytest.raises(LogDamaged, match="stands in block 2 of the log"):
        list(LogTable(lake).blocks(1))


def test_projections_of_a_log_that_lost_its_end_are_not_taken_for_its_own(root, rewrite):
    with Lake(str(root)) as lake, Log(lake) as log:
        things = [NewThing(f"t{n}") for n in range(10_000)]  # fills a block
        ModelRegistry(log, actor=ACTOR, tenant="a").things.register_many("feature", things)
    rewrite(lambda rows: [r for r in rows if r["position"] < 16])
    with Lake(str(root)) as lake, Log(lake) as log, pytest.raises(LogDamaged, match="hold 1 blocks"):
        ModelRegistry(log, actor=ACTOR, tenant="b").list_models()


@pytest.mark.parametrize(
    "payload",
    ["nope", *(pytest.param(each, marks=pytest.mark.soak) for each in ("{}", '{"change":{},"state":{}}'))],
)
def test_an_event_that_cannot_be_read_stops_its_tenant_alone(root, rewrite, payload, monkeypatch):
    monkeypatch.setattr(tail, "BLOCK", 4)  # The blocks before it can be folded, and no later one.

    def forge(rows: Rows) -> Rows:
        rows[14]["payload"] = payload
        rows[14]["hash"] = event_hash(rows[14])
        return [r | {"block": (r["position"] - 1) // 4 + 1} for r in rows]

    rewrite(forge)
    for _ in range(2):
        with Lake(str(root)) as lake, Log(lake) as log:
            sound = ModelRegistry(log, actor=ACTOR, tenant="a")
            for _ in range(5):
                sound.register_model(f"n{log.head('a')[0]}")
            log.settle()
            assert len(sound.list_models()) == log.head("a")[0]
            damaged = ModelRegistry(log, actor=ACTOR, tenant="b")
            for act in (damaged.list_models, partial(damaged.register_model, "x")):
                with pytest.raises(EventUnreadable, match="event 3 of tenant 'b' cannot be read"):
                    act()
    if payload != '{"change":{},"state":{}}':
        damage = found(root)["b"]
        assert damage is not None
        assert damage.text.startswith("event 3 cannot be read")


@pytest.mark.parametrize("data", [b"PAR1garbage", b"x" * 5000, None])
def test_a_lost_or_damaged_file_is_named_with_the_events_that_it_held(root, data):
    file = next(
        action["path"]
        for action in pa.table(
            DeltaTable(str(root / "tables" / "governance_events")).get_add_actions(flatten=True)
        ).to_pylist()
        if action["min.position"] == 4
    )
    path = root / "tables" / "governance_events" / file
    path.unlink() if data is None else path.write_bytes(data)
    with Lake(str(root)) as lake, Log(lake) as log:
        said = f"{file} is gone or damaged .* 1 events, at positions 4 to 4 .* numbers 4 to 4 of tenant 'a'"
        with pytest.raises(LogDamaged, match=said):
            verify(lake)
        with pytest.raises(LakeError, match="mlreg audit verify"):
            ModelRegistry(log, actor=ACTOR, tenant="b").list_models()


def test_a_log_that_was_emptied_is_no_empty_log(root, rewrite):
    rewrite(lambda _: [])
    [damage] = found(root).values()
    assert damage is not None
    assert (damage.what, damage.text[:30]) == ("dropped", "the log has no event at all, a")


def test_a_single_wrong_byte_in_a_header_is_one_sentence(root):
    """DuckDB says it by an error without a type of its own."""
    actions = DeltaTable(str(root / "tables" / "governance_events")).get_add_actions(flatten=True)
    [path] = [
        root / "tables" / "governance_events" / action["path"]
        for action in pa.table(actions).to_pylist()
        if action["min.position"] == 4
    ]
    data = bytearray(path.read_bytes())
    page = data.index(b"PAR1") + 4
    data[page : page + 24] = b"\xff" * 24
    path.write_bytes(data)
    with Lake(str(root)) as lake, pytest.raises(LogDamaged, match=r"is gone or damaged .* positions 4 to 4"):
        verify(lake)


def test_a_number_that_nobody_can_have_given_is_found_at_once(root, rewrite):
    def far_away(rows: Rows) -> Rows:
        return [r | {"sequence": 10**15} if (r["tenant"], r["sequence"]) == ("a", 9) else r for r in rows]

    rewrite(far_away)
    with Lake(str(root)) as lake:
        first, _ = verified(lake)
    assert first.damage is not None
    assert (first.damage.what, first.damage.sequence) == ("dropped", 9)


def test_anchors_of_many_tenants_grow_with_each_of_them(root, keys, tmp_path):
    private, public = keys
    with Lake(str(root)) as lake, Log(lake) as log:
        for number, tenant in enumerate(("b", "c", "a", "d", "c"), start=1):
            for n in range(number):
                ModelRegistry(log, actor=ACTOR, tenant=tenant).register_model(f"anchored {number} {n}")
            write_anchor(lake, tmp_path / "grown", private, public=public, now=NOW)
        verdicts = verified(lake, anchors=read_anchors(tmp_path / "grown", public))
    assert [(v.tenant, v.events, v.anchored) for v in verdicts] == [
        ("a", 15, 15),
        ("b", 4, 4),
        ("c", 7, 7),
        ("d", 4, 4),
    ]
    assert [v.damage or v.caveat for v in verdicts] == [None] * 4
