"""Records per second that each dialect decodes, from the bytes of a file to rows ready to be committed.

Nothing is written. Time is that of the processor, of all threads together, so that other work on
the machine does not count; a dialect has to make 40,000 records per second of one core.

    python -m benchmarks.dialects                        # 200,000 records of each
    python -m benchmarks.dialects --rows 50000 --dialect portkey --dialect langfuse
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from benchmarks.machine import describe_machine, peak_mb
from benchmarks.made_logs import MAKERS

START = datetime(2026, 9, 1, tzinfo=UTC)
LEAST = 40_000


def log_of(dialect: str, rows: int) -> bytes:
    """A file of JSON lines with records of one dialect."""
    chance = random.Random(1)
    make = MAKERS[dialect]
    records = (make(n, START + timedelta(seconds=n / 10), chance) for n in range(rows))
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def decode(dialect: str, content: bytes) -> tuple[int, float, float]:
    """Rows, seconds and processor seconds of decoding one file, its dialect detected.

    Raises:
        SystemExit: a record was not taken, or the dialect not recognised.
    """
    from ml_registry_pipelines.telemetry.decoding import LogFile, Origin, Workspace

    end = START + timedelta(days=365)
    origin = Origin(
        source="benchmark", file="a.jsonl", modified_at=end, recorded_at=end, base_time=START, salt="salt"
    )
    with Workspace(about=content.count(b"\n")) as workspace:
        began, worked = time.perf_counter(), time.process_time()
        log = LogFile(io.BytesIO(content), origin, workspace=workspace)
        rows = rejected = 0
        for decoded in log:
            rows += decoded.rows.num_rows
            rejected += decoded.rejected.num_rows
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
    if rejected or log.dialect is None or log.dialect.name != dialect:
        sys.exit(f"{dialect}: recognised as {log.dialect and log.dialect.name}, {rejected} records rejected")
    return rows, seconds, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="records of each dialect")
    parser.add_argument("--dialect", action="append", choices=sorted(MAKERS), help="only this one")
    options = parser.parse_args()
    print(describe_machine())
    print(f"{'dialect':22} {'bytes/record':>12} {'records/s':>12} {'of one core':>12}")
    slow = []
    for dialect in options.dialect or MAKERS:
        content = log_of(dialect, options.rows)
        rows, seconds, processor = decode(dialect, content)
        print(
            f"{dialect:22} {len(content) / rows:>12,.0f} {rows / seconds:>12,.0f} {rows / processor:>12,.0f}"
        )
        if rows / processor < LEAST:
            slow.append(dialect)
    print(f"{peak_mb():,.0f} MB peak memory")
    if slow:
        sys.exit(f"slower than {LEAST:,} records/s of one core: {', '.join(slow)}")


if __name__ == "__main__":
    main()
