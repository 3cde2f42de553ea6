"""What the search page is told: hits of a search, and one model with its nearest relatives, as JSON.

Everything is text for people, cut to what a page can show; how it is shown is in `page/`, the routes
and who may come are in `websearch.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ml_registry_pipelines.access.policy import tenants_with_something
from ml_registry_pipelines.access.users import ACCESS_TENANT
from ml_registry_pipelines.lineage.catalogue import is_shown
from ml_registry_pipelines.lineage.keys import model_key
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.references import versions_of
from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable
from ml_registry_pipelines.search.language.errors import QueryError
from ml_registry_pipelines.search.language.fields import Kind
from ml_registry_pipelines.search.language.parsing import parse_order
from ml_registry_pipelines.search.models import ModelSearch
from ml_registry_pipelines.search.similar import Similarity
from ml_registry_pipelines.search.vectors.table import VectorsDamaged, VectorsMissing

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.names import TagValue
    from ml_registry_pipelines.registry.states import State
    from ml_registry_pipelines.registry.things import Thing
    from ml_registry_pipelines.search.results import Hit

PAGE = 40
BEST = 100
"""Hits for words. Beyond them no order means much."""
RELATIVES = 8
LONGEST_DESCRIPTION = 600
MOST_TAGS = 20
MOST_VERSIONS = 12
MOST_PRICES = 12
DEFAULT = "default"


class WrongOrder(QueryError):
    """An order that cannot be read; `position` is within it."""


@dataclass(frozen=True)
class Asked:
    """A search as the page sends it."""

    tenant: str = ""
    text: str = ""
    query: str = ""
    order: str = ""
    cursor: str | None = None
    deprecated: bool = False


def tenants(log: Log, actor: Actor) -> list[str]:
    """Tenants of which an actor may read something, the default one first."""
    readable = tenants_with_something(log, actor)
    found = log.tenants() if readable is None else readable
    return sorted({t for t in found if t != ACCESS_TENANT}, key=lambda t: (t != DEFAULT, t))


def hits_told(log: Log, actor: Actor, asked: Asked) -> dict[str, Any]:
    """A page of hits, in the order of relevance where there are words and no other order was asked for.

    Raises:
        QueryError: filter or order cannot be read; of an order, `WrongOrder`.
        NotAllowed: the policy does not let the actor read in the tenant.
    """
    search = ModelSearch(log, actor=actor, tenant=asked.tenant)
    if asked.order.strip():
        try:
            parse_order(asked.order, Kind.MODEL)
        except QueryError as wrong:
            raise WrongOrder(wrong.reason, asked.order, wrong.position) from wrong
    text = asked.text.strip() or None
    if text is not None and not asked.order.strip():
        return _best(Similarity(log, actor=actor, tenant=asked.tenant, search=search), text, asked)
    page = search.search(
        asked.query,
        text=text,
        order_by=asked.order,
        limit=PAGE,
        cursor=asked.cursor,
        include_deprecated=asked.deprecated,
    )
    total = search.count(asked.query, text=text, include_deprecated=asked.deprecated)
    return {
        "hits": [_hit(hit) for hit in page.hits],
        "cursor": page.cursor,
        "sequence": page.sequence,
        "total": total,
    }


def _best(similarity: Similarity, text: str, asked: Asked) -> dict[str, Any]:
    """The best hits for words, all at once: a later page of two fused lists could repeat what an earlier one held."""
    answer = similarity.search(text, query=asked.query, k=BEST, include_deprecated=asked.deprecated)
    return {
        "hits": [
            {
                **_common(hit.id, hit.name, hit.description, hit.status, hit.owners, hit.tags),
                "aliases": [],
                "latest_version": hit.latest_version,
                "why": hit.why.sentence.split("; "),
            }
            for hit in answer.hits
        ],
        "cursor": None,
        "sequence": answer.sequence,
        "total": None if len(answer.hits) == BEST else len(answer.hits),
        "note": answer.note or _lag(answer.behind),
    }


def _lag(events: int) -> str:
    return f"vectors are {events:,} events behind" if events else ""


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        **_common(hit.id, hit.name, hit.description, hit.status, hit.owners, hit.tags),
        "aliases": sorted(hit.aliases),
        "latest_version": hit.latest_version,
        "why": list(hit.matched),
    }


def _common(
    identity: str,
    name: str,
    description: str,
    status: str,
    owners: Sequence[str],
    tags: Mapping[str, TagValue],
) -> dict[str, Any]:
    return {
        "id": identity,
        "name": name,
        "description": _cut(description, LONGEST_DESCRIPTION),
        "status": status,
        "owners": list(owners),
        "tags": [tag_shown(key, value) for key, value in sorted(tags.items())][:MOST_TAGS],
    }


def tag_shown(name: str, value: TagValue) -> dict[str, str]:
    """A tag for people, and the condition that finds what has it."""
    if isinstance(value, bool):
        literal = shown = str(value).lower()
    elif isinstance(value, date):
        shown = value.isoformat()
        literal = f"'{shown}'"
    elif isinstance(value, int | float):
        literal = repr(value)
        shown = f"{value:,}"
    else:
        shown = value
        literal = "'" + value.replace("'", "''") + "'"
    key = name if name.isidentifier() and name.isascii() else '"' + name.replace('"', '""') + '"'
    return {"name": name, "shown": _cut(shown, 80), "condition": f"tags.{key} = {literal}"}


def model_told(log: Log, actor: Actor, tenant: str, given: str, *, pages: bool) -> dict[str, Any]:
    """One model, with its versions, facts and relatives.

    Args:
        given: id or name.
        pages: whether Dagster's pages may be shown to who asks.

    Raises:
        NotAllowed: the policy does not let the actor read it.
        NotFound: there is none.
    """
    registry = ModelRegistry(log, actor=actor, tenant=tenant)
    model = registry.get_model(given)
    view = registry.now()  # The policy was asked about this very model.
    versions = versions_of(view, model.id)
    newest = versions[-1] if versions else None
    links = []
    if pages and is_shown(view, model.id):
        path = "/".join(quote(part, safe="") for part in model_key(tenant, model.name))
        links.append({"text": "Asset page in Dagster", "href": f"../assets/{path}"})
    return {
        "id": model.id,
        "name": model.name,
        "status": model.status,
        "description": model.description,
        "owners": list(model.owners),
        "version": None if newest is None else newest.data["version"],
        "links": links,
        "facts": [[name, _cut(text, 400)] for name, text in _facts(model, newest)],
        **_relatives(log, actor, tenant, model.id),
        "versions": [_version(state, model) for state in reversed(versions[-MOST_VERSIONS:])],
    }


def _relatives(log: Log, actor: Actor, tenant: str, model: str) -> dict[str, Any]:
    try:
        answer = Similarity(log, actor=actor, tenant=tenant).find_similar(model, k=RELATIVES)
    except (VectorsMissing, VectorsDamaged, EmbedderUnusable) as failure:
        return {"similar": [], "note": f"{failure}."}
    return {
        "similar": [
            {
                "id": hit.id,
                "name": hit.name,
                "score": f"{hit.score:.2f}",
                "why": replace(hit.why, similarity=None).sentence.split("; "),
            }
            for hit in answer.hits
        ],
        "note": _lag(answer.behind),
    }


def _facts(model: Thing, newest: State | None) -> list[tuple[str, str]]:
    facts = [(f"alias {name}", f"v{number}") for name, number in sorted(model.aliases.items())]
    facts += [(name, tag_shown(name, value)["shown"]) for name, value in sorted(model.tags.items())]
    hosted = model.metadata.get("hosted")
    if isinstance(hosted, Mapping):
        facts += [("list price", line) for line in _prices(hosted.get("list_prices"))]
    if newest is not None:
        data = newest.data
        facts += [
            (name.replace("_", " "), str(data[name])) for name in ("framework", "licence") if data.get(name)
        ]
        facts += [(f"metric {name}", f"{value:.6g}") for name, value in sorted(data["metrics"].items())[:20]]
    facts.append(("last change", f"{model.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M}Z"))
    return facts


def _prices(listed: Any) -> list[str]:
    """Dated prices of a hosted model, one line each."""
    lines = []
    for price in listed if isinstance(listed, Sequence) else ():
        if not isinstance(price, Mapping):
            continue
        when = " ".join(f"{word} {price[word]}" for word in ("from", "until", "hours") if word in price)
        tier = f"tier {price['service_tier']}" if "service_tier" in price else ""
        amounts: dict[str, list[str]] = {}
        for name, value in price.items():
            if name not in {"from", "until", "hours", "service_tier"}:
                what, _, unit = name.rpartition("_")
                what, unit = (what, _PER[unit]) if unit in _PER else (name, "each")
                amounts.setdefault(unit, []).append(f"{what.replace('_', ' ')} {_amount(value)}")
        priced = [f"{', '.join(listed)} USD {unit}" for unit, listed in amounts.items()]
        lines.append("; ".join(part for part in (*priced, when, tier) if part))
    return lines[:MOST_PRICES]


_PER = {
    "mtok": "per million tokens",
    "mchars": "per million characters",
    "kcount": "per thousand",
    "kpages": "per thousand pages",
    "hours": "per hour",
}


def _amount(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    first, *others = ((int(start), amount) for start, amount in value.items())
    steps = ", ".join(f"{amount} above {start:,} tokens" for start, amount in others)
    return f"{first[1]} ({steps})" if steps else str(first[1])


def _version(state: State, model: Thing) -> list[str]:
    data = state.data
    number = data["version"]
    aliases = [name for name, n in sorted(model.aliases.items()) if n == number]
    said = [
        data["stage"],
        ", ".join(aliases),
        ", ".join(f"{name} {value:.4g}" for name, value in sorted(data["metrics"].items())[:4]),
        data["description"],
    ]
    return [f"v{number}", _cut(" · ".join(part for part in said if part), 300)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
