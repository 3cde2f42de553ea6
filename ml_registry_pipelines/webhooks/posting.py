"""One delivery: an event as JSON, signed, posted within a few seconds; what the receiver answers decides.

Headers and signature are those of the Standard Webhooks convention, so that its libraries
verify them: `webhook-id`, `webhook-timestamp`, and `webhook-signature`, `v1,` and the Base64
of HMAC-SHA256 over `id.timestamp.body`. Redirects are not followed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError
from ml_registry_pipelines.registry.events import Event
from ml_registry_pipelines.webhooks.addresses import Allowed, resolved

CONNECT_SECONDS = 3.0
WHOLE_SECONDS = 10.0
"""Time for one delivery from name to answer; a receiver should answer first and work later."""
MAX_BODY = 1_000_000
"""Bytes of a body; a larger event comes without `change` and `state`."""


class NotDelivered(RegistryError):
    """The receiver did not take it. `status` None: it gave no answer."""

    def __init__(self, why: str, *, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


def body_of(event: Event) -> bytes:
    """The event as a receiver gets it."""
    body = {
        "type": event.action,
        "timestamp": event.recorded_at.isoformat(),
        "data": {
            "tenant": event.tenant,
            "sequence": event.sequence,
            "event_id": event.event_id,
            "command_id": event.command_id,
            "part": event.part,
            "parts": event.parts,
            "valid_from": event.valid_from.isoformat(),
            "actor": event.actor,
            "entity_type": event.entity_type,
            "entity_id": event.entity_id,
            "hash": event.hash,
            **event.content,
        },
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > MAX_BODY:
        data = {name: value for name, value in body["data"].items() if name not in event.content}  # type: ignore[attr-defined]
        text = json.dumps({**body, "data": {**data, "too_large": True}}, separators=(",", ":")).encode()
    return text


def signature(secret: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """What `webhook-signature` holds. A secret of the form `whsec_...` is Base64, any other is taken as it is."""
    key = secret
    if secret.startswith(b"whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
        except binascii.Error:
            raise InvalidInput("the secret begins with whsec_ and is no Base64 after it") from None
    signed = b"%s.%d.%s" % (identity.encode(), timestamp, body)
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


@dataclass(frozen=True)
class Poster:
    """Posts events to one address."""

    url: str
    secret: bytes
    allowed: Allowed
    whole_seconds: float = WHOLE_SECONDS

    def post(self, event: Event) -> None:
        """Deliver one event.

        Raises:
            NotDelivered: no answer in time, or none that takes it (any status but 2xx).
            Forbidden: the address leads where it may not.
        """
        body, sent_at = body_of(event), int(time.time())
        headers = {
            "webhook-id": event.event_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": signature(self.secret, event.event_id, sent_at, body),
        }
        post_json(self.url, body, headers, allowed=self.allowed, whole_seconds=self.whole_seconds)


def post_json(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Allowed,
    whole_seconds: float = WHOLE_SECONDS,
) -> None:
    """Post JSON within a time that no receiver can draw out; on return it was taken.

    Raises:
        NotDelivered: no answer in time, or none that takes it; `status` is the answer's, where there was one.
        Forbidden: the address leads where it may not.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    host, secure = parts.hostname, parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    sent = {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "User-Agent": "mlreg",
        "Connection": "close",
        **headers,
    }
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    try:
        addresses = resolved(host, port, allowed)
    except (OSError, UnicodeError) as failure:
        raise NotDelivered(f"{host} is not found: {_words(failure)}") from None
    deadline = time.monotonic() + whole_seconds
    try:
        raw = _connected(addresses, port, deadline)
    except OSError as failure:
        raise NotDelivered(f"{host}:{port} does not answer: {_words(failure)}") from None
    status, to = _ask(raw, host, port, secure, path, body, sent, deadline, whole_seconds)
    if 200 <= status < 300:
        return
    leads = f" and leads on to {urlsplit(to).netloc.rpartition('@')[2] or 'elsewhere'}" if to else ""
    follow = ", which is not followed" if to else ""
    raise NotDelivered(f"{host}:{port} answered with status {status}{leads}{follow}", status=status)


def _ask(
    raw: socket.socket,
    host: str,
    port: int,
    secure: bool,
    path: str,
    body: bytes,
    headers: dict[str, str],
    deadline: float,
    whole_seconds: float,
) -> tuple[int, str]:
    # A timeout of the socket starts anew with every byte; whoever sends one now and then is ended by this.
    connection = http.client.HTTPConnection(host, port)
    connection.sock = raw
    ends = threading.Timer(max(deadline - time.monotonic(), 0.0), _end, [connection])
    ends.daemon = True
    ends.start()
    try:
        if secure:
            connection.default_port = 443
            trusted = ssl.create_default_context()
            connection.sock = wrapped = trusted.wrap_socket(
                raw, server_hostname=host, do_handshake_on_connect=False
            )
            wrapped.do_handshake()
        connection.request("POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Location", "") if 300 <= answer.status < 400 else ""
    except ssl.SSLError as failure:
        raise NotDelivered(f"{host}:{port} is not trusted: {failure.reason or failure}") from None
    except (OSError, ValueError, http.client.HTTPException) as failure:
        late = time.monotonic() >= deadline - 0.01
        why = f"no answer within {whole_seconds:g} seconds" if late else _words(failure)
        raise NotDelivered(f"{host}:{port} did not take it: {why}") from None
    finally:
        ends.cancel()
        connection.close()
        raw.close()


def _connected(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failure: OSError = OSError("it has no address")
    for address in addresses:
        left = min(CONNECT_SECONDS, deadline - time.monotonic())
        if left <= 0:
            break
        try:
            made = socket.create_connection((address, port), timeout=left)
        except OSError as wrong:
            failure = wrong
            continue
        made.settimeout(max(deadline - time.monotonic(), 0.05))
        return made
    raise failure


def _end(connection: http.client.HTTPConnection) -> None:
    try:
        # Not the method of a TLS socket, which would take its state away from the thread that reads.
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
    except (OSError, TypeError):
        return


def _words(failure: Exception) -> str:
    return str(getattr(failure, "strerror", None) or str(failure) or type(failure).__name__)
