"""Dagster's run queue, which stamps on every run who has launched it: named in `dagster.yaml`.

Whatever a client, a sensor or a parent run has put there is overwritten.

- Through the web server: whoever the request was authenticated as.
- By the daemon: a backfill's runs have its launcher, a retry its parent's, and what a sensor,
  a schedule or automation asks for has the platform itself.
- Through a shell: whose API key it has, else nobody in particular.

It also refuses a configuration by which somebody would have variables of the service's environment filled in,
such as its credentials: a run may tell what it was given in metadata, messages and tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dagster._config import ConfigTypeKind
from dagster._core.definitions.selector import JobSelector
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import BACKFILL_ID_TAG

from ml_registry_pipelines.access.stamps import BACKFILL, LAUNCHPAD, actor_of, service, stamped
from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    from dagster._config.snap import ConfigSchemaSnapshot, ConfigTypeSnap
    from dagster._core.run_coordinator.base import SubmitRunContext
    from dagster._core.storage.dagster_run import DagsterRun

    from ml_registry_pipelines.registry.actors import Actor

DAEMON = "MLREG_DAEMON"
"""Environment variable of the daemon's process: what it submits, the platform itself has asked for."""


ALLOWED = "MLREG_CONFIG_VARIABLES"
"""Environment variable that names those, with commas, which a run's configuration may ask for."""


_FROM_ENVIRONMENT = {"StringSourceType", "IntSourceType", "BoolSourceType"}
"""Types of fields that Dagster fills from the environment where they are given `{env: NAME}`."""


class VariableRefused(MlregError):
    """The configuration of a run asks for what it may not have."""


class StampingRunCoordinator(QueuedRunCoordinator[Any]):
    """`QueuedRunCoordinator`, with the same configuration."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """As Dagster's.

        Raises:
            VariableRefused: a person asks for a variable of the environment; the run has failed, and says so.
        """
        run = context.dagster_run
        if self._is_asked_for(context):
            _refuse_variables(context)
        self._instance.add_run_tags(run.run_id, stamped(self._launcher(context), run.run_id))
        return super().submit_run(context)

    @staticmethod
    def _is_asked_for(context: SubmitRunContext) -> bool:
        """Whether a person gave the configuration, to this process or to one that had asked it."""
        run = context.dagster_run
        by_daemon = os.environ.get(DAEMON) == "1"
        through_web = getattr(context.workspace, "source", None) is not None
        return through_web or (by_daemon and (run.parent_run_id is not None or BACKFILL_ID_TAG in run.tags))

    def _launcher(self, context: SubmitRunContext) -> Actor:
        run, source = context.dagster_run, getattr(context.workspace, "source", None)
        if source is not None:
            actor: Actor | None = getattr(getattr(source, "state", None), "actor", None)
            return actor or LAUNCHPAD
        if os.environ.get(DAEMON) != "1":
            return actor_of_the_shell() or LAUNCHPAD
        if run.parent_run_id is not None:
            parent = self._instance.get_run_by_id(run.parent_run_id)
            # A parent whose own stamp is not ours gives none to its retry.
            return (parent and actor_of(parent.tags, parent.run_id)) or LAUNCHPAD
        if BACKFILL_ID_TAG in run.tags:
            return actor_of(run.tags, BACKFILL) or LAUNCHPAD
        return service()


def _refuse_variables(context: SubmitRunContext) -> None:
    run = context.dagster_run
    origin = run.remote_job_origin
    if origin is None or not run.run_config:
        return
    repository = origin.repository_origin
    job = context.workspace.get_full_job(
        JobSelector(
            location_name=repository.code_location_origin.location_name,
            repository_name=repository.repository_name,
            job_name=run.job_name,
        )
    )
    schema, root = job.config_schema_snapshot, job.root_config_key
    allowed = {name.strip() for name in os.environ.get(ALLOWED, "").split(",")}
    for place, name in _variables(schema, root, run.run_config, ()) if root else ():
        if name not in allowed:
            raise VariableRefused(
                f"{'.'.join(place)} asks for the variable {name} of the service's environment; write the value "
                f"itself, or let whoever keeps the service name the variable in {ALLOWED}"
            )


def _variables(
    schema: ConfigSchemaSnapshot, key: str, given: object, place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The variables that Dagster would fill in, each with where it is asked for.

    By the types of the schema, since `{env: production}` is a plain value where any mapping may stand.
    """
    kind = schema.get_config_snap(key)
    if kind.key in _FROM_ENVIRONMENT and isinstance(given, Mapping):
        yield place, str(given.get("env"))
        return
    for step, type_key, value in _inside(kind, given):
        yield from _variables(schema, type_key, value, (*place, *step))


def _inside(kind: ConfigTypeSnap, given: object) -> Iterator[tuple[tuple[str, ...], str, object]]:
    """The parts of a value: how each is reached, its type, and itself."""
    match kind.kind:
        case ConfigTypeKind.SCALAR_UNION:
            yield (), kind.non_scalar_type_key, given
        case ConfigTypeKind.NONEABLE:
            yield (), kind.inner_type_key, given
        case ConfigTypeKind.ARRAY:
            listed = given if isinstance(given, list) else [given]
            yield from (((str(n),), kind.inner_type_key, each) for n, each in enumerate(listed))
        case ConfigTypeKind.MAP if isinstance(given, Mapping):
            yield from (((str(name),), kind.inner_type_key, each) for name, each in given.items())
        case _ if isinstance(given, Mapping):
            aliases = kind.field_aliases or {}
            for field in kind.fields or ():
                for name in {str(field.name), aliases.get(str(field.name), str(field.name))} & given.keys():
                    yield (name,), field.type_key, given[name]


def actor_of_the_shell() -> Actor | None:
    """Whose API key the process was given; None without one.

    Raises:
        KeyRefused: the key lets nobody in.
    """
    from ml_registry_pipelines.access.doors import given_key
    from ml_registry_pipelines.access.users import actor_for_key
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.settings import Settings

    key = given_key()
    if key is None:
        return None
    with Lake(Settings.from_environment().home, process="cli") as lake, Log(lake) as log:
        return actor_for_key(log, key, door="cli")
