"""Tables of evaluations: what a version predicted, what was true, and of which groups."""

from ml_registry_pipelines.lake.declarations import Column, Table

EVALUATION_ORIGINS: tuple[str, ...] = ("evaluation", "production")
"""`evaluation`: made to judge a version; `production`: served, with labels that came later."""

EVALUATION_DATA = Table(
    name="evaluation_data",
    row="one prediction of one model version, with its label, score and groups",
    columns=(
        Column("tenant", "string", "organisation that owns the model", required=True),
        Column("version_id", "string", "version that predicted", required=True),
        Column(
            "evaluation_id", "string", "random id of the commit of rows that it belongs to", required=True
        ),
        Column("origin", "string", "evaluation or production", required=True),
        Column("declared", "string", "SHA-256 of how its columns are read", required=True),
        Column("row", "int64", "number of the row within that, from 0", required=True),
        Column("recorded_at", "timestamp", "when it was recorded", "UTC", required=True),
        Column("observed_at", "timestamp", "when it was predicted; NULL: not known", "UTC"),
        Column("label", "float64", "what was true; of a class: 1 positive, 0 negative; NULL: not known"),
        Column("prediction", "float64", "what was predicted, likewise"),
        Column("score", "float64", "score that the prediction was made from"),
        Column("groups", "string", "group attributes, as a JSON object", required=True, personal=True),
        Column(
            "further",
            "string",
            "further values by role, as a JSON object",
            required=True,
            personal=True,
        ),
        Column("subject_hash", "string", "salted hash of the person or case that it is about", personal=True),
        Column("run_id", "string", "Dagster run that recorded it"),
    ),
    key=("evaluation_id", "row"),
    statistics=("tenant", "version_id", "evaluation_id", "recorded_at", "observed_at"),
    sort_by=("tenant", "version_id", "recorded_at", "row"),
    retention_days=1095,
    plain=("row", "subject_hash"),
)

TABLES = (EVALUATION_DATA,)
