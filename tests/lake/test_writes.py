from datetime import date

import pyarrow as pa
import pytest

from ml_registry_pipelines.lake.lake import (
    Lake,
    LakeError,
    Landed,
    LostRace,
    OutOfSequence,
    StaleSlice,
    UnknownTable,
)
from tests.lake.points import DAY, TABLE, points, values

NEXT_DAY = date(2026, 1, 3)


def test_a_batch_lands_once_however_often_it_is_sent(lake):
    assert lake.append_once(TABLE, points([1, 2]), source="s", sequence=1) is Landed.NOW
    assert lake.append_once(TABLE, points([1, 2]), source="s", sequence=1) is Landed.BEFORE
    assert lake.append_once(TABLE, points([3]), source="s", sequence=2) is Landed.NOW
    assert lake.append_once(TABLE, points([1, 2]), source="s", sequence=1) is Landed.BEFORE
    assert values(lake) == {1: 1, 2: 1, 3: 1}
    assert lake.sequence(TABLE, "s") == 2


def test_a_batch_that_skips_a_number_is_refused(lake):
    with pytest.raises(
        OutOfSequence, match="batch 2 of 's' does not follow 0; read the table again and take 1"
    ):
        lake.append_once(TABLE, points([1]), source="s", sequence=2)
    assert values(lake) == {}


def test_sources_count_apart(lake):
    assert lake.append_once(TABLE, points([1]), source="a", sequence=1) is Landed.NOW
    assert lake.append_once(TABLE, points([2]), source="b", sequence=1) is Landed.NOW
    assert (lake.sequence(TABLE, "a"), lake.sequence(TABLE, "b"), lake.sequence(TABLE, "c")) == (1, 1, 0)


def test_append_next_takes_the_numbers_in_turn(lake):
    assert [lake.append_next(TABLE, points([n]), source="s") for n in range(3)] == [1, 2, 3]


def test_an_expected_version_that_has_passed_is_lost(lake, home):
    version = lake.append_expecting(TABLE, points([1]), version=lake.version(TABLE))
    with Lake(str(home)) as other:
        assert other.append_expecting(TABLE, points([2]), version=version) == version + 1
    with pytest.raises(LostRace, match="read it again"):
        lake.append_expecting(TABLE, points([3]), version=version)
    assert values(lake) == {1: 1, 2: 1}


def test_replace_overwrites_the_slice_and_nothing_else(lake):
    lake.append_next(TABLE, points([1, 2]), source="s")
    lake.append_next(TABLE, points([3], day=NEXT_DAY), source="s")
    assert lake.replace(TABLE, points([9]), predicate=f"day = '{DAY}'", source="r", sequence=4) is Landed.NOW
    assert values(lake) == {9: 1, 3: 1}


def test_replace_by_nothing_empties_the_slice(lake):
    lake.append_next(TABLE, points([1]), source="s")
    lake.append_next(TABLE, points([3], day=NEXT_DAY), source="s")
    lake.replace(TABLE, points([]), predicate=f"day = '{DAY}'", source="r", sequence=1)
    assert values(lake) == {3: 1}


def test_figures_of_an_older_batch_never_overwrite_newer_ones(lake):
    lake.replace(TABLE, points([5]), predicate=f"day = '{DAY}'", source="r", sequence=5)
    lake.replace(TABLE, points([6]), predicate=f"day = '{DAY}'", source="r", sequence=5)
    with pytest.raises(StaleSlice, match="already holds figures of batch 5"):
        lake.replace(TABLE, points([4]), predicate=f"day = '{DAY}'", source="r", sequence=4)
    assert values(lake) == {6: 1}


def test_replace_refuses_rows_outside_its_slice(lake):
    lake.append_next(TABLE, points([1]), source="s")
    mixed = pa.concat_tables([points([7]), points([8], day=NEXT_DAY)])
    for predicate in (f"day = '{DAY}'", "value = 7.0"):
        with pytest.raises(LakeError, match="some rows are outside the slice") as refused:
            lake.replace(TABLE, mixed, predicate=predicate, source="r", sequence=1)
        assert "\n" not in str(refused.value)
    assert values(lake) == {1: 1}


def test_a_predicate_that_cannot_be_read_is_named_in_one_sentence(lake):
    for predicate in ("colour = 'red'", "day = = 1"):
        for write in (
            lambda p=predicate: lake.replace(TABLE, points([1]), predicate=p, source="r", sequence=1),
            lambda p=predicate: lake.erase(TABLE, p),
        ):
            with pytest.raises(LakeError, match="model_metrics refuses the write: ") as refused:
                write()
            assert "\n" not in str(refused.value)


def test_rows_are_held_to_the_declaration(lake):
    good = points([1])
    wrong = {
        "has no column colour": good.append_column("colour", pa.array(["red"])),
        "tenant is required and 1 rows lack it": good.drop_columns(["tenant"]),
        "model is required and 1 rows lack it": good.set_column(2, "model", pa.array([None], pa.string())),
        "value is a double and was given a string": good.set_column(4, "value", pa.array(["high"])),
    }
    for message, rows in wrong.items():
        with pytest.raises(LakeError, match=message):
            lake.append_next(TABLE, rows, source="s")
    assert lake.sequence(TABLE, "s") == 0


def test_a_required_value_that_is_missing_is_refused_even_under_the_declared_schema(lake):
    schema = lake.declaration(TABLE).schema
    columns = {field.name: pa.nulls(1, field.type) for field in schema}
    with pytest.raises(LakeError, match="tenant is required"):
        lake.append_next(TABLE, pa.Table.from_arrays(list(columns.values()), schema=schema), source="s")


def test_columns_that_are_left_out_are_null_and_others_are_cast(lake):
    lake.append_next(TABLE, points([1]).append_column("step", pa.array([7], pa.int32())), source="s")
    lake.append_next(TABLE, points([2]), source="s")
    with lake.read(TABLE) as reading:
        rows = reading.query("test", "SELECT value, step, tags FROM model_metrics ORDER BY value").to_pylist()
    assert rows == [{"value": 1, "step": 7, "tags": None}, {"value": 2, "step": None, "tags": None}]


def test_an_unknown_table_is_answered_with_the_nearest_known_ones(lake):
    with pytest.raises(UnknownTable, match="there is no table 'models'; the nearest: model_"):
        lake.append_next("models", points([1]), source="s")
    with pytest.raises(UnknownTable):
        lake.sequence("models", "s")


def test_notes_of_commits_are_found_newest_first(lake):
    for number in (1, 2, 3):
        note = {"staged": f"file-{number}"} if number != 2 else None
        lake.append_once(TABLE, points([number]), source="s", sequence=number, note=note)
    assert [entry["staged"] for entry in lake.notes(TABLE, source_key="staged")] == ["file-3", "file-1"]
    assert lake.notes("alerts", source_key="staged") == []


def test_looking_makes_no_table(lake, home):
    assert lake.sequence(TABLE, "s") == 0
    assert lake.exists(TABLE) is False
    assert lake.status() == []
    with lake.read(TABLE) as reading:
        assert (reading.sequence(TABLE, "s"), reading.version(TABLE), len(reading.files(TABLE))) == (0, 0, 0)
        assert reading.query("t", f"SELECT count(*) AS n FROM {TABLE}").to_pylist() == [{"n": 0}]
        lake.append_next(TABLE, points([1]), source="s")
        assert reading.query("t", f"SELECT count(*) AS n FROM {TABLE}").to_pylist() == [{"n": 0}]


def test_looking_at_nothing_makes_no_folder(lake, home):
    assert lake.sequence(TABLE, "s") == 0
    with lake.read(TABLE) as reading:
        assert reading.query("t", f"SELECT value FROM {TABLE}").num_rows == 0
    assert not list(home.rglob(TABLE))


@pytest.mark.parametrize("name", ["with space", "ümlaut 日本", "it's", "50 + 50 = 100, (a) {b} #c ;d & e"])
def test_a_folder_of_any_usual_name_holds_a_lake(tmp_path, name):
    with Lake(str(tmp_path / name)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
        lake.append_next(TABLE, points([2]), source="s")
        assert lake.erase(TABLE, "value = 1.0").rows == 1
        assert values(lake) == {2: 1}
        assert [(t.name, t.rows, t.orphans) for t in lake.status()] == [(TABLE, 1, 0)]


@pytest.mark.parametrize("character", ["[", "]", "^", "|", "\\", "%", "*", "?", "\n"])
def test_a_folder_that_the_table_format_cannot_name_is_refused(tmp_path, character):
    with pytest.raises(LakeError, match="cannot hold tables: its name contains"):
        Lake(f"{tmp_path}/a{character}b")


def test_query_timings_are_written_when_the_lake_closes(home, monkeypatch):
    monkeypatch.setenv("MLREG_QUERY_TIMINGS", "on")
    with Lake(str(home), process="cli") as lake:
        lake.append_next(TABLE, points([1, 2]), source="s")
        values(lake)
    with Lake(str(home)) as lake, lake.read("query_timings") as reading:
        (row,) = reading.query(
            "test.timings", "SELECT name, process, rows, bytes, ms FROM query_timings"
        ).to_pylist()
    assert (row["name"], row["process"], row["rows"]) == ("test.values", "cli", 2)
    assert row["bytes"] >= 16
    assert row["ms"] > 0


def test_query_timings_are_kept_unless_that_is_switched_off(home, monkeypatch):
    monkeypatch.setenv("MLREG_QUERY_TIMINGS", "off")
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1, 2]), source="s")
        values(lake)
    assert not (home / "tables" / "query_timings").exists()
    monkeypatch.setenv("MLREG_QUERY_TIMINGS", "no")
    with pytest.raises(LakeError, match="MLREG_QUERY_TIMINGS is 'no'; set it to on or off"):
        Lake(str(home))
