"""What a dataset is, whatever it lies in; and what is wrong with it, in one sentence."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from ml_registry_pipelines.lineage import fingerprints
from ml_registry_pipelines.lineage.fingerprints import DatasetUnreadable, fingerprint
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.errors import InvalidInput


def test_a_delta_table_is_its_version_schema_and_row_count(tmp_path):
    where = str(tmp_path / "t")
    write_deltalake(where, pa.table({"age": pa.array([1, 2], pa.int32())}))
    first = fingerprint(where)
    assert (first.format, first.rows, first.columns, first.detail["delta_version"]) == (
        "delta",
        2,
        (("age", "int32"),),
        0,
    )
    assert fingerprint(where) == first
    write_deltalake(where, pa.table({"age": pa.array([3], pa.int32())}), mode="append")
    second = fingerprint(where)
    assert (second.rows, second.detail["delta_version"]) == (3, 1)
    assert second.digest != first.digest


def test_copies_of_a_delta_table_that_went_apart_are_not_the_same(tmp_path):
    write_deltalake(str(tmp_path / "p"), pa.table({"a": [1]}))
    shutil.copytree(tmp_path / "p", tmp_path / "q")
    assert fingerprint(tmp_path / "p").digest == fingerprint(tmp_path / "q").digest
    for name in ("p", "q"):
        write_deltalake(str(tmp_path / name), pa.table({"a": [2]}), mode="append")
    assert fingerprint(tmp_path / "p").digest != fingerprint(tmp_path / "q").digest


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_are_their_bytes_and_a_folder_their_names_too(tmp_path, kind):
    folder = tmp_path / "d"
    (folder / "day=1").mkdir(parents=True)

    def put(path, values):
        if kind == "csv":
            path.write_text("x\n" + "".join(f"{v}\n" for v in values))
        else:
            pq.write_table(pa.table({"x": values}), path)

    put(folder / f"a.{kind}", [1, 2])
    put(folder / "day=1" / f"b.{kind}", [3])
    (folder / "_SUCCESS").write_text("")
    (folder / f".hidden.{kind}").write_text("no")
    found = fingerprint(folder)
    assert (found.format, found.rows, found.columns, found.detail) == (
        kind,
        3,
        (("x", "int64"),),
        {"files": 2},
    )
    one = fingerprint(folder / f"a.{kind}")
    (folder / f"a.{kind}").rename(folder / f"c.{kind}")
    assert fingerprint(folder / f"c.{kind}").digest == one.digest
    assert fingerprint(folder).digest != found.digest


def test_an_address_is_its_given_digest_and_columns():
    found = fingerprint(Uri("s3://b/k", "AB" * 32), columns=[("age", "int64")])
    assert (found.format, found.location, found.digest, found.columns, found.rows) == (
        "uri",
        "s3://b/k",
        "ab" * 32,
        (("age", "int64"),),
        None,
    )
    with pytest.raises(InvalidInput):
        fingerprint(Uri("s3://b/k", "short"))


def test_csv_files_whose_types_differ_have_the_type_that_holds_both(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("x\n1.5\n")
    assert fingerprint(tmp_path).columns == (("x", "double"),)


def test_what_cannot_be_read_is_one_sentence_that_names_it(tmp_path, monkeypatch):
    def refused(path, match):
        with pytest.raises(DatasetUnreadable, match=match):
            fingerprint(path)

    refused(tmp_path / "none", "no file and no folder")
    refused(tmp_path, "no Parquet and no CSV file")
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").write_text("y\n1\n")
    refused(tmp_path, r"only one of a\.csv and b\.csv has 'x', 'y'")
    (tmp_path / "b.csv").write_text("")
    refused(tmp_path, r"b\.csv cannot be read as csv")
    (tmp_path / "b.csv").write_text("x,x\n1,2\n")
    refused(tmp_path / "b.csv", "multiple columns named x")
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "twice.parquet")
    refused(tmp_path / "twice.parquet", "types that do not fit|cannot be read as parquet")
    (tmp_path / "twice.parquet").unlink()
    (tmp_path / "b.csv").write_text("x\n1\n1,2\n")
    refused(tmp_path / "b.csv", "cannot be read as csv")
    (tmp_path / "b.csv").unlink()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    refused(tmp_path, "Parquet and CSV files together")
    refused(tmp_path / "b.parquet", "cannot be read as parquet")
    (tmp_path / "t" / "_delta_log").mkdir(parents=True)
    refused(tmp_path / "t", "no Delta table that can be read")
    with pytest.raises(InvalidInput, match="columns are read from the data"):
        fingerprint(tmp_path / "a.csv", columns=[("x", "int64")])

    real = fingerprints._sha256

    def meanwhile(path, readable):
        found = real(path, readable)
        with path.open("a") as stream:
            stream.write("2\n")
        return found

    monkeypatch.setattr(fingerprints, "_sha256", meanwhile)
    refused(tmp_path / "a.csv", "changed while it was read")
