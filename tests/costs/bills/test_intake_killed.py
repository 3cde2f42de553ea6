"""Intakes of bills that are killed at random moments: every line once, and counts that add up."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ml_registry_pipelines.lake.lake import Lake
from tests.costs.bills.made import DAY, Desk, openai_bucket, openai_cost, page
from tests.killing import KILLS, SECONDS, run_killed

FILES, LINES = 6, 12
WORKER = """
import sys
from ml_registry_pipelines.costs.bills import intake
from ml_registry_pipelines.costs.bills.settings import parse_settings
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.sources import Sources
intake.RECORDS_AT_ONCE = 4  # Many commits, so that a kill finds one under way.
lake = Lake(sys.argv[1])
sources = parse_settings("", file="bills.yaml", home=lake.root).all_sources
print("ready", flush=True)
sys.stdin.readline()
files = Sources(sources, taken="bill_files").look(lake, settled=True).files
intake.BillIntake(lake, sources).take(files)
print("done", flush=True)
"""


def put(desk: Desk) -> tuple[Decimal, int]:
    """Files of bills: what they come to in the end, and how many lines that is.

    Every second file states the day of the one before anew, two of its lines at other prices, and has a broken one.
    """
    billed: dict[tuple[int, int], Decimal] = {}
    for file in range(FILES):
        day, costs = file // 2, []
        for line in range(LINES):
            price = Decimal(line + 1) + (Decimal("0.5") if file % 2 and line < 2 else 0)
            billed[day, line] = price
            costs.append(openai_cost(float(price), item=f"item {line}"))
        broken = [openai_cost("nothing", item="broken")]
        desk.put(f"{file}.json", page(openai_bucket(DAY + timedelta(days=day), *costs, *broken)))
    return sum(billed.values(), Decimal(0)), len(billed)


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.timeout(SECONDS)
def test_a_killed_intake_of_bills_loses_and_doubles_nothing(tmp_path: Path) -> None:
    killed = number = 0
    while killed < KILLS:
        number += 1
        home = tmp_path / f"home{number}"
        with Lake(str(home)) as lake:
            amount, lines = put(Desk(lake))
        killed += run_killed(WORKER, home, most=KILLS - killed)
        with Lake(str(home)) as lake:
            desk = Desk(lake)
            stated = desk.lines()
            assert (sum(each[3] or 0 for each in stated), len(stated)) == (amount, lines)
            (sums,) = desk.rows(
                """
                SELECT count(*) AS files, sum(rows_in)::INT AS rows_in, sum(taken)::INT AS taken,
                       sum(restated)::INT AS restated, sum(duplicates)::INT AS duplicates,
                       sum(quarantined)::INT AS quarantined
                FROM bill_files
                """,
                "bill_files",
            )
            again = FILES // 2
            assert sums == {
                "files": FILES,
                "rows_in": FILES * (LINES + 1),
                "taken": again * (LINES + 2),
                "restated": again * 2,
                "duplicates": again * (LINES - 2),
                "quarantined": FILES,
            }
            held = desk.rows("SELECT file, line FROM quarantined_bill_lines", "quarantined_bill_lines")
            assert Counter(row["file"] for row in held) == {f"{n}.json": 1 for n in range(FILES)}
