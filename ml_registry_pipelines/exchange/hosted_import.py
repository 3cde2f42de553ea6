"""Models that providers offer, recorded as hosted models: what is new, what changed, what is gone.

Each model has one version, whose content is provider and name there: that is all that makes it
another model, so it never changes. Prices and context window are the model's own tags and
metadata, and another price is another state of it; what a request costs comes from the dated
price catalogue (`costs/`) and never from here.

A whole import is one command, of bulk events. What it recorded of a model is kept in its metadata
(`hosted`), by which it is found again under whatever name; tags and descriptions that people have
given stay. A second import finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ml_registry_pipelines.exchange.hosted_facts import (
    CATALOG,
    TAGS,
    HostedEntry,
    hosted_entries,
    library_version,
)
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel, Stored
from ml_registry_pipelines.registry.bulk import MAX_ROWS
from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.names import typed_tags
from ml_registry_pipelines.registry.personal import refuse_addresses
from ml_registry_pipelines.registry.states import MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.things import NewThing, bulk_change, checked_state
from ml_registry_pipelines.registry.versions import Stage, VersionFacts
from ml_registry_pipelines.registry.view import View

ACTION = "import_hosted_models"
HOSTED = "hosted"
"""Where a model's metadata says what the import knows of it."""
BY_PROVIDER = "Deprecated by its provider, as the catalogue of hosted models says."
NOT_LISTED = "No longer in the catalogue of hosted models."
OUR_REASONS = frozenset({BY_PROVIDER, NOT_LISTED})
"""Deprecations that the import may take back, since it has made them."""
STORED_AT_ONCE = 8


@dataclass(frozen=True)
class HostedImported:
    """What an import did, in models. `left` are sentences about those that it did not touch."""

    library: str
    listed: int
    added: int = 0
    changed: int = 0
    deprecated: int = 0
    reinstated: int = 0
    left: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """For a person."""
        if not (self.added or self.changed or self.deprecated or self.reinstated):
            done = "nothing has changed"
        else:
            counts = {
                "added": self.added,
                "changed": self.changed,
                "deprecated": self.deprecated,
                "reinstated": self.reinstated,
            }
            done = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        return f"{self.listed:,} hosted models in the catalogue ({CATALOG} {self.library}): {done}"


@dataclass
class _Plan:
    """New states of models and their first versions, and what they come from."""

    models: list[tuple[str, str, str]] = field(default_factory=list)
    versions: list[tuple[str, str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def count(self, word: str) -> None:
        self.counts[word] = self.counts.get(word, 0) + 1


class HostedImport:
    """The import of the catalogue into one tenant, for one actor.

    Args:
        entries: what is imported in the place of the library's catalogue.
    """

    def __init__(
        self,
        log: Log,
        *,
        actor: Actor,
        tenant: str = "default",
        run_id: str | None = None,
        entries: Sequence[HostedEntry] | None = None,
    ) -> None:
        self._registry = ModelRegistry(log, actor=actor, tenant=tenant, run_id=run_id)
        self._entries = entries

    def run(self, providers: Sequence[str] = (), *, idempotency_key: str | None = None) -> HostedImported:
        """Record what the catalogue lists of these providers, or of all.

        Models of other providers stay as they are. Those that people have deleted stay deleted.

        Raises:
            InvalidInput: the catalogue has no such provider.
            NotAllowed: the policy refuses.
        """
        registry = self._registry
        chosen = set(providers)
        entries = (
            hosted_entries(providers)
            if self._entries is None
            else [e for e in self._entries if not chosen or e.provider in chosen]
        )
        change = {
            "catalog": CATALOG,
            "library": library_version(),
            "providers": sorted(chosen),
            "models": len(entries),
            "states": digest([[e.facts(), e.description, e.deprecated] for e in entries]),
        }
        registry.ask(ACTION, MODEL, change)
        done = HostedImported(library_version(), len(entries))
        if registry.given_before(ACTION, idempotency_key):
            return done
        known = {_place(state) for state in _imported(registry.now(), chosen)}
        contents = self._stored(e for e in entries if (e.provider, e.model) not in known)
        plan = _Plan()

        def decide(view: View) -> list[Change]:
            nonlocal plan
            plan = _planned(view, entries, chosen, contents)
            changes: list[Change] = []
            for kind, states in ((MODEL, plan.models), (MODEL_VERSION, plan.versions)):
                for first in range(0, len(states), MAX_ROWS):
                    part = states[first : first + MAX_ROWS]
                    changes.append(bulk_change(kind, len(part), registry.log.bulk.write(part)))
            return changes

        registry.do(ACTION, MODEL, change, decide, idempotency_key=idempotency_key)
        return HostedImported(done.library, done.listed, **plan.counts, left=tuple(plan.left))

    def _stored(self, entries: Iterable[HostedEntry]) -> dict[tuple[str, str], Stored]:
        """What their versions are made of: bytes come before the command."""
        listed = list(entries)
        with ThreadPoolExecutor(STORED_AT_ONCE) as pool:
            kept = pool.map(
                lambda e: self._registry.artifacts.store(HostedModel(e.provider, e.model)), listed
            )
            return {(e.provider, e.model): stored for e, stored in zip(listed, kept, strict=True)}


def imported_models(registry: ModelRegistry) -> dict[str, int]:
    """How many living models of the catalogue a tenant has, by provider."""
    return dict(Counter(_place(s)[0] for s in _imported(registry.view(), set()) if not s.deleted))


def _planned(
    view: View,
    entries: Sequence[HostedEntry],
    providers: set[str],
    contents: Mapping[tuple[str, str], Stored],
) -> _Plan:
    plan = _Plan()
    known = {_place(state): state for state in _imported(view, providers)}
    names = [e.name for e in entries if (e.provider, e.model) not in known]
    taken = {s.name for s in view.by_any("things", "name", names) if s.entity_type == MODEL and not s.deleted}
    for entry in entries:
        state = known.pop((entry.provider, entry.model), None)
        if state is None:
            if entry.name in taken:
                plan.left.append(f"{entry.name}: a model with that name was registered by somebody else")
            elif (stored := contents.get((entry.provider, entry.model))) is not None:
                _add(plan, entry, stored)
        elif state.deleted:
            plan.left.append(f"{entry.name}: it was deleted here")
        else:
            _follow(plan, state, entry)
    for gone in known.values():
        if not gone.deleted and gone.data["status"] != "deprecated":
            plan.count("deprecated")
            plan.models.append((MODEL, gone.id, canonical({**gone.data, **_deprecated(NOT_LISTED)})))
    return plan


def _add(plan: _Plan, entry: HostedEntry, stored: Stored) -> None:
    new = NewThing(entry.name, entry.description, entry.tags, (), {HOSTED: _known_of(entry)})
    checked_state(new)
    state = {**new.recorded(), **(_deprecated(BY_PROVIDER) if entry.deprecated else {})}
    model = new_id()
    plan.count("added")
    plan.models.append((MODEL, model, canonical(state)))
    version = {
        "model_id": model,
        "version": 1,
        "stage": Stage.REGISTERED.value,
        "deleted": False,
        "description": "",
        "tags": {},
        "content": stored.recorded(),
        "content_digest": stored.digest,
        "size": stored.size,
        "artifacts": [],
        **VersionFacts().recorded(),
        "trained_on": [],
        "evaluated_on": [],
        "base_version": None,
    }
    plan.versions.append((MODEL_VERSION, new_id(), canonical(version)))


def _follow(plan: _Plan, state: State, entry: HostedEntry) -> None:
    """What the catalogue says now, where it said something else; what people said stays."""
    before = dict(state.data["metadata"][HOSTED])
    kept = {name: tag for name, tag in state.data["tags"].items() if name not in TAGS}
    told: dict[str, Any] = {
        "tags": {**kept, **typed_tags(entry.tags)},
        "metadata": {**state.data["metadata"], HOSTED: _known_of(entry)},
    }
    if digest(state.data["description"]) == before.get("described"):
        told["description"] = entry.description
    reason = (state.data.get("deprecation") or {}).get("reason")
    word = "changed"
    if entry.deprecated and state.data["status"] != "deprecated" and not before.get("deprecated"):
        told |= _deprecated(BY_PROVIDER)
        word = "deprecated"
    elif not entry.deprecated and state.data["status"] == "deprecated" and reason in OUR_REASONS:
        told |= {"status": "active", "deprecation": None}
        word = "reinstated"
    after = canonical({**state.data, **told})
    if after != canonical(state.data):
        refuse_addresses(after, "the import")
        plan.count(word)
        plan.models.append((MODEL, state.id, after))


def _known_of(entry: HostedEntry) -> dict[str, Any]:
    """What is kept of an entry, by which the next import sees what has changed."""
    return {**entry.facts(), "deprecated": entry.deprecated, "described": digest(entry.description)}


def _deprecated(reason: str) -> dict[str, Any]:
    return {"status": "deprecated", "deprecation": {"reason": reason, "replacement_id": None}}


def _imported(view: View, providers: set[str]) -> Iterator[State]:
    """The models that earlier imports have made, deleted ones included."""
    states = view.select(
        "exchange.hosted",
        "things",
        f"type = $type AND json_extract_string(state, '$.metadata.{HOSTED}.catalog') = $catalog",
        parameters={"type": MODEL, "catalog": CATALOG},
    )
    # People may write metadata, too: what is none of an import's is nobody's place.
    places = ((s, s.data["metadata"][HOSTED]) for s in states)
    return (
        s
        for s, held in places
        if isinstance(held.get("provider"), str)
        and isinstance(held.get("model"), str)
        and (not providers or held["provider"] in providers)
    )


def _place(state: State) -> tuple[str, str]:
    held = state.data["metadata"][HOSTED]
    return held["provider"], held["model"]
