"""Where reports may go: the recipients that the operator keeps in a YAML file, outside the log.

`report-recipients.yaml` below the home::

    recipients:
      - name: finance
        email: [cfo@example.org, controlling@example.org]
        tenants: [acme]                 # who may send here; left out: every tenant
      - name: warehouse
        webhook: https://reports.example.org/mlreg    # or env:NAME_OF_HOOK
        secret: env:WAREHOUSE_HOOK_SECRET             # signs what is posted
      - name: archive
        folder: /srv/reports            # or s3://bucket/prefix; relative: below the home

Addresses stand here and not in events, because they name people: the log can't forget, this
file can. A subscription names a recipient, so a tenant sends reports nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.operations.mail import MOST_RECIPIENTS, MailError, checked_address
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError, shown
from ml_registry_pipelines.strict_yaml import strict_loader
from ml_registry_pipelines.webhooks.addresses import Allowed, checked_url

FILE = "report-recipients.yaml"
FROM_ENVIRONMENT = "env:"
SHORTEST_SECRET = 16
MOST = 1_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_FIELDS = ("name", "email", "webhook", "folder", "secret", "tenants")


class RecipientsError(MlregError):
    """The file of recipients, or one of them, cannot be used."""


class Channel(Enum):
    """How a report travels."""

    EMAIL = "email"
    WEBHOOK = "webhook"
    FOLDER = "folder"


@dataclass(frozen=True)
class Recipient:
    """One recipient. `to`: its address as written, of e-mail one or several. No tenants: all may send to it."""

    name: str
    channel: Channel
    to: tuple[str, ...]
    secret: str | None = None
    tenants: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where it leads, without what may be a secret."""
        if self.channel is not Channel.WEBHOOK or self.to[0].startswith(FROM_ENVIRONMENT):
            return ", ".join(self.to)
        return urlsplit(self.to[0]).netloc.rpartition("@")[2]

    def takes_from(self, tenant: str) -> bool:
        """Whether a tenant may send to it."""
        return not self.tenants or tenant in self.tenants

    def url(self, allowed: Allowed) -> str:
        """The address of a webhook.

        Raises:
            RecipientsError: it is in an environment variable that is not set.
            InvalidInput: it is none, or may not be spoken to.
        """
        if not self.to[0].startswith(FROM_ENVIRONMENT):
            return checked_url(self.to[0], allowed)
        return checked_url(self._variable(self.to[0], "address"), allowed, shown=self.to[0])

    def key(self) -> bytes:
        """The secret that signs what is posted.

        Raises:
            RecipientsError: it is not set, or too short.
        """
        found = self._variable(str(self.secret), "secret").encode()
        if len(found) < SHORTEST_SECRET:
            raise RecipientsError(
                f"the secret of recipient {self.name!r} in {self.secret} has under {SHORTEST_SECRET} characters; "
                "make one with `openssl rand -hex 32`"
            )
        return found

    def _variable(self, given: str, what: str) -> str:
        name = given.removeprefix(FROM_ENVIRONMENT)
        found = os.environ.get(name, "").strip()
        if not found:
            raise RecipientsError(
                f"the {what} of recipient {self.name!r} is not in environment variable {name}"
            )
        return found


def configured_recipients(home: str) -> dict[str, Recipient]:
    """The recipients of the file below the home, by name; none where there is no such file.

    Raises:
        RecipientsError: the file does not say what it has to.
    """
    folder = open_folder(home)
    if not folder.exists(FILE):
        return {}
    return read_recipients(folder.read(FILE).decode("utf-8", "replace"), file=f"{home}/{FILE}", home=home)


def read_recipients(text: str, *, file: str, home: str) -> dict[str, Recipient]:
    """Read a file of recipients; `file` is what errors call it, `home` where relative folders begin.

    Raises:
        RecipientsError: with the file, the recipient, and what to write instead.
    """
    import yaml

    try:
        top = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - builds texts and containers alone
    except yaml.YAMLError as wrong:
        raise RecipientsError(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(top, dict) or set(top) != {"recipients"} or not isinstance(top["recipients"], list):
        raise RecipientsError(f"{file} has to hold `recipients`, a list, and nothing else")
    if len(top["recipients"]) > MOST:
        raise RecipientsError(f"{file} has {len(top['recipients']):,} recipients; {MOST:,} at most")
    found: dict[str, Recipient] = {}
    for number, entry in enumerate(top["recipients"], start=1):
        recipient = _recipient(entry, f"{file}, recipient {number}", home)
        if recipient.name in found:
            raise RecipientsError(f"{file}: two recipients are called {recipient.name!r}")
        found[recipient.name] = recipient
    return found


def recipient_for(recipients: Mapping[str, Recipient], name: str, tenant: str) -> Recipient:
    """The recipient of that name, if the tenant may send to it.

    Raises:
        InvalidInput: there is none that it may send to. Recipients of others are not named.
    """
    found = recipients.get(name)
    if found is None or not found.takes_from(tenant):
        known = sorted(each.name for each in recipients.values() if each.takes_from(tenant))
        has = f"it may send to {', '.join(known)}" if known else f"the operator keeps them in {FILE}"
        raise InvalidInput(f"tenant {shown(tenant)} has no recipient {shown(name)} of reports; {has}")
    return found


def _recipient(entry: object, where: str, home: str) -> Recipient:
    def fail(why: str) -> NoReturn:
        raise RecipientsError(f"{where}: {why}")

    if not isinstance(entry, dict):
        fail("has to be a mapping with name and one of email, webhook and folder")
    if unknown := [key for key in entry if key not in _FIELDS]:
        fail(f"unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        fail(f"name {name!r} has to be lower-case letters, digits, _ and -")
    channels = [channel for channel in Channel if channel.value in entry]
    if len(channels) != 1:
        fail("needs exactly one of email, webhook and folder")
    (channel,) = channels
    to = _texts(entry, channel.value, where)
    if not to or (channel is not Channel.EMAIL and len(to) > 1):
        fail(f"{channel.value} has to be one address{' or a list' if channel is Channel.EMAIL else ''}")
    secret = entry.get("secret")
    if (secret is not None) != (channel is Channel.WEBHOOK):
        fail("a webhook, and nothing else, needs a secret: env: and the name of an environment variable")
    if secret is not None and not _is_variable(secret):
        fail("secret has to be env: and the name of an environment variable, never the secret itself")
    try:
        to = tuple(_checked(channel, each, home) for each in to)
    except (MailError, RegistryError, RecipientsError) as wrong:
        fail(str(wrong))
    if channel is Channel.EMAIL and len(to) > MOST_RECIPIENTS:
        fail(f"{len(to)} addresses are too many for one e-mail, which takes {MOST_RECIPIENTS}")
    return Recipient(name, channel, to, secret, _texts(entry, "tenants", where))


def _checked(channel: Channel, to: str, home: str) -> str:
    match channel:
        case Channel.EMAIL:
            return checked_address(to)
        case Channel.WEBHOOK:
            if to.startswith(FROM_ENVIRONMENT):
                if not _is_variable(to):
                    raise RecipientsError("webhook has to be an address, or env: and the name of a variable")
                return to
            return checked_url(to, Allowed.from_environment())
        case Channel.FOLDER:
            if "\0" in to or ".." in PurePosixPath(to).parts:
                raise RecipientsError(f"folder {to!r} has to be a path without `..`, or s3://bucket/prefix")
            if to.startswith("s3://") and urlsplit(to).netloc:
                return to.rstrip("/")
            if "://" in to:
                raise RecipientsError(f"folder {to!r} has to be a path, or s3://bucket/prefix")
            return to if to.startswith("/") else f"{home}/{to}"


def _is_variable(given: object) -> bool:
    return (
        isinstance(given, str)
        and given.startswith(FROM_ENVIRONMENT)
        and _VARIABLE.fullmatch(given.removeprefix(FROM_ENVIRONMENT)) is not None
    )


def _texts(entry: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    given = entry.get(field, [])
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        raise RecipientsError(f"{where}: {field} has to be a text, or a list of texts")
    return tuple(dict.fromkeys(values))
