"""`mlreg users`: who may use the platform, in which roles, where, and with which keys. A door and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import open_log, shell_actor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ml_registry_pipelines.access.people import Person
    from ml_registry_pipelines.access.users import NewKey, User, Users
    from ml_registry_pipelines.registry.log import Log

ROLES = click.Choice(["viewer", "engineer", "reviewer", "compliance", "admin"])


@click.group()
def users() -> None:
    """Who may use the platform. The log knows users by pseudonyms; names are kept where they can be erased."""


@users.command("init")
@click.option("--name", help="Who it is: kept beside the log, and erasable.")
@click.option("--email")
def users_init(name: str | None, email: str | None) -> None:
    """Make the first admin, as the owner of MLREG_HOME; or another one where no admin has a valid key."""
    from ml_registry_pipelines.access.policy import owner_of
    from ml_registry_pipelines.access.users import Users

    with open_log(open_to_all=True) as log:
        _check_person(name, email)
        user, key = Users(log, actor=owner_of(log.lake)).init()
        _keep_person(log, user.id, name, email)
    click.echo(f"user {user.id} is an admin")
    _show_key(key)


@users.command("add")
@click.argument("roles", nargs=-1, required=True, type=ROLES)
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    required=True,
    help="Where it may act; '*': everywhere, which Dagster's pages need; repeatable.",
)
@click.option("--name", help="Who it is: kept beside the log, and erasable.")
@click.option("--email")
@click.option("--no-key", is_flag=True, help="Make no key; such as for who signs in through a proxy.")
@click.option("--days", type=int, default=90, show_default=True, help="The key holds for so long.")
def users_add(
    roles: tuple[str, ...],
    tenants: tuple[str, ...],
    name: str | None,
    email: str | None,
    no_key: bool,
    days: int,
) -> None:
    """Make a user with ROLES, and a key."""
    with open_log(open_to_all=True) as log:
        _check_person(name, email)
        desk = _users(log)
        user = desk.add_user(roles, tenants=tenants)
        _keep_person(log, user.id, name, email)
        key = None if no_key else desk.add_key(user.id, days=days)
    click.echo(f"user {_sentence(user)}")
    if key is not None:
        _show_key(key)


@users.command("list")
def users_list() -> None:
    """Users, their roles and grants, and their keys with expiry and last use."""
    from ml_registry_pipelines.access.people import People, last_uses
    from ml_registry_pipelines.registry.events import now

    with open_log(open_to_all=True) as log:
        desk = _users(log)
        found, keys = desk.list(), desk.keys()
        people, used = People(log.lake).all(), last_uses(log.lake)
    at = now()
    for user in found:
        click.echo(f"{_sentence(user)}{_who(people, user.id)}")
        for key in (key for key in keys if key.user_id == user.id):
            state = "revoked" if key.revoked else "expired" if not key.usable(at) else "holds"
            last = f"{used[key.id]:%Y-%m-%d %H:%M}Z" if key.id in used else "never"
            click.echo(f"    key {key.id}  {state} until {key.expires_at:%Y-%m-%d}  last used {last}")


@users.command("roles")
@click.argument("user")
@click.argument("roles", nargs=-1, required=True, type=ROLES)
def users_roles(user: str, roles: tuple[str, ...]) -> None:
    """Give USER these ROLES in the place of the former ones."""
    with open_log(open_to_all=True) as log:
        click.echo(_sentence(_users(log).set_roles(user, roles)))


@users.command("grant")
@click.argument("user")
@click.argument("tenant")
@click.option("--model", help="Only on this model.")
@click.option("--role", type=ROLES, help="There in this role; by default in the user's own.")
def users_grant(user: str, tenant: str, model: str | None, role: str | None) -> None:
    """Let USER act in TENANT; `*` is every one."""
    with open_log(open_to_all=True) as log:
        click.echo(_sentence(_users(log).grant(user, tenant, model=model, role=role)))


@users.command("revoke")
@click.argument("user")
@click.argument("tenant")
@click.option("--model", help="The grant for this model.")
@click.option("--role", type=ROLES, help="The grant in this role alone.")
def users_revoke(user: str, tenant: str, model: str | None, role: str | None) -> None:
    """Take a grant back; sessions of before are over."""
    with open_log(open_to_all=True) as log:
        click.echo(_sentence(_users(log).revoke(user, tenant, model=model, role=role)))


@users.command("key")
@click.argument("user", required=False)
@click.option("--days", type=int, default=90, show_default=True, help="It holds for so long.")
@click.option("--revoke", metavar="KEY", help="Instead let the key with this id open nothing from now on.")
def users_key(user: str | None, days: int, revoke: str | None) -> None:
    """Make a key for USER, shown once; or revoke one."""
    if (user is None) == (revoke is None):
        raise click.UsageError("give USER, to make a key, or --revoke KEY")
    with open_log(open_to_all=True) as log:
        if revoke is not None:
            key = _users(log).revoke_key(revoke)
            click.echo(f"key {key.id} of {key.user_id} opens nothing any more")
        else:
            assert user is not None
            _show_key(_users(log).add_key(user, days=days))


@users.command("deactivate")
@click.argument("user")
@click.option("--forget", is_flag=True, help="Also erase the name and the address.")
def users_deactivate(user: str, forget: bool) -> None:
    """Let USER do nothing from now on: keys and sessions are over at once."""
    from ml_registry_pipelines.access.people import People

    with open_log(open_to_all=True) as log:
        done = _users(log).deactivate(user)
        if forget:
            People(log.lake).erase(done.id)
    click.echo(_sentence(done))


@users.command("whoami")
def users_whoami() -> None:
    """Whom MLREG_API_KEY stands for, and what that user may do where."""
    from ml_registry_pipelines.access.users import accounts

    with open_log(open_to_all=True) as log:
        actor = shell_actor()
        user = accounts(log).users.get(actor.id)
    click.echo(f"{actor.id} ({actor.authenticated_by})" if user is None else _sentence(user))


def _users(log: Log) -> Users:
    from ml_registry_pipelines.access.users import Users

    return Users(log, actor=shell_actor())


def _check_person(name: str | None, email: str | None) -> None:
    from ml_registry_pipelines.access.people import checked_person

    if name is not None:
        checked_person("nobody", name, email)
    elif email is not None:
        raise click.UsageError("--email needs --name")


def _keep_person(log: Log, user_id: str, name: str | None, email: str | None) -> None:
    from ml_registry_pipelines.access.people import People

    if name is not None:
        People(log.lake).set(user_id, name, email)


def _show_key(key: NewKey) -> None:
    click.echo(f"key, shown this once; it holds until {key.key.expires_at:%Y-%m-%d}:")
    click.echo(key.text)


def _sentence(user: User) -> str:
    state = "" if user.active else "  deactivated"
    grants = "; ".join(
        f"{grant.tenant}"
        + (f" model {grant.model_id}" if grant.model_id else "")
        + (f" as {grant.role.value}" if grant.role else "")
        for grant in user.grants
    )
    roles = ", ".join(sorted(role.value for role in user.roles))
    return f"{user.id}  {roles}  in {grants or ('*' if user.is_admin else 'no tenant')}{state}"


def _who(people: Mapping[str, Person], user_id: str) -> str:
    person = people.get(user_id)
    return "" if person is None else f"  {person.name}{f' <{person.email}>' if person.email else ''}"


def attach(to: click.Group) -> None:
    """Attach the commands."""
    to.add_command(users)
