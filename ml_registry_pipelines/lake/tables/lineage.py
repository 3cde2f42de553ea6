"""Tables of the lineage room: which files make up the adjacency index."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

LINEAGE_INDEX = Table(
    name="lineage_index",
    row="one layer of one generation of the lineage index: adjacency of entities in both directions",
    columns=(
        Column("generation", "int64", "generation, which its layers make up together", required=True),
        Column("layer", "int32", "place of the layer, from the oldest, 0", required=True),
        Column("file", "string", "name of its file below lineage_index/", required=True),
        Column("digest", "string", "SHA-256 of the file", required=True),
        Column("size", "int64", "size of the file", "bytes", required=True),
        Column("after", "int64", "position of the log after which it begins", required=True),
        Column("until", "int64", "position of the last event that it holds", required=True),
        Column("nodes", "int64", "entities that no older layer has", "entities", required=True),
        Column("edges", "int64", "intervals of edges", "edges", required=True),
        Column("seconds", "float64", "how long it took to build", "s", required=True),
        Column("built_at", "timestamp", "when the layer was built", "UTC", required=True),
    ),
    key=("generation", "layer"),
    statistics=("generation", "built_at"),
    sort_by=("generation", "layer"),
    retention_days=30,
    precedence=Precedence.RETENTION,
    tenant_column=None,
)

TABLES = (LINEAGE_INDEX,)
