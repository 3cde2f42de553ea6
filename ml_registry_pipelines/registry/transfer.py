"""A tenant from one root to another: history, chain and artifacts verbatim.

An export is a folder: `events.parquet` and its digest, the files of bulk events below `bulk/`,
manifests and blobs below `artifacts/`. An import verifies all of it before its one commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.access_log import AccessLog
from ml_registry_pipelines.lake.tables.registry import GOVERNANCE_EVENTS
from ml_registry_pipelines.registry.actors import ANY, EXPORT, IMPORT, Actor, Request
from ml_registry_pipelines.registry.artifacts import ArtifactError, ArtifactStore
from ml_registry_pipelines.registry.bulk import BulkFileDamaged
from ml_registry_pipelines.registry.chain import check_chains
from ml_registry_pipelines.registry.errors import (
    RESTORE,
    DamagedExport,
    LogDamaged,
    NotFound,
    RegistryError,
    TenantExists,
)
from ml_registry_pipelines.registry.events import BULK, Event, from_arrow, to_arrow
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.log_table import TABLE
from ml_registry_pipelines.registry.names import checked_tenant
from ml_registry_pipelines.registry.states import MODEL_VERSION, begun
from ml_registry_pipelines.registry.vetting import Vetting, content_digests
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

AT_ONCE = 16_384
"""Events that are held at a time; an import holds their columns once more, for its one commit."""
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
    access = AccessLog(log.lake)
    access.note(actor, "export", "history of the tenant", tenant=tenant, rows=head)
    access.flush()
    target.mkdir(parents=True, exist_ok=True)
    store = ArtifactStore(log.lake)
    exported: set[str] = set()
    with pq.ParquetWriter(target / EVENTS, GOVERNANCE_EVENTS.schema, compression="zstd") as writer:
        for first in range(1, head + 1, AT_ONCE):
            wanted = range(first, min(first + AT_ONCE, head + 1))
            events = log.events(tenant, wanted)
            if [event.sequence for event in events] != list(wanted):
                raise LogDamaged(f"events of tenant {tenant!r} from {first} on are missing; {RESTORE}")
            for event in events:
                for digest in _artifacts(event):
                    if digest not in exported:
                        store.export(digest, target / "artifacts")
                        exported.add(digest)
                if event.entity_type == BULK:
                    digest = str(event.state["file"])
                    (target / "bulk").mkdir(exist_ok=True)
                    (target / "bulk" / f"{digest}.parquet").write_bytes(log.bulk.bytes_of(digest))
            # Positions belong to the root that the tenant leaves.
            writer.write_table(to_arrow(replace(e, position=e.sequence, block=0) for e in events))
    (target / DIGEST).write_text(f"{_sha256(target / EVENTS)}  {EVENTS}\n", encoding="utf-8")
    return head


def import_tenant(log: Log, source: Path, *, actor: Actor) -> tuple[str, int]:
    """Take in what `export_tenant` wrote; return tenant and number of events.

    Raises:
        TenantExists: the tenant has a history here.
        DamagedExport: the chain, an event, a file or an artifact does not verify; nothing was imported.
        NotAllowed: the policy refuses.
    """
    tenant, count = _checked_chain(log, source)
    log.ask(Request(actor, tenant, IMPORT, ANY))
    _absent(log.view(tenant), log)
    # Its history was decided elsewhere, by the approvals of people whom nobody here knows.
    log.gate.admits(log, tenant, actor)
    for path in sorted((source / "bulk").glob("*.parquet")):
        if log.bulk.keep(path.read_bytes()) != path.stem:
            raise DamagedExport(f"{path} is not what its name says; export again")
    store = ArtifactStore(log.lake)
    try:
        store.take_in(source / "artifacts")
        weights = _vetted(log, source, store)
    except (ArtifactError, BulkFileDamaged) as failure:
        raise DamagedExport(f"{source} is damaged: {failure}") from failure
    log.append_verbatim(_read(source), weights, absent=lambda view: _absent(view, log))
    return tenant, count


def _absent(view: View, log: Log) -> None:
    if log.head(view.tenant)[0]:
        raise TenantExists(view.tenant)


def _checked_chain(log: Log, source: Path) -> tuple[str, int]:
    """The tenant and the number of its events, whose chain is as sound as `audit verify` wants it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = source / EVENTS
    try:
        stated = (source / DIGEST).read_text(encoding="utf-8").split(" ")[0]
        if _sha256(file) != stated:
            raise DamagedExport(f"{file} is not the file that {DIGEST} speaks of; export again")
        if not pq.read_schema(file).remove_metadata().equals(GOVERNANCE_EVENTS.schema):
            raise DamagedExport(f"{file} has other columns than an export; export again")
    except (OSError, UnicodeError, pa.ArrowException) as failure:
        raise DamagedExport(f"{source} is no export of a tenant: {failure}") from failure
    quoted = str(file).replace("'", "''")

    def attach(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute(f"CREATE TEMP VIEW {TABLE} AS SELECT * FROM read_parquet('{quoted}')")

    with log.lake.read() as reading:
        reading.define(attach)
        chains = check_chains(reading)
        odd = reading.query(
            "registry.import_places",
            f"SELECT min(sequence) AS n FROM {TABLE} WHERE position <> sequence OR block IS DISTINCT FROM 0",
        )["n"][0].as_py()
    if len(chains.rows) != 1:
        raise DamagedExport(f"{file} holds the events of {len(chains.rows)} tenants and not of one")
    ((tenant, row),) = chains.rows.items()
    for damage in sorted(chains.damages[tenant], key=lambda damage: damage.sequence):
        raise DamagedExport(f"{file} is damaged: {damage.text}; export again")
    if odd is not None:
        raise DamagedExport(f"{file} is damaged: event {odd} lies in another place; export again")
    return checked_tenant(tenant), int(row["events"])


def _vetted(log: Log, source: Path, store: ArtifactStore) -> dict[int, int]:
    """How many entities each bulk event gives a state, once all events can be folded and read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vetting, weights = Vetting(log.bulk), dict[int, int]()
    with pq.ParquetFile(source / EVENTS) as file:
        for batch in file.iter_batches(AT_ONCE):
            for event in from_arrow(pa.table(batch)):
                try:
                    vetting.take(event)
                except (RegistryError, pa.ArrowException) as failure:
                    raise DamagedExport(
                        f"{source} is damaged: event {event.sequence}: {failure}"
                    ) from failure
                if event.entity_type == BULK:
                    weights[event.sequence] = event.weight
    for digest in sorted(vetting.artifacts):
        store.check_whole(digest)
    return weights


def _read(source: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(source / EVENTS)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _artifacts(event: Event) -> Iterable[str]:
    return content_digests(begun(event)) if event.entity_type == MODEL_VERSION else ()
