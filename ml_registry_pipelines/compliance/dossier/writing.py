"""Documents of a version as files: into a folder, below the root as reports, or as artifacts of the version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.dossier.documents import KINDS
from ml_registry_pipelines.compliance.dossier.pages import html, markdown
from ml_registry_pipelines.lineage.keys import slug
from ml_registry_pipelines.registry.errors import Deleted
from ml_registry_pipelines.registry.needs import LIVE_STAGES
from ml_registry_pipelines.registry.versions import Artifact

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.dossier.dossier import Dossier
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry
    from ml_registry_pipelines.reports.writing import Written

SUFFIXES = (".html", ".md")


@dataclass(frozen=True)
class Text:
    """One document as a file's content."""

    kind: str
    name: str
    content: str


def texts(dossier: Dossier, kinds: Sequence[str] = tuple(KINDS)) -> list[Text]:
    """Each document as HTML and as Markdown."""
    found = []
    for kind in kinds:
        made = dossier.document(kind)
        found.append(Text(kind, f"{kind}.html", html(made, dossier.at)))
        found.append(Text(kind, f"{kind}.md", markdown(made, dossier.at)))
    return found


def write_folder(dossier: Dossier, folder: Path, kinds: Sequence[str] = tuple(KINDS)) -> list[Path]:
    """Write the documents into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for text in texts(dossier, kinds):
        path = folder / text.name
        path.write_text(text.content, encoding="utf-8")
        written.append(path)
    return written


def write_reports(dossier: Dossier, kinds: Sequence[str] = tuple(KINDS)) -> list[Written]:
    """Keep the documents below `<root>/reports/dossiers`, each with a row of the table `reports`."""
    from ml_registry_pipelines.lake.files import open_folder
    from ml_registry_pipelines.reports.writing import FOLDER, write_report

    known = dossier.known
    lake = known.desk.log.lake
    place = f"{slug(known.desk.tenant)}/{slug(known.model.name)}/v{known.version.number}"
    written = []
    for kind in kinds:
        made = dossier.document(kind)
        written.append(
            write_report(
                lake,
                "dossiers",
                partition=f"{place}/{kind}",
                page=html(made, dossier.at),
                sequence=known.view.at or known.desk.log.head(known.desk.tenant)[0],
                costs_version=None,
                attribution_version=None,
                draw=lambda: None,
            )
        )
        open_folder(lake.root).write(
            f"{FOLDER}/dossiers/{place}/{kind}.md", markdown(made, dossier.at).encode()
        )
    return written


def attach(registry: ModelRegistry, dossier: Dossier, kinds: Sequence[str]) -> list[str]:
    """Add documents to the artifacts of their version, as they are now; give their digests."""
    added = []
    with TemporaryDirectory(prefix="mlreg-dossier-") as folder:
        for kind in kinds:
            inside = Path(folder) / kind
            write_folder(dossier, inside, [kind])
            registry.add_artifact(dossier.known.version.id, Artifact(kind, inside))
            added.append(hashlib.sha256((inside / f"{kind}.html").read_bytes()).hexdigest())
    return added


def write_live(
    log: Log, actor: Actor, *, run_id: str | None = None
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Keep the documents of every version in production, staging or shadow, of all tenants.

    Returns:
        Tenant, version and the fields that it lacks.
    """
    from ml_registry_pipelines.compliance.dossier.dossier import Dossiers

    rows = (
        log.view("default")
        .of_all_tenants(
            "dossiers.live",
            "model_versions",
            """
        SELECT tenant, id FROM current
        WHERE NOT deleted AND stage IN (SELECT unnest($stages))
        ORDER BY tenant, id
        """,
            {"stages": list(LIVE_STAGES)},
        )
        .to_pylist()
    )
    made = []
    for row in rows:
        try:
            found = Dossiers(log, actor=actor, tenant=row["tenant"], run_id=run_id).dossier(row["id"])
        except Deleted:  # Its model is.
            continue
        write_reports(found)
        made.append((row["tenant"], found.reference, found.missing))
    return made
