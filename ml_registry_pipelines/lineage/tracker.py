"""`LineageTracker`: datasets and deployments as they come and go, and the questions about the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lineage.columns import Carried
from ml_registry_pipelines.lineage.fingerprints import Fingerprint, fingerprint
from ml_registry_pipelines.lineage.graph import PART_OF, Edge, Node, Reached, edges_of, nodes_of, page_of
from ml_registry_pipelines.lineage.index import index_of
from ml_registry_pipelines.lineage.questions import (
    Question,
    Walked,
    in_order,
    question,
    ranked,
    walked_from,
    wholes_of,
)
from ml_registry_pipelines.lineage.serving import ENDED, ended_stretch, stretches
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.names import TagValue, checked_instant, checked_name, checked_share
from ml_registry_pipelines.registry.references import (
    dataset_version_name,
    dataset_versions_of,
    living,
    named,
    version_state,
)
from ml_registry_pipelines.registry.relationships import (
    edge,
    edge_id,
    end,
    label,
    refuse_cycle,
    relationship_of,
)
from ml_registry_pipelines.registry.states import (
    DATASET,
    DATASET_VERSION,
    DEPLOYMENT,
    MODEL_VERSION,
    State,
)
from ml_registry_pipelines.registry.things import NewThing, Thing, thing_of
from ml_registry_pipelines.registry.view import View

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Lineage:
    """What lies up and down of something, nearest first, and the edges on the ways there.

    `partial`: there is more, from `cursor` on; `counts` are of all of it. Without a limit, it is all.
    """

    roots: tuple[Node, ...]
    upstream: tuple[Reached, ...]
    downstream: tuple[Reached, ...]
    edges: frozenset[Edge]
    counts: Mapping[str, int]
    cursor: str | None = None

    @property
    def partial(self) -> bool:
        return self.cursor is not None


@dataclass(frozen=True)
class Impact:
    """What a change would affect: live deployments and their owners first, then all of it by type.

    Deployments, owners and counts are always complete; of `affected` there is more where it is `partial`.
    `columns`: of datasets that only some columns of are affected, which.
    """

    roots: tuple[Node, ...]
    deployments: tuple[Reached, ...]
    owners: tuple[str, ...]
    counts: Mapping[str, int]
    affected: Mapping[str, tuple[Reached, ...]]
    columns: Mapping[str, tuple[str, ...]]
    cursor: str | None = None

    @property
    def partial(self) -> bool:
        return self.cursor is not None


@dataclass(frozen=True)
class Graph:
    """Nodes and edges for drawing. `roots` are what was asked about."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    roots: tuple[str, ...] = ()
    cursor: str | None = None

    @property
    def partial(self) -> bool:
        return self.cursor is not None


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


def oversubscribed(deployed: Iterable[Deployed]) -> dict[tuple[str, str], float]:
    """Endpoints, by environment, whose deployments claim more than all requests at one time, and how much.

    That is no error: a deployment may come before another one goes, and both are recorded as told.
    """
    by_endpoint: dict[tuple[str, str], list[Deployed]] = {}
    for one in deployed:
        if one.endpoint:
            by_endpoint.setdefault((one.environment, one.endpoint), []).append(one)
    most = {
        where: max(
            sum(d.traffic_share for d in those if d.since <= at and (d.until is None or at < d.until))
            for at in {d.since for d in those}
        )
        for where, those in by_endpoint.items()
    }
    return {where: share for where, share in most.items() if share > 1 + 1e-9}


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
        """Record what a dataset is now; return its version, a new one only where content or origin is new.

        A call that finds nothing new records nothing, and so does not keep its idempotency key.

        Args:
            source: a Delta table, a Parquet or CSV file or folder, or a `Uri` with its digest.
            columns: names and types, for a `Uri` alone.
            description, tags, owners: of the dataset, where it is new.
            derived_from: versions of other datasets that this one was made from.

        Raises:
            DatasetUnreadable: there is nothing that can be read.
        """
        options = dict(self.log.lake.storage_options)
        seen = fingerprint(source, columns=columns, storage_options=options, readable=self.log.lake.readable)
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
        end: datetime | None = None,
        owners: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Thing:
        """Record that a deployment serves a version from `start` on; before it may have served another.

        With `end` it is a stretch that is over: what the deployment serves now stays.

        Args:
            version: `fraud@v3`, `fraud@champion` ...
            traffic_share: part of the endpoint's requests that it gets, 0 to 1. Of an endpoint that several
                serve together, `oversubscribed` tells where they sum up to more.
            start: by default now.
            end: not ahead; `end_deployment` ends what is served still.
        """
        checked_share(traffic_share)
        if end is not None:
            _check_over(name, start, end)
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
            if start is not None and end is not None:
                now = kept if old else {**kept, "status": "ended", "metadata": metadata}
                over = ended_stretch(metadata, start, end)
                return [Change(DEPLOYMENT, identity, {**now, ENDED: [*kept.get(ENDED, ()), over]})]
            changes = [Change(DEPLOYMENT, identity, {**kept, "status": "live", "metadata": metadata})]
            changes += _undeploy(view, old, but=state.id)
            drawn = edge("deployed_to", (MODEL_VERSION, state.id), (DEPLOYMENT, identity), properties=served)
            refuse_cycle(view, drawn, index_of(self.log).way)
            return [*changes, drawn]

        change = {"name": first["name"], "version": version, "owners": first["owners"], **served}
        if end is not None:
            change["end"] = end.isoformat()
        done = self.do(
            "track_deployment", DEPLOYMENT, change, decide, idempotency_key=idempotency_key, valid_from=start
        )
        return thing_of(state_of(done))

    def end_deployment(
        self, name: str, *, end: datetime | None = None, idempotency_key: str | None = None
    ) -> Thing:
        """Record that a deployment serves nothing from `end` on.

        Raises:
            IllegalTransition: it has ended already, or began after that.
        """

        def decide(view: View) -> list[Change]:
            state = living(view, DEPLOYMENT, name)
            if state.data["status"] != "live":
                raise IllegalTransition(f"deployment {state.name!r} has already ended")
            began = stretches(view)[state.id][-1].start
            if end is not None and end < began:
                raise IllegalTransition(
                    f"deployment {state.name!r} serves since {began.isoformat()} and cannot have ended on "
                    f"{end.isoformat()}; track what it served before with its start and end"
                )
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
            start, length = checked_instant(when, "time"), _INSTANT
        else:
            start, length = datetime.combine(when, time(), UTC), timedelta(days=1)
        try:
            end = start + length
        except OverflowError:
            raise InvalidInput(
                f"{when.isoformat()} is the end of the calendar; ask for an earlier time"
            ) from None
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
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Lineage:
        """All that lies up and down of a thing or version, with the shortest way to each.

        Args:
            kind: kind of the entity, such as model, model_version, dataset, deployment.
            name: its name, id, or version reference. A model or dataset stands for all its versions.
            depth: edges to go at most; None for all.
            types: kinds of nodes to list; ways lead through others too.
            relations: types of relationships to follow.
            limit: entities of one answer; the nearest come first.
            cursor: where the answer before ended.
        """
        asked = question(kind, name, depth, types, relations, as_of)
        walked = self._walked(kind, name, asked, cursor)
        found = {down: walked.go(down=down) for down in (False, True)}
        reached = sorted(
            (p for down in (False, True) for p in walked.places(found[down], down=down)),
            key=lambda p: (p.depth, p.down, p.type, p.id),
        )
        shown, following = walked.page(reached, limit)
        nodes = nodes_of(walked.view, sorted({*walked.roots, *(p.id for p in shown)}))
        edges = {e for down in (False, True) for e in edges_of(walked.stack, found[down], down=down)}
        if limit is not None:
            edges = {e for e in edges if (e.upstream in nodes and e.downstream in nodes)}
        up, down = (
            in_order(Reached(nodes[p.id], p.depth, p.path) for p in shown if p.down is side and p.id in nodes)
            for side in (False, True)
        )
        return Lineage(
            tuple(nodes[i] for i in walked.roots if i in nodes),
            tuple(up),
            tuple(down),
            frozenset(edges),
            ranked(Counter(p.type for p in reached)),
            following,
        )

    def get_impact_analysis(
        self,
        kind: str,
        name: str,
        *,
        column: str | None = None,
        depth: int | None = None,
        types: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        as_of: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Impact:
        """What is affected when something changes, to any depth.

        Args:
            column: of a dataset: only what learned from this column, or did not say from which.
            depth, types, relations, limit, cursor: as for `get_full_lineage`; live deployments and
                their owners are named whatever the types and the limit.

        Raises:
            NotFound: no version of the dataset has that column.
        """
        asked = question(kind, name, depth, types, relations, as_of, column)
        walked = self._walked(kind, name, asked, cursor)
        carried = Carried()
        if column is None:
            every = walked.places(walked.go(down=True), down=True, types=None)
        else:
            every, carried = walked.places_of_column(column)
        chosen = [p for p in every if asked.types is None or p.type in asked.types]
        shown, following = walked.page(chosen, limit)
        served = nodes_of(walked.view, [p.id for p in every if p.type == DEPLOYMENT])
        ways = [p for p in every if p.id in served and served[p.id]["status"] == "live"]
        nodes = nodes_of(
            walked.view,
            sorted({*walked.roots, *(p.id for p in shown), *(i for p in ways for i in p.path)}),
        )
        live = in_order(Reached(served[p.id], p.depth, p.path) for p in ways)
        listed = in_order(Reached(nodes[p.id], p.depth, p.path) for p in shown if p.id in nodes)
        between = {i for r in live for i in r.path[1:]} - set(walked.roots)
        counts = ranked(Counter(p.type for p in chosen))
        return Impact(
            tuple(nodes[i] for i in walked.roots if i in nodes),
            tuple(live),
            tuple(sorted({o for i in between if i in nodes for o in nodes[i]["owners"] or ()})),
            counts,
            {
                k: tuple(r for r in listed if r.node.type == k)
                for k in counts
                if limit is None or _any(listed, k)
            },
            {i: tuple(sorted(columns)) for i, columns in carried.columns.items()},
            following,
        )

    def get_lineage_graph(
        self,
        kind: str,
        name: str,
        *,
        depth: int | None = None,
        types: Iterable[str] | None = None,
        relations: Iterable[str] | None = None,
        as_of: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Graph:
        """Nodes and edges around a thing or version, complete or nearest first, for drawing."""
        found = self.get_full_lineage(
            kind,
            name,
            depth=depth,
            types=types,
            relations=relations,
            as_of=as_of,
            limit=limit,
            cursor=cursor,
        )
        nodes = {n.id: n for n in found.roots}
        nodes.update((r.node.id, r.node) for r in (*found.upstream, *found.downstream))
        return graph_of(nodes, found.edges, tuple(n.id for n in found.roots), found.cursor)

    def get_whole_graph(self, *, as_of: datetime | None = None) -> Graph:
        """Every living entity of the tenant and every edge between them."""
        view = self.view(as_of)
        ids = [
            s.id
            for t in ("things", "model_versions")
            for s in view.select(f"lineage.all_{t}", t, "NOT deleted")
        ]
        nodes = nodes_of(view, ids)
        drawn = (relationship_of(s) for s in view.select("lineage.all_edges", "relationships", "NOT deleted"))
        edges = {Edge(r.upstream[1], r.downstream[1], r.type) for r in drawn}
        edges |= {Edge(i, whole, PART_OF) for i, whole in wholes_of(view, ids).items()}
        return graph_of(nodes, edges, (), None)

    def _walked(self, kind: str, name: str, asked: Question, cursor: str | None) -> Walked:
        page = page_of(cursor, asked.value())
        view = self.view(asked.as_of)
        if page.at is not None:
            view = replace(view, at=page.at)
        head = self.log.head(self.tenant)[0] if view.at is None else view.at
        return walked_from(view, index_of(self.log).stack(view), end(view, kind, name), asked, page, head)


def _any(listed: Sequence[Reached], kind: str) -> bool:
    return any(r.node.type == kind for r in listed)


def graph_of(
    nodes: Mapping[str, Node], edges: Iterable[Edge], roots: tuple[str, ...], cursor: str | None
) -> Graph:
    """A graph in order, without edges that lead out of it."""
    inside = [e for e in edges if e.upstream in nodes and e.downstream in nodes]
    return Graph(
        tuple(sorted(nodes.values(), key=lambda n: (n.type, n.name, n.id))),
        tuple(sorted(inside, key=lambda e: (e.upstream, e.downstream, e.type))),
        roots,
        cursor,
    )


def _dataset_changes(
    view: View, first: Mapping[str, Any], seen: Fingerprint, derived_from: Sequence[str]
) -> list[Change]:
    dataset = next((s for s in named(view, DATASET, first["name"]) if not s.deleted), None)
    known = dataset_versions_of(view, dataset.id, deleted=True) if dataset else []
    newest = next((s for s in reversed(known) if not s.deleted), None)
    origins = {end(view, DATASET_VERSION, name).id for name in derived_from}
    if (
        newest is not None
        and newest.data["metadata"]["digest"] == seen.digest
        and origins <= _origins(view, newest)
    ):
        return []
    dataset_id = dataset.id if dataset else new_id()
    number = 1 + max((int(s.data["metadata"]["number"]) for s in known), default=0)
    version_id = new_id()
    version = {
        **NewThing("x").recorded(),
        "name": dataset_version_name(first["name"], number),
        "parent_id": dataset_id,
        "metadata": {"number": number, **seen.recorded()},
    }
    changes = [] if dataset else [Change(DATASET, dataset_id, first)]
    changes.append(Change(DATASET_VERSION, version_id, version, {"fingerprint": seen.recorded()}))
    whole = (DATASET_VERSION, version_id)
    changes += [edge("derived_from", whole, (DATASET_VERSION, origin)) for origin in sorted(origins)]
    return changes


def _origins(view: View, version: State) -> set[str]:
    drawn = view.by_column("relationships", "source_id", version.id)
    return {str(s.data["target_id"]) for s in drawn if s.data["type"] == "derived_from" and not s.deleted}


def _check_over(deployment: str, start: datetime | None, end: datetime) -> None:
    if start is None:
        raise InvalidInput(f"deployment {deployment!r}: an end needs a start; give both")
    for what, instant in (("start", start), ("end", end)):
        if instant.tzinfo is None:
            raise InvalidInput(f"the {what} {instant.isoformat()} has no zone; add one, such as +00:00")
    if end <= start:
        raise InvalidInput(f"the end {end.isoformat()} is not after the start {start.isoformat()}")
    if end > datetime.now(UTC):
        raise InvalidInput(
            f"the end {end.isoformat()} lies ahead; leave it out, and end the deployment when it has come"
        )


def _undeploy(view: View, deployment: State | None, *, but: str | None) -> list[Change]:
    """Remove the edge from the version that a deployment served, unless it is still that one."""
    if deployment is None:
        return []
    served = str(deployment.data["metadata"]["version_id"])
    drawn = view.by_id("relationships", edge_id("deployed_to", served, deployment.id))
    if served == but or drawn is None or drawn.deleted:
        return []
    return [Change("relationship", drawn.id, {**drawn.data, "deleted": True}, {"undeployed": deployment.id})]
