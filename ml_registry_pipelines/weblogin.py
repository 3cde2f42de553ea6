"""The web server's door, before every route: signing in with an API key, and who sends each request.

A pure ASGI layer, so that a WebSocket passes it as well. Who it is, is told to what lies behind
in the connection's state; what they may do there is not decided here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ml_registry_pipelines.access.access_log import AccessLog, Outcome
from ml_registry_pipelines.access.sessions import (
    COOKIE,
    OPEN,
    SESSION_SECONDS,
    Doorman,
    TooManyWrong,
    Visitor,
    safe_next,
)
from ml_registry_pipelines.access.users import KeyRefused
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.weblanding import GOVERNANCE, SEARCH, landing

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log

LOGIN, LOGOUT, ARTIFACTS = "/mlreg/login", "/mlreg/logout", "/mlreg/artifacts/"
LONGEST_FORM = 8_192
UNKNOWN = Actor("unknown")
SHOWS_ALL = (
    "Dagster's pages show every tenant, and this user has no grant for every one; an admin can give it "
    f"(`mlreg users grant USER '*'`), and `mlreg` and the search at {SEARCH} work without"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    # With `no-referrer` browsers send `Origin: null` with the form, as a page of another site would.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_OURS = re.compile(
    rf"{re.escape(ARTIFACTS)}[^/]+/[^/]+|{re.escape(GOVERNANCE)}[^/]+|{re.escape(SEARCH)}(?:/hits|/model)?"
)
_log = logging.getLogger(__name__)

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} - model registry</title>
<meta name="viewport" content="width=device-width">{head}
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 26em; margin: 12vh auto; padding: 0 1em; color: #1d2433 }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; font: inherit }}
input {{ margin: .3em 0 1em; padding: .5em; border: 1px solid #8a94a6; border-radius: 4px }}
button {{ padding: .6em; border: 0; border-radius: 4px; background: #1f4fd8; color: #fff }}
p.wrong {{ color: #a3000b }}
h2 {{ font-size: 1.05em; margin: 1.6em 0 .2em; overflow-wrap: anywhere }}
ul {{ margin: .3em 0; padding-left: 1.2em }}
li, code {{ overflow-wrap: anywhere }}
</style></head><body>{body}</body></html>
"""


class Door:
    """Lets a request through with its visitor, or answers in its place.

    Args:
        app: what lies behind.
        doorman: tells who it is.
        log: gives the log of the lake, for notes of logins and refusals.
        secure: whether the cookie is for encrypted connections alone.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        doorman: Doorman,
        log: Callable[[], Log],
        prefix: str = "",
        secure: bool = False,
    ) -> None:
        self._app = app
        self._doorman = doorman
        self._log = log
        self._prefix = prefix.rstrip("/")
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        # Nothing that lies before may say who it is.
        scope["state"] = {
            k: v for k, v in (scope.get("state") or {}).items() if k not in {"visitor", "actor"}
        }
        answer = await self._answer(scope, receive)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before it was accepted: the client sees status 403.
            await send({"type": "websocket.close", "code": 4401})
        else:
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        connection = HTTPConnection(scope)
        address = connection.client.host if connection.client else ""
        refusal: KeyRefused | None = None
        try:
            visitor = await run_in_threadpool(
                self._doorman.visitor, connection.headers, connection.cookies, address
            )
        except KeyRefused as wrong:
            visitor, refusal = None, wrong
        except MlregError as failure:
            _log.error("nobody is let in: %s", failure)
            return JSONResponse({"error": f"nobody can be let in: {failure}"}, 503, HEADERS)
        path = str(scope["path"]).removeprefix(self._prefix)
        if scope["type"] == "http" and path in {LOGIN, LOGOUT}:
            request = Request(scope, receive)
            return await (
                self._login(request, visitor, address) if path == LOGIN else self._logout(request, visitor)
            )
        if visitor is None:
            return self._nobody(scope, connection, path, refusal)
        if visitor.by_cookie and not same_origin(scope, connection):
            self._note(visitor.actor, path, Outcome.REFUSED, "the request came from another site's page")
            return JSONResponse({"error": "this request came from a page of another site"}, 403, HEADERS)
        if not visitor.sees_all and not _asks_the_policy(path):
            self._note(visitor.actor, path, Outcome.REFUSED, "no grant for every tenant")
            return await self._landing(scope, connection, visitor)
        scope["state"] |= {"visitor": visitor, "actor": visitor.actor}
        return None

    def _nobody(
        self, scope: Scope, connection: HTTPConnection, path: str, refusal: KeyRefused | None
    ) -> Response:
        if refusal is not None:
            self._note(Actor(refusal.user_id or UNKNOWN.id), "login", Outcome.REFUSED, refusal.reason)
            return _wrong_key(refusal)
        self._note(UNKNOWN, path, Outcome.REFUSED, "not signed in")
        if scope["type"] == "http" and "text/html" in connection.headers.get("accept", ""):
            asked = str(scope["path"]) + (f"?{connection.url.query}" if connection.url.query else "")
            return RedirectResponse(f"{self._prefix}{LOGIN}?next={quote(asked)}", 303, HEADERS)
        return JSONResponse({"error": f"sign in at {self._prefix}{LOGIN}"}, 401, HEADERS)

    async def _landing(self, scope: Scope, connection: HTTPConnection, visitor: Visitor) -> Response:
        """What a person sees in the place of Dagster's pages; anything else is told in a sentence."""
        if scope["type"] != "http" or "text/html" not in connection.headers.get("accept", ""):
            return JSONResponse({"error": SHOWS_ALL}, 403, HEADERS)
        try:
            body = await run_in_threadpool(
                lambda: landing(self._log(), visitor.actor, prefix=self._prefix, sign_out=LOGOUT)
            )
        except MlregError as failure:
            return JSONResponse({"error": f"{SHOWS_ALL} ({failure})"}, 403, HEADERS)
        return HTMLResponse(PAGE.format(body=body, head="", title="What you may see"), 403, HEADERS)

    async def _login(self, request: Request, visitor: Visitor | None, address: str) -> Response:
        if visitor is OPEN:
            return RedirectResponse(f"{self._prefix}/", 303, HEADERS)
        if request.method != "POST":
            asked = request.query_params.get("next", "")
            going = safe_next(asked, self._prefix)
            if visitor is not None and asked:
                return RedirectResponse(going, 303, HEADERS)
            # Browsers send a strict cookie with no link from elsewhere, such as from an evidence page; but with
            # what this page itself asks for, once.
            elsewhere = request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}
            ask_again = visitor is None and elsewhere and "again" not in request.query_params
            return self._page(
                going, signed_in=None if visitor is None else visitor.actor.id, ask_again=ask_again
            )
        if not same_origin(request.scope, request, forms=True):
            return self._page(f"{self._prefix}/", "The form came from a page of another site.", 403)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST_FORM:
                return self._page(f"{self._prefix}/", "The form is too long.", 413)
        form = parse_qs(body.decode("utf-8", "replace"))
        going = safe_next(form.get("next", [""])[0], self._prefix)
        try:
            cookie, actor = await run_in_threadpool(self._doorman.sign_in, form.get("key", [""])[0], address)
        except KeyRefused as refused:
            who = Actor(refused.user_id or UNKNOWN.id)
            self._note(who, "login", Outcome.REFUSED, refused.reason)
            status = 429 if isinstance(refused, TooManyWrong) else 401
            page = self._page(going, f"{refused}.", status)
            if isinstance(refused, TooManyWrong):
                page.headers["Retry-After"] = f"{refused.seconds:.0f}"
            return page
        except MlregError as failure:
            return self._page(going, f"Nobody can be let in: {failure}", 503)
        self._note(actor, "login", Outcome.ALLOWED, "")
        done = RedirectResponse(going, 303, HEADERS)
        done.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_SECONDS,
            path="/",
            secure=self._is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return done

    async def _logout(self, request: Request, visitor: Visitor | None) -> Response:
        if request.method == "POST" and same_origin(request.scope, request, forms=True):
            if visitor is not None:
                self._note(visitor.actor, "logout", Outcome.ALLOWED, "")
            done = RedirectResponse(f"{self._prefix}{LOGIN}", 303, HEADERS)
            done.delete_cookie(
                COOKIE,
                path="/",
                secure=self._is_secure(request),
                httponly=True,
                samesite="strict",
            )
            return done
        return self._page(f"{self._prefix}/", signed_in=None if visitor is None else visitor.actor.id)

    def _page(
        self,
        going: str,
        wrong: str = "",
        status: int = 200,
        *,
        signed_in: str | None = None,
        ask_again: bool = False,
    ) -> HTMLResponse:
        head = ""
        if ask_again:
            address = f"{self._prefix}{LOGIN}?again=1&next={quote(going)}"
            head = f'\n<meta http-equiv="refresh" content="0;url={escape(address)}">'
        if signed_in is not None:
            body = (
                f"<h1>Signed in</h1><p>As {escape(signed_in)}. <a href='{escape(self._prefix)}/'>To Dagster</a> or "
                f"<a href='{escape(self._prefix + SEARCH)}'>search models</a></p>"
                f"<form method='post' action='{escape(self._prefix + LOGOUT)}'><button>Sign out</button></form>"
            )
        else:
            said = (
                f"<p class='wrong' role='alert'>{escape(wrong[:1].upper() + wrong[1:])}</p>" if wrong else ""
            )
            body = (
                f"<h1>Sign in</h1><p>To the model registry and its Dagster.</p>{said}"
                f"<form method='post' action='{escape(self._prefix + LOGIN)}'>"
                f"<input type='hidden' name='next' value='{escape(going)}'>"
                "<label for='key'>API key</label>"
                "<input id='key' name='key' type='password' autocomplete='current-password' required autofocus>"
                "<button>Sign in</button></form><p>An admin makes keys: <code>mlreg users key USER</code></p>"
            )
        return HTMLResponse(PAGE.format(body=body, head=head, title="Sign in"), status, HEADERS)

    def _is_secure(self, request: Request) -> bool:
        return self._secure or request.url.scheme == "https"

    def _note(self, actor: Actor, subject: str, outcome: Outcome, reason: str) -> None:
        action = subject if subject in {"login", "logout"} else "request"
        AccessLog(self._log().lake).note(
            actor, action, subject, tenant=None, outcome=outcome, reason=reason, door="web"
        )


def _asks_the_policy(path: str) -> bool:
    """Whether what lies there looks at the grants of who asks, for everything that it shows.

    The whole path, as the routes have it: what only begins so, such as `/mlreg/search/../graphql`, is Dagster's.
    """
    return _OURS.fullmatch(path) is not None


def same_origin(scope: Scope, connection: HTTPConnection, *, forms: bool = False) -> bool:
    """Whether what could change something came from a page of this server, as the browser says.

    A form without either header comes from no browser; a session's cookie without them is not believed.
    """
    if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}:
        return True
    origin = connection.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == connection.headers.get("host", "") != ""
    site = connection.headers.get("sec-fetch-site")
    return site == "same-origin" if site is not None else forms


def _wrong_key(refused: KeyRefused) -> Response:
    headers: dict[str, Any] = {**HEADERS, "WWW-Authenticate": "Bearer"}
    if isinstance(refused, TooManyWrong):
        return JSONResponse(
            {"error": str(refused)}, 429, {**headers, "Retry-After": f"{refused.seconds:.0f}"}
        )
    return JSONResponse({"error": str(refused)}, 401, headers)
