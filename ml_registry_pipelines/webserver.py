"""Dagster's web server with one route more: the artifacts of versions, to which the asset pages link.

Dagster's own has no way to serve a file, a browser opens no `file://` from a page, and a
presigned link in metadata would outlive its reader's rights or its own hour. Who may see the
UI may download here; both listen on loopback unless they are told otherwise.

    python -m ml_registry_pipelines.webserver -w workspace.yaml -h 127.0.0.1 -p 3000
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import uvicorn
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

GRACE_SECONDS = 3
STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW = 15_000, 3_600, 20


class WebServer(DagsterWebserver[Any, Any]):
    """Dagster's web server and the registry's artifacts."""

    _log: Log | None = None
    _opening = threading.Lock()

    def build_routes(self) -> list[Any]:
        # First, because the last of Dagster's routes takes every path.
        return [Route("/mlreg/artifacts/{tenant}/{version}", self.artifact), *super().build_routes()]  # type: ignore[no-untyped-call]

    def artifact(self, request: Request) -> Response:
        """The content of a version, verified while it is sent; a folder as a zip."""
        from ml_registry_pipelines.registry.errors import NotFound
        from ml_registry_pipelines.registry.serving import serve

        try:
            served = serve(self._opened(), request.path_params["tenant"], request.path_params["version"])
        except NotFound as missing:
            return PlainTextResponse(f"{missing}\n", 404)
        except MlregError as failure:
            return PlainTextResponse(f"{failure}\n", 409)
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(served.name, safe='')}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        if served.size is not None:
            headers["Content-Length"] = str(served.size)
        return StreamingResponse(served.pieces, headers=headers, media_type="application/octet-stream")

    def _opened(self) -> Log:
        from ml_registry_pipelines.lake.lake import Lake
        from ml_registry_pipelines.registry.log import Log

        with self._opening:
            if self._log is None:
                self._log = Log(Lake(Settings.from_environment().home, process="web"))
            return self._log


@asynccontextmanager
async def _lifespan(_: object) -> AsyncIterator[None]:
    yield


@click.command()
@click.option(
    "-w", "--workspace", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("-h", "--host", default="127.0.0.1", show_default=True)
@click.option("-p", "--port", default=3000, show_default=True)
@click.option("--path-prefix", default="", help="Path below which a proxy serves it, such as /dagster.")
def main(workspace: Path, host: str, port: int, path_prefix: str) -> None:
    """Serve the UI of the instance of DAGSTER_HOME."""
    import dagster as dg
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    logging.getLogger("dagster").setLevel(logging.WARNING)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW)
        target = WorkspaceFileTarget(paths=[str(workspace)])
        with WorkspaceProcessContext(
            instance, workspace_load_target=target, code_server_log_level="warning"
        ) as process:
            app = WebServer(process, path_prefix).create_asgi_app(lifespan=_lifespan)
            # A page that is still open holds a connection; it must not hold up the end.
            uvicorn.run(
                app,
                host=host,
                port=port,
                log_level="warning",
                timeout_graceful_shutdown=GRACE_SECONDS,
            )


if __name__ == "__main__":
    main()
