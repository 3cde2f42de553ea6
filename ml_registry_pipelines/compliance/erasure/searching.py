"""Searching every file below some roots: decoded as far as it goes, and its raw bytes as well.

Decoded (`decoding.py`) are Parquet (values, dictionaries, statistics, metadata), gzip, zlib, bzip2, xz, zstd, lz4, zip,
tar, SQLite with what is packed in its cells, DuckDB, Arrow files, Lance datasets in all their versions,
and text with JSON escapes. What claims to be one of them and cannot be decoded, or is packed in a way
that nothing here can undo, is a problem that is reported, never a file without hits.
"""

from __future__ import annotations

import base64
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ml_registry_pipelines.compliance.erasure.decoding import (
    AROUND,
    PACKED,
    PIECE,
    Undecodable,
    decode,
    values_of,
)
from ml_registry_pipelines.compliance.erasure.needles import Needles, Pattern
from ml_registry_pipelines.compliance.erasure.vectors import VectorsUnreadable, dataset_of, show_values
from ml_registry_pipelines.lake.files import Folder, LocalFolder, NoSuchFile


@dataclass(frozen=True)
class Root:
    """A place that is searched, by a name for people: `storage`, `dagster`, `cache`, `spill`."""

    name: str
    folder: Folder


@dataclass(frozen=True)
class Hit:
    """A needle in a file. `exact`: by itself; otherwise it may be part of something longer."""

    root: str
    path: str
    needle: str
    form: str
    exact: bool


@dataclass
class Found:
    """What a search came to."""

    hits: list[Hit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


def search(roots: Iterable[Root], needles: Needles, *, below: str = "") -> Found:
    """Search all files of some roots.

    Args:
        below: only files whose path begins so.
    """
    found = Found()
    for root in roots:
        datasets: set[str] = set()
        for entry in root.folder.entries():
            if not entry.path.startswith(below):
                continue
            dataset = dataset_of(entry.path)
            try:
                _search_file(root, entry.path, needles, found, decoded_apart=dataset is not None)
            except NoSuchFile:
                continue  # it went while we looked, as files of tables do
            if dataset is not None:
                datasets.add(dataset)
            found.files += 1
            found.bytes += entry.size
        for dataset in sorted(datasets):
            _search_vectors(root, dataset, needles, found)
    return found


def _search_vectors(root: Root, dataset: str, needles: Needles, found: Found) -> None:
    """The values of a Lance dataset, whose files can be decoded as a whole alone."""
    hits: set[str] = set()
    shown = dataset if not needles.in_text(dataset) else "a dataset whose name holds the identifier"
    try:
        words = show_values(
            root.folder,
            dataset,
            lambda column: values_of(column, lambda text, _: hits.update(needles.named_in(text))),
        )
    except VectorsUnreadable as failure:
        found.problems.append(f"{root.name}/{shown}: {failure}")
        return
    found.hits += [Hit(root.name, shown, name, "value", exact=True) for name in sorted(hits)]
    if words:
        found.problems.append(
            f"{root.name}/{shown}: its index {words[0]!r} holds words that cannot be searched; "
            "drop it, and make it again afterwards"
        )


def _search_file(
    root: Root, path: str, needles: Needles, found: Found, *, decoded_apart: bool = False
) -> None:
    hits: dict[tuple[str, str], bool] = {}
    problems = found.problems
    shown = path if not needles.in_text(path) else "a file whose name holds the identifier"
    for name in needles.named_in(path.replace("/", " ").replace("=", " ")):
        hits[(name, "name")] = True
    with _on_disk(root.folder, path) as local:
        texts = 0

        def look(text: str, form: str) -> None:
            nonlocal texts
            texts += 1
            if form == PACKED:
                for pattern, exact in _in_bytes(text.encode("latin-1"), needles):
                    hits[(pattern.needle, form)] = exact or hits.get((pattern.needle, form), False)
                return
            for name in needles.named_in(text):
                hits[(name, form)] = True

        try:
            decoded = decoded_apart or decode(local, look)
        except Undecodable as failure:
            problems.append(f"{root.name}/{shown}: {failure}")
            decoded = False
        for pattern, exact in _raw(local, needles):
            # Where values could be told apart, what is part of a longer one was seen as such.
            if (pattern.form in _ENCODED or exact or not decoded) and not any(
                name == pattern.needle for name, _ in hits
            ):
                hits[(pattern.needle, pattern.form)] = exact
    found.hits += [Hit(root.name, shown, name, form, exact) for (name, form), exact in hits.items()]


@contextmanager
def _on_disk(folder: Folder, path: str) -> Iterator[Path]:
    if isinstance(folder, LocalFolder):
        yield folder.root / path
        return
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy, folder.open(path) as stream:
        shutil.copyfileobj(stream, copy, PIECE)
        copy.flush()
        yield Path(copy.name)


def _raw(path: Path, needles: Needles) -> Iterator[tuple[Pattern, bool]]:
    overlap = needles.overlap + 1
    tail = b""
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE):
                data = tail + piece
                yield from _in_bytes(data, needles)
                tail = data[-overlap:]
    except FileNotFoundError as failure:
        raise NoSuchFile(str(path)) from failure


def _in_bytes(data: bytes, needles: Needles) -> Iterator[tuple[Pattern, bool]]:
    """Every form that stands in the bytes, and whether by itself."""
    for pattern, place in needles.in_bytes(data):
        if pattern.form in _ENCODED:
            exact = _in_context(pattern, data, place, needles)
            # The texts of a numpy array follow each other without anything between: what is longer may be two.
            if exact or pattern.form == "utf-32":
                yield pattern, exact
        else:
            yield pattern, stands_alone(data, place, len(pattern.data))


def stands_alone(data: bytes, place: int, length: int) -> bool:
    """Whether what is around some bytes does not make them part of a longer identifier."""
    before = data[place - 1 : place]
    after = data[place + length : place + length + 1]
    return not (before.isalnum() or (before in b"_@%+-." and before)) and not (
        after.isalnum() or (after in b"_@%+-" and after)
    )


_ENCODED = frozenset({"base64", "hex", "utf-16", "utf-32"})
"""Forms that no reader of text resolves, so that they count wherever they stand."""
_RUNS = {
    "base64": re.compile(rb"[A-Za-z0-9+/_-]*"),
    "hex": re.compile(rb"[0-9A-Fa-f]*"),
}
_WIDE = {"utf-16": (2, ("utf-16-le", "utf-16-be")), "utf-32": (4, ("utf-32-le", "utf-32-be"))}
"""Bytes of a character, and the orders that they come in."""


def _in_context(pattern: Pattern, data: bytes, place: int, needles: Needles) -> bool:
    """Whether what an encoded needle stands in, once decoded, holds it by itself."""
    before, after = data[max(0, place - AROUND) : place], data[place : place + AROUND]
    if pattern.form in _WIDE:
        width, codes = _WIDE[pattern.form]
        near = before[len(before) % width :] + after
        return any(needles.in_text(near.decode(code, "replace").replace("\0", " ")) for code in codes)
    run = _RUNS[pattern.form]
    behind = run.match(after)
    ahead = run.match(before[::-1])
    whole = (ahead[0][::-1] if ahead else b"") + (behind[0] if behind else b"")
    for shift in range(4 if pattern.form == "base64" else 2):
        if needles.in_text(_unencoded(whole[shift:], pattern.form)):
            return True
    return False


def _unencoded(run: bytes, form: str) -> str:
    if form == "hex":
        return bytes.fromhex(run[: len(run) // 2 * 2].decode()).decode("utf-8", "replace")
    plain = run.translate(bytes.maketrans(b"-_", b"+/"))
    plain = plain[: len(plain) - 1] if len(plain) % 4 == 1 else plain
    return base64.b64decode(plain + b"=" * (-len(plain) % 4)).decode("utf-8", "replace")
