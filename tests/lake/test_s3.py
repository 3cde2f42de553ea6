"""The lake and plain files in an object store: the same behaviour as in a folder."""

from __future__ import annotations

import pytest

from ml_registry_pipelines.lake.files import FilesError, open_folder
from ml_registry_pipelines.lake.lake import Lake, LakeError, Landed, LostRace, OutOfSequence, SnapshotGone
from ml_registry_pipelines.lake.sandbox import run_sql
from tests.lake.points import DAY, TABLE, points, values
from tests.lake.proxy import Fate, proxy_before


def test_the_four_writes_work_in_a_bucket(s3_root):
    with Lake(s3_root) as lake:
        assert lake.sequence(TABLE, "s") == 0
        assert lake.append_once(TABLE, points([1]), source="s", sequence=1) is Landed.NOW
        assert lake.append_once(TABLE, points([1]), source="s", sequence=1) is Landed.BEFORE
        with pytest.raises(OutOfSequence):
            lake.append_once(TABLE, points([1]), source="s", sequence=3)
        assert lake.append_next(TABLE, points([2]), source="s") == 2
        version = lake.version(TABLE)
        assert lake.append_expecting(TABLE, points([3]), version=version) == version + 1
        with pytest.raises(LostRace):
            lake.append_expecting(TABLE, points([3]), version=version)
        assert values(lake) == {1: 1, 2: 1, 3: 1}
        lake.replace(TABLE, points([7, 8]), predicate=f"day = '{DAY}'", source="r", sequence=1)
        assert values(lake, "day = DATE '2026-01-02'") == {7: 1, 8: 1}
        erased = lake.erase(TABLE, "value = 7.0")
        assert (erased.rows, erased.files_pending) == (1, 0)
        assert values(lake) == {8: 1}
    left = [entry.path for entry in open_folder(f"{s3_root}/tables/{TABLE}").entries("day=2026-01-02")]
    assert len(left) == 1


def test_upkeep_status_and_orphans_work_in_a_bucket(s3_root):
    with Lake(s3_root) as lake:
        for number in range(21):
            lake.append_next(TABLE, points([number]), source="s")
        lake.settle()
        open_folder(f"{s3_root}/tables/{TABLE}").write("day=2026-01-02/lost.parquet", b"nobody's")
        (before,) = lake.status()
        assert (before.rows, before.version, before.orphans) == (21, 21, 1)
        # The checkpoint that the twentieth commit asks for is of the newest one when it is made.
        assert before.commits_since_checkpoint <= 1
        assert before.log_files > 21
        done = lake.maintain(TABLE, full=True)
        assert (done.files_before, done.files_after, done.files_removed) == (21, 1, 0)
        assert values(lake) == {float(n): 1 for n in range(21)}


def test_a_query_of_a_person_works_on_a_bucket(s3_root):
    with Lake(s3_root) as lake:
        lake.append_next(TABLE, points([1], tenant="acme"), source="s")
        lake.append_next(TABLE, points([2], tenant="globex"), source="s")
        assert run_sql(lake, "SELECT value FROM model_metrics", tenant="globex")["value"].to_pylist() == [2]


def test_a_reading_in_a_bucket_notices_that_its_files_went(s3_root):
    files = open_folder(f"{s3_root}/tables/{TABLE}")
    with Lake(s3_root) as lake:
        for number in range(3):
            lake.append_next(TABLE, points([number]), source="s")
        early, late = lake.read(TABLE), lake.read(TABLE)
        assert late.sequence(TABLE, "s") == 3
        old = list(files.entries("day=2026-01-02"))
        lake.maintain(TABLE)
        for entry in old:
            files.delete(entry.path)
        assert early.query("test", "SELECT sum(value) AS s FROM model_metrics").to_pylist() == [{"s": 3}]
        with pytest.raises(SnapshotGone, match="read again"):
            late.query("test", "SELECT sum(value) AS s FROM model_metrics")


def test_two_lakes_in_one_bucket_see_each_others_rows(s3_root):
    with Lake(s3_root) as one, Lake(f"{s3_root}/") as other:
        for number in range(3):
            one.append_next(TABLE, points([number]), source="s")
            other.append_next(TABLE, points([10 + number]), source="s")
        assert one.sequence(TABLE, "s") == other.sequence(TABLE, "s") == 6
        assert values(one) == {0: 1, 1: 1, 2: 1, 10: 1, 11: 1, 12: 1}


def test_a_bucket_that_does_not_exist_is_named_in_one_sentence(s3_root):
    with (
        Lake("s3://no-such-bucket-here/lake") as lake,
        pytest.raises(LakeError, match="no-such-bucket-here") as told,
    ):
        lake.append_next(TABLE, points([1]), source="s")
    assert "\n" not in str(told.value)
    with pytest.raises(FilesError, match="s3://no-such-bucket-here"):
        list(open_folder("s3://no-such-bucket-here/lake").entries())


def test_a_store_that_cannot_be_reached_is_told_in_one_sentence():
    nowhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "max_retries": "0", "retry_timeout": "1s"}
    with (
        Lake("s3://bucket/lake", storage_options={**nowhere, **keys}) as lake,
        pytest.raises(LakeError, match="cannot be opened: Connection refused") as told,
    ):
        lake.append_next(TABLE, points([1]), source="s")
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    "root",
    ["s3://", "s3://Bucket/lake", "s3://b/lake", "s3://bucket/a b", "s3://bucket//a", "s3://bucket/a[1]"],
)
def test_an_address_that_cannot_be_is_refused(root):
    with pytest.raises(LakeError, match="an address is s3://bucket/prefix"):
        Lake(root)


@pytest.mark.soak
def test_keys_given_to_the_lake_come_before_those_of_the_environment(s3, s3_root, monkeypatch):
    for name in s3.settings():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Lake(s3_root, storage_options=s3.settings()) as lake:
        lake.append_next(TABLE, points([1]), source="s")
        assert [(t.name, t.rows) for t in lake.status()] == [(TABLE, 1)]
        assert run_sql(lake, "SELECT value FROM model_metrics", tenant=None)["value"].to_pylist() == [1]


@pytest.mark.soak  # appends show it in test_lost_answers.py
def test_a_file_is_created_by_the_one_whose_answer_was_lost(s3, s3_root):
    with proxy_before(s3.url) as proxy:
        folder = open_folder(s3_root, s3.settings(proxy.url))
        proxy.lose(Fate.FALSIFIED)
        assert folder.create("_delta_log/claim.json", b"mine") is True
        assert proxy.lost == 1
        assert folder.create("_delta_log/claim.json", b"mine") is False
