"""OpenLineage events from and to files: one JSON per line, or one JSON document of one event or many.

A line that is no event is named by file and line, and kept as it is below `openlineage/refused/`
of the lake, so that it can be mended and taken later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.openlineage.events import BadEvent, LineageEvent, described, parse_event
from ml_registry_pipelines.lineage.openlineage.importing import Importer
from ml_registry_pipelines.registry.errors import RegistryError

SUFFIXES = {".json", ".jsonl", ".ndjson"}


class NoEvents(RegistryError):
    """There is no file that could hold events."""


@dataclass(frozen=True)
class Refused:
    """One event that was not taken: where it stood and why."""

    file: str
    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Taken:
    """What came of some files."""

    new: int
    before: int
    refused: tuple[Refused, ...]
    kept_at: str | None


def import_files(importer: Importer, paths: Iterable[Path], *, entities: bool = True) -> Taken:
    """Take the events of files and folders in: in each file by time, files by name.

    Raises:
        NoEvents: a path leads to nothing that could hold events.
    """
    new = before = 0
    refused: list[Refused] = []
    for path in _files(paths):
        events: list[tuple[LineageEvent, int, str]] = []
        for line, text, given in _lines(path):
            try:
                if isinstance(given, BadEvent):
                    raise given
                events.append((parse_event(given), line, text))
            except BadEvent as wrong:
                refused.append(Refused(str(path), line, str(wrong), text))
        events.sort(key=lambda found: (found[0].time, found[1]))
        # What stands for an entity comes after what it refers to, as the export wrote it.
        if entities and any(_own(found[0]) for found in events):
            events.sort(key=lambda found: found[1])
        where = {id(event): (line, text) for event, line, text in events}
        done = importer.take((event for event, _, _ in events), entities=entities)
        new, before = new + done.new, before + done.before
        for event, reason in done.refused:
            line, text = where[id(event)]
            refused.append(Refused(str(path), line, reason, text))
    return Taken(new, before, tuple(refused), keep(importer.log.lake, refused) if refused else None)


def _own(event: LineageEvent) -> bool:
    return any("mlreg_entity" in given.facets for given in event.outputs)


def keep(lake: Lake, refused: Iterable[Refused]) -> str:
    """Keep refused events, each once, however often they come; return where."""
    folder = open_folder(f"{lake.root}/openlineage/refused", lake.storage_options)
    for found in refused:
        said = {"file": found.file, "line": found.line, "text": found.text}
        # Not the canonical digest: what was refused may hold what has no canonical form.
        name = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        folder.create(f"{name}.json", json.dumps({**said, "reason": found.reason}).encode())
    return folder.uri


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file())
            if not found:
                raise NoEvents(f"{path} holds no file that ends in {', '.join(sorted(SUFFIXES))}")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise NoEvents(f"{path} is no file and no folder")


def _lines(path: Path) -> Iterator[tuple[int, str, object]]:
    """Line, text and JSON of each event of a file; a `BadEvent` in place of what is no JSON."""
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, list):
        yield from ((n, json.dumps(given), given) for n, given in enumerate(whole, start=1))
        return
    if isinstance(whole, Mapping):
        yield 1, text, whole
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, line, json.loads(line)
        except ValueError as failure:
            yield number, line, BadEvent(f"the line is no JSON: {failure}")


def write_events(events: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write events, a line each; return how many."""
    count = 0
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for event in events:
                stream.write(described(event) + "\n")
                count += 1
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
