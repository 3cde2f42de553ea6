"""What the registry knows of a model, as one text that is embedded and as facts that explain likeness.

Of a model: name, description, tags, its card. Of its newest living version: description, tags, framework,
licence, signature, names of metrics, datasets, base models. Values that change with every training, such as a
metric's, are left out: they would make a new text and say nothing about what the model is. Fields that are
sealed for a person's sake are never opened here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.names import TagValue, tag_values
from ml_registry_pipelines.registry.shredding import SEALED
from ml_registry_pipelines.registry.states import MODEL, State, from_rows
from ml_registry_pipelines.search.index.cards import card_reader
from ml_registry_pipelines.search.index.folding import CARD, CardReader

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.view import View

FORM = 1
"""Number of the form of the text: part of its digest, so that another form is another text."""
LONGEST = 20_000
"""Characters of a card or description that count."""
COLUMNS = 40
"""Columns of a signature that are named; a wide table's others say little more."""
AT_ONCE = 5_000
"""Models that are read in one go."""
_PARTS = re.compile(r"[^\w.]+|_+|(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Card:
    """One model, as far as likeness goes."""

    tenant: str
    id: str
    name: str
    status: str
    description: str
    tags: Mapping[str, TagValue]
    owners: tuple[str, ...]
    version: int | None
    """Number of the newest living version; None where there is none, and then what follows is empty."""
    framework: str | None
    licence: str | None
    metrics: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trained_on: tuple[str, ...]
    evaluated_on: tuple[str, ...]
    base_models: tuple[str, ...]
    base_ids: tuple[str, ...]
    """Ids of the models that it was made from, in the order of their names above."""
    content_digest: str | None
    words: str
    """What its card and its newest version say in prose."""

    def told_to(self, may_read: Callable[[str], bool], *, datasets: bool) -> Card:
        """The card without the names of base models, and of `datasets`, that somebody may not read."""
        kept = [n for n, one in enumerate(self.base_ids) if may_read(one)]
        return replace(
            self,
            base_models=tuple(self.base_models[n] for n in kept),
            base_ids=tuple(self.base_ids[n] for n in kept),
            trained_on=self.trained_on if datasets else (),
            evaluated_on=self.evaluated_on if datasets else (),
        )

    @cached_property
    def text(self) -> str:
        """What is embedded."""
        told = (
            f"{self.name} {split_name(self.name)}",
            self.description,
            " ".join(f"{key} {value}" for key, value in sorted(self.tags.items())),
            f"framework {self.framework}" if self.framework else "",
            f"licence {self.licence}" if self.licence else "",
            _listed("trained on", self.trained_on),
            _listed("evaluated on", self.evaluated_on),
            _listed("made from", self.base_models),
            _listed("metrics", self.metrics),
            _listed("inputs", self.inputs),
            _listed("outputs", self.outputs),
            self.words,
        )
        return "\n".join(part for part in told if part.strip())

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits of the text: a vector is stale when it was made from another one."""
        return hashlib.sha256(f"{FORM}\n{self.text}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def split_name(name: str) -> str:
    """The words in a name: `fraud-detector_EU` as `fraud detector EU`."""
    return " ".join(part for part in _PARTS.split(name) if part)


def cards_of(lake: Lake, view: View, ids: Iterable[str]) -> Iterator[Card]:
    """The cards of living models with these ids, in no order; others are passed over."""
    wanted = list(dict.fromkeys(ids))
    for first in range(0, len(wanted), AT_ONCE):
        models = [
            state
            for state in view.by_any("things", "id", wanted[first : first + AT_ONCE])
            if state.entity_type == MODEL and not state.deleted
        ]
        yield from _made(lake, view, models)


def all_cards(lake: Lake, view: View) -> Iterator[Card]:
    """The cards of all living models of a view's tenant."""
    found = view.query(
        "search.models",
        "things",
        f"SELECT id FROM current WHERE type = '{MODEL}' AND NOT deleted ORDER BY id",
    )
    yield from cards_of(lake, view, found["id"].to_pylist())


def _made(lake: Lake, view: View, models: Sequence[State]) -> Iterator[Card]:
    read = card_reader(lake)
    versions = _newest_versions(view, [state.id for state in models])
    names = _names(view, versions.values())
    for state in models:
        version = versions.get(state.id)
        facts: Mapping[str, Any] = version.data if version is not None else {}
        data = state.data
        signature = facts.get("signature") or {}
        base = names.get(str(facts.get("base_version")))
        yield Card(
            tenant=state.tenant,
            id=state.id,
            name=state.name,
            status=str(data.get("status") or "active"),
            description=_plain(data.get("description"))[:LONGEST],
            tags=tag_values(data.get("tags") or {}),
            owners=tuple(data.get("owners") or ()),
            version=None if version is None else int(facts["version"]),
            framework=facts.get("framework"),
            licence=facts.get("licence"),
            metrics=tuple(sorted(facts.get("metrics") or {})),
            inputs=_columns(signature.get("inputs")),
            outputs=_columns(signature.get("outputs")),
            trained_on=_named(names, facts.get("trained_on")),
            evaluated_on=_named(names, facts.get("evaluated_on")),
            base_models=(base.name,) if base else (),
            base_ids=(base.id,) if base else (),
            content_digest=facts.get("content_digest"),
            words=_words(read, data, facts),
        )


def _newest_versions(view: View, ids: Sequence[str]) -> dict[str, State]:
    """The living version with the highest number of each model, by the model's id."""
    if not ids:
        return {}
    rows = view.query(
        "search.newest_versions",
        "model_versions",
        """
        SELECT * FROM current
        WHERE NOT deleted AND model_id IN (SELECT unnest($ids::VARCHAR[]))
        QUALIFY row_number() OVER (PARTITION BY model_id ORDER BY version DESC) = 1
        """,
        {"ids": list(ids)},
    )
    return {str(state.data["model_id"]): state for state in from_rows("model_versions", rows)}


def _names(view: View, versions: Iterable[State]) -> dict[str, State]:
    """The datasets and models that versions refer to, by the id of the version referred to."""
    datasets: set[str] = set()
    bases: set[str] = set()
    for state in versions:
        datasets |= {*state.data["trained_on"], *state.data["evaluated_on"]}
        bases |= {state.data["base_version"]} - {None}
    of = {s.id: str(s.data.get("parent_id")) for s in _states(view, "things", datasets)}
    of |= {s.id: str(s.data["model_id"]) for s in _states(view, "model_versions", bases)}
    named = {s.id: s for s in _states(view, "things", set(of.values()))}
    return {version: named[parent] for version, parent in of.items() if parent in named}


def _states(view: View, table: str, ids: set[str]) -> list[State]:
    return view.by_any(table, "id", sorted(ids)) if ids else []


def _named(names: Mapping[str, State], ids: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(sorted({names[one].name for one in ids or () if one in names}))


def _columns(schema: Any) -> tuple[str, ...]:
    """Names of columns or tensors: of a list of them, of MLflow's JSON text, or of a JSON schema."""
    match schema:
        case str():
            import json

            try:
                return _columns(json.loads(schema))
            except ValueError:
                return ()
        case {"properties": Mapping() as fields}:
            found = [str(key) for key in fields]
        case list() | tuple():
            found = [str(c["name"]) for c in schema if isinstance(c, Mapping) and c.get("name")]
            found += [c for c in schema if isinstance(c, str)]
        case Mapping():
            found = [str(key) for key in schema]
        case _:
            found = []
    return tuple(dict.fromkeys(found))[:COLUMNS]


def _words(read: CardReader, model: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    held = [
        _plain((model.get("metadata") or {}).get("card")),
        _plain(version.get("description")),
        " ".join(f"{k} {v}" for k, v in sorted(tag_values(version.get("tags") or {}).items())),
        *_stored_cards(read, version.get("artifacts") or ()),
    ]
    return "\n".join(text[:LONGEST] for text in held if text)


def _plain(value: Any) -> str:
    """A text as it is; nothing of what is sealed or no text."""
    return value if isinstance(value, str) and SEALED not in value[:12] else ""


def _stored_cards(read: CardReader, artifacts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The newest card among the artifacts of a version."""
    for artifact in reversed(artifacts):
        if artifact.get("kind") == CARD:
            yield read(str(artifact["digest"]))
            return


def _listed(title: str, names: Sequence[str]) -> str:
    return f"{title} {', '.join(names)}" if names else ""
