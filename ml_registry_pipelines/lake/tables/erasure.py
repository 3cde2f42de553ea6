"""Tables of erasure: who is not to be taken again, what was removed where, and keys of personal fields.

None names anybody: the list holds keyed hashes, and the keys are wrapped by one that is not in the lake.
"""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

SUPPRESSION_LIST = Table(
    name="suppression_list",
    row="one identifier of an erased person, as a keyed hash that ingestion compares with",
    columns=(
        Column("tenant", "string", "organisation that the person was erased from", required=True),
        Column("entry", "string", "HMAC-SHA-256 of the salted hash of the identifier", required=True),
        Column("erasure_id", "string", "erasure that it belongs to", required=True),
        Column("recorded_at", "timestamp", "when it was put on the list", "UTC", required=True),
    ),
    key=("tenant", "entry"),
    statistics=("tenant", "recorded_at"),
    sort_by=("tenant",),
    tenant_column=None,  # the operator's alone
    precedence=Precedence.RETENTION,
)

ERASED_ROWS = Table(
    name="erased_rows",
    row="rows that one erasure removed from one table, of one batch where the table has batches",
    columns=(
        Column("tenant", "string", "organisation that owned them", required=True),
        Column("erasure_id", "string", "erasure or retention run that removed them", required=True),
        Column("table_name", "string", "table that they were in", required=True),
        Column("batch", "int64", "batch that had brought them; NULL: the table has none"),
        Column("rows", "int64", "how many, at most: written down before they go", "rows", required=True),
        Column("recorded_at", "timestamp", "when", "UTC", required=True),
    ),
    key=("erasure_id", "table_name", "batch"),
    statistics=("tenant", "table_name", "recorded_at"),
    sort_by=("tenant", "table_name"),
    precedence=Precedence.RETENTION,
)

SUBJECT_KEYS = Table(
    name="subject_keys",
    row="the wrapped key under which personal fields of one person in the log are encrypted",
    columns=(
        Column("tenant", "string", "organisation that owns the fields", required=True),
        Column("key_id", "string", "random id, which the encrypted fields name", required=True),
        Column("subject", "string", "keyed hash of the person's identifier", required=True),
        Column(
            "wrapped",
            "string",
            "the key, encrypted under the key-encryption key",
            required=True,
            personal=True,
        ),
        Column("recorded_at", "timestamp", "when it was made", "UTC", required=True),
    ),
    key=("tenant", "key_id"),
    statistics=("tenant", "recorded_at"),
    sort_by=("tenant",),
    tenant_column=None,
)

TABLES = (SUPPRESSION_LIST, ERASED_ROWS, SUBJECT_KEYS)
