"""Where log files come from: configured sources, and a look at what lies in them.

A look finds files; it takes none and writes nothing. What has been taken is the table
`ingested_files`, a set and never a high-water mark: a file of an earlier hour, or from
a slow producer, sorts before the last one taken and is found all the same.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import Entry, FilesError, Folder, is_temporary, open_folder
from ml_registry_pipelines.lake.tables.experiments import LOG_KINDS
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.strict_yaml import strict_loader

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

LOOK_BACK_HOURS = 2
"""How far back a recent look goes where listing everything takes too long."""
QUICK_LISTING_SECONDS = 2.0
"""A source that is listed within this time is listed whole at every look."""
REMEMBERED = 1000
"""Files that a look remembers, to see at the next one whether they have stopped growing."""
SETTLE_SECONDS = 1.0
"""Least time between two looks that may agree that a file has stopped growing."""

_HOUR_FOLDER = re.compile(r"(?:^|/)dt=(\d{4}-\d{2}-\d{2})/hh=(\d{2})/")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class SourcesError(MlregError):
    """The configuration of sources cannot be used."""


class Scope(Enum):
    """RECENT: what a tick affords. ALL: every file of every day, changed ones included."""

    RECENT = "recent"
    ALL = "all"


@dataclass(frozen=True)
class Source:
    """One place that log files come from.

    Exactly one of `tenant` (every row is theirs) and `tenant_field` (a field of the record,
    dots between levels) may be set; with neither, the record's own tenant counts, else `default`.
    `time_zone` applies to times that state none. `base_time` anchors formats without absolute times.
    `cost_unit` says in what a format that does not tell gives its costs: `currency` or `cents`.
    """

    name: str
    folder: str
    prefix: str = ""
    pattern: str = "*"
    dialect: str | None = None
    tenant: str | None = None
    tenant_field: str | None = None
    time_zone: str = "UTC"
    base_time: datetime | None = None
    cost_unit: str | None = None
    made_by_use: bool = False
    """Whether the folder need not be there yet: below the home, the first file that lands makes it."""

    @cached_property
    def files(self) -> Folder:
        return open_folder(self.folder)

    def wants(self, path: str) -> bool:
        """Whether a file of that path is this source's and finished being written."""
        return not is_temporary(path) and fnmatch.fnmatch(path.rsplit("/", 1)[-1], self.pattern)

    def dialect_of(self, path: str, known: Iterable[str]) -> str | None:
        """The dialect that configuration or the file's folder forces; None: it is detected."""
        if self.dialect is not None:
            return self.dialect
        kind = path.split("/", 1)[0]
        return kind if kind in set(known) and "/" in path else None

    def experiment_log_of(self, path: str) -> str | None:
        """`assignments` or `outcomes` where configuration or the file's folder says so; None: requests."""
        said = self.dialect_of(path, LOG_KINDS)
        return said if said in LOG_KINDS else None

    def base_time_of(self, file: FileRef) -> datetime:
        """Time for records without one: configured, else the file's hour folder, else its own time."""
        if self.base_time is not None:
            return self.base_time
        return hour_of(file.path) or file.modified_at


@dataclass(frozen=True)
class FileRef:
    """One file as it was seen; what a run is told to take."""

    source: str
    path: str
    size: int
    modified_at: datetime
    etag: str | None = None

    def to_config(self) -> dict[str, Any]:
        """Plain values for a run's configuration."""
        return {
            "source": self.source,
            "path": self.path,
            "size": self.size,
            "modified_at": self.modified_at.isoformat(),
            "etag": self.etag,
        }

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> FileRef:
        return cls(
            source=values["source"],
            path=values["path"],
            size=int(values["size"]),
            modified_at=datetime.fromisoformat(values["modified_at"]),
            etag=values.get("etag"),
        )

    @property
    def entry(self) -> Entry:
        return Entry(self.path, self.size, self.modified_at, self.etag)


@dataclass(frozen=True)
class ChangedFile:
    """A file whose content is no longer what was taken. Nothing of the new content is in the tables."""

    source: str
    path: str
    message: str


@dataclass(frozen=True)
class Look:
    """What one look found.

    `files` are ready to be taken, oldest name first; `growing` were new or different at this
    look; `waiting` are ready beyond the limit. `problems` are sources that could not be listed
    and files that could not be read, a sentence each. `memory` is given to the next look.
    """

    files: tuple[FileRef, ...]
    growing: int
    waiting: int
    oldest_waiting: datetime | None
    changed: tuple[ChangedFile, ...]
    problems: tuple[str, ...]
    memory: str


@dataclass
class _Memory:
    """Marks of files seen at the last look, and how long a whole listing took per source."""

    seen: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> _Memory:
        if not text:
            return cls()
        try:
            held = json.loads(text)
            return cls(dict(held["seen"]), dict(held["seconds"]))
        except (ValueError, KeyError, TypeError):
            # A cursor that someone edited costs one look, not the sensor.
            return cls()

    def text(self) -> str:
        return json.dumps({"seen": self.seen, "seconds": self.seconds}, separators=(",", ":"))


class Sources:
    """All configured sources, by name. `taken` is the table that holds which files were taken."""

    def __init__(self, sources: Iterable[Source], *, taken: str = "ingested_files") -> None:
        self._sources = {source.name: source for source in sources}
        self._taken = taken

    @classmethod
    def load(cls, settings: Settings) -> Sources:
        """The configured sources, or the landing folder below the home where nothing is configured.

        Raises:
            SourcesError: the file is missing, not YAML, or says something unknown.
        """
        if settings.sources_file is None:
            return cls([Source(name="landing", folder=settings.below("landing"), made_by_use=True)])
        return cls(parse_sources(Path(settings.sources_file), home=settings.home))

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources.values())

    def get(self, name: str) -> Source:
        """One source.

        Raises:
            SourcesError: none has that name.
        """
        try:
            return self._sources[name]
        except KeyError:
            known = ", ".join(sorted(self._sources)) or "none"
            raise SourcesError(f"no source is called {name!r}; configured are: {known}") from None

    def with_source(self, source: Source) -> Sources:
        """These sources and one more, for files that a person names."""
        return Sources([*self._sources.values(), source], taken=self._taken)

    def look(
        self,
        lake: Lake,
        *,
        scope: Scope = Scope.RECENT,
        memory: str | None = None,
        now: datetime | None = None,
        settled: bool = False,
        changes: bool = False,
        limit_files: int = 500,
        limit_bytes: int = 256 << 20,
    ) -> Look:
        """Find files that have not been taken.

        Args:
            memory: what the last look returned; without it every file of a folder counts as growing.
            settled: take the word of a person that nobody is writing any more.
            changes: name changed files in a recent look, too, which reads those of another time again.
        """
        now = now or datetime.now(UTC)
        before = _Memory.parse(memory)
        after = _Memory(seconds=dict(before.seconds))
        problems: list[str] = []
        listed: list[FileRef] = []
        for source in self._sources.values():
            started = time.perf_counter()
            try:
                entries, whole = _listing(source, scope, now, before.seconds.get(source.name, 0.0))
            except FilesError as failure:
                problems.append(f"source {source.name!r}: {failure}")
                continue
            for entry in entries:
                if problem := unnamable(source, entry.path):
                    problems.append(problem)
                else:
                    listed.append(FileRef(source.name, entry.path, entry.size, entry.modified_at, entry.etag))
            if whole:
                after.seconds[source.name] = round(time.perf_counter() - started, 3)
        new, changed = self._compare(lake, listed, changes=changes or scope is Scope.ALL)

        ready: list[FileRef] = []
        growing = 0
        for file in new:
            source = self._sources[file.source]
            if problem := _unreadable(source, file):
                problems.append(problem)
                continue
            key = _key(file)
            since = before.seen.get(key)
            if settled or not source.files.settles:
                ready.append(file)
            elif since is not None and now.timestamp() - since >= SETTLE_SECONDS:
                ready.append(file)
                if len(after.seen) < REMEMBERED:
                    after.seen[key] = since
            else:
                growing += 1
                if len(after.seen) < REMEMBERED:
                    after.seen[key] = since if since is not None else now.timestamp()
        chosen = _within(ready, limit_files, limit_bytes)
        left = ready[len(chosen) :]
        return Look(
            files=tuple(chosen),
            growing=growing,
            waiting=len(left),
            oldest_waiting=min((f.modified_at for f in [*ready]), default=None),
            changed=tuple(changed),
            problems=tuple(problems),
            memory=after.text(),
        )

    def _compare(
        self, lake: Lake, listed: list[FileRef], *, changes: bool
    ) -> tuple[list[FileRef], list[ChangedFile]]:
        """Files that were not taken, and those whose content is another than was taken."""
        import pyarrow as pa

        if not listed:
            return [], []
        if not lake.exists(self._taken):
            return sorted(listed, key=_order), []
        listing = pa.table(
            {
                "number": range(len(listed)),
                "source": [f.source for f in listed],
                "path": [f.path for f in listed],
                "size": [f.size for f in listed],
                "modified_at": pa.array([f.modified_at for f in listed], pa.timestamp("us", "UTC")),
                "etag": pa.array([f.etag for f in listed], pa.string()),
            }
        )
        with lake.read(self._taken) as reading:
            reading.register("listing", listing)
            found = reading.query(
                "sources.not_taken",
                f"""
                SELECT listing.number, taken.path IS NOT NULL AS taken, taken.digest
                FROM listing
                LEFT JOIN (
                    SELECT * FROM {self._taken} WHERE complete
                    QUALIFY row_number() OVER (PARTITION BY source, path ORDER BY recorded_at DESC) = 1
                ) AS taken USING (source, path)
                WHERE taken.path IS NULL
                   OR taken.size <> listing.size
                   OR taken.etag IS DISTINCT FROM listing.etag
                   OR (listing.etag IS NULL AND taken.modified_at <> listing.modified_at)
                """,
            ).to_pylist()
        new = sorted((listed[row["number"]] for row in found if not row["taken"]), key=_order)
        if not changes:
            return new, []
        differing = [(listed[row["number"]], row["digest"]) for row in found if row["taken"]]
        return new, [c for file, digest in differing if (c := self._changed(file, digest)) is not None]

    def _changed(self, file: FileRef, digest: str | None) -> ChangedFile | None:
        """The file as changed, unless its bytes are what was taken: a copy may carry another time."""
        try:
            with self._sources[file.source].files.open(file.path) as stream:
                digest_now = hashlib.sha256()
                while block := stream.read(1 << 20):
                    digest_now.update(block)
        except FilesError as failure:
            return ChangedFile(file.source, file.path, f"{file.path} changed after it was taken; {failure}")
        if digest_now.hexdigest() == digest:
            return None
        return ChangedFile(
            file.source,
            file.path,
            f"{file.path} of source {file.source!r} changed after it was taken; land the new rows under a new name",
        )


def _listing(source: Source, scope: Scope, now: datetime, seconds: float) -> tuple[list[Entry], bool]:
    """Files of a source, and whether the listing was of all of them."""
    files = source.files
    _refuse_no_folder(source)
    quick = files.settles and seconds <= QUICK_LISTING_SECONDS
    if scope is Scope.ALL or quick:
        return [e for e in files.entries(source.prefix) if source.wants(e.path)], True
    hours = [now - timedelta(hours=back) for back in range(LOOK_BACK_HOURS)]
    folders = [f"dt={hour:%Y-%m-%d}/hh={hour:%H}" for hour in hours]
    kinds = [source.prefix.strip("/")] if source.prefix.strip("/") else []
    kinds += [
        "/".join([*kinds, name]) for name in files.subfolders(source.prefix) if not name.startswith("dt=")
    ]
    places = [f"{kind}/{folder}" for kind in kinds for folder in folders] or folders
    if not kinds or any(name.startswith("dt=") for name in files.subfolders(source.prefix)):
        places = [*places, *folders]
    return [e for place in dict.fromkeys(places) for e in files.entries(place) if source.wants(e.path)], False


def _refuse_no_folder(source: Source) -> None:
    """Raises `FilesError` where a listing would be empty because there is nothing to list."""
    if not source.files.settles:
        return
    folder = Path(source.files.uri)
    if folder.is_dir() or (source.made_by_use and not folder.exists()):
        return
    said = "is no folder" if folder.exists() else "is not there"
    raise FilesError(f"the folder {folder} {said}; make it, or correct `folder`")


def unnamable(source: Source, path: str) -> str | None:
    """Why a file cannot be kept in a table under its name, if so."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return f"{shown} of source {source.name!r} has a name that is not UTF-8; give it another"
    return None


def _unreadable(source: Source, file: FileRef) -> str | None:
    folder = source.files
    if folder.settles and not os.access(Path(folder.uri) / file.path, os.R_OK):
        return f"{folder.uri}/{file.path} of source {source.name!r} cannot be read; check its permissions"
    return None


def _within(files: list[FileRef], limit_files: int, limit_bytes: int) -> list[FileRef]:
    """As many of the first files as the limits allow, and never none."""
    chosen: list[FileRef] = []
    size = 0
    for file in files[:limit_files]:
        if chosen and size + file.size > limit_bytes:
            break
        chosen.append(file)
        size += file.size
    return chosen


def _order(file: FileRef) -> tuple[str, str]:
    """Files of one hour come together whatever their kind; within it, by name."""
    hour = _HOUR_FOLDER.search(file.path)
    return (hour[0] if hour else "", file.path)


def _key(file: FileRef) -> str:
    text = "\0".join([file.source, file.path, file.entry.mark])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def hour_of(path: str) -> datetime | None:
    """The hour that a landing path names by `dt=YYYY-MM-DD/hh=HH`, if it does."""
    if (found := _HOUR_FOLDER.search(path)) is None:
        return None
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2]}:00:00+00:00")
    except ValueError:
        return None


# -- configuration ---------------------------------------------------------------------

_TEXTS = (
    "name", "folder", "prefix", "pattern", "dialect", "tenant", "tenant_field", "time_zone", "cost_unit",
)  # fmt: skip
_KEYS = (*_TEXTS, "base_time")
COST_UNITS = ("currency", "cents")
"""In what a log gives its costs: whole units of their currency, or hundredths of them."""


def parse_sources(path: Path, *, home: str) -> list[Source]:
    """Read a sources file: YAML with a list `sources`. `{home}` in a folder stands for `MLREG_HOME`.

    Raises:
        SourcesError: with the file, the entry and what to write instead.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        held = yaml.load(text, Loader=strict_loader(texts=False))  # noqa: S506 - a SafeLoader
    except OSError as failure:
        raise SourcesError(f"the sources file {path} cannot be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise SourcesError(f"the sources file {path} is not UTF-8 text: {failure.reason}") from failure
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(failure, "problem", None) or "it cannot be parsed"
        raise SourcesError(f"the sources file {path} is not YAML{where}: {problem}") from failure
    if not isinstance(held, dict) or not isinstance(held.get("sources"), list) or not held["sources"]:
        raise SourcesError(
            f"the sources file {path} must hold a list called `sources` with at least one entry"
        )
    if extra := sorted(set(map(str, held)) - {"sources"}):
        raise SourcesError(
            f"the sources file {path} holds {extra[0]!r} at its top; only `sources` belongs there"
        )
    sources = [
        parse_source(f"{path}: source {number}", entry, home=home, base=path.absolute().parent)
        for number, entry in enumerate(held["sources"], start=1)
    ]
    names = [source.name for source in sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SourcesError(
            f"the sources file {path} has two sources called {repeated[0]!r}; give each its own name"
        )
    return sources


def parse_source(where: str, entry: object, *, home: str = "", base: Path | None = None) -> Source:
    """One source from plain values, checked. Relative folders are below `base`.

    Raises:
        SourcesError: starting with `where`.
    """
    if not isinstance(entry, dict):
        raise SourcesError(f"{where} is not a mapping; write `- name: …` and `folder: …`")
    if isinstance(entry.get("name"), str):
        where += f" ({entry['name']})"
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it may hold {', '.join(_KEYS)}"
            raise SourcesError(f"{where}: unknown key {key!r}{hint}")
    _check_texts(where, entry)
    if not _NAME.fullmatch(entry["name"]):
        raise SourcesError(f"{where}: `name` may hold letters, digits, dot, dash and underscore, at most 64")
    if entry.get("tenant") and entry.get("tenant_field"):
        raise SourcesError(f"{where}: `tenant` and `tenant_field` exclude each other; keep one")
    folder = _folder(where, entry["folder"].replace("{home}", home), base or Path.cwd())
    return Source(
        name=entry["name"],
        folder=folder,
        prefix=(entry.get("prefix") or "").strip("/"),
        pattern=entry.get("pattern") or "*",
        dialect=_dialect(where, entry.get("dialect")),
        tenant=_tenant(where, entry.get("tenant")),
        tenant_field=entry.get("tenant_field"),
        time_zone=(zone := _time_zone(where, entry.get("time_zone") or "UTC")),
        base_time=_base_time(where, entry.get("base_time"), zone),
        cost_unit=_cost_unit(where, entry.get("cost_unit")),
        made_by_use=bool(home) and Path(folder).is_relative_to(home),
    )


def _check_texts(where: str, entry: Mapping[str, object]) -> None:
    """Whether values that must be texts are; some of them must say something."""
    for key in _TEXTS:
        value = entry.get(key)
        if value is None:
            if key in ("name", "folder"):
                raise SourcesError(f"{where}: `{key}` is missing")
        elif not isinstance(value, str):
            raise SourcesError(f"{where}: `{key}` must be text, not {value!r}; put it in quotes")
        elif not value.strip() and key in ("folder", "tenant", "tenant_field"):
            raise SourcesError(f"{where}: `{key}` is empty; correct it, or take the line out")


def _folder(where: str, given: str, base: Path) -> str:
    if given.startswith("s3://"):
        if not given.removeprefix("s3://").split("/")[0].strip():
            raise SourcesError(f"{where}: `folder` {given!r} names no bucket; write s3://bucket/prefix")
        return given
    if "://" in given or "\0" in given:
        raise SourcesError(
            f"{where}: `folder` {given!r} is neither a folder of this machine nor s3://bucket/prefix"
        )
    try:
        return str(base / Path(given).expanduser())
    except RuntimeError:
        raise SourcesError(f"{where}: `folder` {given!r} names the home of nobody; write it out") from None


def _tenant(where: str, given: str | None) -> str | None:
    """The tenant, trimmed as those of records are; `checking.py` would refuse every row of a wrong one."""
    from ml_registry_pipelines.telemetry.checking import LONGEST_TENANT

    tenant = None if given is None else given.strip()
    if tenant is not None and (len(tenant) > LONGEST_TENANT or re.search(r"[\x00-\x1f\x7f]", tenant)):
        raise SourcesError(
            f"{where}: `tenant` {tenant[:40]!r} is longer than {LONGEST_TENANT} characters "
            "or holds control characters; shorten it, or correct it"
        )
    return tenant


def _dialect(where: str, name: str | None) -> str | None:
    from ml_registry_pipelines.telemetry.dialects import DIALECTS

    if name is None or name == "detect":
        return None
    known = [*DIALECTS, *LOG_KINDS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SourcesError(
            f"{where}: no dialect {name!r}{hint}; known are detect, {', '.join(sorted(known))}"
        )
    return name


def _cost_unit(where: str, given: str | None) -> str | None:
    if given is not None and given not in COST_UNITS:
        raise SourcesError(f"{where}: `cost_unit` is {given!r}; write {' or '.join(COST_UNITS)}")
    return given


def _time_zone(where: str, name: str) -> str:
    try:
        ZoneInfo(name)
        known = name == "UTC" or _duckdb_knows(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = False
    if not known:
        raise SourcesError(f"{where}: no time zone {name!r}; write a name such as UTC or Europe/Berlin")
    return name


@cache
def _duckdb_knows(zone: str) -> bool:
    """Whether DuckDB, which reads the times, has the zone as well: it lacks `localtime` and `right/UTC`."""
    import duckdb

    with duckdb.connect() as connection:
        try:
            connection.execute("SET TimeZone = $zone", {"zone": zone})
        except duckdb.Error:
            return False
    return True


def _base_time(where: str, value: object, zone: str) -> datetime | None:
    if value is None:
        return None
    try:
        given = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return (given.replace(tzinfo=ZoneInfo(zone)) if given.tzinfo is None else given).astimezone(UTC)
    except (ValueError, OverflowError):
        raise SourcesError(
            f"{where}: `base_time` {value!r} is no time; write one such as 2026-10-31T00:00:00Z"
        ) from None
