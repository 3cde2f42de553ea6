"""The proof that a person is gone: a search of every file that finds nothing, by a searcher that finds.

Before it looks, a needle of its own is planted in each kind of store. Where one of these is not found,
the search proves nothing and says so: `could_not_run`, never `pass`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.erasure.needles import Needles
from ml_registry_pipelines.compliance.erasure.searching import Hit, Root, search
from ml_registry_pipelines.compliance.erasure.subjects import Subject
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.lake.files import Folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

PLANTS = "_needles"
"""Folder below a root in which needles are planted; it is gone afterwards."""
CONTROL = "control"
VECTORS, OLDER_VECTORS = "rows.lance", "older.lance"


@dataclass(frozen=True)
class Proof:
    """What the search came to. `hits` never hold what was found, only where and in which form."""

    verdict: Verdict
    files: int
    bytes: int
    planted: Mapping[str, bool]
    """Kinds of store, and whether the needle in each was found."""
    hits: tuple[Hit, ...]
    justified: int
    """Hits in what is justified to stay."""
    problems: tuple[str, ...]

    def sentence(self) -> str:
        """What it says, for a person."""
        found = (
            f"{len(self.hits)} places still hold the person"
            if self.hits
            else "nothing of the person was found"
        )
        if self.justified:
            places = "place" if self.justified == 1 else "places"
            found += (
                f"{', and' if self.hits else ' but'} in {self.justified} {places} that a ground lets stay"
            )
        missing = sum(not seen for seen in self.planted.values())
        control = f", {missing} of {len(self.planted)} planted needles were not found" if missing else ""
        # Files that could not be read, and identifiers that could not be looked for as they stand.
        many = len(self.problems)
        unread = f", {many} {'reason' if many == 1 else 'reasons'} why that is not sure" if many else ""
        return f"{self.files:,} files ({self.bytes / 1e6:,.1f} MB) were searched: {found}{control}{unread}"


def prove(
    roots: Sequence[Root], subject: Subject, *, stays: Callable[[Hit], bool] = lambda _: False
) -> Proof:
    """Search all files below the roots for every identifier and hash of the subject.

    Args:
        stays: whether a hit lies in something that is justified to stay.
    """
    control = f"needle-{uuid.uuid4().hex}@control.invalid"
    needles = Needles({**subject.needles.texts, CONTROL: control})
    _sweep(roots)
    with _planted(roots, control) as kinds:
        found = search(roots, needles)
    _sweep(roots)
    seen = {(hit.root, hit.path, hit.form) for hit in found.hits if hit.needle == CONTROL}
    planted = {
        kind: any(root == r and p.startswith(path) and form in forms for r, p, form in seen)
        for kind, (root, path, forms) in kinds.items()
    }
    theirs = [hit for hit in found.hits if hit.needle != CONTROL]
    left = tuple(hit for hit in theirs if not stays(hit))
    problems = list(found.problems)
    if subject.by_hash_alone:
        problems.append(
            f"{subject.by_hash_alone} {'identifier is' if subject.by_hash_alone == 1 else 'identifiers are'} too "
            "short, or may mean something else as well: searched by hash alone"
        )
    return Proof(
        _verdict(left, planted, problems),
        found.files,
        found.bytes,
        planted,
        left,
        len(theirs) - len(left),
        tuple(problems),
    )


def _verdict(hits: Collection[Hit], planted: Mapping[str, bool], problems: Collection[str]) -> Verdict:
    if any(hit.exact for hit in hits):
        return Verdict.FAIL
    if problems or not planted or not all(planted.values()):
        return Verdict.COULD_NOT_RUN
    return Verdict.INCONCLUSIVE if hits else Verdict.PASS


def _sweep(roots: Sequence[Root]) -> None:
    """Remove what a proof that was killed has left planted."""
    for root in roots:
        if not _may_plant(root):
            continue
        for entry in list(root.folder.entries(PLANTS)):
            root.folder.delete(entry.path)
        _remove_folder(root.folder)


def _remove_folder(folder: Folder) -> None:
    from ml_registry_pipelines.lake.files import LocalFolder

    if isinstance(folder, LocalFolder):
        import shutil

        shutil.rmtree(folder.root / PLANTS, ignore_errors=True)


def _may_plant(root: Root) -> bool:
    """Not in what belongs to others: sources may be read only, and their files are taken."""
    return root.name in {"storage", "Dagster"}


@contextmanager
def _planted(roots: Sequence[Root], control: str) -> Iterator[Mapping[str, tuple[str, str, frozenset[str]]]]:
    """Needles in each kind of store below each root: root, path and the forms in which it is to be found."""
    kinds: dict[str, tuple[str, str, frozenset[str]]] = {}
    with tempfile.TemporaryDirectory(prefix="mlreg-needles-") as place:
        made = Path(place)
        forms = _plant(made, control)
        for root in roots:
            if not _may_plant(root):
                continue
            base = f"{PLANTS}/{uuid.uuid4().hex}"
            for path in sorted(p for p in made.rglob("*") if p.is_file()):
                root.folder.write(f"{base}/{path.relative_to(made).as_posix()}", path.read_bytes())
            for kind, (path_of_kind, in_forms) in forms.items():
                kinds[f"{root.name}: {kind}"] = (root.name, f"{base}/{path_of_kind}", in_forms)
        yield kinds


def _plant(folder: Path, control: str) -> dict[str, tuple[str, frozenset[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import DeltaTable, write_deltalake

    many = pa.table({"who": pa.array([control] * 300 + [f"other {n}" for n in range(300)])})
    pq.write_table(many, folder / "values.parquet", compression="zstd", write_statistics=False)
    single = pa.table({"who": pa.array([control])})
    pq.write_table(single, folder / "statistics.parquet", use_dictionary=False)
    # Data files without statistics, so that only the log of the table can give them away.
    write_deltalake(str(folder / "delta"), single)
    DeltaTable(str(folder / "delta")).create_checkpoint()
    _plant_vectors(folder, many)
    line = json.dumps({"user_id": control})
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress((line + "\n").encode() * 50))
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.json", line * 50)
    (folder / "escaped.json").write_text(line.replace("@", "\\u0040"))
    (folder / "rows.csv").write_text(f"user,n\n{control},1\n")
    (folder / "utf16.bin").write_bytes(b"\x00\x01" + control.encode("utf-16-le"))
    (folder / "utf32.npy").write_bytes(b"\x93NUMPY\x00" + control.encode("utf-32-le"))
    _plant_packed(folder, control)
    (folder / "base64.txt").write_bytes(base64.b64encode(b"u " + control.encode()))
    (folder / "hex.txt").write_bytes(control.encode().hex().encode())
    (folder / "url.txt").write_text("GET /?user=" + control.replace("@", "%40"))
    (folder / "process.log").write_text(f"2026-01-01 INFO {control} signed in\n")
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, single.schema) as writer:
        writer.write_table(single)
    (folder / "rows.arrow").write_bytes(sink.getvalue())
    _plant_database(folder / "rows.db", control)
    _plant_freed(folder / "freed.db", control)
    _plant_journal(folder / "journal.db", control)
    anything = frozenset({"utf-8", "text", "value"})
    return {
        "Parquet values": ("values.parquet", frozenset({"value"})),
        "Parquet statistics": ("statistics.parquet", frozenset({"statistics"})),
        "Delta log": ("delta/_delta_log/00000000000000000000.json", frozenset({"text"})),
        "Delta checkpoint": (
            "delta/_delta_log/00000000000000000000.checkpoint.parquet",
            frozenset({"value"}),
        ),
        "gzip": ("lines.jsonl.gz", anything),
        "zip": ("archive.zip", anything),
        "JSON": ("escaped.json", frozenset({"text", "json"})),
        "CSV": ("rows.csv", anything),
        "Lance": (VECTORS, frozenset({"value"})),
        "Lance, of an older version": (OLDER_VECTORS, frozenset({"value"})),
        "Arrow": ("rows.arrow", frozenset({"value"})),
        "text in UTF-16": ("utf16.bin", frozenset({"utf-16"})),
        "text in UTF-32": ("utf32.npy", frozenset({"utf-32"})),
        "zlib": ("packed.z", anything),
        "tar": ("archive.tar", anything),
        "bytes in zip": ("bytes.zip", frozenset({"packed"})),
        "SQLite, packed": ("packed.db", frozenset({"packed"})),
        "base64": ("base64.txt", frozenset({"base64"})),
        "hexadecimal": ("hex.txt", frozenset({"hex"})),
        "address": ("url.txt", frozenset({"text", "url"})),
        "process log": ("process.log", anything),
        "SQLite rows": ("rows.db", frozenset({"value"})),
        "SQLite free pages": ("freed.db", frozenset({"utf-8"})),
        "SQLite write-ahead log": ("journal.db-wal", frozenset({"utf-8"})),
    }


def _plant_packed(folder: Path, control: str) -> None:
    """Packed files, and a database with what Dagster packs in a cell."""
    line = f" {control} ".encode()
    (folder / "packed.z").write_bytes(zlib.compress(line * 50))
    with tarfile.open(folder / "archive.tar", "w") as archive:
        member = tarfile.TarInfo("inner.gz")
        inner = gzip.compress(line * 50)
        member.size = len(inner)
        archive.addfile(member, io.BytesIO(inner))
    with zipfile.ZipFile(folder / "bytes.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("inner.npy", b"\x93NUMPY\x00" + control.encode("utf-32-le"))
    with closing(sqlite3.connect(folder / "packed.db")) as connection, connection:
        connection.execute("CREATE TABLE snapshots (body BLOB)")
        connection.execute("INSERT INTO snapshots VALUES (?)", (zlib.compress(line * 50),))


def _plant_vectors(folder: Path, rows: pa.Table) -> None:
    """Two datasets: one that holds the needle, and one whose older version alone does."""
    import lancedb

    store = lancedb.connect(str(folder))
    store.create_table(VECTORS.removesuffix(".lance"), rows)
    older = store.create_table(OLDER_VECTORS.removesuffix(".lance"), rows)
    older.delete("who NOT LIKE 'other %'")


def _plant_database(path: Path, control: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE logs (body TEXT)")
        connection.execute("INSERT INTO logs VALUES (?)", (json.dumps({"user": control}),))


def _plant_freed(path: Path, control: str) -> None:
    """A database whose only trace of the needle is a page that no table has any more."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE kept (n INTEGER)")
        connection.execute("CREATE TABLE gone (body TEXT)")
        connection.execute("INSERT INTO gone VALUES (?)", (f" {control} " * 20,))
        connection.execute("DROP TABLE gone")


def _plant_journal(path: Path, control: str) -> None:
    """A write-ahead log with the needle, as it is while its database is in use."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE logs (body TEXT)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO logs VALUES (?)", (f" {control} ",))
        journal = path.with_name(path.name + "-wal").read_bytes()
    for left in path.parent.glob(path.name + "*"):
        left.unlink()
    path.with_name(path.name + "-wal").write_bytes(journal)
