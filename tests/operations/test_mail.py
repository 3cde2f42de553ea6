"""E-mail through a real SMTP server on loopback: what arrives, encrypted or not, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_registry_pipelines.operations.mail import (
    Attachment,
    MailError,
    MailRefused,
    MailServer,
    Security,
    checked_address,
    send_mail,
)
from tests.operations.smtp import Mailbox, mail_server, write_certificate

OPS = "ops@example.org"


def plain(box: Mailbox) -> MailServer:
    return MailServer("127.0.0.1", "mlreg@example.org", box.port, Security.NONE)


def test_text_html_and_attachments_arrive_as_they_were():
    with mail_server() as box:
        sent = send_mail(
            plain(box),
            recipients=[OPS, "cfo@example.org"],
            subject="Costs of October\nBcc: x@example.org",
            text="12,50 € · see below\n.\nend",
            html="<p>12,50 €</p>",
            attachments=[Attachment("costs.csv", b"day,cost\n2026-10-01,1\n", "text/csv")],
        )
    assert sent.refused == ()
    (message,) = box.messages
    assert box.came[0][0] == [OPS, "cfo@example.org"]
    assert message["Subject"] == "Costs of October Bcc: x@example.org"
    assert message["Bcc"] is None
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == "12,50 € · see below\n.\nend\n"
    assert html.get_content().strip() == "<p>12,50 €</p>"
    (attached,) = message.iter_attachments()
    assert attached.get_filename() == "costs.csv"
    assert attached.get_content_type() == "text/csv"
    assert attached.get_payload(decode=True) == b"day,cost\n2026-10-01,1\n"


def test_it_encrypts_checks_the_certificate_and_logs_in(tmp_path, monkeypatch):
    pem = tmp_path / "mail.pem"
    write_certificate(pem)
    monkeypatch.setenv("MLREG_SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("MLREG_MAIL_FROM", "mlreg@example.org")
    monkeypatch.setenv("MLREG_SMTP_USER", "mlreg")
    monkeypatch.setenv("MLREG_SMTP_PASSWORD", "of-the-server")
    with mail_server(pem) as box:
        box.users = {"mlreg": "of-the-server"}
        monkeypatch.setenv("MLREG_SMTP_PORT", str(box.port))
        with pytest.raises(MailError, match="is not trusted"):
            send_mail(MailServer.from_environment(), recipients=[OPS], subject="s", text="t")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        send_mail(MailServer.from_environment(), recipients=[OPS], subject="s", text="t")
        assert (box.subjects, box.encrypted, box.logged_in) == (["s"], [True], ["mlreg"])
        monkeypatch.setenv("MLREG_SMTP_PASSWORD", "wrong")
        with pytest.raises(MailRefused, match=r"does not take user and password .535"):
            send_mail(MailServer.from_environment(), recipients=[OPS], subject="s", text="t")
    assert "of-the-server" not in repr(MailServer("h", OPS, user="u", password="of-the-server"))


def test_a_server_without_encryption_gets_nothing_where_encryption_is_asked_for():
    with mail_server() as box:
        server = MailServer("127.0.0.1", "mlreg@example.org", box.port)
        with pytest.raises(MailRefused, match="STARTTLS"):
            send_mail(server, recipients=[OPS], subject="s", text="t")
    assert box.came == []


def test_refusals_for_now_and_for_good_are_told_apart():
    with mail_server() as box:

        def sends(*recipients: str) -> object:
            return send_mail(plain(box), recipients=recipients, subject="s", text="t").refused

        box.refuses = {"gone@example.org": "550 no such user"}
        assert sends(OPS, "gone@example.org") == (("gone@example.org", "550 no such user"),)
        with pytest.raises(MailRefused, match=r"takes no recipient .gone@example.org: 550 no such user"):
            sends("gone@example.org")
        box.refuses = {"DATA": "452 disk full"}
        with pytest.raises(MailError, match=r"452 disk full.; it is tried again") as later:
            sends(OPS)
        box.refuses = {"HELLO": "554 go away"}
        with pytest.raises(MailRefused, match="554 go away"):
            sends(OPS)
    assert not isinstance(later.value, MailRefused)
    with pytest.raises(MailError, match=r"127.0.0.1:\d+ does not answer: Connection refused"):
        sends(OPS)


@pytest.mark.parametrize("address", ["", "ops", "a b@example.org", "ops@", "x@y\nBcc: z@w", "ö@example.org"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(MailRefused, match=r"e-mail address"):
        checked_address(address)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MLREG_SMTP_HOST", "", "set MLREG_SMTP_HOST and MLREG_MAIL_FROM"),
        ("MLREG_SMTP_PORT", "smtp", "must be a number between 1 and 65535"),
        ("MLREG_SMTP_SECURITY", "ssl3", "must be starttls, tls or none"),
        ("MLREG_SMTP_USER", "mlreg", "both MLREG_SMTP_USER and MLREG_SMTP_PASSWORD"),
    ],
)
def test_settings_that_cannot_be_used_are_named(monkeypatch, name, value, said):
    monkeypatch.setenv("MLREG_SMTP_HOST", "mail.example.org")
    monkeypatch.setenv("MLREG_MAIL_FROM", OPS)
    monkeypatch.setenv(name, value)
    with pytest.raises(MailRefused, match=said):
        MailServer.from_environment()


def test_a_password_never_goes_over_an_open_line():
    with pytest.raises(MailRefused, match="unencrypted"):
        MailServer("mail.example.org", OPS, security=Security.NONE, user="u", password="p")


def test_attachments_that_no_server_takes_are_refused_before_it_is_asked(tmp_path: Path):
    nowhere = MailServer("127.0.0.1", OPS, 1, Security.NONE)
    with pytest.raises(MailRefused, match="too large"):
        send_mail(
            nowhere, recipients=[OPS], subject="s", text="t", attachments=[Attachment("x", b"0" * 20_000_001)]
        )
