"""The verbs about what versions are made of: compare, list, fetch, verify, add, link.

Where bytes lie is in `artifacts.py`; making versions is in `models.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.registry.artifacts import (
    ArtifactChanged,
    ArtifactStore,
    Content,
    Fetched,
    File,
    Stored,
    Uploaded,
)
from ml_registry_pipelines.registry.cache import Cache
from ml_registry_pipelines.registry.comparison import (
    Difference,
    data_differences,
    difference,
    file_differences,
)
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.links import HOUR, DownloadLink, Links
from ml_registry_pipelines.registry.names import checked_kind
from ml_registry_pipelines.registry.promotion import Promotion
from ml_registry_pipelines.registry.references import version_state
from ml_registry_pipelines.registry.states import MODEL_VERSION, State
from ml_registry_pipelines.registry.versions import CONTENT, Artifact, Version, VersionArtifact, artifacts_of
from ml_registry_pipelines.registry.view import View


class VersionArtifacts(Promotion):
    """What the versions of a tenant are made of."""

    artifacts: ArtifactStore
    links: Links

    def compare_versions(self, first: str, second: str, *, as_of: datetime | None = None) -> Difference:
        """What two versions have different: metrics, parameters, schema, data, files and the rest."""
        view = self.view(as_of)
        one, two = (self._version(view, version_state(view, name)) for name in (first, second))
        fields = difference(one, two)
        return Difference(
            one.reference,
            two.reference,
            {
                **fields.fields,
                **data_differences(view, one, two),
                **file_differences(self.artifacts, one, two),
            },
        )

    def add_artifact(
        self, reference: str, artifact: Artifact, *, idempotency_key: str | None = None
    ) -> Version:
        """Add what can only be made once the version is there: a model card, an evaluation, a lineage graph.

        Nothing of what the version has is replaced or removed; the same content under the same
        kind is there once.
        """
        kind = checked_artifact_kind(artifact.kind)
        self.ask("add_artifact", MODEL_VERSION, {"version": reference, "artifact": {"kind": kind}})
        version_state(self.view(), reference)  # A wrong name should say so before bytes move.
        added = {"kind": kind, **self.stored(artifact.content).recorded()}

        def edit(state: State, _: View) -> dict[str, Any]:
            there = {(a["kind"], a["digest"]) for a in state.data["artifacts"]}
            if (kind, added["digest"]) in there:
                return {}
            return {"artifacts": [*state.data["artifacts"], added]}

        return self.amend_version("add_artifact", reference, {"artifact": added}, edit, idempotency_key)

    def list_artifacts(self, reference: str, *, as_of: datetime | None = None) -> list[VersionArtifact]:
        """All that a version is made of: its content first, then its artifacts of every kind."""
        return artifacts_of(self.get_version(reference, as_of=as_of))

    def artifact_files(
        self, reference: str, *, kind: str | None = None, as_of: datetime | None = None
    ) -> list[File]:
        """The stored files of a version's content, or of its artifacts of a kind."""
        chosen = self._chosen(self.get_version(reference, as_of=as_of), kind)
        return [file for digest in chosen for file in self.artifacts.files(digest)]

    def download(
        self, reference: str, target: Path, *, kind: str | None = None, as_of: datetime | None = None
    ) -> list[Path]:
        """Write the content of a version below `target`, verified; with `kind`, its artifacts of that kind.

        Raises:
            ArtifactChanged: stored bytes are not those that were registered.
            NotFound: the version has no artifact of that kind.
        """
        return [fetched.path for fetched in self.fetch(reference, target, kind=kind, as_of=as_of)]

    def fetch(
        self,
        reference: str,
        target: Path,
        *,
        kind: str | None = None,
        cache: Cache | None = None,
        as_of: datetime | None = None,
        purpose: str | None = None,
    ) -> list[Fetched]:
        """The same, by way of a cache, and telling where each file came from.

        `purpose` goes into the access log.

        Where files of several artifacts would lie on each other, each artifact has a folder of its own,
        named by the beginning of its digest.
        """
        version = self.get_version(reference, as_of=as_of)
        chosen = self._chosen(version, kind)
        with self._noting("download", version, purpose) as fetched, _naming(version):
            apart = self._collide(chosen)
            for digest in chosen:
                inside = digest[:12] if apart else ""
                fetched.extend(self.artifacts.download(digest, target, inside=inside, cache=cache))
        return fetched

    def verify_version(self, reference: str, *, kind: str | None = None) -> None:
        """Read everything that a version is made of and compare the digests; with `kind`, only that.

        Raises:
            ArtifactChanged: names the file behind the version that was changed.
            ArtifactElsewhere: content that cannot be read from here; the rest was verified.
        """
        version = self.get_version(reference)
        chosen = self._chosen(version, kind)
        if kind is None:
            chosen = list(dict.fromkeys([*(a["digest"] for a in version.artifacts), *chosen]))
        with _naming(version):
            for digest in chosen:
                self.artifacts.verify(digest)

    def download_links(
        self,
        reference: str,
        *,
        kind: str | None = None,
        holds: timedelta = HOUR,
        purpose: str | None = None,
    ) -> list[DownloadLink]:
        """Links by which the files of a version can be fetched from its bucket for a while.

        Whoever has one downloads without being seen again: the link itself is noted in the access
        log, with `purpose`.

        Raises:
            ArtifactElsewhere: the store is a folder, or the content is elsewhere.
        """
        version = self.get_version(reference)
        with self._noting("link", version, purpose) as links, _naming(version):
            for digest in self._chosen(version, kind):
                links.extend(self.links.download(digest, holds=holds))
        self.access.flush()
        return links

    @property
    def access(self) -> AccessLog:
        """Where downloads are noted."""
        return AccessLog(self.log.lake)

    @contextmanager
    def _noting(self, action: str, version: Version, purpose: str | None) -> Iterator[list[Any]]:
        """Note what is handed out into the list; also where it breaks off."""
        handed: list[Any] = []
        outcome = Outcome.FAILED
        try:
            yield handed
            outcome = Outcome.ALLOWED
        finally:
            self.access.note(
                self.actor,
                action,
                f"version:{version.id}",
                tenant=self.tenant,
                outcome=outcome,
                purpose=purpose,
                rows=len(handed),
            )

    def stored(self, content: Content) -> Stored:
        """Have content in the store, wherever it comes from."""
        if isinstance(content, Uploaded):
            return self.links.accept(content.ticket)
        return self.artifacts.store(content)

    def _collide(self, digests: Sequence[str]) -> bool:
        """Whether artifacts hold files of one path, or a file where another has a folder."""
        if len(digests) == 1:
            return False
        paths = [path for digest in digests for path in self.artifacts.paths(digest)]
        folders = {str(above) for path in paths for above in PurePosixPath(path).parents}
        return len(set(paths)) < len(paths) or not folders.isdisjoint(paths)

    def _chosen(self, version: Version, kind: str | None) -> list[str]:
        found = [a.digest for a in artifacts_of(version) if a.kind == (kind or CONTENT)]
        if not found:
            raise NotFound(f"{kind} artifact", version.reference, self.tenant)
        return found


@contextmanager
def _naming(version: Version) -> Iterator[None]:
    """Say of which version a file was changed."""
    try:
        yield
    except ArtifactChanged as failure:
        raise ArtifactChanged(f"{version.reference}: {failure}") from failure


def checked_artifact_kind(kind: str) -> str:
    """A kind of artifact, other than the content itself."""
    if checked_kind(kind) == CONTENT:
        raise InvalidInput(f"{CONTENT!r} is what a version itself is made of; give the artifact another kind")
    return kind
