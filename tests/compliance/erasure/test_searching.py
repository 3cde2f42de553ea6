"""What the search after an erasure finds: a person in whatever a registry of models may pack away."""

from __future__ import annotations

import bz2
import gzip
import io
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ml_registry_pipelines.compliance.erasure.homes import clean
from ml_registry_pipelines.compliance.erasure.needles import Needles
from ml_registry_pipelines.compliance.erasure.searching import Found, Root, search
from ml_registry_pipelines.lake.files import LocalFolder

WHO = "Jörg.Müller+ml@example.org"
NEEDLES = Needles({"identifier 1": WHO})


def _array(who: str) -> bytes:
    held = io.BytesIO()
    np.save(held, np.array([who, "somebody else whose name is longer"]))
    return held.getvalue()


def _zip(inner: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", inner)
    return held.getvalue()


def _tar(inner: bytes) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        member = tarfile.TarInfo("inner")
        member.size = len(inner)
        archive.addfile(member, io.BytesIO(inner))
    return held.getvalue()


TEXT = f"a row of {WHO} and\n".encode() * 20
BYTES = b"\x00\x01" + TEXT
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda inner: inner,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zlib": zlib.compress,
    "zip": _zip,
    "tar": _tar,
    "gzip in tar": lambda inner: _tar(gzip.compress(inner)),
    "zlib in zip": lambda inner: _zip(zlib.compress(inner)),
}
INNER = {"text": TEXT, "bytes": BYTES, "numpy": _array(WHO), "UTF-16": b"\x00\x01" + WHO.encode("utf-16-be")}


def _searched(folder: Path) -> Found:
    return search([Root("storage", LocalFolder(folder))], NEEDLES)


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("inner", INNER)
def test_a_person_is_found_however_they_are_packed(tmp_path: Path, packed: str, inner: str) -> None:
    (tmp_path / "model.bin").write_bytes(PACKERS[packed](INNER[inner]))
    found = _searched(tmp_path)
    assert {(hit.needle, hit.exact) for hit in found.hits} == {("identifier 1", True)}
    assert not found.problems


def test_in_an_array_without_room_between_its_texts_a_person_may_be_there(tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array([WHO, "x" * len(WHO)]))
    assert {(hit.needle, hit.exact) for hit in _searched(tmp_path).hits} == {("identifier 1", False)}


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_person_is_found_in_what_arrow_packs(tmp_path: Path, codec: str) -> None:
    with pa.OSFile(str(tmp_path / "rows"), "wb") as sink, pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(TEXT)
    assert [hit.needle for hit in _searched(tmp_path).hits] == ["identifier 1"]


@pytest.mark.parametrize("head", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x00", b"\x1f\x9d\x90"])
def test_what_nothing_here_can_unpack_is_no_file_without_hits(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "packed").write_bytes(head + bytes(100))
    found = _searched(tmp_path)
    assert not found.hits
    assert len(found.problems) == 1
    assert "cannot be unpacked here" in found.problems[0]


def test_a_text_that_begins_as_packed_bytes_do_is_read_as_a_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x^2 and " + TEXT)
    found = _searched(tmp_path)
    assert [(hit.form, hit.exact) for hit in found.hits] == [("text", True)]
    assert not found.problems


def test_what_a_database_packs_in_its_cells_is_found_and_cleaned(tmp_path: Path) -> None:
    """Dagster packs its snapshots so."""
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        connection.execute("CREATE TABLE snapshots (body BLOB)")
        connection.execute("INSERT INTO snapshots VALUES (?)", (zlib.compress(TEXT),))
    assert [hit.needle for hit in _searched(tmp_path).hits] == ["identifier 1"]
    assert clean(LocalFolder(tmp_path), "runs.db", NEEDLES)
    assert not _searched(tmp_path).hits
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        (body,) = connection.execute("SELECT body FROM snapshots").fetchone()
    assert zlib.decompress(body).startswith(b"a row of x")
