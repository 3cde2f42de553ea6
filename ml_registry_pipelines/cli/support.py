"""What the registry's shell commands share: opening the log, who acts, parsing, printing."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.settings import Environment, Settings, SettingsError

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lineage.tracker import LineageTracker
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry
    from ml_registry_pipelines.registry.names import TagValue
    from ml_registry_pipelines.registry.things import Thing
    from ml_registry_pipelines.registry.versions import Version

F = TypeVar("F", bound=Callable[..., Any])

LIMIT = click.IntRange(min=1)
"""At most so many of something."""
TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])


class Number(click.FloatRange):
    """A number: neither `nan`, which lies in every range for click, nor `inf`, which no unit of time holds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


_opened: ContextVar[Lake | None] = ContextVar("opened", default=None)


OPERATING = frozenset(
    {
        "ingest",
        "maintain",
        "report",
        "quarantine replay",
        "bills take",
        "bills pull",
        "bills reconcile",
        "costs reprice",
        "costs rates add",
        "costs rates sync",
        "prices sync",
        "attribution apply",
        "alerts deliver",
        "alerts evaluate",
        "reports deliver",
        "webhooks deliver",
        "performance record",
        "audit rebuild",
        "search rebuild",
        "embeddings status",
        "embeddings update",
        "embeddings rebuild",
        "artifacts delete",
        "artifacts purge",
    }
)
"""Commands that change what is no event of the log: measurements, prices, files."""
OF_ALL = frozenset({"allocation preview", "statements issue"})
"""Commands about one tenant that tell figures of all: shared bills, and who bears them."""


@contextmanager
def open_log(*, open_to_all: bool = False) -> Iterator[Log]:
    """The log. With `open_to_all` nobody is asked who it is: the commands themselves do."""
    from ml_registry_pipelines.registry.log import Log

    with open_lake(open_to_all=True) as lake, Log(lake) as log:
        if not open_to_all:
            _admit(lake, None if command_path() in OF_ALL else _own_tenant() or tenant(), log)
        yield log


@contextmanager
def open_lake(*, needed: bool = True, open_to_all: bool = False) -> Iterator[Lake]:
    """The lake at MLREG_HOME, for who may read there. Commands that write make it; others need it.

    Commands with a `--tenant` show that one, or the one of MLREG_TENANT (`only_tenant`); the others keep to none,
    and so take a grant for every one.

    Raises:
        SettingsError: there is none.
        NotAllowed: there are users, and nobody, or somebody without a grant, wants to look.
    """
    from ml_registry_pipelines.lake.lake import Lake

    home = Settings.from_environment().home
    failure: MlregError | None = None
    with Lake(home, process="cli") as lake:
        outer = _opened.set(lake)
        try:
            if not open_to_all:
                _admit(lake, only_tenant(_own_tenant()) if _takes_tenant() else None)
            yield lake
        except MlregError as wrong:
            failure = wrong
        finally:
            _opened.reset(outer)
    missing = needed and not home.startswith("s3://") and not Path(home).is_dir()
    if missing and (failure is None or isinstance(failure, NotFound)):
        raise SettingsError(f"there is no registry at {home}; check MLREG_HOME") from failure
    if failure is not None:
        raise failure


def _admit(lake: Lake, about: str | None, known: Log | None = None) -> None:
    """Ask whether this command may look into the tenant that it is about; without one, into all."""
    from ml_registry_pipelines.access.policy import admit, enforced
    from ml_registry_pipelines.registry.log import Log

    context = click.get_current_context(silent=True)
    dev = Settings.from_environment().environment is Environment.DEV
    if context is None or (dev and not lake.exists("governance_events")):
        return
    # Opening the log is most of what a short command costs: once is enough.
    with nullcontext(known) if known is not None else Log(lake) as log:
        if enforced(log):
            path = command_path()
            # A registry asks about each model itself; tables show a tenant whole.
            admit(log, shell_actor(), about, operates=path in OPERATING, part=known is not None, what=path)


def admit_to(log: Log, about: str | None) -> None:
    """Ask whether who sits at the shell may read all measurements of a tenant; without one, of all.

    Raises:
        NotAllowed: no.
    """
    from ml_registry_pipelines.access.policy import admit

    admit(log, shell_actor(), about, what=command_path())


def ask_for(log: Log, action: str, about: str, *, everywhere: bool = False) -> None:
    """Ask the policy about what is no command of the log, such as building an index.

    Args:
        about: what kind of thing it changes.
        everywhere: it concerns every tenant, and takes a grant for each.

    Raises:
        NotAllowed: it refuses.
    """
    from ml_registry_pipelines.access.users import EVERY_TENANT
    from ml_registry_pipelines.registry.actors import Request

    log.ask(Request(shell_actor(), EVERY_TENANT if everywhere else tenant(), action, about, {}))


def command_path() -> str:
    """The command that runs, such as `models list`, whatever the program itself is called."""
    names: list[str] = []
    context = click.get_current_context(silent=True)
    while context is not None and context.parent is not None:
        names.insert(0, str(context.info_name))
        context = context.parent
    return " ".join(names)


def only_tenant(given: str | None = None) -> str | None:
    """Whose figures are shown: all tenants', unless one is named here or by MLREG_TENANT."""
    return given or Settings.from_environment().tenant


def _takes_tenant() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and any(option.name == "tenant" for option in context.command.params)


def _own_tenant() -> str | None:
    """The tenant that the command itself was told."""
    context = click.get_current_context(silent=True)
    found: str | None = None if context is None else context.params.get("tenant")
    return found


def desk() -> dict[str, Any]:
    """Who acts, and where."""
    return {"actor": shell_actor(), "tenant": tenant()}


def shell_actor() -> Actor:
    """Whoever's API key MLREG_API_KEY or MLREG_API_KEY_FILE holds.

    Without a key, nobody has checked who sits at the shell; MLREG_ACTOR may hold a pseudonym.

    Raises:
        KeyRefused: the key lets nobody in.
    """
    from ml_registry_pipelines.access.doors import given_key
    from ml_registry_pipelines.registry.actors import Actor

    key = given_key()
    return Actor(os.environ.get("MLREG_ACTOR", "").strip() or "shell") if key is None else _actor_for(key)


def _actor_for(key: str) -> Actor:
    from ml_registry_pipelines.access.access_log import AccessLog, Outcome
    from ml_registry_pipelines.access.users import KeyRefused, actor_for_key
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

    context = click.get_current_context(silent=True)
    known: dict[str, Actor] = {} if context is None else context.find_root().meta
    if (found := known.get(f"mlreg.actor.{key}")) is not None:
        return found
    lake = _opened.get()
    if lake is None:
        with open_lake(needed=False):
            return _actor_for(key)
    with Log(lake) as log:
        try:
            actor = known[f"mlreg.actor.{key}"] = actor_for_key(log, key, door="cli")
        except KeyRefused as refused:
            who = Actor(refused.user_id or "unknown")
            AccessLog(lake).note(
                who, "login", "api_key", tenant=None, outcome=Outcome.REFUSED, reason=refused.reason
            )
            raise
    return actor


def tenant() -> str:
    given: str | None = click.get_current_context().find_root().params.get("tenant")
    return given or Settings.from_environment().tenant or "default"


def tenant_option(command: F) -> F:
    """`--tenant`, for this command alone."""

    def choose(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            context.find_root().params["tenant"] = value

    return click.option(
        "--tenant", callback=choose, expose_value=False, help="Organisation; default: MLREG_TENANT."
    )(command)


def purpose_option(command: F) -> F:
    """`--purpose`, which the access log keeps."""
    return click.option(
        "--purpose",
        envvar="MLREG_PURPOSE",
        help="What it is for, as the register of purposes names it; kept in the access log.",
    )(command)


def in_utc(moment: datetime) -> datetime:
    """Times without a zone are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def utc(moment: datetime | None) -> datetime | None:
    """The same for a time that need not be given."""
    return None if moment is None else in_utc(moment)


def as_of_option(command: F) -> F:
    return click.option("--as-of", type=TIME, help="As had been recorded at this time (UTC).")(command)


def key_option(command: F) -> F:
    return click.option("--key", help="Idempotency key: the same command under it is done once.")(command)


def act_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that changes something, handed on as `how`."""

    @wraps(command)
    def run(*given: Any, key: str | None, valid_from: datetime | None, **options: Any) -> None:
        command(*given, how={"idempotency_key": key, "valid_from": utc(valid_from)}, **options)

    since = click.option("--valid-from", type=TIME, help="From when on it holds (UTC); by default now.")
    return key_option(since(run))


def show_more(found: Sequence[Thing], limit: int) -> None:
    """Say how to go on, where there is more than was shown."""
    if len(found) > limit:
        click.echo(f"there are more: --after {shlex.quote(found[limit - 1].cursor)}", err=True)


def parsed_tags(given: tuple[str, ...]) -> dict[str, TagValue]:
    """Tags as `NAME=VALUE`: whole and other numbers, true, false and dates have their type.

    Everything else is text, and so is what stands in double quotes.
    """
    if wrong := [tag for tag in given if "=" not in tag]:
        raise click.UsageError(f"a tag is NAME=VALUE, not {wrong[0]!r}")
    return {name: _tag(value) for name, _, value in (tag.partition("=") for tag in given)}


def _tag(value: str) -> TagValue:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float, date.fromisoformat):
        try:
            found: TagValue = kind(value)
        except ValueError:
            continue
        if isinstance(found, float) and not math.isfinite(found):
            raise InvalidInput(
                f"a tag's number is finite; for the text, write it in double quotes: '\"{value}\"'"
            )
        return found
    return value


def show_thing(thing: Thing) -> None:
    lines: dict[str, object] = {
        "name": thing.name,
        "kind": thing.kind,
        "id": thing.id,
        "status": "deleted" if thing.deleted else thing.status,
        "description": thing.description,
        "owners": ", ".join(thing.owners),
        "tags": ", ".join(f"{k}={v}" for k, v in sorted(thing.tags.items())),
        "aliases": ", ".join(f"{k}=v{v}" for k, v in sorted(thing.aliases.items())),
        "metadata": json.dumps(thing.metadata, sort_keys=True) if thing.metadata else "",
        "since": f"{thing.recorded_at:%Y-%m-%d %H:%M:%S}Z by {thing.actor} (event {thing.sequence})",
    }
    show_lines(lines)


def show_version(version: Version) -> None:
    show_lines(
        {
            "version": version.reference,
            "stage": "deleted" if version.deleted else version.stage.value,
            "content": f"{version.content['form']} {version.content_digest}",
            "size": "" if version.size is None else f"{version.size:,} bytes",
            "framework": version.framework or "",
            "licence": version.licence or "",
            "metrics": ", ".join(f"{k}={v}" for k, v in sorted(version.metrics.items())),
            "parameters": json.dumps(version.parameters, sort_keys=True) if version.parameters else "",
            "artifacts": ", ".join(f"{a['kind']} {a['digest'][:12]}" for a in version.artifacts),
            "tags": ", ".join(f"{k}={v}" for k, v in sorted(version.tags.items())),
            "description": version.description,
        }
    )


def show_lines(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if value not in (None, ""):
            click.echo(f"{name:>12}  {value}")


def registry_of(log: Log) -> ModelRegistry:
    from ml_registry_pipelines.registry.models import ModelRegistry

    return ModelRegistry(log, **desk(), warn=lambda told: click.echo(f"warning: {told}", err=True))


def tracker_of(log: Log) -> LineageTracker:
    from ml_registry_pipelines.lineage.tracker import LineageTracker

    return LineageTracker(log, **desk())


def show_events(log: Log, sequences: Iterable[int]) -> None:
    for event in log.events(tenant(), list(sequences)):
        change = json.dumps(event.change, sort_keys=True, ensure_ascii=False)
        click.echo(
            f"{event.sequence:>8}  {event.recorded_at:%Y-%m-%d %H:%M:%S}Z  {event.actor}  {event.action}  "
            f"{change if len(change) <= 120 else change[:117] + '...'}"
        )
