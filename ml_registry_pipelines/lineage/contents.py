"""Reading the rows of a dataset version, exactly: what is read is what its fingerprint says, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.readable import ANYWHERE, SETTING, NotReadable, Readable
from ml_registry_pipelines.lineage.fingerprints import (
    DatasetUnreadable,
    check_delta,
    common_schema,
    data_files,
    delta_digest,
    fingerprint,
)

if TYPE_CHECKING:
    import pyarrow as pa


UNREAD = f"track the dataset again, or see whether {SETTING} names its folder"
"""What to do, where a reason could quote the data."""


class DatasetMoved(DatasetUnreadable):
    """What lies where a dataset version was is not that version any more."""


def read_content(
    recorded: Mapping[str, Any],
    columns: Sequence[str],
    *,
    reference: str,
    storage_options: Mapping[str, str] | None = None,
    readable: Readable = ANYWHERE,
) -> pa.Table:
    """The rows of what was fingerprinted: a Delta table at its version, files as they were.

    Args:
        recorded: a fingerprint, as `Fingerprint.recorded` gives it.
        columns: those to read; they are in the fingerprint.
        reference: what to call it in a message, such as `credit@v2`.
        readable: where it may lie.

    Raises:
        DatasetMoved: other data lie there now.
        DatasetUnreadable: it cannot be read, or lies where nothing may be read from.
    """
    try:
        return _read(recorded, columns, reference, storage_options or {}, readable)
    except NotReadable as refusal:
        raise DatasetUnreadable(f"{reference} cannot be read: {refusal}") from refusal


def _read(
    recorded: Mapping[str, Any],
    columns: Sequence[str],
    reference: str,
    options: Mapping[str, str],
    readable: Readable,
) -> pa.Table:
    location = str(recorded["location"])
    match recorded["format"]:
        case "delta":
            readable.check(location)
            if not location.startswith("s3://"):
                readable.check_tree(Path(location))
            return _delta(recorded, columns, reference, options, readable)
        case "parquet" | "csv" as kind:
            readable.check(location)
            return _files(recorded, kind, columns, reference, readable)
        case _:
            raise DatasetUnreadable(
                f"{reference} is an address, {recorded['location']}, and is not read from "
                "here: fetch it from `location` and compare its SHA-256 with `digest`"
            )


def _delta(
    recorded: Mapping[str, Any],
    columns: Sequence[str],
    reference: str,
    options: Mapping[str, str],
    readable: Readable,
) -> pa.Table:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    uri, version = str(recorded["location"]), recorded.get("delta_version")
    try:
        table = DeltaTable(uri, version=version, storage_options=dict(options) or None)
        check_delta(table, uri, readable)
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


def _files(
    recorded: Mapping[str, Any], kind: str, columns: Sequence[str], reference: str, readable: Readable
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as pads

    location = str(recorded["location"])
    try:
        files = data_files(Path(location))
        # Of a CSV file each one's types are guessed alone: what holds them all is wanted.
        whole = common_schema(Path(location), files, kind, readable)
        parts = []
        for file in files:
            with readable.opened(file) as place:
                part = pads.dataset(str(place), format=kind, schema=whole)
                parts.append(part.to_table(columns=list(columns)))
        rows = pa.concat_tables(parts)
    except (OSError, pa.ArrowException) as failure:
        raise DatasetUnreadable(f"{reference} cannot be read from {location}: {failure}") from failure
    # After reading, so that a change while it was read is seen, too.
    if fingerprint(location, readable=readable).digest != recorded["digest"]:
        raise DatasetMoved(
            f"what lies at {location} is not {reference} any more; "
            "track the dataset again to use what is there now"
        )
    return rows
