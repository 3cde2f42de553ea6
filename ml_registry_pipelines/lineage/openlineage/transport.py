"""OpenLineage over HTTP: a door that Spark, dbt or Airflow post events to, and posting ours elsewhere.

The door takes `POST /api/v1/lineage`, as OpenLineage's own HTTP transport sends it, with one
event or a list. It answers once the events are in the log. Events that come through it never
stand for models, versions or deployments: that takes a file and a shell.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import zlib
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lineage.openlineage.events import BadEvent, parse_event
from ml_registry_pipelines.lineage.openlineage.files import Refused, keep
from ml_registry_pipelines.lineage.openlineage.importing import Importer
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError

PATH = "/api/v1/lineage"
LARGEST = 64 * 1024 * 1024
"""Bytes of one request; events of 10 MB have been seen."""
SECONDS = 30
_GZIP = 31
"""What zlib calls a window of 32 KiB in a gzip member."""


class NotDelivered(RegistryError):
    """The other side did not take an event."""


class LineageServer(ThreadingHTTPServer):
    """A door for events of one tenant.

    Args:
        importer: who they are taken for.
        host, port: where to listen; port 0 takes a free one.
        token: what clients must send as bearer token; needed where others can reach the door.

    Raises:
        InvalidInput: others could reach it and there is no token.
    """

    daemon_threads = True

    def __init__(
        self, importer: Importer, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
    ) -> None:
        if token is None and not _loopback(host):
            raise InvalidInput(
                f"whoever reaches {host} could write lineage; set MLREG_OPENLINEAGE_TOKEN, or listen on 127.0.0.1"
            )
        super().__init__((host, port), _Handler)
        self.importer = importer
        self.token = token

    @property
    def address(self) -> str:
        """Where events are posted to."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}{PATH}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    server: LineageServer
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's own name
        """Say nothing: the log of events is the record."""

    def do_GET(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, f"post events to {PATH}")

    def do_POST(self) -> None:
        if self.path.split("?")[0].rstrip("/") != PATH:
            self._answer(HTTPStatus.NOT_FOUND, f"events are posted to {PATH}")
            return
        given = self.headers.get("Authorization", "")
        if self.server.token is not None and not hmac.compare_digest(
            given.encode(), f"Bearer {self.server.token}".encode()
        ):
            self._answer(HTTPStatus.UNAUTHORIZED, "the bearer token is missing or wrong")
            return
        # A page in a browser can post text to any address, and never JSON without being asked about first.
        if self.headers.get_content_type() != "application/json":
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
            return
        body = self._body()
        if body is not None:
            self._take(body)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._answer(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length")
            return None
        if int(length) > LARGEST:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an event has at most {LARGEST:,} bytes")
            return None
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", "gzip"}:
            self._answer(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send it as it is, or with Content-Encoding: gzip"
            )
            return None
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            return None
        return self._unpacked(body) if encoding == "gzip" else body

    def _unpacked(self, body: bytes) -> bytes | None:
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            whole = member.decompress(body, LARGEST + 1)
        except zlib.error as failure:
            self._refuse(body, f"the gzip data is damaged: {failure}")
            return None
        if len(whole) > LARGEST:
            self._answer(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an event has at most {LARGEST:,} bytes, unpacked"
            )
            return None
        if not member.eof or member.unused_data:
            self._refuse(body, "the gzip data breaks off, or something follows it")
            return None
        return whole

    def _take(self, body: bytes) -> None:
        try:
            given = json.loads(body)
            events = [parse_event(one) for one in (given if isinstance(given, list) else [given])]
            done = self.server.importer.take(events)
        except (ValueError, RecursionError, BadEvent) as wrong:
            self._refuse(body, str(wrong))
        except MlregError as failure:
            # It may work when it is sent again.
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(failure))
        else:
            if done.refused:
                self._refuse(body, "; ".join(reason for _, reason in done.refused))
            else:
                self._answer(HTTPStatus.CREATED, f"{done.new} new, {done.before} known")

    def _refuse(self, body: bytes, reason: str) -> None:
        found = Refused(f"http {self.client_address[0]}", 1, reason, body.decode(errors="surrogateescape"))
        keep(self.server.importer.log.lake, [found])
        self._answer(HTTPStatus.BAD_REQUEST, reason)

    def _answer(self, status: HTTPStatus, message: str) -> None:
        if status >= HTTPStatus.BAD_REQUEST:
            self.close_connection = True
        body = json.dumps({"message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def post(events: Iterable[Mapping[str, Any]], url: str, *, token: str | None = None) -> int:
    """Post events to another system, one after the other; return how many.

    Raises:
        NotDelivered: it refused one, or could not be reached; the text says which one and why.
    """
    import requests

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    count = 0
    with requests.Session() as session:
        for event in events:
            name = event["job"]["name"]
            try:
                answer = session.post(
                    url, json=event, headers=headers, timeout=SECONDS, allow_redirects=False
                )
            except requests.RequestException as failure:
                raise NotDelivered(
                    f"{url} did not take event {count + 1} ({name}): {failure}; the {count} before it were taken"
                ) from failure
            if not 200 <= answer.status_code < 300:
                raise NotDelivered(
                    f"{url} refused event {count + 1} ({name}) with status {answer.status_code}: "
                    f"{answer.text[:200]}; the {count} before it were taken"
                )
            count += 1
    return count
