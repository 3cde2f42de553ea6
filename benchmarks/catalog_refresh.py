"""Seconds from a model's registration to its node in the graph of a running `mlreg ui`, by the graph's size.

A registry of so many assets is made: of ten, three datasets, two models, four versions and a
deployment. The real daemon and web server run on it. Then models are registered one at a time,
at random moments, and the time ends when the web server's GraphQL knows the new asset. The
last line is a burst: how long after the last of many registrations all of them are there.

    python -m benchmarks.catalog_refresh
    python -m benchmarks.catalog_refresh --assets 1000 --repeats 10
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.catalogue import read_catalogue
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from tests.e2e.ui import Ui, running_ui, wait_for

ACTOR = Actor("benchmark")
BURST = 50


def fill(log: Log, assets: int) -> None:
    """A registry of so many assets."""
    models, tracker = ModelRegistry(log, actor=ACTOR), LineageTracker(log, actor=ACTOR)
    tens = assets // 10

    def dataset(n: int) -> None:
        tracker.track_dataset(f"data {n}", Uri(f"s3://bucket/{n}", f"{n:064x}"), owners=["team:data"])

    def model(n: int) -> None:
        name = f"model-{n}"
        models.register_model(name, owners=["team:risk"], tags={"tier": n % 3}, description=f"Model {n}.")
        for version in range(2):
            facts = VersionFacts(
                metrics={"auc": 0.5 + version / 10},
                trained_on=[f"data {(n + version) % (3 * tens)}@v1"],
                framework="scikit-learn",
            )
            models.create_model_version(name, HostedModel("p", f"{n}-{version}"), facts)
        models.promote_to_production(f"{name}@v2")
        if n % 2 == 0:
            tracker.track_deployment(f"api {n}", f"{name}@v2", environment="production")

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(dataset, range(3 * tens)))
        list(threads.map(model, range(2 * tens)))


def knows(ui: Ui, *names: str) -> bool:
    """Whether the web server has the assets of all these models."""
    found = ui.ask(
        "query Known($keys: [AssetKeyInput!]) { assetNodes(assetKeys: $keys) { assetKey { path } } }",
        keys=[{"path": ["models", "default", name]} for name in names],
    )
    return len(found["assetNodes"]) == len(names)


def soon(ui: Ui, *names: str) -> bool:
    """The same, of a server that may be busy with loading."""
    try:
        return knows(ui, *names)
    except OSError:
        return False


def count(ui: Ui) -> int:
    """Assets that the web server knows."""
    return len(ui.ask("{ assetNodes { id } }")["assetNodes"])


def measure(assets: int, repeats: int) -> None:
    """Print the times of one size."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Lake(str(home), process="benchmark") as lake, Log(lake) as log:
            fill(log, assets)
            started = time.perf_counter()
            shown = read_catalogue(log)
            print(
                f"{len(shown.entries):,} assets; reading them from the registry: {time.perf_counter() - started:.2f} s"
            )
            models = ModelRegistry(log, actor=ACTOR)
            with running_ui(home) as ui:
                wait_for("the whole graph", lambda: count(ui) >= len(shown.entries), seconds=300)
                # The first ticks load the graph once and tell every check.
                models.register_model("first")
                wait_for("the first model", lambda: soon(ui, "first"), seconds=300)
                times = []
                for n in range(repeats):
                    time.sleep(random.uniform(20, 25))
                    models.register_model(f"new-{n}")
                    began = time.perf_counter()
                    wait_for("the new model", lambda n=n: soon(ui, f"new-{n}"), seconds=120)  # type: ignore[misc]
                    times.append(time.perf_counter() - began)
                print(
                    f"  a new model is shown after: median {statistics.median(times):.1f} s, "
                    f"{min(times):.1f} to {max(times):.1f}, of {repeats}"
                )
                names = [f"burst-{n}" for n in range(BURST)]
                began = time.perf_counter()
                for name in names:
                    models.register_model(name)
                    time.sleep(0.2)
                ended = time.perf_counter()
                wait_for("the burst", lambda: soon(ui, *names), seconds=180)
                print(
                    f"  {BURST} models registered in {ended - began:.0f} s are all shown "
                    f"{time.perf_counter() - ended:.1f} s after the last"
                )
    print(f"  memory of this process, which registers and reads: {peak_mb():,.0f} MB")


def main() -> None:
    """Measure every size that was asked for."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--assets", type=int, nargs="+", default=[1_000, 10_000])
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    print(describe_machine())
    for assets in given.assets:
        measure(assets, given.repeats)


if __name__ == "__main__":
    main()
