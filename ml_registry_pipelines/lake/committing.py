"""One commit: rows as declared, tried until it is known to have landed or to have failed.

A failed commit says nothing about its outcome: an object store may answer 503 to a PUT
that landed. A `Commit` keeps one id over all its tries and looks for it in the log before
the next one. Tries that follow each other aim at the same version, so a PUT that is still
on its way can land once at most.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.maintenance import no_hooks, writer_properties
from ml_registry_pipelines.lake.outcomes import (
    CommitUnknown,
    LakeError,
    Verdict,
    reason,
    store_errors,
    verdict,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable, Transaction

    from ml_registry_pipelines.lake.handles import Writer

COMMIT_ID = "mlreg_commit"
"""Key in the commit info by which a write finds its own commit again."""
SEQUENCE = "mlreg_sequence"
"""Key in the commit info for the sequence that a commit took."""
PATIENCE_SECONDS = 60.0
"""How long a write keeps trying while other writers are first."""
SORTED_UP_TO = 50_000
"""Rows of a commit that are sorted; of a million, which come nearly in order, it takes two seconds."""
ROOM_LEFT = 128 << 10
"""Bytes that stay free on a disk; rows take a quarter of their size in memory at most."""
STORE_TRIES = 4
"""Tries against a store that fails; delta-rs has by then repeated each request for minutes."""


class Commit:
    """One commit under one id.

    Args:
        table: name of the table.
        rows: what it adds, as declared.
        note: kept in the commit info.

    Attributes:
        failure: why the last try is in doubt.
        entry: the commit info, once a try that had seemed to fail was found in the log.
    """

    def __init__(self, table: str, rows: pa.Table, note: Mapping[str, str] | None = None) -> None:
        self.table = table
        self.rows = rows
        self.id = uuid.uuid4().hex
        self.failure: Exception | None = None
        self.entry: dict[str, Any] | None = None
        self._note = dict(note or {})
        self._base = -1
        self._tries = 0
        self._unsure = 0
        self._given_up = False
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def look(self, place: Writer) -> DeltaTable:
        """The table at its newest version, after a look for an earlier try of this commit.

        Raises:
            LakeError: the rows were refused, or the store will not take any.
            CommitUnknown: patience has ended, or it cannot be told whether the commit landed.
        """
        try:
            handle = place.current()
        except LakeError as unreadable:
            if self.failure is None:
                raise
            raise self.unknown(f"and {unreadable}; look whether the rows are there") from unreadable
        if self.failure is None:
            return handle
        self.entry = self._found(handle)
        if self.entry is None:
            self._raise_if_final(self.failure)
            if self._given_up:
                raise self.unknown() from self.failure
        return handle

    def pause(self) -> None:
        """Wait before the next try, longer each time; the look after the last one is final."""
        assert self.failure is not None
        self._tries += 1
        means = verdict(self.failure)
        self._unsure += means is Verdict.UNSURE
        self._given_up = self._unsure >= STORE_TRIES or time.monotonic() > self._deadline
        if means in {Verdict.LOST, Verdict.UNSURE} and not self._given_up:
            time.sleep(random.uniform(0, 0.02 * min(self._tries, 10)))

    def _raise_if_final(self, failure: Exception) -> None:
        match verdict(failure):
            case Verdict.HOPELESS:
                raise LakeError(
                    f"{self.table} cannot be written: {reason(failure)}; nothing was committed"
                ) from failure
            case Verdict.REFUSED:
                raise LakeError(
                    f"{self.table} refuses the write: {_refusal(failure)}; nothing was committed"
                ) from failure
            case _:
                return

    def begins_at(self, handle: DeltaTable) -> None:
        """Note the version before the first try, behind which the commit may be found."""
        if self._base < 0:
            self._base = handle.version()

    def write(
        self,
        handle: DeltaTable,
        declared: Table,
        *,
        transaction: Transaction | None = None,
        retries: int | None = None,
        predicate: str | None = None,
    ) -> bool:
        """Commit; whether that surely succeeded. A failure is kept, to be looked into."""
        from deltalake import write_deltalake

        self.begins_at(handle)
        if _is_full(handle.table_uri, self.rows.nbytes):
            self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return False
        note = {} if transaction is None else {SEQUENCE: str(transaction.version)}
        try:
            rows = with_stored_columns(self.rows, handle, declared)
            how: dict[str, Any] = {
                "writer_properties": writer_properties(declared, size=rows.nbytes),
                "commit_properties": self.properties(note, transaction=transaction, retries=retries),
                "post_commithook_properties": no_hooks(),
            }
            if predicate is None:
                write_deltalake(handle, rows, mode="append", **how)
            else:
                write_deltalake(handle, rows, mode="overwrite", predicate=predicate, **how)
        except store_errors() as failure:
            self.failure = failure
            return False
        return True

    def properties(
        self,
        note: Mapping[str, str] | None = None,
        *,
        transaction: Transaction | None = None,
        retries: int | None = None,
    ) -> CommitProperties:
        """What goes into the commit beside the rows."""
        from deltalake import CommitProperties

        return CommitProperties(
            custom_metadata={**self._note, **(note or {}), COMMIT_ID: self.id},
            max_commit_retries=retries,
            app_transactions=None if transaction is None else [transaction],
        )

    def _found(self, handle: DeltaTable) -> dict[str, Any] | None:
        newer = handle.version() - self._base
        if newer <= 0:
            return None
        try:
            entries = handle.history(newer)
        except store_errors() as failure:
            raise self.unknown(f"and its log cannot be read ({reason(failure)})") from failure
        for entry in entries:
            if entry.get(COMMIT_ID) == self.id:
                return entry
        if len(entries) < newer:
            raise self.unknown("and its log was cut meanwhile, so look whether the rows are there")
        # A try can only land behind what is there by now: the next look begins here.
        self._base = handle.version()
        return None

    def unknown(self, more: str = "and shows no trace of it; try again") -> CommitUnknown:
        """The error for a commit that was given up."""
        why = "too many writers at once" if self.failure is None else reason(self.failure)
        return CommitUnknown(f"{self.table}: a commit failed ({why}) {more}")


def _is_full(uri: str, size: int) -> bool:
    """Whether rows of that size in memory may not find room, before delta-rs finds out in a panic of its own."""
    path = unquote(uri.removeprefix("file://"))
    return path.startswith("/") and shutil.disk_usage(path).free < ROOM_LEFT + size // 4


def _refusal(failure: Exception) -> str:
    text = str(failure)
    if "Invalid data found" in text:
        # What follows in the text are the rows themselves.
        return "some rows are outside the slice that is replaced, or lack a required value"
    return reason(failure)


def as_declared(rows: pa.Table, declared: Table) -> pa.Table:
    """The rows with the declared columns in the declared order; columns that are absent are NULL.

    Up to `SORTED_UP_TO` rows are put into the order of `sort_by`.

    Raises:
        LakeError: a column is not declared, does not fit its type, or lacks required values.
    """
    import pyarrow as pa

    if unknown := set(rows.schema.names) - set(declared.column_names):
        raise LakeError(f"{declared.name} has no column {', '.join(sorted(unknown))}")
    columns = []
    for field in declared.schema:
        if field.name not in rows.schema.names:
            column = pa.nulls(len(rows), field.type)
        else:
            column = rows[field.name]
            if column.type != field.type:
                try:
                    column = column.cast(field.type)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as failure:
                    raise LakeError(
                        f"{declared.name}.{field.name} is a {field.type} and was given a {column.type} that "
                        f"does not fit: {reason(failure)}"
                    ) from failure
        if not field.nullable and column.null_count:
            raise LakeError(f"{declared.name}.{field.name} is required and {column.null_count} rows lack it")
        columns.append(column)
    result = pa.Table.from_arrays(columns, schema=declared.schema)
    if declared.sort_by and 1 < len(result) <= SORTED_UP_TO:
        return result.sort_by([(name, "ascending") for name in declared.sort_by])
    return result


def with_stored_columns(rows: pa.Table, handle: DeltaTable, declared: Table) -> pa.Table:
    """The rows with NULL for columns that a newer version of the software has added to the table.

    Units and meanings are left to the table, which got them when it was made: rows that describe a column
    in other words would be refused, and a sentence may change from one version of the software to the next.
    """
    import pyarrow as pa

    plain = pa.schema([field.remove_metadata() for field in rows.schema])
    rows = pa.Table.from_arrays(rows.columns, schema=plain)
    stored = handle.schema().fields
    if len(stored) == len(declared.columns):
        return rows
    types = {field.name: field.type for field in pa.schema(handle.schema().to_arrow())}
    for name in types.keys() - set(rows.schema.names):
        rows = rows.append_column(pa.field(name, types[name]), pa.nulls(len(rows), types[name]))
    return rows
