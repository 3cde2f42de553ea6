"""The search page of our web server: one page, and what it asks for as JSON.

It stands behind the same door as everything else (`weblogin.py`), and unlike Dagster's pages, which
show every tenant, it is for everybody with a grant: each answer is limited by the one policy, inside
the query. What the answers say is `search/answers.py`; the page itself lies in `search/page/`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.access.sessions import Visitor
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed, NotFound
from ml_registry_pipelines.weblanding import SEARCH

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log


_PAGE = Path(__file__).parent / "search" / "page"
_NEVER_KEPT = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def search_routes(opened: Callable[[], Log], visitor_of: Callable[[Request], Visitor]) -> list[Route]:
    """The page and its two questions.

    Args:
        opened: gives the log of the lake.
        visitor_of: whom the door has let in.
    """
    pages = SearchPages(opened, visitor_of)
    return [
        Route(SEARCH, pages.page, methods=["GET"]),
        Route(f"{SEARCH}/hits", pages.hits, methods=["GET"]),
        Route(f"{SEARCH}/model", pages.model, methods=["GET"]),
    ]


class SearchPages:
    """Answers of the search page, each to one visitor."""

    def __init__(self, opened: Callable[[], Log], visitor_of: Callable[[Request], Visitor]) -> None:
        self._opened = opened
        self._visitor_of = visitor_of

    def page(self, request: Request) -> Response:
        """The page, the same for everybody: what it shows, it asks for."""
        self._visitor_of(request)
        text, policy = page_text()
        return HTMLResponse(text, headers={**_NEVER_KEPT, "Content-Security-Policy": policy})

    def hits(self, request: Request) -> Response:
        """A page of hits."""
        from ml_registry_pipelines.search.answers import Asked, hits_told

        given = request.query_params
        visitor = self._visitor_of(request)
        tenants, tenant = self._tenant(request)
        asked = Asked(
            tenant,
            text=given.get("text", ""),
            query=given.get("q", ""),
            order=given.get("order", ""),
            cursor=given.get("cursor") or None,
            deprecated=given.get("deprecated") == "1",
        )
        told = {
            "tenants": tenants,
            "tenant": tenant,
            "dagster": visitor.sees_all,
            "signed_in": not visitor.is_open,
        }
        return self._answer(
            request, tenant, lambda: {**told, **hits_told(self._opened(), visitor.actor, asked)}
        )

    def model(self, request: Request) -> Response:
        """One model with its relatives."""
        from ml_registry_pipelines.search.answers import model_told

        visitor = self._visitor_of(request)
        _, tenant = self._tenant(request)
        given = request.query_params.get("id", "")
        return self._answer(
            request,
            tenant,
            lambda: model_told(self._opened(), visitor.actor, tenant, given, pages=visitor.sees_all),
        )

    def _tenant(self, request: Request) -> tuple[list[str], str]:
        """Tenants that the visitor may choose from, and the one that is meant."""
        from ml_registry_pipelines.search.answers import DEFAULT, tenants

        found = tenants(self._opened(), self._visitor_of(request).actor)
        return found, request.query_params.get("tenant") or (found[0] if found else DEFAULT)

    def _answer(self, request: Request, tenant: str, tell: Callable[[], dict[str, Any]]) -> Response:
        from ml_registry_pipelines.search.answers import WrongOrder
        from ml_registry_pipelines.search.language.errors import QueryError

        try:
            return JSONResponse(tell(), headers=_NEVER_KEPT)
        except NotAllowed as refused:
            AccessLog(self._opened().lake).note(
                self._visitor_of(request).actor,
                "request",
                request.url.path,
                tenant=tenant,
                outcome=Outcome.REFUSED,
                reason=str(refused),
                door="web",
            )
            return _wrong(403, str(refused))
        except QueryError as wrong:
            field = "order" if isinstance(wrong, WrongOrder) else "filter"
            return _wrong(400, wrong.reason, position=wrong.position, field=field)
        except NotFound as missing:
            return _wrong(404, str(missing))
        except InvalidInput as wrong:
            return _wrong(400, str(wrong))
        except MlregError as failure:
            return _wrong(503, str(failure))


def _wrong(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": {"message": message, **more}}, status, _NEVER_KEPT)


@cache
def page_text() -> tuple[str, str]:
    """The page, and the policy under which a browser runs its one script and style and nothing else."""
    style, script = ((_PAGE / f"search.{kind}").read_text("utf-8") for kind in ("css", "js"))
    text = (
        (_PAGE / "search.html").read_text("utf-8").replace("{{style}}", style).replace("{{script}}", script)
    )
    policy = (
        f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
