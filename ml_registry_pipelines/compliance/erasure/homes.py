"""Files that are no tables: Dagster's home, reports, caches, what was written aside. The person goes from each.

A database is changed through SQL and then vacuumed, so that neither free pages nor the write-ahead log
keep a row. A log is overwritten in its place, byte for byte, since a process may be appending to it.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ml_registry_pipelines.compliance.erasure.needles import Needles
from ml_registry_pipelines.lake.files import Folder, LocalFolder, NoSuchFile, open_folder

_SQLITE = b"SQLite format 3\x00"
_BESIDE = ("-wal", "-shm", "-journal")
PATIENCE_SECONDS = 60


class Busy(Exception):
    """A database is in use and cannot be cleaned now; the text says which."""


@dataclass(frozen=True)
class Place:
    """One kind of files below the storage root, and what an erasure does with one that holds the person."""

    name: str
    prefix: str
    removed: bool
    """Whether the file goes as a whole: it is made again, or was of no use."""


SEARCH_INDEX = "search_index/"
PLACES = (
    Place("report", "reports/", removed=True),
    Place("written aside", "staging/", removed=True),
    Place("Dagster", "dagster/", removed=False),
    Place("artifact", "artifacts/", removed=False),
    Place("vectors", "vectors/", removed=False),
    Place("search index", SEARCH_INDEX, removed=True),
)


def place_of(path: str) -> Place | None:
    """The place of a file below the storage root."""
    return next((place for place in PLACES if path.startswith(place.prefix)), None)


def clean(folder: Folder, path: str, needles: Needles) -> bool:
    """Take the person out of one file of Dagster's home; whether anything was there.

    Raises:
        Busy: the database is locked.
    """
    if not isinstance(folder, LocalFolder):
        return False
    place = folder.root / path
    for end in _BESIDE:
        if path.endswith(end) and _is_sqlite(database := place.with_name(place.name.removesuffix(end))):
            return _clean_database(database, needles)
    try:
        if _is_sqlite(place):
            return _clean_database(place, needles)
        return _overwrite(place, needles)
    except FileNotFoundError:
        return False


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE)) == _SQLITE
    except FileNotFoundError:
        return False


def _clean_database(path: Path, needles: Needles) -> bool:
    """Replace identifiers in every cell, then write the whole database anew, without what is free in it."""
    changed = 0
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("BEGIN IMMEDIATE")
            tables = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                if not table.startswith("sqlite_"):
                    changed += sum(_clean_table(connection, table, needles))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as failure:
        raise Busy(f"{path.name} is in use ({failure}); erase again when nothing runs") from failure
    if busy:
        raise Busy(f"{path.name} is being read, and its write-ahead log stays until then; erase again")
    return changed > 0


def _clean_table(connection: sqlite3.Connection, table: str, needles: Needles) -> Iterator[int]:
    quoted = '"' + table.replace('"', '""') + '"'
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({quoted})")]
    for column in columns:
        name = '"' + column.replace('"', '""') + '"'
        cells = connection.execute(
            f"SELECT DISTINCT {name} FROM {quoted} WHERE typeof({name}) IN ('text', 'blob')"
        ).fetchall()
        for (value,) in cells:
            if isinstance(value, bytes):
                made: str | bytes = _blanked_cell(value, needles)
            elif not needles.in_text(value):
                continue
            else:
                made = needles.blanked(value)
            if made != value:
                yield connection.execute(
                    f"UPDATE {quoted} SET {name} = ? WHERE {name} = ?", (made, value)
                ).rowcount


def _blanked_cell(value: bytes, needles: Needles) -> bytes:
    """The cell without identifiers; what it packs is packed again, where something was in it."""
    from ml_registry_pipelines.compliance.erasure.decoding import unpacked_cell

    inner = unpacked_cell(value)
    if inner is None or (made := _blanked_bytes(inner, needles)) == inner:
        return _blanked_bytes(value, needles)
    return zlib.compress(made)


def _overwrite(path: Path, needles: Needles) -> bool:
    """Put as many x in place of each identifier, in whichever form it stands."""
    data = path.read_bytes()
    made = _blanked_bytes(data, needles)
    if made == data:
        return False
    with path.open("r+b") as stream:
        for start, (old, new) in enumerate(zip(_blocks(data), _blocks(made), strict=True)):
            if old != new:
                stream.seek(start * 4096)
                stream.write(new)
    return True


def _blocks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096]


def _blanked_bytes(data: bytes, needles: Needles) -> bytes:
    made = bytearray(data)
    folded = data.lower()
    for pattern in needles.patterns:
        searched = folded if pattern.folded else data
        place = searched.find(pattern.data)
        while place >= 0:
            if _alone(data, place, len(pattern.data)):
                made[place : place + len(pattern.data)] = b"x" * len(pattern.data)
            place = searched.find(pattern.data, place + 1)
    return bytes(made)


def _alone(data: bytes, place: int, length: int) -> bool:
    from ml_registry_pipelines.compliance.erasure.searching import stands_alone

    return stands_alone(data, place, length)


def remove_index(folder: Folder, path: str) -> None:
    """Remove the search index that a file belongs to, as a whole: the next search makes it anew from the log.

    Its name goes first, so that nobody opens what is being removed; and never a journal alone, which
    would damage the database for who has it open.
    """
    base = path[: path.index(SEARCH_INDEX) + len(SEARCH_INDEX)]
    entries = list(folder.entries(base))
    for entry in sorted(entries, key=lambda entry: not entry.path.endswith("/current")):
        folder.delete(entry.path)


def remove(root: str, path: str, storage_options: dict[str, str] | None = None) -> bool:
    """Remove a file below the storage root; whether it was there."""
    folder = open_folder(root, storage_options)
    try:
        folder.entry(path)
    except NoSuchFile:
        return False
    folder.delete(path)
    return True
