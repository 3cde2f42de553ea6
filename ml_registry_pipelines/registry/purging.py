"""What lies in the store and nobody needs: found, and removed when it is old enough.

Needed is whatever any state of any entity mentions, of the past too, and deleted ones: they can
be restored. So a purge removes only what never got into the log: of commands that failed, of
uploads that were given up. Bytes are stored before the command that needs them is given; what
has come, or was claimed, within the grace period is therefore left alone, and the log and the
claims are read again just before anything is removed. A command claims a file and then looks whether
it is there; a purge takes it aside and then looks for claims, so that one of the two sees the
other, and the file is put back or stored anew. An upload that takes longer than the grace
period between its first file and its command is not safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import Entry, FilesError, Folder, NoSuchFile
from ml_registry_pipelines.registry.artifacts import ArtifactStore
from ml_registry_pipelines.registry.blobs import (
    BLOBS,
    BULK_FILES,
    CLAIMS,
    INCOMING,
    MANIFESTS,
    REMOVED,
    claim_path,
    manifest_path,
)
from ml_registry_pipelines.registry.bucket import BucketBlobs
from ml_registry_pipelines.registry.content import ArtifactChanged, ArtifactError, checked_sha256
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, StillNeeded
from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.log_table import TABLE
from ml_registry_pipelines.registry.projections import STATES
from ml_registry_pipelines.registry.relationships import label

if TYPE_CHECKING:
    import numpy as np

GRACE = timedelta(days=7)
LEAST_GRACE = timedelta(days=1)
BATCH = 1_000
"""Files that are removed between two looks at the log."""
READERS = 16
"""Manifests that are read at a time."""
SHOWN = 50
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Purged:
    """What a purge removed, or would."""

    dry_run: bool
    kept_files: int
    kept_bytes: int
    files: int
    bytes: int
    leftovers: int
    """Broken-off uploads, old tickets and claims."""
    shown: tuple[str, ...] = field(default=())
    """The first few of what was removed, by path."""

    def sentence(self) -> str:
        """What was done, for a person."""
        verb = "would be removed" if self.dry_run else "removed"
        return (
            f"{self.files:,} unreferenced files ({self.bytes / 1e6:,.1f} MB) and {self.leftovers:,} leftovers "
            f"{verb}; {self.kept_files:,} files ({self.kept_bytes / 1e6:,.1f} MB) kept"
        )


class _Digests:
    """A set of SHA-256 by their first 64 bits, 8 bytes each; two that share them are both kept."""

    def __init__(self) -> None:
        import numpy as np

        self._sorted: np.ndarray = np.array([], dtype=np.uint64)
        self._new: set[int] = set()

    def add(self, digests: Iterable[str]) -> None:
        import numpy as np

        self._new.update(int(digest[:16], 16) for digest in digests)
        if len(self._new) > 1_000_000:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._new, dtype=np.uint64))
            self._new = set()

    def __contains__(self, digest: str) -> bool:
        import numpy as np

        number = int(digest[:16], 16)
        if number in self._new:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        return place < len(self._sorted) and int(self._sorted[place]) == number


def purge(
    log: Log,
    store: ArtifactStore,
    *,
    grace: timedelta = GRACE,
    dry_run: bool = False,
    now: datetime | None = None,
) -> Purged:
    """Remove stored files that no version has ever needed and no upload under way can need.

    Args:
        grace: how long a file without a version is left alone.
        dry_run: say what would go, and leave it.
        now: the present instant.

    Raises:
        ArtifactChanged: the manifest of a version is gone or damaged, so that nobody knows which
            files it needs; nothing was removed.
        InvalidInput: the grace period is too short for an upload.
    """
    if grace < LEAST_GRACE:
        raise InvalidInput(f"the grace period is {grace}; it is at least {LEAST_GRACE.days} day")
    before = (now or datetime.now(UTC)) - grace
    try:
        return _purge(log, store, before, dry_run)
    except FilesError as failure:
        raise ArtifactError(f"the purge stopped: {failure}; run it again") from failure


def _purge(log: Log, store: ArtifactStore, before: datetime, dry_run: bool) -> Purged:
    folder = store.blobs.folder
    if not dry_run:
        for entry in list(folder.entries(REMOVED)):
            # A purge was killed between taking it aside and looking for claims.
            folder.move(entry.path, entry.path.removeprefix(f"{REMOVED}/"))
    heads = {tenant: log.head(tenant)[0] for tenant in log.tenants()}
    needed = _mentioned(log)
    doomed: list[Entry] = []
    kept = _Sum()

    manifests = []
    listed = _Digests()
    for entry in folder.entries(MANIFESTS):
        name = _name(entry)
        if name is not None:
            listed.add([name])
        if _stays(folder, entry, needed, before):
            kept.add(entry)
            if name is not None:
                manifests.append(name)
        else:
            doomed.append(entry)
    _check_all_there(log, heads, listed)
    with ThreadPoolExecutor(READERS, thread_name_prefix="mlreg-manifests") as pool:
        for files in pool.map(store.files, manifests):
            needed.add(file.sha256 for file in files)
    for entry in chain(folder.entries(BLOBS), folder.entries(BULK_FILES)):
        if _stays(folder, entry, needed, before):
            kept.add(entry)
        else:
            doomed.append(entry)

    removed = doomed if dry_run else list(_remove(log, store, doomed, heads, before))
    leftovers = sum(1 for _ in _leftovers(store, before, dry_run))
    return Purged(
        dry_run,
        kept.files + len(doomed) - len(removed),
        kept.bytes + sum(e.size for e in doomed) - sum(e.size for e in removed),
        len(removed),
        sum(entry.size for entry in removed),
        leftovers,
        tuple(entry.path for entry in removed[:SHOWN]),
    )


class _Sum:
    def __init__(self) -> None:
        self.files = self.bytes = 0

    def add(self, entry: Entry) -> None:
        self.files += 1
        self.bytes += entry.size


def _name(entry: Entry) -> str | None:
    """The digest that a file is named by; None for what is still being written."""
    name = entry.path.rsplit("/", 1)[-1].removesuffix(".json").removesuffix(".parquet")
    return name if _DIGEST.fullmatch(name) else None


def _stays(folder: Folder, entry: Entry, needed: _Digests, before: datetime) -> bool:
    name = _name(entry)
    return (
        entry.modified_at >= before
        or (name is not None and name in needed)
        or _claimed(folder, entry, before)
    )


def _claimed(folder: Folder, entry: Entry, before: datetime) -> bool:
    try:
        return folder.entry(claim_path(entry.path)).modified_at >= before
    except NoSuchFile:
        return False


def _mentioned(log: Log) -> _Digests:
    """Every SHA-256 that occurs in any state of any tenant, or in a bulk event."""
    found = _Digests()
    with log.lake.read(TABLE) as reading:
        rows = reading.query(
            "registry.bulk_files",
            f"""
            SELECT DISTINCT unnest(regexp_extract_all(payload, '[0-9a-f]{{64}}')) AS digest FROM {TABLE}
            WHERE entity_type = $bulk
            """,
            {"bulk": BULK},
        )
    found.add(rows["digest"].to_pylist())
    for tenant in log.tenants():
        view = log.view(tenant)
        for table in STATES:
            rows = view.over_states(
                "registry.mentioned_digests",
                table,
                """
                SELECT DISTINCT unnest(regexp_extract_all(state, '[0-9a-f]{64}')) AS digest FROM states
                WHERE from_sequence <= $at
                """,
                {},
            )
            found.add(rows["digest"].to_pylist())
    return found


def _check_all_there(log: Log, heads: Mapping[str, int], listed: _Digests) -> None:
    """Versions that were there before the listing began have their manifests in it."""
    for tenant, head in heads.items():
        rows = replace(log.view(tenant), at=head).over_states(
            "registry.manifests_of_versions",
            "model_versions",
            """
            SELECT DISTINCT json_extract_string(state, '$.content_digest') AS digest FROM states
            WHERE from_sequence <= $at
            UNION
            SELECT DISTINCT unnest(json_extract_string(state, '$.artifacts[*].digest')) FROM states
            WHERE from_sequence <= $at
            """,
            {},
        )
        for digest in rows["digest"].to_pylist():
            if digest not in listed:
                raise ArtifactChanged(
                    f"manifest {digest} of a version in tenant {tenant!r} is gone, so that nobody knows which "
                    "files it needs; restore it before anything is purged"
                )


def _remove(
    log: Log, store: ArtifactStore, doomed: list[Entry], heads: Mapping[str, int], before: datetime
) -> Iterator[Entry]:
    """Remove what still nobody needs, looking again before each batch and each file."""
    folder, seen = store.blobs.folder, dict(heads)
    needed = _Digests()
    for start in range(0, len(doomed), BATCH):
        for text in _news(log, seen):
            for digest in _DIGEST.findall(text):
                needed.add([digest])
                if store.blobs.folder.exists(manifest_path(digest)):
                    needed.add(file.sha256 for file in store.files(digest))
        for entry in doomed[start : start + BATCH]:
            try:
                now = folder.entry(entry.path)
            except NoSuchFile:
                continue
            if not _stays(folder, now, needed, before) and _taken_away(folder, entry, before):
                yield entry


def _taken_away(folder: Folder, entry: Entry, before: datetime) -> bool:
    """Remove a file that nobody claims by then; whether it is gone."""
    aside = f"{REMOVED}/{entry.path}"
    try:
        folder.move(entry.path, aside)
    except NoSuchFile:
        return False
    if _claimed(folder, entry, before):
        folder.move(aside, entry.path)
        return False
    folder.delete(aside)
    return True


def _news(log: Log, seen: dict[str, int]) -> Iterator[str]:
    """The texts of all events since the numbers in `seen`, which move on."""
    for tenant in log.tenants():
        head, first = log.head(tenant)[0], seen.get(tenant, 0) + 1
        for event in log.events(tenant, range(first, head + 1)):
            yield event.payload
            if event.entity_type == BULK:
                yield from (text for _, _, text in log.bulk.read(event))
        seen[tenant] = head


def _leftovers(store: ArtifactStore, before: datetime, dry_run: bool) -> Iterator[str]:
    """Remove what uploads that were given up have left: parts, tickets, claims."""
    folder = store.blobs.folder
    for prefix in (INCOMING, CLAIMS):
        for entry in folder.entries(prefix):
            if entry.modified_at < before:
                if not dry_run:
                    folder.delete(entry.path)
                yield entry.path
    if not isinstance(store.blobs, BucketBlobs):
        return
    for key, upload in store.blobs.broken_off(before):
        if not dry_run:
            store.blobs.abort(key, upload)
        yield key


def delete_artifact(log: Log, store: ArtifactStore, artifact: str) -> None:
    """Remove one artifact that nothing needs; its files go with the next purge, unless others have them.

    Raises:
        StillNeeded: something in the log mentions it, be it deleted; the text says what.
        IllegalTransition: it is so young that a command under way may need it.
        NotFound: there is no such artifact.
    """
    path = manifest_path(checked_sha256(artifact))
    try:
        entry = store.blobs.folder.entry(path)
    except NoSuchFile:
        raise NotFound("artifact", artifact, "any") from None
    before = datetime.now(UTC) - LEAST_GRACE
    for tenant in log.tenants():
        view = log.view(tenant)
        for table in STATES:
            users = view.select(
                "registry.users_of_artifact",
                table,
                "contains(state, $digest)",
                limit=1,
                parameters={"digest": artifact},
            )
            if users:
                name = label(view, users[0].id)
                raise StillNeeded(f"artifact {artifact[:12]} cannot be deleted: {name} needs it")
    folder = store.blobs.folder
    if (
        entry.modified_at >= before
        or _claimed(folder, entry, before)
        or not _taken_away(folder, entry, before)
    ):
        raise IllegalTransition(
            f"artifact {artifact[:12]} was stored or used within the last day, and a command under way may "
            "need it; leave it to the purge"
        )
