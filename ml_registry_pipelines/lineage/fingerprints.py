"""What a dataset is at one moment: digest, columns, rows. Reads data, writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.readable import ANYWHERE, NotReadable, Readable
from ml_registry_pipelines.registry.artifacts import Uri, checked_sha256, checked_uri
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

DATA_SUFFIXES = {".parquet": "parquet", ".csv": "csv"}


class DatasetUnreadable(RegistryError):
    """A dataset cannot be fingerprinted."""


@dataclass(frozen=True)
class Fingerprint:
    """`digest` changes when the content does. `columns` are (name, type); `rows` is None where not known."""

    format: str
    location: str
    digest: str
    columns: tuple[tuple[str, str], ...]
    rows: int | None
    detail: dict[str, Any] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "location": self.location,
            "digest": self.digest,
            "columns": [{"name": name, "type": type_} for name, type_ in self.columns],
            "rows": self.rows,
            **self.detail,
        }


def fingerprint(
    source: str | Path | Uri,
    *,
    columns: Sequence[tuple[str, str]] = (),
    storage_options: dict[str, str] | None = None,
    readable: Readable = ANYWHERE,
) -> Fingerprint:
    """The fingerprint of a Delta table, of Parquet or CSV files, or of an address with a given digest.

    Args:
        source: a file, a folder, the address of a Delta table, or a `Uri`.
        columns: names and types, for a `Uri` alone.
        readable: where it may lie.

    Raises:
        DatasetUnreadable: there is nothing, or nothing that can be read.
        NotReadable: it lies elsewhere.
    """
    if isinstance(source, Uri):
        given = checked_uri(source, readable)
        return Fingerprint("uri", given.uri, checked_sha256(given.sha256), tuple(columns), None)
    if columns:
        raise InvalidInput("columns are read from the data; give them for an address with a digest alone")
    text = str(source)
    readable.check(text)
    if text.startswith("s3://"):
        return _delta(text, storage_options, readable)
    path = Path(text).absolute()
    if (path / "_delta_log").is_dir():
        readable.check_tree(path)
        return _delta(str(path), None, readable)
    return _files(path, readable)


def check_delta(table: DeltaTable, uri: str, readable: Readable) -> None:
    """Look whether a Delta table that may be read leads to files that may not.

    Raises:
        NotReadable: it holds links, or names files outside itself.
    """
    import pyarrow as pa

    if readable.is_free:
        return
    if not uri.startswith("s3://"):
        readable.check_tree(Path(uri))
    for name in pa.table(table.get_add_actions(flatten=True))["path"].to_pylist():
        if "://" in name or name.startswith("/") or ".." in name.split("/"):
            raise NotReadable(f"the Delta table at {uri} names {name}, a file outside itself")


def _delta(uri: str, storage_options: dict[str, str] | None, readable: Readable) -> Fingerprint:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(uri, storage_options=storage_options)
        check_delta(table, uri, readable)
        content = delta_digest(table)
        schema = pa.schema(table.schema().to_arrow())
        counts = pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist()
    except (DeltaError, OSError) as failure:
        hint = "; give other data in a bucket with its digest" if uri.startswith("s3://") else ""
        raise DatasetUnreadable(f"{uri} is no Delta table that can be read: {failure}{hint}") from failure
    rows = None if None in counts else sum(counts)
    return Fingerprint(
        "delta",
        uri,
        content,
        _columns(schema),
        rows,
        {"delta_table": str(table.metadata().id), "delta_version": table.version()},
    )


def delta_digest(table: DeltaTable) -> str:
    """What a version of a Delta table is known by.

    A copy keeps the table's id, and counts its versions on from there: only the files tell the two apart.
    """
    import pyarrow as pa

    files = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes"]).to_pydict()
    return digest(
        {
            "table": str(table.metadata().id),
            "version": table.version(),
            "schema": table.schema().to_json(),
            "files": sorted(zip(files["path"], files["size_bytes"], strict=True)),
        }
    )


def _files(path: Path, readable: Readable) -> Fingerprint:
    import pyarrow as pa
    import pyarrow.dataset as pads

    files = sorted(_data_files(path))
    kinds = {DATA_SUFFIXES[file.suffix.lower()] for file in files}
    if len(kinds) != 1:
        wrong = "Parquet and CSV files together" if kinds else "no Parquet and no CSV file"
        raise DatasetUnreadable(f"{path} holds {wrong}; give a file, or a folder of one kind")
    kind = kinds.pop()
    base = path if path.is_dir() else path.parent
    before = _stamps(files)
    listing = [[file.relative_to(base).as_posix(), _sha256(file, readable)] for file in files]
    schema = common_schema(path, files, kind, readable)
    rows = 0
    for file in files:
        try:
            with readable.opened(file) as place:
                rows += pads.dataset(str(place), format=kind, schema=schema).count_rows()
        except (OSError, pa.ArrowException) as failure:
            raise DatasetUnreadable(f"{file} cannot be read as {kind}: {failure}") from failure
    columns = _columns(schema)
    if _stamps(files) != before or sorted(_data_files(path)) != files:
        raise DatasetUnreadable(f"{path} changed while it was read; track it when it is whole")
    # One file keeps its identity when it is renamed; in a folder names count.
    whole = listing[0][1] if path.is_file() else digest(listing)
    return Fingerprint(kind, str(path), whole, columns, rows, {"files": len(files)})


def common_schema(path: Path, files: Sequence[Path], kind: str, readable: Readable) -> pa.Schema:
    """The columns of all files together: the same names, and types that one type can hold."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    schemas = []
    for file in files:
        try:
            with readable.opened(file) as place:
                schemas.append(pads.dataset(str(place), format=kind).schema.remove_metadata())
        except (OSError, pa.ArrowException) as failure:
            raise DatasetUnreadable(f"{file} cannot be read as {kind}: {failure}") from failure
        if differing := set(schemas[0].names) ^ set(schemas[-1].names):
            raise DatasetUnreadable(
                f"{path} holds files with different columns: only one of {files[0].name} and {file.name} "
                f"has {', '.join(map(repr, sorted(differing)))}"
            )
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as failure:
        raise DatasetUnreadable(
            f"{path} holds files whose columns have types that do not fit each other: {failure}"
        ) from failure


def _stamps(files: Sequence[Path]) -> list[tuple[int, int]]:
    try:
        return [(found.st_size, found.st_mtime_ns) for found in (file.stat() for file in files)]
    except OSError as failure:
        raise DatasetUnreadable(f"{failure.filename} cannot be read: {failure.strerror}") from failure


def _data_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        if path.suffix.lower() in DATA_SUFFIXES:
            yield path
        return
    if not path.is_dir():
        raise DatasetUnreadable(f"{path} is no file and no folder")
    for file in path.rglob("*"):
        hidden = any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        if file.is_file() and not hidden and file.suffix.lower() in DATA_SUFFIXES:
            yield file


def _sha256(path: Path, readable: Readable) -> str:
    try:
        with readable.opened(path) as place, place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise DatasetUnreadable(f"{path} cannot be read: {failure.strerror}") from failure


def _columns(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    return tuple((column.name, str(column.type)) for column in schema)


def data_files(path: Path) -> list[Path]:
    """The Parquet and CSV files of a dataset in their order; hidden ones, and hidden folders, are left out."""
    return sorted(_data_files(path))
