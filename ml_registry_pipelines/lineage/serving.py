"""What deployments served over time: the stretches between one act about a deployment and the next.

By effective time, as far as a view knows: what is recorded later overrides what was recorded before,
from its own effective time on. A stretch that had ended when it was told overrides up to its end alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from ml_registry_pipelines.registry.states import DEPLOYMENT, State, from_rows
from ml_registry_pipelines.registry.timeline import Span, Timeline
from ml_registry_pipelines.registry.view import View

_OF_THE_NAME = ("tag", "describe", "rename", "set_owners_of")
"""Acts after which a deployment serves what it served: their state repeats the last recorded one."""
ENDED = "ended_stretches"
"""Where the record of a deployment lists the stretches that were told when they had ended."""
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
        ORDER BY id, from_sequence
        """,
        {"type": DEPLOYMENT, "without": [f"{action}_{DEPLOYMENT}" for action in _OF_THE_NAME]},
    )
    states = from_rows("things", rows)
    return {entity: _stretches(list(found)) for entity, found in groupby(states, key=lambda s: s.id)}


def ended_stretch(served: Mapping[str, object], start: datetime, end: datetime) -> dict[str, object]:
    """What the record of a deployment keeps of a stretch that was told when it had ended."""
    return {**served, "start": start.isoformat(), "end": end.isoformat()}


def _stretches(states: Sequence[State]) -> list[Stretch]:
    told: Timeline[tuple[Mapping[str, Any] | None, str]] = Timeline()
    known = 0
    for state in states:
        ended = state.data.get(ENDED, ())
        if len(ended) > known:
            known = len(ended)
            start, end = (datetime.fromisoformat(ended[-1][name]) for name in ("start", "end"))
            told.tell((ended[-1], state.actor), start, end)
        else:
            served = state.data.get("metadata", {})
            live = state.data.get("status") == "live" and not state.deleted and "version_id" in served
            told.tell((served if live else None, state.actor), state.valid_from)
    return [_stretch(states[0].id, span) for span in told]


def _stretch(deployment_id: str, span: Span[tuple[Mapping[str, Any] | None, str]]) -> Stretch:
    served, actor = span.value
    share = served.get("traffic_share", 1.0) if served else 1.0
    return Stretch(
        deployment_id=deployment_id,
        start=span.start,
        end=span.end,
        version_id=str(served["version_id"]) if served else None,
        environment=str(served.get("environment", "")) if served else "",
        endpoint=str(served.get("endpoint", "")) if served else "",
        traffic_share=float(share) if isinstance(share, int | float) else 1.0,
        actor=actor,
    )
