"""One person in Lance datasets: which values of theirs there are, and how their rows go.

A dataset keeps rows that were deleted in its older versions, so every version is read, and after a
deletion it is written anew and all but the newest version go. Indices over words hold what nothing
here can take apart; they are dropped with the rows, to be made again from what is left.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.files import Folder, LocalFolder, S3Folder

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.compliance.erasure.needles import Needles

ENDING = ".lance"
ROWS = 4096
"""Rows that are looked at in one go."""
OF_VECTORS = ("IVF", "HNSW")
"""Indices that hold vectors and numbers of rows alone, and no text."""


class VectorsUnreadable(Exception):
    """A dataset cannot be read or changed; the text says what to do."""


def dataset_of(path: str) -> str | None:
    """The dataset that a file belongs to: `vectors/models.lance` of `vectors/models.lance/data/x.lance`."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if part.endswith(ENDING) and len(part) > len(ENDING):
            return "/".join(parts[:number])
    return None


def show_values(folder: Folder, dataset: str, look: Callable[[pa.Array[Any]], None]) -> list[str]:
    """Show every column of every version; names of indices that nothing here can take apart.

    Raises:
        VectorsUnreadable: it is no dataset that can be read.
    """
    with _local(folder, dataset) as place, _errors(dataset):
        table = _opened(str(place.parent), place.name, None)
        for version in table.list_versions():
            table.checkout(version["version"])
            _show(table, look)
        table.checkout_latest()
        return [index.name for index in table.list_indices() if _holds_words(index)]


def _show(table: Any, look: Callable[[pa.Array[Any]], None]) -> None:
    for batch in table.search().limit(None).to_batches(ROWS) if table.count_rows() else ():
        for column in batch.columns:
            look(column)


def _holds_words(index: Any) -> bool:
    return not str(index.index_type).upper().startswith(OF_VECTORS)


def forget(folder: Folder, dataset: str, needles: Needles) -> int:
    """Delete the rows with a needle, and everything but the newest version; how many rows went.

    Raises:
        VectorsUnreadable: it cannot be changed, or a row cannot be told by its values.
    """
    with _errors(dataset), warnings.catch_warnings():
        # That readers of older versions fail is what is wanted.
        warnings.simplefilter("ignore", UserWarning)
        base, name = _address(folder, dataset)
        table = _opened(base, name, _options(folder))
        gone = 0
        numbers = list(_rows_with(table, needles))
        for start in range(0, len(numbers), ROWS):
            part = numbers[start : start + ROWS]
            table.delete(f"_rowid IN ({', '.join(map(str, part))})")
            gone += len(part)
        if gone:
            table = _written_anew(base, name, _options(folder), table)
        for index in table.list_indices():
            if _holds_words(index):
                table.drop_index(index.name)
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        return gone


def _written_anew(base: str, name: str, options: dict[str, str] | None, table: Any) -> Any:
    """The table from the rows that are left. Compaction leaves a file alone of which less than a tenth is deleted.

    Indices go with the old files: what uses one builds it again.
    """
    import lancedb
    import pyarrow as pa

    store, wanted = lancedb.connect(base, storage_options=options), table.schema
    plain = name.removesuffix(ENDING)
    if not table.count_rows():
        return store.create_table(plain, schema=wanted, mode="overwrite")
    left = (
        pa.RecordBatch.from_arrays([batch.column(field.name) for field in wanted], schema=wanted)
        for batch in table.search().limit(None).to_batches(ROWS)
    )
    return store.create_table(plain, pa.RecordBatchReader.from_batches(wanted, left), mode="overwrite")


def _rows_with(table: Any, needles: Needles) -> Iterator[int]:
    if not table.count_rows():
        return
    for batch in table.search().with_row_id(True).limit(None).to_batches(ROWS):
        numbers = batch.column("_rowid").to_pylist()
        hit: set[int] = set()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name != "_rowid" and _may_hold_text(column.type):
                hit |= {
                    n for n, value in zip(numbers, column.to_pylist(), strict=True) if _named(value, needles)
                }
        yield from sorted(hit)


def _may_hold_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return any(_may_hold_text(kind.field(n).type) for n in range(kind.num_fields))
    return not (pa.types.is_primitive(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def _named(value: Any, needles: Needles) -> bool:
    match value:
        case str():
            return needles.in_text(value)
        case bytes():
            return needles.in_text(value.decode("utf-8", "replace"))
        case dict():
            return any(_named(held, needles) for held in value.values())
        case list() | tuple():
            return any(_named(held, needles) for held in value)
        case _:
            return False


@contextmanager
def _local(folder: Folder, dataset: str) -> Iterator[Path]:
    """The dataset as files of this machine."""
    if isinstance(folder, LocalFolder):
        yield folder.root / dataset
        return
    with tempfile.TemporaryDirectory(prefix="mlreg-vectors-") as made:
        place = Path(made) / Path(dataset).name
        for entry in _entries(folder, dataset):
            target = place / entry.removeprefix(f"{dataset}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with folder.open(entry) as stream, target.open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
        yield place


def _entries(folder: Folder, dataset: str) -> Iterable[str]:
    return [entry.path for entry in folder.entries(dataset) if entry.path.startswith(f"{dataset}/")]


def _address(folder: Folder, dataset: str) -> tuple[str, str]:
    parent, _, name = dataset.rpartition("/")
    if isinstance(folder, LocalFolder):
        return str(folder.root / parent), name
    return f"{folder.uri.rstrip('/')}/{parent}".rstrip("/"), name


def _options(folder: Folder) -> dict[str, str] | None:
    if not isinstance(folder, S3Folder):
        return None
    return {key.lower(): value for key, value in folder.options.items()}


def _opened(base: str, name: str, options: dict[str, str] | None) -> Any:
    import lancedb

    return lancedb.connect(base, storage_options=options).open_table(name.removesuffix(ENDING))


@contextmanager
def _errors(dataset: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as failure:
        raise VectorsUnreadable(
            f"it belongs to the Lance dataset {Path(dataset).name}, which cannot be read or changed now; "
            "mend it, or remove it and compute it anew"
        ) from failure
