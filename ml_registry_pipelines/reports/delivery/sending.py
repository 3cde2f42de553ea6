"""One message to one recipient: by e-mail with attachments, as a signed post, or as files in a folder.

A message is the same at each try, so that receivers can drop doubles by its id.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.operations.mail import Attachment, MailServer, send_mail
from ml_registry_pipelines.reports.delivery.corrections import (
    Corrected,
    correction_markdown,
    correction_page,
    correction_sheet,
    correction_title,
)
from ml_registry_pipelines.reports.delivery.editions import Edition, Editions
from ml_registry_pipelines.reports.delivery.recipients import Channel, Recipient
from ml_registry_pipelines.reports.delivery.subscriptions import Format
from ml_registry_pipelines.webhooks.addresses import Allowed
from ml_registry_pipelines.webhooks.posting import MAX_BODY, post_json, signature

SECONDS = 20.0
"""Time for one message."""
_ADDRESS = re.compile(r"[^\s@<>()]+@[^\s@<>();:,]+")
_TYPES = {"html": "text/html", "csv": "text/csv", "md": "text/markdown"}


@dataclass(frozen=True)
class File:
    """A file of a message. `path`: where it goes in a folder; its last part is its name."""

    path: str
    content: bytes

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def media_type(self) -> str:
        return _TYPES[self.path.rpartition(".")[2]]


@dataclass(frozen=True)
class Message:
    """What one recipient gets at once: a report, or corrections of several."""

    message_id: str
    event: str
    subject: str
    text: str
    files: tuple[File, ...]
    at: datetime
    data: Mapping[str, object] = field(default_factory=dict)


def report_message(
    message_id: str, edition: Edition, formats: Sequence[Format], editions: Editions, *, at: datetime
) -> Message:
    """A report as it was made.

    Raises:
        NoSuchFile: somebody removed its files.
    """
    text = editions.file(edition, "md").decode()
    stem = f"{_whom(edition)}/{edition.report}/{edition.period}"
    files = [File(f"{stem}.{ending}", editions.file(edition, ending)) for ending in _endings(formats)]
    provisional = "" if edition.final else "\n\nProvisional: requests of this period are not counted yet."
    return Message(
        message_id,
        "report.delivered",
        edition.about,
        f"{edition.about} ({edition.time_zone})\n\n{text}{provisional}\n\n{_assumed(edition)}\n",
        tuple(files),
        at,
        _data(edition, text),
    )


def correction_message(
    message_id: str, corrected: Sequence[Corrected], formats: Sequence[Format], *, at: datetime
) -> Message:
    """What changed in reports that were delivered."""
    last = corrected[-1].after
    contents = {
        "html": correction_page(corrected),
        "csv": correction_sheet(corrected).csv(),
        "md": correction_markdown(corrected),
    }
    stem = f"{_whom(last)}/{last.report}/corrections/{corrected[0].after.period}-{message_id[:8]}"
    return Message(
        message_id,
        "report.corrected",
        correction_title(corrected),
        f"{correction_title(corrected)}\n\n{contents['md']}\n\nDelivered reports stay as they are.\n",
        tuple(File(f"{stem}.{ending}", contents[ending].encode()) for ending in _endings(formats)),
        at,
        {
            **_data(last, contents["md"]),
            "periods": [each.after.period for each in corrected],
            "editions": [each.after.edition_id for each in corrected],
            "corrects": [each.before.edition_id for each in corrected],
        },
    )


def send(recipient: Recipient, message: Message, *, seconds: float = SECONDS) -> str | None:
    """Send a message; on return it was taken. What is worth knowing even so, in words.

    Raises:
        MlregError: it was not taken, and why.
    """
    match recipient.channel:
        case Channel.EMAIL:
            return _by_email(recipient, message, seconds)
        case Channel.WEBHOOK:
            _by_webhook(recipient, message, seconds)
        case Channel.FOLDER:
            folder = open_folder(recipient.to[0])
            for file in message.files:
                folder.write(file.path, file.content)
    return None


def without_addresses(why: str) -> str:
    """An error in words that name nobody: tables of deliveries are kept for years."""
    return _ADDRESS.sub("an address", " ".join(why.split()))[:1000]


def _by_email(recipient: Recipient, message: Message, seconds: float) -> str | None:
    server = MailServer.from_environment()
    sent = send_mail(
        server,
        recipients=recipient.to,
        subject=message.subject,
        text=message.text,
        attachments=[Attachment(file.name, file.content, file.media_type) for file in message.files],
        message_id=f"<{message.message_id}@{server.sender.rpartition('@')[2]}>",
        seconds=seconds,
    )
    if not sent.refused:
        return None
    said = "; ".join(sorted({why for _, why in sent.refused}))
    return f"{len(sent.refused)} of {len(recipient.to)} addresses get nothing: {said}"


def _by_webhook(recipient: Recipient, message: Message, seconds: float) -> None:
    allowed = Allowed.from_environment()
    body = _body(message)
    sent_at = int(time.time())
    headers = {
        "webhook-id": message.message_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": signature(recipient.key(), message.message_id, sent_at, body),
    }
    post_json(recipient.url(allowed), body, headers, allowed=allowed, whole_seconds=seconds)


def _body(message: Message) -> bytes:
    files = [
        {"name": file.name, "media_type": file.media_type, "sha256": hashlib.sha256(file.content).hexdigest()}
        for file in message.files
    ]
    contents = [
        {**named, "content": file.content.decode()} for named, file in zip(files, message.files, strict=True)
    ]
    whole = _json(message, {"files": contents})
    # Of what is too large the names and digests go, and the short form; the files lie below the root.
    return whole if len(whole) <= MAX_BODY else _json(message, {"files": files, "too_large": True})


def _json(message: Message, more: Mapping[str, object]) -> bytes:
    body = {
        "type": message.event,
        "timestamp": message.at.isoformat(),
        "data": {"title": message.subject, **message.data, **more},
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _data(edition: Edition, text: str) -> dict[str, object]:
    return {
        "report": edition.report,
        "tenant": edition.tenant,
        "period": edition.period,
        "period_start": edition.period_start.isoformat(),
        "period_end": edition.period_end.isoformat(),
        "time_zone": edition.time_zone,
        "edition": edition.edition_id,
        "final": edition.final,
        "coverage": dict(edition.coverage),
        "assumptions": dict(edition.assumptions),
        "made_of": dict(edition.made_of),
        "markdown": text,
    }


def _assumed(edition: Edition) -> str:
    told = [
        f"{name.replace('_', ' ')}: {_words(value)}" for name, value in edition.assumptions.items() if value
    ]
    return "Assumptions: " + "; ".join(told) + "." if told else ""


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _whom(edition: Edition) -> str:
    return "all" if edition.tenant is None else f"tenants/{quote(edition.tenant, safe='')}"


def _endings(formats: Sequence[Format]) -> Iterator[str]:
    endings = {Format.HTML: "html", Format.CSV: "csv", Format.MARKDOWN: "md"}
    yield from (endings[each] for each in formats)
