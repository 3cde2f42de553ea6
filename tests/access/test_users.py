"""Users, roles, grants and keys: who gets in, who may what, and where."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_registry_pipelines.access.policy import may, owner_of, platform, tenants_of
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.users import (
    ACCESS_TENANT,
    KeyRefused,
    NewKey,
    Users,
    accounts,
    actor_for_key,
)
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import BY_KEY, Actor
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotAllowed
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import Things

ANYBODY = Actor("somebody")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as opened:
        yield opened


def first_admin(log: Log) -> tuple[Users, NewKey]:
    _, key = Users(log, actor=owner_of(log.lake)).init()
    return Users(log, actor=actor_for_key(log, key.text)), key


def signed_in(users: Users, *roles: str, tenants: tuple[str, ...] = ("default",)) -> Actor:
    user = users.add_user(roles, tenants=tenants)
    return actor_for_key(users.log, users.add_key(user.id).text)


def test_without_users_in_dev_everything_works_and_the_events_say_that_nobody_was_authenticated(
    log: Log,
) -> None:
    ModelRegistry(log, actor=ANYBODY).register_model("fraud")
    (event,) = log.events("default", [1])
    assert event.authenticated_by == "unauthenticated"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_beyond_dev_nobody_does_anything_before_there_are_users(
    log: Log, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLREG_ENV", environment)
    with pytest.raises(NotAllowed, match="nobody has made sure who that is; set MLREG_API_KEY"):
        ModelRegistry(log, actor=ANYBODY).register_model("fraud")
    users, _ = first_admin(log)
    ModelRegistry(log, actor=signed_in(users, "engineer")).register_model("fraud")


def test_once_there_are_users_an_actor_that_nobody_authenticated_neither_writes_nor_reads(log: Log) -> None:
    ModelRegistry(log, actor=ANYBODY).register_model("fraud")
    users, _ = first_admin(log)
    for door in (Actor("somebody"), Actor("nobody-knows-me", authenticated_by=BY_KEY)):
        with pytest.raises(NotAllowed):
            ModelRegistry(log, actor=door).register_model("other")
        with pytest.raises(NotAllowed):
            Things(log, actor=door).get("model", "fraud")
    assert Things(log, actor=users.actor).get("model", "fraud").name == "fraud"


def test_each_event_says_who_acted_and_how_the_door_made_sure(log: Log) -> None:
    users, _ = first_admin(log)
    engineer = signed_in(users, "engineer")
    ModelRegistry(log, actor=engineer).register_model("fraud")
    (event,) = log.events("default", [1])
    assert (event.actor, event.authenticated_by) == (engineer.id, "api_key")
    assert engineer.id.startswith("u-")


@pytest.mark.parametrize("role", ["viewer", "reviewer", "compliance"])
def test_who_is_no_engineer_reads_and_registers_nothing(log: Log, role: str) -> None:
    users, _ = first_admin(log)
    actor = signed_in(users, role)
    with pytest.raises(NotAllowed, match=f"that takes admin or engineer, and it is {role} there"):
        ModelRegistry(log, actor=actor).register_model("fraud")
    assert Things(log, actor=actor).find("model") == []


def test_a_tenant_without_a_grant_is_closed_to_reads_and_commands(log: Log) -> None:
    users, _ = first_admin(log)
    actor = signed_in(users, "engineer", tenants=("acme",))
    ModelRegistry(log, actor=actor, tenant="acme").register_model("fraud")
    with pytest.raises(NotAllowed, match="it has no grant there"):
        ModelRegistry(log, actor=actor, tenant="default").register_model("fraud")
    with pytest.raises(NotAllowed):
        Things(log, actor=actor, tenant="default").find("model")
    assert tenants_of(log, actor) == frozenset({"acme"})
    assert tenants_of(log, users.actor) is None
    assert tenants_of(log, ANYBODY) == frozenset()


def test_a_grant_for_one_model_opens_that_model_and_no_other(log: Log) -> None:
    users, _ = first_admin(log)
    for name in ("fraud", "credit"):
        ModelRegistry(log, actor=users.actor).register_model(name)
    actor = signed_in(users, "viewer", tenants=())
    users.grant(actor.id, "default", model="fraud", role="engineer")
    assert may(log, actor, "promote_to_production", "default", "fraud").allowed
    assert may(log, actor, "promote_to_production", "default", "fraud@v3").allowed is False  # There is none.
    assert not may(log, actor, "promote_to_production", "default", "credit").allowed
    assert not may(log, actor, "read", "default").allowed
    ModelRegistry(log, actor=actor).things.describe("model", "fraud", "flags card fraud")
    with pytest.raises(NotAllowed):
        ModelRegistry(log, actor=actor).things.describe("model", "credit", "scores")
    users.revoke(actor.id, "default", model="fraud")
    assert not may(log, actor, "promote_to_production", "default", "fraud").allowed


def test_a_key_is_shown_once_and_neither_the_log_nor_any_file_holds_it(log: Log) -> None:
    users, key = first_admin(log)
    users.log.settle()
    secret = key.text.rsplit("_", 1)[0] and key.text[len("mlreg_") + 17 :]
    files = [path for path in Path(log.lake.root).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in repr(users.keys())


def test_keys_that_are_wrong_expired_or_revoked_open_nothing(log: Log) -> None:
    users, key = first_admin(log)
    wrong = key.text[:-1] + ("A" if key.text[-1] != "A" else "B")
    for text in ("", "mlreg_", wrong, "mlreg_0123456789abcdef_" + "x" * 43, "ü" * 70):
        with pytest.raises(KeyRefused, match="not valid here"):
            actor_for_key(log, text)
    with pytest.raises(KeyRefused):
        accounts(log).user_for_key(key.text, datetime.now(UTC) + timedelta(days=91))
    other = users.add_key(users.actor.id)
    users.revoke_key(other.key.id)
    with pytest.raises(KeyRefused):
        actor_for_key(log, other.text)
    assert actor_for_key(log, key.text) == users.actor


def test_a_deactivated_user_is_out_at_once_in_other_processes_too(log: Log) -> None:
    users, _ = first_admin(log)
    actor = signed_in(users, "engineer")
    with Log(Lake(log.lake.root)) as elsewhere:
        ModelRegistry(elsewhere, actor=actor).register_model("fraud")
        users.deactivate(actor.id)
        with pytest.raises(NotAllowed, match="that user is deactivated"):
            ModelRegistry(elsewhere, actor=actor).register_model("other")


def test_only_admins_keep_users(log: Log) -> None:
    users, _ = first_admin(log)
    for role in ("viewer", "engineer", "reviewer", "compliance"):
        desk = Users(log, actor=signed_in(users, role))
        with pytest.raises(NotAllowed, match="users are kept by an admin"):
            desk.add_user(["admin"])
        with pytest.raises(NotAllowed):
            desk.set_roles(desk.actor.id, ["admin"])
        with pytest.raises(NotAllowed):
            desk.add_key(users.actor.id)
    with pytest.raises(NotAllowed):
        Users(log, actor=platform("sensor")).add_user(["admin"])


def test_the_first_admin_is_made_once_by_the_owner_of_the_folder_and_again_only_after_a_lock_out(
    log: Log,
) -> None:
    with pytest.raises(NotAllowed, match="mlreg users init"):
        Users(log, actor=ANYBODY).init()
    with pytest.raises(NotAllowed, match="there are no users yet"):
        Users(log, actor=ANYBODY).add_user(["admin"])
    users, key = first_admin(log)
    with pytest.raises(IllegalTransition, match="an admin with a valid key already"):
        Users(log, actor=owner_of(log.lake)).init()
    users.revoke_key(key.key.id)
    first_admin(log)


def test_the_last_admin_stays(log: Log) -> None:
    users, _ = first_admin(log)
    with pytest.raises(IllegalTransition, match="the only admin"):
        users.deactivate(users.actor.id)
    with pytest.raises(IllegalTransition, match="the only admin"):
        users.set_roles(users.actor.id, ["viewer"])
    second = users.add_user([Role.ADMIN])
    users.deactivate(second.id)


def test_nothing_else_can_be_put_where_users_are_looked_up(log: Log) -> None:
    state = {"roles": ["admin"], "grants": [], "active": True, "session": 1}
    with pytest.raises(InvalidInput):
        Things(log, actor=ANYBODY, tenant=ACCESS_TENANT).register("access_user", "me", metadata=state)
    with pytest.raises(NotAllowed, match="holds users and keys"):
        Things(log, actor=ANYBODY, tenant=ACCESS_TENANT).register("feature", "me", metadata=state)
    users, _ = first_admin(log)
    with pytest.raises(NotAllowed, match="holds users and keys"):
        Things(log, actor=users.actor, tenant=ACCESS_TENANT).restore("access_user", users.actor.id)
    for tenant in ("default", ACCESS_TENANT):
        assert not may(log, users.actor, "register_access_user", tenant).allowed or tenant == "default"
    assert not may(log, users.actor, "add_user", "default").allowed
    assert not may(log, users.actor, "import_tenant", ACCESS_TENANT).allowed


def test_roles_that_do_not_exist_are_refused_with_those_that_do(log: Log) -> None:
    users, _ = first_admin(log)
    with pytest.raises(InvalidInput, match="'root' is no role; the roles are viewer, engineer"):
        users.add_user(["root"])
    with pytest.raises(InvalidInput, match="at least one role"):
        users.add_user([])
    with pytest.raises(InvalidInput, match="admin is a role of a user"):
        users.grant(users.actor.id, "default", role="admin")
