"""What deployments served over time: the stretches between one act about a deployment and the next.

By effective time, as far as a view knows: of the acts that hold from an instant or earlier, the one
that holds from latest counts, and of two that hold from the same instant the one recorded later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise

from ml_registry_pipelines.registry.states import DEPLOYMENT, State, from_rows
from ml_registry_pipelines.registry.view import View

_OF_THE_NAME = ("tag", "describe", "rename", "set_owners_of")
"""Acts after which a deployment serves what it served: their state repeats the last recorded one."""
ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Stretch:
    """What a deployment did from `start` up to, not including, `end`; None: it still does.

    `version_id` is None where it served nothing.
    """

    deployment_id: str
    start: datetime
    end: datetime | None
    version_id: str | None
    environment: str
    endpoint: str
    traffic_share: float
    actor: str

    def holds_at(self, instant: datetime) -> bool:
        return self.start <= instant and (self.end is None or instant < self.end)

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Whether it holds at some instant from `start` up to, not including, `end`."""
        return self.start < end and (self.end is None or start < self.end)


def stretches(view: View) -> dict[str, list[Stretch]]:
    """The stretches of every deployment of the tenant, by its id, in order of time."""
    rows = view.over_states(
        "lineage.serving",
        "things",
        """
        SELECT * FROM states
        WHERE from_sequence <= $at AND type = $type AND NOT list_contains($without::VARCHAR[], action)
        ORDER BY id, valid_from, from_sequence
        """,
        {"type": DEPLOYMENT, "without": [f"{action}_{DEPLOYMENT}" for action in _OF_THE_NAME]},
    )
    states = from_rows("things", rows)
    return {entity: _stretches(list(found)) for entity, found in groupby(states, key=lambda s: s.id)}


def _stretches(states: Sequence[State]) -> list[Stretch]:
    last_of = {state.valid_from: state for state in states}
    return [_stretch(state, after) for state, after in pairwise([*last_of.values(), None]) if state]


def _stretch(state: State, after: State | None) -> Stretch:
    served: Mapping[str, object] = state.data.get("metadata", {})
    live = state.data.get("status") == "live" and not state.deleted and "version_id" in served
    share = served.get("traffic_share", 1.0)
    return Stretch(
        deployment_id=state.id,
        start=state.valid_from,
        end=after.valid_from if after else None,
        version_id=str(served["version_id"]) if live else None,
        environment=str(served.get("environment", "")),
        endpoint=str(served.get("endpoint", "")),
        traffic_share=float(share) if isinstance(share, int | float) else 1.0,
        actor=state.actor,
    )
