"""From what a training step made to the registry: resolve its datasets, register once, recognise a retrain."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_registry_pipelines.access.stamps import actor_of_run
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import UNAUTHENTICATED, Actor, ActorKind
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.errors import KeyReused, NameTaken, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import Thing, thing_of
from ml_registry_pipelines.registry.versions import Version, VersionFacts, united
from ml_registry_pipelines.training.models import Prepared, TrainedModel, prepared
from ml_registry_pipelines.training.sets import TrainingSet

STEP = Actor("training_step", ActorKind.SERVICE)
"""Who acts where no door has made sure who started the run."""
CREATE = "create_model_version"


class How(Enum):
    """How a step came to its version."""

    NEW = "registered"
    SAME = "recognised: the same content, trained on the same data"
    BEFORE = "registered by an earlier attempt of this step"


@dataclass(frozen=True)
class Recorded:
    """The version that stands for a training step."""

    version: Version
    how: How


class Recorder:
    """The registry for one step of one run.

    Args:
        log: the log of the lake.
        tenant: whose models and datasets.
        run_id: the Dagster run.
        step: what the run calls the step; with the run's id, what it registers is known by it.
        tags: of the run; a stamp of ours among them says who has launched it, and so who is the author.
    """

    def __init__(
        self, log: Log, *, tenant: str, run_id: str, step: str, tags: Mapping[str, str] | None = None
    ) -> None:
        launcher = actor_of_run(log, tags or {}, run_id)
        actor = STEP if launcher.authenticated_by == UNAUTHENTICATED else launcher
        self.registry = ModelRegistry(log, actor=actor, tenant=tenant, run_id=run_id)
        self.tracker = LineageTracker(log, actor=actor, tenant=tenant, run_id=run_id)
        self.key = f"{run_id}/{step}"

    # -- datasets ----------------------------------------------------------------------

    def newest(self, dataset: str) -> TrainingSet:
        """The dataset as it is now.

        Raises:
            NotFound: nobody has tracked it.
        """
        try:
            versions = self.tracker.dataset_versions(dataset)
        except NotFound as missing:
            raise _untracked(dataset, self.tracker.tenant) from missing
        if not versions:
            raise _untracked(dataset, self.tracker.tenant)
        return TrainingSet(dataset, versions[-1], storage_options=self.registry.log.lake.storage_options)

    def sets_of(self, version: Version) -> dict[str, TrainingSet]:
        """What a version was trained and evaluated on, by dataset."""
        view = self.tracker.view()
        options = self.registry.log.lake.storage_options
        found = {}
        for state in view.by_any("things", "id", [*version.trained_on, *version.evaluated_on]):
            dataset = view.by_id("things", str(state.data["parent_id"]))
            if dataset is not None:
                found[dataset.name] = TrainingSet(dataset.name, thing_of(state), storage_options=options)
        return found

    def track(
        self,
        dataset: str,
        source: str | Path | Uri,
        *,
        columns: Sequence[tuple[str, str]] = (),
        description: str = "",
        owners: Sequence[str] = (),
        derived_from: Sequence[TrainingSet] = (),
    ) -> Thing:
        """The version that the dataset has now, a new one only where content or origin is new."""
        return self.tracker.track_dataset(
            dataset,
            source,
            columns=columns,
            description=description,
            owners=owners,
            derived_from=[origin.id for origin in derived_from],
        )

    # -- models --------------------------------------------------------------------------

    def before(self) -> Recorded | None:
        """What an earlier attempt of this very step has registered."""
        events = self.registry.log.done_under(self.registry.tenant, CREATE, self.key)
        if not events:
            return None
        return Recorded(self.registry.get_version(events[0].entity_id), How.BEFORE)

    def record(
        self,
        model: str,
        trained: TrainedModel,
        *,
        trained_on: Sequence[TrainingSet],
        evaluated_on: Sequence[TrainingSet] = (),
        code_commit: str | None = None,
        code_version: str | None = None,
        description: str = "",
        owners: Sequence[str] = (),
    ) -> Recorded:
        """Register the next version of the model, and the model where it is new.

        A living version with the same content, facts and data is returned instead: training
        again has then changed nothing.

        Args:
            description, owners: of the model, where it is new.
        """
        with TemporaryDirectory(prefix="mlreg-training-") as folder:
            made = prepared(trained, Path(folder))
            facts = VersionFacts(
                signature=made.signature,
                metrics=made.metrics,
                parameters=made.parameters,
                framework=made.framework,
                code_commit=code_commit,
                trained_on=united((each.id, each.columns_read) for each in trained_on),
                evaluated_on=[each.id for each in evaluated_on],
                base_model=trained.base_model,
                licence=trained.licence,
            )
            facts.recorded()
            self._ensure(model, description, owners)
            if (same := self._same(model, made, facts)) is not None:
                return Recorded(same, How.SAME)
            tags = {} if code_version is None else {"code_version": code_version}
            try:
                version = self.registry.create_model_version(
                    model,
                    made.content,
                    facts,
                    description=trained.description,
                    tags={**tags, **made.tags},
                    artifacts=made.artifacts,
                    idempotency_key=self.key,
                )
            except KeyReused:
                # Another attempt of this step ran beside this one, and came to another model.
                if (first := self.before()) is None:
                    raise
                return first
        return Recorded(version, How.NEW)

    def _ensure(self, model: str, description: str, owners: Sequence[str]) -> None:
        try:
            self.registry.get_model(model)
        except NotFound:
            with suppress(NameTaken):  # by another run, just now
                self.registry.register_model(model, description=description, owners=owners)

    def _same(self, model: str, made: Prepared, facts: VersionFacts) -> Version | None:
        """The newest living version that this one would repeat."""
        recorded = {**facts.recorded(), "code_commit": None}
        alike = [
            version
            for version in self.registry.list_versions(model)
            if set(version.trained_on) == set(facts.training())
            and set(version.evaluated_on) == set(facts.evaluated_on)
            # Another commit of the same code makes no other model.
            and canonical({name: getattr(version, name) for name in recorded} | {"code_commit": None})
            == canonical(recorded)
        ]
        if not alike:
            return None
        stored = self.registry.artifacts.store(made.content)
        return next((v for v in reversed(alike) if v.content_digest == stored.digest), None)


def _untracked(dataset: str, tenant: str) -> NotFound:
    return NotFound(
        "dataset",
        dataset,
        tenant,
        hint="; materialize the asset that writes it, or `mlreg datasets track` it",
    )


def code_commit(source: Path | None) -> str | None:
    """The commit that the code is from: `MLREG_CODE_COMMIT`, or what Git says of the file's folder.

    A commit with changes beside it ends with `-dirty`; where there is no Git, nothing is known.
    """
    if given := os.environ.get("MLREG_CODE_COMMIT", "").strip():
        return given
    if source is None:
        return None
    commit = _git(source.parent, "rev-parse", "HEAD")
    # A file that is not in the repository around it says nothing about where it comes from.
    if commit is None or _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return f"{commit}-dirty" if _git(source.parent, "status", "--porcelain", "-uno") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
