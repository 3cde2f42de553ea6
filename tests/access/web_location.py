"""A code location for the web server's tests: the approval jobs, another job, and assets."""

import dagster as dg

DAYS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.op
def nothing() -> None: ...


@dg.job(owners=["team:reviewers"])
def review_approval() -> None:
    nothing()


@dg.job(owners=["team:reviewers"])
def helps_itself() -> None:
    nothing()


@dg.job
def other() -> None:
    nothing()


@dg.asset(owners=["team:reviewers"])
def owned() -> None: ...


@dg.asset(partitions_def=DAYS)
def daily() -> None: ...


defs = dg.Definitions(
    assets=[owned, daily],
    jobs=[review_approval, helps_itself, other, dg.define_asset_job("by_day", ["daily"])],
)
