"""The file of the index: where it lies, and how it comes up to the log.

It is derived from the log and nothing else, so that a file that is missing, damaged, of another
format or of another log is made anew. Each transaction takes some events and says up to where, so
a builder that is killed has lost one transaction, and of two builders one waits and goes on where
the other one ended. Readers see the last transaction that was ended and wait for nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ml_registry_pipelines.registry.bulk import BulkFileDamaged
from ml_registry_pipelines.registry.errors import EventUnreadable, RegistryError
from ml_registry_pipelines.registry.events import BULK, Event
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.states import State, begun
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.search.index.cards import card_reader
from ml_registry_pipelines.search.index.erased import Told, without_erased
from ml_registry_pipelines.search.index.folding import Folder, searched
from ml_registry_pipelines.search.index.schema import FORMAT, INDEXES, META, TABLES
from ml_registry_pipelines.search.index.text import like

FOLDER = "search_index"
FILE = "models"
POINTER = "current"
"""File that holds the name of the index that counts."""
_NAME = re.compile(rf"{FILE}-[0-9a-f]{{32}}\.sqlite")
EVENTS_AT_ONCE = 5_000
"""Events of one transaction; a bulk event of up to 100,000 entities is one by itself."""
PATIENCE_SECONDS = 600.0
"""How long a builder waits for another one, which takes in what this one needs too."""
CACHE_KIB = 64 * 1024

_logger = logging.getLogger(__name__)


class IndexUnusable(RegistryError):
    """There is no place for the index, or what lies there cannot be replaced."""


class IndexStale(Exception):
    """The file has to be made anew."""


@dataclass(frozen=True)
class Standing:
    """How far an index is."""

    path: str
    position: int
    states: int
    size: int
    seconds: float


class SearchIndex:
    """The index of one lake, for one process. Thread-safe: every thread has a connection of its own."""

    def __init__(self, log: Log) -> None:
        # Held weakly: indices are kept by their log, and one that held it would keep both for ever.
        self._log: Log = weakref.proxy(log)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._folder: Path | None = None
        self._name: str | None = None
        self._generation = 0
        self._checked = False
        self._told: Told | None = None
        """Leaves out of texts who was erased; known anew with every file, since an erasure makes another one."""

    # -- reading ---------------------------------------------------------------------------

    def reading(self, view: View) -> sqlite3.Connection:
        """A connection to an index that holds everything a view does.

        Raises:
            IndexUnusable: there is no place for one.
        """
        for again in (True, False):
            try:
                connection = self._connection()
                if not self._checked or self._position(connection) < view.upto:
                    self._catch_up(connection, view)
                return connection
            except (sqlite3.Error, IndexStale) as failure:
                if not again:
                    raise self._unusable(failure) from failure
                self.replace(failure)
            except OSError as failure:
                raise self._unusable(failure) from failure
        raise AssertionError

    def rebuild(self, view: View) -> Standing:
        """Make the index anew from the log."""
        started = time.perf_counter()
        with self._lock:
            self._put_aside(self._file())
        connection = self.reading(view)
        (count,) = connection.execute(
            "SELECT (SELECT count(*) FROM model_states) + (SELECT count(*) FROM version_states)"
        ).fetchone()
        name = self._file()
        size = sum(path.stat().st_size for path in self.folder.glob(f"{name}*"))
        seconds = time.perf_counter() - started
        return Standing(str(self.folder / name), self._position(connection), int(count), size, seconds)

    def close(self) -> None:
        """Close what this thread has open; the next reading opens it anew."""
        held = getattr(self._local, "held", None)
        self._local.held = None
        if held is not None:
            held[2].close()

    # -- the file --------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where the index lies: below the root where that is a folder that can be written, else in the cache.

        Where neither can be written, in a folder that goes with the process.
        """
        with self._lock:
            if self._folder is not None:
                return self._folder
            if self._log.lake.is_local and not Path(self._log.lake.root).is_dir():
                return self._temporary()  # There is no registry yet, and a search makes none.
            self._folder = next((place for place in self._places() if writable(place)), None)
            if self._folder is None:
                self._folder = self._temporary()
            return self._folder

    def _temporary(self) -> Path:
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="mlreg-search-")
        return Path(self._own.name)

    def _places(self) -> Iterator[Path]:
        if self._log.lake.is_local:
            yield Path(self._log.lake.root) / FOLDER
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        root = hashlib.sha256(self._log.lake.root.encode()).hexdigest()[:16]
        cache = Path(base) / "mlreg" / FOLDER / root
        with contextlib.suppress(OSError):
            # It holds names and descriptions, and others may use the machine.
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield cache

    def _file(self) -> str:
        """Name of the file that is the index now; it is made where there is none.

        Every index has a file name of its own, since SQLite's journal goes by the name: a process that
        still has an older one open must not find the journal of a newer one beside it.
        """
        pointer = self.folder / POINTER
        try:
            name = pointer.read_text("ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            name = ""
        if _NAME.fullmatch(name) and (self.folder / name).exists():
            return name
        return self._replaced(name)

    def _replaced(self, name: str) -> str:
        """A new, empty index in the place of a file; or what another process has put there meanwhile."""
        import fcntl

        pointer = self.folder / POINTER
        with (self.folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                now = pointer.read_text("ascii")
                if now != name and _NAME.fullmatch(now) and (self.folder / now).exists():
                    return now
            fresh = f"{FILE}-{uuid.uuid4().hex}.sqlite"
            connection = sqlite3.connect(self.folder / fresh, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN")
                for statement in (*TABLES, *INDEXES):
                    connection.execute(statement)
                connection.executemany("INSERT INTO meta VALUES (?, ?)", META.items())
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
            finally:
                connection.close()
            temporary = self.folder / f".{fresh}.tmp"
            temporary.write_text(fresh, "ascii")
            temporary.replace(pointer)
            self._clean(fresh)
        return fresh

    def _clean(self, kept: str) -> None:
        """Remove the files of other indexes. A process that has one open keeps it until it looks again."""
        for path in self.folder.glob(f"*{FILE}-*"):
            if not path.name.startswith(kept):
                path.unlink(missing_ok=True)

    def _connection(self) -> sqlite3.Connection:
        name = self._file()
        held: tuple[str, int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held is not None and held[:2] == (name, self._generation):
            return held[2]
        if held is not None:
            held[2].close()
        self._local.held = None
        with self._lock:
            if self._name != name:
                self._name, self._checked, self._told = name, False, None
        connection = sqlite3.connect(
            f"file:{quote(str(self.folder / name))}?mode=rw",
            uri=True,
            timeout=PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._local.held = (name, self._generation, connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA mmap_size = 1073741824")
        connection.create_function("fits", 2, lambda v, p: like(v, p, fold=False), deterministic=True)
        connection.create_function("fits_folded", 2, lambda v, p: like(v, p, fold=True), deterministic=True)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT:
            raise IndexStale(f"it has format {found}, and this release reads {FORMAT}")
        return connection

    def _unusable(self, failure: Exception) -> IndexUnusable:
        return IndexUnusable(
            f"the search index in {self.folder} cannot be used: {failure}; see to it that there is room and that "
            "nobody holds it, then run `mlreg search rebuild`"
        )

    def replace(self, failure: Exception) -> None:
        """Put a new, empty index in the place of one that cannot be used.

        Raises:
            IndexUnusable: that would not help.
        """
        if isinstance(failure, sqlite3.Error) and not _is_damage(failure):
            raise self._unusable(failure) from failure
        _logger.warning("the search index is made anew: %s", failure)
        self._put_aside(self._name or "")

    def _put_aside(self, name: str) -> None:
        """Put a new, empty file in the place of one, and let every thread open it anew."""
        with self._lock:
            held = getattr(self._local, "held", None)
            self._generation += 1
            self._local.held = None
            if held is not None:
                with contextlib.suppress(sqlite3.Error):
                    held[2].close()
            try:
                self._replaced(name)
            except (sqlite3.Error, OSError) as worse:
                raise self._unusable(worse) from worse

    # -- growing ---------------------------------------------------------------------------

    def _position(self, connection: sqlite3.Connection) -> int:
        found = connection.execute("SELECT value FROM meta WHERE key = 'position'").fetchone()
        return -1 if found is None else int(found[0])

    def _catch_up(self, connection: sqlite3.Connection, view: View) -> None:
        """Take in what the log holds up to a view, some events at a time."""
        while True:
            connection.execute("BEGIN IMMEDIATE")
            try:
                meta = dict(connection.execute("SELECT key, value FROM meta"))
                if meta.keys() != META.keys():
                    raise IndexStale("it does not say how far it is")
                position = int(meta["position"])
                if position >= view.upto and self._checked:
                    connection.execute("COMMIT")
                    return
                last = max(position, min(view.upto, position + EVENTS_AT_ONCE))
                events = self._events(view, position, last)
                if position and (
                    not events or (events[0].position, events[0].hash) != (position, meta["hash"])
                ):
                    raise IndexStale("it was made from another log")
                if not self._checked and meta["unread"] and self._readable(int(meta["unread"])):
                    raise IndexStale("an event can be read that could not be when it was made")
                self._checked = True
                if not position:
                    # What had been erased before the index was begun was never in it.
                    connection.execute("UPDATE meta SET value = ? WHERE key = 'begun'", (view.upto,))
                elif any(_erases(event) for event in events if event.position > int(meta["begun"])):
                    raise IndexStale("a person was erased since it was made")
                self._take(connection, [event for event in events if event.position > position])
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _readable(self, position: int) -> bool:
        """Whether an event can be read by now that could not be."""
        try:
            for event in self._log.between(position, position):
                for _ in self._states(event):
                    pass
        except (EventUnreadable, BulkFileDamaged):
            return False
        return True

    def _events(self, view: View, first: int, last: int) -> list[Event]:
        """Events of positions `first` to `last`."""
        tail = view.tails[0]
        if first > tail.base:
            return tail.events[first - tail.base - 1 : last - tail.base]
        return self._log.between(max(first, 1), last)

    def _take(self, connection: sqlite3.Connection, events: list[Event]) -> None:
        if not events:
            return
        self._told = told = self._told or without_erased(self._log.lake)
        folder = Folder(connection, card_reader(self._log.lake), told)
        sequences: dict[str, int] = {}
        taken = 0
        for event in events:
            if taken and event.entity_type == BULK:
                break
            try:
                folder.fold(list(self._states(event)))
            except (EventUnreadable, BulkFileDamaged):
                # Its tenant is told so by the log; the others go on.
                connection.execute(
                    "UPDATE meta SET value = ? WHERE key = 'unread' AND value = 0", (event.position,)
                )
            sequences[event.tenant] = event.sequence
            taken += 1
            if event.entity_type == BULK:
                break
        for tenant, sequence in sequences.items():
            folder.reached(tenant, sequence)
        last = events[taken - 1]
        connection.execute("UPDATE meta SET value = ? WHERE key = 'position'", (last.position,))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'hash'", (last.hash,))

    def _states(self, event: Event) -> Iterator[State]:
        if event.entity_type != BULK:
            if searched(event.entity_type):
                yield begun(event)
            return
        for kind, identity, text in self._log.bulk.read(event):
            if searched(kind):
                yield State(
                    event.tenant,
                    kind,
                    identity,
                    event.sequence,
                    event.position,
                    event.recorded_at,
                    event.valid_from,
                    event.actor,
                    event.action,
                    text,
                )


def _erases(event: Event) -> bool:
    """Whether the erasure of a person was completed, whose words an index on this machine may hold."""
    return event.entity_type == "erasure_request" and '"status":"completed"' in event.payload


def writable(folder: Path) -> bool:
    """Whether a file can be made, and one that is there changed, in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return False
    try:
        name = (folder / POINTER).read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return True  # What names no index is replaced.
    except OSError:
        return False
    return not _NAME.fullmatch(name) or all(
        os.access(f, os.R_OK | os.W_OK) for f in (folder / POINTER, folder / name) if f.exists()
    )


def _is_damage(failure: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, rather than the disk, its owner or somebody who holds it."""
    code = getattr(failure, "sqlite_errorcode", None)
    if code is None:
        return False
    if code == sqlite3.SQLITE_ERROR:
        return str(failure).startswith("no such table")
    return code & 0xFF in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_IOERR,  # a file that is shorter than it says
    }


_indexes: weakref.WeakKeyDictionary[Log, SearchIndex] = weakref.WeakKeyDictionary()
_indexes_lock = threading.Lock()


def index_of(log: Log) -> SearchIndex:
    """The index of a log's lake, one per log."""
    with _indexes_lock:
        if log not in _indexes:
            _indexes[log] = SearchIndex(log)
        return _indexes[log]
