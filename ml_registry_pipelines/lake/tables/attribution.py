"""Tables of attribution: what the rules mean over time, and what no rule covers.

The rules themselves are events of the log. Which deployment and version an attempt belongs to
is computed from `attribution_rules` when it is read (`lake/attributing.py`) and stored in rollups.
"""

from ml_registry_pipelines.lake.declarations import MONEY, Column, Precedence, Table

CONDITIONS: tuple[str, ...] = ("provider", "model", "endpoint", "application", "environment")
"""Columns of inference_events that a rule may put a condition on, beside its own tenant."""

STATES: tuple[str, ...] = ("version", "ambiguous", "not_serving")
"""What a rule that covers an attempt says of it. `version`: which version answered. `ambiguous`: the
endpoint's traffic was split and no rule tells the parts apart. `not_serving`: the deployment had ended,
or had not begun. NULL in a table: no rule covers it."""

ATTRIBUTED: tuple[str, ...] = ("deployment_id", "model_id", "model_version", "attribution")
"""The columns that attribution adds to attempts and rollups."""

ATTRIBUTED_COLUMNS = (
    Column(
        "deployment_id", "string", "deployment that a rule assigns the requests to; NULL: no rule covers them"
    ),
    Column("model_id", "string", "model that it served; NULL where that is not known"),
    Column("model_version", "int64", "number of the version that it served; NULL where that is not known"),
    Column("attribution", "string", "version, ambiguous or not_serving; NULL: no rule covers the requests"),
)
ATTRIBUTION_VERSION = Column(
    "attribution_version",
    "int64",
    "digest of the rules that hold on that day; NULL: none did when the row was computed",
)

ATTRIBUTION_RULES = Table(
    name="attribution_rules",
    row="one rule during one stretch of time in which what it points at does not change",
    columns=(
        Column("tenant", "string", "organisation whose requests the rule covers", required=True),
        Column("rule_id", "string", "random id of the rule", required=True),
        Column("rule", "string", "name of the rule", required=True),
        Column("valid_from", "timestamp", "first instant of the stretch; NULL: since ever", "UTC"),
        Column("valid_to", "timestamp", "first instant after it; NULL: still", "UTC"),
        *(
            Column(name, "string", f"{name} in the log, or a pattern with *; NULL: any, and none")
            for name in CONDITIONS
        ),
        Column("priority", "int32", "the highest wins, before precision is asked", required=True),
        Column("deployment_id", "string", "deployment that the requests are assigned to", required=True),
        Column("model_id", "string", "model that it served; NULL where that is not known"),
        Column("version_id", "string", "id of the version that it served; NULL where that is not known"),
        Column("model_version", "int64", "number of that version; NULL where that is not known"),
        Column("attribution", "string", "version, ambiguous or not_serving", required=True),
    ),
    key=("tenant", "rule_id", "valid_from"),
    statistics=("tenant",),
    sort_by=("tenant", "rule_id", "valid_from"),
    precedence=Precedence.RETENTION,
)

ATTRIBUTION_GAPS = Table(
    name="attribution_gaps",
    row="one day of one combination of strings in the logs that leads to no version, with its volume; "
    "or, where the reason is version, all that does on one day of one tenant",
    columns=(
        Column("tenant", "string", "organisation", required=True),
        Column("day", "date", "UTC day of the requests", required=True),
        *(Column(name, "string", f"{name} as in inference_events") for name in CONDITIONS),
        Column("reason", "string", "no_rule, ambiguous or not_serving; version: no gap", required=True),
        Column(
            "deployment_id", "string", "deployment that a rule assigns them to; NULL: no rule covers them"
        ),
        Column("currency", "string", "ISO 4217 code of the cost; NULL where nothing is priced"),
        Column("requests", "int64", "attempts of model calls", "requests", required=True),
        Column(
            "billable_requests",
            "int64",
            "attempts that should have a price; NULL where it is no gap",
            "requests",
        ),
        Column("tokens", "int64", "their tokens, all buckets together", "tokens", required=True),
        Column(
            "cost", MONEY, "sum over the priced attempts; NULL where none is, or it is no gap", "currency"
        ),
        Column("first_seen", "timestamp", "start of the first one", "UTC", required=True),
        Column("last_seen", "timestamp", "start of the last one", "UTC", required=True),
        Column("sequence", "int64", "batch up to which the row was computed", required=True),
        Column(
            "costs_version",
            "int64",
            "versions of model_costs and cost_corrections, added up, that the row was computed from",
        ),
        ATTRIBUTION_VERSION,
    ),
    key=("tenant", "day", *CONDITIONS, "reason", "deployment_id", "currency"),
    statistics=("tenant", "day", "sequence", "attribution_version"),
    partition_by=("day",),
    sort_by=("tenant", "first_seen"),
    precedence=Precedence.RETENTION,
)

TABLES = (ATTRIBUTION_RULES, ATTRIBUTION_GAPS)
