"""Table of the webhooks room: how far every subscriber has been told. Who subscribes is in the log."""

from ml_registry_pipelines.lake.declarations import Column, Table

WEBHOOK_MARKS = Table(
    name="webhook_marks",
    row="one subscriber: the event up to which it has been told, and how its last delivery went",
    columns=(
        Column("tenant", "string", "organisation whose events it gets", required=True),
        Column("webhook_id", "string", "random id of the subscription", required=True),
        Column("epoch", "int64", "how often it had been replayed when this was written", required=True),
        Column("delivered", "int64", "event up to which nothing is left to deliver", required=True),
        Column("sent", "int64", "events that it took, over all time", required=True),
        Column(
            "failures", "int64", "deliveries that failed since the last one that succeeded", required=True
        ),
        Column("failing_since", "timestamp", "first of these failures", "UTC"),
        Column("next_attempt_at", "timestamp", "not before then is it tried again", "UTC"),
        Column("last_failure", "string", "what went wrong, in words"),
        Column("revision", "int64", "counts the writes of this row", required=True),
        Column("recorded_at", "timestamp", "when it was written", "UTC", required=True),
    ),
    key=("tenant", "webhook_id"),
    statistics=("tenant", "webhook_id", "recorded_at"),
    sort_by=("tenant", "webhook_id"),
)

TABLES = (WEBHOOK_MARKS,)
