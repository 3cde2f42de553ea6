"""Erasure where the storage is a bucket: landing files, tables and proof, and what comes back once it was lifted."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator

import boto3
import pytest

from ml_registry_pipelines.compliance.erasure.lifting import lift
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.identity import salted_hash
from ml_registry_pipelines.telemetry.ingestion import user_salt
from tests.compliance.erasure.people import JANE, eraser, lines, others, records, request, take

HERS = re.compile(rb"(?<![\w.-])" + re.escape(JANE.encode()))
"""Her address, and not the one of somebody else that ends like it."""


def put(root: str, name: str, data: bytes) -> None:
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    key = f"{prefix}/landing/native/dt=2026-10-06/hh=00/{name}"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)


def stored(root: str) -> Iterator[tuple[str, bytes]]:
    """Every object of the bucket, as it lies there and unpacked where it is gzip."""
    bucket = root.split("/")[2]
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for each in page.get("Contents", ()):
            data = client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            yield each["Key"], data
            if each["Key"].endswith(".gz"):
                yield each["Key"], zlib.decompress(data, 31)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_person_goes_from_a_bucket_and_comes_back_only_once_the_list_lets_them(s3_root: str) -> None:
    made = records()
    put(s3_root, "a.jsonl", lines(made[:5]) + f'{{"user_id": "{JANE}", broken\n'.encode())
    put(s3_root, "b.jsonl.gz", gzip.compress(lines(made[5:10])))
    put(s3_root, "c.json", json.dumps(made[10:]).encode())
    with Lake(s3_root) as lake, Log(lake) as log:
        take(lake)
        hashed = salted_hash(user_salt(lake.root), "default", JANE)
        assert any(HERS.search(data) for _, data in stored(s3_root))
        before = [row for row in others(lake) if row["user_hash"] != hashed]
        worker = eraser(lake, log)
        jane = worker.subject([JANE])
        done = worker.erase(jane)
        assert done.complete, done.sentence()
        assert not [key for key, data in stored(s3_root) if HERS.search(data) or hashed.encode() in data]
        mentions_her = {"req-12", "req-13", "req-15"}
        left = [row for row in others(lake) if row["event_id"] not in mentions_her]
        assert left == [row for row in before if row["event_id"] not in mentions_her]
        assert [verdict.damage for verdict in verify(lake)] == [None]
        put(s3_root, "again.jsonl", lines([request(100, JANE)]))
        assert take(lake).suppressed == 1
        lift(worker.requests, jane, "the wrong person")
        put(s3_root, "after.jsonl", lines([request(101, JANE)]))
        assert (take(lake).taken, worker.erase(worker.subject([JANE])).complete) == (1, True)
        assert not [key for key, data in stored(s3_root) if HERS.search(data)]
