"""Inference telemetry: what was taken from log files, and its rollup. How, is in the telemetry room."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from assets.tables import FIRST, FLOWING, RARE, table_spec, written
from ml_registry_pipelines.telemetry.sources import FileRef, Scope
from resources import LakeResource, SourcesResource

ROOM = "telemetry"
LEADING = "inference_events"
FOLLOWERS = ("ingested_files", "quarantined_rows")
EXPERIMENT_LOGS = ("assignments", "outcomes")
"""Taken by the same op from the same sources; each leads its own batches."""


READABLE = dg.AssetCheckSpec(
    "every_file_could_be_read",
    asset=[ROOM, LEADING],
    description="Of each file that was to be taken. One that could not is taken up again; all others are taken, "
    "priced and rolled up meanwhile.",
)


class LogFile(dg.Config):
    """One file as the sensor saw it."""

    source: str
    path: str
    size: int
    modified_at: str
    etag: str | None = None


class LogBatch(dg.Config):
    """Files to take. None: whatever lies in the sources and is not taken yet."""

    files: list[LogFile] = Field(default_factory=list)


def ingestion(landed: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    """The op that takes log files, after the sources that it takes them from."""

    @dg.multi_asset(
        name="inference_events",
        specs=[
            table_spec(
                LEADING,
                room=ROOM,
                kinds={"duckdb"},
                deps=[key.path for key in landed],
                freshness=FLOWING,
                remarks="The leading table: every other one carries the number of its batch.",
            ),
            *(
                table_spec(table, room=ROOM, kinds={"duckdb"}, deps=[[ROOM, LEADING]], freshness=FLOWING)
                for table in FOLLOWERS
            ),
            *(
                table_spec(
                    table,
                    room=ROOM,
                    kinds={"duckdb"},
                    deps=[key.path for key in landed],
                    freshness=RARE,
                    remarks="Experiments are decided on it.",
                )
                for table in EXPERIMENT_LOGS
            ),
        ],
        check_specs=[READABLE],
        pool="inference_events_writer",
    )
    def inference_events(
        context: dg.AssetExecutionContext, config: LogBatch, lake: LakeResource, sources: SourcesResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        from ml_registry_pipelines.telemetry.batch import Taken
        from ml_registry_pipelines.telemetry.ingestion import FilesUnread, Ingestion

        taker = Ingestion(lake.open(), sources.open())
        taken, unread = Taken(), ""
        try:
            for files in _batches(config, lake, sources):
                taken = taken.plus(taker.take(files))
        except FilesUnread as some:
            # A failed run would keep what was taken from being priced, as often as it were repeated.
            taken, unread = taken.plus(some.taken), str(some)
        taker.recover()
        context.log.info("%d rows in, %d taken, from %d files", taken.rows_in, taken.taken, taken.files)
        for table in (LEADING, *FOLLOWERS, *EXPERIMENT_LOGS):
            figures = taken.metadata() if table == LEADING else {}
            yield dg.MaterializeResult(asset_key=[ROOM, table], metadata=written(lake.open(), table, figures))
        yield dg.AssetCheckResult(
            check_name=READABLE.name,
            asset_key=READABLE.asset_key,
            passed=not unread,
            description=unread or None,
        )

    return inference_events


def _batches(config: LogBatch, lake: LakeResource, sources: SourcesResource) -> Iterator[Sequence[FileRef]]:
    """The files of the request; without one, what lies in the sources, a limit's worth at a time."""
    if config.files:
        yield [FileRef.from_config(file.model_dump()) for file in config.files]
        return
    while (look := sources.look(lake.open(), scope=Scope.ALL)).files:
        yield look.files


@dg.multi_asset(
    name="attribution_rules",
    specs=[
        table_spec(
            "attribution_rules",
            room=ROOM,
            kinds={"duckdb"},
            freshness=FLOWING,
            remarks="Made from the rules and deployments in the registry's log; rollups are computed with it.",
        )
    ],
    pool="attribution_rules_writer",
    op_tags=FIRST,
)
def attribution_rules(lake: LakeResource) -> dg.MaterializeResult[None]:
    """Bring the rules up to the log."""
    from ml_registry_pipelines.telemetry.compiling import compile_rules

    done = compile_rules(lake.open())
    return dg.MaterializeResult(metadata=written(lake.open(), "attribution_rules", {"changed": done.changed}))


@dg.multi_asset(
    name="performance_rollup",
    specs=[
        table_spec(
            "performance_rollup",
            room=ROOM,
            kinds={"duckdb"},
            deps=[[ROOM, "inference_events"], [ROOM, "attribution_rules"]],
            freshness=FLOWING,
        )
    ],
    pool="performance_rollup_writer",
    op_tags=FIRST,
)
def performance_rollup(lake: LakeResource) -> dg.MaterializeResult[None]:
    """Compute again the days that got new rows, or other attribution rules."""
    from ml_registry_pipelines.telemetry.rollups import refresh_performance

    done = refresh_performance(lake.open())
    return dg.MaterializeResult(
        metadata=written(lake.open(), "performance_rollup", rolled_up(done.days, done.rows))
    )


@dg.multi_asset(
    name="performance_months",
    specs=[
        table_spec(
            "performance_months",
            room=ROOM,
            kinds={"duckdb"},
            deps=[[ROOM, "performance_rollup"]],
            freshness=FLOWING,
            remarks="Made of the rollup alone, for questions over many months. The month under way is not in it.",
        )
    ],
    pool="performance_months_writer",
)
def performance_months(lake: LakeResource) -> dg.MaterializeResult[None]:
    """Merge ended months again of which a day changed."""
    from ml_registry_pipelines.telemetry.month_rollups import refresh_months

    done = refresh_months(lake.open())
    figures = {
        "months": ", ".join(f"{month:%Y-%m}" for month in done.days) or "none",
        "rows_written": done.rows,
    }
    lake.open().version("performance_months")
    return dg.MaterializeResult(metadata=written(lake.open(), "performance_months", figures))


def rolled_up(days: Sequence[object], rows: int) -> dict[str, Any]:
    """What a rollup did, for its materialization."""
    return {
        "days_rolled_up": len(days),
        "days": ", ".join(map(str, days[-31:])) or "none",
        "rows_written": rows,
    }
