"""Commands about models, datasets, deployments and attribution rules as jobs.

What a command does is in the registry and lineage rooms; how it becomes a job, in `commands.py`.
"""

from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import (
    Desks,
    InTenant,
    command_job,
    instant,
    json_object,
    tags_of,
)
from ml_registry_pipelines.jobs.things import things_jobs
from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.artifacts import Content, Uri
    from ml_registry_pipelines.registry.things import Thing
    from ml_registry_pipelines.registry.versions import Version
    from ml_registry_pipelines.telemetry.attribution import Rule


class NextStage(Enum):
    """Stages to which a version can be moved; into production it is promoted."""

    REGISTERED = "registered"
    STAGING = "staging"
    SHADOW = "shadow"
    ARCHIVED = "archived"


class FormerStage(Enum):
    """What becomes of the version that was in production."""

    ARCHIVED = "archived"
    STAGING = "staging"
    SHADOW = "shadow"


class RegisterModel(InTenant):
    """A model, still without a version."""

    name: str
    description: str = ""
    owners: list[str] = Field(
        default_factory=list, description="Teams such as team:fraud, or pseudonyms; no e-mail."
    )
    tags: dict[str, str] = Field(
        default_factory=dict, description="Numbers, true, false and dates keep their type."
    )


class CreateModelVersion(InTenant):
    """The next version of a model: a path of this machine, an address with its digest, or a hosted model."""

    model: str
    path: str | None = Field(default=None, description="File or folder; it is copied into the store.")
    uri: str | None = Field(default=None, description="Address of content that stays where it is.")
    sha256: str | None = Field(default=None, description="Digest of what lies at the address.")
    provider: str | None = Field(default=None, description="Of a hosted model.")
    snapshot: str | None = Field(default=None, description="Of a hosted model: the exact model string.")
    hosted_parameters: str = Field(default="{}", description="Of a hosted model: parameters as JSON.")
    description: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    parameters: str = Field(default="{}", description="Hyperparameters as JSON.")
    framework: str | None = None
    licence: str | None = Field(default=None, description="Licence id, such as Apache-2.0.")
    code_commit: str | None = None
    trained_on: list[str] = Field(default_factory=list, description="Dataset versions, such as credit@v2.")
    evaluated_on: list[str] = Field(default_factory=list, description="Dataset versions.")
    base_model: str | None = Field(
        default=None, description="Version that it was made from, such as base@v1."
    )
    tags: dict[str, str] = Field(default_factory=dict)


class PromoteToProduction(InTenant):
    """A version becomes the one production version of its model."""

    version: str = Field(description="MODEL@v3, MODEL@ALIAS or MODEL@latest.")
    former: FormerStage = Field(default=FormerStage.ARCHIVED, description="Where the present one goes.")
    reason: str = ""


class RollBack(InTenant):
    """The version comes back into production that was there before."""

    model: str
    reason: str = ""


class SetStage(InTenant):
    """A version moves to another stage."""

    version: str = Field(description="MODEL@v3, MODEL@ALIAS or MODEL@latest.")
    stage: NextStage


class SetAlias(InTenant):
    """An alias of a model means a version."""

    version: str = Field(description="MODEL@v3, MODEL@production or MODEL@latest.")
    alias: str


class OneAlias(InTenant):
    """An alias of a model."""

    model: str
    alias: str


class DeprecateModel(InTenant):
    """No new versions and no promotion; what runs, runs on."""

    name: str
    reason: str
    replacement: str | None = Field(default=None, description="Model to use in its place.")


class OneModel(InTenant):
    """A model by name."""

    name: str


class TagModel(InTenant):
    """Tags of a model."""

    name: str
    tags: dict[str, str] = Field(
        default_factory=dict, description="Numbers, true, false and dates keep their type."
    )
    remove: list[str] = Field(default_factory=list)


class TrackDataset(InTenant):
    """What a dataset is now; what did not change gets no new version."""

    name: str
    source: str = Field(description="Delta table, Parquet or CSV, or an address with its digest.")
    sha256: str | None = Field(default=None, description="Digest of an address that is not read from here.")
    description: str = ""
    owners: list[str] = Field(default_factory=list)
    derived_from: list[str] = Field(default_factory=list, description="Dataset versions it was made from.")


class TrackDeployment(InTenant):
    """A deployment serves a version, or served it until an end."""

    name: str
    version: str = Field(description="MODEL@v3, MODEL@ALIAS or MODEL@production.")
    environment: str
    endpoint: str = ""
    traffic_share: float = Field(default=1.0, description="Part of the endpoint's requests, 0 to 1.")
    start: str | None = Field(default=None, description="Since when, such as 2026-09-01; by default now.")
    end: str | None = Field(
        default=None, description="Until when, for what is over; what it serves now stays."
    )
    owners: list[str] = Field(default_factory=list)


class EndDeployment(InTenant):
    """A deployment serves nothing any more."""

    name: str
    end: str | None = Field(default=None, description="When, such as 2026-09-01T12:00Z; by default now.")


class AddAttributionRule(InTenant):
    """Requests that meet every condition belong to a deployment; days that are rolled up already follow."""

    deployment: str
    provider: str | None = Field(default=None, description="As in the log, or a pattern with *.")
    model: str | None = Field(default=None, description="As in the log, or a pattern with *.")
    endpoint: str | None = Field(default=None, description="As in the log, or a pattern with *.")
    application: str | None = Field(default=None, description="As in the log, or a pattern with *.")
    environment: str | None = Field(default=None, description="As in the log, or a pattern with *.")
    priority: int = Field(default=0, description="The highest wins.")
    valid_from: str | None = Field(default=None, description="First instant; by default since ever.")
    valid_to: str | None = Field(default=None, description="First instant after; by default none.")
    name: str | None = Field(default=None, description="By default rule-1, rule-2 ...")
    note: str = ""


class EndAttributionRule(InTenant):
    """A rule holds no longer than to some instant."""

    rule: str
    end: str | None = Field(default=None, description="First instant after it; by default now.")


class OneRule(InTenant):
    """A rule by name."""

    rule: str


# -- what each does -------------------------------------------------------------------------------


def _register_model(given: RegisterModel, at: Desks) -> "Thing":
    return at.models.register_model(
        given.name,
        description=given.description,
        owners=given.owners,
        tags=tags_of(given.tags),
        idempotency_key=at.key,
    )


def _create_model_version(given: CreateModelVersion, at: Desks) -> "Version":
    from ml_registry_pipelines.registry.versions import VersionFacts

    facts = VersionFacts(
        metrics=given.metrics,
        parameters=json_object(given.parameters, "parameters"),
        framework=given.framework,
        licence=given.licence,
        code_commit=given.code_commit,
        trained_on=given.trained_on,
        evaluated_on=given.evaluated_on,
        base_model=given.base_model,
    )
    return at.models.create_model_version(
        given.model,
        _content(given),
        facts,
        description=given.description,
        tags=tags_of(given.tags),
        idempotency_key=at.key,
    )


def _content(given: CreateModelVersion) -> "Content":
    from ml_registry_pipelines.registry.artifacts import HostedModel

    ways = {"path": given.path, "uri": given.uri, "provider": given.provider}
    if sum(value is not None for value in ways.values()) != 1:
        raise InvalidInput("give one of path, uri with sha256, or provider with snapshot")
    if given.path is not None:
        return given.path
    if given.uri is not None:
        return _address(given.uri, given.sha256)
    return HostedModel(
        given.provider or "", given.snapshot or "", json_object(given.hosted_parameters, "hosted_parameters")
    )


def _address(uri: str, sha256: str | None) -> "Uri":
    from ml_registry_pipelines.registry.artifacts import Uri

    if sha256 is None:
        raise InvalidInput(f"{uri!r} is an address, which needs its sha256")
    return Uri(uri, sha256)


def _promote(given: PromoteToProduction, at: Desks) -> "Version":
    from ml_registry_pipelines.registry.versions import Stage

    return at.models.promote_to_production(
        given.version, former=Stage(given.former.value), reason=given.reason, idempotency_key=at.key
    )


def _set_stage(given: SetStage, at: Desks) -> "Version":
    from ml_registry_pipelines.registry.versions import Stage

    return at.models.set_stage(given.version, Stage(given.stage.value), idempotency_key=at.key)


def _track_dataset(given: TrackDataset, at: Desks) -> "Thing":
    return at.lineage.track_dataset(
        given.name,
        given.source if given.sha256 is None else _address(given.source, given.sha256),
        description=given.description,
        owners=given.owners,
        derived_from=given.derived_from,
        idempotency_key=at.key,
    )


def _track_deployment(given: TrackDeployment, at: Desks) -> "Thing":
    return at.lineage.track_deployment(
        given.name,
        given.version,
        environment=given.environment,
        endpoint=given.endpoint,
        traffic_share=given.traffic_share,
        start=instant(given.start, "start"),
        end=instant(given.end, "end"),
        owners=given.owners,
        idempotency_key=at.key,
    )


def _add_rule(given: AddAttributionRule, at: Desks) -> "Rule":
    from ml_registry_pipelines.lake.tables.attribution import CONDITIONS
    from ml_registry_pipelines.telemetry.attribution import NewRule

    return at.rules.add_rule(
        NewRule(
            given.deployment,
            {condition: getattr(given, condition) for condition in CONDITIONS},
            given.priority,
            instant(given.valid_from, "valid_from"),
            instant(given.valid_to, "valid_to"),
            given.note,
            given.name,
        ),
        idempotency_key=at.key,
    )


# -- as jobs --------------------------------------------------------------------------------------


@cache
def registry_jobs() -> tuple[dg.JobDefinition, ...]:
    """The commands that a person gives in the UI; the same whatever home they are for."""
    return (
        command_job(
            "register_model", RegisterModel, _register_model, "Registers a model, still without a version."
        ),
        command_job(
            "create_model_version",
            CreateModelVersion,
            _create_model_version,
            "Stores content as the next version of a model, with what it was trained on.",
        ),
        command_job(
            "promote_to_production",
            PromoteToProduction,
            _promote,
            "Puts a version into production; the present one is archived, or goes where it is told.",
        ),
        command_job(
            "roll_back_model",
            RollBack,
            lambda g, at: at.models.rollback(g.model, reason=g.reason, idempotency_key=at.key),
            "Puts the version back into production that was there before.",
        ),
        command_job("set_model_stage", SetStage, _set_stage, "Moves a version to another stage."),
        command_job(
            "set_model_alias",
            SetAlias,
            lambda g, at: at.models.set_alias(g.version, g.alias, idempotency_key=at.key),
            "Lets an alias of a model mean a version.",
        ),
        command_job(
            "remove_model_alias",
            OneAlias,
            lambda g, at: at.models.remove_alias(g.model, g.alias, idempotency_key=at.key),
            "Takes an alias away from a model.",
        ),
        command_job(
            "protect_model_alias",
            OneAlias,
            lambda g, at: at.models.protect_alias(g.model, g.alias, idempotency_key=at.key),
            "Lets an alias neither be moved nor removed until it is unprotected.",
        ),
        command_job(
            "unprotect_model_alias",
            OneAlias,
            lambda g, at: at.models.unprotect_alias(g.model, g.alias, idempotency_key=at.key),
            "Takes the protection of an alias back.",
        ),
        command_job(
            "deprecate_model",
            DeprecateModel,
            lambda g, at: at.models.deprecate_model(
                g.name, reason=g.reason, replacement=g.replacement, idempotency_key=at.key
            ),
            "Marks a model as deprecated: no new versions, no promotion; what runs, runs on.",
        ),
        command_job(
            "reinstate_model",
            OneModel,
            lambda g, at: at.models.reinstate_model(g.name, idempotency_key=at.key),
            "Takes back a deprecation.",
        ),
        command_job(
            "tag_model",
            TagModel,
            lambda g, at: at.models.tag_model(
                g.name, tags_of(g.tags), remove=g.remove, idempotency_key=at.key
            ),
            "Sets some tags of a model and removes others.",
        ),
        command_job(
            "delete_model",
            OneModel,
            lambda g, at: at.models.delete_model(g.name, idempotency_key=at.key),
            "Deletes a model with its versions, so that it can be restored.",
        ),
        command_job(
            "restore_model",
            OneModel,
            lambda g, at: at.models.restore_model(g.name, idempotency_key=at.key),
            "Takes back the deletion of a model.",
        ),
        command_job(
            "track_dataset",
            TrackDataset,
            _track_dataset,
            "Records what a dataset is now: a Delta table, Parquet or CSV, or an address with its digest.",
        ),
        command_job(
            "track_deployment",
            TrackDeployment,
            _track_deployment,
            "Records that a deployment serves a version, or served it until an end.",
        ),
        command_job(
            "end_deployment",
            EndDeployment,
            lambda g, at: at.lineage.end_deployment(
                g.name, end=instant(g.end, "end"), idempotency_key=at.key
            ),
            "Records that a deployment serves nothing any more.",
        ),
        command_job(
            "add_attribution_rule",
            AddAttributionRule,
            _add_rule,
            "Assigns logged requests to a deployment, and so to the version that it served.",
        ),
        command_job(
            "end_attribution_rule",
            EndAttributionRule,
            lambda g, at: at.rules.end_rule(g.rule, end=instant(g.end, "end"), idempotency_key=at.key),
            "Lets a rule hold no longer than to some instant.",
        ),
        command_job(
            "remove_attribution_rule",
            OneRule,
            lambda g, at: at.rules.remove_rule(g.rule, idempotency_key=at.key),
            "Takes back a rule that was never right.",
        ),
        *things_jobs(),
    )
