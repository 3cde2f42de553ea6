"""Commands about things of any kind and the relationships between them as jobs.

Of a model or dataset they change what every thing has: name, description, owners, tags.
"""

from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.jobs.commands import Desks, InTenant, command_job, json_object, tags_of

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.relationships import Relationship
    from ml_registry_pipelines.registry.things import Thing


class FlowOf(Enum):
    """Which way influence goes along a relationship."""

    BY_TYPE = "by_type"
    TO_TARGET = "to_target"
    TO_SOURCE = "to_source"


class OneThing(InTenant):
    """A thing by its kind and name."""

    kind: str = Field(description="model, dataset, application, feature, prompt, team ...")
    name: str


class RegisterThing(OneThing):
    """A thing of any kind that has no verbs of its own."""

    description: str = ""
    owners: list[str] = Field(
        default_factory=list, description="Teams such as team:fraud, or pseudonyms; no e-mail."
    )
    tags: dict[str, str] = Field(
        default_factory=dict, description="Numbers, true, false and dates keep their type."
    )
    metadata: str = Field(default="{}", description="Anything else, as JSON.")


class RegisterMany(InTenant):
    """All things of a list, or none."""

    kind: str = Field(description="model, application, feature, prompt, team ...")
    path: str = Field(
        description="A .jsonl or .parquet file of this machine; a row has a name, and may have description, "
        "tags, owners and metadata."
    )


class RenameThing(OneThing):
    """Another name; what refers to the thing follows."""

    to: str


class DescribeThing(OneThing):
    """Another description."""

    description: str


class SetOwners(OneThing):
    """Owners in the place of those that are there."""

    owners: list[str] = Field(description="Teams such as team:fraud, or pseudonyms; no e-mail.")


class TagThing(OneThing):
    """Tags of a thing."""

    tags: dict[str, str] = Field(
        default_factory=dict, description="Numbers, true, false and dates keep their type."
    )
    remove: list[str] = Field(default_factory=list)


class SetMetadata(OneThing):
    """Metadata in the place of what is there."""

    metadata: str = Field(description="A JSON object.")


class DeprecateThing(OneThing):
    """It is not to be used any more."""

    reason: str
    replacement: str | None = Field(default=None, description="Thing of the same kind to use in its place.")


class TwoEnds(InTenant):
    """A relationship by its type and ends."""

    type: str = Field(description="used_by, feeds, produces ...")
    source: str = Field(description="KIND:NAME, such as model:fraud or model_version:fraud@v3.")
    target: str = Field(description="KIND:NAME, such as application:checkout.")


class Relate(TwoEnds):
    """An edge between two things or versions."""

    properties: str = Field(default="{}", description="A JSON object.")
    flow: FlowOf = Field(default=FlowOf.BY_TYPE, description="Which way influence goes.")


class RelateMany(InTenant):
    """All edges of a list, or none."""

    type: str = Field(description="used_by, feeds, produces ...")
    path: str = Field(
        description="A .jsonl or .parquet file of this machine; a row has source and target, each KIND:NAME, "
        "and may have properties."
    )
    flow: FlowOf = Field(default=FlowOf.BY_TYPE, description="Which way influence goes.")


# -- what each does -------------------------------------------------------------------------------


def _register(given: RegisterThing, at: Desks) -> "Thing":
    return at.models.things.register(
        given.kind,
        given.name,
        description=given.description,
        owners=given.owners,
        tags=tags_of(given.tags),
        metadata=json_object(given.metadata, "metadata"),
        idempotency_key=at.key,
    )


def _register_many(given: RegisterMany, at: Desks) -> int:
    from ml_registry_pipelines.registry.intake import register_file

    return register_file(at.models.things, given.kind, Path(given.path), idempotency_key=at.key)


def _relate(given: Relate, at: Desks) -> "Relationship":
    from ml_registry_pipelines.registry.intake import parsed_end

    return at.edges.relate(
        given.type,
        parsed_end(given.source),
        parsed_end(given.target),
        properties=json_object(given.properties, "properties"),
        flow=_flow(given.flow),
        idempotency_key=at.key,
    )


def _relate_many(given: RelateMany, at: Desks) -> int:
    from ml_registry_pipelines.registry.intake import read_edges

    edges = read_edges(Path(given.path), readable=at.models.log.lake.readable)
    return at.edges.relate_many(given.type, edges, flow=_flow(given.flow), idempotency_key=at.key)


def _unrelate(given: TwoEnds, at: Desks) -> "Relationship":
    from ml_registry_pipelines.registry.intake import parsed_end

    return at.edges.unrelate(
        given.type, parsed_end(given.source), parsed_end(given.target), idempotency_key=at.key
    )


def _flow(given: FlowOf) -> str | None:
    return None if given is FlowOf.BY_TYPE else given.value


# -- as jobs --------------------------------------------------------------------------------------


@cache
def things_jobs() -> tuple[dg.JobDefinition, ...]:
    """The commands about things and relationships that a person gives in the UI."""
    return (
        command_job("register_thing", RegisterThing, _register, "Registers a thing of any kind."),
        command_job(
            "register_many", RegisterMany, _register_many, "Registers the things of a file, all or none."
        ),
        command_job(
            "rename_thing",
            RenameThing,
            lambda g, at: at.models.things.rename(g.kind, g.name, g.to, idempotency_key=at.key),
            "Gives a model, dataset or other thing another name; what refers to it follows.",
        ),
        command_job(
            "describe_thing",
            DescribeThing,
            lambda g, at: at.models.things.describe(g.kind, g.name, g.description, idempotency_key=at.key),
            "Replaces the description of a model, dataset or other thing.",
        ),
        command_job(
            "set_owners",
            SetOwners,
            lambda g, at: at.models.things.set_owners(g.kind, g.name, g.owners, idempotency_key=at.key),
            "Replaces the owners of a model, dataset or other thing.",
        ),
        command_job(
            "tag_thing",
            TagThing,
            lambda g, at: at.models.things.tag(
                g.kind, g.name, tags_of(g.tags), remove=g.remove, idempotency_key=at.key
            ),
            "Sets some tags of a thing and removes others.",
        ),
        command_job(
            "set_metadata",
            SetMetadata,
            lambda g, at: at.models.things.set_metadata(
                g.kind, g.name, json_object(g.metadata, "metadata"), idempotency_key=at.key
            ),
            "Replaces the metadata of a thing.",
        ),
        command_job(
            "deprecate_thing",
            DeprecateThing,
            lambda g, at: at.models.things.deprecate(
                g.kind, g.name, reason=g.reason, replacement=g.replacement, idempotency_key=at.key
            ),
            "Marks a thing as deprecated.",
        ),
        command_job(
            "reinstate_thing",
            OneThing,
            lambda g, at: at.models.things.reinstate(g.kind, g.name, idempotency_key=at.key),
            "Takes back a deprecation.",
        ),
        command_job(
            "delete_thing",
            OneThing,
            lambda g, at: at.models.things.delete(g.kind, g.name, idempotency_key=at.key),
            "Deletes a thing that nothing living needs, so that it can be restored.",
        ),
        command_job(
            "restore_thing",
            OneThing,
            lambda g, at: at.models.things.restore(g.kind, g.name, idempotency_key=at.key),
            "Takes back a deletion.",
        ),
        command_job("relate", Relate, _relate, "Draws a relationship between two things or versions."),
        command_job(
            "relate_many", RelateMany, _relate_many, "Draws the relationships of a file, all or none."
        ),
        command_job(
            "unrelate", TwoEnds, _unrelate, "Removes a relationship; as of earlier it is still there."
        ),
    )
