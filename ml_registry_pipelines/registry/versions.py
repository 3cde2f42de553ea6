"""Model versions: what one is, what is recorded of it, and the stages that it goes through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from ml_registry_pipelines.registry.artifacts import Content
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, shown
from ml_registry_pipelines.registry.names import TagValue, tag_values
from ml_registry_pipelines.registry.states import State


class Stage(Enum):
    REGISTERED = "registered"
    STAGING = "staging"
    SHADOW = "shadow"
    PRODUCTION = "production"
    ARCHIVED = "archived"


def stage_of(given: Stage | str) -> Stage:
    """A stage, or its name.

    Raises:
        InvalidInput: there is no such stage.
    """
    try:
        return Stage(given)
    except ValueError:
        known = ", ".join(stage.value for stage in Stage)
        raise InvalidInput(f"{shown(str(given))} is no stage; there are {known}") from None


LEADS_TO: Mapping[Stage, frozenset[Stage]] = {
    Stage.REGISTERED: frozenset({Stage.STAGING, Stage.SHADOW, Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.STAGING: frozenset({Stage.REGISTERED, Stage.SHADOW, Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.SHADOW: frozenset({Stage.REGISTERED, Stage.STAGING, Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.PRODUCTION: frozenset({Stage.STAGING, Stage.SHADOW, Stage.ARCHIVED}),
    Stage.ARCHIVED: frozenset({Stage.REGISTERED, Stage.STAGING}),
}
"""Steps between stages; back from the archive into production leads only `rollback`."""


@dataclass(frozen=True)
class Artifact:
    """Another artifact of a version: a checkpoint, an evaluation result, a model card ..."""

    kind: str
    content: Content


def united(
    uses: Iterable[tuple[str, Sequence[str] | None]],
) -> dict[str, Sequence[str] | None]:
    """Which columns of which dataset version were used, None for all, where one may be named more than once."""
    found: dict[str, Sequence[str] | None] = {}
    for name, columns in uses:
        before = found.setdefault(name, columns)
        found[name] = None if before is None or columns is None else list(dict.fromkeys([*before, *columns]))
    return found


@dataclass(frozen=True)
class VersionFacts:
    """What is recorded of a version beside its content, and never changes.

    Args:
        signature: input and output schema, as JSON.
        metrics: finite numbers by name.
        parameters: hyperparameters, as JSON.
        trained_on: dataset versions, `credit@v2` or ids; a mapping says which columns were used,
            None for all.
        evaluated_on: dataset versions.
        base_model: the version that it was made from.
        licence: licence id, such as Apache-2.0.
    """

    signature: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    framework: str | None = None
    code_commit: str | None = None
    trained_on: Sequence[str] | Mapping[str, Sequence[str] | None] = ()
    evaluated_on: Sequence[str] = ()
    base_model: str | None = None
    licence: str | None = None

    def recorded(self) -> dict[str, Any]:
        """The facts as they stand in the log, without the lineage, which is resolved there."""
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"metric {name!r} is a {type(value).__name__}; a metric is a number")
        return {
            "signature": None if self.signature is None else dict(self.signature),
            "metrics": dict(self.metrics),
            "parameters": dict(self.parameters),
            "framework": self.framework,
            "code_commit": self.code_commit,
            "licence": self.licence,
        }

    def asked(self) -> dict[str, Any]:
        """The lineage as it was asked for."""
        return {
            "trained_on": {name: columns and sorted(columns) for name, columns in self.training().items()},
            "evaluated_on": list(self.evaluated_on),
            "base_model": self.base_model,
        }

    def training(self) -> dict[str, Sequence[str] | None]:
        """Dataset versions with the columns that were used, None for all, which an empty list means too."""
        if isinstance(self.trained_on, Mapping):
            return {n: list(columns) if columns else None for n, columns in self.trained_on.items()}
        return dict.fromkeys(self.trained_on)


@dataclass(frozen=True)
class Version:
    """A model version as it is in one state. Content and facts are the same in all of them."""

    id: str
    model: str
    model_id: str
    number: int
    stage: Stage
    description: str
    tags: Mapping[str, TagValue]
    content: Mapping[str, Any]
    content_digest: str
    size: int | None
    artifacts: tuple[Mapping[str, Any], ...]
    signature: Mapping[str, Any] | None
    metrics: Mapping[str, float]
    parameters: Mapping[str, Any]
    framework: str | None
    code_commit: str | None
    licence: str | None
    trained_on: tuple[str, ...]
    evaluated_on: tuple[str, ...]
    base_version: str | None
    deleted: bool
    sequence: int
    recorded_at: datetime
    valid_from: datetime
    actor: str

    @property
    def reference(self) -> str:
        return f"{self.model}@v{self.number}"


def version_of(state: State, model: str) -> Version:
    """The state of a version as a value."""
    data = state.data
    return Version(
        id=state.id,
        model=model,
        model_id=data["model_id"],
        number=data["version"],
        stage=Stage(data["stage"]),
        description=data["description"],
        tags=tag_values(data["tags"]),
        content=data["content"],
        content_digest=data["content_digest"],
        size=data["size"],
        artifacts=tuple(data["artifacts"]),
        signature=data["signature"],
        metrics=data["metrics"],
        parameters=data["parameters"],
        framework=data["framework"],
        code_commit=data["code_commit"],
        licence=data["licence"],
        trained_on=tuple(data["trained_on"]),
        evaluated_on=tuple(data["evaluated_on"]),
        base_version=data["base_version"],
        deleted=state.deleted,
        sequence=state.sequence,
        recorded_at=state.recorded_at,
        valid_from=state.valid_from,
        actor=state.actor,
    )


def check_step(reference: str, now: Stage, to: Stage) -> None:
    """Raises `IllegalTransition` when no step leads from one stage to the other."""
    if to not in LEADS_TO[now]:
        allowed = ", ".join(sorted(stage.value for stage in LEADS_TO[now]))
        already = "is already" if now is to else "cannot go"
        rest = (
            f"in {to.value}"
            if now is to
            else f"from {now.value} to {to.value}; from there it can go to {allowed}"
        )
        raise IllegalTransition(f"{reference} {already} {rest}")


CONTENT = "content"
"""The kind under which what a version itself is made of is listed beside its artifacts."""


@dataclass(frozen=True)
class VersionArtifact:
    """One artifact of a version. `form` is file, folder, uri or hosted."""

    kind: str
    name: str
    form: str
    digest: str
    size: int | None
    files: int


def artifacts_of(version: Version) -> list[VersionArtifact]:
    """All that a version is made of, its content first."""
    listed = [{"kind": CONTENT, **version.content}, *version.artifacts]
    return [
        VersionArtifact(a["kind"], a["name"], a["form"], a["digest"], a["size"], a["files"]) for a in listed
    ]
