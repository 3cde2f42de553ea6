"""The demo's users: an admin, an engineer, a reviewer and a compliance officer, and where their keys are kept.

A key is written before it holds, so that a demo that is killed has lost none.
"""

from __future__ import annotations

import os
from pathlib import Path

from ml_registry_pipelines.access.policy import owner_of
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.users import (
    ACCESS_TENANT,
    EVERY_TENANT,
    LONGEST_KEY_DAYS,
    NewKey,
    Users,
    accounts,
    actor_for_key,
)
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.services import dagster_home
from ml_registry_pipelines.settings import Settings

ROLES = (Role.ADMIN, Role.ENGINEER, Role.REVIEWER, Role.COMPLIANCE)
FOLDER = "demo-keys"


class KeyGone(MlregError):
    """A key of the demo's that a step needs is not where the demo has put it."""


class DemoPeople:
    """The demo's users and their keys.

    Args:
        log: the log of the demo's home.
        settings: where that is.
    """

    def __init__(self, log: Log, settings: Settings) -> None:
        self._log = log
        home = dagster_home(settings) if settings.home.startswith("s3://") else Path(settings.home)
        self.folder = home / FOLDER
        self._actors: dict[Role, Actor] = {}

    def file(self, role: Role) -> Path:
        """The file that holds the key of a role, and nothing else."""
        return self.folder / f"{role.value}.key"

    def has_key(self, role: Role) -> bool:
        """Whether the key of a role is there, and one that the log knows."""
        text = self._text(role)
        parts = text.split("_", 2)
        return len(parts) == 3 and parts[1] in accounts(self._log).keys

    def strangers(self) -> bool:
        """Whether there are users, and the first of them is not the demo's."""
        return accounts(self._log).any and not self.has_key(Role.ADMIN)

    def make(self, role: Role) -> None:
        """Make the user of a role, unless an interrupted demo has, and a key."""
        if role is Role.ADMIN:
            Users(self._log, actor=owner_of(self._log.lake)).init(keep=self._keep(role))
            return
        users = Users(self._log, actor=self.actor(Role.ADMIN))
        made = users.add_user([role], tenants=[EVERY_TENANT], idempotency_key=f"demo/{role.value}")
        users.add_key(made.id, days=LONGEST_KEY_DAYS, keep=self._keep(role))

    def actor(self, role: Role) -> Actor:
        """Who has the key of a role, as the actor of commands.

        Raises:
            KeyGone: it is not there.
            KeyRefused: it lets nobody in any more.
        """
        if role not in self._actors:
            if not (text := self._text(role)):
                raise KeyGone(
                    f"the key of the demo's {role.value} is not in {self.file(role)}, and there are steps left that "
                    "take it; put it back, or set MLREG_HOME to a new folder for the demo"
                )
            self._actors[role] = actor_for_key(self._log, text, door="demo")
        return self._actors[role]

    def role_of(self, actor: str) -> str:
        """What somebody is here, for people to read: the role of a user of the demo's, or the name of a service."""
        user = accounts(self._log).users.get(actor)
        return " and ".join(sorted(role.value for role in user.roles)) if user else actor

    def lines(self) -> list[str]:
        """Who there is, and how to act as one of them."""
        there = [role.value for role in ROLES if self.file(role).exists()]
        if not there:
            return []
        return [
            f"{', '.join(there)}: random pseudonyms, a key of each in {self.folder}",
            f"at the shell: export MLREG_API_KEY=$(cat {self.file(Role.ENGINEER)})",
            f"in the pages of `make ui`: sign in with the key in {self.file(Role.ADMIN).name}, or another",
        ]

    def _text(self, role: Role) -> str:
        try:
            return self.file(role).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _keep(self, role: Role) -> Keeper:
        return Keeper(self.file(role))


class Keeper:
    """Writes a key into a file that its account alone may read, in one step."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, key: NewKey) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{key.text}\n")
        aside.replace(self._file)


def users_made(log: Log, role: Role) -> bool:
    """Whether the demo's user of a role, who is no admin, was ever made here."""
    return bool(log.done_under(ACCESS_TENANT, "add_user", f"demo/{role.value}"))
