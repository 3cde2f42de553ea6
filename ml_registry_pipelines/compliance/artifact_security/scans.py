"""Scans of versions: each file once per scanner, kept by its digest, so that a second look is cheap."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from ml_registry_pipelines.compliance.artifact_security.findings import (
    Check,
    FileScan,
    FileVerdict,
    Finding,
    as_json,
    from_json,
    worst_verdict,
)
from ml_registry_pipelines.compliance.artifact_security.guard import Limits, Scanner, scanner_version
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.security import ARTIFACT_SCANS
from ml_registry_pipelines.registry.artifacts import ArtifactChanged, ArtifactElsewhere, ArtifactStore, File
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage, Version, artifacts_of

TABLE = ARTIFACT_SCANS.name
SOURCE = "scans"
LIVE = (Stage.PRODUCTION, Stage.STAGING, Stage.SHADOW)
ASK_AGAIN = timedelta(hours=1)
"""Age from which a file is looked at again of which nothing could be said: memory or time may have lacked."""


@dataclass(frozen=True)
class VersionScan:
    """All files of a version. `elsewhere` says which of its artifacts cannot be read from here, and why."""

    reference: str
    files: tuple[FileScan, ...]
    elsewhere: tuple[str, ...] = ()

    @property
    def verdict(self) -> FileVerdict:
        """Of a version none of whose files could be looked at, nothing can be said."""
        unseen = FileVerdict.CLEAN if self.files and not self.elsewhere else FileVerdict.REFUSED
        return worst_verdict([unseen, *(file.verdict for file in self.files)])

    @property
    def formats(self) -> tuple[str, ...]:
        """All formats in it, such as `pickle` or `safetensors`: what a policy asks about."""
        return tuple(sorted({form for file in self.files for form in file.formats}))

    def oldest(self, now: datetime) -> timedelta:
        """Age of the scan that is longest ago."""
        return max((now - file.scanned_at for file in self.files if file.scanned_at), default=timedelta(0))


def scan_path(path: Path, *, limits: Limits | None = None) -> list[FileScan]:
    """Scan a file of this machine, or all files of a folder, without keeping anything."""
    files = (
        sorted(f for f in path.rglob("*") if f.is_file() and not f.is_symlink()) if path.is_dir() else [path]
    )
    with Scanner(limits) as scanner:
        scans = [
            scanner.scan(file, name=str(file.relative_to(path)) if path.is_dir() else file.name)
            for file in files
        ]
    linked = [f for f in path.rglob("*") if f.is_symlink()] if path.is_dir() else []
    refusal = Finding(Check.FORMAT, FileVerdict.REFUSED, "it is a link, which is not followed")
    return scans + [
        FileScan(str(link.relative_to(path)), "", 0, ("link",), (refusal,), scanner_version())
        for link in linked
    ]


def scan_version(
    lake: Lake,
    tenant: str,
    version: Version,
    store: ArtifactStore,
    *,
    again: bool = False,
    limits: Limits | None = None,
) -> VersionScan:
    """Scan the files of a version's content and other artifacts, or take what the same scanner said before.

    A file is fetched from its folder or bucket into a temporary one, verified by its digest, looked at and
    removed; at most one lies there at a time.

    Args:
        again: scan all files anew.

    Raises:
        ArtifactError: the store cannot be read. A file that was changed in it is flagged, by name.
    """
    files: dict[tuple[str, str], tuple[File, str]] = {}
    elsewhere = []
    for artifact in artifacts_of(version):
        if artifact.form in {"file", "folder"}:
            for file in store.files(artifact.digest):
                files.setdefault((file.sha256, PurePosixPath(file.path).name), (file, artifact.digest))
        else:
            elsewhere.append(_elsewhere(artifact.kind, artifact.form))
    known = {} if again else kept(lake, tenant, [sha256 for sha256, _ in files])
    found: list[FileScan] = []
    fresh: list[FileScan] = []
    with Scanner(limits) as scanner, tempfile.TemporaryDirectory(prefix="mlreg-scan-") as folder:
        for key, (file, artifact_digest) in files.items():
            if key in known:
                found.append(replace(known[key], name=file.path))
                continue
            scan = _fetched_scan(scanner, store, file, artifact_digest, Path(folder) / "file")
            found.append(scan)
            if scan.scanned_at is not None:
                fresh.append(scan)
    if fresh:
        keep(lake, tenant, fresh)
    return VersionScan(version.reference, tuple(found), tuple(elsewhere))


def _fetched_scan(
    scanner: Scanner, store: ArtifactStore, file: File, artifact_digest: str, target: Path
) -> FileScan:
    try:
        store.blobs.fetch(file.sha256, file.size, target, f"{file.path} of artifact {artifact_digest[:12]}")
        return replace(scanner.scan(target, name=file.path, sha256=file.sha256), scanned_at=datetime.now(UTC))
    except (ArtifactChanged, ArtifactElsewhere) as failure:
        finding = Finding(Check.FORMAT, FileVerdict.FLAGGED, str(failure))
        return FileScan(file.path, file.sha256, file.size, ("changed",), (finding,), scanner_version())
    finally:
        target.unlink(missing_ok=True)


def _elsewhere(kind: str, form: str) -> str:
    if form == "hosted":
        return f"{kind}: a hosted model has no files that could be looked at"
    return f"{kind}: content at an address is not scanned; upload it, or scan it where it lies"


def keep(lake: Lake, tenant: str, scans: Sequence[FileScan]) -> None:
    """Keep what scans have said, in one commit."""
    import pyarrow as pa

    rows = [
        {
            "tenant": tenant,
            "sha256": scan.sha256,
            "name": PurePosixPath(scan.name).name,
            "scanner": scan.scanner,
            "scanned_at": scan.scanned_at,
            "size": scan.size,
            "verdict": scan.verdict.value,
            "formats": json.dumps(scan.formats),
            "findings": as_json(scan.findings),
            "notes": json.dumps(scan.notes),
        }
        for scan in scans
    ]
    lake.append_next(TABLE, pa.Table.from_pylist(rows, schema=ARTIFACT_SCANS.schema), source=SOURCE)


def kept(lake: Lake, tenant: str, digests: Sequence[str]) -> dict[tuple[str, str], FileScan]:
    """What the present scanner said last about files, by digest and name.

    Files of which nothing could be said are left out after a while.
    """
    with lake.read(TABLE) as reading:
        if not digests or reading.is_empty(TABLE):
            return {}
        rows = reading.query(
            "security.scans",
            """
            SELECT sha256, name, scanner, max(scanned_at) AS scanned_at,
                arg_max(size, scanned_at) AS size,
                arg_max(formats, scanned_at) AS formats,
                arg_max(findings, scanned_at) AS findings,
                arg_max(notes, scanned_at) AS notes
            FROM artifact_scans
            WHERE tenant = $tenant AND scanner = $scanner AND list_contains($digests, sha256)
            GROUP BY sha256, name, scanner
            """,
            {"tenant": tenant, "scanner": scanner_version(), "digests": list(digests)},
        ).to_pylist()
    return {
        (row["sha256"], row["name"]): FileScan(
            row["name"],
            row["sha256"],
            row["size"],
            tuple(json.loads(row["formats"])),
            from_json(json.loads(row["findings"])),
            row["scanner"],
            tuple(json.loads(row["notes"])),
            row["scanned_at"],
        )
        for row in rows
        if json.loads(row["formats"]) != ["unknown"] or row["scanned_at"] > datetime.now(UTC) - ASK_AGAIN
    }


class NotClean(MlregError):
    """A scan found files that are flagged or refused."""


def scan_all(
    models: ModelRegistry, reference: str | None = None, *, again: bool = False
) -> dict[str, object]:
    """Scan one version, or all of a tenant that are in production, staging or shadow; how many files are what.

    Raises:
        NotClean: some are not clean; what was found is kept, and the text names the first ones.
    """
    if reference is not None:
        versions = [models.get_version(reference)]
    else:
        versions = [
            version
            for model in models.list_models()
            for version in models.list_versions(model.id)
            if version.stage in LIVE
        ]
    counts = {verdict.value: 0 for verdict in FileVerdict}
    bad: list[str] = []
    for version in versions:
        found = scan_version(models.log.lake, models.tenant, version, models.artifacts, again=again)
        for file in found.files:
            counts[file.verdict.value] += 1
            if file.verdict is not FileVerdict.CLEAN:
                bad.append(
                    f"{version.reference} {file.name} is {file.verdict.value}: {file.findings[0].text}"
                )
        bad += [f"{version.reference} {why}" for why in found.elsewhere] if reference is not None else []
    if bad:
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise NotClean("; ".join(bad[:5]) + more)
    return {"versions": len(versions), **counts, "scanner": scanner_version()}


def formats_of_version(models: ModelRegistry, reference: str) -> tuple[str, ...]:
    """All formats in a version, such as `pickle` or `safetensors`: a fact for policies.

    A raw pickle is `pickle` here, wherever it is packed. Of content that cannot be read, `elsewhere`.
    """
    version = models.get_version(reference)
    found = scan_version(models.log.lake, models.tenant, version, models.artifacts)
    return (*found.formats, *(["elsewhere"] if found.elsewhere else []))
