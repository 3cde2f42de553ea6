"""`Eraser`: one person goes, from everywhere, and leaves a certificate.

The order is what makes it safe to kill and to run beside ingestion. First the person is on the
suppression list; then every batch under way loses its number, so whatever is committed later asked
the list. Then go raw files, which tell what belongs together; then tables, requests last; then other
files; then keys. Each step finds nothing to do where it was done, so an erasure that broke off is
simply given again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.access_log import AccessLog
from ml_registry_pipelines.compliance.erasure import tables
from ml_registry_pipelines.compliance.erasure.certificates import Certificate, keep
from ml_registry_pipelines.compliance.erasure.homes import SEARCH_INDEX, Busy, clean, place_of, remove_index
from ml_registry_pipelines.compliance.erasure.landing import NotRewritten, Theirs, mentions, rewrite
from ml_registry_pipelines.compliance.erasure.planning import Plan, group_of, plan, roots_of
from ml_registry_pipelines.compliance.erasure.proof import Proof, prove
from ml_registry_pipelines.compliance.erasure.requests import Action, ErasureRequests
from ml_registry_pipelines.compliance.erasure.searching import Hit, Root, search
from ml_registry_pipelines.compliance.erasure.subjects import Subject
from ml_registry_pipelines.compliance.erasure.vectors import VectorsUnreadable, dataset_of, forget
from ml_registry_pipelines.compliance.erasure.words import names_in
from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lake.tables.erasure import SUPPRESSION_LIST
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.shredding import SubjectKeys
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.suppression import TABLE as SUPPRESSED
from ml_registry_pipelines.telemetry.suppression import Suppression, entries_of, suppression_key

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.telemetry.sources import Sources

SOURCE = "erasure"
VECTORS = "place:vectors"
CLEANED = frozenset({"Dagster", "cache", "report", "search index", "written aside"})


@dataclass(frozen=True)
class Eraser:
    """Erasures in one tenant, by one actor.

    Args:
        dagster_home: None where Dagster keeps nothing on this machine.
        purpose: as the register of purposes names it; kept in the access log.
    """

    log: Log
    actor: Actor
    tenant: str
    sources: Sources
    dagster_home: Path | None = None
    run_id: str | None = None
    purpose: str | None = None

    @property
    def requests(self) -> ErasureRequests:
        return ErasureRequests(self.log, actor=self.actor, tenant=self.tenant, run_id=self.run_id)

    def subject(self, identifiers: Sequence[str]) -> Subject:
        """The person with these identifiers."""
        lake = self.log.lake
        words = () if all("@" in one for one in identifiers) else names_in(lake)
        return Subject.of(lake.root, self.tenant, identifiers, words=words)

    def plan(
        self, subject: Subject, *, datasets: Sequence[str] = (), justified: Mapping[str, str] | None = None
    ) -> Plan:
        """Everything that may hold the person or derive from them; changes nothing.

        Raises:
            NotAllowed: the policy refuses: who is known here is nobody else's business.
        """
        self.requests.ask("plan_erasure", "erasure_request", {"subject": subject.pseudonym})
        tracker = LineageTracker(self.log, actor=self.actor, tenant=self.tenant)
        found = plan(
            self.log.lake,
            tracker,
            self.sources,
            subject,
            dagster_home=self.dagster_home,
            datasets=datasets,
            justified=justified,
        )
        tables_read = sorted(i.id.removeprefix("table:") for i in found.items if i.id.startswith("table:"))
        self.note(
            "read", ", ".join(tables_read) or "erasure_request", rows=sum(i.amount for i in found.items)
        )
        return found

    def note(self, action: str, subject: str, *, rows: int) -> None:
        """Note in the access log that the person was looked up, handed out or erased.

        Raises:
            LakeError: it could not be written, so nothing is to be handed out.
        """
        access = AccessLog(self.log.lake)
        access.note(self.actor, action, subject, tenant=self.tenant, purpose=self.purpose, rows=rows)
        access.flush()

    def erase(
        self,
        subject: Subject,
        *,
        received_at: datetime | None = None,
        datasets: Sequence[str] = (),
        justified: Mapping[str, str] | None = None,
    ) -> Certificate:
        """Carry out the plan and prove it. Given again, it goes on where it stopped.

        Raises:
            NotAllowed: the policy refuses.
            LostRace: other writers kept changing a table; give it again.
            InvalidInput: what is justified is no item of the plan.
        """
        lake = self.log.lake
        self.requests.ask("request_erasure", "erasure_request", {"subject": subject.pseudonym})
        planned = self.plan(subject, datasets=datasets, justified=justified)
        before = self.requests.open_of(subject)
        resuming = before is not None and bool(before.items)
        request = self.requests.request(subject, received_at=received_at)
        self.requests.confirm(request.id, planned.items)
        started = datetime.now(UTC)
        ingestion = Ingestion(lake, self.sources)
        known = tables.linked(lake, subject)
        self._suppress(subject, known.sessions, request.id)
        ingestion.fence()
        # What landed in between is known by now, and nothing lands any more.
        known = tables.linked(lake, subject)
        self._suppress(subject, known.sessions, request.id)
        left = self._raw_files(ingestion, subject, known, planned)
        stays = {item.id for item in planned.items if item.action is Action.JUSTIFY}
        rows = tables.erase(lake, subject, known, request.id, resuming=resuming, stays=stays)
        left += self._other_files(subject, planned)
        keys = SubjectKeys(lake).destroy(self.tenant, subject.identifiers)
        proof = self.prove(subject, stays)
        certificate = Certificate.of(
            request, planned, rows, keys, tuple(left), proof, by=self.actor.id, at=started
        )
        keep(lake, certificate)
        self.requests.certify(request.id, certificate.content(), certificate.digest)
        self.note("request_erasure", request.id, rows=sum(rows.values()))
        return certificate

    def prove(self, subject: Subject, stays: set[str] | frozenset[str] = frozenset()) -> Proof:
        """Search every file for the person, after planted needles were found."""
        roots = roots_of(self.log.lake, self.dagster_home, self.sources)
        return prove(roots, subject, stays=lambda hit: _item_of(hit) in stays)

    def _suppress(self, subject: Subject, sessions: Sequence[str], erasure_id: str) -> None:
        """Put the person on the list, and the conversations that are theirs alone."""
        import pyarrow as pa

        lake = self.log.lake
        listed = Suppression(lake)
        wanted = [one for one in {*subject.hashes, *sessions} if not listed.holds(self.tenant, one)]
        if not wanted:
            return
        rows = [
            {
                "tenant": self.tenant,
                "entry": entry,
                "erasure_id": erasure_id,
                "recorded_at": datetime.now(UTC),
            }
            for entry in entries_of(suppression_key(lake.root), self.tenant, wanted)
        ]
        lake.append_next(
            SUPPRESSED, pa.Table.from_pylist(rows, schema=SUPPRESSION_LIST.schema), source=SOURCE
        )

    def _raw_files(
        self, ingestion: Ingestion, subject: Subject, known: tables.Linked, planned: Plan
    ) -> list[str]:
        """Rewrite raw files; a sentence for each that could not be."""
        stays = {item.id for item in planned.items if item.action is Action.JUSTIFY}
        theirs = Theirs({*subject.hashes, *known.sessions}, known.traces)
        found, problems = mentions(list(self.sources), subject.needles, known.files)
        for mention in found:
            if f"file:{mention.source}/{mention.path}" in stays:
                continue
            try:
                rewrite(
                    ingestion,
                    self.sources.get(mention.source),
                    mention.path,
                    self.tenant,
                    theirs,
                    subject.needles,
                )
            except (NotRewritten, FilesError) as failure:
                problems.append(_without_names(str(failure), subject))
        return problems

    def _other_files(self, subject: Subject, planned: Plan) -> list[str]:
        """Clean or remove what is no table; a sentence for each that could not be."""
        problems: list[str] = []
        roots = {root.name: root for root in roots_of(self.log.lake, self.dagster_home)}
        stays = {item.id for item in planned.items if item.action is Action.JUSTIFY}
        found = search(roots.values(), subject.needles)
        problems += self._vectors(subject, roots["storage"], found.hits, stays)
        for hit in found.hits:
            group = group_of(hit)
            name = group.split(":", 1)[1]
            place = place_of(hit.path) if hit.root == "storage" else None
            if group in stays or name not in CLEANED:
                continue
            folder = roots[hit.root].folder
            try:
                if SEARCH_INDEX in hit.path:
                    remove_index(folder, hit.path)
                elif place is not None and place.removed:
                    # Written aside by a batch that began after the list was asked: it has nobody in it.
                    folder.delete(hit.path)
                elif hit.root == "cache":
                    folder.delete(hit.path)
                else:
                    clean(folder, hit.path, subject.needles)
            except (Busy, FilesError, OSError) as failure:
                problems.append(_without_names(str(failure), subject))
        return list(dict.fromkeys(problems))

    def _vectors(
        self, subject: Subject, storage: Root, hits: Sequence[Hit], stays: Collection[str]
    ) -> Iterator[str]:
        """Take the person out of Lance datasets; a sentence for each that could not be changed."""
        datasets = {
            dataset_of(f"{h.path}/_") for h in hits if group_of(h) == VECTORS and h.root == storage.name
        }
        for dataset in sorted(filter(None, datasets)) if VECTORS not in stays else ():
            try:
                forget(storage.folder, dataset, subject.needles)
            except VectorsUnreadable as failure:
                yield _without_names(str(failure), subject)


def _item_of(hit: Hit) -> str:
    """The item of a plan that a file belongs to."""
    if hit.root == "storage" and hit.path.startswith("tables/"):
        return f"table:{hit.path.split('/')[1]}"
    if hit.root == "storage" and hit.path.startswith("landing/"):
        return f"file:landing/{hit.path.removeprefix('landing/')}"
    if hit.root.startswith("source "):
        return f"file:{hit.root.removeprefix('source ')}/{hit.path}"
    return group_of(hit)


def _without_names(text: str, subject: Subject) -> str:
    return subject.needles.blanked(text)
