"""An S3 server: moto's, without what costs more than its answers.

As moto starts it, a request takes the server 3.3 ms: a thread, a connection and a line in a log for
each, and a look at every folder of moto for which service is meant. Here connections stay open and
S3 alone is served: 1.3 ms, and the clients are spared their connections too.

`python -m tests.s3_server` says its address and serves until it is ended.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

from botocore import utils
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class Handler(MotoRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    # Head and body of an answer go out together; else the second waits for the client's word on the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        environ = self.make_environ()
        # Read to its end, be it wanted or not: the next request begins there.
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        environ["wsgi.input"] = io.BytesIO(body)
        head: list[tuple[str, str]] = []

        def start(
            status: str, headers: list[tuple[str, str]], failure: object = None
        ) -> Callable[[bytes], object]:
            head[:] = [("", status), *headers]
            return self.wfile.write

        answer = self.server.app(environ, start)
        content = b"".join(answer)
        if close := getattr(answer, "close", None):
            close()
        (_, status), *headers = head
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if content and "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


if __name__ == "__main__":
    # moto writes the time of each listed object as a text, reads that again and writes it once more.
    utils.parse_timestamp = lru_cache(10_000)(utils.parse_timestamp)
    app = create_backend_app("s3")
    app.debug = False
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()
