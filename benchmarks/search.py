"""Milliseconds per predicate of a model search, beside MLflow's SQLite store on the same models.

Models and versions go in by bulk commands, whose files are written here, since a registry grows to
that size over years; then the index is built, and every predicate is asked for its first 50 hits with
another value each time. MLflow is asked the same where its filters know the field.

    python -m benchmarks.search
    python -m benchmarks.search --models 10000 --versions 100000
    python -m benchmarks.search --home /data/bench --only ask
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.machine import describe_machine
from benchmarks.mlflow_store import insert_rows
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.bulk import MAX_ROWS
from ml_registry_pipelines.registry.commands import Command
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.things import bulk_change
from ml_registry_pipelines.search.models import ModelSearch, Page

ACTOR = Actor("benchmark")
PARTS = ["fill", "build", "ask", "mlflow"]
LIMIT = 50
TEAMS, REGIONS, TIERS = 200, 8, 5
WORDS = 5_000
STAGES = ("registered", "registered", "registered", "archived", "archived", "staging", "production", "shadow")
FRAMEWORKS = ("sklearn", "xgboost", "pytorch", "onnx", "transformers")


def made_models(count: int) -> Iterator[dict[str, Any]]:
    """Models with names, descriptions of Zipf-distributed words, typed tags, owners and aliases."""
    chance = random.Random(1)
    vocabulary = [f"{a}{b}" for a in _SYLLABLES for b in _SYLLABLES][:WORDS]
    weights = [1 / (n + 10) for n in range(len(vocabulary))]
    for n in range(count):
        words = chance.choices(vocabulary, weights, k=25)
        yield {
            "id": f"{n:012x}modelmodelmodelmodel",
            "name": f"{words[0]}-{words[1]} {n}",
            "description": " ".join(words),
            "tags": {
                "team": f"team {chance.randrange(TEAMS)}",
                "region": f"r{chance.randrange(REGIONS)}",
                "tier": 1 + chance.randrange(TIERS),
                "pii": chance.random() < 0.2,
            },
            "owners": [f"team:{chance.randrange(TEAMS)}"],
            "aliases": {"champion": 1, **({f"pin{n % 1000}": 2} if n % 3 == 0 else {})},
            "status": "deprecated" if n % 50 == 49 else "active",
        }


def made_versions(models: int, count: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(2)
    each = max(1, count // models)
    for n in range(count):
        yield {
            "id": f"{n:012x}versionversionversio",
            "model": n // each % models,
            "number": 1 + n % each,
            "stage": chance.choice(STAGES),
            "framework": chance.choice(FRAMEWORKS),
            "metrics": {"auc": round(chance.random(), 6), "f1": round(chance.random(), 6)},
        }


_SYLLABLES = [c + v + e for c in "bcdfghklmnprstvz" for v in "aeiou" for e in ("", "n", "r")]
_KINDS = {str: "text", bool: "boolean", int: "number"}


def model_state(model: dict[str, Any]) -> str:
    tags = {key: {"type": _KINDS[type(value)], "value": value} for key, value in model["tags"].items()}
    return json.dumps(
        {**{k: v for k, v in model.items() if k != "id"}, "tags": tags, "metadata": {}, "deleted": False}
    )


def version_state(version: dict[str, Any], model_id: str) -> str:
    digest = f"{version['number']:064x}"
    content = {"digest": digest, "files": 1, "form": "file", "name": "w.bin", "size": 1000}
    return json.dumps(
        {
            "model_id": model_id,
            "version": version["number"],
            "stage": version["stage"],
            "deleted": False,
            "description": "",
            "tags": {},
            "content": content,
            "content_digest": digest,
            "size": 1000,
            "artifacts": [],
            "signature": None,
            "metrics": version["metrics"],
            "parameters": {"depth": 6},
            "framework": version["framework"],
            "code_commit": None,
            "licence": "Apache-2.0",
            "trained_on": [],
            "evaluated_on": [],
            "base_version": None,
        }
    )


def fill(home: str, models: int, versions: int) -> None:
    """Bring the registry to its size."""
    started = time.perf_counter()
    with Lake(home) as lake, Log(lake) as log:
        ids = []
        rows: list[tuple[str, str, str]] = []
        for model in made_models(models):
            ids.append(model["id"])
            rows.append(("model", model["id"], model_state(model)))
            rows = _given(log, "model", rows, MAX_ROWS)
        _given(log, "model", rows, 1)
        rows = []
        for version in made_versions(models, versions):
            rows.append(("model_version", version["id"], version_state(version, ids[version["model"]])))
            rows = _given(log, "model_version", rows, MAX_ROWS)
        _given(log, "model_version", rows, 1)
        log.settle()
    print(f"{models:,} models and {versions:,} versions registered in {time.perf_counter() - started:,.0f} s")


def _given(log: Log, kind: str, rows: list[tuple[str, str, str]], least: int) -> list[tuple[str, str, str]]:
    """Give a command with the rows once there are enough; what is left for the next."""
    if len(rows) < least:
        return rows
    columns = zip(*rows, strict=True)
    names = ("entity_type", "entity_id", "state")
    file = log.bulk.write_rows(
        pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})
    )
    change = bulk_change(kind, len(rows), file)
    log.run(Command("default", ACTOR, f"bulk_{kind}", kind, {"file": file}, lambda _: [change]))
    return []


def build(home: str) -> None:
    """Make the index anew, and say what it takes."""
    with Lake(home) as lake, Log(lake) as log:
        standing = ModelSearch(log, actor=ACTOR).rebuild()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"index of {standing.states:,} states built in {standing.seconds:,.0f} s "
        f"({standing.states / standing.seconds:,.0f}/s): {standing.size / 1e6:,.0f} MB, "
        f"the process took {memory:,.0f} MB at most"
    )


@dataclass(frozen=True)
class Predicate:
    """One kind of search. The values of a model, or the number of the call, are put in its texts."""

    what: str
    query: str = ""
    text: str | None = None
    order_by: str = ""
    kind: str = "model"
    mlflow: str | None = None
    """The filter of MLflow's that asks the same; None where it has none."""
    most: int = 1_000
    """Calls at most: of what takes seconds, fewer."""

    def call(self, values: dict[str, Any]) -> dict[str, Any]:
        """Arguments of our search."""
        text = None if self.text is None else self.text.format(**values)
        query = self.query.format(**values)
        return {"query": query, "text": text, "order_by": self.order_by, "kind": self.kind, "limit": LIMIT}


TAGS = "tags.team = '{team}' AND tags.region = '{region}' AND tags.tier = "
PREDICATES = (
    Predicate("name =", "name = '{name}'", mlflow="name = '{name}'"),
    Predicate("name LIKE 'x%'", "name LIKE '{first}%'", mlflow="name LIKE '{first}%'"),
    Predicate("name ILIKE '%x%'", "name ILIKE '%{inner}%'", mlflow="name ILIKE '%{inner}%'"),
    Predicate("tag = (1 of 200)", "tags.team = '{team}'", mlflow="tags.team = '{team}'"),
    Predicate("tag = (1 of 8)", "tags.region = '{region}'", mlflow="tags.region = '{region}'"),
    Predicate("alias = (1 of 1,000)", "alias = 'pin{pin}'"),
    Predicate("alias = (all have it)", "alias = 'champion'"),
    Predicate("stage = production", "stage = 'production'"),
    Predicate("owner = (1 of 200)", "owner = '{owner}'"),
    Predicate("3 tags", TAGS + "{tier}", mlflow=TAGS + "'{tier}'"),
    Predicate("3 tags with full text", TAGS + "{tier}", text="{words}"),
    Predicate("2 broad tags, text", "tags.region = '{region}' AND tags.tier = {tier}", text="{words}"),
    Predicate("full text alone, 3 words", text="{words}"),
    Predicate("text MATCHES 2 words", "text MATCHES '{two}'"),
    Predicate("latest metric > 0.9", "metrics.auc > 0.9{digit}"),
    Predicate("any metric > 0.99", "any.metrics.auc > 0.99{digit}"),
    Predicate("stage and metric of one version", "any(stage = 'production' AND metrics.auc > 0.9{digit})"),
    Predicate("framework (latest)", "framework = '{framework}'"),
    Predicate("a tag, sorted by metric", "tags.team = '{team}'", order_by="metrics.auc DESC"),
    Predicate("all, sorted by metric", order_by="metrics.auc DESC", most=10),
    Predicate("versions of a model", "name = '{name}'", kind="version", mlflow="name = '{name}'"),
)


def asked(models: int, count: int) -> list[dict[str, Any]]:
    """Values for so many calls: of models that are there."""
    chance = random.Random(3)
    step = max(1, models // 2_000)
    known = [model for n, model in enumerate(made_models(models)) if n % step == 0]
    found = []
    for n, model in enumerate(chance.choices(known, k=count)):
        words = model["description"].split()
        found.append(
            {
                "name": model["name"],
                "first": model["name"].split()[0],
                "inner": model["name"].split()[0][3:].upper(),
                "owner": model["owners"][0],
                "words": " ".join(words[2:5]),
                "two": " ".join(words[2:4]),
                "pin": n * 7 % 1000,
                "digit": n % 10,
                "framework": FRAMEWORKS[n % len(FRAMEWORKS)],
                **model["tags"],
            }
        )
    return found


def ask(home: str, models: int, count: int) -> None:
    """Ask every predicate in a warm process."""
    with Lake(home) as lake, Log(lake) as log:
        search = ModelSearch(log, actor=ACTOR)
        search.search("")
        values = asked(models, count)
        for predicate in PREDICATES:
            search.search(**predicate.call(values[0]))
            _show(
                "ours",
                predicate.what,
                [partial(search.search, **predicate.call(v)) for v in values[: predicate.most]],
            )
        cursor: str | None = None

        def turn() -> Page:
            nonlocal cursor
            page = search.search(limit=LIMIT, cursor=cursor)
            cursor = page.cursor
            return page

        _show("ours", "the next page of all models", [turn] * count)


def _show(who: str, what: str, calls: Sequence[Callable[[], Any]]) -> None:
    """Wall time per call, and the CPU time of this thread, which other processes do not lengthen."""
    taken, own, hits = [], [], 0
    for call in calls:
        began, cpu = time.perf_counter(), time.thread_time()
        found = call()
        own.append((time.thread_time() - cpu) * 1000)
        taken.append((time.perf_counter() - began) * 1000)
        hits += len(found.hits if isinstance(found, Page) else found)
    taken.sort()
    own.sort()
    print(
        f"{who:<7} {what:<38} p50 {_at(taken, 0.5):8.1f}  p95 {_at(taken, 0.95):8.1f}  max {taken[-1]:8.1f} ms   "
        f"own CPU p50 {_at(own, 0.5):7.1f}  p95 {_at(own, 0.95):7.1f} ms   {hits / len(taken):5.1f} hits"
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def mlflow(models: int, versions: int, count: int) -> None:
    """The same of MLflow's SQLite store, filled past its API."""
    logging.disable(logging.WARNING)
    import mlflow as library
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(prefix="mlreg-mlflow-") as folder:
        path = Path(folder, "mlflow.db")
        store: Any = SqlAlchemyStore(f"sqlite:///{path}")
        _fill_mlflow(path, models, versions)
        print(f"MLflow {library.__version__} on SQLite: {models:,} models, {versions:,} versions")
        values = asked(models, count)
        for predicate in PREDICATES:
            if predicate.mlflow is None:
                print(f"MLflow  {predicate.what:<38} has no such filter")
                continue
            find = (
                store.search_model_versions if predicate.kind == "version" else store.search_registered_models
            )
            filters = [predicate.mlflow.format(**one) for one in values]
            _show("MLflow", predicate.what, [partial(find, text, max_results=LIMIT) for text in filters])


def _fill_mlflow(path: Path, models: int, versions: int) -> None:
    now = time.time_ns() // 1_000_000
    names = [model["name"] for model in made_models(models)]
    with sqlite3.connect(path) as database:
        insert_rows(
            database,
            "registered_models",
            ("name", "creation_time", "last_updated_time", "description"),
            ((m["name"], now, now, m["description"]) for m in made_models(models)),
        )
        insert_rows(
            database,
            "registered_model_tags",
            ("key", "value", "name"),
            ((k, str(v), m["name"]) for m in made_models(models) for k, v in m["tags"].items()),
        )
        insert_rows(
            database,
            "registered_model_aliases",
            ("alias", "version", "name"),
            ((a, n, m["name"]) for m in made_models(models) for a, n in m["aliases"].items()),
        )
        insert_rows(
            database,
            "model_versions",
            ("name", "version", "creation_time", "last_updated_time", "current_stage", "source", "status"),
            (
                (names[v["model"]], v["number"], now, now, v["stage"].title(), "s3://b", "READY")
                for v in made_versions(models, versions)
            ),
        )
    with sqlite3.connect(path) as database:
        database.execute("ANALYZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--home", help="Keep the registry here, and use the one that is here.")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=None)
    given = parser.parse_args()
    chosen = given.only or PARTS
    print(describe_machine())
    home = given.home or tempfile.mkdtemp(prefix="mlreg-search-")
    try:
        if "fill" in chosen:
            fill(home, given.models, given.versions)
        if "build" in chosen:
            build(home)
        if "ask" in chosen:
            ask(home, given.models, given.count)
        if "mlflow" in chosen:
            mlflow(given.models, given.versions, given.count)
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
