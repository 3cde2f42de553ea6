"""Where somebody lands who is signed in and may not see every tenant: a sentence why, and links to what they may see.

Dagster's pages show all tenants at once and so take a grant for all of them. What is listed here is asked of
the same policy as everything else, model by model.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from ml_registry_pipelines.access.policy import may
from ml_registry_pipelines.access.users import EVERY_TENANT, accounts
from ml_registry_pipelines.registry.actors import READ
from ml_registry_pipelines.registry.references import versions_of

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

GOVERNANCE = "/mlreg/governance/"
SEARCH = "/mlreg/search"
MOST_MODELS = 200
NEWEST = 5
"""Versions of a model that are linked to."""


def landing(log: Log, actor: Actor, *, prefix: str, sign_out: str) -> str:
    """The body of the page."""
    user = accounts(log).users.get(actor.id)
    grants = user.grants if user is not None else ()
    tenants = sorted({grant.tenant for grant in grants} - {EVERY_TENANT})
    sections = [_tenant(log, actor, tenant, prefix) for tenant in tenants]
    if any(sections):
        seen = f"<p><a href='{escape(prefix + SEARCH)}'>Search models</a></p>{''.join(sections)}"
    else:
        seen = "<p>You have no grant yet. An admin gives one: <code>mlreg users grant USER TENANT</code></p>"
    return (
        "<h1>What you may see</h1>"
        "<p>Dagster's pages show all tenants at once, so they take a grant for every one, which you do not have. "
        f"You are signed in as <code>{escape(actor.id)}</code>, and may see:</p>{seen}"
        "<p>With your key, <code>mlreg</code> shows you the same and more at the shell. For Dagster's pages ask an "
        "admin: <code>mlreg users grant USER '*'</code></p>"
        f"<form method='post' action='{escape(prefix + sign_out)}'><button>Sign out</button></form>"
    )


def _tenant(log: Log, actor: Actor, tenant: str, prefix: str) -> str:
    """One tenant's links; empty where there is nothing that the actor may read."""
    view = log.view(tenant)
    whole = may(log, actor, READ, tenant).allowed
    models = [
        state
        for state in view.select("landing.models", "things", "type = 'model' AND NOT deleted", order="name")
        if whole or may(log, actor, READ, tenant, state.id).allowed
    ]
    if not whole and not models:
        return ""
    page = (
        f"<p><a href='{escape(prefix + GOVERNANCE + quote(tenant, safe=''))}'>Governance page</a>: what waits, "
        "what is live, what failed, what is overdue</p>"
        if whole
        else ""
    )
    listed = "".join(
        f"<li>{_model(view, state.id, state.name, tenant, prefix)}</li>" for state in models[:MOST_MODELS]
    )
    more = f"<p>and {len(models) - MOST_MODELS:,} more models</p>" if len(models) > MOST_MODELS else ""
    none = "" if models else "<p>No model is registered there.</p>"
    return f"<h2>{escape(tenant)}</h2>{page}{none}<ul>{listed}</ul>{more}"


def _model(view: View, model_id: str, name: str, tenant: str, prefix: str) -> str:
    """A model, with its newest versions as downloads."""
    versions = sorted(versions_of(view, model_id), key=lambda state: -int(state.data["version"]))
    folder = f"{prefix}/mlreg/artifacts/{quote(tenant, safe='')}"
    links = ", ".join(
        f"<a href='{escape(folder)}/{quote(state.id, safe='')}'>v{state.data['version']}</a> "
        f"{escape(str(state.data['stage']))}"
        for state in versions[:NEWEST]
        if state.data["content"]["form"] in {"file", "folder"}
    )
    return f"<bdi>{escape(name)}</bdi>{': ' + links if links else ''}"
