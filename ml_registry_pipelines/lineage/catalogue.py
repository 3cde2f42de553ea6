"""What a graph of the whole registry shows: datasets, models, live versions and deployments of all tenants.

Read in a few statements over the projections, however many tenants there are, and bounded:
what does not fit is counted. How an entry looks in Dagster is in `catalog.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from ml_registry_pipelines.lineage.staleness import Behind, DatasetVersion, Standing, compare
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.needs import LIVE_STAGES
from ml_registry_pipelines.registry.references import versions_of
from ml_registry_pipelines.registry.relationships import edges_at
from ml_registry_pipelines.registry.states import (
    AI_ACT_CLASSIFICATION,
    DATASET,
    DATASET_VERSION,
    DEPLOYMENT,
    MODEL,
    MODEL_VERSION,
    State,
    state_of,
)
from ml_registry_pipelines.registry.view import View

MOST = 10_000
"""Entries of all tenants; beyond, Dagster's graph is no longer comfortable."""
NEWEST = 3
"""Versions of each model that are shown whatever their stage."""
MOST_EDGES = 8 * MOST

LISTED = "json_extract_string(state, '$.metadata.hosted.catalog') IS NOT NULL"
"""Models that an import of a provider's catalogue has made; among thousands of them a few are used."""
_STATE_OF = "tenant, type, id, from_sequence, position, recorded_at, valid_from, actor, action, state"


@dataclass(frozen=True)
class Entry:
    """One thing to be shown.

    Args:
        kind: dataset, model, model_version or deployment.
        name: of the thing; of a version: its model's.
        number: of a version; of a dataset: its newest version's.
        place: a deployment's environment, a version's stage.
        upstream: ids of entries that it comes from.
        facts: what is known about it, as JSON, in the order in which it is to be read.
        standing: of versions and deployments, against the data of now.
        ai_act: of models, what is recorded of their class under the EU AI Act; None where nothing is.
    """

    tenant: str
    kind: str
    id: str
    name: str
    number: int | None = None
    place: str = ""
    description: str = ""
    owners: tuple[str, ...] = ()
    tags: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    upstream: tuple[str, ...] = ()
    standing: Standing | None = None
    ai_act: Mapping[str, Any] | None = None
    checks: tuple[Mapping[str, Any], ...] = ()
    """Of versions: the checks that are declared of them."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """What `Catalogue.recorded` wrote about one entry."""
        held = dict(given)
        standing = held.pop("standing", None)
        if standing is not None:
            behind = tuple(
                Behind(**{**b, "since": datetime.fromisoformat(b["since"])}) for b in standing["behind"]
            )
            standing = Standing(**{**standing, "behind": behind})
        return cls(
            **{
                **held,
                "owners": tuple(held.get("owners", ())),
                "upstream": tuple(held.get("upstream", ())),
                "checks": tuple(held.get("checks", ())),
                "standing": standing,
            }
        )

    def recorded(self) -> dict[str, Any]:
        """The entry as JSON."""
        held = asdict(self)
        for behind in (held["standing"] or {}).get("behind", ()):
            behind["since"] = behind["since"].isoformat()
        return held


@dataclass(frozen=True)
class Catalogue:
    """What is shown, and how many of each kind are not, for want of room.

    `unused` are the models of imported catalogues that nothing here uses, which search finds and no graph shows.
    """

    entries: tuple[Entry, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    unused: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """What `recorded` wrote."""
        entries = tuple(Entry.parse(e) for e in given["entries"])
        return cls(entries, dict(given["left_out"]), int(given["unused"]))

    def recorded(self) -> dict[str, Any]:
        """The catalogue as JSON."""
        entries = [e.recorded() for e in self.entries]
        return {"entries": entries, "left_out": dict(self.left_out), "unused": self.unused}


def read_catalogue(log: Log, *, most: int = MOST, newest: int = NEWEST) -> Catalogue:
    """The catalogue of everything in the log's lake.

    Room is given in this order: live deployments with what they serve, versions in production,
    staging or shadow with their models, the data that those learned from, other models with
    their newest versions, other datasets; of each kind the newest first. A model of an imported catalogue
    of providers is shown as soon as it is used: staged, deployed, given an alias, a further version or a
    class under the AI Act, or related to anything.

    Args:
        most: entries at most.
        newest: versions of each model that are shown whatever their stage.
    """
    return _Reader(log.view("default"), most, newest).read()


def is_shown(view: View, model: str) -> bool:
    """Whether a graph with room enough shows a living model: all of them but listed ones that nothing uses."""
    state = view.by_id("things", model)
    if state is None or state.deleted:
        return False
    if not isinstance(listed := _metadata(state).get("hosted"), Mapping) or "catalog" not in listed:
        return True
    versions = versions_of(view, model)
    return bool(
        state.data.get("aliases")
        or any(v.data["stage"] in LIVE_STAGES or v.data["version"] > 1 for v in versions)
        or edges_at(view, [model, *(v.id for v in versions)])
        or view.select(
            "catalogue.classified",
            "things",
            "type = $type AND NOT deleted AND json_extract_string(state, '$.metadata.model_id') = $model",
            limit=1,
            parameters={"type": AI_ACT_CLASSIFICATION, "model": model},
        )
    )


class _Reader:
    """One reading: every statement sees the same snapshot and tail."""

    def __init__(self, view: View, most: int, newest: int) -> None:
        self.view = view
        self.most = most
        self.newest = newest
        self.deployments: dict[str, State] = {}
        self.models: dict[str, State] = {}
        self.versions: dict[str, State] = {}
        self.datasets: dict[str, State] = {}
        self.used: dict[str, DatasetVersion] = {}
        self.newest_data: dict[str, State] = {}
        self.names: dict[str, str] = {}
        self.classes: dict[str, Mapping[str, Any]] = {}
        self.unused: list[str] = []

    def read(self) -> Catalogue:
        self.deployments = self._states(
            "things",
            "type = 'deployment' AND NOT deleted AND status = 'live' ORDER BY from_sequence DESC, id",
        )
        served = sorted({str(_metadata(s).get("version_id")) for s in self.deployments.values()})
        self.versions = self._states(
            "model_versions",
            """
            NOT deleted
              AND (stage IN (SELECT unnest($stages)) OR id IN (SELECT unnest($served::VARCHAR[])))
            ORDER BY stage = 'production' DESC, from_sequence DESC, id
            """,
            {"stages": list(LIVE_STAGES), "served": served},
        )
        self.classes = {
            str(_metadata(s).get("model_id")): _metadata(s)
            for s in self._states("things", f"type = '{AI_ACT_CLASSIFICATION}' AND NOT deleted").values()
        }
        first = {_model_of(s) for s in self.versions.values()}
        self.unused = self._unused(first | self.classes.keys())
        self.models = self._states(
            "things",
            """
            type = 'model' AND NOT deleted AND id NOT IN (SELECT unnest($unused::VARCHAR[]))
            ORDER BY id IN (SELECT unnest($first::VARCHAR[])) DESC, from_sequence DESC, id
            """,
            {"first": sorted(first), "unused": self.unused},
        )
        self._add_newest_versions()
        self.versions = {i: s for i, s in self.versions.items() if _model_of(s) in self.models}
        self._read_data()
        edges = self._edges()
        order = self._in_order()
        shown = set(order[: self.most])
        return Catalogue(
            tuple(self._entry(i, edges.get(i, set()) & shown) for i in order[: self.most]),
            self._left_out(shown),
            len(self.unused),
        )

    # -- what there is --------------------------------------------------------------------

    def _unused(self, used: Iterable[str]) -> list[str]:
        """Ids of listed models, beside those that are known to be used, that nothing here uses."""
        listed = self._ids(
            "things",
            f"""
            SELECT id FROM current
            WHERE type = 'model' AND NOT deleted AND {LISTED}
              AND id NOT IN (SELECT unnest($used::VARCHAR[]))
              AND coalesce(len(json_keys(state, '$.aliases')), 0) = 0
            """,
            {"used": sorted(used)},
        )
        if not listed:
            return []
        versions = list(
            self._query(
                "model_versions",
                """
                SELECT id, model_id, version FROM current
                WHERE model_id IN (SELECT unnest($listed::VARCHAR[])) AND NOT deleted
                """,
                {"listed": listed},
            )
        )
        model_of = {str(i): str(model) for i, model, _ in versions} | {i: i for i in listed}
        related = self._ids(
            "relationships",
            """
            SELECT unnest([source_id, target_id]) AS id FROM current
            WHERE NOT deleted AND (
              source_id IN (SELECT unnest($ids::VARCHAR[])) OR target_id IN (SELECT unnest($ids::VARCHAR[]))
            )
            """,
            {"ids": list(model_of)},
        )
        touched = {model_of[i] for i in related if i in model_of}
        touched |= {str(model) for _, model, number in versions if number > 1}
        return sorted(set(listed) - touched)

    def _ids(self, table: str, sql: str, parameters: Mapping[str, object]) -> list[str]:
        return [str(row[0]) for row in self._query(table, sql, parameters)]

    def _add_newest_versions(self) -> None:
        """The last few versions of each model, and those that an alias means."""
        aliased = [
            f"{model.id}@{number}"
            for model in self.models.values()
            for number in dict(model.data.get("aliases", {})).values()
        ]
        self.versions |= self._states(
            "model_versions",
            f"""
            NOT deleted AND model_id IN (SELECT unnest($models::VARCHAR[]))
            QUALIFY model_id || '@' || version IN (SELECT unnest($aliased::VARCHAR[]))
              OR row_number() OVER (PARTITION BY model_id ORDER BY version DESC) <= {int(self.newest)}
            ORDER BY from_sequence DESC, id
            """,
            {"models": sorted(self.models), "aliased": aliased},
        )

    def _read_data(self) -> None:
        """Datasets, the versions of them that were learned from, and the newest of each."""
        trained = sorted({str(i) for s in self.versions.values() for i in s.data.get("trained_on", ())})
        used = self._states(
            "things", "id IN (SELECT unnest($ids::VARCHAR[]))", {"ids": trained}, most=len(trained)
        )
        self.datasets = self._states(
            "things",
            """
            type = 'dataset' AND NOT deleted
            ORDER BY id IN (SELECT unnest($first::VARCHAR[])) DESC, from_sequence DESC, id
            """,
            {"first": sorted({str(s.data.get("parent_id")) for s in used.values()})},
        )
        parents = sorted({*self.datasets, *(str(s.data.get("parent_id")) for s in used.values())})
        self.names = {
            s.id: s.name
            for s in self._states(
                "things",
                "id IN (SELECT unnest($ids::VARCHAR[])) AND NOT deleted",
                {"ids": parents},
                most=len(parents),
            ).values()
        }
        newest = self._states(
            "things",
            """
            type = 'dataset_version' AND NOT deleted
              AND parent_id IN (SELECT unnest($parents::VARCHAR[]))
            QUALIFY row_number() OVER (
              PARTITION BY parent_id
              ORDER BY TRY_CAST(json_extract_string(state, '$.metadata.number') AS BIGINT) DESC NULLS LAST, id
            ) = 1
            """,
            {"parents": sorted(self.names)},
            most=len(self.names),
        )
        self.newest_data = {str(s.data["parent_id"]): s for s in newest.values()}
        self.used = {i: v for i, s in used.items() if (v := self._dataset_version(s)) is not None}

    def _edges(self) -> dict[str, set[str]]:
        """Ids of entries upstream of each entry, drawn edges and parts of a whole alike, without circles."""
        ids = [
            *self.deployments,
            *self.versions,
            *self.models,
            *self.datasets,
            *(s.id for s in self.newest_data.values()),
        ]
        drawn = self._states(
            "relationships",
            """
            NOT deleted AND (
              source_id IN (SELECT unnest($ids::VARCHAR[])) OR target_id IN (SELECT unnest($ids::VARCHAR[]))
            )
            ORDER BY from_sequence DESC, id
            """,
            {"ids": ids},
            most=max(MOST_EDGES, 8 * self.most),
        )
        ends = [(str(s.data["source_id"]), str(s.data["target_id"]), s.data["flow"]) for s in drawn.values()]
        versions_of_data = sorted({end for s in drawn.values() for end in _data_ends(s)} - {*self.datasets})
        whole = {
            s.id: str(s.data.get("parent_id"))
            for s in self._states(
                "things",
                "id IN (SELECT unnest($ids::VARCHAR[]))",
                {"ids": versions_of_data},
                most=len(versions_of_data),
            ).values()
        }
        known = {*self.deployments, *self.versions, *self.models, *self.datasets}
        pairs: list[tuple[str, str]] = []
        for source, target, flow in ends:
            up, down = (source, target) if flow == "to_target" else (target, source)
            up, down = whole.get(up, up), whole.get(down, down)
            pairs.append((up, down))
        # Not the other way: a training asset that is the model would wait for what it makes.
        pairs += [(_model_of(s), i) for i, s in self.versions.items()]
        return without_circles((up, down) for up, down in pairs if up in known and down in known)

    def _in_order(self) -> list[str]:
        """Ids in the order in which room is given."""
        order: dict[str, None] = {}
        live = [i for i, s in self.versions.items() if s.data["stage"] in LIVE_STAGES]
        served = [str(_metadata(s).get("version_id")) for s in self.deployments.values()]
        first = [i for i in [*served, *live] if i in self.versions]
        order.update(dict.fromkeys(self.deployments))
        for i in first:
            order.setdefault(i)
            order.setdefault(_model_of(self.versions[i]))
        for i in first:
            for data in self.versions[i].data.get("trained_on", ()):
                if data in self.used and self.used[data].dataset_id in self.datasets:
                    order.setdefault(self.used[data].dataset_id)
        rest: dict[str, list[str]] = {}
        for i, state in self.versions.items():
            rest.setdefault(_model_of(state), []).append(i)
        for model in self.models:
            for i in [model, *rest.get(model, ())]:
                order.setdefault(i)
        order.update(dict.fromkeys(self.datasets))
        return list(order)

    def _left_out(self, shown: set[str]) -> dict[str, int]:
        rows = self._query(
            "things",
            """
            SELECT type, count(*) AS n FROM current
            WHERE NOT deleted AND (type IN ('model', 'dataset') OR (type = 'deployment' AND status = 'live'))
            GROUP BY type
            """,
        )
        held = {MODEL: self.models, DATASET: self.datasets, DEPLOYMENT: self.deployments}
        left = {kind: n - len(held[kind].keys() & shown) for kind, n in rows}
        left[MODEL] = left.get(MODEL, 0) - len(self.unused)
        left[MODEL_VERSION] = len(self.versions.keys() - shown)
        return {kind: n for kind, n in sorted(left.items()) if n > 0}

    # -- how an entry is made -----------------------------------------------------------------

    def _entry(self, entity: str, upstream: set[str]) -> Entry:
        up = tuple(sorted(upstream))
        if (state := self.deployments.get(entity)) is not None:
            return self._deployment(state, up)
        if (state := self.versions.get(entity)) is not None:
            return self._version(state, up)
        if (state := self.models.get(entity)) is not None:
            return self._model(state, up)
        return self._dataset(self.datasets[entity], up)

    def _model(self, state: State, upstream: tuple[str, ...]) -> Entry:
        data = state.data
        aliases = {str(k): f"v{v}" for k, v in sorted(dict(data.get("aliases", {})).items())}
        deprecation = data.get("deprecation") or {}
        facts = {
            "status": data.get("status", "active"),
            **({"deprecated because": deprecation.get("reason")} if deprecation else {}),
            **{f"alias {name}": number for name, number in aliases.items()},
            **_class_facts(self.classes.get(state.id)),
            **_custom(data),
            **_recorded(state),
        }
        return Entry(
            state.tenant,
            MODEL,
            state.id,
            state.name,
            None,
            "",
            **_words(data),
            facts=facts,
            upstream=upstream,
            ai_act=self.classes.get(state.id),
        )

    def _version(self, state: State, upstream: tuple[str, ...]) -> Entry:
        data = state.data
        model = self.models[_model_of(state)]
        number = int(data["version"])
        content = dict(data.get("content") or {})
        trained = [self.used[i] for i in data.get("trained_on", ()) if i in self.used]
        compared, behind = self._compared(trained)
        standing = Standing(
            MODEL_VERSION, state.id, f"{model.name}@v{number}", str(data["stage"]), compared, behind
        )
        aliases = sorted(n for n, v in dict(model.data.get("aliases", {})).items() if v == number)
        facts = {
            "stage": data["stage"],
            "aliases": ", ".join(aliases),
            **{f"metric {name}": value for name, value in dict(data.get("metrics") or {}).items()},
            "trained on": ", ".join(f"{v.dataset}@v{v.number}" for v in trained),
            "framework": data.get("framework"),
            "licence": data.get("licence"),
            "code commit": data.get("code_commit"),
            "form": content.get("form"),
            "files": content.get("files") or None,
            "size in bytes": data.get("size"),
            "content digest": data.get("content_digest"),
            **{f"parameter {k}": v for k, v in dict(data.get("parameters") or {}).items()},
            **_recorded(state),
        }
        words = _words(data)
        return Entry(
            state.tenant,
            MODEL_VERSION,
            state.id,
            model.name,
            number,
            str(data["stage"]),
            words["description"] or str(model.data.get("description", "")),
            tuple(model.data.get("owners", ())),
            words["tags"],
            facts,
            upstream,
            standing,
        )

    def _dataset(self, state: State, upstream: tuple[str, ...]) -> Entry:
        newest = self.newest_data.get(state.id)
        seen = _metadata(newest) if newest is not None else {}
        number = seen.get("number")
        facts = {
            "version": number,
            "rows": seen.get("rows"),
            "format": seen.get("format"),
            "location": seen.get("location"),
            "digest": seen.get("digest"),
            "columns": seen.get("columns"),
            **_custom(state.data),
            **_recorded(newest or state),
        }
        return Entry(
            state.tenant,
            DATASET,
            state.id,
            state.name,
            number if isinstance(number, int) else None,
            "",
            **_words(state.data),
            facts=facts,
            upstream=upstream,
        )

    def _deployment(self, state: State, upstream: tuple[str, ...]) -> Entry:
        served = dict(_metadata(state))
        version = self.versions.get(str(served.pop("version_id", None)))
        environment = str(served.pop("environment", ""))
        label, compared = "", 0
        behind: tuple[Behind, ...] = ()
        if version is not None:
            label = f"{self.models[_model_of(version)].name}@v{version.data['version']}"
            compared, behind = self._compared(
                [self.used[i] for i in version.data.get("trained_on", ()) if i in self.used]
            )
        standing = Standing(DEPLOYMENT, state.id, state.name, environment, compared, behind)
        facts = {
            "serves": label,
            "environment": environment,
            "endpoint": served.pop("endpoint", None),
            "traffic share": served.pop("traffic_share", None),
            "since": f"{state.valid_from.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z",
            **served,
            **_recorded(state),
        }
        return Entry(
            state.tenant,
            DEPLOYMENT,
            state.id,
            state.name,
            None,
            environment,
            **_words(state.data),
            facts=facts,
            upstream=upstream,
            standing=standing,
        )

    def _compared(self, trained: Sequence[DatasetVersion]) -> tuple[int, tuple[Behind, ...]]:
        newest = {
            v.dataset_id: found
            for v in trained
            if (state := self.newest_data.get(v.dataset_id)) is not None
            and (found := self._dataset_version(state)) is not None
        }
        return compare(trained, newest)

    def _dataset_version(self, state: State) -> DatasetVersion | None:
        number = _metadata(state).get("number")
        if state.entity_type != DATASET_VERSION or not isinstance(number, int):
            return None
        dataset = str(state.data.get("parent_id"))
        return DatasetVersion(state.id, dataset, self.names.get(dataset, dataset), number, state.recorded_at)

    # -- statements -----------------------------------------------------------------------------

    def _states(
        self,
        table: str,
        where: str,
        parameters: Mapping[str, object] | None = None,
        *,
        most: int | None = None,
    ) -> dict[str, State]:
        """The newest states that a condition holds for, by id, in its order; by default as many as are shown."""
        limit = int(self.most if most is None else most)
        rows = self._query(table, f"SELECT {_STATE_OF} FROM current WHERE {where} LIMIT {limit}", parameters)
        states = (state_of(table, *row) for row in rows)
        return {state.id: state for state in states}

    def _query(
        self, table: str, sql: str, parameters: Mapping[str, object] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement over relation `current`: the newest state of every entity of all tenants."""
        found = self.view.of_all_tenants(f"catalogue.{table}", table, sql, parameters)
        columns = [column.to_pylist() for column in found.columns]
        return zip(*columns, strict=True) if columns else iter(())


def without_circles(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """What lies upstream of each node; an edge that would close a circle is left out.

    Between versions the registry refuses circles. Between the datasets and models that they
    are parts of there may be some: of two datasets, each can have a version made from the other.
    """
    upstream: dict[str, set[str]] = {}
    for up, down in pairs:
        if up != down:
            upstream.setdefault(down, set()).add(up)
    done: set[str] = set()
    for start in sorted(upstream):
        path: dict[str, Iterator[str]] = {}
        node: str | None = start if start not in done else None
        while node is not None:
            following = path.setdefault(node, iter(sorted(upstream.get(node, ()))))
            step = next(following, None)
            if step is None:
                done.add(node)
                path.popitem()
                node = next(reversed(path), None)
            elif step in path:
                upstream[node].discard(step)
            elif step not in done:
                node = step
    return upstream


def _class_facts(said: Mapping[str, Any] | None) -> dict[str, Any]:
    """The class of a model under the EU AI Act and what is still to be answered, for people."""
    if said is None:
        return {"AI Act class": "not classified"}
    gates = said["gate_tier"] if said["gate_tier"] != said["tier"] else None
    return {
        "AI Act class": said["tier"],
        "AI Act gates as": gates,
        "AI Act open questions": ", ".join(said["missing"]) or "none",
        "AI Act text": said["text_version"],
    }


def _words(data: Mapping[str, Any]) -> dict[str, Any]:
    """What people say about a thing. Tags keep their values, not their types."""
    return {
        "description": str(data.get("description", "")),
        "owners": tuple(data.get("owners", ())),
        "tags": {name: tag["value"] for name, tag in dict(data.get("tags", {})).items()},
    }


def _custom(data: Mapping[str, Any]) -> dict[str, Any]:
    return dict(data.get("metadata") or {})


def _metadata(state: State) -> Mapping[str, Any]:
    return dict(state.data.get("metadata") or {})


def _recorded(state: State) -> dict[str, Any]:
    return {
        "last change": f"{state.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z by {state.actor}: {state.action}",
        "registry id": state.id,
    }


def _model_of(version: State) -> str:
    return str(version.data["model_id"])


def _data_ends(state: State) -> Iterator[str]:
    for end in ("source", "target"):
        if state.data[f"{end}_type"] == DATASET_VERSION:
            yield str(state.data[f"{end}_id"])
