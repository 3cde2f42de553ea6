"""The cost rollup as a time zone sees it: hours of one period of one tenant or all, under local days.

The rollup is kept by UTC hour. A period of a zone that is whole hours from UTC is made of
those; where its bounds divide an hour (India is 5:30 ahead), that hour's part is computed anew
from the raw rows, so that no request counts in two periods, or in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.rollups import complete_sequence, rollup_rows
from ml_registry_pipelines.costs.standing import CORRECTIONS
from ml_registry_pipelines.lake.attributing import RULES
from ml_registry_pipelines.reports.calendar import utc_days

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.lake.reading import Reading

HOUR = timedelta(hours=1)
RAW = ("inference_events", "model_costs", CORRECTIONS, RULES)


def take_window(lake: Lake, reading: Reading, period: Period, tenant: str | None) -> None:
    """Put the hours of the period in place of `cost_rollup`, for the queries of this reading.

    Every hour stands there twice, in the grains `hour` and `day`, under its day in the period's
    zone; `period_start` is the local time of day, written as if it were UTC.
    """
    import pyarrow as pa

    pieces = [_whole_hours(reading, period, tenant)]
    pieces += [
        _part_of_an_hour(lake, start, end, tenant, up_to=_computed_up_to(reading, start))
        for start, end in divided_hours(period.start, period.end)
    ]
    reading.register("hours_of_period", pa.concat_tables(pieces))
    rows = reading.query(
        "reports.local_hours",
        """
        WITH local AS (
            SELECT * REPLACE (
                (period_start AT TIME ZONE $zone) AT TIME ZONE 'UTC' AS period_start,
                CAST(period_start AT TIME ZONE $zone AS DATE) AS day)
            FROM hours_of_period
        )
        SELECT * REPLACE ('hour' AS grain) FROM local
        UNION ALL
        SELECT * REPLACE ('day' AS grain, CAST(day AS TIMESTAMP) AT TIME ZONE 'UTC' AS period_start) FROM local
        """,
        {"zone": period.zone.key},
    )
    reading.register("cost_rollup", rows)


def divided_hours(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The parts of hours at both ends that are within, where an end is no whole hour of UTC."""
    if start != _hour(start):
        yield start, min(_hour(start) + HOUR, end)
    if end != _hour(end) and (start == _hour(start) or _hour(end) >= _hour(start) + HOUR):
        yield max(_hour(end), start), end


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _whole_hours(reading: Reading, period: Period, tenant: str | None) -> pa.Table:
    first, last = utc_days(period)
    return reading.query(
        "reports.whole_hours",
        """
        SELECT * FROM cost_rollup
        WHERE grain = 'hour' AND day BETWEEN $first AND $last
          AND period_start >= $start AND period_start + INTERVAL 1 HOUR <= $end
          AND ($tenant IS NULL OR tenant = $tenant)
        """,
        {"first": first, "last": last, "start": period.start, "end": period.end, "tenant": tenant},
    )


def _computed_up_to(reading: Reading, instant: datetime) -> int:
    """The batch up to which the rollup of an instant's day was computed; 0: it was not yet."""
    (row,) = reading.query(
        "reports.day_sequence",
        "SELECT coalesce(max(sequence), 0) AS sequence FROM cost_rollup WHERE day = $day",
        {"day": instant.date()},
    ).to_pylist()
    return int(row["sequence"])


def _part_of_an_hour(
    lake: Lake, start: datetime, end: datetime, tenant: str | None, *, up_to: int
) -> pa.Table:
    """What the rollup's hour would be if only the requests from `start` to `end` were in it."""
    with lake.read(*RAW) as reading:
        asked = {"day": start.date(), "start": start, "end": end, "tenant": tenant}
        for table in ("inference_events", "model_costs", CORRECTIONS):
            rows = reading.query(
                f"reports.part_of_{table}",
                f"""
                SELECT * FROM {table}
                WHERE day = $day AND event_ts >= $start AND event_ts < $end
                  AND ($tenant IS NULL OR tenant = $tenant)
                """,
                asked,
            )
            reading.register(table, rows)
        rows = rollup_rows(reading, [start.date()], min(up_to, complete_sequence(reading)))
        reading.register("part_of_hour", rows)
        return reading.query("reports.part_of_hour", "SELECT * FROM part_of_hour WHERE grain = 'hour'")
