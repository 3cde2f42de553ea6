"""Tables of experiments: who was assigned to which arm, what came of it, and what was decided.

The experiments themselves are events of the log.
"""

from ml_registry_pipelines.lake.declarations import MONEY, Column, Precedence, Table

OUTCOMES_OF_DECISIONS: tuple[str, ...] = ("WINNER", "KEEP_CONTROL", "INCONCLUSIVE", "INVALID")
"""All that a decision can say."""

LOG_KINDS: tuple[str, ...] = ("assignments", "outcomes")
"""Kinds of log that experiments are made of, each with a table of its name."""

_ORIGIN = (
    Column("batch", "int64", "number of the commit that took the row", required=True),
    Column("recorded_at", "timestamp", "when this row was taken", "UTC", required=True),
    Column("source", "string", "configured source that the file came from", required=True),
    Column("file", "string", "path of the file below its source", required=True),
    Column("line", "int64", "line in that file, from 1", required=True),
)

ASSIGNMENTS = Table(
    name="assignments",
    row="one assignment of one unit to one arm of an experiment",
    columns=(
        Column("tenant", "string", "organisation that runs the experiment", required=True),
        Column("day", "date", "UTC day of the assignment", required=True),
        Column("experiment", "string", "name of the experiment", required=True),
        Column("unit_hash", "string", "salted hash of the unit's id", required=True, personal=True),
        Column("arm", "string", "name of the arm", required=True),
        Column("assigned_at", "timestamp", "when the unit was assigned", "UTC", required=True),
        Column("row_key", "int64", "first 64 bits of SHA-256 over all of that", required=True),
        *_ORIGIN,
    ),
    key=("tenant", "experiment", "unit_hash", "arm", "assigned_at"),
    statistics=("tenant", "day", "experiment", "assigned_at", "batch"),
    partition_by=("day",),
    sort_by=("tenant", "experiment", "assigned_at"),
    retention_days=1095,
    plain=("unit_hash", "row_key", "line"),
)

OUTCOMES = Table(
    name="outcomes",
    row="one label of one metric, of a request, a trace or a unit",
    columns=(
        Column("tenant", "string", "organisation that owns it", required=True),
        Column("day", "date", "UTC day on which it was observed", required=True),
        Column("metric", "string", "name of the metric", required=True),
        Column("value", "float64", "the label; true is 1 and false is 0", required=True),
        Column("observed_at", "timestamp", "when it was observed", "UTC", required=True),
        Column("event_id", "string", "request that it is about, as in inference_events"),
        Column("source_system", "string", "system that minted that id; NULL: any"),
        Column("trace_id", "string", "trace that it is about"),
        Column("unit_hash", "string", "salted hash of the unit that it is about", personal=True),
        Column("label_id", "string", "id of the label in the system that made it; NULL: it has none"),
        Column("row_key", "int64", "first 64 bits of SHA-256 over what identifies the label", required=True),
        *_ORIGIN,
    ),
    key=("tenant", "row_key"),
    statistics=("tenant", "day", "metric", "observed_at", "batch"),
    partition_by=("day",),
    sort_by=("tenant", "metric", "observed_at"),
    retention_days=1095,
    plain=("unit_hash", "row_key", "line", "event_id", "trace_id", "label_id"),
)

DECISIONS = Table(
    name="decisions",
    row="one look at one experiment: what was decided, on which data, by which rules",
    columns=(
        Column("decision_id", "string", "random id", required=True),
        Column("tenant", "string", "organisation that runs the experiment", required=True),
        Column("experiment_id", "string", "id of the experiment; NULL: a table of evaluations"),
        Column("experiment", "string", "name of the experiment or evaluation", required=True),
        Column("experiment_version", "int64", "version of its declaration", required=True),
        Column("declared_sequence", "int64", "event of the log that the declaration was read at"),
        Column("looked_at", "timestamp", "data up to this instant were looked at", "UTC", required=True),
        Column("recorded_at", "timestamp", "when it was decided", "UTC", required=True),
        Column("actor", "string", "who asked", required=True),
        Column("outcome", "string", "WINNER, KEEP_CONTROL, INCONCLUSIVE or INVALID", required=True),
        Column("winner", "string", "arm that won; NULL unless the outcome is WINNER"),
        Column("reasons", "string", "machine-readable reasons, as a JSON list", required=True),
        Column("message", "string", "the outcome in words", required=True),
        Column(
            "units_needed",
            "int64",
            "units per arm still needed if estimates stay; NULL: none, or more than could be said",
            "units",
        ),
        Column("retrospective", "bool", "whether it started before it was declared", required=True),
        Column("proposes", "string", "version that the winner runs and that is proposed; NULL: none"),
        Column("parameters", "string", "the declaration, as a JSON object", required=True),
        Column("gates", "string", "validity gates with their figures, as a JSON list", required=True),
        Column("intervals", "string", "estimates with intervals, as a JSON list", required=True),
        Column("arms", "string", "units, labels, requests and cost per arm, as a JSON list", required=True),
        Column("control_cost", MONEY, "cost of the control's requests, where priced", "currency"),
        Column("winner_cost", MONEY, "cost of the winner's requests, where priced", "currency"),
        Column("currency", "string", "ISO 4217 code of the amounts", required=True),
        Column("price_coverage", "float64", "least priced share of billable requests among the arms"),
        Column("assignments_version", "int64", "version of assignments that was read"),
        Column("outcomes_version", "int64", "version of outcomes that was read"),
        Column("events_version", "int64", "version of inference_events that was read"),
        Column("costs_version", "int64", "version of model_costs that was read"),
        Column("price_generation", "int64", "generation of price_catalog at the look"),
        Column("price_digest", "string", "digest of the prices that were applied"),
        Column("code_version", "string", "version of the package, and digest of what decides", required=True),
        Column("data_digest", "string", "SHA-256 of a table that was decided on; NULL: tables of the lake"),
    ),
    key=("decision_id",),
    statistics=("tenant", "recorded_at"),
    sort_by=("tenant", "recorded_at"),
    precedence=Precedence.RETENTION,
)

TABLES = (ASSIGNMENTS, OUTCOMES, DECISIONS)
