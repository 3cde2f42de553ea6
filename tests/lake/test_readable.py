"""What may be read for somebody else: by name, through links, and when something is put in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_registry_pipelines.lake.readable import NotReadable, Readable


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_text("secret")
    return file


@pytest.fixture
def readable(tmp_path: Path) -> Readable:
    (tmp_path / "given" / "sub").mkdir(parents=True)
    (tmp_path / "given" / "sub" / "file").write_text("mine")
    return Readable(str(tmp_path / "home"), [str(tmp_path / "given"), "s3://bucket/mine"])


def test_what_is_put_into_the_place_of_a_checked_file_is_not_read(tmp_path, readable, outside):
    file = tmp_path / "given" / "sub" / "file"
    with readable.opened(file) as place:
        file.unlink()
        file.symlink_to(outside)
        assert place.read_text() == "mine"
    with pytest.raises(NotReadable), readable.opened(file):
        pass


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_appears_between_check_and_opening_is_not_followed(
    tmp_path, readable, outside, monkeypatch, what
):
    """A person who can write to the folder exchanges it at the very moment."""
    file = tmp_path / "given" / "sub" / "file"
    real = Readable._base

    def exchanged(self, *given):
        base = real(self, *given)
        if what == "file":
            file.unlink()
            file.symlink_to(outside)
        else:
            file.parent.rename(tmp_path / "aside")
            outside.rename(outside.with_name("file"))
            file.parent.symlink_to(outside.parent)
        return base

    monkeypatch.setattr(Readable, "_base", exchanged)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"), readable.opened(file):
        pass


def test_names_that_only_begin_like_an_allowed_place_are_not_in_it(tmp_path, readable):
    (tmp_path / "given-too").mkdir()
    for given in (tmp_path / "given-too", tmp_path, "s3://bucket/mine2/x", "s3://bucket/mine/../x", "/"):
        with pytest.raises(NotReadable):
            readable.check(given)
    for given in (tmp_path / "given", tmp_path / "given" / "new", "s3://bucket/mine/x", "https://host/x"):
        readable.check(given)


def test_a_secret_in_an_allowed_folder_and_the_folder_around_it_stay_closed(tmp_path, readable, monkeypatch):
    monkeypatch.setenv("MLREG_SECRET_FILE", str(tmp_path / "given" / "sub" / "file"))
    for given in ("given", "given/sub", "given/sub/file"):
        with pytest.raises(NotReadable):
            readable.check(tmp_path / given)
    readable.check(tmp_path / "given" / "else")


def test_a_pipe_is_no_file_to_wait_for(tmp_path, readable):
    import os

    os.mkfifo(tmp_path / "given" / "pipe")
    with pytest.raises(NotReadable, match="no plain file"), readable.opened(tmp_path / "given" / "pipe"):
        pass
