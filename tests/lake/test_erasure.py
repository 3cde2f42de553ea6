"""What an erasure leaves behind: nothing, in any file, of the rows that it removed."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from ml_registry_pipelines.lake.committing import as_declared
from ml_registry_pipelines.lake.lake import Lake
from tests.lake.points import TABLE, points, values

SECRET = "pseudonym-7f3a9c"


def person(number: float) -> pa.Table:
    return points([number]).set_column(2, "model", pa.array([SECRET]))


def files_that_hold(root: Path, secret: str) -> list[str]:
    """Every file below the root in whose bytes or rows the secret occurs."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        text = path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            rows = duckdb.read_parquet(str(path), hive_partitioning=False).fetchall()
            text += repr(rows)
        if secret in text:
            found.append(path.name)
    return found


@pytest.fixture
def table(lake) -> Path:
    """A table that holds the person's rows in every kind of file that it may have."""
    for number in range(4):
        lake.append_next(TABLE, person(number), source="s")
        lake.append_next(TABLE, points([100 + number]), source="s")
    lake.maintain(TABLE)
    lake.append_next(TABLE, person(4), source="s")
    return Path(lake.uri(TABLE))


def test_no_file_below_the_table_holds_an_erased_row(lake, table):
    assert len(files_that_hold(table, SECRET)) > 4
    erased = lake.erase(TABLE, f"model = '{SECRET}'")
    assert (erased.rows, erased.files_pending) == (5, 0)
    assert files_that_hold(table, SECRET) == []
    assert values(lake) == {100: 1, 101: 1, 102: 1, 103: 1}


def test_what_a_lost_race_left_is_erased_too(lake, table):
    named = next(
        p for p in table.rglob("*.parquet") if SECRET in repr(duckdb.read_parquet(str(p)).fetchall())
    )
    shutil.copy(named, named.with_name("part-of-a-lost-race.parquet"))
    shutil.copy(named, named.with_name("part-of-a-killed-writer.parquet#1"))
    assert lake.status()[0].orphans == 2
    assert lake.erase(TABLE, f"model = '{SECRET}'").files_pending == 0
    assert files_that_hold(table, SECRET) == []
    assert lake.status()[0].orphans == 0


def test_an_erasure_that_finds_no_row_still_removes_the_files_that_are_nobodys(lake, table):
    first = lake.erase(TABLE, f"model = '{SECRET}'")
    again = lake.erase(TABLE, f"model = '{SECRET}'")
    assert (first.rows, again.rows, again.files_pending) == (5, 0, 0)


def test_the_condition_of_an_erasure_that_was_cut_short_leaves_the_log_with_the_next_one(lake, table):
    from deltalake import DeltaTable

    DeltaTable(str(table)).delete(f"model = '{SECRET}'")
    assert len(files_that_hold(table / "_delta_log", SECRET)) == 1
    lake.erase(TABLE, "model = 'nobody'")
    assert files_that_hold(table, SECRET) == []
    assert files_that_hold(table, "nobody") == []


def test_sequences_and_notes_survive_an_erasure(lake):
    lake.append_once(TABLE, person(1), source="s", sequence=1, note={"staged": "a"})
    lake.erase(TABLE, f"model = '{SECRET}'")
    assert lake.sequence(TABLE, "s") == 1
    assert [note["staged"] for note in lake.notes(TABLE, source_key="staged")] == ["a"]
    lake.append_once(TABLE, points([2]), source="s", sequence=2)
    assert values(lake) == {2: 1}


def test_a_writer_that_read_the_table_before_the_erasure_has_to_write_anew(lake, home):
    """Its file may be taken for an orphan and go: then it must not be able to commit it."""
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    lake.append_next(TABLE, person(1), source="s")
    earlier = DeltaTable(lake.uri(TABLE))
    lake.erase(TABLE, "model = 'nobody'")
    rows = as_declared(points([2]), lake.declaration(TABLE))
    with pytest.raises(CommitFailedError, match="Metadata changed"):
        write_deltalake(
            earlier,
            rows,
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction("t", 1)]),
        )


def test_rows_that_arrive_during_erasures_are_all_there(lake, home):
    """Writers in other lakes lose their race against the erasure, and land all the same."""
    lake.append_next(TABLE, person(1), source="s")
    other = Lake(str(home))
    done = threading.Event()

    def write() -> None:
        for number in range(100, 130):
            other.append_next(TABLE, points([number]), source="t")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    number = 2
    while not done.is_set() and number < 30:
        lake.append_next(TABLE, person(number), source="s")
        lake.erase(TABLE, f"model = '{SECRET}'")
        number += 1
    writer.join()
    other.close()
    assert values(lake) == {float(n): 1 for n in range(100, 130)}
    lake.erase(TABLE, f"model = '{SECRET}'")
    assert files_that_hold(Path(lake.uri(TABLE)), SECRET) == []
