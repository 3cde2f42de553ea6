"""What training code reads: one version of a dataset, exactly, and which columns it took of it.

A version is what its fingerprint says. A Delta table is read at the recorded version, a file
is compared with its digest once it is read; so what the lineage says was learned from is what
was learned from, or the step fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lineage.contents import DatasetMoved, read_content
from ml_registry_pipelines.registry.errors import InvalidInput

__all__ = ["DatasetMoved", "TrainingSet"]

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from ml_registry_pipelines.registry.things import Thing


class TrainingSet:
    """One version of a dataset, as it was when the step began.

    Columns that are read by `to_arrow` and `to_pandas` are remembered, and the version that is
    registered says that it learned from them. Whoever takes `location` to read by other means is
    taken to have read them all.
    """

    def __init__(self, dataset: str, version: Thing, *, storage_options: Mapping[str, str]) -> None:
        self._version = version
        self._fingerprint: Mapping[str, Any] = version.metadata
        self._storage_options = dict(storage_options)
        self._read: set[str] | None = set()
        self.name = dataset

    def __repr__(self) -> str:
        return f"TrainingSet({self.reference!r})"

    @property
    def id(self) -> str:
        return self._version.id

    @property
    def number(self) -> int:
        return int(self._fingerprint["number"])

    @property
    def reference(self) -> str:
        """The version as the registry's commands take it, `credit@v2`."""
        return f"{self.name}@v{self.number}"

    @property
    def digest(self) -> str:
        """What the content is known by."""
        return str(self._fingerprint["digest"])

    @property
    def rows(self) -> int | None:
        rows: int | None = self._fingerprint["rows"]
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(str(column["name"]) for column in self._fingerprint["columns"])

    @property
    def location(self) -> str:
        """Where it lies. A Delta table there is to be read at `delta_version`."""
        self._read = None
        return str(self._fingerprint["location"])

    @property
    def delta_version(self) -> int | None:
        """The version of the Delta table; None for files and addresses."""
        version: int | None = self._fingerprint.get("delta_version")
        return version

    @property
    def columns_read(self) -> tuple[str, ...] | None:
        """The columns that were read, in the order of the dataset; None where it may have been all."""
        if not self._read or self._read >= set(self.columns):
            return None
        return tuple(column for column in self.columns if column in self._read)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, of all columns or of some.

        Raises:
            DatasetMoved: other data lie where this version was.
            DatasetUnreadable: it cannot be read.
            InvalidInput: there is no such column.
        """
        wanted = list(self.columns if columns is None else columns)
        if unknown := sorted(set(wanted) - set(self.columns)):
            raise InvalidInput(
                f"{self.reference} has no column {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(self.columns)}"
            )
        rows = read_content(
            self._fingerprint, wanted, reference=self.reference, storage_options=self._storage_options
        )
        if self._read is not None:
            self._read.update(wanted)
        return rows

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """`to_arrow` as a data frame."""
        frame: pd.DataFrame = self.to_arrow(columns).to_pandas()
        return frame
