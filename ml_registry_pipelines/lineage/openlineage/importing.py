"""Taking OpenLineage events in: jobs, runs and dataset versions as entities, and the edges between.

A run that completes makes one new version of every dataset that it wrote, derived from the
versions of what it read, with the columns where the event says them; so a run that reads and
writes one dataset closes no circle. What a run reads is the newest version from before it.
Each run remembers the events that it was told by, so that an event counts once, whatever the
file or door it comes through and however often. Nothing here opens a file: `files.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from ml_registry_pipelines.lineage.index import index_of
from ml_registry_pipelines.lineage.openlineage.events import (
    ENTITY,
    BadEvent,
    DatasetRef,
    LineageEvent,
    identity,
)
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import checked_name
from ml_registry_pipelines.registry.references import dataset_version_name, dataset_versions_of, named
from ml_registry_pipelines.registry.relationships import edge
from ml_registry_pipelines.registry.states import DATASET, DATASET_VERSION
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.view import View

RUN, JOB = "run", "job"
BATCH = 100
"""Events of one command: each is a handful of states, and a command is one commit."""
ALWAYS = ""
"""Time of a version that was there before anybody told of it."""
_RUN = {"state": str, "events": list, "inputs": list, "outputs": list, "told": dict}
"""What the metadata of a run holds at least."""
_EPOCH = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Imported:
    """What came of events: how many were new, how many had been taken before, and which were refused."""

    new: int
    before: int
    refused: tuple[tuple[LineageEvent, str], ...] = ()


class Importer(Desk):
    """Events of OpenLineage for one tenant.

    `entities`: whether events may stand for models, versions and deployments by our own facets.
    """

    def take(self, events: Iterable[LineageEvent], *, entities: bool = False) -> Imported:
        """Take events in, in their order; each command is atomic, and what was taken before changes nothing."""
        new = before = 0
        refused: list[tuple[LineageEvent, str]] = []
        given = iter(events)
        while group := tuple(islice(given, BATCH)):
            outcome: list[Batch] = []

            def decide(view: View, some: Sequence[LineageEvent] = group, into: Any = outcome) -> list[Change]:
                batch = Batch(view, self, entities=entities)
                for event in some:
                    batch.take(event)
                into[:] = [batch]
                return batch.changes()

            self.do(
                "import_openlineage",
                RUN,
                {"events": [event.digest for event in group], "entities": entities},
                decide,
            )
            (batch,) = outcome
            new, before = new + batch.new, before + batch.before
            refused += batch.refused
        return Imported(new, before, tuple(refused))


@dataclass
class Draft:
    """An entity as this batch leaves it."""

    kind: str
    id: str
    state: dict[str, Any]


@dataclass
class Batch:
    """What some events add to a view. Nothing of an event that is refused stays."""

    view: View
    desk: Desk
    entities: bool
    new: int = 0
    before: int = 0
    refused: list[tuple[LineageEvent, str]] = field(default_factory=list)
    drafts: dict[str, Draft] = field(default_factory=dict)
    edges: dict[str, Change] = field(default_factory=dict)
    by_name: dict[tuple[str, str], str] = field(default_factory=dict)
    versions: dict[str, list[Draft]] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)

    def changes(self) -> list[Change]:
        """Entities first, then edges."""
        return [Change(d.kind, d.id, d.state) for d in self.drafts.values()] + list(self.edges.values())

    def take(self, event: LineageEvent) -> None:
        kept = (
            {i: Draft(d.kind, d.id, dict(d.state)) for i, d in self.drafts.items()},
            dict(self.edges),
            dict(self.by_name),
            {i: list(v) for i, v in self.versions.items()},
            {i: set(v) for i, v in self.below.items()},
            set(self.fresh),
        )
        try:
            taken = self._static(event) if event.run is None else self._run(event)
        except (BadEvent, InvalidInput) as wrong:
            self.drafts, self.edges, self.by_name, self.versions, self.below, self.fresh = kept
            self.refused.append((event, str(wrong)))
            return
        self.new += taken
        self.before += not taken

    # -- kinds of events ------------------------------------------------------------------------

    def _static(self, event: LineageEvent) -> bool:
        """A dataset or job by itself; whether anything was new."""
        size = len(self.drafts)
        changed = False
        if event.job is not None:
            self._thing(JOB, *event.job)
        for given in event.outputs:
            dataset = self._dataset(given)
            mark = digest([given.version, given.columns])
            known = self._versions(dataset)
            if not known or known[-1].state["metadata"].get("said") != mark:
                made = self._version(dataset, given, event.time.isoformat(), None)
                made.state["metadata"]["said"] = mark
                changed = True
        return changed or len(self.drafts) > size

    def _run(self, event: LineageEvent) -> bool:
        assert event.run is not None
        assert event.job is not None
        if self._carries_entity(event):
            from ml_registry_pipelines.lineage.openlineage.entities import take_entities

            return take_entities(self, event)
        held = self.drafts.get(self.by_name.get((RUN, event.run), ""))
        run = self._run_thing(event)
        metadata = run.state["metadata"]
        mark = event.digest[:16]
        if mark in metadata["events"]:
            return False
        known = held is not None or run.id not in self.fresh
        before = dict(metadata)
        self.drafts[run.id] = run
        job = self._thing(JOB, *event.job)
        self.edge("run_of", (RUN, run.id), (JOB, job.id))
        if event.type in {"COMPLETE", "FAIL", "ABORT"} and metadata["state"] != "COMPLETE":
            metadata["state"] = event.type
            metadata["ended"] = event.time.isoformat()
        elif metadata["state"] == "OTHER":
            metadata["state"] = event.type
        read_before = {f"{d['namespace']}\x1f{d['name']}" for d in metadata["inputs"]}
        for given in event.inputs:
            if given.key not in read_before:
                read = self._read(given, run, event)
                metadata["inputs"] = [*metadata["inputs"], _named(given, read.id)]
        for given in event.outputs:
            metadata["told"] = {**metadata["told"], given.key: _told(given)}
        if metadata["state"] == "COMPLETE":
            self._complete(run, event)
        if known and metadata == before:
            # A stream tells every minute that it still runs: what says nothing new is not remembered.
            if held is None:
                del self.drafts[run.id]
            else:
                self.drafts[run.id] = held
            return False
        metadata["events"] = [*metadata["events"], mark]
        return True

    def _carries_entity(self, event: LineageEvent) -> bool:
        return self.entities and any(ENTITY in given.facets for given in event.outputs)

    def _complete(self, run: Draft, event: LineageEvent) -> None:
        """Every output of a completed run is a version of its own, derived from every input."""
        metadata = run.state["metadata"]
        made = {f"{d['namespace']}\x1f{d['name']}": d["version"] for d in metadata["outputs"]}
        for key, told in metadata["told"].items():
            given = DatasetRef(told["namespace"], told["name"], told["facets"], told["more"])
            if key not in made:
                version = self._written(given, run, metadata["ended"])
                metadata["outputs"] = [*metadata["outputs"], _named(given, version.id)]
                made[key] = version.id
                self.edge("produced_by", (DATASET_VERSION, version.id), (RUN, run.id))
            for source in metadata["inputs"]:
                if source["version"] == made[key]:
                    raise BadEvent(
                        f"the run read and wrote version {shown(str(given.version))} of one dataset"
                    )
                self._derive(made[key], given, source, event)
        if not metadata["told"]:
            for source in metadata["inputs"]:
                self.edge("reads", (RUN, run.id), (DATASET_VERSION, source["version"]))

    def _derive(self, output: str, given: DatasetRef, source: Mapping[str, Any], event: LineageEvent) -> None:
        lineage = given.lineage_from(DatasetRef(source["namespace"], source["name"]))
        about: dict[str, Any] = {"run": event.run}
        if lineage is not None:
            about["column_lineage"] = lineage
        if output not in self.fresh and source["version"] in self.downstream(output):
            raise BadEvent(
                f"{shown(given.name)} would be derived from {shown(source['name'])}, which was made from it"
            )
        self.edge(
            "derived_from", (DATASET_VERSION, output), (DATASET_VERSION, source["version"]), properties=about
        )
        self.below.setdefault(source["version"], set()).add(output)

    def downstream(self, start: str) -> set[str]:
        """Everything that was made from an entity, by the index and by this batch."""
        import numpy as np

        stack = index_of(self.desk.log).stack(self.view)
        found, frontier = {start}, {start}
        while frontier:
            numbers = stack.numbers(self.view.tenant, sorted(frontier))
            walked = stack.walk(np.unique(numbers[numbers >= 0]), down=True)
            reached = {*stack.ids(walked.nodes), *frontier}
            reached |= {b for a in reached for b in self.below.get(a, ())}
            frontier = reached - found
            found |= reached
        return found

    # -- entities -------------------------------------------------------------------------------

    def _run_thing(self, event: LineageEvent) -> Draft:
        """The run as far as it is known; it is not drafted yet."""
        assert event.run is not None
        found = self.find(RUN, event.run)
        if found is None:
            metadata = {
                "state": "OTHER",
                "job": list(event.job or ()),
                "producer": event.producer[:400],
                "events": [],
                "inputs": [],
                "outputs": [],
                "told": {},
            }
            return self.draft(RUN, event.run, metadata)
        metadata = found.state["metadata"]
        if any(not isinstance(metadata.get(name), type_) for name, type_ in _RUN.items()):
            raise BadEvent(
                f"run {event.run} is here already and was not recorded from events; "
                f"`mlreg things delete run {event.run}` makes room for them"
            )
        return Draft(found.kind, found.id, {**found.state, "metadata": dict(metadata)})

    def _thing(self, kind: str, namespace: str, name: str) -> Draft:
        """The job or dataset that OpenLineage knows under this name, drafted if it is new."""
        for label in (
            identity(namespace, name),
            f"{identity(namespace, name)}~{digest([namespace, name])[:12]}",
        ):
            found = self.find(kind, label)
            if found is None:
                return self.draft(kind, label, {"namespace": namespace, "name": name})
            known = found.state.get("metadata", {})
            if (known.get("namespace", namespace), known.get("name", name)) == (namespace, name):
                return found
        raise BadEvent(f"the {kind} {shown(name)} of {shown(namespace)} cannot be told from another one")

    def _dataset(self, given: DatasetRef) -> Draft:
        """The dataset: one of ours at the same place, or under its name."""
        return self._at_place(given) or self._thing(DATASET, given.namespace, given.name)

    def _at_place(self, given: DatasetRef) -> Draft | None:
        if given.namespace.startswith("mlreg://"):
            return self.find(DATASET, given.name.removeprefix("dataset/"))
        joined = f"{given.namespace.rstrip('/')}/{given.name.lstrip('/')}"
        places = {joined, joined.replace("s3a://", "s3://", 1)}
        if given.namespace in {"file", "file://"} or given.namespace.startswith("file:"):
            places |= {given.name, f"/{given.name.lstrip('/')}"}
        key = ("place", given.key)
        if key not in self.by_name:
            rows = self.view.select(
                "lineage.dataset_at",
                "things",
                f"""
                type = '{DATASET_VERSION}' AND NOT deleted
                AND json_extract_string(state, '$.metadata.location') IN (SELECT unnest($places::VARCHAR[]))
                """,
                parameters={"places": sorted(places)},
            )
            parents = sorted(
                {str(s.data["parent_id"]) for s in rows if not s.data["metadata"].get("openlineage")}
            )
            self.by_name[key] = parents[0] if parents else ""
        return self.get(self.by_name[key]) if self.by_name[key] else None

    def find(self, kind: str, name: str) -> Draft | None:
        """The living thing of that name, as this batch leaves it."""
        key = (kind, checked_name(name))
        if key not in self.by_name:
            state = next((s for s in named(self.view, kind, key[1]) if not s.deleted), None)
            if state is None:
                return None
            self.by_name[key] = state.id
        return self.get(self.by_name[key])

    def get(self, entity: str) -> Draft | None:
        """A living entity by id, as this batch leaves it."""
        if entity in self.drafts:
            return self.drafts[entity]
        for table in ("things", "model_versions"):
            state = self.view.by_id(table, entity)
            if state is not None and not state.deleted:
                return Draft(state.entity_type, state.id, dict(state.data))
        return None

    def draft(
        self, kind: str, name: str, metadata: Mapping[str, Any], *, entity: str | None = None, **more: Any
    ) -> Draft:
        """A new thing."""
        state = {**NewThing(name).recorded(), "metadata": dict(metadata), **more}
        made = Draft(kind, entity or new_id(), state)
        self.add(made)
        return made

    def add(self, made: Draft) -> None:
        self.drafts[made.id] = made
        self.fresh.add(made.id)
        if "name" in made.state:
            self.by_name[made.kind, made.state["name"]] = made.id

    def _versions(self, dataset: Draft) -> list[Draft]:
        if dataset.id not in self.versions:
            self.versions[dataset.id] = [
                Draft(s.entity_type, s.id, dict(s.data))
                for s in dataset_versions_of(self.view, dataset.id, deleted=True)
            ]
        return self.versions[dataset.id]

    def _version(self, dataset: Draft, given: DatasetRef, time: str, run: str | None) -> Draft:
        """One more version of a dataset."""
        known = self._versions(dataset)
        number = 1 + max((int(v.state["metadata"]["number"]) for v in known), default=0)
        metadata: dict[str, Any] = {
            "number": number,
            "format": "openlineage",
            "location": identity(given.namespace, given.name),
            "digest": digest([given.namespace, given.name, given.version, run, number]),
            "columns": given.columns,
            "rows": given.rows,
            "openlineage": {"namespace": given.namespace, "name": given.name, "time": time, "run": run},
        }
        if given.version is not None:
            metadata["openlineage"]["version"] = given.version
        name = dataset_version_name(dataset.state["name"], number)
        made = self.draft(DATASET_VERSION, name, metadata, parent_id=dataset.id)
        known.append(made)
        return made

    def _read(self, given: DatasetRef, run: Draft, event: LineageEvent) -> Draft:
        """The version that a run read: the one that it names, or the newest from before it."""
        dataset = self._dataset(given)
        known = [v for v in self._versions(dataset) if not v.state["deleted"]]
        if given.version is not None:
            same = [v for v in known if _said(v) == given.version]
            return same[-1] if same else self._version(dataset, given, ALWAYS, None)
        ended = run.state["metadata"].get("ended")
        moment = min(event.time, datetime.fromisoformat(ended)) if ended else event.time
        earlier = [v for v in known if self._time(v) < moment and _run_of(v) != event.run]
        newest = max(earlier, key=lambda v: (self._time(v), v.state["metadata"]["number"]), default=None)
        return newest or self._version(dataset, given, ALWAYS, None)

    def _time(self, version: Draft) -> datetime:
        told = version.state["metadata"].get("openlineage")
        if told is None:
            state = self.view.by_id("things", version.id)
            return state.valid_from if state is not None else _EPOCH
        return datetime.fromisoformat(told["time"]) if told["time"] else _EPOCH

    def _written(self, given: DatasetRef, run: Draft, ended: str) -> Draft:
        dataset = self._dataset(given)
        if given.version is not None:
            for version in self._versions(dataset):
                if _said(version) == given.version and not version.state["deleted"]:
                    return version
        return self._version(dataset, given, ended, run.state["name"])

    def edge(
        self,
        type_: str,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self.draw(edge(type_, source, target, properties=properties))

    def draw(self, drawn: Change) -> bool:
        """Add an edge unless it is there already; whether it was added."""
        there = self.view.by_id("relationships", drawn.entity_id)
        if there is not None and not there.deleted and there.data["properties"] == drawn.state["properties"]:
            return False
        self.edges[drawn.entity_id] = drawn
        return True


def _named(given: DatasetRef, version: str) -> dict[str, str]:
    return {"namespace": given.namespace, "name": given.name, "version": version}


def _told(given: DatasetRef) -> dict[str, Any]:
    """What of an output is needed once the run completes."""
    facets = {k: v for k, v in given.facets.items() if k in {"version", "schema", "columnLineage"}}
    more = {k: v for k, v in given.more.items() if k == "outputStatistics"}
    return {"namespace": given.namespace, "name": given.name, "facets": facets, "more": more}


def _said(version: Draft) -> str | None:
    told = version.state["metadata"].get("openlineage") or {}
    known = told.get("version", version.state["metadata"].get("delta_version"))
    return None if known is None else str(known)


def _run_of(version: Draft) -> str | None:
    found: str | None = (version.state["metadata"].get("openlineage") or {}).get("run")
    return found
