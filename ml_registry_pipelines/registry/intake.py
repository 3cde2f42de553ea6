"""Lists of things and relationships from JSONL or Parquet: read, checked, and every bad row named.

A row is an object. A thing has `name`, and may have `description`, `tags`, `owners` and
`metadata`; a date among the tags is `{"date": "2026-03-01"}`. A relationship has `source` and
`target`, each `kind:name`, and may have `properties`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lake.readable import ANYWHERE, Readable
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.errors import InvalidInput, NameTaken, RegistryError, shown
from ml_registry_pipelines.registry.events import MAX_PAYLOAD
from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.registry.relationships import NewEdge
from ml_registry_pipelines.registry.things import MAX_MANY, NewThing, Things, checked_state

SHOWN = 20
"""Bad rows that an error names one by one."""
MAX_LINE = 4 * MAX_PAYLOAD
"""Characters of a line: a state of `MAX_PAYLOAD` bytes has room in it however it is escaped."""


class BadRows(RegistryError):
    """Rows of a list that cannot be recorded; nothing of it was. `rows` are (line or row, reason)."""

    def __init__(self, path: Path, rows: Sequence[tuple[int, str]], unit: str) -> None:
        listed = "; ".join(f"{unit} {number}: {reason}" for number, reason in rows[:SHOWN])
        more = f"; and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        count = "a row" if len(rows) == 1 else f"{len(rows):,} rows"
        super().__init__(f"{path} has {count} that cannot be recorded, so nothing was: {listed}{more}")
        self.rows = tuple(rows)


class UnreadableList(Exception):
    """A file that is to be Parquet is none."""


def register_file(things: Things, kind: str, path: Path, *, idempotency_key: str | None = None) -> int:
    """Register the things of a file in one atomic command, all of them or none; return how many.

    Raises:
        BadRows: names every row that cannot be recorded, with its reason.
        InvalidInput: the file cannot be read as JSONL or Parquet.
        NotReadable: it lies where nothing may be read from.
    """
    listed = read_things(path, readable=things.log.lake.readable)
    try:
        return things.register_many(kind, listed.values(), idempotency_key=idempotency_key)
    except NameTaken:
        names = {json.loads(checked_state(thing))["name"]: number for number, thing in listed.items()}
        taken = [
            (names[state.name], f"there is a {kind.replace('_', ' ')} {shown(state.name)} already")
            for state in things.now().by_any("things", "name", list(names))
            if state.entity_type == kind and not state.deleted
        ]
        if not taken:
            raise
        raise BadRows(path, sorted(taken), _unit(path)) from None


def read_things(path: Path, *, readable: Readable = ANYWHERE) -> dict[int, NewThing]:
    """The things of a file by line or row, all of which can be recorded and have names of their own.

    Raises:
        BadRows: names every row that cannot, with its reason.
        InvalidInput: the file cannot be read as JSONL or Parquet.
    """
    found: dict[int, NewThing] = {}
    bad: list[tuple[int, str]] = []
    first: dict[str, int] = {}
    for number, row in _rows(path, readable):
        try:
            thing = _thing(_checked(row, {"name": str}, {"description", "tags", "owners", "metadata"}))
            name = json.loads(checked_state(thing))["name"]
        except InvalidInput as wrong:
            bad.append((number, str(wrong)))
            continue
        if name in first:
            bad.append((number, f"the name {shown(name)} stands in {_unit(path)} {first[name]} already"))
        first.setdefault(name, number)
        found[number] = thing
    if bad:
        raise BadRows(path, bad, _unit(path))
    return found


def read_edges(path: Path, *, readable: Readable = ANYWHERE) -> list[NewEdge]:
    """The relationships of a file. Whether their ends exist is not looked at here.

    Raises:
        BadRows: names every row that is none, with its reason.
        InvalidInput: the file cannot be read as JSONL or Parquet.
    """
    found: list[NewEdge] = []
    bad: list[tuple[int, str]] = []
    for number, row in _rows(path, readable):
        try:
            checked = _checked(row, {"source": str, "target": str}, {"properties"})
            properties = _object(checked, "properties")
            canonical(properties)
            found.append(NewEdge(parsed_end(checked["source"]), parsed_end(checked["target"]), properties))
        except InvalidInput as wrong:
            bad.append((number, str(wrong)))
    if bad:
        raise BadRows(path, bad, _unit(path))
    return found


def parsed_end(given: str) -> tuple[str, str]:
    """An end of a relationship, written `kind:name`.

    Raises:
        InvalidInput: there is no colon.
    """
    kind, colon, name = given.partition(":")
    if not colon or not kind or not name:
        raise InvalidInput(
            f"{shown(given)} is no end of a relationship; write KIND:NAME, such as application:checkout "
            "or model_version:fraud@v3"
        )
    return kind, name


def _thing(row: Mapping[str, Any]) -> NewThing:
    owners = row.get("owners") or []
    if not isinstance(owners, list | tuple):
        raise InvalidInput(f"owners is {_kind_of(owners)} and not a list")
    return NewThing(
        row["name"],
        row.get("description") or "",
        {name: _tag(name, value) for name, value in _object(row, "tags").items()},
        owners,
        _object(row, "metadata"),
    )


def _tag(name: str, value: Any) -> TagValue:
    if isinstance(value, dict) and value.keys() == {"date"}:
        try:
            return date.fromisoformat(value["date"])
        except (ValueError, TypeError):
            raise InvalidInput(f"tag {shown(name)} is no date such as 2026-03-01") from None
    if value is None:
        raise InvalidInput(f"tag {shown(name)} is null; leave it out")
    tag: TagValue = value
    return tag


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that holds an object: as such, as Parquet's list of pairs, or as JSON text."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as wrong:
            raise InvalidInput(f"{name} is text that is no JSON: {wrong}") from None
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} is {_kind_of(value)} and not an object")
    return value


def _checked(row: Any, needed: Mapping[str, type], optional: set[str]) -> Mapping[str, Any]:
    if isinstance(row, InvalidInput):
        raise row
    if not isinstance(row, dict):
        raise InvalidInput(f"it is {_kind_of(row)} and not an object")
    for name, kind in needed.items():
        if name not in row or row[name] is None:
            raise InvalidInput(f"it has no {name}")
        if not isinstance(row[name], kind):
            raise InvalidInput(f"{name} is {_kind_of(row[name])} and not text")
    if unknown := sorted(row.keys() - needed.keys() - optional):
        raise InvalidInput(
            f"it has a field {shown(unknown[0])}; known are {', '.join([*needed, *sorted(optional)])}"
        )
    return row


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _unit(path: Path) -> str:
    return "row" if path.suffix == ".parquet" else "line"


def _rows(path: Path, readable: Readable) -> Iterator[tuple[int, Any]]:
    """Rows by number from 1: what they hold, or what is wrong with them."""
    match path.suffix:
        case ".jsonl" | ".ndjson":
            read = _lines
        case ".parquet":
            read = _parquet
        case _:
            raise InvalidInput(f"{path} is no list: give a .jsonl, .ndjson or .parquet file")
    count = 0
    try:
        with readable.opened(path) as place:
            for number, row in read(place):
                count += 1
                if count > MAX_MANY:
                    raise InvalidInput(f"{path} has more than {MAX_MANY:,} rows; give it in parts")
                yield number, row
    except UnreadableList as failure:
        raise InvalidInput(f"{path} is no Parquet file that can be read: {failure}") from failure
    except OSError as failure:
        raise InvalidInput(f"{path} cannot be read: {failure.strerror or failure}") from failure


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as stream:
        for number in range(1, 2**62):
            line = stream.readline(MAX_LINE)
            if not line:
                return
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                yield number, InvalidInput(f"it is longer than {MAX_LINE:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE)
                continue
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"), object_pairs_hook=_single)
    except UnicodeDecodeError as wrong:
        return InvalidInput(f"it is no UTF-8 at byte {wrong.start + 1}")
    except json.JSONDecodeError as wrong:
        return InvalidInput(f"it is no JSON: {wrong.msg} at character {wrong.pos + 1}")
    except RecursionError:
        return InvalidInput("it is nested too deeply")
    except InvalidInput as wrong:
        return wrong
    except ValueError as wrong:
        return InvalidInput(f"it is no JSON: {wrong}")


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidInput("it has a field twice")
    return found


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(8192):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _present(value) for name, value in row.items()}
    except pa.ArrowException as failure:
        raise UnreadableList(str(failure)) from failure


def _present(value: Any) -> Any:
    """A struct has every field in every row: those that are NULL are left out."""
    if isinstance(value, dict):
        return {name: _present(inner) for name, inner in value.items() if inner is not None}
    return value
