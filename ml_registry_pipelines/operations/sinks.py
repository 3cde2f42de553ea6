"""Where alerts go: sinks, each with a filter, from a YAML file; and what each of them is sent.

`alert-sinks.yaml` below the home::

    sinks:
      - name: on-call
        slack: env:ONCALL_HOOK        # an address, or the environment variable that holds it
        severity: error               # these and worse: info, warning or error; left out: all
      - name: finance
        email: [cfo@example.org]      # the mail server comes from MLREG_SMTP_HOST and so on
        kinds: [budget_*]             # `*` stands for anything; left out: all
        tenants: [acme]               # left out: all, and what concerns no tenant
      - name: tickets
        webhook: https://tickets.example.org/alerts
      - name: archive
        folder: /var/log/mlreg-alerts # a file of JSON lines per day, in a folder or s3://bucket/prefix

An address is the operator's own choice and may lead into a private network, unlike that of a
subscription. It may hold a secret, so that only its host is ever shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError, open_folder
from ml_registry_pipelines.lake.tables.operations import ALERTS
from ml_registry_pipelines.operations.alerts import Severity
from ml_registry_pipelines.operations.mail import MailError, MailServer, checked_address, send_mail
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.strict_yaml import strict_loader
from ml_registry_pipelines.webhooks.addresses import Allowed
from ml_registry_pipelines.webhooks.posting import NotDelivered, post_json

FILE = "alert-sinks.yaml"
SECONDS = 5.0
"""Time for one message, from name to answer."""
REFUSALS = (400, 413, 415, 422)
"""What a receiver answers when it will never take this message."""
FROM_ENVIRONMENT = "env:"
MOST_SINKS = 50
SLACK_TITLE, SLACK_TEXT = 150, 3_000
"""Characters of a header and of a text that Slack takes."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED = frozenset({"files", "webhook"})
"""The file below the home, and the address in MLREG_ALERT_WEBHOOK."""
_FIELDS = ("name", "slack", "webhook", "email", "folder", "severity", "kinds", "tenants")
Row = Mapping[str, Any]
"""A row of `alerts`."""


class SinksError(MlregError):
    """A sink, or the file of the sinks, cannot be used."""


class NotTold(MlregError):
    """A sink did not take a message now; it may later."""


class Refused(MlregError):
    """A sink will never take this message; the next one it may."""


class Form(Enum):
    """What a sink is."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"
    FOLDER = "folder"


@dataclass(frozen=True)
class Filter:
    """Which alerts a sink hears of. `kinds` are patterns; of none, and of no tenant, all."""

    severity: Severity = Severity.INFO
    kinds: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    def passes(self, row: Row) -> bool:
        """Whether the sink is to hear of a row."""
        return (
            not row["silent"]
            and not self.severity.above(Severity(row["severity"]))
            and (not self.kinds or any(fnmatchcase(row["kind"], pattern) for pattern in self.kinds))
            and (not self.tenants or row["tenant"] in self.tenants)
        )

    def says(self) -> str:
        """The filter in words."""
        parts = [
            f"{self.severity.value} and worse" if self.severity is not Severity.INFO else "",
            ", ".join(self.kinds),
            f"of {', '.join(self.tenants)}" if self.tenants else "",
        ]
        return "; ".join(part for part in parts if part) or "everything"


@dataclass(frozen=True)
class Sink:
    """One receiver of alerts. `to`: its address, as written; of e-mail the recipients."""

    name: str
    form: Form
    to: tuple[str, ...]
    filter: Filter = Filter()

    @property
    def place(self) -> str:
        """Where it leads, without what may be a secret."""
        if self.form in {Form.EMAIL, Form.FOLDER} or self.to[0].startswith(FROM_ENVIRONMENT):
            return ", ".join(self.to)
        return urlsplit(self.to[0]).netloc.rpartition("@")[2]

    def tell(self, row: Row) -> None:
        """Send one state of one alert; on return it was taken.

        Raises:
            NotTold: the sink is away, or refuses for a reason that may pass.
            Refused: it refuses this message, or one of several recipients.
        """
        _SENDERS[self.form](self, row)

    def address(self) -> str:
        """The address to post to.

        Raises:
            SinksError: it is not where it should be, or none.
        """
        given = self.to[0]
        if not given.startswith(FROM_ENVIRONMENT):
            return given
        name = given.removeprefix(FROM_ENVIRONMENT)
        found = os.environ.get(name, "").strip()
        if not found:
            raise SinksError(f"the address of sink {self.name!r} is not in environment variable {name}")
        return checked_address_of_a_sink(found, f"environment variable {name}")


def checked_address_of_a_sink(url: str, what: str) -> str:
    """An address that takes posts.

    Raises:
        SinksError: it is none. `what` names it, since it may hold a secret.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(ord(character) < 33 for character in url):
        raise SinksError(f"{what} must be an address such as https://hooks.example.org/alerts")
    return url


# -- the file --------------------------------------------------------------------------------------


def configured_sinks(home: str) -> tuple[Sink, ...]:
    """The sinks of `alert-sinks.yaml` below the home; none where there is no such file.

    Raises:
        SinksError: the file does not say what it has to.
    """
    folder = open_folder(home)
    if not folder.exists(FILE):
        return ()
    return read_sinks(folder.read(FILE).decode("utf-8", "replace"), file=f"{home}/{FILE}")


def read_sinks(text: str, *, file: str) -> tuple[Sink, ...]:
    """Read a file of sinks; `file` is what errors call it.

    Raises:
        SinksError: with the file, the sink, and what to write instead.
    """
    import yaml

    try:
        top = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - builds texts and containers alone
    except yaml.YAMLError as wrong:
        raise SinksError(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(top, dict) or set(top) != {"sinks"} or not isinstance(top["sinks"], list):
        raise SinksError(f"{file} has to hold `sinks`, a list, and nothing else")
    if len(top["sinks"]) > MOST_SINKS:
        raise SinksError(f"{file} has {len(top['sinks'])} sinks; {MOST_SINKS} at most")
    sinks = tuple(
        _sink(entry, f"{file}, sink {number}") for number, entry in enumerate(top["sinks"], start=1)
    )
    names = [sink.name for sink in sinks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SinksError(
            f"{file}: two sinks are called {twice!r}; each remembers under its name what it was told"
        )
    return sinks


def _sink(entry: object, where: str) -> Sink:
    def fail(why: str) -> NoReturn:
        raise SinksError(f"{where}: {why}")

    if not isinstance(entry, dict):
        fail("has to be a mapping with name and one of slack, webhook, email and folder")
    if unknown := [key for key in entry if key not in _FIELDS]:
        fail(f"unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
        fail(
            f"name {name!r} has to be lower-case letters, digits, _ and -, and none of {', '.join(sorted(RESERVED))}"
        )
    forms = [form for form in Form if form.value in entry]
    if len(forms) != 1:
        fail("needs exactly one of slack, webhook, email and folder")
    severity = entry.get("severity", "info")
    if severity not in {each.value for each in Severity}:
        fail(f"severity {severity!r} has to be info, warning or error")
    shown = Filter(Severity(severity), _texts(entry, "kinds", fail), _texts(entry, "tenants", fail))
    to = _texts(entry, forms[0].value, fail)
    return Sink(name, forms[0], _checked_to(forms[0], to, where, fail), shown)


def _checked_to(
    form: Form, to: tuple[str, ...], where: str, fail: Callable[[str], NoReturn]
) -> tuple[str, ...]:
    if not to or (form is not Form.EMAIL and len(to) > 1):
        fail(f"{form.value} has to be one address{', or a list of them' if form is Form.EMAIL else ''}")
    if form is Form.EMAIL:
        try:
            return tuple(checked_address(each) for each in to)
        except MailError as wrong:
            fail(str(wrong))
    if form is Form.FOLDER:
        if not to[0].startswith(("/", "s3://")):
            fail(f"folder {to[0]!r} has to begin with / or s3://")
    elif to[0].startswith(FROM_ENVIRONMENT):
        if not to[0].removeprefix(FROM_ENVIRONMENT).isidentifier():
            fail(f"{form.value} {to[0]!r} names no environment variable")
    else:
        checked_address_of_a_sink(to[0], f"{where}: {form.value}")
    return to


def _texts(entry: Mapping[str, Any], key: str, fail: Callable[[str], NoReturn]) -> tuple[str, ...]:
    given = entry.get(key)
    if given is None:
        return ()
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(each, str) and each.strip() for each in listed):
        fail(f"{key} has to be a text or a list of texts")
    return tuple(each.strip() for each in listed)


# -- what is sent ----------------------------------------------------------------------------------


def plain(row: Row) -> dict[str, Any]:
    """The row as JSON holds it."""
    values = {name: row[name] for name in ALERTS.column_names}
    return {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def headline(row: Row) -> str:
    """One line: how bad, whether it is new, what."""
    words = {
        "opened": "",
        "escalated": "worse: ",
        "acknowledged": "acknowledged: ",
        "reminded": "still so: ",
        "resolved": "resolved: ",
    }
    return f"[{row['severity']}] {words[row['state']]}{row['title']}"


def _post(sink: Sink, row: Row, body: Mapping[str, Any]) -> None:
    try:
        url = sink.address()
        host = urlsplit(url).hostname or ""
        post_json(
            url,
            json.dumps(body, ensure_ascii=False).encode(),
            {"Idempotency-Key": identity(row)},
            allowed=Allowed(frozenset({host.lower()})),
            whole_seconds=SECONDS,
        )
    except NotDelivered as failure:
        kind = Refused if failure.status in REFUSALS else NotTold
        raise kind(str(failure)) from None
    except (RegistryError, SinksError) as failure:
        raise NotTold(str(failure)) from None


def identity(row: Row) -> str:
    """What is the same each time one state of an alert is told."""
    return f"{row['alert_id']}-{row['state']}-{microseconds(row['recorded_at'])}"


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _to_webhook(sink: Sink, row: Row) -> None:
    _post(sink, row, {**plain(row), "text": f"{headline(row)}\n{row['message']}"})


def _to_slack(sink: Sink, row: Row) -> None:
    """An incoming webhook's payload: `text` for notifications, blocks for the channel."""
    about = [f"`{_escaped(row['alert_key'])}`", _escaped(row["tenant"] or ""), row["alert_id"][:12]]
    body = {
        "text": _escaped(f"{headline(row)}\n{row['message']}")[:SLACK_TEXT],
        "blocks": [
            {
                "type": "header",
                "text": {"type": "plain_text", "text": headline(row)[:SLACK_TITLE], "emoji": False},
            },
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": _escaped(row["message"] or "-")[:SLACK_TEXT]},
            },
            {
                "type": "context",
                "elements": [{"type": "mrkdwn", "text": " · ".join(filter(None, about))[:SLACK_TEXT]}],
            },
        ],
    }
    _post(sink, row, body)


def _escaped(text: str) -> str:
    """Slack's three control characters, so that no name in a log can mention a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _to_email(sink: Sink, row: Row) -> None:
    try:
        server = MailServer.from_environment()
        domain = server.sender.rpartition("@")[2]
        sent = send_mail(
            server,
            recipients=sink.to,
            subject=headline(row),
            text=_mail_text(row),
            message_id=f"<{identity(row)}@{domain}>",
            seconds=SECONDS,
        )
    except MailError as failure:
        # Even a refusal for good is about address, login or server: once mended, the mail goes.
        raise NotTold(str(failure)) from None
    if sent.refused:
        raise Refused("; ".join(f"{who} does not get e-mail: {why}" for who, why in sent.refused))


def _mail_text(row: Row) -> str:
    lines = [
        row["title"],
        "",
        row["message"],
        "",
        f"State: {row['state']}, at {row['recorded_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
        f"Alert: {row['alert_key']} ({row['alert_id'][:12]})",
    ]
    if row["tenant"]:
        lines.append(f"Tenant: {row['tenant']}")
    if row["state"] != "resolved":
        whose = f" --tenant {row['tenant']}" if row["tenant"] else ""
        lines.append(f"To take it on: mlreg alerts ack {row['alert_id'][:12]} --hours 4{whose}")
    return "\n".join(lines) + "\n"


def _to_folder(sink: Sink, row: Row) -> NoReturn:
    raise AssertionError(f"the files of {sink.name} are written whole, not row by row ({row['alert_id']})")


_SENDERS: Mapping[Form, Callable[[Sink, Row], None]] = {
    Form.WEBHOOK: _to_webhook,
    Form.SLACK: _to_slack,
    Form.EMAIL: _to_email,
    Form.FOLDER: _to_folder,
}


def usable_sinks(home: str, webhook: str | None) -> tuple[tuple[Sink, ...], str | None]:
    """Those of the file, and the address that MLREG_ALERT_WEBHOOK holds; and why some cannot be used.

    What is wrong with the one does not keep the other from being told.
    """
    sinks: list[Sink] = []
    problems: list[str] = []
    for read in (partial(_of_environment, webhook), partial(configured_sinks, home)):
        try:
            sinks += read()
        except (SinksError, FilesError) as wrong:
            problems.append(str(wrong))
    return tuple(sinks), "; ".join(problems) or None


def _of_environment(webhook: str | None) -> tuple[Sink, ...]:
    return () if webhook is None else (webhook_sink(webhook),)


def webhook_sink(url: str) -> Sink:
    """The sink that MLREG_ALERT_WEBHOOK names.

    Raises:
        SinksError: it holds no address.
    """
    return Sink("webhook", Form.WEBHOOK, (checked_address_of_a_sink(url, "MLREG_ALERT_WEBHOOK"),))
