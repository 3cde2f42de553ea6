"""MLflow's own registry of the same size, for the figures beside ours: its SQLite store, without a server between.

python -m benchmarks.mlflow_store --models 1000000 --versions 1000000
"""

from __future__ import annotations

import argparse
import logging
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

PER_MODEL = 10
"""Versions of a model that has some."""


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measured(folder: Path, models: int, versions: int, count: int) -> None:
    """Print MLflow's milliseconds for lookup, listing, a search, registering and a read after a write."""
    logging.disable(logging.WARNING)
    import mlflow
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    path = folder / "mlflow.db"
    store: Any = SqlAlchemyStore(f"sqlite:///{path}")
    _fill(path, models, versions)
    chance = random.Random(1)
    told = f"MLflow {mlflow.__version__} on SQLite, {models:,} models:"

    def show(what: str, call: Callable[[int], object], times: int = count) -> None:
        taken = []
        for n in range(times):
            began = time.perf_counter()
            call(n)
            taken.append((time.perf_counter() - began) * 1000)
        print(
            f"{told} {what:<34} p50 {_at(taken, 0.5):8.1f}  p95 {_at(taken, 0.95):8.1f}  max {max(taken):8.1f} ms"
        )

    names = [f"model {chance.randrange(models)}" for _ in range(count)]
    store.get_registered_model("model 1")
    show("lookup by name", lambda n: store.get_registered_model(names[n]))
    filled = max(1, min(models, versions // PER_MODEL))
    listing = partial(store.search_model_versions, max_results=1000)
    show("list the versions of a model", lambda n: listing(f"name = 'model {n * 97 % filled}'"))
    show(
        "search by name and tag, 50",
        lambda n: store.search_registered_models(f"name LIKE '%model%' AND tags.n = '{n}'", max_results=50),
        10,
    )
    show("register_model", lambda n: store.create_registered_model(f"single {n}"), 300)
    show("a read right after a write", lambda n: store.get_registered_model(f"single {n}"), 20)


def _fill(path: Path, models: int, versions: int) -> None:
    """Rows past MLflow's API, which takes 6 ms each: its own tables, columns and defaults."""
    now = time.time_ns() // 1_000_000
    with sqlite3.connect(path) as database:
        insert_rows(
            database,
            "registered_models",
            ("name", "creation_time", "last_updated_time", "description"),
            ((f"model {n}", now, now, "scores") for n in range(models)),
        )
        insert_rows(
            database,
            "registered_model_tags",
            ("key", "value", "name"),
            (("n", str(n % 100), f"model {n}") for n in range(models)),
        )
        insert_rows(
            database,
            "model_versions",
            ("name", "version", "creation_time", "last_updated_time", "current_stage", "source", "status"),
            (
                (f"model {n // PER_MODEL}", 1 + n % PER_MODEL, now, now, "None", f"s3://b/{n}", "READY")
                for n in range(versions)
            ),
        )
    with sqlite3.connect(path) as database:
        database.execute("ANALYZE")


def insert_rows(database: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Any) -> None:
    """Rows into a table of MLflow's, in its default workspace where it has workspaces."""
    known = {column[1]: column for column in database.execute(f"PRAGMA table_info({table})")}
    assert known, f"MLflow has no table {table} here"
    names = (*columns, "workspace") if "workspace" in known else columns
    marks = ", ".join("?" for _ in columns) + (", 'default'" if "workspace" in known else "")
    database.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=500)
    given = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory(prefix="mlreg-mlflow-") as folder:
        measured(Path(folder), given.models, given.versions, given.lookups)


if __name__ == "__main__":
    main()
