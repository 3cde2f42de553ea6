"""A tenant from one root to another: history, chain and artifacts verbatim.

An export is a folder: `events.parquet` and its digest, the files of bulk events below `bulk/`,
manifests and blobs below `artifacts/`. An import verifies all of it before its one commit.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_registry_pipelines.registry.actors import ANY, EXPORT, IMPORT, Actor, Request
from ml_registry_pipelines.registry.artifacts import ArtifactError, ArtifactStore
from ml_registry_pipelines.registry.bulk import BulkFileDamaged
from ml_registry_pipelines.registry.errors import DamagedExport, NotFound, TenantExists
from ml_registry_pipelines.registry.events import BULK, Event, event_hash, from_arrow, to_arrow
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_tenant
from ml_registry_pipelines.registry.states import MODEL_VERSION
from ml_registry_pipelines.registry.view import View

EVENTS = "events.parquet"
DIGEST = "events.sha256"
"""Finds what the chain does not cover: a damaged byte between the values of the file."""


def export_tenant(log: Log, tenant: str, target: Path, *, actor: Actor) -> int:
    """Write all of a tenant below the folder `target`; return the number of events.

    Exporting what was imported gives the same bytes again.

    Raises:
        NotFound: the tenant has no history.
        NotAllowed: the policy refuses.
    """
    import pyarrow.parquet as pq

    log.ask(Request(actor, checked_tenant(tenant), EXPORT, ANY))
    head, _ = log.head(checked_tenant(tenant))
    if not head:
        raise NotFound("history", tenant, tenant)
    events = log.events(tenant, range(1, head + 1))
    # Positions belong to the root that the tenant leaves.
    placed = [replace(event, position=event.sequence, block=0) for event in events]
    target.mkdir(parents=True, exist_ok=True)
    store = ArtifactStore(log.lake)
    for event in events:
        for digest in _artifacts(event):
            store.export(digest, target / "artifacts")
        if event.entity_type == BULK:
            digest = str(event.state["file"])
            (target / "bulk").mkdir(exist_ok=True)
            (target / "bulk" / f"{digest}.parquet").write_bytes(log.bulk.bytes_of(digest))
    pq.write_table(to_arrow(placed), target / EVENTS, compression="zstd")
    (target / DIGEST).write_text(f"{_sha256(target / EVENTS)}  {EVENTS}\n", encoding="utf-8")
    return len(events)


def import_tenant(log: Log, source: Path, *, actor: Actor) -> tuple[str, int]:
    """Take in what `export_tenant` wrote; return tenant and number of events.

    Raises:
        TenantExists: the tenant has a history here.
        DamagedExport: the chain, a file or an artifact does not verify; nothing was imported.
        NotAllowed: the policy refuses.
    """
    events = _events(source)
    tenant = events[0].tenant
    log.ask(Request(actor, tenant, IMPORT, ANY))
    _absent(log.view(tenant), log)
    for path in sorted((source / "bulk").glob("*.parquet")):
        if log.bulk.keep(path.read_bytes()) != path.stem:
            raise DamagedExport(f"{path} is not what its name says; export again")
    store = ArtifactStore(log.lake)
    try:
        store.take_in(source / "artifacts")
        for event in events:
            for digest in _artifacts(event):
                store.check_whole(digest)
            if event.entity_type == BULK:
                log.bulk.bytes_of(str(event.state["file"]))
    except (ArtifactError, BulkFileDamaged) as failure:
        raise DamagedExport(f"{source} is damaged: {failure}") from failure
    log.append_verbatim(events, absent=lambda view: _absent(view, log))
    return tenant, len(events)


def _absent(view: View, log: Log) -> None:
    if log.head(view.tenant)[0]:
        raise TenantExists(view.tenant)


def _events(source: Path) -> list[Event]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stated = (source / DIGEST).read_text(encoding="utf-8").split(" ")[0]
        if _sha256(source / EVENTS) != stated:
            raise DamagedExport(f"{source / EVENTS} is not the file that {DIGEST} speaks of; export again")
        events = from_arrow(pq.read_table(source / EVENTS))
    except (OSError, UnicodeError, pa.ArrowException, KeyError, TypeError) as failure:
        raise DamagedExport(f"{source} is no export of a tenant: {failure}") from failure
    if not events:
        raise DamagedExport(f"{source} holds no event")
    previous = ""
    for number, event in enumerate(events, start=1):
        fields: dict[str, Any] = vars(event)
        if (
            not event.sequence == event.position == number
            or event.block
            or event.tenant != events[0].tenant
            or event.previous_hash != previous
            or event_hash(fields) != event.hash
        ):
            raise DamagedExport(
                f"event {number} of {source} was changed, dropped, inserted or reordered; export again"
            )
        previous = event.hash
    checked_tenant(events[0].tenant)
    return events


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _artifacts(event: Event) -> list[str]:
    """Digests of what a version is made of."""
    if event.entity_type != MODEL_VERSION:
        return []
    state = event.state
    return [str(state["content_digest"]), *(str(a["digest"]) for a in state["artifacts"])]
