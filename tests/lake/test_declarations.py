"""What every declared table keeps, whoever declares it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.lake.declarations import Column, Table, arrow_type
from ml_registry_pipelines.lake.tables import TABLES
from tests.lake.points import TABLE, one_row, points

every_table = pytest.mark.parametrize("name", sorted(TABLES))
SECRET = "someone-9c1f"


@every_table
def test_a_row_goes_into_the_table_and_comes_back(lake, name):
    row = one_row(name)
    lake.append_next(name, row, source="s")
    with lake.read(name) as reading:
        back = reading.query("test", f'SELECT * FROM "{name}"')
    assert back.cast(row.schema).equals(row)


@every_table
def test_nothing_personal_reaches_the_log(lake, name):
    personal = {column.name: SECRET for column in TABLES[name].columns if column.personal}
    for _ in range(2):
        lake.append_next(name, one_row(name, **personal), source="s")
    lake.maintain(name)
    log = Path(lake.uri(name), "_delta_log")
    told = "".join(path.read_text() for path in log.glob("*.json"))
    told += "".join(repr(pq.read_table(path).to_pylist()) for path in log.glob("*.parquet"))
    assert SECRET not in told


@every_table
def test_files_bear_the_declared_statistics_and_no_others(lake, name):
    lake.append_next(name, one_row(name), source="s")
    log = Path(lake.uri(name), "_delta_log", f"{1:020}.json")
    (add,) = (line["add"] for line in map(json.loads, log.read_text().splitlines()) if "add" in line)
    stats = json.loads(add["stats"])
    assert stats["numRecords"] == 1
    expected = set(TABLES[name].statistics) - set(TABLES[name].partition_by)
    assert set(stats["minValues"]) | set(stats["nullCount"]) == expected


@every_table
def test_every_column_says_what_it_means(name):
    table = TABLES[name]
    assert table.row
    assert not table.row.endswith(".")
    for column in table.columns:
        assert column.meaning, column.name
    assert len(set(table.column_names)) == len(table.columns)


def test_a_declaration_that_cannot_hold_is_refused():
    good = TABLES[TABLE]
    person = Column("who", "string", "a person", personal=True)
    for change, message in (
        ({"key": ("nobody",)}, "key names"),
        ({"statistics": ("nobody",)}, "statistics names"),
        ({"partition_by": ("nobody",)}, "partition_by names"),
        ({"tenant_column": "nobody"}, "no column 'nobody' to tell tenants apart"),
        ({"columns": (*good.columns, person), "statistics": ("who",)}, "is personal and would leak"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(ValueError, match="no Arrow type is declared under the name 'money'"):
        arrow_type("money")
    assert isinstance(good, Table)


def test_rows_of_a_commit_are_written_in_the_declared_order(lake):
    assert TABLES[TABLE].sort_by[0] == "tenant"
    lake.append_next(TABLE, pa.concat_tables(points([1], tenant=n) for n in "cab"), source="s")
    (file,) = Path(lake.uri(TABLE)).rglob("day=*/*.parquet")
    assert pq.read_table(file, partitioning=None)["tenant"].to_pylist() == ["a", "b", "c"]
