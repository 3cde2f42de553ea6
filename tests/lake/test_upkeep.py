"""Upkeep by count of commits: what it does, and what readers and writers notice of it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from ml_registry_pipelines.lake import maintenance
from ml_registry_pipelines.lake.lake import Lake, LakeError, SnapshotGone
from ml_registry_pipelines.lake.maintenance import TableStatus
from tests.lake.points import TABLE, points, values


def status(lake: Lake) -> TableStatus:
    return next(table for table in lake.status() if table.name == TABLE)


def age(folder: Path, hours: float) -> None:
    """Make every file look that old."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - hours * 3600,) * 2)


def fill(lake: Lake, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        lake.append_next(TABLE, points([number]), source="s")


def test_a_checkpoint_comes_every_twenty_commits(lake):
    fill(lake, 45)
    lake.settle()
    found = status(lake)
    # The one that the 40th commit set off may have found later ones.
    assert (found.version, found.warning) == (45, None)
    assert found.commits_since_checkpoint <= 5


def test_files_are_compacted_by_count_and_rows_stay(lake, monkeypatch):
    monkeypatch.setattr(maintenance, "COMPACT_EVERY", 40)
    fill(lake, 41)
    lake.settle()
    assert status(lake).files <= 2
    assert values(lake) == {float(n): 1 for n in range(41)}
    assert lake.sequence(TABLE, "s") == 41


def test_rows_stay_there_once_when_two_compact_at_once(lake, monkeypatch):
    fill(lake, 5)
    properties = maintenance.writer_properties
    with Lake(lake.root) as other:

        def while_another_does(declared):
            """Asked for between reading the table and committing what was made of it."""
            monkeypatch.setattr(maintenance, "writer_properties", properties)
            other.maintain(TABLE)
            return properties(declared)

        monkeypatch.setattr(maintenance, "writer_properties", while_another_does)
        lake.maintain(TABLE)
    assert values(lake) == {float(n): 1 for n in range(5)}
    assert status(lake).files == 1
    version = lake.version(TABLE)
    lake.maintain(TABLE)
    assert lake.version(TABLE) == version, "nothing to compact, and a commit all the same"


def test_the_log_is_cut_by_count_behind_a_checkpoint(lake, monkeypatch):
    monkeypatch.setattr(maintenance, "LOG_KEPT", 30)
    fill(lake, 85)
    lake.settle()
    log = sorted(path.name for path in Path(lake.uri(TABLE), "_delta_log").glob("0*.json"))
    assert 50 <= int(log[0].split(".")[0]) <= 55
    assert status(lake).log_files < 45
    assert lake.sequence(TABLE, "s") == 85
    assert values(lake) == {float(n): 1 for n in range(85)}


def test_a_cut_log_is_still_read_by_whoever_comes_with_the_table_format_alone(lake, monkeypatch):
    monkeypatch.setattr(maintenance, "LOG_KEPT", 2)
    fill(lake, 10)
    lake.maintain(TABLE)
    fill(lake, 2, first=10)
    plain = DeltaTable(lake.uri(TABLE))
    assert sorted(plain.to_pyarrow_table()["value"].to_pylist()) == [float(n) for n in range(12)]
    write_deltalake(plain, plain.to_pyarrow_table().slice(0, 1), mode="append")
    assert values(lake).total() == 13


def test_removed_files_stay_an_hour_and_are_no_orphans(lake):
    fill(lake, 5)
    age(Path(lake.uri(TABLE)), hours=3)
    lake.maintain(TABLE, full=True)
    done = lake.maintain(TABLE, full=True)
    assert (done.files_before, done.files_after, done.files_removed) == (1, 1, 0)
    assert len(list(Path(lake.uri(TABLE)).rglob("*.parquet"))) > 5
    assert status(lake).orphans == 0


def test_orphans_are_counted_at_once_and_removed_by_full_upkeep_after_an_hour(lake):
    fill(lake, 3)
    folder = Path(lake.uri(TABLE), "day=2026-01-02")
    live = next(folder.iterdir())
    for name, hours in (
        ("old.parquet", 2),
        ("old.parquet#1", 2),
        ("young.parquet", 0.1),
        ("young.parquet#1", 0.1),
    ):
        shutil.copy(live, folder / name)
        os.utime(folder / name, (time.time() - hours * 3600,) * 2)
    assert status(lake).orphans == 4
    assert lake.maintain(TABLE).files_removed == 0
    assert lake.maintain(TABLE, full=True).files_removed == 2
    assert status(lake).orphans == 2
    assert values(lake) == {0: 1, 1: 1, 2: 1}


def test_a_table_that_nobody_keeps_up_is_warned_about():
    well = TableStatus("t", 1, 1, 1, 300, commits_since_checkpoint=20, log_files=20, orphans=0)
    assert well.warning is None
    behind = TableStatus("t", 1, 1, 1, 300, commits_since_checkpoint=101, log_files=101, orphans=0)
    assert behind.warning == "101 commits since the last checkpoint; run `mlreg maintain`"
    untidy = TableStatus("t", 1, 1, 1, 300, commits_since_checkpoint=1, log_files=1, orphans=101)
    assert untidy.warning == "101 orphan files; run `mlreg maintain --full`"


def test_an_open_reading_keeps_its_snapshot_through_compaction(lake):
    fill(lake, 6)
    with lake.read(TABLE) as reading:
        fill(lake, 4, first=6)
        lake.maintain(TABLE, full=True)
        assert reading.sequence(TABLE, "s") == 6
        assert reading.query("test", "SELECT count(*) AS n FROM model_metrics").to_pylist() == [{"n": 6}]
    assert values(lake) == {float(n): 1 for n in range(10)}


def test_a_handle_that_readers_share_follows_others_and_outlives_a_cut_of_the_log(lake, home, monkeypatch):
    monkeypatch.setattr(maintenance, "LOG_KEPT", 1)
    with Lake(str(home)) as other:
        for round_ in range(1, 4):
            fill(other, 5, first=5 * round_)
            # Opened at a version behind which the log is then cut, and which stays the newest one.
            assert values(lake).total() == 5 * round_
            other.maintain(TABLE)
            with lake.read(TABLE) as reading:
                assert reading.sequence(TABLE, "s") == 5 * round_
            assert values(lake).total() == 5 * round_
    shutil.rmtree(lake.uri(TABLE))
    fill(lake, 1)
    assert values(lake) == {0.0: 1}


def remove_dropped_files(lake: Lake) -> None:
    """Compact, then remove what the newest version no longer names, as upkeep does after an hour."""
    lake.maintain(TABLE)
    named = {Path(uri).name for uri in lake.snapshot(TABLE).file_uris()}
    for path in Path(lake.uri(TABLE)).rglob("*.parquet"):
        if "_delta_log" not in path.parts and path.name not in named:
            path.unlink()


def test_a_first_query_that_comes_too_late_for_its_files_takes_a_new_snapshot(lake):
    fill(lake, 6)
    with lake.read(TABLE) as reading:
        reading.register("wanted", points([3, 4]))
        remove_dropped_files(lake)
        found = reading.query(
            "test", "SELECT value FROM model_metrics SEMI JOIN wanted USING (value) ORDER BY value"
        )
        assert found["value"].to_pylist() == [3, 4]
        assert reading.version(TABLE) == lake.version(TABLE)


@pytest.mark.parametrize("first", ["a query", "a look at the sequence"])
def test_a_reading_whose_files_went_after_it_had_told_something_says_so(lake, first):
    fill(lake, 6)
    with lake.read(TABLE) as reading:
        if first == "a query":
            reading.query("test", "SELECT count(*) FROM model_metrics")
        else:
            reading.sequence(TABLE, "s")
        remove_dropped_files(lake)
        with pytest.raises(SnapshotGone, match="old files went; read again"):
            reading.query("test", "SELECT sum(value) FROM model_metrics")


def test_a_live_file_that_is_missing_is_told_in_one_sentence(lake):
    fill(lake, 2)
    next(Path(lake.uri(TABLE)).rglob("day=*/*.parquet")).unlink()
    with (
        lake.read(TABLE) as reading,
        pytest.raises(LakeError, match="query test cannot read the tables: ") as told,
    ):
        reading.query("test", "SELECT sum(value) FROM model_metrics")
    assert not isinstance(told.value, SnapshotGone)
    assert "\n" not in str(told.value)


def test_a_query_that_needs_too_much_memory_is_told_in_one_sentence(lake, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.lake.reading.MEMORY_LIMIT", "50MB")
    with (
        lake.read() as reading,
        pytest.raises(LakeError, match="query test needs more than 50MB of memory") as told,
    ):
        reading.query("test", "SELECT list(i) FROM range(100_000_000) t(i)")
    assert "\n" not in str(told.value)


def test_upkeep_that_fails_does_not_fail_the_writer(lake, caplog):
    fill(lake, 19)
    lake.settle()
    log = Path(lake.uri(TABLE), "_delta_log")
    blocked = log / f"{20:020}.checkpoint.parquet"
    blocked.mkdir()
    (blocked / "in the way").touch()
    fill(lake, 1, first=19)
    lake.settle()
    assert "upkeep of model_metrics failed, the next round tries again" in caplog.text
    shutil.rmtree(blocked)
    fill(lake, 20, first=20)
    lake.settle()
    assert status(lake).commits_since_checkpoint == 0
