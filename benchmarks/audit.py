"""Seconds and memory to verify the chain of a long log, with anchors, and to fold it anew from the first event.

One tenant's events with payloads of some 300 bytes, in one chain. Verification runs in a
process of its own, whose peak memory is the figure; so does the replay, which drops all
projections and folds every event again. Floor in the same run: SHA-256 of as many bytes by
hashlib on one core.

    python -m benchmarks.audit
    python -m benchmarks.audit --events 10000000 --replay
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pyarrow as pa

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.registry import GOVERNANCE_EVENTS
from ml_registry_pipelines.registry.anchors import make_keys, read_anchors, write_anchor
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.projections import PROJECTIONS
from ml_registry_pipelines.registry.tail import BLOCK

TABLE = "governance_events"
AT_ONCE = 250_000
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
TIME = str(int(NOW.timestamp() * 1_000_000)).encode()


def netstring(data: bytes) -> bytes:
    return b"%d:%b," % (len(data), data)


def give_events(lake: Lake, count: int) -> int:
    """A whole chain of registrations; returns the bytes that were hashed."""
    previous, hashed_bytes, version = "", 0, lake.version(TABLE)
    rest = b"".join(map(netstring, (b"person", b"benchmark", b"register_model", b"model")))
    for start in range(0, count, AT_ONCE):
        made: dict[str, list[object]] = {
            name: [] for name in ("sequence", "id", "payload", "previous", "hash")
        }
        for n in range(start + 1, min(start + AT_ONCE, count) + 1):
            identity = f"{n:032x}"
            state = (
                f'{{"deleted":false,"description":"model number {n} of a benchmark","metadata":{{}},'
                f'"name":"model-{n}","owners":["team:risk"],"status":"active",'
                f'"tags":{{"stage":{{"type":"text","value":"live"}}}}}}'
            )
            payload = f'{{"change":{{"name":"model-{n}"}},"state":{state}}}'
            id_bytes = netstring(identity.encode())
            data = b"".join(
                (
                    netstring(b"default"),
                    netstring(b"%d" % n),
                    id_bytes,
                    id_bytes,
                    b"1:1,1:1,",
                    netstring(TIME) * 3,
                    netstring(b"p1"),
                    rest,
                    id_bytes,
                    netstring(payload.encode()),
                    b"-,-,",
                    netstring(previous.encode()),
                )
            )
            digest = hashlib.sha256(data).hexdigest()
            hashed_bytes += len(data)
            for name, value in zip(made, (n, identity, payload, previous, digest), strict=True):
                made[name].append(value)
            previous = digest
        version = lake.append_expecting(TABLE, rows(made), version=version)
    return hashed_bytes


def rows(made: dict[str, list[object]]) -> pa.Table:
    size = len(made["sequence"])
    constant = {
        "tenant": "default",
        "part": 1,
        "parts": 1,
        "actor": "p1",
        "actor_kind": "person",
        "authenticated_by": "benchmark",
        "action": "register_model",
        "entity_type": "model",
        "occurred_at": NOW,
        "recorded_at": NOW,
        "valid_from": NOW,
        "idempotency_key": None,
        "run_id": None,
    }
    varying = {
        "sequence": made["sequence"],
        "position": made["sequence"],
        "block": [(cast("int", n) - 1) // BLOCK + 1 for n in made["sequence"]],
        "payload": made["payload"],
        "event_id": made["id"],
        "command_id": made["id"],
        "entity_id": made["id"],
        "previous_hash": made["previous"],
        "hash": made["hash"],
    }
    columns = [
        pa.array(varying[f.name], f.type)
        if f.name in varying
        else pa.repeat(pa.scalar(constant[f.name], f.type), size)
        for f in GOVERNANCE_EVENTS.schema
    ]
    return pa.Table.from_arrays(columns, schema=GOVERNANCE_EVENTS.schema)


def child(what: str, root: Path) -> dict[str, float]:
    """Run a measure in a process of its own; what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audit", "--child", what, str(root)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def shown(found: dict[str, float]) -> str:
    return f"{found['seconds']:.1f} s ({found['cpu']:.1f} s of CPU), peak {found['megabytes']:,.0f} MB"


def measured(what: str, root: Path) -> None:
    start = time.perf_counter()
    with Lake(str(root / "lake")) as lake:
        if what == "verify":
            [verdict] = verify(lake, anchors=read_anchors(root / "anchors", root / "public.pem"))
            assert verdict.damage is None, verdict
            assert verdict.caveat is None, verdict
            events = verdict.events
        else:
            with Log(lake) as log:
                events = len(log.view("default").select("benchmark", "things", "name = 'model-1'"))
                events, _ = log.head("default")
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": used.ru_utime + used.ru_stime,
                "megabytes": peak_mb(),
                "events": events,
            }
        )
    )


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--events", type=int, default=1_000_000)
    given.add_argument("--replay", action="store_true", help="also fold all events anew")
    given.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = given.parse_args()
    if options.child:
        measured(options.child[0], Path(options.child[1]))
        return
    print(describe_machine())
    root = Path(tempfile.mkdtemp(prefix="mlreg-audit-"))
    try:
        with Lake(str(root / "lake")) as lake:
            start = time.perf_counter()
            hashed = give_events(lake, options.events)
            print(f"{options.events:,} events made in {time.perf_counter() - start:.0f} s")
            make_keys(root / "private.pem", root / "public.pem")
            start = time.perf_counter()
            write_anchor(lake, root / "anchors", root / "private.pem", public=root / "public.pem", now=NOW)
            print(f"first anchor of all of them: {time.perf_counter() - start:.1f} s")
        for _ in range(3 if options.events <= 1_000_000 else 1):
            found = child("verify", root)
            print(f"verify: {shown(found)}")
        start = time.perf_counter()
        block = b"x" * (1 << 20)
        for _ in range(hashed // len(block)):
            hashlib.sha256(block).digest()
        print(f"floor, hashlib over {hashed / 2**20:,.0f} MiB: {time.perf_counter() - start:.1f} s")
        if options.replay:
            for name in PROJECTIONS:
                shutil.rmtree(root / "lake" / "tables" / name, ignore_errors=True)
            found = child("replay", root)
            print(f"full replay: {shown(found)}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
