"""Where the vectors of a registry are: below `vectors/` a table per embedder, and a record of which one holds.

The record is written when a table is whole, so a reader has the old table or the new one and nothing between.
It says by which embedder the table was made, up to which event, and what vector a probe had: an embedder that
gives the probe another vector has changed behind its name, and is refused.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.files import Folder, LocalFolder, NoSuchFile, open_folder
from ml_registry_pipelines.search.embedding.embedder import Embedder, make_embedder
from ml_registry_pipelines.search.vectors.table import (
    REBUILD,
    VectorsDamaged,
    VectorsMissing,
    VectorTable,
    table_names,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_registry_pipelines.lake.lake import Lake

    Vectors = npt.NDArray[np.float32]

FOLDER = "vectors"
RECORD = "current.json"
LOCK = ".lock"
PREFIX = "models-"
STATE = ".state"
"""Ends the name of the file beside a table that has what its embedder learnt from the catalogue."""
PROBE = "a model that finds fraud in card payments, trained on transactions"
ALIKE = 0.999
"""Cosine from which on two vectors of the probe are the same but for rounding on another machine."""


@dataclass(frozen=True)
class Record:
    """Which table holds.

    Args:
        base: fingerprint of the embedder before it learnt from the catalogue.
        fitted_to: models that it learnt from.
        position: of the newest event of the log that the table knows.
        probe: the vector of `PROBE` by the embedder that made the table.
    """

    table: str
    spec: str
    base: str
    fingerprint: str
    fitted_to: int
    dimension: int
    position: int
    probe: tuple[float, ...]

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: bytes, where: str) -> Record:
        try:
            held: Mapping[str, Any] = json.loads(text)
            record = cls(
                str(held["table"]),
                str(held["spec"]),
                str(held["base"]),
                str(held["fingerprint"]),
                int(held["fitted_to"]),
                int(held["dimension"]),
                int(held["position"]),
                tuple(float(number) for number in held["probe"]),
            )
        except (ValueError, KeyError, TypeError) as failure:
            raise VectorsDamaged(f"{where} is no record of vectors; {REBUILD}") from failure
        if not record.table.startswith(PREFIX) or len(record.probe) != record.dimension:
            raise VectorsDamaged(f"{where} contradicts itself; {REBUILD}")
        return record


def table_name(embedder: Embedder) -> str:
    return f"{PREFIX}{embedder.fingerprint[:16]}"


@dataclass(frozen=True)
class VectorStore:
    """The vectors of the registry in one lake."""

    root: str
    storage_options: Mapping[str, str] | None

    @classmethod
    def of(cls, lake: Lake) -> VectorStore:
        return cls(lake.root, lake.storage_options)

    @cached_property
    def folder(self) -> Folder:
        return open_folder(f"{self.root}/{FOLDER}", self.storage_options)

    @property
    def base(self) -> str:
        return f"{self.root}/{FOLDER}"

    @cached_property
    def _lance_options(self) -> dict[str, str] | None:
        if isinstance(self.folder, LocalFolder):
            return None
        return {key.lower(): value for key, value in (self.storage_options or {}).items()}

    def table(self, name: str, dimension: int) -> VectorTable:
        return VectorTable(self.base, name, self._lance_options, dimension)

    def table_of(self, record: Record) -> VectorTable:
        return self.table(record.table, record.dimension)

    def tables(self) -> list[str]:
        """Names of all tables of models' vectors that lie here, current or not."""
        return [name for name in table_names(self.base, self._lance_options) if name.startswith(PREFIX)]

    # -- the record -------------------------------------------------------------------------------

    def record(self) -> Record:
        """Which table holds.

        Raises:
            VectorsMissing: no table was ever whole, or the folder is gone.
            VectorsDamaged: the record cannot be read.
        """
        try:
            text = self.folder.read(RECORD)
        except NoSuchFile:
            raise VectorsMissing(f"no model has a vector in {self.base}; {REBUILD}") from None
        return Record.parse(text, f"{self.base}/{RECORD}")

    def keep(self, record: Record) -> None:
        """Let a table hold from now on."""
        self.folder.write(RECORD, record.text().encode())

    def advance(self, record: Record, position: int) -> Record:
        """Say that the table knows the log up to an event."""
        if position <= record.position:
            return record
        later = replace(record, position=position)
        self.keep(later)
        return later

    def drop_others(self, record: Record) -> list[str]:
        """Remove tables of other embedders; their names."""
        others = [name for name in self.tables() if name != record.table]
        for name in others:
            self.remove(name)
        return others

    def remove(self, name: str) -> None:
        """Remove a table with all its files, whether or not it can be read."""
        self.folder.delete(f"{name}{STATE}")
        if isinstance(self.folder, LocalFolder):
            shutil.rmtree(self.folder.root / f"{name}.lance", ignore_errors=True)
            return
        for entry in list(self.folder.entries(f"{name}.lance/")):
            self.folder.delete(entry.path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time on this machine. In a bucket, the keys of Lance part two writers.

        Raises:
            VectorsDamaged: the folder cannot be written.
        """
        if not isinstance(self.folder, LocalFolder):
            yield
            return
        try:
            self.folder.root.mkdir(parents=True, exist_ok=True)
            lock = (self.folder.root / LOCK).open("a+b")
        except OSError as failure:
            raise VectorsDamaged(
                f"{self.folder.root} cannot be written: {failure.strerror}; vectors are made where it can"
            ) from failure
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- the embedder -----------------------------------------------------------------------------

    def embedder(self, record: Record) -> Embedder:
        """The embedder that made a table, for questions to it.

        Raises:
            EmbedderUnusable: it cannot be loaded here.
            VectorsDamaged: what goes by its name is another one now.
        """
        embedder = self.fitted(make_embedder(record.spec), record)
        if embedder is None:
            raise VectorsDamaged(
                f"the vectors in {self.base} were made by another {record.spec} than is installed here; {REBUILD}"
            )
        return embedder

    def fitted(self, embedder: Embedder, record: Record) -> Embedder | None:
        """The embedder with what it had learnt when it made a table; None where it is another one."""
        if embedder.fingerprint != record.base:
            return None
        if record.fingerprint != record.base:
            key = (self.base, record.table, record.fingerprint)
            if key not in _fitted:
                try:
                    state = self.folder.read(f"{record.table}{STATE}")
                except NoSuchFile:
                    raise VectorsDamaged(
                        f"{self.base}/{record.table}{STATE} is gone, without which no text can be compared; {REBUILD}"
                    ) from None
                _fitted.clear()
                _fitted[key] = embedder.with_state(state)
            embedder = _fitted[key]
        return embedder if is_same(embedder, record) else None

    def keep_state(self, name: str, embedder: Embedder) -> None:
        """Keep what an embedder has learnt, beside its table."""
        if embedder.state is not None:
            self.folder.write(f"{name}{STATE}", embedder.state)


_fitted: dict[tuple[str, str, str], Embedder] = {}
"""The embedder of the table that was asked last, which keeps vectors of words."""


def probe_of(embedder: Embedder) -> tuple[float, ...]:
    return tuple(float(number) for number in embedder.embed([PROBE])[0])


def is_same(embedder: Embedder, record: Record) -> bool:
    """Whether an embedder's vectors can be compared to those of a table."""
    if (embedder.fingerprint, embedder.dimension) != (record.fingerprint, record.dimension):
        return False
    return sum(a * b for a, b in zip(probe_of(embedder), record.probe, strict=True)) >= ALIKE
