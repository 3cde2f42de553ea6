"""E-mail over SMTP: text, HTML and attachments to some recipients, over one connection.

Used by alerts and by whoever mails reports. Where the server is comes from the environment;
a password is never in a file of ours, and never goes over a connection that is not encrypted.
"""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from enum import Enum

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.events import now

HOST, PORT, SECURITY = "MLREG_SMTP_HOST", "MLREG_SMTP_PORT", "MLREG_SMTP_SECURITY"
USER, PASSWORD, SENDER = "MLREG_SMTP_USER", "MLREG_SMTP_PASSWORD", "MLREG_MAIL_FROM"
SECONDS = 10.0
"""Time for each answer of the server."""
MOST_RECIPIENTS = 100
MOST_BYTES = 20_000_000
"""Of all attachments together: what servers commonly take, less what Base64 adds."""


class MailError(MlregError):
    """An e-mail was not sent; it may go later."""


class MailRefused(MailError):
    """The server, or its settings, will never take this e-mail as it is."""


class Security(Enum):
    """How the connection is encrypted."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


_PORTS = {Security.STARTTLS: 587, Security.TLS: 465, Security.NONE: 25}


@dataclass(frozen=True)
class MailServer:
    """An SMTP server and how to speak to it.

    `sender` is the address that mails come from. With `user`, `password` is the one to log in with.

    Raises:
        MailRefused: a value cannot be used.
    """

    host: str
    sender: str
    port: int | None = None
    security: Security = Security.STARTTLS
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.host or any(c.isspace() or not c.isprintable() for c in self.host):
            raise MailRefused(f"{self.host!r} is no mail server; {HOST} must name one")
        checked_address(self.sender)
        if self.port is not None and not 0 < self.port < 65536:
            raise MailRefused(f"port {self.port} of the mail server is none; {PORT} is between 1 and 65535")
        if (self.user is None) != (self.password is None):
            raise MailRefused(f"to log in at {self.host}, both {USER} and {PASSWORD} are needed")
        if self.user is not None and self.security is Security.NONE:
            raise MailRefused(
                f"the password for {self.host} would go over an unencrypted connection; "
                f"set {SECURITY} to starttls or tls"
            )

    @classmethod
    def from_environment(cls) -> MailServer:
        """The server that `MLREG_SMTP_HOST` names.

        `MLREG_SMTP_SECURITY` is starttls (by default), tls or none; `MLREG_SMTP_PORT` is by default 587,
        465 or 25 accordingly; `MLREG_SMTP_USER` and `MLREG_SMTP_PASSWORD` log in where they are set;
        `MLREG_MAIL_FROM` is the sender.

        Raises:
            MailRefused: it names none, or something of it cannot be used.
        """
        host, sender = _set(HOST), _set(SENDER)
        if host is None or sender is None:
            raise MailRefused(f"e-mail needs a server and a sender; set {HOST} and {SENDER}")
        security, port = (_set(SECURITY) or "starttls").lower(), _set(PORT)
        if security not in {each.value for each in Security}:
            raise MailRefused(f"{SECURITY} is {security!r}; it must be starttls, tls or none")
        if port is not None and not (port.isascii() and port.isdigit()):
            raise MailRefused(f"{PORT} is {port!r}; it must be a number between 1 and 65535")
        return cls(
            host,
            sender,
            None if port is None else int(port),
            Security(security),
            _set(USER),
            _set(PASSWORD),
        )

    @property
    def address(self) -> str:
        """Host and port, as errors name it."""
        return f"{self.host}:{self.port or _PORTS[self.security]}"


@dataclass(frozen=True)
class Attachment:
    """A file that goes with an e-mail. `media_type` is such as `text/csv`."""

    name: str
    content: bytes
    media_type: str = "application/octet-stream"


@dataclass(frozen=True)
class Sent:
    """What became of an e-mail that at least one recipient gets: who does not, and what the server said of them."""

    message_id: str
    refused: tuple[tuple[str, str], ...] = ()


def checked_address(address: str) -> str:
    """An e-mail address such as `ops@example.org`, without a name.

    Raises:
        MailRefused: it is none.
    """
    try:
        parsed = Address(addr_spec=address)
    except (ValueError, IndexError):
        parsed = None
    if parsed is None or not parsed.username or "." not in f".{parsed.domain}" or not parsed.domain:
        raise MailRefused(f"{address!r} is no e-mail address; write one such as ops@example.org")
    if not address.isascii() or not address.isprintable() or " " in address:
        raise MailRefused(f"the e-mail address {address!r} holds a character that mail servers do not take")
    return address


def send_mail(
    server: MailServer,
    *,
    recipients: Sequence[str],
    subject: str,
    text: str,
    html: str | None = None,
    attachments: Sequence[Attachment] = (),
    message_id: str | None = None,
    seconds: float = SECONDS,
) -> Sent:
    """Send one e-mail; on return the server has taken it.

    Args:
        recipients: their addresses; all of them see each other.
        subject: one line; line breaks become spaces.
        text: for those who read no HTML, too.
        html: the same as a document.
        message_id: the same at each try of one message lets receivers drop doubles; by default a new one.
        seconds: time for each answer of the server.

    Raises:
        MailRefused: an address is none, there is no recipient, attachments are too large, or the server
            refuses sender, all recipients, password or content for good.
        MailError: the server is away, or refuses for now.
    """
    message = _message(server, recipients, subject, text, html, attachments, message_id)
    try:
        with _connected(server, seconds) as connection:
            if server.user is not None and server.password is not None:
                connection.login(server.user, server.password)
            refused = connection.send_message(message)
    except smtplib.SMTPRecipientsRefused as failure:
        said = "; ".join(f"{who}: {_said(*answer)}" for who, answer in failure.recipients.items())
        codes = [code for code, _ in failure.recipients.values()]
        raise _refusal(min(codes), f"{server.address} takes no recipient ({said})") from None
    except smtplib.SMTPAuthenticationError as failure:
        raise _refusal(
            failure.smtp_code, f"{server.address} does not take user and password ({_of(failure)})"
        ) from None
    except smtplib.SMTPResponseException as failure:
        raise _refusal(
            failure.smtp_code, f"{server.address} does not take the e-mail ({_of(failure)})"
        ) from None
    except smtplib.SMTPNotSupportedError as failure:
        raise MailRefused(f"{server.address} cannot do what is asked of it: {failure}") from None
    except ssl.SSLError as failure:
        raise MailError(f"{server.address} is not trusted: {failure.reason or failure}") from None
    except (smtplib.SMTPException, OSError) as failure:
        words = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
        raise MailError(f"{server.address} does not answer: {words}") from None
    return Sent(str(message["Message-ID"]), tuple((who, _said(*answer)) for who, answer in refused.items()))


def _message(
    server: MailServer,
    recipients: Sequence[str],
    subject: str,
    text: str,
    html: str | None,
    attachments: Sequence[Attachment],
    message_id: str | None,
) -> EmailMessage:
    if isinstance(recipients, str) or not recipients:
        raise MailRefused("an e-mail needs a list of at least one recipient")
    if len(recipients) > MOST_RECIPIENTS:
        raise MailRefused(
            f"{len(recipients)} recipients are too many for one e-mail; {MOST_RECIPIENTS} at most"
        )
    size = sum(len(each.content) for each in attachments)
    if size > MOST_BYTES:
        raise MailRefused(
            f"attachments of {size:,} bytes are too large for an e-mail, which takes {MOST_BYTES:,}; "
            "send a link to them"
        )
    message = EmailMessage()
    message["From"] = server.sender
    message["To"] = ", ".join(dict.fromkeys(checked_address(each) for each in recipients))
    message["Subject"] = " ".join(subject.split()) or "(no subject)"
    message["Date"] = format_datetime(now())
    message["Message-ID"] = message_id or make_msgid(domain=server.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for each in attachments:
        kind, _, subtype = each.media_type.partition("/")
        name = "".join(c for c in each.name if c.isprintable()) or "attachment"
        message.add_attachment(each.content, maintype=kind, subtype=subtype or "octet-stream", filename=name)
    return message


def _connected(server: MailServer, seconds: float) -> smtplib.SMTP:
    port = server.port or _PORTS[server.security]
    trusted = ssl.create_default_context()
    name = socket.gethostname().split(".")[0]
    name = name if name.isascii() and name.replace("-", "a").isalnum() else "localhost"
    if server.security is Security.TLS:
        return smtplib.SMTP_SSL(server.host, port, timeout=seconds, context=trusted, local_hostname=name)
    connection = smtplib.SMTP(server.host, port, timeout=seconds, local_hostname=name)
    if server.security is Security.STARTTLS:
        try:
            connection.starttls(context=trusted)
        except BaseException:
            connection.close()
            raise
    return connection


def _refusal(code: int, why: str) -> MailError:
    """RFC 5321, 4.2.1: a reply of 4xx may be another one later, one of 5xx will not."""
    return MailError(f"{why}; it is tried again") if code < 500 else MailRefused(why)


def _of(failure: smtplib.SMTPResponseException) -> str:
    return _said(failure.smtp_code, failure.smtp_error)


def _said(code: int, words: bytes | str) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else words
    return f"{code} {' '.join(text.split())[:200]}"


def _set(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None
