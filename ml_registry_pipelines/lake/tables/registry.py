"""Tables of the registry room: the log of events, and its projections.

`governance_events` is the only source of truth. The others hold every state that an entity
has been in, one row each, and may be dropped and folded again from the log.
"""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

GOVERNANCE_EVENTS = Table(
    name="governance_events",
    row="one event: one act that gave one entity a new state, chained to the event before",
    columns=(
        Column("tenant", "string", "organisation that owns the entity", required=True),
        Column("sequence", "int64", "gapless number of the event within its tenant, from 1", required=True),
        Column("event_id", "string", "time-ordered id", required=True),
        Column("command_id", "string", "command that the event belongs to", required=True),
        Column("part", "int32", "number of the event within its command, from 1", required=True),
        Column("parts", "int32", "events of the command; fewer in the log is damage", required=True),
        Column("occurred_at", "timestamp", "when the command was given", "UTC", required=True),
        Column(
            "recorded_at",
            "timestamp",
            "when it was committed; never decreases along the sequence",
            "UTC",
            required=True,
        ),
        Column(
            "valid_from",
            "timestamp",
            "from when on the new state holds, as far as its subject goes",
            "UTC",
            required=True,
        ),
        Column("actor", "string", "pseudonym of who acted", required=True),
        Column("actor_kind", "string", "person, service or system", required=True),
        Column("authenticated_by", "string", "how the door made sure who it is", required=True),
        Column("action", "string", "name of the command", required=True),
        Column(
            "entity_type",
            "string",
            "what kind of entity it is about; `bulk`: as many as the payload lists",
            required=True,
        ),
        Column("entity_id", "string", "random id of the entity", required=True),
        Column(
            "payload",
            "string",
            "canonical JSON: `change`, as it was asked for, and `state`, as it is since",
            required=True,
        ),
        Column("idempotency_key", "string", "key under which the caller may repeat the command"),
        Column("run_id", "string", "Dagster run that the command came from"),
        Column("previous_hash", "string", "hash of the event before, empty for the first", required=True),
        Column(
            "hash",
            "string",
            "SHA-256 over the stored bytes of all columns above, as netstrings",
            required=True,
        ),
        Column(
            "position",
            "int64",
            "gapless number of the event in this log, over all tenants; outside the chain, since an import "
            "gives another one",
            required=True,
        ),
        Column(
            "block",
            "int64",
            "batch of the projections that folds it, of consecutive positions; outside the chain too",
        ),
    ),
    key=("tenant", "sequence"),
    statistics=("tenant", "sequence", "recorded_at", "position", "block"),
    sort_by=("tenant", "sequence"),
    precedence=Precedence.RETENTION,
    plain=("event_id", "hash", "previous_hash"),
)

_STATE = (
    Column("tenant", "string", "organisation that owns it", required=True),
    Column("type", "string", "kind of entity, or of relationship", required=True),
    Column("id", "string", "random id", required=True),
    Column("from_sequence", "int64", "event of the tenant that began this state", required=True),
    Column("position", "int64", "that event's place in the log", required=True),
    Column("recorded_at", "timestamp", "when the state was recorded", "UTC", required=True),
    Column("valid_from", "timestamp", "from when on it holds", "UTC", required=True),
    Column("actor", "string", "pseudonym of who brought it about", required=True),
    Column("action", "string", "command that did", required=True),
    Column("deleted", "bool", "whether it is deleted or removed in this state", required=True),
    Column("state", "string", "the whole state as canonical JSON", required=True),
)
_ROW_GROUP = 4096
"""A look-up decodes a row group: 4,096 states take about a millisecond."""
_STATE_KEY = ("tenant", "id", "from_sequence")
_STATISTICS = ("tenant", "id", "from_sequence", "position", "recorded_at")

THINGS = Table(
    name="things",
    row="one state of one thing (model, dataset, dataset version, deployment, application ...)",
    columns=(
        *_STATE,
        Column("name", "string", "name, unique among the living of its type and tenant", required=True),
        Column("parent_id", "string", "thing that it is part of: a dataset version's dataset"),
        Column("status", "string", "active or deprecated"),
        Column("description", "string", "in words"),
    ),
    key=_STATE_KEY,
    statistics=_STATISTICS,
    sort_by=("tenant", "id", "from_sequence"),
    row_group=_ROW_GROUP,
    bloom=("name", "parent_id"),
    precedence=Precedence.RETENTION,
)

RELATIONSHIPS = Table(
    name="relationships",
    row="one state of one relationship between two things or versions",
    columns=(
        *_STATE,
        Column("source_type", "string", "kind of the entity that the relationship starts at", required=True),
        Column("source_id", "string", "its id", required=True),
        Column("target_type", "string", "kind of the entity that it leads to", required=True),
        Column("target_id", "string", "its id", required=True),
        Column("flow", "string", "which way influence goes: to_target or to_source"),
    ),
    key=_STATE_KEY,
    statistics=(*_STATISTICS, "source_id", "target_id"),
    sort_by=("tenant", "source_id", "from_sequence"),
    row_group=_ROW_GROUP,
    bloom=("id", "target_id"),
    precedence=Precedence.RETENTION,
)

MODEL_VERSIONS = Table(
    name="model_versions",
    row="one state of one model version, whose content never changes",
    columns=(
        *_STATE,
        Column("model_id", "string", "model that it is a version of", required=True),
        Column("version", "int64", "its number, from 1", required=True),
        Column("stage", "string", "registered, staging, shadow, production or archived", required=True),
        Column(
            "content_digest",
            "string",
            "SHA-256 of the manifest, or of the hosted model's description",
            required=True,
        ),
        Column("framework", "string", "library that it was made with"),
        Column("licence", "string", "licence id"),
        Column("size", "int64", "size of its files", "bytes"),
    ),
    key=_STATE_KEY,
    statistics=(*_STATISTICS, "model_id"),
    sort_by=("tenant", "model_id", "version", "from_sequence"),
    row_group=_ROW_GROUP,
    bloom=("id",),
    precedence=Precedence.RETENTION,
)

APPROVALS = Table(
    name="approvals",
    row="one state of one approval: requested, approved, rejected or withdrawn",
    columns=(
        *_STATE,
        Column("subject_type", "string", "kind of the entity that it is about", required=True),
        Column("subject_id", "string", "its id", required=True),
        Column("status", "string", "requested, approved, rejected or withdrawn", required=True),
    ),
    key=_STATE_KEY,
    statistics=(*_STATISTICS, "subject_id"),
    sort_by=("tenant", "subject_id", "from_sequence"),
    row_group=_ROW_GROUP,
    bloom=("id",),
    precedence=Precedence.RETENTION,
)

IDEMPOTENCY_KEYS = Table(
    name="idempotency_keys",
    row="one command that was given under a key, and where its events are",
    columns=(
        Column("tenant", "string", "organisation that gave it", required=True),
        Column("action", "string", "name of the command", required=True),
        Column("idempotency_key", "string", "the key", required=True),
        Column("first_sequence", "int64", "first event of the command", required=True),
        Column("parts", "int32", "number of its events", required=True),
        Column("position", "int64", "place of the first one in the log", required=True),
    ),
    key=("tenant", "action", "idempotency_key"),
    statistics=("tenant", "idempotency_key", "position"),
    sort_by=("tenant", "idempotency_key"),
    precedence=Precedence.RETENTION,
)

TABLES = (GOVERNANCE_EVENTS, THINGS, RELATIONSHIPS, MODEL_VERSIONS, APPROVALS, IDEMPOTENCY_KEYS)
