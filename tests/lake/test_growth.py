"""Declarations that change between one version of the software and the next."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import pyarrow as pa
import pytest

from ml_registry_pipelines.lake import tables
from ml_registry_pipelines.lake.declarations import Column
from ml_registry_pipelines.lake.lake import Lake, LakeError
from ml_registry_pipelines.lake.sandbox import SqlLimits, answer
from tests.lake.points import DAY, TABLE, points, values


@pytest.fixture
def declare(monkeypatch):
    """Declares columns of model_metrics as another version of the software would."""
    before = tables.TABLES[TABLE]

    def change(*added: Column, without: str = "", statistics: tuple[str, ...] = before.statistics) -> None:
        columns = (*(column for column in before.columns if column.name != without), *added)
        declared = dataclasses.replace(before, columns=columns, statistics=statistics)
        monkeypatch.setitem(tables.TABLES, TABLE, declared)

    return change


UNIT = Column("unit", "string", "unit of the value")
GRADE = Column("grade", "decimal(10,2)", "a required one", required=True)


def rows_of(lake: Lake, sql: str) -> list[dict[str, object]]:
    with lake.read(TABLE) as reading:
        return list(reading.query("test.growth", sql).to_pylist())


def test_a_new_column_is_null_in_rows_that_are_older(home, declare):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(UNIT)
    with Lake(str(home)) as lake:
        assert rows_of(lake, "SELECT value, unit FROM model_metrics") == [{"value": 1, "unit": None}]
        lake.append_next(TABLE, points([2]).append_column("unit", pa.array(["ms"])), source="s")
        expected = [{"value": 1, "unit": None}, {"value": 2, "unit": "ms"}]
        assert rows_of(lake, "SELECT value, unit FROM model_metrics ORDER BY value") == expected
        lake.maintain(TABLE)
        assert rows_of(lake, "SELECT value, unit FROM model_metrics ORDER BY value") == expected
        seen = answer(
            lake, "SELECT value, unit FROM model_metrics ORDER BY value", tenant=None, limits=SqlLimits()
        )
        assert seen.to_pylist() == expected


def test_a_column_that_is_described_in_other_words_still_takes_rows(home, declare, monkeypatch):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(Column("value", "float64", "the same, said better", "1"), without="value")
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([2]), source="s")
        lake.replace(TABLE, points([3]), predicate=f"day = '{DAY}'", source="r", sequence=1)
        assert rows_of(lake, "SELECT value FROM model_metrics") == [{"value": 3}]


def test_a_new_column_reads_as_null_before_anybody_has_written_it(home, declare):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(UNIT, GRADE)
    with Lake(str(home)) as lake:
        version = lake.version(TABLE)
        expected = [{"value": 1, "unit": None, "grade": None}]
        assert rows_of(lake, "SELECT value, unit, grade FROM model_metrics") == expected
        seen = answer(lake, "SELECT value, unit, grade FROM model_metrics", tenant="acme", limits=SqlLimits())
        assert seen.to_pylist() == expected
        assert lake.version(TABLE) == version


def test_a_new_required_column_is_required_of_new_rows_alone(home, declare):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(GRADE)
    with Lake(str(home)) as lake:
        with pytest.raises(LakeError, match="grade is required and 1 rows lack it"):
            lake.append_next(TABLE, points([2]), source="s")
        lake.append_next(TABLE, points([2]).append_column("grade", pa.array([Decimal(3)])), source="s")
        lake.replace(
            TABLE,
            points([4]).append_column("grade", pa.array([5.0])),
            predicate="value = 4.0",
            source="r",
            sequence=1,
        )
        grades = [
            str(row["grade"]) for row in rows_of(lake, "SELECT grade FROM model_metrics ORDER BY value")
        ]
    assert grades == ["None", "3.00", "5.00"]


def test_a_writer_of_the_older_version_goes_on_beside_the_newer_one(home, declare, monkeypatch):
    older = Lake(str(home))
    older.append_next(TABLE, points([1]), source="s")
    with monkeypatch.context():
        declare(UNIT)
        with Lake(str(home)) as newer:
            newer.append_next(TABLE, points([2]).append_column("unit", pa.array(["ms"])), source="s")
    monkeypatch.undo()
    older.append_next(TABLE, points([3]), source="s")
    assert values(older) == {1: 1, 2: 1, 3: 1}
    older.close()


def test_a_column_whose_type_has_changed_is_named(home, declare):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(Column("value", "string", "now a text"), without="value")
    with (
        Lake(str(home)) as lake,
        pytest.raises(LakeError, match="value is stored as double and declared as string"),
    ):
        lake.append_next(TABLE, points([1]), source="s")


def test_a_change_of_the_columns_with_statistics_takes_effect(home, declare):
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    declare(statistics=("value",))
    with Lake(str(home)) as lake:
        lake.append_next(TABLE, points([2]), source="s")
        with lake.read(TABLE) as reading:
            found = {row["min.value"] for row in reading.files(TABLE).to_pylist()}
    assert found == {None, 2.0}
