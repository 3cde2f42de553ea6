"""Milliseconds per question about lineage at many relationships, and what the index costs, beside recursive SQL.

The relationships are those of projects of 2,000 entities: each entity depends on four of the 200
before it, the first ten of a project on one of the shared datasets. They lie in the real
projection, written block by block, but for the JSON text of their states, which the index does
not read. One in a hundred is removed again. The entities of the first projects are in `things` too, so
that whole answers, with names and owners, can be measured on them.

    python -m benchmarks.lineage
    python -m benchmarks.lineage --relationships 100000000 --sql 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.index import Built, LineageIndex, index_of
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.lineage.walking import counted
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.events import Event, to_arrow
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.projections import PROJECTIONS, SOURCE
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.tail import BLOCK

PROJECT = 2_000
DEGREE = 4
SHARED = 1_000
PER_EVENT = 2_000
NAMED_PROJECTS = 50
START = datetime(2026, 1, 1, tzinfo=UTC)
ACTOR = Actor("bench")
TYPES = ["table", "feature", "job", "prompt", "evaluation", "application", "deployment"]


def entity(number: str) -> str:
    """SQL of the id of an entity: 32 hexadecimal digits in no order, so that neighbours lie nowhere together."""
    return f"md5('n' || {number})"


def type_of(number: str) -> str:
    listed = "', '".join(TYPES)
    return f"(['{listed}'])[({number} % {len(TYPES)})::INT + 1]"


def block_of_edges(connection: duckdb.DuckDBPyConnection, block: int, total: int) -> pa.Table:
    """The rows of one block of the projection."""
    first, last = (block - 1) * BLOCK * PER_EVENT, min(block * BLOCK * PER_EVENT, total)
    return connection.execute(
        f"""
        WITH numbered AS (
          SELECT i, {SHARED} + i // {DEGREE} AS a, (i // {DEGREE}) % {PROJECT} AS r, hash(i) AS h
          FROM range({first}, {last}) t(i)
        ), edges AS (
          SELECT *, (CASE WHEN r < 10 THEN h % {SHARED} ELSE a - 1 - h % least(r, 200) END)::BIGINT AS b,
                 i // {PER_EVENT} + 1 AS event
          FROM numbered
        ), states AS (
          SELECT *, false AS gone FROM edges
          UNION ALL
          SELECT *, true FROM edges WHERE h % 100 = 0 AND event < {block * BLOCK}
        )
        SELECT 'default' AS tenant, CASE WHEN h % 2 = 0 THEN 'derived_from' ELSE 'trained_on' END AS type,
               md5(i::VARCHAR) AS id, least(event + gone::INT * (1 + h // 100 % 50), {block * BLOCK}) AS from_sequence,
               from_sequence AS position,
               TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds(from_sequence) AS recorded_at,
               recorded_at AS valid_from, 'bench' AS actor, 'relate' AS action, gone AS deleted, '{{}}' AS state,
               {type_of("a")} AS source_type, {entity("a")} AS source_id,
               {type_of("b")} AS target_type, {entity("b")} AS target_id, 'to_source' AS flow
        FROM states
        """
    ).to_arrow_table()


def named_things(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The entities of the first projects as things, all of one kind so that they can be named alike."""
    return connection.execute(
        f"""
        SELECT 'default' AS tenant, {type_of("n")} AS type, {entity("n")} AS id, 1 AS from_sequence, 1 AS position,
               TIMESTAMPTZ '2026-01-01 00:00:00+00' AS recorded_at, recorded_at AS valid_from, 'bench' AS actor,
               'register' AS action, false AS deleted,
               json_object('name', 'n' || n, 'owners', ['team:' || (n // {PROJECT})], 'status', 'live',
                           'metadata', json_object('environment', 'production'), 'deleted', false) AS state,
               'n' || n AS name, NULL AS parent_id, 'live' AS status, NULL AS description
        FROM range({SHARED + NAMED_PROJECTS * PROJECT}) t(n)
        """
    ).to_arrow_table()


def load(root: str, total: int) -> int:
    """Write the projections and the newest event; return the number of events."""
    blocks = -(-total // (BLOCK * PER_EVENT))
    connection = duckdb.connect(config={"memory_limit": "1GB"})
    connection.execute("SET TimeZone = 'UTC'")
    with Lake(root) as lake:
        for block in range(1, blocks + 1):
            for table in PROJECTIONS:
                rows = Lake.declaration(table).empty()
                if table == "relationships":
                    rows = block_of_edges(connection, block, total)
                elif table == "things" and block == 1:
                    rows = named_things(connection)
                declared = Lake.declaration(table).schema
                rows = rows.select(declared.names).cast(declared)
                lake.append_once(table, rows, source=SOURCE, sequence=block)
        head = blocks * BLOCK
        at = START + timedelta(seconds=head)
        newest = Event(
            "default", head, "e", "c", 1, 1, at, at, at, "bench", "person", "bench", "bulk", "thing", "x",
            json.dumps({"change": {}, "state": {}}), None, None, "", "0" * 64, head, blocks,
        )  # fmt: skip
        lake.append_expecting(
            "governance_events", to_arrow([newest]), version=lake.version("governance_events")
        )
    return head


def build(root: str, answer: multiprocessing.Queue[tuple[Built, float, float]], whole: bool) -> None:
    """Build the index in a process of its own, which tells the most memory that it ever had."""
    with Lake(root) as lake:
        built = LineageIndex(lake).build(whole=whole)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.put((built, peak_mb(), used.ru_utime + used.ru_stime))


def built(root: str, *, whole: bool) -> None:
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[tuple[Built, float, float]] = context.Queue()
    process = context.Process(target=build, args=(root, answer, whole))
    process.start()
    done, peak, cpu = answer.get()
    process.join()
    generation = done.generation
    print(
        f"index {'whole' if whole else 'grown'}: {generation.edges:,} intervals of edges, "
        f"{generation.nodes:,} entities, "
        f"{generation.size / 2**30:.2f} GiB in {len(generation.layers)} files; {done.seconds:.1f} s, "
        f"{cpu:.0f} s of processor time, most memory {peak:,.0f} MB",
        flush=True,
    )


def percentile(sample: list[float], share: float) -> float:
    return sorted(sample)[min(int(share * len(sample)), len(sample) - 1)]


def line(name: str, work: Callable[[int], int], numbers: list[int]) -> None:
    taken, sizes = [], []
    for number in numbers:
        started = time.perf_counter()
        sizes.append(work(number))
        taken.append((time.perf_counter() - started) * 1000)
    print(
        f"{name:<58} {percentile(taken, 0.5):>9.2f} {percentile(taken, 0.95):>9.2f} {max(taken):>9.2f}"
        f" {percentile([float(s) for s in sizes], 0.5):>9,.0f} {max(sizes):>9,}",
        flush=True,
    )


def id_of(number: int) -> str:
    return hashlib.md5(f"n{number}".encode(), usedforsecurity=False).hexdigest()


SQL = """
WITH RECURSIVE removed AS MATERIALIZED (
  SELECT id FROM relationships WHERE tenant = 'default' AND deleted
), reached(id, depth) AS (
  SELECT $start, 0
  UNION
  SELECT e.source_id, depth + 1
  FROM reached r
  JOIN relationships e ON e.target_id = r.id
  WHERE depth < 3 AND e.tenant = 'default' AND NOT e.deleted AND e.id NOT IN (SELECT id FROM removed)
)
SELECT DISTINCT id FROM reached WHERE id <> $start
"""


def ask_sql(lake: Lake, start: str) -> set[str]:
    """Three levels down by recursive SQL, in a DuckDB of its own: 1 GB, which a process of ours has, is too little."""
    connection = duckdb.connect(config={"memory_limit": "6GB"})
    files = ", ".join(f"'{path}'" for path in lake.snapshot("relationships").file_uris())
    connection.execute(f"CREATE VIEW relationships AS SELECT * FROM read_parquet([{files}])")
    rows = connection.execute(SQL, {"start": start}).fetchall()
    connection.close()
    return {row[0] for row in rows}


def ask(root: str, total: int, head: int, questions: int, sql: int) -> None:
    nodes = SHARED + total // DEGREE
    draw = random.Random(7)
    some = [draw.randrange(SHARED, nodes) for _ in range(questions)]
    named = [draw.randrange(SHARED, SHARED + NAMED_PROJECTS * PROJECT) for _ in range(questions)]
    with Lake(root) as lake, Log(lake) as log:
        relationships = Relationships(log, actor=ACTOR)
        tracker = LineageTracker(log, actor=ACTOR)
        started = time.perf_counter()
        index_of(log).stack(log.view("default"))
        print(f"index opened in {time.perf_counter() - started:.2f} s")

        def kind(number: int) -> str:
            return TYPES[number % len(TYPES)]

        # An edge of the index and one of its own, drawn and removed: both are in the tail.
        a, b = SHARED + 100, SHARED + 20
        relationships.relate("derived_from", (kind(a), f"n{a}"), (kind(b), f"n{b}"))
        relationships.unrelate("derived_from", (kind(a), f"n{a}"), (kind(b), f"n{b}"))
        view = log.view("default")
        stack = index_of(log).stack(view)
        assert len(stack.layers) > 1, "the tail is no layer"

        def levels(number: int, at: int | None) -> int:
            root_number = stack.numbers("default", [id_of(number)])
            found = [stack.walk(root_number[root_number >= 0], down=d, at=at, depth=3) for d in (True, False)]
            return sum(len(stack.ids(f.nodes)) for f in found)

        def impact(number: int) -> int:
            root_number = stack.numbers("default", [id_of(number)])
            found = stack.walk(root_number[root_number >= 0], down=True, depth=20)
            counted(stack, found.nodes)
            return len(stack.ids(found.nodes))

        print(f"\n{'milliseconds':<58} {'p50':>9} {'p95':>9} {'max':>9} {'entities':>9} {'most':>9}")
        line("three levels up and down, string ids, first time", lambda n: levels(n, None), some)
        line("three levels up and down, string ids", lambda n: levels(n, None), some)
        line("  as of an earlier event", lambda n: levels(n, head // 2), some)
        line("impact to depth 20, ids and counts by type", impact, some)
        line("  of a dataset that many projects share", impact, [draw.randrange(SHARED) for _ in range(5)])
        warm = tracker.get_full_lineage(kind(named[0]), id_of(named[0]), depth=3)
        assert warm.roots
        line(
            "get_full_lineage to depth 3, with names and owners",
            lambda n: sum(tracker.get_full_lineage(kind(n), id_of(n), depth=3).counts.values()),
            named[: questions // 4],
        )
        line(
            "get_impact_analysis to depth 20, first 100 with names",
            lambda n: sum(
                tracker.get_impact_analysis(kind(n), id_of(n), depth=20, limit=100).counts.values()
            ),
            named[: questions // 4],
        )

        def recursive(number: int) -> int:
            found = ask_sql(lake, id_of(number))
            root_number = stack.numbers("default", [id_of(number)])
            walked = stack.walk(root_number[root_number >= 0], down=True, at=head, depth=3)
            assert found == set(stack.ids(walked.nodes)), "the index and the SQL disagree"
            return len(found)

        if sql:
            line("recursive SQL over the same table, three levels down", recursive, some[:sql])
        print(f"memory of the asking process {peak_mb():,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--relationships", type=int, default=10_000_000)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--sql", type=int, default=3, help="questions to the recursive SQL")
    parser.add_argument("--folder", type=Path, help="where to put the data; by default a temporary folder")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlreg-bench-", dir=given.folder))
    try:
        print(describe_machine(), flush=True)
        started = time.perf_counter()
        head = load(str(folder / "home"), given.relationships)
        size = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
        print(
            f"{given.relationships:,} relationships in {head:,} events: {size / 2**30:.1f} GiB of Parquet, "
            f"written in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        built(str(folder / "home"), whole=True)
        ask(str(folder / "home"), given.relationships, head, given.questions, given.sql)
        print(f"load {os.getloadavg()[0]:.1f}, numpy {np.__version__}, Python {sys.version.split()[0]}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
