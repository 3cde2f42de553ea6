"""Tables of deliveries: how far every subscriber of events, and every sink of alerts, has been told.

Who subscribes is in the log; which sinks there are is in a file of the operator's.
"""

from ml_registry_pipelines.lake.declarations import Column, Table


def _how_it_went(what: str) -> tuple[Column, ...]:
    """The columns of a mark that say how far a receiver is and how its last delivery went."""
    return (
        Column("sent", "int64", f"{what} that it took, over all time", required=True),
        Column(
            "failures", "int64", "deliveries that failed since the last one that succeeded", required=True
        ),
        Column("failing_since", "timestamp", "first of these failures", "UTC"),
        Column("next_attempt_at", "timestamp", "not before then is it tried again", "UTC"),
        Column("last_failure", "string", "what went wrong, in words"),
        Column("revision", "int64", "counts the writes of this row", required=True),
        Column("recorded_at", "timestamp", "when it was written", "UTC", required=True),
    )


WEBHOOK_MARKS = Table(
    name="webhook_marks",
    row="one subscriber: the event up to which it has been told, and how its last delivery went",
    columns=(
        Column("tenant", "string", "organisation whose events it gets", required=True),
        Column("webhook_id", "string", "random id of the subscription", required=True),
        Column("epoch", "int64", "how often it had been replayed when this was written", required=True),
        Column("delivered", "int64", "event up to which nothing is left to deliver", required=True),
        *_how_it_went("events"),
    ),
    key=("tenant", "webhook_id"),
    statistics=("tenant", "webhook_id", "recorded_at"),
    sort_by=("tenant", "webhook_id"),
)

ALERT_MARKS = Table(
    name="alert_marks",
    row="one sink of alerts: the alert up to which it has been told, and how its last delivery went",
    columns=(
        Column("sink", "string", "name of the sink", required=True),
        Column("epoch", "int64", "always 0", required=True),
        Column(
            "delivered",
            "int64",
            "recorded_at of the row of alerts up to which nothing is left to deliver",
            "us since 1970",
            required=True,
        ),
        *_how_it_went("alerts"),
    ),
    key=("sink",),
    statistics=("sink", "recorded_at"),
    sort_by=("sink",),
    tenant_column=None,
)

TABLES = (WEBHOOK_MARKS, ALERT_MARKS)
