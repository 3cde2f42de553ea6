"""Reading the rows of a dataset version, exactly: what is read is what its fingerprint says, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lineage.fingerprints import (
    DatasetUnreadable,
    data_files,
    delta_digest,
    fingerprint,
)

if TYPE_CHECKING:
    import pyarrow as pa


class DatasetMoved(DatasetUnreadable):
    """What lies where a dataset version was is not that version any more."""


def read_content(
    recorded: Mapping[str, Any],
    columns: Sequence[str],
    *,
    reference: str,
    storage_options: Mapping[str, str] | None = None,
) -> pa.Table:
    """The rows of what was fingerprinted: a Delta table at its version, files as they were.

    Args:
        recorded: a fingerprint, as `Fingerprint.recorded` gives it.
        columns: those to read; they are in the fingerprint.
        reference: what to call it in a message, such as `credit@v2`.

    Raises:
        DatasetMoved: other data lie there now.
        DatasetUnreadable: it cannot be read.
    """
    match recorded["format"]:
        case "delta":
            return _delta(recorded, columns, reference, storage_options or {})
        case "parquet" | "csv" as kind:
            return _files(recorded, kind, columns, reference)
        case _:
            raise DatasetUnreadable(
                f"{reference} is an address, {recorded['location']}, and is not read from "
                "here: fetch it from `location` and compare its SHA-256 with `digest`"
            )


def _delta(
    recorded: Mapping[str, Any], columns: Sequence[str], reference: str, options: Mapping[str, str]
) -> pa.Table:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    uri, version = str(recorded["location"]), recorded.get("delta_version")
    try:
        table = DeltaTable(uri, version=version, storage_options=dict(options) or None)
        if delta_digest(table) != recorded["digest"]:
            raise DatasetMoved(
                f"version {version} of the Delta table at {uri} is not {reference} any more; "
                "track the dataset again to use what is there now"
            )
        return table.to_pyarrow_table(columns=list(columns))
    except (DeltaError, OSError, pa.ArrowException) as failure:
        raise DatasetUnreadable(
            f"{reference} cannot be read, version {version} of {uri} may have been vacuumed: {failure}"
        ) from failure


def _files(recorded: Mapping[str, Any], kind: str, columns: Sequence[str], reference: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as pads

    location = str(recorded["location"])
    try:
        files = [str(file) for file in data_files(Path(location))]
        # Of a CSV file each one's types are guessed alone: what holds them all is wanted.
        schemas = [pads.dataset(file, format=kind).schema for file in files]
        whole = pa.unify_schemas(schemas, promote_options="permissive")
        data = pads.dataset(files, format=kind, schema=whole)
        rows = data.to_table(columns=list(columns))
    except (OSError, pa.ArrowException) as failure:
        raise DatasetUnreadable(f"{reference} cannot be read from {location}: {failure}") from failure
    # After reading, so that a change while it was read is seen, too.
    if fingerprint(location).digest != recorded["digest"]:
        raise DatasetMoved(
            f"what lies at {location} is not {reference} any more; "
            "track the dataset again to use what is there now"
        )
    return rows
