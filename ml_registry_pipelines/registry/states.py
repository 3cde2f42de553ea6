"""From events to states: which table an entity's states live in, and what a row of it holds.

An event carries the whole state that it begins, so folding needs nothing but the event:
a projection is a pure function of the log. A bulk event's states are in its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.tables.registry import (
    APPROVALS,
    MODEL_VERSIONS,
    RELATIONSHIPS,
    THINGS,
)
from ml_registry_pipelines.registry.canonical import parse
from ml_registry_pipelines.registry.errors import EventUnreadable
from ml_registry_pipelines.registry.events import BULK, Event

if TYPE_CHECKING:
    import pyarrow as pa

MODEL = "model"
MODEL_VERSION = "model_version"
DATASET = "dataset"
DATASET_VERSION = "dataset_version"
DEPLOYMENT = "deployment"
RELATIONSHIP = "relationship"
APPROVAL = "approval"
ATTRIBUTION_RULE = "attribution_rule"
EXPERIMENT = "experiment"
ALLOCATION_RULE = "allocation_rule"
TENANT_STATEMENT = "tenant_statement"
AI_ACT_CLASSIFICATION = "ai_act_classification"
DOSSIER_FIELD = "dossier_field"

INDEXES: dict[str, tuple[str, ...]] = {
    "things": ("name", "parent_id"),
    "relationships": ("source_id", "target_id"),
    "model_versions": ("model_id",),
    "approvals": ("subject_id",),
}
"""Columns by which the states of a table are looked up, beside the id."""

FIXED = frozenset(
    {("relationships", "source_id"), ("relationships", "target_id"), ("model_versions", "model_id")}
)
"""Columns that say the same in every state of an entity."""

OWN = {
    table.name: tuple(name for name in table.column_names if name not in THINGS.column_names[:11])
    for table in (THINGS, RELATIONSHIPS, MODEL_VERSIONS, APPROVALS)
}
"""Columns of each projection that come from the state itself."""

BulkReader = Callable[[Event], Iterable[tuple[str, str, str]]]
"""Gives (entity type, entity id, state) of what a bulk event lists."""


@dataclass(frozen=True)
class State:
    """One state of one entity: what a projection's row holds."""

    tenant: str
    entity_type: str
    id: str
    sequence: int
    position: int
    recorded_at: datetime
    valid_from: datetime
    actor: str
    action: str
    text: str

    @cached_property
    def data(self) -> Mapping[str, Any]:
        return parse(self.text)

    @property
    def deleted(self) -> bool:
        return bool(self.data.get("deleted", False))

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def table(self) -> str:
        return table_of(self.entity_type)


def table_of(entity_type: str) -> str:
    """The projection that holds the states of entities of this type."""
    match entity_type:
        case "model_version":
            return "model_versions"
        case "relationship":
            return "relationships"
        case "approval":
            return "approvals"
        case _:
            return "things"


_FORMS: dict[str, tuple[tuple[str, type, bool], ...]] = {
    table.name: (
        *(("type", str, True) for _ in range(table is RELATIONSHIPS)),
        *(
            (c.name, str if c.type == "string" else int, c.required)
            for c in table.columns
            if c.name in OWN[table.name]
        ),
    )
    for table in (THINGS, RELATIONSHIPS, MODEL_VERSIONS, APPROVALS)
}
"""What the columns of each projection want of a state: name, type, and whether it must be there."""


def begun(event: Event) -> State:
    """The state that an event about one entity begins.

    Raises:
        EventUnreadable: it is none that a projection could hold.
    """
    state = _state(event, event.entity_type, event.entity_id, event.state_text)
    # Known already: parsing the text again would only give the same.
    state.__dict__["data"] = data = event.state
    for name, type_, required in _FORMS[state.table]:
        value = data.get(name)
        if not isinstance(value, type_) and (required or value is not None):
            raise EventUnreadable(event.tenant, event.sequence, f"its state has no {name} such as it must")
    return state


def fold(events: Iterable[Event], read_bulk: BulkReader) -> Iterator[State]:
    """The states that the events begin, in their order; those of bulk events one by one."""
    for event in events:
        if event.entity_type == BULK:
            for entity_type, entity_id, text in read_bulk(event):
                yield _state(event, entity_type, entity_id, text)
        else:
            yield begun(event)


def _state(event: Event, entity_type: str, entity_id: str, text: str) -> State:
    return State(
        event.tenant,
        entity_type,
        entity_id,
        event.sequence,
        event.position,
        event.recorded_at,
        event.valid_from,
        event.actor,
        event.action,
        text,
    )


def row_of(state: State) -> dict[str, Any]:
    """The state as a row of its projection."""
    data = state.data
    return {
        "tenant": state.tenant,
        "type": str(data["type"]) if state.entity_type == RELATIONSHIP else state.entity_type,
        "id": state.id,
        "from_sequence": state.sequence,
        "position": state.position,
        "recorded_at": state.recorded_at,
        "valid_from": state.valid_from,
        "actor": state.actor,
        "action": state.action,
        "deleted": state.deleted,
        "state": state.text,
        **{name: data.get(name) for name in OWN[state.table]},
    }


def rows_of(table: str, states: Iterable[State]) -> pa.Table:
    """The states as rows of the projection `table`."""
    import pyarrow as pa

    declared = {t.name: t for t in (THINGS, RELATIONSHIPS, MODEL_VERSIONS, APPROVALS)}[table]
    rows = [row_of(state) for state in states]
    return pa.table({n: [row[n] for row in rows] for n in declared.column_names}, schema=declared.schema)


STATE_COLUMNS = (
    "tenant",
    "type",
    "id",
    "from_sequence",
    "position",
    "recorded_at",
    "valid_from",
    "actor",
    "action",
    "state",
)
"""Columns that make a `State`, in the order of `state_of`."""


def from_rows(table: str, rows: pa.Table) -> list[State]:
    """Rows of a projection as states."""
    columns = [rows[name].to_pylist() for name in STATE_COLUMNS]
    return [state_of(table, *row) for row in zip(*columns, strict=True)]


def state_of(table: str, tenant: str, kind: str, entity: str, *rest: Any) -> State:
    """One row of the projection `table`, as `STATE_COLUMNS` lists it, as a state."""
    kinds = {"relationships": RELATIONSHIP, "model_versions": MODEL_VERSION, "approvals": APPROVAL}
    return State(tenant, kinds.get(table, kind), entity, *rest)
