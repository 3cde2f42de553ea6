"""Seconds that importing the code location takes on top of `import dagster`, in fresh processes.

Every run, and every code server, pays it before anything else happens. Both are measured in
turn in the same run, so that what else the machine does weighs on both.

    python -m benchmarks.import_time
    python -m benchmarks.import_time --repeats 20
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.machine import describe_machine

MEASURE = """
import json, sys, time
start, cpu = time.perf_counter(), time.process_time()
import dagster
dagster_done, dagster_cpu = time.perf_counter(), time.process_time()
import ml_registry_pipelines.definitions as location
imported, imported_cpu = time.perf_counter(), time.process_time()
location.defs().get_repository_def()
loaded = time.perf_counter()
print(json.dumps({
    "dagster": dagster_done - start, "dagster_cpu": dagster_cpu - cpu,
    "location": imported - dagster_done, "location_cpu": imported_cpu - dagster_cpu,
    "definitions": loaded - imported, "modules": len(sys.modules),
}))
"""


@dataclass(frozen=True)
class Import:
    """Seconds of one fresh process."""

    dagster: float
    dagster_cpu: float
    location: float
    location_cpu: float
    definitions: float
    modules: int


def measure() -> Import:
    """Import both in a process of their own."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    return Import(**json.loads(done.stdout))


def main() -> None:
    """Measure, and print the pair."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--repeats", type=int, default=7)
    given = arguments.parse_args()
    print(describe_machine())
    measure()  # Compiles what was never imported here.
    found = [measure() for _ in range(given.repeats)]
    for name in ("dagster", "location", "definitions"):
        values = sorted(getattr(each, name) for each in found)
        cpu = ""
        if name != "definitions":
            cpu = f", CPU {statistics.median(getattr(each, f'{name}_cpu') for each in found):.2f} s"
        title = {
            "dagster": "import dagster",
            "location": "import ml_registry_pipelines.definitions, on top",
            "definitions": "building and resolving its definitions, on top",
        }[name]
        print(
            f"{title:<50} median {statistics.median(values):.2f} s, {values[0]:.2f} to {values[-1]:.2f}{cpu}"
        )


if __name__ == "__main__":
    main()
