"""The lineage index as an asset. How it is built, is in the lineage room."""

import dagster as dg

from assets.tables import DAILY, table_spec
from resources import LakeResource

ROOM = "lineage"


class IndexBuild(dg.Config):
    """`whole` makes the index anew, instead of adding what is newer."""

    whole: bool = False


_SPEC = table_spec(
    "lineage_index",
    room=ROOM,
    kinds={"numpy"},
    freshness=DAILY,
    remarks="Answers include what is newer than it; it makes them quick.",
)


@dg.asset(
    key=_SPEC.key,
    group_name=_SPEC.group_name,
    owners=_SPEC.owners,
    kinds=_SPEC.kinds,
    description=_SPEC.description,
    freshness_policy=_SPEC.freshness_policy,
    metadata=_SPEC.metadata,
    pool="lineage_index_builder",
)
def lineage_index(config: IndexBuild, lake: LakeResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.lineage.index import LineageIndex

    done = LineageIndex(lake.open()).build(whole=config.whole)
    generation = done.generation
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(generation.layers),
            "table_version": lake.open().version("lineage_index"),
            "generation": generation.number,
            "edges": generation.edges,
            "entities": generation.nodes,
            "bytes": generation.size,
            "position": generation.until,
            "seconds": round(done.seconds, 3),
            "was_newer": done.fresh,
        }
    )
