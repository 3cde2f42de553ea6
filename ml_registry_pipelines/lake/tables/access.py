"""Tables about who read what."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

ACCESS_LOG = Table(
    name="access_log",
    row="one read of restricted data, login, download, SQL query or refusal; not chained",
    columns=(
        Column("access_id", "string", "random, ordered by time", required=True),
        Column("tenant", "string", "organisation whose data it was; NULL: all of them, read by the operator"),
        Column("recorded_at", "timestamp", "when it happened", "UTC", required=True),
        Column("actor", "string", "pseudonym of who asked", required=True, personal=True),
        Column("actor_kind", "string", "person, service or system", required=True),
        Column("authenticated_by", "string", "how the door made sure who it was", required=True),
        Column("door", "string", "where it came in: cli, web, run, sensor, python ...", required=True),
        Column("action", "string", "read, sql, download, link, export, login, or the command", required=True),
        Column("subject", "string", "what it was about: names of tables, a version by id", required=True),
        Column(
            "statement",
            "string",
            "the query; every word in it is one of SQL's, the lake's or a question mark",
        ),
        Column("purpose", "string", "what for, as the register of purposes names it; NULL: not said"),
        Column("outcome", "string", "allowed, refused or failed", required=True),
        Column("reason", "string", "why it was refused or failed, without values", required=True),
        Column("rows", "int64", "rows or files that were handed out; NULL: not counted", "rows"),
    ),
    key=("access_id",),
    statistics=("recorded_at", "access_id"),
    sort_by=("recorded_at",),
    retention_days=365,
    precedence=Precedence.RETENTION,
)

TABLES = (ACCESS_LOG,)
