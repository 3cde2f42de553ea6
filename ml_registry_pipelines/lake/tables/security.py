"""Tables of artifact security: which file was scanned, when, by what, and what came of it."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

ARTIFACT_SCANS = Table(
    name="artifact_scans",
    row="one scan of one file of an artifact",
    columns=(
        Column("tenant", "string", "organisation that asked for it", required=True),
        Column("sha256", "string", "digest of the file", required=True),
        Column("name", "string", "name of the file, without its folders", required=True),
        Column("scanner", "string", "version of the scanner, its lists and libraries", required=True),
        Column("scanned_at", "timestamp", "when it was scanned", "UTC", required=True),
        Column("size", "int64", "size of the file", "bytes", required=True),
        Column("verdict", "string", "clean, flagged or refused", required=True),
        Column("formats", "string", "formats of the file and of what is inside it, as JSON", required=True),
        Column("findings", "string", "why it is not clean, as JSON; never a secret", required=True),
        Column("notes", "string", "what else is worth knowing, as JSON", required=True),
    ),
    key=("tenant", "sha256", "name", "scanner", "scanned_at"),
    statistics=("tenant", "scanned_at"),
    sort_by=("tenant", "sha256"),
    precedence=Precedence.RETENTION,
)

TABLES = (ARTIFACT_SCANS,)
