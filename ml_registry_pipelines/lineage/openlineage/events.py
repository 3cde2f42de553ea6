"""OpenLineage events as values: what is read of one, and what makes one unusable.

Run, dataset and job events of specification 2-0-2 are understood, and those of older ones,
which say less. Nothing here reads files or the registry.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError, shown

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json"
EVENT_TYPES = frozenset({"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"})
ENTITY = "mlreg_entity"
"""Our facet of an output: the entity of the registry that it stands for."""
RELATIONSHIPS = "mlreg_relationships"
"""Our facet of an input: the relationships that lead from it to the output."""


class BadEvent(RegistryError):
    """Something that is no OpenLineage event, or says what cannot be."""


@dataclass(frozen=True)
class DatasetRef:
    """A dataset as an event names it."""

    namespace: str
    name: str
    facets: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Facets of it as input or output of this run."""

    @property
    def key(self) -> str:
        return f"{self.namespace}\x1f{self.name}"

    @property
    def version(self) -> str | None:
        """The producer's own name of the version."""
        given = _object(self.facets.get("version")).get("datasetVersion")
        return None if given is None else str(given)

    @property
    def columns(self) -> list[dict[str, str]]:
        """Names and types of the columns, nested ones by their path."""
        return list(_fields(_object(self.facets.get("schema")).get("fields"), ""))

    @property
    def rows(self) -> int | None:
        given = _object(self.more.get("outputStatistics")).get("rowCount")
        return given if isinstance(given, int) and not isinstance(given, bool) else None

    def lineage_from(self, source: DatasetRef) -> dict[str, list[str]] | None:
        """For each column made from columns of `source`, which; None where the event does not say."""
        facet = self.facets.get("columnLineage")
        if not isinstance(facet, Mapping):
            return None
        found: dict[str, set[str]] = {}
        for column, made in _object(facet.get("fields")).items():
            for given in _list(_object(made).get("inputFields")):
                if (given.get("namespace"), given.get("name")) == (source.namespace, source.name):
                    found.setdefault(str(column), set()).add(str(given.get("field")))
        for given in _list(facet.get("dataset")):
            # A filter, a join key: it shapes every column.
            if (given.get("namespace"), given.get("name")) == (source.namespace, source.name):
                found.setdefault("*", set()).add(str(given.get("field")))
        return {column: sorted(used) for column, used in sorted(found.items())}


@dataclass(frozen=True)
class LineageEvent:
    """One event. `run` is None for events about a job or dataset by itself."""

    digest: str
    time: datetime
    type: str
    run: str | None
    job: tuple[str, str] | None
    inputs: tuple[DatasetRef, ...]
    outputs: tuple[DatasetRef, ...]
    producer: str


def parse_event(given: object) -> LineageEvent:
    """An event from its JSON.

    Raises:
        BadEvent: something that is needed is missing or of another kind; the text says what.
    """
    if not isinstance(given, Mapping):
        raise BadEvent(f"an event is a JSON object, not a {type(given).__name__}")
    try:
        mark = digest(dict(given))
    except InvalidInput as wrong:
        raise BadEvent(f"the event cannot be kept: {wrong}") from wrong
    run = given.get("run")
    run_id = None if run is None else _run_id(run)
    type_ = str(given.get("eventType") or "OTHER").upper()
    if type_ not in EVENT_TYPES:
        raise BadEvent(f"eventType {shown(type_)} is none of {', '.join(sorted(EVENT_TYPES))}")
    if run_id is None and "dataset" not in given and "job" not in given:
        raise BadEvent("the event is about no run, no job and no dataset")
    if run_id is not None and "job" not in given:
        raise BadEvent("a run event needs a job")
    outputs = _datasets(given, "outputs", "outputFacets")
    if run_id is None and "dataset" in given:
        outputs = (_dataset(given["dataset"], "dataset", "outputFacets"), *outputs)
    return LineageEvent(
        mark,
        _time(given.get("eventTime")),
        type_,
        run_id,
        _job(given["job"]) if given.get("job") is not None else None,
        _datasets(given, "inputs", "inputFacets"),
        outputs,
        str(given.get("producer") or ""),
    )


def _run_id(run: object) -> str:
    given = _object(run).get("runId")
    try:
        return str(uuid.UUID(str(given)))
    except ValueError:
        raise BadEvent(f"run.runId {shown(str(given))} is no UUID") from None


def _time(given: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(given))
    except ValueError:
        raise BadEvent(f"eventTime {shown(str(given))} is no time such as 2026-03-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise BadEvent(f"eventTime {shown(str(given))} has no time zone")
    return moment.astimezone(UTC)


def _job(given: object) -> tuple[str, str]:
    job = _object(given)
    return _text(job, "namespace", "job"), _text(job, "name", "job")


def _datasets(event: Mapping[str, Any], which: str, facets: str) -> tuple[DatasetRef, ...]:
    given = event.get(which) or ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise BadEvent(f"{which} is a {type(given).__name__}, not a list")
    # What is named twice counts once, with what was said last.
    found = {d.key: d for d in (_dataset(item, f"{which}[{n}]", facets) for n, item in enumerate(given))}
    return tuple(found.values())


def _dataset(given: object, where: str, facets: str) -> DatasetRef:
    if not isinstance(given, Mapping):
        raise BadEvent(f"{where} is a {type(given).__name__}, not an object")
    return DatasetRef(
        _text(given, "namespace", where),
        _text(given, "name", where),
        _object(given.get("facets")),
        _object(given.get(facets)),
    )


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadEvent(f"{where}.{name} is missing or no text")
    return value.strip()


def _object(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _list(given: object) -> list[Mapping[str, Any]]:
    return [item for item in given if isinstance(item, Mapping)] if isinstance(given, list) else []


def _fields(given: object, prefix: str) -> list[dict[str, str]]:
    found = []
    for item in _list(given):
        name = f"{prefix}{item.get('name')}"
        found.append({"name": name, "type": str(item.get("type") or "")})
        found += _fields(item.get("fields"), f"{name}.")
    return found


def identity(namespace: str, name: str) -> str:
    """A name in the registry for what OpenLineage knows by namespace and name."""
    joined = f"{namespace.rstrip('/')}/{name.lstrip('/')}"
    clean = "".join(c if c.isprintable() else "?" for c in joined).strip()
    if clean != joined or len(clean) > 400:
        return f"{clean[:400]}~{digest([namespace, name])[:12]}"
    return clean


def described(event: Mapping[str, Any]) -> str:
    """The event as one line of a JSON file."""
    return canonical(dict(event))
