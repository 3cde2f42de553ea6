"""Tables of data protection: what enforcing retention came to."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

RETENTION_RUNS = Table(
    name="retention_runs",
    row="what one run of retention did about one rule of one table",
    columns=(
        Column("run_id", "string", "random id of the run", required=True),
        Column("tenant", "string", "whose rows; NULL: those of all"),
        Column("recorded_at", "timestamp", "when it was done", "UTC", required=True),
        Column("table_name", "string", "table that rows were to go from", required=True),
        Column("rule", "string", "`table`, or `purpose` and those that it serves", required=True),
        Column("days", "int64", "how long rows are kept", "days", required=True),
        Column("cutoff", "timestamp", "rows taken before it are too old", "UTC", required=True),
        Column("outcome", "string", "erased, nothing, would_erase, held or failed", required=True),
        Column("rows", "int64", "rows that went, or would have", "rows", required=True),
        Column("reason", "string", "the legal hold, or why it failed", required=True),
        Column("actor", "string", "pseudonym of who ran it", required=True),
        Column("dagster_run_id", "string", "Dagster run that it came from"),
    ),
    key=("run_id", "table_name", "tenant", "rule"),
    statistics=("tenant", "recorded_at"),
    sort_by=("recorded_at",),
    precedence=Precedence.RETENTION,
)

TABLES = (RETENTION_RUNS,)
