"""`LineageTracker`: datasets and deployments as they come and go, and the questions about the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lineage.fingerprints import Fingerprint, fingerprint
from ml_registry_pipelines.lineage.graph import Edge, Node, Reached, Walk, nodes_of, starts, walk
from ml_registry_pipelines.lineage.serving import stretches
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import TagValue, checked_name
from ml_registry_pipelines.registry.references import dataset_versions_of, version_state
from ml_registry_pipelines.registry.relationships import Relationship, edge, edge_id, end, label
from ml_registry_pipelines.registry.states import (
    DATASET,
    DATASET_VERSION,
    DEPLOYMENT,
    MODEL_VERSION,
    State,
)
from ml_registry_pipelines.registry.things import NewThing, Thing, living, named, thing_of
from ml_registry_pipelines.registry.view import View

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Lineage:
    """All that lies up and down of something, nearest first, and every edge on the ways there."""

    roots: tuple[Node, ...]
    upstream: tuple[Reached, ...]
    downstream: tuple[Reached, ...]
    edges: frozenset[Edge]


@dataclass(frozen=True)
class Impact:
    """What a change would affect: live deployments and their owners first, then all of it by type."""

    roots: tuple[Node, ...]
    deployments: tuple[Reached, ...]
    owners: tuple[str, ...]
    affected: Mapping[str, tuple[Reached, ...]]

    @property
    def counts(self) -> dict[str, int]:
        """How many are affected, by type."""
        return {kind: len(found) for kind, found in self.affected.items()}


@dataclass(frozen=True)
class Graph:
    """Nodes and edges for drawing."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Deployed:
    """What a deployment served from `since` up to, not including, `until`, and by whose act.

    `until` is None where nothing that came after is known. `deployment` is as it was last recorded.
    """

    deployment: Thing
    version: str
    environment: str
    endpoint: str
    traffic_share: float
    since: datetime
    until: datetime | None
    actor: str


class LineageTracker(Desk):
    """Lineage of one tenant, for one actor. Every command is one atomic commit."""

    # -- datasets ----------------------------------------------------------------------

    def track_dataset(
        self,
        name: str,
        source: str | Path | Uri,
        *,
        columns: Sequence[tuple[str, str]] = (),
        description: str = "",
        tags: Mapping[str, TagValue] | None = None,
        owners: Sequence[str] = (),
        derived_from: Sequence[str] = (),
        idempotency_key: str | None = None,
        valid_from: datetime | None = None,
    ) -> Thing:
        """Record what a dataset is now; return its version. What did not change gets no new version.

        Args:
            source: a Delta table, a Parquet or CSV file or folder, or a `Uri` with its digest.
            columns: names and types, for a `Uri` alone.
            description, tags, owners: of the dataset, where it is new.
            derived_from: versions of other datasets that this one was made from.

        Raises:
            DatasetUnreadable: there is nothing that can be read.
        """
        options = dict(self.log.lake.storage_options)
        seen = fingerprint(source, columns=columns, storage_options=options)
        first = NewThing(name, description, tags or {}, owners).recorded()

        def decide(view: View) -> list[Change]:
            return _dataset_changes(view, first, seen, derived_from)

        change = {**first, "fingerprint": seen.recorded(), "derived_from": list(derived_from)}
        done = self.do(
            "track_dataset", DATASET, change, decide, idempotency_key=idempotency_key, valid_from=valid_from
        )
        for part, event in enumerate(done.events):
            if event.entity_type == DATASET_VERSION:
                return thing_of(state_of(done, part))
        view = self.now()
        return thing_of(dataset_versions_of(view, living(view, DATASET, name).id)[-1])

    def dataset_versions(self, name: str, *, as_of: datetime | None = None) -> list[Thing]:
        """The versions of a dataset by number."""
        view = self.view(as_of)
        return [thing_of(s) for s in dataset_versions_of(view, living(view, DATASET, name).id)]

    # -- deployments ---------------------------------------------------------------------

    def track_deployment(
        self,
        name: str,
        version: str,
        *,
        environment: str,
        endpoint: str = "",
        traffic_share: float = 1.0,
        start: datetime | None = None,
        owners: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Thing:
        """Record that a deployment serves a version from `start` on; before it may have served another.

        Args:
            version: `fraud@v3`, `fraud@champion` ...
            traffic_share: part of the endpoint's requests that it gets, 0 to 1.
            start: by default now.
        """
        if not 0 <= traffic_share <= 1:
            raise InvalidInput(f"a traffic share is between 0 and 1, not {traffic_share}")
        first = NewThing(name, owners=owners).recorded()
        served = {
            "environment": checked_name(environment, "environment"),
            "endpoint": endpoint,
            "traffic_share": traffic_share,
        }

        def decide(view: View) -> list[Change]:
            state = version_state(view, version)
            old = next((s for s in named(view, DEPLOYMENT, first["name"]) if not s.deleted), None)
            identity = old.id if old else new_id()
            # What is known of it stays; owners are replaced where some are given.
            kept = {**old.data, **({"owners": first["owners"]} if owners else {})} if old else first
            metadata = {**served, "version_id": state.id}
            changes = [Change(DEPLOYMENT, identity, {**kept, "status": "live", "metadata": metadata})]
            changes += _undeploy(view, old, but=state.id)
            changes.append(
                edge("deployed_to", (MODEL_VERSION, state.id), (DEPLOYMENT, identity), properties=served)
            )
            return changes

        change = {"name": first["name"], "version": version, "owners": first["owners"], **served}
        done = self.do(
            "track_deployment", DEPLOYMENT, change, decide, idempotency_key=idempotency_key, valid_from=start
        )
        return thing_of(state_of(done))

    def end_deployment(
        self, name: str, *, end: datetime | None = None, idempotency_key: str | None = None
    ) -> Thing:
        """Record that a deployment serves nothing from `end` on.

        Raises:
            IllegalTransition: it has ended already.
        """

        def decide(view: View) -> list[Change]:
            state = living(view, DEPLOYMENT, name)
            if state.data["status"] != "live":
                raise IllegalTransition(f"deployment {state.name!r} has already ended")
            ended = Change(DEPLOYMENT, state.id, {**state.data, "status": "ended"})
            return [ended, *_undeploy(view, state, but=None)]

        done = self.do(
            "end_deployment",
            DEPLOYMENT,
            {"of": name},
            decide,
            idempotency_key=idempotency_key,
            valid_from=end,
        )
        return thing_of(state_of(done))

    def deployments_on(
        self,
        when: datetime | date,
        *,
        environment: str | None = None,
        as_of: datetime | None = None,
    ) -> list[Deployed]:
        """What every deployment served at an instant, or at any time of a UTC day, and by whose act.

        By name, and by time where a deployment served one thing after another on that day.

        Args:
            when: by effective time, which may lie before the act was recorded.
            as_of: as far as it had been recorded at this instant.
        """
        if isinstance(when, datetime):
            if when.tzinfo is None:
                raise InvalidInput(f"the time {when.isoformat()} has no zone; add one, such as +00:00")
            start, end = when, when + _INSTANT
        else:
            start = datetime.combine(when, time(), UTC)
            end = start + timedelta(days=1)
        view = self.view(as_of)
        found = [
            stretch
            for of_one in stretches(view).values()
            for stretch in of_one
            if stretch.version_id is not None
            and stretch.overlaps(start, end)
            and environment in {None, stretch.environment}
        ]
        names = {s.id: s for s in view.by_any("things", "id", sorted({s.deployment_id for s in found}))}
        deployed = [
            Deployed(
                thing_of(names[stretch.deployment_id]),
                label(view, stretch.version_id),
                stretch.environment,
                stretch.endpoint,
                stretch.traffic_share,
                stretch.start,
                stretch.end,
                stretch.actor,
            )
            for stretch in found
            if stretch.version_id is not None
        ]
        return sorted(deployed, key=lambda d: (d.deployment.name, d.deployment.id, d.since))

    # -- questions -------------------------------------------------------------------------

    def get_full_lineage(
        self,
        kind: str,
        name: str,
        *,
        depth: int | None = None,
        types: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        as_of: datetime | None = None,
    ) -> Lineage:
        """All that lies up and down of a thing or version, with the shortest way to each.

        Args:
            kind: kind of the entity, such as model, model_version, dataset, deployment.
            name: its name, id, or version reference. A model or dataset stands for all its versions.
            depth: edges to go at most; None for all.
            types: kinds of nodes to list; ways lead through others too.
            relations: types of relationships to follow.
        """
        view = self.view(as_of)
        roots = starts(view, end(view, kind, name))
        up, down = (
            walk(view, roots, down=d, depth=depth, relations=relations, types=types) for d in (False, True)
        )
        known = nodes_of(view, roots)
        return Lineage(
            tuple(known[i] for i in roots if i in known), up.reached, down.reached, up.edges | down.edges
        )

    def get_impact_analysis(
        self, kind: str, name: str, *, column: str | None = None, as_of: datetime | None = None
    ) -> Impact:
        """What is affected when something changes, to any depth.

        Args:
            column: of a dataset: only what learned from this column, or did not say from which.

        Raises:
            NotFound: no version of the dataset has that column.
        """
        view = self.view(as_of)
        state = end(view, kind, name)
        roots = starts(view, state)
        if column is None:
            found = walk(view, roots, down=True)
        else:
            roots = _with_column(view, state, roots, column)
            found = walk(view, roots, down=True, allows=lambda r: _uses(r, roots, column))
        known = nodes_of(view, roots)
        return _impact(tuple(known[i] for i in roots if i in known), found)

    def get_lineage_graph(
        self,
        kind: str,
        name: str,
        *,
        depth: int | None = None,
        types: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        as_of: datetime | None = None,
    ) -> Graph:
        """Nodes and edges around a thing or version, complete, for drawing."""
        found = self.get_full_lineage(kind, name, depth=depth, types=types, relations=relations, as_of=as_of)
        nodes = {n.id: n for n in found.roots}
        nodes.update((r.node.id, r.node) for r in (*found.upstream, *found.downstream))
        inside = [e for e in found.edges if e.upstream in nodes and e.downstream in nodes]
        return Graph(
            tuple(sorted(nodes.values(), key=lambda n: (n.type, n.name, n.id))),
            tuple(sorted(inside, key=lambda e: (e.upstream, e.downstream, e.type))),
        )


def _dataset_changes(
    view: View, first: Mapping[str, Any], seen: Fingerprint, derived_from: Sequence[str]
) -> list[Change]:
    dataset = next((s for s in named(view, DATASET, first["name"]) if not s.deleted), None)
    known = dataset_versions_of(view, dataset.id, deleted=True) if dataset else []
    newest = next((s for s in reversed(known) if not s.deleted), None)
    if newest is not None and newest.data["metadata"]["digest"] == seen.digest and not derived_from:
        return []
    dataset_id = dataset.id if dataset else new_id()
    number = 1 + max((int(s.data["metadata"]["number"]) for s in known), default=0)
    version_id = new_id()
    version = {
        **NewThing("x").recorded(),
        "name": f"{first['name'][:480]}@v{number}",
        "parent_id": dataset_id,
        "metadata": {"number": number, **seen.recorded()},
    }
    changes = [] if dataset else [Change(DATASET, dataset_id, first)]
    changes.append(Change(DATASET_VERSION, version_id, version, {"fingerprint": seen.recorded()}))
    for name in derived_from:
        origin = end(view, DATASET_VERSION, name)
        changes.append(edge("derived_from", (DATASET_VERSION, version_id), (DATASET_VERSION, origin.id)))
    return changes


def _undeploy(view: View, deployment: State | None, *, but: str | None) -> list[Change]:
    """Remove the edge from the version that a deployment served, unless it is still that one."""
    if deployment is None:
        return []
    served = str(deployment.data["metadata"]["version_id"])
    drawn = view.by_id("relationships", edge_id("deployed_to", served, deployment.id))
    if served == but or drawn is None or drawn.deleted:
        return []
    return [Change("relationship", drawn.id, {**drawn.data, "deleted": True}, {"undeployed": deployment.id})]


def _with_column(view: View, dataset: State, roots: Sequence[str], column: str) -> list[str]:
    versions = [s for s in view.by_any("things", "id", list(roots)) if s.entity_type == DATASET_VERSION]
    holding = [s.id for s in versions if column in {c["name"] for c in s.data["metadata"].get("columns", ())}]
    nodes = [s.id for s in named(view, "column", f"{dataset.name}.{column}") if not s.deleted]
    if not holding and not nodes:
        raise NotFound("column", f"{dataset.name}.{column}", view.tenant)
    return [dataset.id, *holding, *nodes]


def _uses(relationship: Relationship, roots: Sequence[str], column: str) -> bool:
    """Whether a relationship carries the column on; those further down carry everything."""
    columns = relationship.properties.get("columns")
    return columns is None or relationship.upstream[1] not in roots or column in columns


def _impact(roots: tuple[Node, ...], found: Walk) -> Impact:
    live = tuple(r for r in found.reached if r.node.type == DEPLOYMENT and r.node["status"] == "live")
    counted = Counter(r.node.type for r in found.reached)
    ranked = sorted(counted, key=lambda kind: (kind != DEPLOYMENT, -counted[kind], kind))
    owners = {owner for r in live for owner in r.node["owners"]}
    upstream_of_live = {i for r in live for i in r.path}
    owners |= {o for r in found.reached if r.node.id in upstream_of_live for o in r.node["owners"] or ()}
    return Impact(
        roots,
        live,
        tuple(sorted(owners)),
        {kind: tuple(r for r in found.reached if r.node.type == kind) for kind in ranked},
    )
