"""A billing API on this machine: it answers in the providers' formats, page by page, or fails as told to."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Api:
    """What it was asked, and what answers. A path without pages has one empty page."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    pages: dict[str, list[Any]] = field(default_factory=dict)
    failing: list[Reply] = field(default_factory=list)
    """Replies that come first, one per request."""
    answers: Callable[[Asked], Reply | None] = lambda _: None

    def reply(self, asked: Asked) -> Reply:
        if self.failing:
            return self.failing.pop(0)
        if (given := self.answers(asked)) is not None:
            return given
        pages = self.pages.get(asked.path) or [
            {"object": "page", "data": [], "has_more": False, "next_page": None}
        ]
        token = asked.query.get("page", ["0"])[0]
        content = pages[int(token)]
        return 200, {}, content if isinstance(content, bytes) else json.dumps(content).encode()

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@contextmanager
def serving() -> Iterator[Api]:
    held = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, parse_qs(parts.query), headers, body)
            held.asked.append(asked)
            status, more, content = held.reply(asked)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
