"""Pricing 100 million past requests anew, day by day: replaced while open, corrected when closed; time and memory.

Events go straight into the Delta table; each measurement runs in a process of its own. First all days
are priced, then another contract makes every request dearer and all days are replaced, then again so
that nothing changes, and then the months are closed and one model in forty costs something else.

    python -m benchmarks.reprice                       # 100 million events in 30 days, 14 GB of disk
    python -m benchmarks.reprice --rows 2000000 --days 3 --home /mnt/big
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.rollup import FIRST_DAY, fill, land, measured, report

BYTES_PER_ROW = 140
LATE_ROWS = 1_000
CONTRACT = """
contract: {name}
currency: USD
prices:
"""
PRICE = """
  - provider: provider-{provider}
    model: '{model}'
    per_million_tokens: {{input: '{price}', output: '8'}}
"""


def agree(home: str, name: str, price: str, models: tuple[str, ...] = ("*",)) -> None:
    """Put a contract in force for the made models of every provider; of two the last by name wins."""
    from ml_registry_pipelines.costs.contracts import read_contract
    from ml_registry_pipelines.costs.prices import catalog_rows
    from ml_registry_pipelines.lake.lake import Lake

    entries = (PRICE.format(provider=p, model=m, price=price) for p in range(8) for m in models)
    contract = read_contract(CONTRACT.format(name=name) + "".join(entries), file="contract")
    with Lake(home, process="benchmark") as lake:
        generation = lake.sequence("price_catalog", "catalog") + 1
        rows = catalog_rows(
            contract.prices, version="1", generation=generation, recorded_at=datetime.now(UTC)
        )
        lake.append_once("price_catalog", rows, source="catalog", sequence=generation)


def price(home: str) -> tuple[int, int]:
    """Price what lags; batches."""
    from ml_registry_pipelines.costs.ledger import catch_up_costs
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(home, process="benchmark") as lake:
        return len(catch_up_costs(lake)), 0


def roll_up(home: str) -> tuple[int, int]:
    """Roll up what lags; days and rows."""
    from ml_registry_pipelines.costs.rollups import roll_up_costs
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(home, process="benchmark") as lake:
        done = roll_up_costs(lake)
    return len(done.days), done.rows


def anew(home: str) -> tuple[int, int]:
    """Price all days anew; rows changed, and rows corrected."""
    from ml_registry_pipelines.costs.ledger import days_priced
    from ml_registry_pipelines.costs.repricing import repricing
    from ml_registry_pipelines.lake.lake import Lake

    changed = corrected = 0
    with Lake(home, process="benchmark") as lake:
        for done in repricing(lake, days_priced(lake)):
            changed, corrected = changed + done.changed, corrected + done.corrected
    return changed, corrected


def close(home: str) -> None:
    """Close all months of the three made tenants."""
    from ml_registry_pipelines.costs.closing import Closings
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

    with Lake(home, process="benchmark") as lake, Log(lake) as log:
        for number in range(3):
            Closings(log, actor=Actor("benchmark"), tenant=f"tenant-{number}").close_after(0)


def compare(home: str, rows: int, days: int) -> None:
    """Measure and print everything."""
    print(describe_machine())
    agree(home, "a", "2")
    report("priced for the first time", [measured(price, home)], rows)
    report("rolled up", [measured(roll_up, home)], rows)
    agree(home, "b", "3")
    open_days = measured(anew, home)
    assert open_days.answer[1] == 0 < open_days.answer[0], open_days
    report("all days anew, open: replaced", [open_days], rows)
    same = measured(anew, home)
    assert same.answer == (0, 0), same
    report("again: nothing changes", [same], rows)
    close(home)
    agree(home, "c", "4", models=("model-3-2",))
    closed = measured(anew, home)
    assert closed.answer[0] == closed.answer[1] > 0, closed
    report(f"all days, closed: {closed.answer[1]:,} corrected", [closed], rows)
    from ml_registry_pipelines.lake.lake import Lake

    with Lake(home, process="benchmark") as lake:
        land(lake, FIRST_DAY + timedelta(days=days), rows, LATE_ROWS)
    report(f"a further day of {LATE_ROWS:,} rows: priced", [measured(price, home)], LATE_ROWS)
    report("and rolled up", [measured(roll_up, home)], LATE_ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--home", type=Path, help="folder below which the data is put for the run")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mlreg-bench-", dir=options.home))
    try:
        free, needed = shutil.disk_usage(root).free, options.rows * BYTES_PER_ROW * 1.2
        if free < needed:
            sys.exit(f"{root} has {free / 1e9:.0f} GB free; {options.rows:,} rows need {needed / 1e9:.0f} GB")
        print(f"making {options.rows:,} events of {options.days} days ...", file=sys.stderr)
        fill(str(root), options.rows, options.days)
        compare(str(root), options.rows, options.days)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
