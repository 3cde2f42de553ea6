"""MB per second and peak memory of artifacts going up and down, beside `sha256sum` and `cp`.

Real random bytes: one large file and many of 10 MB. The floor is what a careful person does by
hand in the same run: `sha256sum`, `cp`, and `sync` of the copy. In a bucket (moto's server on
loopback, which keeps everything in memory) the floor is `sha256sum` and boto3's own
`upload_file` and `download_file`. Each phase is a process of its own, whose peak memory is its own.

    python -m benchmarks.artifacts                        # 10 GB on a folder, 1 GB in a bucket
    python -m benchmarks.artifacts --gb 1 --bucket-gb 0
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import describe_machine, peak_mb

MB = 10**6
SMALL = 10 * MB


def make_files(folder: Path, size: int) -> None:
    """One file of four fifths, the rest in files of 10 MB."""
    folder.mkdir(parents=True)
    large = size * 4 // 5
    sizes = [large, *[SMALL] * ((size - large) // SMALL)]
    for number, each in enumerate(sizes):
        with (folder / f"weights-{number:04}.bin").open("wb") as stream:
            left = each
            while left:
                left -= stream.write(os.urandom(min(left, 1 << 22)))


def phase(name: str, *arguments: object, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run one phase in a process of its own; seconds, and MB of memory at its peak."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.artifacts", "--phase", name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    said = json.loads(done.stdout.splitlines()[-1])
    return said["seconds"], said["peak"]


def work_of(name: str, arguments: Sequence[str]) -> Callable[[], object]:
    """What a phase does once everything is imported and opened."""
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry

    root, folder = arguments
    if name.startswith("boto3"):
        import boto3

        client, (bucket, _, prefix) = boto3.client("s3"), root.removeprefix("s3://").partition("/")
        paths = sorted(Path(folder).iterdir())

        def move() -> None:
            for path in paths:
                if name == "boto3-up":
                    client.upload_file(str(path), bucket, f"{prefix}/floor/{path.name}")
                else:
                    client.download_file(bucket, f"{prefix}/floor/{path.name}", f"{folder}-down-{path.name}")

        return move
    registry = ModelRegistry(Log(Lake(root)), actor=Actor("bench"))
    if name == "up":
        registry.register_model("m")
    registry.list_models()
    match name:
        case "idle":
            return lambda: None
        case "up" | "again":
            return lambda: registry.create_model_version("m", folder)
        case "down":
            return lambda: registry.download("m@v1", Path(folder))
        case "verify":
            return lambda: registry.verify_version("m@v1")
    raise ValueError(name)


def one_phase(name: str, arguments: Sequence[str]) -> None:
    work = work_of(name, arguments)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak": peak_mb()}))


def by_hand(folder: Path, copy: Path) -> tuple[float, float]:
    """Seconds of `sha256sum` over the files, and of `cp` with `sync`."""
    paths = [str(path) for path in sorted(folder.iterdir())]
    started = time.perf_counter()
    subprocess.run(["sha256sum", *paths], stdout=subprocess.DEVNULL, check=True)
    hashed = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    subprocess.run(["sync", *(str(path) for path in copy.iterdir())], check=True)
    return hashed - started, time.perf_counter() - hashed


def line(what: str, size: int, seconds: float, floor: float | None = None, peak: float | None = None) -> None:
    ratio = "" if floor is None else f"{seconds / floor:>7.2f}"
    memory = "" if peak is None else f"{peak:>7,.0f} MB"
    print(
        f"{what:<46} {seconds:>8.1f} s {size / MB / seconds:>8,.0f} MB/s {ratio:>8} {memory:>11}", flush=True
    )


def on_a_folder(work: Path, size: int) -> None:
    files, copy, home, out = work / "files", work / "copy", work / "home", work / "out"
    make_files(files, size)
    real = sum(path.stat().st_size for path in files.iterdir())
    print(f"\na folder: {real / 1e9:.1f} GB in {len(list(files.iterdir()))} files")
    hashing, copying = by_hand(files, copy)
    shutil.rmtree(copy)
    floor = hashing + copying
    line("floor: sha256sum", real, hashing)
    line("floor: cp and sync", real, copying)
    line("floor: both", real, floor, floor)
    _, idle = phase("idle", home, files)
    print(f"a process that has opened the registry and moved nothing: {idle:,.0f} MB")
    for name, what in (("up", "create_model_version"), ("again", "the same again, stored once")):
        seconds, peak = phase(name, home, files)
        line(what, real, seconds, floor, peak)
    shutil.rmtree(files)
    for name, what in (("down", "download, verified"), ("down", "download again, verified in place")):
        seconds, peak = phase(name, home, out)
        line(what, real, seconds, floor, peak)
    shutil.rmtree(out)
    seconds, peak = phase("verify", home, out)
    line("verify_version", real, seconds, hashing, peak)
    shutil.rmtree(home)


def in_a_bucket(work: Path, size: int) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
            said += server.stderr.readline()
        subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        environment = {
            "AWS_ENDPOINT_URL": found[0],
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        make_bucket = "import boto3; boto3.client('s3').create_bucket(Bucket='bench-artifacts')"
        subprocess.run([sys.executable, "-c", make_bucket], check=True, env={**os.environ, **environment})
        _phases_in_a_bucket(work, size, environment)
    finally:
        server.kill()
        server.wait()


def _phases_in_a_bucket(work: Path, size: int, environment: dict[str, str]) -> None:
    files, home, out = work / "bucket-files", "s3://bench-artifacts/home", work / "bucket-out"
    make_files(files, size)
    real = sum(path.stat().st_size for path in files.iterdir())
    print(f"\na bucket on loopback: {real / 1e9:.1f} GB in {len(list(files.iterdir()))} files")
    hashing, _ = by_hand(files, work / "copy")
    floors = {}
    for name in ("up", "down"):
        seconds, peak = phase(f"boto3-{name}", home, files, environment=environment)
        floors[name] = seconds + hashing
        line(f"floor: sha256sum and boto3, {name}", real, floors[name], floors[name], peak)
    for name, what in (("up", "create_model_version"), ("again", "the same again, stored once")):
        seconds, peak = phase(name, home, files, environment=environment)
        line(what, real, seconds, floors["up"], peak)
    seconds, peak = phase("down", home, out, environment=environment)
    line("download, verified", real, seconds, floors["down"], peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=10.0, help="GB on a folder")
    parser.add_argument("--bucket-gb", type=float, default=1.0, help="GB in a bucket")
    parser.add_argument("--phase", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        name, *arguments = given.phase
        one_phase(name, arguments)
        return
    print(describe_machine())
    print(f"{'':<46} {'seconds':>10} {'':>13} {'x floor':>8} {'peak':>11}")
    work = Path(tempfile.mkdtemp(prefix="mlreg-bench-"))
    try:
        if given.gb:
            on_a_folder(work, int(given.gb * 1e9))
        if given.bucket_gb:
            in_a_bucket(work, int(given.bucket_gb * 1e9))
    finally:
        shutil.rmtree(work)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
