"""Tables about the platform itself: alerts, query timings and reports."""

from ml_registry_pipelines.lake.declarations import Column, Table

ALERTS = Table(
    name="alerts",
    row="one state of one alert: opened, escalated, acknowledged, reminded or resolved",
    columns=(
        Column("alert_id", "string", "stable id of this occurrence", required=True),
        Column("alert_key", "string", "what is alerted about; one occurrence is open per key", required=True),
        Column(
            "kind",
            "string",
            "run_failed, check_failed, stale, sensor_stopped, lag, file_changed ...",
            required=True,
        ),
        Column("severity", "string", "info, warning or error", required=True),
        Column(
            "state",
            "string",
            "opened; escalated: it got worse; acknowledged: someone has it; reminded: it still is so; resolved",
            required=True,
        ),
        Column("title", "string", "one sentence: what, where", required=True),
        Column("message", "string", "what was seen, and what to do", required=True),
        Column("run_id", "string", "Dagster run that the alert is about"),
        Column("tenant", "string", "organisation, where it concerns one"),
        Column("recorded_at", "timestamp", "when the state was reached", "UTC", required=True),
        Column("silent", "bool", "whether sinks are not told of this state; NULL: they are"),
        Column("quiet_until", "timestamp", "until then sinks hear of the key only if it gets worse", "UTC"),
        Column("acknowledged_by", "string", "pseudonym of who has taken it on"),
        Column("acknowledgement", "string", "event of the log in which they did: TENANT/SEQUENCE"),
    ),
    key=("alert_id", "state", "recorded_at"),
    statistics=("alert_key", "recorded_at"),
    sort_by=("recorded_at",),
    retention_days=365,
)

QUERY_TIMINGS = Table(
    name="query_timings",
    row="one run of one named query of the platform's own",
    columns=(
        Column("name", "string", "name of the query", required=True),
        Column("recorded_at", "timestamp", "when it ended", "UTC", required=True),
        Column("ms", "float64", "wall-clock time", "ms", required=True),
        Column("rows", "int64", "rows of the answer", "rows", required=True),
        Column("bytes", "int64", "size of the answer in memory", "bytes", required=True),
        Column("process", "string", "what asked: cli, run, sensor ...", required=True),
    ),
    key=("name", "recorded_at"),
    statistics=("name", "recorded_at"),
    sort_by=("recorded_at",),
    retention_days=90,
    tenant_column=None,
)

REPORTS = Table(
    name="reports",
    row="one written report",
    columns=(
        Column("report", "string", "name of the report", required=True),
        Column("partition", "string", "day or period that it is about; NULL: all time"),
        Column("path", "string", "where it lies below the root", required=True),
        Column("digest", "string", "SHA-256 of the file", required=True),
        Column("size", "int64", "size of the file", "bytes", required=True),
        Column("sequence", "int64", "batch that its figures were computed from", required=True),
        Column("recorded_at", "timestamp", "when it was written", "UTC", required=True),
        Column("costs_version", "int64", "version of model_costs that its figures were computed from"),
        Column(
            "attribution_version",
            "int64",
            "digest of the attribution rules of its days; NULL: none held on them",
        ),
    ),
    key=("report", "partition", "digest", "sequence", "costs_version", "attribution_version"),
    statistics=("report", "recorded_at"),
    sort_by=("recorded_at",),
    tenant_column=None,
)

TABLES = (ALERTS, QUERY_TIMINGS, REPORTS)
