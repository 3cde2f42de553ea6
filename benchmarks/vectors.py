"""Milliseconds and recall@10 of the nearest of 1,000,000 vectors of 768 numbers, filtered and not; build time, memory.

The vectors are those of 20,000 families in 128 directions of falling weight, drawn around their family and
turned into 768 numbers with a little noise: near ones are near for a reason, as those of texts are. One in a
hundred belongs to a tenant of its own. Recall is counted against all vectors compared one by one.

Besides the whole tenant, a filter of 1 % as a list of ids, one of ten ids, and the tenant that has 1 % are
asked for. With `--table` an earlier table is asked again; with `--exact` the sizes are shown at which comparing
all vectors in memory is as quick as the index.

    nice python -m benchmarks.vectors --folder /tmp/vectors
    python -m benchmarks.vectors --folder /tmp/vectors --table --embed
    python -m benchmarks.vectors --exact
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.search.embedding.embedder import make_embedder
from ml_registry_pipelines.search.vectors.nearest import Nearest
from ml_registry_pipelines.search.vectors.table import PARTITIONS, PROBES, REFINE, VectorTable, rows

FAMILIES, DIRECTIONS = 20_000, 128
SMALL = 100
"""One in so many belongs to the small tenant."""
AT_ONCE = 50_000
K = 10

Floats = npt.NDArray[np.float32]


class Drawn:
    """Vectors of unit length, the same ones for the same seed."""

    def __init__(self, dimension: int, seed: int = 20261124) -> None:
        self._draw = np.random.default_rng(seed)
        self._weights = (1 / np.sqrt(1 + np.arange(DIRECTIONS) / 8)).astype(np.float32)
        centres = self._draw.standard_normal((FAMILIES, DIRECTIONS)) * self._weights
        self._centres = centres.astype(np.float32)
        turned = self._draw.standard_normal((DIRECTIONS, dimension)) / np.sqrt(DIRECTIONS)
        self._turned = turned.astype(np.float32)

    def some(self, count: int) -> Floats:
        family = self._draw.integers(0, FAMILIES, count)
        around = 0.6 * self._draw.standard_normal((count, DIRECTIONS)).astype(np.float32) * self._weights
        found = (self._centres[family] + around) @ self._turned
        found += 0.05 * self._draw.standard_normal(found.shape).astype(np.float32)
        scaled: Floats = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return scaled


def identity(number: int) -> str:
    return f"{number:026d}"


def tenant_of(number: int) -> str:
    return "small" if number % SMALL == 0 else "large"


def build(folder: Path, count: int, dimension: int) -> Iterator[str]:
    """Write the table, its exact copy to compare with, and the index."""
    drawn = Drawn(dimension)
    table = VectorTable(str(folder), "models-bench", None, dimension)
    table.drop()
    table.create()
    copy = np.lib.format.open_memmap(folder / "all.npy", "w+", np.float32, (count, dimension))
    started = time.perf_counter()
    for first in range(0, count, AT_ONCE):
        some = drawn.some(min(AT_ONCE, count - first))
        copy[first : first + len(some)] = some
        numbers = range(first, first + len(some))
        table.add(
            rows(
                [tenant_of(n) for n in numbers],
                [identity(n) for n in numbers],
                ["x" * 32] * len(some),
                1,
                some,
            )
        )
    table.tidy()
    copy.flush()
    np.save(folder / "asked.npy", drawn.some(1_000))
    written = time.perf_counter() - started
    yield f"written: {count:,} x {dimension} in {written:.0f} s"
    started = time.perf_counter()
    table.build_index()
    seconds = time.perf_counter() - started
    size = sum(
        path.stat().st_size for path in Path(folder, "models-bench.lance").rglob("*") if path.is_file()
    )
    (folder / "built.json").write_text(
        json.dumps({"written": written, "built": seconds, "peak_mb": peak_mb()})
    )
    yield (
        f"index IVF_HNSW_SQ, {PARTITIONS} partitions: built in {seconds:.0f} s, peak memory {peak_mb():,.0f} MB, "
        f"{size / 1e9:.2f} GB on disk"
    )


def ask(folder: Path, questions: int) -> Iterator[str]:
    """A line for each kind of question."""
    everything = np.load(folder / "all.npy", mmap_mode="r")
    asked = np.load(folder / "asked.npy")[:questions]
    count, dimension = everything.shape
    table = VectorTable(str(folder), "models-bench", None, dimension)
    started = time.perf_counter()
    search = Nearest(table)
    search.held()
    yield f"opened, with {count:,} keys, in {time.perf_counter() - started:.1f} s, peak memory {peak_mb():,.0f} MB"
    draw = random.Random(1)
    large = [n for n in range(count) if tenant_of(n) == "large"]
    small = [n for n in range(count) if tenant_of(n) == "small"]
    few, percent = sorted(draw.sample(large, 10)), sorted(draw.sample(large, count // 100))
    half = sorted(draw.sample(large, len(large) // 2))
    kinds: Sequence[tuple[str, str, list[int], list[int] | None]] = (
        ("all of a tenant", "large", large, None),
        ("1 %: a tenant", "small", small, None),
        ("1 %: ids", "large", percent, percent),
        ("ten ids", "large", few, few),
        ("half: ids", "large", half, half),
    )
    for name, tenant, allowed, listed in kinds:
        truth = exactly(everything, asked, allowed)
        ids = None if listed is None else [identity(n) for n in listed]
        yield measured(name, asked, truth, asking(search, tenant, ids))


def asking(search: Nearest, tenant: str, ids: Sequence[str] | None) -> Callable[[Floats], list[str]]:
    return lambda vector: [near.id for near in search.to(tenant, vector, K, ids=ids)]


def measured(name: str, asked: Floats, truth: list[set[str]], to: Callable[[Floats], list[str]]) -> str:
    for vector in asked[:20]:
        to(vector)
    seconds, hits, filled = [], 0.0, 0
    for vector, right in zip(asked, truth, strict=True):
        started = time.perf_counter()
        found = to(vector)
        seconds.append(time.perf_counter() - started)
        hits += len(right & set(found)) / len(right)
        filled += len(found) == len(right)
    milliseconds = np.array(seconds) * 1000
    return (
        f"  {name:<18}p50 {np.percentile(milliseconds, 50):7.1f} ms  p95 {np.percentile(milliseconds, 95):7.1f} ms  "
        f"recall@{K} {hits / len(asked):.3f}  filled {filled / len(asked):.0%}"
    )


def exactly(everything: Floats, asked: Floats, allowed: Sequence[int]) -> list[set[str]]:
    """The k nearest by comparing all."""
    numbers = np.array(allowed)
    best = np.full((len(asked), K), -2.0, np.float32)
    which = np.zeros((len(asked), K), np.int64)
    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        near = asked @ everything[some].T
        joined = np.concatenate([best, near], axis=1)
        names = np.concatenate([which, np.broadcast_to(some, (len(asked), len(some)))], axis=1)
        top = np.argpartition(-joined, K - 1, axis=1)[:, :K]
        best, which = np.take_along_axis(joined, top, 1), np.take_along_axis(names, top, 1)
    return [
        {identity(int(n)) for n, near in zip(places, values, strict=True) if near > -2.0}
        for places, values in zip(which, best, strict=True)
    ]


def exact() -> Iterator[str]:
    """Comparing all vectors in memory, by size: up to where that is no slower than an index of 10 to 20 ms."""
    for dimension, counts in ((256, (10_000, 50_000, 100_000, 250_000)), (768, (10_000, 30_000, 85_000))):
        for count in counts:
            drawn = Drawn(dimension)
            with tempfile.TemporaryDirectory() as folder:
                table = VectorTable(folder, "models-bench", None, dimension)
                table.create()
                ids = [identity(n) for n in range(count)]
                vectors = np.concatenate(
                    [drawn.some(min(AT_ONCE, count - n)) for n in range(0, count, AT_ONCE)]
                )
                table.add(rows(["t"] * count, ids, ["x" * 32] * count, 1, vectors))
                search = Nearest(table)
                started = time.perf_counter()
                search.held()
                opened = time.perf_counter() - started
                asked = drawn.some(100)
                for name, some in (("all", None), ("1 %", ids[::100])):
                    allowed = range(0, count, 100) if some else range(count)
                    truth = exactly(vectors, asked, allowed)
                    line = measured(name, asked, truth, asking(search, "t", some))
                    yield f"{count:>8,} x {dimension}, opened in {opened:4.2f} s {line}"


def embed(count: int = 50_000) -> str:
    """Texts of models per second with the embedder that is set, learning included."""
    from ml_registry_pipelines.exchange.hosted_facts import hosted_entries

    entries = hosted_entries()
    texts = [
        f"{entries[n % len(entries)].name}-{n} {entries[n % len(entries)].description} run {n}"
        for n in range(count)
    ]
    embedder = make_embedder()
    started = time.perf_counter()
    fitted = embedder.fitted(texts)
    learnt = time.perf_counter() - started
    started, cpu = time.perf_counter(), time.process_time()
    fitted.embed(texts)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    words = sum(len(text.split()) for text in texts) / count
    return (
        f"{embedder.spec}: {count / seconds:,.0f} models a second of {words:.0f} words each, "
        f"{count / cpu:,.0f} a second of "
        f"one core; learning how rare "
        f"words are: {count / learnt:,.0f} a second; both: {count / (seconds + learnt):,.0f}"
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--folder", type=Path, help="where the table is made; it stays there")
    options.add_argument("--vectors", type=int, default=1_000_000)
    options.add_argument("--dimension", type=int, default=768)
    options.add_argument("--questions", type=int, default=200)
    options.add_argument("--table", action="store_true", help="ask the table that is in the folder")
    options.add_argument(
        "--exact", action="store_true", help="measure comparing all vectors in memory instead"
    )
    options.add_argument("--embed", action="store_true", help="measure the embedder, too")
    given = options.parse_args()
    print(describe_machine(), f"probes {PROBES}, refine {REFINE}")
    if given.embed:
        print(embed(), flush=True)
    if given.exact:
        for line in exact():
            print(line, flush=True)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if not given.table:
            for line in build(folder, given.vectors, given.dimension):
                print(line, flush=True)
        for line in ask(folder, given.questions):
            print(line, flush=True)


if __name__ == "__main__":
    main()
