"""Folders that are full, forbidden, dropped or changed behind a lake's back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from ml_registry_pipelines.lake import maintenance
from ml_registry_pipelines.lake.committing import as_declared
from ml_registry_pipelines.lake.lake import Lake, LakeError, Landed, OutOfSequence
from tests.lake.points import TABLE, points, values


def log_of(lake: Lake) -> Path:
    return Path(lake.uri(TABLE), "_delta_log")


def test_a_writer_goes_on_after_the_log_behind_its_handle_was_cut(lake, home, monkeypatch):
    monkeypatch.setattr(maintenance, "LOG_KEPT", 0)
    lake.append_once(TABLE, points([1]), source="s", sequence=1)
    with Lake(str(home)) as other:
        other.append_next(TABLE, points([2]), source="t")
        other.append_next(TABLE, points([3]), source="t")
        other.maintain(TABLE)
        assert not list(log_of(lake).glob("*1.json"))
    assert lake.sequence(TABLE, "t") == 2
    assert lake.append_once(TABLE, points([4]), source="s", sequence=2) is Landed.NOW
    assert values(lake) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_a_writer_whose_log_was_cut_while_it_wrote_is_refused_and_writes_anew(lake, home, monkeypatch):
    """delta-rs itself must not let a commit in below the log's first version: there nobody would read it."""
    monkeypatch.setattr(maintenance, "LOG_KEPT", 0)
    for retries in (0, None):
        lake.append_next(TABLE, points([1]), source="s")
        behind = DeltaTable(lake.uri(TABLE))
        for number in range(3):
            lake.append_next(TABLE, points([number]), source="s")
        lake.maintain(TABLE)
        before = values(lake)
        rows = as_declared(points([9]), lake.declaration(TABLE))
        with pytest.raises(DeltaError, match="Invalid table version"):
            write_deltalake(
                behind, rows, mode="append", commit_properties=CommitProperties(max_commit_retries=retries)
            )
        assert values(lake) == before


def test_a_table_that_was_dropped_is_empty_at_once(lake):
    for n in (1, 2, 3):
        lake.append_once(TABLE, points([n]), source="s", sequence=n)
    shutil.rmtree(lake.uri(TABLE))
    assert lake.sequence(TABLE, "s") == 0
    with pytest.raises(OutOfSequence, match="take 1"):
        lake.append_once(TABLE, points([4]), source="s", sequence=4)
    assert lake.append_once(TABLE, points([1]), source="s", sequence=1) is Landed.NOW
    assert values(lake) == {1: 1}


def test_a_table_that_another_process_dropped_and_made_again_is_the_new_one(lake, home):
    for n in range(5):
        lake.append_next(TABLE, points([n]), source="s")
    with Lake(str(home)) as other:
        shutil.rmtree(other.uri(TABLE))
        other.append_next(TABLE, points([9]), source="s")
    assert lake.append_next(TABLE, points([10]), source="s") == 2
    assert values(lake) == {9: 1, 10: 1}


def test_a_damaged_log_is_told_in_one_sentence(lake, home):
    lake.append_next(TABLE, points([1]), source="s")
    next(log_of(lake).glob("*0.json")).write_text("{")
    with (
        Lake(str(home)) as other,
        pytest.raises(LakeError, match=f"{TABLE} at .* cannot be opened: ") as told,
    ):
        other.append_next(TABLE, points([2]), source="s")
    assert "\n" not in str(told.value)


PRELUDE = """
    import sys
    from ml_registry_pipelines.lake.lean import without_pandas
    without_pandas()
    from ml_registry_pipelines.errors import MlregError
    from ml_registry_pipelines.lake.lake import Lake
    from tests.lake.points import TABLE, points, values
"""


def in_a_process(
    script: str, *arguments: str, inside: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script with the lake at hand; `inside` is a command that runs the command after it."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return subprocess.run(
        [*inside, sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_a_file_that_may_not_grow_is_one_sentence_and_the_table_stays_whole(lake, home):
    """The limit on a file's size acts as a full disk does, at a point of our choosing."""
    lake.append_once(TABLE, points([1]), source="s", sequence=1)
    done = in_a_process(
        """
        import resource
        lake = Lake(sys.argv[1])
        lake.version(TABLE)
        for size in (16, 700, 1200, 2000, 2400):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                lake.append_once(TABLE, points([2]), source="s", sequence=2)
            except MlregError as failure:
                print(failure)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(lake.append_once(TABLE, points([3]), source="s", sequence=lake.sequence(TABLE, "s") + 1))
        """,
        str(home),
    )
    assert done.returncode == 0, done.stderr
    refusal = "a file would be larger than this process may write"
    *refused, landed = done.stdout.splitlines()
    assert set(refused) == {f"{TABLE} cannot be written: {refusal}; nothing was committed"}
    assert landed == "Landed.NOW"
    assert values(lake) in ({1: 1, 3: 1}, {1: 1, 2: 1, 3: 1})


def test_a_full_disk_is_one_sentence_and_the_table_stays_whole(tmp_path):
    mounted = 'mount -t tmpfs -o size=600k tmpfs "$1" && shift && exec "$@"'
    small = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(tmp_path))
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    done = in_a_process(
        """
        lake = Lake(sys.argv[1])
        landed, refused = [], set()
        for n in range(60):
            rows = points([n + i / 5000 for i in range(5000)])
            try:
                landed.append(lake.append_next(TABLE, rows, source="s"))
            except MlregError as failure:
                refused.add(str(failure))
        print(len(landed), sorted(refused), lake.sequence(TABLE, "s"), sum(values(lake).values()))
        lake.close()
        """,
        str(tmp_path / "home"),
        inside=small,
    )
    assert done.returncode == 0, done.stderr
    count, rest = done.stdout.split(" ", 1)
    message = f"{TABLE} cannot be written: the disk is full; free some space; nothing was committed"
    assert 0 < int(count) < 60
    assert rest == f"{[message]} {count} {5000 * int(count)}\n"
    assert done.stderr == ""


@pytest.fixture
def forbidden(tmp_path_factory):
    """A folder below which another user may do nothing, with a lake that was there before."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="mlreg-test-"))
    folder.chmod(0o755)
    with Lake(str(folder / "home")) as lake:
        lake.append_next(TABLE, points([1]), source="s")
    for path in (folder / "home").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "home").chmod(0o555)
    yield folder / "home"
    for path in [folder / "home", *(p for p in (folder / "home").rglob("*") if p.is_dir())]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_without_permission_to_write_reading_works_and_writing_is_one_sentence(forbidden):
    done = in_a_process(
        """
        import os
        lake = Lake(sys.argv[1])
        print(dict(values(lake)), lake.sequence(TABLE, "s"), len(lake.status()))
        if os.geteuid() == 0:
            os.setuid(65534)
        lake = Lake(sys.argv[1])
        for attempt in (
            lambda: print(dict(values(lake)), lake.sequence(TABLE, "s"), len(lake.status())),
            lambda: lake.append_next(TABLE, points([2]), source="s"),
            lambda: lake.erase(TABLE, "value = 1.0"),
            lambda: lake.append_next("alerts", lake.declaration("alerts").empty(), source="s"),
            lambda: lake.maintain(TABLE),
        ):
            try:
                attempt()
            except MlregError as failure:
                print(failure)
        lake.close()
        """,
        str(forbidden),
    )
    assert done.returncode == 0, done.stderr
    who = "permission is denied; check who owns the folder"
    assert done.stdout.splitlines() == [
        "{1.0: 1} 1 1",
        "{1.0: 1} 1 1",
        f"{TABLE} cannot be written: {who}; nothing was committed",
        f"{TABLE} cannot be written: {who}; nothing was committed",
        f"alerts cannot be made below {forbidden}: {who}",
        f"{TABLE} cannot be maintained: {who}",
    ]
    assert "Traceback" not in done.stderr


def test_a_process_that_asks_and_ends_without_a_word_leaves_nothing_behind(tmp_path):
    code = """
import os
from ml_registry_pipelines.lake.reading import open_duckdb
assert open_duckdb().execute("SELECT 1").fetchall() == [(1,)]
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert [path for path in tmp_path.rglob("*") if not (path.is_dir() and path.parent == tmp_path)] == []
