"""A mail server on loopback: speaks SMTP, STARTTLS and AUTH, keeps what comes, refuses what it is told to."""

from __future__ import annotations

import base64
import datetime as dt
import email
import email.policy
import io
import ipaddress
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Mailbox:
    """What came, with the recipients of the envelope, and how the server answers."""

    port: int = 0
    came: list[tuple[list[str], bytes]] = field(default_factory=list)
    users: dict[str, str] = field(default_factory=dict)
    logged_in: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    """Answers by recipient, or for the content under `DATA`, the greeting under `HELLO`."""

    @property
    def messages(self) -> list[EmailMessage]:
        return [email.message_from_bytes(raw, policy=email.policy.default) for _, raw in self.came]

    @property
    def subjects(self) -> list[str]:
        return [str(message["Subject"]) for message in self.messages]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, box: Mailbox, certificate: Path | None) -> None:
        self.box, self.certificate = box, certificate
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def handle(self) -> None:
        self.box = self.server.box
        self.secure = False
        self.recipients: list[str] = []
        self.say(self.box.refuses.get("HELLO", "220 ready"))
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            verb = line.split(" ")[0].lower()
            getattr(self, f"on_{verb}", self.on_other)(line)
            if verb == "quit":
                return

    def on_other(self, line: str) -> None:
        self.say("250 ok")

    def on_ehlo(self, line: str) -> None:
        self.say("250-mail.test")
        if self.server.certificate and not self.secure:
            self.say("250-STARTTLS")
        self.say("250 AUTH PLAIN")

    def on_starttls(self, line: str) -> None:
        self.say("220 go ahead")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(self.server.certificate))
        try:
            self.connection = context.wrap_socket(self.connection, server_side=True)
        except OSError:  # whoever asked does not trust us
            self.rfile = io.BufferedReader(io.BytesIO())
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        self.secure = True

    def on_auth(self, line: str) -> None:
        _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
        if self.box.users.get(user) == password:
            self.box.logged_in.append(user)
            self.say("235 welcome")
        else:
            self.say("535 wrong user or password")

    def on_rcpt(self, line: str) -> None:
        who = line.partition("<")[2].partition(">")[0]
        if who not in self.box.refuses:
            self.recipients.append(who)
        self.say(self.box.refuses.get(who, "250 ok"))

    def on_data(self, line: str) -> None:
        self.say("354 go on")
        lines = []
        while (part := self.rfile.readline()) != b".\r\n":
            if not part:
                return
            lines.append(part.removeprefix(b"."))
        if "DATA" in self.box.refuses:
            self.say(self.box.refuses["DATA"])
            return
        self.box.came.append((self.recipients, b"".join(lines)))
        self.box.encrypted.append(self.secure)
        self.recipients = []
        self.say("250 taken")

    def on_quit(self, line: str) -> None:
        self.say("221 bye")


@contextmanager
def mail_server(certificate: Path | None = None) -> Iterator[Mailbox]:
    """A server on a free port; with a certificate and key in a PEM file it offers STARTTLS."""
    box = Mailbox()
    server = _Server(box, certificate)
    box.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield box
    finally:
        server.shutdown()
        server.server_close()


def write_certificate(path: Path) -> None:
    """A key and a certificate for 127.0.0.1, signed by itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.test")])
    begun = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begun - dt.timedelta(days=1))
        .not_valid_after(begun + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
