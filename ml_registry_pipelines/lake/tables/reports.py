"""Tables of reports: each edition of each report, and what became of each delivery. Who gets what is in the log."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

REPORT_EDITIONS = Table(
    name="report_editions",
    row="one edition of one report of one period: other figures, or the same ones computed from newer tables",
    columns=(
        Column("edition_id", "string", "digest over report, scope, period and figures", required=True),
        Column("report", "string", "name of the report", required=True),
        Column("tenant", "string", "organisation that it is about; NULL: all of them"),
        Column("period", "string", "2026-11-23, 2026-W48 or 2026-11", required=True),
        Column("period_start", "timestamp", "first instant of the period", "UTC", required=True),
        Column("period_end", "timestamp", "first instant after it", "UTC", required=True),
        Column("time_zone", "string", "zone that the period is of", required=True),
        Column("title", "string", "title of the page", required=True),
        Column("path", "string", "where the files lie below the root, without ending", required=True),
        Column("keys", "int64", "columns of the CSV that name a row", required=True),
        Column("final", "bool", "whether all that was logged by then is in it", required=True),
        Column("mark", "string", "what differs when a figure could", required=True),
        Column("made_of", "string", "versions of the tables, as a JSON object", required=True),
        Column(
            "coverage", "string", "what share of the requests the figures rest on, as JSON", required=True
        ),
        Column("assumptions", "string", "what the figures assume, as a JSON object", required=True),
        Column("recorded_at", "timestamp", "when it was made", "UTC", required=True),
    ),
    key=("edition_id", "mark"),
    statistics=("report", "period", "recorded_at"),
    sort_by=("recorded_at",),
    retention_days=3650,
    precedence=Precedence.RETENTION,
)

DELIVERY_STATES: tuple[str, ...] = ("claimed", "delivered", "failed", "given_up")
"""`claimed`: a courier sends it now, until `lease_until`; after that it may have been sent, and is sent again."""

REPORT_DELIVERIES = Table(
    name="report_deliveries",
    row="one step of one delivery: it was claimed, delivered, failed or given up",
    columns=(
        Column("delivery_id", "string", "digest over subscription, period and number", required=True),
        Column("step", "int64", "counts the rows of this delivery, from 1", required=True),
        Column("state", "string", "claimed, delivered, failed or given_up", required=True),
        Column("subscription_id", "string", "subscription, as the log knows it", required=True),
        Column("epoch", "int64", "how often it had been replayed", required=True),
        Column("tenant", "string", "organisation whose subscription it is", required=True),
        Column("report", "string", "name of the report", required=True),
        Column("scope", "string", "tenant that the report is about; NULL: all of them"),
        Column("period", "string", "2026-11-23, 2026-W48 or 2026-11", required=True),
        Column("period_start", "timestamp", "first instant of the period", "UTC", required=True),
        Column("time_zone", "string", "zone that the period is of", required=True),
        Column("number", "int64", "0: the report; from 1: a correction of it", required=True),
        Column("recipient", "string", "name of the recipient", required=True),
        Column("channel", "string", "email, webhook or folder", required=True),
        Column("edition_id", "string", "edition that was sent", required=True),
        Column("mark", "string", "what that edition was made of", required=True),
        Column("message_id", "string", "the same at each try of one message", required=True),
        Column("attempt", "int64", "tries so far", required=True),
        Column("courier", "string", "random id of the process that sends", required=True),
        Column("lease_until", "timestamp", "until then nobody else sends it", "UTC"),
        Column("next_attempt_at", "timestamp", "not before then is it tried again", "UTC"),
        Column("message", "string", "what went wrong, in words"),
        Column("recorded_at", "timestamp", "when the step was recorded", "UTC", required=True),
    ),
    key=("delivery_id", "step"),
    statistics=("tenant", "subscription_id", "recorded_at"),
    sort_by=("recorded_at",),
    retention_days=3650,
    precedence=Precedence.RETENTION,
)

TABLES = (REPORT_EDITIONS, REPORT_DELIVERIES)
