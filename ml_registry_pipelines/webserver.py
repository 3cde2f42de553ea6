"""Dagster's web server with our own routes: the artifacts of versions, to which the asset pages link, and the search.

Dagster's own has no way to serve a file, a browser opens no `file://` from a page, and a
presigned link in metadata would outlive its reader's rights or its own hour. As soon as there are
users, and in staging and production, who comes signs in (`weblogin.py`) and may do what the
roles say (`webpermissions.py`). It listens on loopback unless it is told otherwise.

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
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.websockets import WebSocket

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.access.policy import may
from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.secret import make_secret
from ml_registry_pipelines.access.sessions import Doorman, TrustedProxy, Visitor
from ml_registry_pipelines.access.users import ACCESS_TENANT
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.actors import READ
from ml_registry_pipelines.settings import Environment, Settings
from ml_registry_pipelines.weblogin import HEADERS, Door
from ml_registry_pipelines.webpermissions import RESTAMPS, ProcessContext, RequestContext, refused
from ml_registry_pipelines.websearch import search_routes

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

ADMINS = frozenset({Role.ADMIN})
GRACE_SECONDS = 3
STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW = 15_000, 3_600, 20


READS_RUNS = frozenset({Role.ENGINEER, Role.COMPLIANCE, Role.ADMIN})
"""Roles that may take away what a run has written: it may quote data."""


class WebServer(DagsterWebserver[Any, Any]):
    """Dagster's web server, the registry's artifacts, and a door.

    Args:
        process: our `ProcessContext`, whose permissions depend on the visitor.
        home: Dagster's home, where the installation's secret lies.
    """

    def __init__(self, process: ProcessContext, app_path_prefix: str = "", *, home: Path) -> None:
        self._log: Log | None = None
        self._opening = threading.Lock()
        self.doorman = Doorman(self._opened, home, proxy=TrustedProxy.from_environment())
        super().__init__(process, app_path_prefix)

    def build_middleware(self) -> list[Middleware]:
        secure = Settings.from_environment().environment is not Environment.DEV
        door = Middleware(
            Door, doorman=self.doorman, log=self._opened, prefix=self._app_path_prefix, secure=secure
        )
        return [door, *super().build_middleware()]

    async def execute_graphql_request(
        self,
        request: Request,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> JSONResponse:
        """As Dagster's, for mutations that the visitor may send, in the one way in which the UI sends them."""
        mutations = mutations_in(query)
        visitor = visitor_of(request)
        if mutations and not visitor.is_open:
            plain = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if request.method != "POST" or plain not in {"application/json", "application/graphql"}:
                return self._refuse(visitor, mutations[0], "a mutation is sent by POST, as JSON")
            if (name := refused(visitor, mutations)) is not None:
                return self._refuse(visitor, name, f"your role does not allow {name}")
        answer = await super().execute_graphql_request(request, query, variables, operation_name)
        if mutations and b'"UnauthorizedError"' in bytes(answer.body):
            self._note_refusal(visitor, ", ".join(mutations), "no permission for that definition")
        return answer

    async def execute_graphql_subscription(
        self,
        websocket: WebSocket,
        operation_id: str,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> Any:
        """As Dagster's, for subscriptions alone, and for who is still let in."""
        visitor = visitor_of(websocket)
        if mutations := mutations_in(query):
            self._note_refusal(visitor, mutations[0], "a mutation by WebSocket")
            return None, {"message": "a WebSocket takes subscriptions alone; send mutations by POST, as JSON"}
        if not visitor.is_open and not await run_in_threadpool(self._still_in, websocket):
            return None, {"message": "the session is over; sign in again"}
        return await super().execute_graphql_subscription(
            websocket, operation_id, query, variables, operation_name
        )

    async def gen_graphql_response(
        self,
        request_context: RequestContext,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> JSONResponse:
        request_context.restamps = bool(RESTAMPS.intersection(mutations_in(query)))
        return await super().gen_graphql_response(request_context, query, variables, operation_name)

    # -- reads and writes beside GraphQL ------------------------------------------------------

    async def download_debug_file_endpoint(self, request: Request) -> Response:
        return self._guard(request, READS_RUNS) or await super().download_debug_file_endpoint(request)

    async def download_notebook(self, request: Request) -> Response:
        return self._guard(request, READS_RUNS) or await super().download_notebook(request)

    async def download_captured_logs_endpoint(self, request: Request) -> Response:
        return self._guard(request, READS_RUNS) or await super().download_captured_logs_endpoint(request)

    async def report_asset_materialization_endpoint(self, request: Request) -> JSONResponse:
        return self._guard(request, ADMINS) or await super().report_asset_materialization_endpoint(request)

    async def report_asset_check_endpoint(self, request: Request) -> JSONResponse:
        return self._guard(request, ADMINS) or await super().report_asset_check_endpoint(request)

    async def report_asset_observation_endpoint(self, request: Request) -> JSONResponse:
        return self._guard(request, ADMINS) or await super().report_asset_observation_endpoint(request)

    def _guard(self, request: Request, roles: frozenset[Role]) -> JSONResponse | None:
        """The refusal of a request that the visitor's roles do not allow; else a note that it was made."""
        visitor = visitor_of(request)
        path = request.url.path
        if not visitor.is_open and not visitor.roles & roles:
            return self._refuse(visitor, path, "your role does not allow it")
        AccessLog(self._opened().lake).note(visitor.actor, "download", path, tenant=None, door="web")
        return None

    def _refuse(self, visitor: Visitor, what: str, why: str) -> JSONResponse:
        self._note_refusal(visitor, what, why)
        return JSONResponse({"data": None, "errors": [{"message": f"refused: {why}"}]}, 403)

    def _note_refusal(self, visitor: Visitor, what: str, why: str) -> None:
        AccessLog(self._opened().lake).note(
            visitor.actor, "request", what, tenant=None, outcome=Outcome.REFUSED, reason=why, door="web"
        )

    def _still_in(self, websocket: WebSocket) -> bool:
        address = websocket.client.host if websocket.client else ""
        try:
            return self.doorman.visitor(websocket.headers, websocket.cookies, address) is not None
        except MlregError:
            return False

    def build_routes(self) -> list[Any]:
        # First, because the last of Dagster's routes takes every path.
        return [
            Route("/mlreg/artifacts/{tenant}/{version}", self.artifact),
            Route("/mlreg/governance/{tenant}", self.governance),
            *search_routes(self._opened, visitor_of),
            *super().build_routes(),  # type: ignore[no-untyped-call]
        ]

    def governance(self, request: Request) -> Response:
        """The governance page of one tenant as it stands, for whoever may read there."""
        from ml_registry_pipelines.reports.governance_page import governance_page

        tenant, visitor = request.path_params["tenant"], visitor_of(request)
        if tenant not in self._opened().tenants() or tenant == ACCESS_TENANT:
            return PlainTextResponse("there is no such tenant, or it is not for you to see\n", 404)
        if not visitor.is_open:
            allowed = may(self._opened(), visitor.actor, READ, tenant)
            if not allowed.allowed:
                self._note_refusal(visitor, f"governance:{tenant}", allowed.reason)
                return PlainTextResponse("there is no such tenant, or it is not for you to see\n", 404)
        try:
            page = governance_page(self._opened(), actor=visitor.actor, tenants=[tenant])
        except MlregError as failure:
            return PlainTextResponse(f"{failure}\n", 503)
        return HTMLResponse(page, headers=HEADERS)

    def artifact(self, request: Request) -> Response:
        """The content of a version, verified while it is sent; a folder as a zip."""
        from ml_registry_pipelines.registry.errors import NotFound
        from ml_registry_pipelines.registry.serving import serve

        tenant, version = request.path_params["tenant"], request.path_params["version"]
        visitor = visitor_of(request)
        if not visitor.is_open:
            allowed = may(self._opened(), visitor.actor, READ, tenant, version)
            if not allowed.allowed:
                return self._refuse(visitor, f"version:{version}", allowed.reason)
        try:
            served = serve(self._opened(), tenant, version)
        except NotFound as missing:
            return PlainTextResponse(f"{missing}\n", 404)
        except MlregError as failure:
            return PlainTextResponse(f"{failure}\n", 409)
        AccessLog(self._opened().lake).note(
            self.who(request), "download", f"version:{version}", tenant=tenant
        )
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(served.name, safe='')}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        if served.size is not None:
            headers["Content-Length"] = str(served.size)
        return StreamingResponse(served.pieces, headers=headers, media_type="application/octet-stream")

    def who(self, request: Request) -> Actor:
        """Who asks, for the access log."""
        return visitor_of(request).actor

    def _opened(self) -> Log:
        from ml_registry_pipelines.lake.lake import Lake
        from ml_registry_pipelines.registry.log import Log

        with self._opening:
            if self._log is None:
                self._log = Log(Lake(Settings.from_environment().home, process="web"))
            return self._log


def visitor_of(connection: HTTPConnection) -> Visitor:
    """Whom the door has let in.

    Raises:
        RuntimeError: it came past the door.
    """
    found = getattr(connection.state, "visitor", None)
    if not isinstance(found, Visitor):
        raise RuntimeError("a request came past the door")
    return found


def mutations_in(query: str) -> list[str]:
    """The mutations that a GraphQL document holds, in whichever of its operations, by their own names."""
    from graphql import GraphQLError, OperationType, parse
    from graphql.language import (
        FieldNode,
        FragmentDefinitionNode,
        FragmentSpreadNode,
        InlineFragmentNode,
        OperationDefinitionNode,
    )

    if "mutation" not in query:
        return []
    try:
        document = parse(query, no_location=True)
    except GraphQLError:
        return []  # Dagster says what is wrong with it, and does nothing.
    except RecursionError:
        return ["a document that is nested too deeply"]  # Which nobody has classified.
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    found, seen = list[str](), set[str]()
    open_ones: list[Any] = [
        d.selection_set
        for d in document.definitions
        if isinstance(d, OperationDefinitionNode) and d.operation is OperationType.MUTATION
    ]
    while open_ones:
        for each in open_ones.pop().selections:
            if isinstance(each, FieldNode):
                found.append(each.name.value)
            elif isinstance(each, InlineFragmentNode):
                open_ones.append(each.selection_set)
            elif isinstance(each, FragmentSpreadNode) and each.name.value not in seen:
                seen.add(each.name.value)
                if (fragment := fragments.get(each.name.value)) is not None:
                    open_ones.append(fragment.selection_set)
    return found


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
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    logging.getLogger("dagster").setLevel(logging.WARNING)
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, POOL_OVERFLOW)
        target = WorkspaceFileTarget(paths=[str(workspace)])
        with ProcessContext(
            instance, workspace_load_target=target, code_server_log_level="warning"
        ) as process:
            home = Path(instance.root_directory)
            make_secret(home)
            app = WebServer(process, path_prefix, home=home).create_asgi_app(lifespan=_lifespan)
            # A page that is still open holds a connection; it must not hold up the end.
            uvicorn.run(
                app,
                host=host,
                port=port,
                log_level="warning",
                timeout_graceful_shutdown=GRACE_SECONDS,
                # The address of a client is the one that it has: no header makes it another.
                proxy_headers=False,
            )


if __name__ == "__main__":
    main()
