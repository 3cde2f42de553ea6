"""Whom pseudonyms stand for, and when keys were used: kept beside the log, where it can be changed and erased."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.lake import LakeError
from ml_registry_pipelines.lake.tables.users import API_KEY_USES, USER_DIRECTORY
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.events import now
from ml_registry_pipelines.registry.names import checked_name

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

DIRECTORY = USER_DIRECTORY.name
USES = API_KEY_USES.name
NOTED_SECONDS = 60.0
_EMAIL = re.compile(r"[^\s@]{1,64}@[^\s@]{1,255}")
_PSEUDONYM = re.compile(r"[A-Za-z0-9_-]{1,200}")
_log = logging.getLogger(__name__)
_noted: dict[tuple[str, str], float] = {}
_noting = threading.Lock()


@dataclass(frozen=True)
class Person:
    """The person behind a pseudonym."""

    user_id: str
    name: str
    email: str | None = None


class People:
    """The directory of names. Its rows can be erased; what the log says of the pseudonym stays."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def set(self, user_id: str, name: str, email: str | None = None) -> Person:
        """Say who a user is; what was said before is erased from every file.

        Raises:
            InvalidInput: the name cannot be shown, or the address is none.
        """
        import pyarrow as pa

        person = checked_person(user_id, name, email)
        self.erase(user_id)
        row = {"user_id": user_id, "name": person.name, "email": person.email, "recorded_at": now()}
        self._lake.append_next(
            DIRECTORY, pa.Table.from_pylist([row], schema=USER_DIRECTORY.schema), source="users"
        )
        return person

    def erase(self, user_id: str) -> int:
        """Forget who a user is; return how many rows went."""
        if not _PSEUDONYM.fullmatch(user_id):
            raise InvalidInput(f"{shown(user_id)} is no pseudonym of a user")
        if not self._lake.exists(DIRECTORY):
            return 0
        return self._lake.erase(DIRECTORY, f"user_id = '{user_id}'").rows

    def all(self) -> Mapping[str, Person]:
        """Everybody, by pseudonym; of several rows about one the newest."""
        if not self._lake.exists(DIRECTORY):
            return {}
        with self._lake.read(DIRECTORY) as reading:
            rows = reading.query(
                "access.people", "SELECT user_id, name, email FROM user_directory ORDER BY recorded_at"
            )
        return {row["user_id"]: Person(**row) for row in rows.to_pylist()}


def checked_person(user_id: str, name: str, email: str | None) -> Person:
    """What the directory may hold of a person."""
    if email is not None and not _EMAIL.fullmatch(email):
        raise InvalidInput("the e-mail address is none; write one such as ada@example.org")
    return Person(user_id, checked_name(name, "name of a user"), email)


def note_use(lake: Lake, key_id: str, door: str) -> None:
    """Note that a key was used, once a minute; that it cannot be noted is no reason to refuse the key."""
    import pyarrow as pa

    with _noting:
        last = _noted.get((lake.root, key_id))
        if last is not None and time.monotonic() - last < NOTED_SECONDS:
            return
        _noted[lake.root, key_id] = time.monotonic()
    row = {"key_id": key_id, "used_at": now(), "door": door}
    try:
        lake.append_next(USES, pa.Table.from_pylist([row], schema=API_KEY_USES.schema), source="keys")
    except LakeError as failure:
        _log.warning("the use of a key was not noted: %s", failure)


def last_uses(lake: Lake) -> Mapping[str, datetime]:
    """When each key was used last, by its id."""
    if not lake.exists(USES):
        return {}
    with lake.read(USES) as reading:
        rows = reading.query(
            "access.last_uses", "SELECT key_id, max(used_at) AS used_at FROM api_key_uses GROUP BY key_id"
        )
    return {row["key_id"]: row["used_at"] for row in rows.to_pylist()}
