"""Removing rows so that no file holds them any more: the one write that removes anything.

A file that no commit names may be about to be committed, or be what a lost race left. A
change of the table's properties tells them apart: delta-rs refuses the commit of whoever
read the table before that change, so unnamed files older than it are nobody's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.committing import COMMIT_ID, Commit
from ml_registry_pipelines.lake.files import Entry, Folder
from ml_registry_pipelines.lake.maintenance import cut_log, no_hooks, writer_properties
from ml_registry_pipelines.lake.outcomes import (
    Erased,
    LakeError,
    LostRace,
    Verdict,
    reason,
    store_errors,
    verdict,
)
from ml_registry_pipelines.lake.tables import TABLES

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from ml_registry_pipelines.lake.handles import Writer

PATIENCE_SECONDS = 120.0
"""How long matching rows may keep arriving, or other writers be first, before an erasure gives up."""
BARRIER = "mlreg.erased"
"""The table property whose change bars writers that read the table before."""
WITHHELD = "withheld"
"""Stands in the log for the condition of an erasure, which may name whom it was about."""
LOOK_BACK = 100
"""Newest commits among which conditions are looked for; an erasure that was killed left one at most."""


def erase(
    place: Writer, table: str, predicate: str, folder: Folder, blank: Mapping[str, str] | None = None
) -> Erased:
    """Remove the rows that `predicate` selects, or the values in them, from every file that still exists.

    Raises:
        LostRace: matching rows kept arriving, or other writers were always first.
        LakeError: the predicate cannot be read, or the store failed.
    """
    rows = rewritten = 0
    matching = True
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if matching:
            metrics = _delete(place, table, predicate, blank)
            if metrics is None:
                continue
            matching = False
            rows += int(metrics.get("num_deleted_rows") or metrics.get("num_updated_rows") or 0)
            rewritten += int(metrics.get("num_added_files") or 0)
        barred_at = _bar_older_writers(place, folder)
        handle = place.current()
        if barred_at is None:
            continue
        matching = _any(handle, predicate)
        if matching:
            continue
        try:
            _withhold_conditions(handle, folder)
            deleted = _delete_files(folder, _unnamed(handle, folder, before=barred_at))
            handle.create_checkpoint()
            cut_log(folder)
        except store_errors() as failure:
            raise LakeError(
                f"{table}: an erasure stopped half way ({reason(failure)}); erase again"
            ) from failure
        place.forget()
        handle = place.current()
        return Erased(
            rows=rows,
            files_rewritten=rewritten,
            files_deleted=deleted,
            files_pending=len(_unnamed(handle, folder)),
            version=handle.version(),
        )
    raise LostRace(
        f"{table}: other writers were first for {PATIENCE_SECONDS:.0f} seconds; stop them and erase again"
    )


def _delete(
    place: Writer, table: str, predicate: str, blank: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """Delete from the live files; what came of it, or None when another writer was first."""
    declared = TABLES[table]
    commit = Commit(table, declared.empty(), {"erase": "true"})
    handle = place.current()
    commit.begins_at(handle)
    try:
        if blank:
            updated: dict[str, Any] = handle.update(
                updates=dict(blank),
                predicate=predicate,
                writer_properties=writer_properties(declared),
                commit_properties=commit.properties(retries=0),
                post_commithook_properties=no_hooks(),
            )
            return updated
        metrics: dict[str, Any] = handle.delete(
            predicate,
            writer_properties=writer_properties(declared),
            commit_properties=commit.properties(retries=0),
            post_commithook_properties=no_hooks(),
        )
    except store_errors() as failure:
        commit.failure = failure
        place.forget()
        commit.look(place)
        if commit.entry is not None:
            return dict(commit.entry.get("operationMetrics") or {})
        if verdict(failure) is not Verdict.LOST:
            raise commit.unknown() from failure
        return None
    return metrics


def _bar_older_writers(place: Writer, folder: Folder) -> datetime | None:
    """Make the commits of all fail who read the table before now; since when, if it was done."""
    if not folder.settles:
        # An object store tells whole seconds: what was written before must bear an earlier one.
        time.sleep(1.0)
    handle = place.current()
    before = handle.version()
    mark = uuid.uuid4().hex
    try:
        handle.alter.set_table_properties(
            {BARRIER: mark}, raise_if_not_exists=False, post_commithook_properties=no_hooks()
        )
    except store_errors():
        place.forget()
        return None
    for version in range(handle.version(), before, -1):
        name = _log_name(version)
        if mark in folder.read(name).decode():
            return folder.entry(name).modified_at
    return None


def _any(handle: DeltaTable, predicate: str) -> bool:
    return any(
        batch.num_rows for batch in handle.scan(columns=[handle.schema().fields[0].name], predicate=predicate)
    )


def _withhold_conditions(handle: DeltaTable, folder: Folder) -> None:
    """Take the conditions of erasures out of the log, where they would outlive the rows."""
    for entry in handle.history(LOOK_BACK):
        condition = entry.get("operationParameters", {}).get("predicate")
        if entry.get("operation") not in {"DELETE", "UPDATE"} or condition in {None, WITHHELD}:
            continue
        name = _log_name(entry["version"])
        actions = [json.loads(line) for line in folder.read(name).splitlines()]
        for action in actions:
            info = action.get("commitInfo")
            if info is not None and info.get(COMMIT_ID) == entry.get(COMMIT_ID):
                info["operationParameters"]["predicate"] = WITHHELD
        folder.write(name, "\n".join(json.dumps(action) for action in actions).encode())


def _unnamed(handle: DeltaTable, folder: Folder, *, before: datetime | None = None) -> list[Entry]:
    """Files of the table that its newest version does not name; `before`: only those older."""
    import pyarrow as pa

    live = set(pa.table(handle.get_add_actions())["path"].to_pylist())
    return [
        entry
        for entry in folder.entries()
        if not entry.path.startswith("_")
        and entry.path not in live
        and (before is None or entry.modified_at < before)
    ]


def _delete_files(folder: Folder, files: list[Entry]) -> int:
    for entry in files:
        folder.delete(entry.path)
    return len(files)


def _log_name(version: int) -> str:
    return f"_delta_log/{version:020}.json"
