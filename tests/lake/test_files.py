"""Plain files, in a folder and in a bucket: whatever works in one works in the other."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.files import (
    FilesError,
    Folder,
    LocalFolder,
    NoSuchFile,
    S3Folder,
    is_temporary,
    open_folder,
)
from tests.examples import examples


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


@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


def test_pipes_are_not_listed_and_a_link_to_a_file_is(tmp_path):
    folder = LocalFolder(tmp_path)
    folder.write("native/a.jsonl", b"{}")
    os.mkfifo(tmp_path / "native" / "p.jsonl")
    (tmp_path / "native" / "z.jsonl").symlink_to("a.jsonl")
    assert paths(folder) == ["native/a.jsonl", "native/z.jsonl"]


@pytest.mark.parametrize("ask", ["entry", "read", "open"])
def test_a_pipe_is_refused_in_one_sentence_and_nobody_waits_for_its_writer(tmp_path, ask):
    os.mkfifo(tmp_path / "p.jsonl")
    with pytest.raises(FilesError, match=r"p\.jsonl cannot be read: it is no regular file$"):
        getattr(LocalFolder(tmp_path), ask)("p.jsonl")


def test_links_in_a_circle_are_skipped_and_the_rest_is_listed_once(tmp_path):
    folder = LocalFolder(tmp_path)
    for path in ("a/1", "b/2", "3"):
        folder.write(path, b"x")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "here").symlink_to(".")
    assert paths(folder) == ["3", "a/1", "b/2"]
    assert paths(folder, "a") == ["a/1"]
    assert folder.subfolders() == ["a", "b"]


def test_a_session_token_reaches_the_bucket(s3_root):
    given = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "for-an-hour"}
    folder = open_folder(s3_root, given)
    assert isinstance(folder, S3Folder)
    sent = []
    folder.client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append(request.headers.get("X-Amz-Security-Token"))
    )
    folder.write("a", b"x")
    assert sent == [b"for-an-hour"]
