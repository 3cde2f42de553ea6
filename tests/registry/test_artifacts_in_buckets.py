"""Artifacts in a bucket: in parts, resumed, by links, and past a store that fails."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from ml_registry_pipelines.lake.files import S3Folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import blobs, purging
from ml_registry_pipelines.registry import bucket as bucket_module
from ml_registry_pipelines.registry import links as links_module
from ml_registry_pipelines.registry.artifacts import (
    ArtifactChanged,
    ArtifactElsewhere,
    ArtifactRefused,
    ArtifactStore,
    File,
    Uploaded,
)
from ml_registry_pipelines.registry.bucket import BucketBlobs, Budget, piece_size
from ml_registry_pipelines.registry.cache import Cache
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.purging import purge
from tests.registry.conftest import ACTOR
from tests.registry.faulty import Faulty, faulty_before

MB = 1 << 20


@pytest.fixture
def lake(s3_root: str) -> Iterator[Lake]:
    with Lake(s3_root, process="test") as lake:
        yield lake


@pytest.fixture
def bucket_registry(lake: Lake) -> Iterator[ModelRegistry]:
    with Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("m")
        yield registry


@pytest.fixture
def faulty(s3) -> Iterator[Faulty]:
    with faulty_before(s3.url) as proxy:
        yield proxy


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(8 * MB) * 3 + b"tail")
    return path


def objects(root: str, prefix: str = "artifacts/") -> list[Any]:
    bucket, _, home = root.removeprefix("s3://").partition("/")
    answer = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{home}/{prefix}")
    return list(answer.get("Contents", []))


def uploads_under_way(root: str) -> list[Any]:
    bucket = root.removeprefix("s3://").partition("/")[0]
    return list(boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.soak
def test_a_large_file_goes_up_in_parts_and_comes_back(bucket_registry, s3_root, weights, tmp_path):
    bucket_registry.create_model_version("m", weights)
    (blob,) = objects(s3_root, "artifacts/blobs/")
    assert blob["ETag"].strip('"').endswith("-4")
    (file,) = bucket_registry.download("m@v1", tmp_path / "out")
    assert file.read_bytes() == weights.read_bytes()
    bucket_registry.verify_version("m@v1")
    bucket_registry.create_model_version("m", weights)
    assert len(objects(s3_root, "artifacts/blobs/")) == 1
    assert uploads_under_way(s3_root) == []


UPLOADER = """
import os, signal, sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import bucket
from ml_registry_pipelines.registry.artifacts import ArtifactStore
bucket.REQUESTS = 1
put, done = bucket.BucketBlobs._put_part, []
def killed_after_two(*arguments):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    return put(*arguments)
bucket.BucketBlobs._put_part = killed_after_two
ArtifactStore(Lake(sys.argv[1])).store(sys.argv[2])
"""


def test_a_killed_upload_goes_on_with_the_parts_that_arrived(lake, s3, s3_root, weights, faulty):
    done = subprocess.run([sys.executable, "-c", UPLOADER, s3_root, str(weights)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert objects(s3_root) == []
    assert len(uploads_under_way(s3_root)) == 1
    with Lake(s3_root, storage_options=s3.settings(faulty.url)) as counted:
        store = ArtifactStore(counted)
        stored = store.store(weights)
        assert faulty.count("parts") == 2
        store.verify(stored.digest)
    assert uploads_under_way(s3_root) == []


def test_parts_of_other_bytes_are_not_used(lake, s3_root, weights):
    store = ArtifactStore(lake)
    blobs = store.blobs
    assert isinstance(blobs, BucketBlobs)
    sha256 = digest(weights.read_bytes())
    place: Any = {
        "Bucket": blobs.folder.bucket,
        "Key": blobs.key(f"blobs/{sha256[:2]}/{sha256}"),
    }
    upload = blobs.client.create_multipart_upload(**place)["UploadId"]
    blobs.client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"x" * 8 * MB)
    store.verify(store.store(weights).digest)


@pytest.mark.soak
def test_a_store_that_fails_one_call_in_five_still_takes_and_gives_everything(
    s3, s3_root, faulty, weights, tmp_path, monkeypatch
):
    for name, value in s3.settings(faulty.url).items():
        monkeypatch.setenv(name, value)
    with Lake(s3_root) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        faulty.fail_every(5)
        registry.register_model("m")
        registry.create_model_version("m", weights)
        (file,) = registry.download("m@v1", tmp_path / "out")
        faulty.fail_every(0)
        assert file.read_bytes() == weights.read_bytes()
        assert [v.number for v in registry.list_versions("m")] == [1]
    assert faulty.count("failed") > 3


def test_writes_that_landed_without_an_answer_are_neither_lost_nor_doubled(
    bucket_registry, s3, s3_root, faulty, weights, tmp_path
):
    small = tmp_path / "small.bin"
    small.write_bytes(b"small")
    with Lake(s3_root, storage_options=s3.settings(faulty.url)) as lake:
        for path, writes in ((small, 2), (weights, 7)):
            # Begin, four parts, completion, manifest: the answer to each of them is lost.
            faulty.lose_writes(writes)
            stored = ArtifactStore(lake).store(path)
            bucket_registry.artifacts.verify(stored.digest)
    assert faulty.count("lost") == 9
    blobs = [entry["Key"].rsplit("/", 1)[-1] for entry in objects(s3_root, "artifacts/blobs/")]
    assert sorted(blobs) == sorted(digest(p.read_bytes()) for p in (small, weights))


def test_an_object_that_was_overwritten_is_found_named_and_healed_by_storing_again(
    bucket_registry, s3_root, weights, tmp_path
):
    bucket_registry.create_model_version("m", weights)
    (blob,) = objects(s3_root, "artifacts/blobs/")
    bucket = s3_root.removeprefix("s3://").partition("/")[0]
    boto3.client("s3").put_object(Bucket=bucket, Key=blob["Key"], Body=b"x" * weights.stat().st_size)
    with pytest.raises(ArtifactChanged, match=r"m@v1: weights\.bin .* was changed"):
        bucket_registry.verify_version("m@v1")
    with pytest.raises(ArtifactChanged, match="was changed"):
        bucket_registry.download("m@v1", tmp_path / "out")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [weights]
    bucket_registry.create_model_version("m", weights)
    bucket_registry.verify_version("m@v1")


def test_a_download_that_broke_off_goes_on_where_it_was(lake, weights, tmp_path, monkeypatch):
    store = ArtifactStore(lake)
    stored = store.store(weights)
    (tmp_path / "out").mkdir()
    part = tmp_path / "out" / f".{digest(weights.read_bytes())[:32]}.part"
    part.write_bytes(weights.read_bytes()[: 10 * MB])
    asked: list[int] = []
    fetching = BucketBlobs._range

    def counting(self: BucketBlobs, path: str, offset: int, count: int, etag: str) -> bytes:
        asked.append(offset)
        return fetching(self, path, offset, count, etag)

    monkeypatch.setattr(BucketBlobs, "_range", counting)
    (fetched,) = store.download(stored.digest, tmp_path / "out")
    assert fetched.path.read_bytes() == weights.read_bytes()
    assert sorted(asked) == [10 * MB, 18 * MB]
    assert not part.exists()


def test_the_second_download_comes_from_the_cache_and_a_spoilt_cache_is_noticed(
    bucket_registry, s3_root, weights, tmp_path
):
    cache = Cache(tmp_path / "cache", limit=100 * MB)
    bucket_registry.create_model_version("m", weights)

    def fetch(name: str) -> str:
        (fetched,) = bucket_registry.fetch("m@v1", tmp_path / name, cache=cache)
        assert fetched.path.read_bytes() == weights.read_bytes()
        return str(fetched.origin)

    assert [fetch(name) for name in ("a", "b", "b")] == ["store", "cache", "there"]
    ((kept, _),) = cache.files()
    kept.chmod(0o644)
    kept.write_bytes(b"y" * weights.stat().st_size)
    assert [fetch(name) for name in ("c", "d")] == ["store", "cache"]
    (blob,) = objects(s3_root, "artifacts/blobs/")
    bucket = s3_root.removeprefix("s3://").partition("/")[0]
    boto3.client("s3").delete_object(Bucket=bucket, Key=blob["Key"])
    assert fetch("e") == "cache"


def test_a_cache_forgets_what_was_used_longest_ago(tmp_path):
    cache = Cache(tmp_path / "cache", limit=250)
    for number in range(4):
        name = f"{number:064x}"

        def write(place: Path) -> None:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(b"x" * 100)

        cache.take(name, write)
        (path,) = (p for p, _ in cache.files() if p.name == name)
        os.utime(path, (number, number))
    assert cache.shrink(keep=[f"{0:064x}"]) == 200
    assert [int(path.name, 16) for path, _ in cache.files()] == [0, 3]


def test_memory_is_bounded_whatever_the_size_of_a_file():
    assert piece_size(10 << 30) == 8 * MB
    assert -(-(5 << 40) // piece_size(5 << 40)) <= 10_000
    budget = Budget(100)
    assert [budget.try_take(60), budget.try_take(60), budget.try_take(40)] == [True, False, True]
    budget.give_back(100)
    assert budget.try_take(1_000)  # Once nobody else holds any.


# -- links -----------------------------------------------------------------------------------


def put(links, contents: dict[str, bytes]) -> list[int]:
    return [
        requests.put(
            link.url,
            data=contents[link.path][link.offset : link.offset + link.size],
            headers=dict(link.headers),
            timeout=30,
        ).status_code
        for link in links
    ]


def announced(contents: dict[str, bytes]) -> list[File]:
    return [File(path, digest(data), len(data)) for path, data in contents.items()]


def test_files_come_and_go_by_links(bucket_registry, s3_root, tmp_path, monkeypatch):
    monkeypatch.setattr(links_module, "LINK_PART", 6 * MB)
    contents = {"model/weights.bin": os.urandom(13 * MB), "model/größe.json": b"{}", "empty": b""}
    ticket = bucket_registry.links.begin(announced(contents))
    assert [link.path for link in ticket.links].count("model/weights.bin") == 3
    assert all("X-Amz-Signature" in link.url for link in ticket.links)
    assert set(put(ticket.links, contents)) == {200}
    version = bucket_registry.create_model_version("m", Uploaded(ticket.id), idempotency_key="k")
    assert (version.content["form"], version.content["files"]) == ("folder", 3)
    again = bucket_registry.create_model_version("m", Uploaded(ticket.id), idempotency_key="k")
    assert again.number == version.number
    for file in bucket_registry.download("m@v1", tmp_path / "out"):
        assert file.read_bytes() == contents[file.relative_to(tmp_path / "out").as_posix()]
    for link in bucket_registry.download_links("m@v1"):
        answer = requests.get(link.url, timeout=120)
        assert digest(answer.content) == link.sha256 == digest(contents[link.path])
        assert answer.headers["Content-Disposition"].startswith("attachment")
    assert [o["Key"] for o in objects(s3_root, "artifacts/incoming/uploads/")] == []


def test_an_upload_with_other_bytes_missing_files_or_of_another_tenant_is_refused(bucket_registry, s3_root):
    links = bucket_registry.links
    good = {"w.bin": b"good" * 100}

    absent = links.begin(announced(good))
    with pytest.raises(ArtifactRefused, match=r"w\.bin was not uploaded"):
        bucket_registry.create_model_version("m", Uploaded(absent.id))

    for evil, why in ((b"evil" * 100, "other bytes than announced"), (b"evil", "announced with 400")):
        ticket = links.begin(announced(good))
        put(ticket.links, {"w.bin": evil + b" " * 400})  # More than was announced is cut by the test only.
        bucket = s3_root.removeprefix("s3://").partition("/")[0]
        (found,) = objects(s3_root, f"artifacts/incoming/uploads/{ticket.id}/")
        boto3.client("s3").put_object(Bucket=bucket, Key=found["Key"], Body=evil)
        with pytest.raises(ArtifactRefused, match=why):
            bucket_registry.create_model_version("m", Uploaded(ticket.id))

    ticket = links.begin(announced(good))
    put(ticket.links, good)
    other = ModelRegistry(bucket_registry.log, actor=ACTOR, tenant="other")
    other.register_model("m")
    for stolen in (ticket.id, "../../x", "0" * 32):
        with pytest.raises(NotFound, match="no upload"):
            other.create_model_version("m", Uploaded(stolen))
    assert objects(s3_root, "artifacts/blobs/") == []
    assert bucket_registry.list_versions("m") == []
    bucket_registry.create_model_version("m", Uploaded(ticket.id))
    bucket_registry.verify_version("m@v1")


def test_an_upload_that_cannot_be_is_refused_before_there_is_a_link(bucket_registry, s3_root):
    for files, why in (
        ([File("../x", "0" * 64, 1)], "no path inside"),
        ([File("a" * 10_000, "0" * 64, 1)], "too long"),
        ([File("a", "0" * 64, 1), File("a/b", "0" * 64, 1)], "a file and a folder at once"),
        ([File("a", "0" * 64, 1), File("a", "0" * 64, 1)], "given twice"),
        ([File("a", "0" * 63, 1)], "no SHA-256"),
        ([File("a", "0" * 64, -1)], "number of bytes"),
        ([], "1 to 100,000 files"),
    ):
        with pytest.raises((ArtifactRefused, InvalidInput), match=why):
            bucket_registry.links.begin(files)
    with pytest.raises(InvalidInput, match="1 second to 7 days"):
        bucket_registry.links.begin([File("a", "0" * 64, 1)], holds=timedelta(days=8))
    assert objects(s3_root) == []


def test_no_link_leads_into_a_folder(registry, tmp_path):
    registry.register_model("m")
    (tmp_path / "w").write_bytes(b"w")
    registry.create_model_version("m", tmp_path / "w")
    with pytest.raises(ArtifactElsewhere, match="links lead into buckets only"):
        registry.download_links("m@v1")


def test_the_resource_hands_dagsters_client_to_the_store_and_its_links_work(s3_root, lake, tmp_path):
    from resources.artifacts import ArtifactsResource

    resource = ArtifactsResource(root=s3_root, s3_attempts=3)
    contents = {"w.bin": b"weights"}
    ticket = resource.upload(announced(contents), tenant="acme")
    assert put(ticket.links, contents) == [200]
    with Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR, tenant="acme", s3=resource.s3().get_client())
        registry.register_model("m")
        version = registry.create_model_version("m", Uploaded(ticket.id))
    (link,) = resource.download_links(version.content_digest, tenant="acme", holds=timedelta(minutes=5))
    assert "X-Amz-Expires=300" in link.url
    assert requests.get(link.url, timeout=120).content == b"weights"


# -- purging ---------------------------------------------------------------------------------


def test_a_purge_of_a_bucket_takes_what_nobody_needs_and_broken_off_uploads(
    bucket_registry, s3_root, weights, tmp_path
):
    (tmp_path / "kept").write_bytes(b"kept")
    bucket_registry.create_model_version("m", tmp_path / "kept")
    (tmp_path / "stray").write_bytes(b"stray")
    bucket_registry.artifacts.store(tmp_path / "stray")
    bucket_registry.links.begin([File("a", "0" * 64, 100 * MB)])
    later = datetime.now(UTC) + timedelta(days=8)
    early = purge(bucket_registry.log, bucket_registry.artifacts)
    assert (early.files, early.leftovers) == (0, 1)  # The server dates every upload in parts to 2010.
    done = purge(bucket_registry.log, bucket_registry.artifacts, now=later)
    assert (done.files, done.bytes > 5, done.kept_files) == (2, True, 2)
    assert uploads_under_way(s3_root) == []
    bucket_registry.verify_version("m@v1")
    assert bucket_module.PIECE == 8 * MB


def test_a_version_that_comes_while_a_bucket_is_purged_keeps_its_files(
    bucket_registry, tmp_path, monkeypatch
):
    (tmp_path / "late").write_bytes(b"late")
    bucket_registry.artifacts.store(tmp_path / "late")
    move = S3Folder.move
    made: list[object] = []

    def beside_a_command(self: S3Folder, path: str, to: str) -> None:
        if not made:
            made.append(bucket_registry.create_model_version("m", tmp_path / "late"))
        move(self, path, to)

    monkeypatch.setattr(S3Folder, "move", beside_a_command)
    monkeypatch.setattr(blobs, "CLAIM_AFTER", timedelta(0))
    # The server dates what it gets; the file is to be old and the claim new.
    monkeypatch.setattr(purging, "_stays", lambda *_: False)
    monkeypatch.setattr(purging, "_check_all_there", lambda *_: None)
    assert purge(bucket_registry.log, bucket_registry.artifacts).files == 0
    assert made
    bucket_registry.verify_version("m@v1")
