"""The producer helper: files that are whole, ascend by name, and are taken as they are."""

import threading
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.telemetry.ingestion import Ingestion
from ml_registry_pipelines.telemetry.producer import Form, LandingWriter, ProducerError
from ml_registry_pipelines.telemetry.sources import Scope, Source, Sources

NOW = datetime(2026, 10, 31, 12, 30, tzinfo=UTC)


def record(number: int) -> dict[str, object]:
    return {
        "event_id": f"r{number}",
        "ts": NOW,
        "tenant": "acme",
        "provider": "openai",
        "model": "gpt-4o",
        "usage": {"in_uncached": 10, "out_text": 2},
        "cost": Decimal("0.000123"),
    }


@pytest.mark.parametrize("form", [Form.JSONL, Form.JSONL_GZ])
def test_what_is_written_is_taken_as_it_is(tmp_path, form):
    writer = LandingWriter(str(tmp_path / "landing"), form=form)
    path = writer.write("native", [record(1), record(2)], now=NOW)
    assert path.startswith("native/dt=2026-10-31/hh=12/")
    assert path.endswith(f".{form.value}")
    lake = Lake(str(tmp_path / "home"))
    sources = Sources([Source("landing", str(tmp_path / "landing"))])
    taken = Ingestion(lake, sources, salt="s").take(sources.look(lake, scope=Scope.ALL, settled=True).files)
    assert (taken.taken, taken.quarantined) == (2, 0)
    with lake.read("inference_events") as reading:
        rows = reading.query("t", "SELECT event_ts, logged_cost FROM inference_events").to_pylist()
    assert rows[0] == {"event_ts": NOW, "logged_cost": Decimal("0.000123000000")}


def test_parquet_holds_the_same_records(tmp_path):
    rows = [{**record(n), "cost": None} for n in range(3)]
    path = LandingWriter(str(tmp_path / "landing"), form=Form.PARQUET).write("native", rows, now=NOW)
    assert path.endswith(".parquet")
    lake = Lake(str(tmp_path / "home"))
    sources = Sources([Source("landing", str(tmp_path / "landing"))])
    assert Ingestion(lake, sources, salt="s").take(sources.look(lake, settled=True).files).taken == 3


def test_names_ascend_also_among_threads_and_none_comes_twice(tmp_path):
    writer = LandingWriter(str(tmp_path), form=Form.JSONL)
    paths: list[str] = []

    def work() -> None:
        paths.extend(writer.write("native", [record(number)], now=NOW) for number in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 80
    one = [writer.write("native", [record(1)], now=NOW) for _ in range(50)]
    assert one == sorted(one)
    assert min(one) > max(paths)


def test_no_temporary_file_is_left(tmp_path):
    LandingWriter(str(tmp_path)).write("native", [record(1)], now=NOW)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no records"),
        ([{**record(1), "model": None}], "record 1 lacks model"),
        ([record(1), {**record(2), "tags": {"x": object()}}], "record 2 is not JSON"),
        ([{**record(1), "latency_ms": float("nan")}], "record 1 is not JSON"),
    ],
)
def test_a_record_that_cannot_be_taken_is_refused_where_it_is_written(tmp_path, records, said):
    with pytest.raises(ProducerError, match=said):
        LandingWriter(str(tmp_path)).write("native", records)
    assert list(tmp_path.rglob("*.gz")) == []
