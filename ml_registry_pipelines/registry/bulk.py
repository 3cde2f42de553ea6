"""Files that bulk events refer to: what one event says about many entities, as Parquet.

The event names the file by the SHA-256 of its bytes, so the chain covers the file too.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.events import Event

if TYPE_CHECKING:
    import pyarrow as pa


class BulkFileDamaged(RegistryError):
    """The file of a bulk event is not what the event says."""


class BulkFiles:
    """The files below `artifacts/bulk` of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._folder = open_folder(f"{lake.root}/artifacts/bulk", lake.storage_options)

    def write(self, entities: Sequence[tuple[str, str, str]]) -> str:
        """Keep (entity type, entity id, canonical state) of many entities; return the digest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ("entity_type", "entity_id", "state")
        schema = pa.schema([(name, pa.string()) for name in names])
        columns = zip(*entities, strict=True)
        rows = pa.table({n: list(c) for n, c in zip(names, columns, strict=True)}, schema=schema)
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        return self.keep(buffer.getvalue())

    def keep(self, data: bytes) -> str:
        """Keep a file's bytes; return the digest."""
        digest = hashlib.sha256(data).hexdigest()
        self._folder.create(_path(digest), data)
        return digest

    def bytes_of(self, digest: str) -> bytes:
        """The file, verified.

        Raises:
            BulkFileDamaged: it is gone, or other bytes lie in its place.
        """
        if not self._folder.exists(_path(digest)):
            raise BulkFileDamaged(f"{self._folder.uri}/{_path(digest)} is gone, which a bulk event refers to")
        data = self._folder.read(_path(digest))
        if hashlib.sha256(data).hexdigest() != digest:
            raise BulkFileDamaged(
                f"{self._folder.uri}/{_path(digest)} was changed: its SHA-256 is not what its name and "
                "the log state"
            )
        return data

    def read(self, event: Event) -> Iterable[tuple[str, str, str]]:
        """What a bulk event lists."""
        rows = self._rows(self.bytes_of(str(event.state["file"])))
        return zip(*(column.to_pylist() for column in rows.columns), strict=True)

    def _rows(self, data: bytes) -> pa.Table:
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(data))


def _path(digest: str) -> str:
    return f"{digest[:2]}/{digest}.parquet"
