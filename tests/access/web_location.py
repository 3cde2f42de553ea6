"""A code location for the web server's tests: the approval jobs, another job, and assets."""

import dagster as dg
from pydantic import Field

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


class Told(dg.Config):
    text: str = ""
    several: list[str] = Field(default_factory=list)
    pairs: dict[str, str] = Field(default_factory=dict)
    number: int | None = None


@dg.op
def tells(context: dg.OpExecutionContext, config: Told) -> None:
    context.add_output_metadata(config.model_dump())


@dg.job
def told() -> None:
    tells()


@dg.asset(owners=["team:reviewers"])
def owned() -> None: ...


@dg.asset(partitions_def=DAYS)
def daily() -> None: ...


defs = dg.Definitions(
    assets=[owned, daily],
    jobs=[review_approval, helps_itself, other, told, dg.define_asset_job("by_day", ["daily"])],
)
