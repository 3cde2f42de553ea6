"""`ModelRegistry`: models and their immutable versions.

Models are things, so that most verbs here are those of `things.py` under a shorter name.
Stages, aliases and promotion are in `promotion.py`, what versions are made of in `version_artifacts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import ArtifactStore, Content
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import state_of
from ml_registry_pipelines.registry.errors import (
    IllegalTransition,
    InvalidInput,
    ModelIsDeprecated,
    StillNeeded,
)
from ml_registry_pipelines.registry.events import Event, new_id
from ml_registry_pipelines.registry.links import Links
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import TagValue, checked_text, tag_names, typed_tags
from ml_registry_pipelines.registry.needs import needed_by
from ml_registry_pipelines.registry.references import dataset_state, living, version_state, versions_of
from ml_registry_pipelines.registry.relationships import edge
from ml_registry_pipelines.registry.states import DATASET_VERSION, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.things import NewThing, Thing, Things, thing_of
from ml_registry_pipelines.registry.version_artifacts import VersionArtifacts, checked_artifact_kind
from ml_registry_pipelines.registry.versions import (
    Artifact,
    Stage,
    Version,
    VersionFacts,
    stage_of,
    united,
    version_of,
)
from ml_registry_pipelines.registry.view import View

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class ModelRegistry(VersionArtifacts):
    """The models of one tenant, for one actor.

    Every command is one atomic commit, visible to the next read of any process. All raise
    `NotAllowed` when the policy refuses, and `KeyReused` when an idempotency key comes again
    with something else.

    Args:
        log: the log of the lake, one per process.
        actor: who acts, as the door has stamped it.
        tenant: the organisation.
        run_id: the Dagster run that the commands come from.
        s3: reaches the bucket of the artifacts; by default a client made from the lake's settings.
        warn: told, as a sentence each, of models that one that is registered may be the same as; by default
            they become Python's `NearDuplicateWarning`.

    Example:
        >>> registry = ModelRegistry(Log(Lake("lake")), actor=Actor("p1"))  # doctest: +SKIP
        >>> registry.register_model("fraud")  # doctest: +SKIP
    """

    def __init__(
        self,
        log: Log,
        *,
        actor: Actor,
        tenant: str = "default",
        run_id: str | None = None,
        s3: S3Client | None = None,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(log, actor=actor, tenant=tenant, run_id=run_id)
        self.things = Things(log, actor=actor, tenant=tenant, run_id=run_id)
        self.artifacts = ArtifactStore(log.lake, client=s3)
        self.links = Links(self.artifacts, tenant)
        self.warn = warn

    # -- models ------------------------------------------------------------------------

    def register_model(
        self,
        name: str,
        *,
        description: str = "",
        tags: Mapping[str, TagValue] | None = None,
        owners: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Register a model, still without a version; warn of those that it may be the same as.

        Raises:
            NameTaken: a living model has the name.
            InvalidInput: a name, tag or owner cannot be recorded.
        """
        made = self.things.register(
            MODEL,
            name,
            description=description,
            tags=tags,
            owners=owners,
            metadata=metadata,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        from ml_registry_pipelines.search.registering import like_model, warn_in_python

        known = like_model(
            self.log,
            made.name,
            actor=self.actor,
            tenant=self.tenant,
            description=description,
            tags=tags,
            patient=self.warn is not None,
        )
        for sentence in known:
            (self.warn or warn_in_python)(sentence)
        return made

    def register_many(self, models: Iterable[NewThing], *, idempotency_key: str | None = None) -> int:
        """Register many models in one atomic command; return how many."""
        return self.things.register_many(MODEL, models, idempotency_key=idempotency_key)

    def get_model(
        self, name: str, *, as_of: datetime | None = None, valid_at: datetime | None = None
    ) -> Thing:
        """The living model with that name or id."""
        return self.things.get(MODEL, name, as_of=as_of, valid_at=valid_at)

    def list_models(
        self, *, after: str | None = None, limit: int | None = None, as_of: datetime | None = None
    ) -> list[Thing]:
        """Living models by name; `after` is the cursor of the last one of the page before."""
        return self.things.find(MODEL, after=after, limit=limit, as_of=as_of)

    def search_models(
        self,
        query: str = "",
        *,
        text: str | None = None,
        tags: Mapping[str, TagValue] | None = None,
        owner: str | None = None,
        status: str | None = None,
        stage: Stage | str | None = None,
        alias: str | None = None,
        framework: str | None = None,
        min_metrics: Mapping[str, float] | None = None,
        order_by: str | Sequence[str] = (),
        include_deprecated: bool = False,
        after: str | None = None,
        limit: int | None = None,
        as_of: datetime | None = None,
    ) -> list[Thing]:
        """Models that meet all conditions, by name, with their aliases.

        `ModelSearch` gives pages, relevance and versions beside.

        Args:
            query: in the query language, such as `tags.team = 'fraud' AND metrics.auc > 0.9`.
            text: occurs in name or description, in any case.
            tags: all of them are set, type and value alike.
            status: active or deprecated.
            stage, framework, min_metrics: one and the same living version has them all.
            alias: the model has that alias.
            order_by: keys such as `metrics.auc DESC`, in the place of the name.
            include_deprecated: also deprecated models, which are left out unless `status` or the query
                asks for them.
            after: the `cursor` of the last model of the page before; for the order by name.

        Raises:
            QueryError: the query or the order cannot be read; it points at the character.
        """
        from ml_registry_pipelines.search.keywords import conditions
        from ml_registry_pipelines.search.models import ModelSearch

        asked = conditions(
            query,
            text=text,
            tags=tags or {},
            owner=owner,
            status=status,
            stage=None if stage is None else stage_of(stage).value,
            alias=alias,
            framework=framework,
            min_metrics=min_metrics or {},
        )
        search = ModelSearch(self.log, actor=self.actor, tenant=self.tenant)
        found, sequence = search.listed(
            asked,
            order_by=order_by,
            after=after,
            limit=limit,
            include_deprecated=include_deprecated,
            as_of=as_of,
        )
        view = replace(self.now(), at=sequence)
        states = {state.id: state for state in view.by_any("things", "id", sorted(found))}
        return [thing_of(states[identity]) for identity in found]

    def is_version(self, given: str) -> bool:
        """Whether what a person wrote means a version: it has an `@` and is no model's name."""
        return "@" in given and not any(
            s.entity_type == MODEL for s in self.view().by_column("things", "name", given)
        )

    def rename_model(
        self, name: str, to: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Give a model another name."""
        return self.things.rename(MODEL, name, to, idempotency_key=idempotency_key, valid_from=valid_from)

    def describe_model(
        self, name: str, text: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Replace the description of a model."""
        return self.things.describe(MODEL, name, text, idempotency_key=idempotency_key, valid_from=valid_from)

    def tag_model(
        self,
        name: str,
        tags: Mapping[str, TagValue] | None = None,
        *,
        remove: Iterable[str] = (),
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Set some tags of a model and remove others."""
        return self.things.tag(
            MODEL, name, tags, remove=remove, idempotency_key=idempotency_key, valid_from=valid_from
        )

    def set_model_owners(
        self,
        name: str,
        owners: Iterable[str],
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Replace the owners of a model."""
        return self.things.set_owners(
            MODEL, name, owners, idempotency_key=idempotency_key, valid_from=valid_from
        )

    def deprecate_model(
        self,
        name: str,
        *,
        reason: str,
        replacement: str | None = None,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Mark a model as deprecated: no new versions, no promotion; what runs, runs on.

        Raises:
            IllegalTransition: it is deprecated already, or would replace itself.
        """

        return self.things.deprecate(
            MODEL,
            name,
            reason=reason,
            replacement=replacement,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )

    def reinstate_model(
        self, name: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Take back a deprecation."""

        return self.things.reinstate(MODEL, name, idempotency_key=idempotency_key, valid_from=valid_from)

    def delete_model(
        self, name: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Delete a model with its versions, so that it can be restored.

        Raises:
            StillNeeded: a version is in production or deployed, or a live version was made from one.
        """
        return self.things.delete(MODEL, name, idempotency_key=idempotency_key, valid_from=valid_from)

    def restore_model(
        self, name: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Thing:
        """Take back the deletion of a model."""
        return self.things.restore(MODEL, name, idempotency_key=idempotency_key, valid_from=valid_from)

    def history(self, name: str, *, as_of: datetime | None = None) -> list[Event]:
        """Every event about a model and its versions, oldest first."""
        view = self.view(as_of)
        sequences = {e.sequence for e in self.things.history(MODEL, name, as_of=as_of)}
        for model in [s for s in view.by_column("things", "name", name) if s.entity_type == MODEL] or [
            living(view, MODEL, name)
        ]:
            for version in versions_of(view, model.id, deleted=True):
                sequences |= {s.sequence for s in view.history("model_versions", version.id)}
        return self.log.events(self.tenant, sorted(sequences))

    # -- versions ------------------------------------------------------------------------

    def create_model_version(
        self,
        model: str,
        content: Content,
        facts: VersionFacts | None = None,
        *,
        description: str = "",
        tags: Mapping[str, TagValue] | None = None,
        artifacts: Sequence[Artifact] = (),
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Store the content and record the next version of a model; both never change. Warns where another
        model has the same content.

        Bytes are stored before the command: if that fails, they are in nobody's way, and
        storing them again costs nothing.

        Raises:
            NotFound: there is no such model, dataset version or base version.
            Deleted: the model is deleted.
            ModelIsDeprecated: it is deprecated.
            ArtifactRefused: a file or folder cannot be stored.
        """
        facts = facts or VersionFacts()
        recorded = facts.recorded()
        with_tags = typed_tags(tags or {})
        checked_text(description, "description")
        self.ask("create_model_version", MODEL_VERSION, {"model": model, **recorded})
        if not self.given_before("create_model_version", idempotency_key):
            living(self.now(), MODEL, model)  # A wrong name should say so before bytes move.
        kinds = [checked_artifact_kind(a.kind) for a in artifacts]
        stored = self.stored(content)
        others = [
            {"kind": kind, **self.stored(a.content).recorded()}
            for kind, a in zip(kinds, artifacts, strict=True)
        ]

        def decide(view: View) -> list[Change]:
            owner = living(view, MODEL, model)
            if owner.data["status"] == "deprecated":
                raise ModelIsDeprecated(owner.name)
            known = versions_of(view, owner.id, deleted=True)
            version_id = new_id()
            drawn, lineage = _lineage(view, (MODEL_VERSION, version_id), facts)
            state = {
                "model_id": owner.id,
                "version": 1 + max((int(s.data["version"]) for s in known), default=0),
                "stage": Stage.REGISTERED.value,
                "deleted": False,
                "description": description,
                "tags": with_tags,
                "content": stored.recorded(),
                "content_digest": stored.digest,
                "size": stored.size,
                "artifacts": others,
                **recorded,
                **lineage,
            }
            return [Change(MODEL_VERSION, version_id, state), *drawn]

        change = {
            "model": model,
            "content": stored.recorded(),
            "artifacts": others,
            "description": description,
            "tags": with_tags,
            **recorded,
            **facts.asked(),
        }
        done = self.do(
            "create_model_version",
            MODEL_VERSION,
            change,
            decide,
            idempotency_key=idempotency_key,
            valid_from=valid_from,
        )
        made = self._version(self.now(), state_of(done))
        from ml_registry_pipelines.search.registering import like_version, warn_in_python

        for sentence in like_version(
            self.log,
            made.reference,
            made.model_id,
            made.content_digest,
            actor=self.actor,
            tenant=self.tenant,
        ):
            (self.warn or warn_in_python)(sentence)
        return made

    def list_versions(
        self, model: str, *, deleted: bool = False, as_of: datetime | None = None
    ) -> list[Version]:
        """The versions of a model by number."""
        view = self.view(as_of, about=(MODEL, model))
        owner = living(view, MODEL, model)
        return [version_of(s, owner.name) for s in versions_of(view, owner.id, deleted=deleted)]

    def describe_version(
        self,
        reference: str,
        text: str,
        *,
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Replace the description of a version; its content stays."""
        change = {"description": checked_text(text, "description")}
        return self.amend_version(
            "describe_version",
            reference,
            change,
            lambda _, __: change,
            idempotency_key,
            valid_from=valid_from,
        )

    def tag_version(
        self,
        reference: str,
        tags: Mapping[str, TagValue] | None = None,
        *,
        remove: Iterable[str] = (),
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Version:
        """Set some tags of a version and remove others."""
        added, removed = typed_tags(tags or {}), tag_names(remove)

        def edit(state: State, _: View) -> dict[str, Any]:
            return {"tags": {**{k: v for k, v in state.data["tags"].items() if k not in removed}, **added}}

        change = {"tags": added, "remove": removed}
        return self.amend_version(
            "tag_version", reference, change, edit, idempotency_key, valid_from=valid_from
        )

    def delete_version(
        self, reference: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Version:
        """Delete a version so that it can be restored. Its number is never used again.

        Raises:
            StillNeeded: it is in production, staging or shadow, deployed, has an alias, or a live version
                was made from it.
        """

        def edit(state: State, view: View) -> dict[str, Any]:
            if needed := needed_by(view, state):
                raise StillNeeded(f"{reference} cannot be deleted: {needed}")
            return {"deleted": True}

        return self.amend_version(
            "delete_version", reference, {}, edit, idempotency_key, valid_from=valid_from
        )

    def restore_version(
        self, reference: str, *, idempotency_key: str | None = None, valid_from: datetime | None = None
    ) -> Version:
        """Take back the deletion of a version."""

        def edit(state: State, _: View) -> dict[str, Any]:
            if not state.deleted:
                raise IllegalTransition(f"{reference} is not deleted")
            return {"deleted": False}

        return self.amend_version(
            "restore_version", reference, {}, edit, idempotency_key, deleted=True, valid_from=valid_from
        )


def _lineage(
    view: View, version: tuple[str, str], facts: VersionFacts
) -> tuple[list[Change], dict[str, Any]]:
    """The edges of a new version, and its lineage by id."""
    learned = [(dataset_state(view, name), columns) for name, columns in facts.training().items()]
    for dataset, columns in learned:
        _check_columns(dataset, columns)
    trained = united((dataset.id, columns) for dataset, columns in learned)
    evaluated = list(dict.fromkeys(dataset_state(view, name).id for name in facts.evaluated_on))
    base = None if facts.base_model is None else version_state(view, facts.base_model)
    drawn = []
    for identity, columns in trained.items():
        properties = {} if columns is None else {"columns": sorted(columns)}
        drawn.append(edge("trained_on", version, (DATASET_VERSION, identity), properties=properties))
    drawn += [edge("evaluated_on", version, (DATASET_VERSION, identity)) for identity in evaluated]
    if base is not None:
        drawn.append(edge("derived_from", version, (MODEL_VERSION, base.id)))
    return drawn, {
        "trained_on": list(trained),
        "evaluated_on": evaluated,
        "base_version": base.id if base else None,
    }


def _check_columns(dataset: State, columns: Sequence[str] | None) -> None:
    known = {column["name"] for column in dataset.data["metadata"].get("columns", ())}
    unknown = set(columns or ()) - known
    if known and unknown:
        raise InvalidInput(f"{dataset.name} has no column {', '.join(map(repr, sorted(unknown)))}")
