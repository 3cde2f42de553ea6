"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

# Commands are measured by themselves, without the look at what a model that is registered is like.
os.environ.setdefault("MLREG_NEAR_DUPLICATES", "off")


def describe_machine() -> str:
    """Cores, memory, load and the versions that matter, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "deltalake", "pyarrow", "dagster"))
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {libraries}"
    )


def peak_mb() -> float:
    """The most memory that this process has held, in MB.

    Not `ru_maxrss`: a process that is started inherits that of the one that starts it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024 / 1e6
