"""Whether a version learned from data that has moved on since: what it was trained on against the newest.

The registry's own answer, for a version of any origin; Dagster calls every external asset fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_registry_pipelines.registry.desk import Desk
from ml_registry_pipelines.registry.needs import LIVE_STAGES
from ml_registry_pipelines.registry.references import living, version_state, versions_of
from ml_registry_pipelines.registry.states import DATASET_VERSION, DEPLOYMENT, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View


@dataclass(frozen=True)
class DatasetVersion:
    """One version of a dataset, as far as comparing needs it."""

    id: str
    dataset_id: str
    dataset: str
    number: int
    recorded_at: datetime


@dataclass(frozen=True)
class Behind:
    """A dataset that has a newer version than the newest one that was trained on."""

    dataset: str
    trained_on: int
    newest: int
    since: datetime


@dataclass(frozen=True)
class Standing:
    """How a version, or the deployment that serves it, stands to the data of now.

    `compared` is how many datasets it names as training data; none leaves nothing to say.
    """

    kind: str
    id: str
    name: str
    stage: str
    compared: int
    behind: tuple[Behind, ...]

    @property
    def stale(self) -> bool:
        return bool(self.behind)

    @property
    def sentence(self) -> str:
        """The answer for a person."""
        if self.behind:
            return "; ".join(
                f"trained on {b.dataset}@v{b.trained_on}, which is at v{b.newest} "
                f"since {b.since:%Y-%m-%d %H:%M}Z"
                for b in self.behind
            )
        if not self.compared:
            return "no training data is recorded, so there is nothing to compare"
        return f"trained on the newest version of {self.compared} dataset{'s' if self.compared > 1 else ''}"


def compare(
    trained_on: Iterable[DatasetVersion], newest: Mapping[str, DatasetVersion]
) -> tuple[int, tuple[Behind, ...]]:
    """How many datasets were trained on, and those that have moved on.

    Of several versions of one dataset the newest counts. A dataset without a living version,
    or whose newer versions were deleted, has not moved on.
    """
    used: dict[str, DatasetVersion] = {}
    for version in trained_on:
        known = used.get(version.dataset_id)
        if known is None or version.number > known.number:
            used[version.dataset_id] = version
    behind = [
        Behind(last.dataset, version.number, last.number, last.recorded_at)
        for version in used.values()
        if (last := newest.get(version.dataset_id)) is not None and last.number > version.number
    ]
    return len(used), tuple(sorted(behind, key=lambda b: b.dataset))


class Staleness(Desk):
    """Questions about versions and the data that they were trained on, in one tenant."""

    def of_version(self, reference: str, *, as_of: datetime | None = None) -> Standing:
        """How `fraud@v3`, `fraud@champion` ... stands to the data of now, or of `as_of`."""
        view = self.view(as_of)
        return self._standings(view, [version_state(view, reference)])[0]

    def of_models(
        self, model: str | None = None, *, every_version: bool = False, as_of: datetime | None = None
    ) -> list[Standing]:
        """How versions in production, staging or shadow stand, and all that have an alias or are deployed.

        Args:
            model: only those of this model.
            every_version: whatever the stage.
        """
        view = self.view(as_of)
        owner = None if model is None else living(view, MODEL, model)
        states = (
            view.select("staleness.versions", "model_versions", "NOT deleted")
            if owner is None
            else versions_of(view, owner.id)
        )
        if not every_version:
            used = self._used(view)
            states = [
                s
                for s in states
                if s.data["stage"] in LIVE_STAGES
                or s.id in used
                or (str(s.data["model_id"]), int(s.data["version"])) in used
            ]
        return sorted(self._standings(view, states), key=lambda s: (s.name, s.id))

    def of_deployments(self, *, as_of: datetime | None = None) -> list[Standing]:
        """How live deployments stand: as the versions that they serve."""
        view = self.view(as_of)
        found = view.select(
            "staleness.deployments", "things", "type = 'deployment' AND NOT deleted AND status = 'live'"
        )
        served = {s.id: str(s.data["metadata"].get("version_id")) for s in found}
        versions = view.by_any("model_versions", "id", sorted({*served.values()}))
        known = {s.id: s for s in self._standings(view, versions)}
        standings = [
            Standing(
                DEPLOYMENT,
                state.id,
                state.name,
                str(state.data["metadata"].get("environment", "")),
                known[served[state.id]].compared,
                known[served[state.id]].behind,
            )
            for state in found
            if served[state.id] in known
        ]
        return sorted(standings, key=lambda s: (s.name, s.id))

    def _used(self, view: View) -> set[object]:
        """Ids of deployed versions, and (model, number) of those that have an alias."""
        deployed = view.select(
            "staleness.deployments", "things", "type = 'deployment' AND NOT deleted AND status = 'live'"
        )
        models = view.select(
            "staleness.aliased",
            "things",
            "type = 'model' AND NOT deleted AND json_array_length(json_keys(state, '$.aliases')) > 0",
        )
        return {
            *(str(s.data["metadata"].get("version_id")) for s in deployed),
            *((m.id, int(number)) for m in models for number in m.data["aliases"].values()),
        }

    def _standings(self, view: View, states: Sequence[State]) -> list[Standing]:
        models = {
            s.id: s for s in view.by_any("things", "id", sorted({str(v.data["model_id"]) for v in states}))
        }
        living_ones = [
            s for s in states if (m := models.get(str(s.data["model_id"]))) is not None and not m.deleted
        ]
        trained = sorted({i for s in living_ones for i in s.data["trained_on"]})
        versions = {s.id: s for s in view.by_any("things", "id", trained)}
        parents = sorted({str(s.data.get("parent_id")) for s in versions.values()})
        names = {s.id: s.name for s in view.by_any("things", "id", parents)}
        used = {i: _version(s, names) for i, s in versions.items() if s.entity_type == DATASET_VERSION}
        newest = newest_versions(view, parents, names)
        found = []
        for state in living_ones:
            compared, behind = compare(
                [used[i] for i in state.data["trained_on"] if i in used],
                newest,
            )
            model = models[str(state.data["model_id"])]
            found.append(
                Standing(
                    MODEL_VERSION,
                    state.id,
                    f"{model.name}@v{state.data['version']}",
                    str(state.data["stage"]),
                    compared,
                    behind,
                )
            )
        return found


def newest_versions(
    view: View, datasets: Sequence[str], names: Mapping[str, str]
) -> dict[str, DatasetVersion]:
    """The newest living version of each dataset, by the dataset's id; deleted datasets have none."""
    rows = view.query(
        "staleness.newest",
        "things",
        """
        SELECT parent_id, id, recorded_at,
               TRY_CAST(json_extract_string(state, '$.metadata.number') AS BIGINT) AS number
        FROM current
        WHERE type = 'dataset_version' AND NOT deleted
          AND parent_id IN (SELECT unnest($datasets::VARCHAR[]))
          AND parent_id IN (SELECT id FROM current WHERE type = 'dataset' AND NOT deleted)
        QUALIFY number IS NOT NULL AND row_number() OVER (PARTITION BY parent_id ORDER BY number DESC NULLS LAST) = 1
        """,
        {"datasets": list(datasets)},
    ).to_pylist()
    return {
        row["parent_id"]: DatasetVersion(
            row["id"], row["parent_id"], names[row["parent_id"]], row["number"], row["recorded_at"]
        )
        for row in rows
    }


def _version(state: State, names: Mapping[str, str]) -> DatasetVersion:
    data: Mapping[str, Any] = state.data
    dataset = str(data.get("parent_id"))
    return DatasetVersion(
        state.id,
        dataset,
        names.get(dataset, dataset),
        number if isinstance(number := data["metadata"].get("number"), int) else 0,
        state.recorded_at,
    )
