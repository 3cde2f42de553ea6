"""The store of artifacts as an asset: how much is in it, and what its purge removed."""

from datetime import timedelta

import dagster as dg

from assets.tables import OWNERS, WEEKLY
from resources import ArtifactsResource

ROOM = "operations"


class Purge(dg.Config):
    """`dry_run` removes nothing; `grace_days`, at least 1, is how long a file without a version stays."""

    dry_run: bool = False
    grace_days: float = 7.0


@dg.asset(
    key=[ROOM, "artifact_store"],
    group_name=ROOM,
    owners=OWNERS,
    kinds={"storage"},
    freshness_policy=WEEKLY,
    pool="artifact_store",
    description=(
        "Every file that model versions are made of, once, by its SHA-256. A run removes what no version of "
        "any tenant has ever needed and nothing has claimed within the grace period: what failed commands "
        "and broken-off uploads left. With `dry_run` it says what it would remove."
    ),
)
def artifact_store(config: Purge, artifacts: ArtifactsResource) -> dg.MaterializeResult[None]:
    done = artifacts.purge(dry_run=config.dry_run, grace=timedelta(days=config.grace_days))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.kept_files,
            "bytes": done.kept_bytes,
            "dry_run": done.dry_run,
            "files_removed": done.files,
            "bytes_removed": done.bytes,
            "leftovers_removed": done.leftovers,
            "removed": dg.MetadataValue.md("\n".join(f"- `{path}`" for path in done.shown) or "nothing"),
        }
    )
