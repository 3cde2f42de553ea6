"""Plain files, in a folder and in a bucket: whatever works in one works in the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.files import (
    FilesError,
    Folder,
    LocalFolder,
    NoSuchFile,
    is_temporary,
    open_folder,
)


@pytest.fixture(params=["folder", "bucket"])
def folder(request) -> Folder:
    root = (
        request.getfixturevalue("tmp_path")
        if request.param == "folder"
        else request.getfixturevalue("s3_root")
    )
    return open_folder(str(root))


def paths(folder: Folder, prefix: str = "", after: str = "") -> list[str]:
    return [entry.path for entry in folder.entries(prefix, after=after)]


def test_what_is_written_is_read_back_whole(folder):
    folder.write("a/b/c.txt", b"first")
    folder.write("a/b/c.txt", b"second")
    assert folder.read("a/b/c.txt") == b"second"
    with folder.open("a/b/c.txt") as stream:
        assert (stream.read(3), stream.read()) == (b"sec", b"ond")
    entry = folder.entry("a/b/c.txt")
    assert (entry.path, entry.size) == ("a/b/c.txt", 6)
    assert abs(entry.modified_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert folder.exists("a/b/c.txt")
    assert paths(folder) == ["a/b/c.txt"]


def test_a_file_is_created_once(folder):
    assert folder.create("x/claim", b"mine") is True
    assert folder.create("x/claim", b"theirs") is False
    assert folder.read("x/claim") == b"mine"
    assert paths(folder) == ["x/claim"]


def test_a_file_that_is_not_there_is_named(folder):
    assert not folder.exists("none")
    for ask in (folder.entry, folder.read, folder.open):
        with pytest.raises(NoSuchFile, match="none cannot be read: there is no such file"):
            ask("none")
    folder.delete("none")
    assert paths(folder, "nowhere") == []
    assert folder.subfolders("nowhere") == []


def test_listings_are_in_the_order_of_bytes_and_start_where_asked(folder):
    # "a-b" sorts before "a/b" and "a0" after it, whatever a file system says.
    names = ["a-b", "a/b", "a/c/d", "a0", "b/1", "b/10", "b/2", "z", "é"]
    for name in reversed(names):
        folder.write(name, b"")
    assert paths(folder) == names
    assert paths(folder, after="a/c/d") == ["a0", "b/1", "b/10", "b/2", "z", "é"]
    assert paths(folder, after="a/c") == ["a/c/d", "a0", "b/1", "b/10", "b/2", "z", "é"]
    assert paths(folder, "b") == paths(folder, "b/") == ["b/1", "b/10", "b/2"]
    assert paths(folder, "b", after="b/10") == ["b/2"]
    assert folder.subfolders() == ["a", "b"]
    assert folder.subfolders("a") == ["c"]


def test_a_file_that_changes_bears_another_mark(folder):
    folder.write("f", b"one")
    before = folder.entry("f")
    folder.write("f", b"other")
    after = folder.entry("f")
    assert before.mark != after.mark
    assert next(iter(folder.entries())).mark == after.mark


def test_deleting_removes(folder):
    folder.write("a/b", b"")
    folder.delete("a/b")
    assert paths(folder) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    folder = LocalFolder(tmp_path)
    with pytest.raises(FilesError, match="file/below cannot be written: "):
        folder.write("file/below", b"")
    with pytest.raises(FilesError, match="file/below cannot be written: "):
        folder.create("file/below", b"")
    with pytest.raises(FilesError, match="file cannot be listed: "):
        folder.subfolders("file")


NAMES = st.lists(
    st.lists(
        st.text("ab-0.é", min_size=1, max_size=3).filter(lambda name: name.strip(".")), min_size=1, max_size=3
    ).map("/".join),
    min_size=1,
    max_size=12,
    unique=True,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, after=st.text("ab-0./é", max_size=5))
def test_a_walk_in_a_folder_agrees_with_sorted_paths(tmp_path_factory, names, after):
    root = tmp_path_factory.mktemp("walk")
    folder = LocalFolder(root)
    kept = []
    for name in names:
        try:
            folder.write(name, b"")
        except FilesError:
            continue
        kept.append(name)
    kept = [name for name in kept if (root / name).is_file()]
    assert paths(folder) == sorted(kept, key=str.encode)
    assert paths(folder, after=after) == [name for name in sorted(kept, key=str.encode) if name > after]


@pytest.mark.parametrize("path", [".a", "_a", "x/.a/b", "a.tmp", "a.part", "a.partial", "a~", "a.crdownload"])
def test_names_that_producers_write_under_are_temporary(path):
    assert is_temporary(path)
    assert not is_temporary("dt=2026-01-02/hh=03/0001.jsonl.gz")
