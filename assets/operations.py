"""The platform's own upkeep, as an asset: what the tables look like and what was done to them."""

import dagster as dg

from assets.tables import HOURLY, OWNERS
from resources import LakeResource

ROOM = "operations"


class Upkeep(dg.Config):
    """`full` also removes files that no commit names: what lost races and kills left."""

    full: bool = False


@dg.asset(
    key=[ROOM, "table_upkeep"],
    group_name=ROOM,
    owners=OWNERS,
    kinds={"deltalake"},
    freshness_policy=HOURLY,
    pool="table_upkeep",
    description=(
        "One row is one table of the lake: its rows, files, bytes, version and upkeep. Writers compact and "
        "checkpoint by count of commits; this run does it by the clock, and weekly removes orphan files."
    ),
)
def table_upkeep(config: Upkeep, lake: LakeResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.operations.upkeep import maintain_tables

    done = maintain_tables(lake.open(), full=config.full)
    return dg.MaterializeResult(
        metadata={
            "tables": dg.MetadataValue.md(done.markdown()),
            "dagster/row_count": len(done.tables),
            "files_removed": done.files_removed,
            "warnings": len(done.warnings),
        }
    )
