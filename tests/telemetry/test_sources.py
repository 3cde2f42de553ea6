"""Sources: what a look finds, and what a wrong configuration is told."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.telemetry.sources import (
    FileRef,
    Scope,
    Source,
    Sources,
    SourcesError,
    hour_of,
    parse_sources,
)

NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


def put(root: Path, path: str, text: str = "{}\n") -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def taken(lake: Lake, file: FileRef, *, batch: int = 1, digest: str = "d") -> None:
    row = {
        "source": file.source,
        "path": file.path,
        "part": 0,
        "first_line": 1,
        "last_line": 1,
        "complete": True,
        "size": file.size,
        "modified_at": file.modified_at,
        "etag": file.etag,
        "digest": digest,
        "dialect": "native",
        "batch": batch,
        "rows_in": 1,
        "taken": 1,
        "duplicates": 0,
        "quarantined": 0,
        "ignored": 0,
        "recorded_at": NOW,
    }
    rows = pa.Table.from_pylist([row], schema=TABLES["ingested_files"].schema)
    lake.append_once("ingested_files", rows, source="inference_events", sequence=batch)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Lake, Sources]:
    landing = tmp_path / "landing"
    return landing, Lake(str(tmp_path / "home")), Sources([Source("landing", str(landing))])


def test_a_file_is_ready_at_the_second_look_that_finds_it_unchanged(world):
    landing, lake, sources = world
    put(landing, "native/dt=2026-11-01/hh=12/a.jsonl")
    first = sources.look(lake, now=NOW)
    assert (first.files, first.growing) == ((), 1)
    second = sources.look(lake, now=NOW + timedelta(seconds=2), memory=first.memory)
    assert [f.path for f in second.files] == ["native/dt=2026-11-01/hh=12/a.jsonl"]


def test_a_file_that_grew_between_two_looks_waits_for_another(world):
    landing, lake, sources = world
    file = put(landing, "native/dt=2026-11-01/hh=12/a.jsonl")
    first = sources.look(lake, now=NOW)
    file.write_text("{}\n{}\n")
    second = sources.look(lake, now=NOW + timedelta(seconds=2), memory=first.memory)
    assert (second.files, second.growing) == ((), 1)
    assert sources.look(lake, now=NOW + timedelta(seconds=4), memory=second.memory).files


def test_two_looks_within_a_second_do_not_agree_that_a_file_has_settled(world):
    landing, lake, sources = world
    put(landing, "native/a.jsonl")
    first = sources.look(lake, now=NOW)
    assert not sources.look(lake, now=NOW + timedelta(seconds=0.5), memory=first.memory).files


@pytest.mark.parametrize("name", [".a.jsonl", "a.jsonl.tmp", "_a.jsonl", "a.jsonl.part", ".staging/a.jsonl"])
def test_a_file_under_a_temporary_name_is_not_seen(world, name):
    landing, lake, sources = world
    put(landing, f"native/{name}")
    look = sources.look(lake, settled=True)
    assert (look.files, look.growing) == ((), 0)


def test_files_of_any_hour_are_found_however_late_they_come(world):
    landing, lake, sources = world
    for place in ("dt=2026-11-01/hh=12", "dt=2026-11-01/hh=09", "dt=2026-10-31/hh=23", "dt=2025-01-01/hh=00"):
        put(landing, f"native/{place}/a.jsonl")
        found = sources.look(lake, scope=Scope.ALL, settled=True).files
        assert [f.path for f in found] == [f"native/{place}/a.jsonl"]
        taken(lake, found[0], batch=lake.sequence("ingested_files", "inference_events") + 1)


def test_a_slow_listing_looks_back_two_hours_only_and_the_reconcile_finds_the_rest(world):
    landing, lake, sources = world
    put(landing, "native/dt=2026-11-01/hh=12/a.jsonl")
    put(landing, "native/dt=2026-11-01/hh=09/b.jsonl")
    slow = '{"seen": {}, "seconds": {"landing": 9.0}}'
    recent = sources.look(lake, now=NOW, memory=slow, settled=True)
    assert [f.path for f in recent.files] == ["native/dt=2026-11-01/hh=12/a.jsonl"]
    assert len(sources.look(lake, scope=Scope.ALL, now=NOW, memory=slow, settled=True).files) == 2


def test_a_taken_file_is_not_found_again_and_a_changed_one_is_named(world):
    landing, lake, sources = world
    file = put(landing, "native/a.jsonl")
    (found,) = sources.look(lake, settled=True).files
    taken(lake, found)
    assert sources.look(lake, scope=Scope.ALL, settled=True).files == ()
    file.write_text('{"other": 1}\n')
    look = sources.look(lake, scope=Scope.ALL, settled=True)
    assert look.files == ()
    assert "native/a.jsonl" in look.changed[0].message
    assert "changed after it was taken" in look.changed[0].message


def test_a_copy_with_another_time_and_the_same_bytes_has_not_changed(world):
    import hashlib

    landing, lake, sources = world
    file = put(landing, "native/a.jsonl")
    (found,) = sources.look(lake, settled=True).files
    taken(lake, found, digest=hashlib.sha256(file.read_bytes()).hexdigest())
    os.utime(file, (1, 1))
    assert sources.look(lake, scope=Scope.ALL, settled=True).changed == ()


def test_the_limits_bound_a_batch_and_the_rest_waits(world):
    landing, lake, sources = world
    for number in range(5):
        put(landing, f"native/{number}.jsonl", "x" * 100)
    look = sources.look(lake, settled=True, limit_files=3)
    assert ([f.path[-7:] for f in look.files], look.waiting) == (["0.jsonl", "1.jsonl", "2.jsonl"], 2)
    assert len(sources.look(lake, settled=True, limit_bytes=250).files) == 2
    assert len(sources.look(lake, settled=True, limit_bytes=1).files) == 1


def test_a_source_that_cannot_be_listed_does_not_hide_the_others(tmp_path):
    put(tmp_path, "good/native/a.jsonl")
    put(tmp_path, "bad/native")
    sources = Sources(
        [Source("bad", str(tmp_path / "bad" / "native" / "x")), Source("good", str(tmp_path / "good"))]
    )
    look = sources.look(Lake(str(tmp_path / "home")), settled=True)
    assert [f.source for f in look.files] == ["good"]
    assert "bad" in look.problems[0]


def test_a_file_whose_name_is_not_utf8_is_a_problem_and_hides_no_other(world):
    landing, lake, sources = world
    (first,) = (put(landing, "a.jsonl"), sources.look(lake, settled=True).files)[1]
    taken(lake, first)
    put(landing, "b.jsonl")
    with open(os.fsencode(landing) + b"/bad\xff.jsonl", "w"):  # noqa: PTH123 - a path of bytes
        pass
    look = sources.look(lake, settled=True)
    assert [file.path for file in look.files] == ["b.jsonl"]
    assert look.problems == (
        "bad\\xff.jsonl of source 'landing' has a name that is not UTF-8; give it another",
    )


def test_the_folder_forces_the_dialect_and_the_hour_gives_the_base_time():
    source = Source("s", "/nowhere")
    assert source.dialect_of("llmperf/dt=2026-10-31/hh=05/x.csv", ["llmperf"]) == "llmperf"
    assert source.dialect_of("other/x.csv", ["llmperf"]) is None
    assert source.dialect_of("llmperf", ["llmperf"]) is None
    assert hour_of("llmperf/dt=2026-10-31/hh=05/x.csv") == datetime(2026, 10, 31, 5, tzinfo=UTC)
    assert hour_of("llmperf/dt=2026-10-31/hh=77/x.csv") is None
    file = FileRef("s", "x.csv", 1, NOW)
    assert source.base_time_of(file) == NOW


def test_a_run_config_holds_a_file_there_and_back():
    file = FileRef("s", "a/b.jsonl", 3, NOW.replace(microsecond=123456), "etag")
    assert FileRef.from_config(file.to_config()) == file


def test_a_full_configuration_is_read(tmp_path):
    path = put(
        tmp_path,
        "sources.yaml",
        """
        sources:
          - name: gateway
            folder: s3://logs/litellm
            prefix: prod/
            dialect: litellm
            tenant_field: metadata.user_api_key_org_id
            time_zone: Europe/Berlin
            base_time: 2026-10-31T00:00:00
          - name: local
            folder: logs
            pattern: "*.jsonl"
            tenant: " acme "
            cost_unit: cents
        """,
    )
    gateway, local = parse_sources(path, home="/home")
    assert (gateway.folder, gateway.prefix, gateway.dialect) == ("s3://logs/litellm", "prod", "litellm")
    assert gateway.base_time == datetime(2026, 10, 30, 23, tzinfo=UTC)
    assert (local.folder, local.tenant, local.pattern) == (str(tmp_path / "logs"), "acme", "*.jsonl")
    assert (gateway.cost_unit, local.cost_unit) == (None, "cents")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources: [", "is not YAML at line"),
        ("a: 1", "must hold a list called `sources`"),
        ("sources: []", "must hold a list called `sources`"),
        ("sources: [{name: a, folder: b}]\nx: 1", "'x' at its top"),
        ("sources: [1]", "source 1 is not a mapping"),
        ("sources: [{folder: b}]", "`name` is missing"),
        ("sources: [{name: a}]", "(a): `folder` is missing"),
        ("sources: [{name: a, folder: b, dialet: x}]", "unknown key 'dialet'; did you mean 'dialect'?"),
        ("sources: [{name: a, folder: b, dialect: litelm}]", "no dialect 'litelm'; did you mean 'litellm'?"),
        ("sources: [{name: a, folder: b, tenant: x, tenant_field: y}]", "exclude each other"),
        ("sources: [{name: a, folder: b, time_zone: Mars/Olympus}]", "no time zone 'Mars/Olympus'"),
        ("sources: [{name: a, folder: b, base_time: soon}]", "`base_time` 'soon' is no time"),
        ("sources: [{name: a, folder: b, tenant: 5}]", "`tenant` must be text, not 5"),
        ("sources: [{name: 'a b', folder: b}]", "`name` may hold"),
        ("sources: [{name: null, folder: b}]", "`name` is missing"),
        ("sources: [{name: a, folder: null}]", "(a): `folder` is missing"),
        ("sources: [{name: a, folder: ''}]", "(a): `folder` is empty"),
        ("sources: [{name: a, folder: 'gs://b/c'}]", "'gs://b/c' is neither a folder"),
        ('sources: [{name: a, folder: "a\\0b"}]', "is neither a folder"),
        ("sources: [{name: a, folder: ~nosuchuser/x}]", "names the home of nobody"),
        ("sources: [{name: a, folder: b, tenant: ''}]", "`tenant` is empty"),
        ("sources: [{name: a, folder: b, tenant: '  '}]", "`tenant` is empty"),
        ("sources: [{name: a, folder: b, tenant_field: ''}]", "`tenant_field` is empty"),
        (f"sources: [{{name: a, folder: b, tenant: {'x' * 129}}}]", "longer than 128 characters"),
        ('sources: [{name: a, folder: b, tenant: "a\\nb"}]', "control characters"),
        ("sources: [{name: a, folder: b, time_zone: localtime}]", "no time zone 'localtime'"),
        ("sources: [{name: a, folder: b, time_zone: right/UTC}]", "no time zone 'right/UTC'"),
        (
            "sources: [{name: a, folder: b, cost_unit: pence}]",
            "`cost_unit` is 'pence'; write currency or cents",
        ),
        ("sources: [{name: a, folder: b, base_time: 2026-13-45}]", "'2026-13-45' is no time"),
        ("sources: [{name: a, folder: b, base_time: 2026-10-31T25:00:00Z}]", "is no time"),
        ("sources: [{name: a, folder: b, base_time: 0001-01-01T00:00:00+14:00}]", "is no time"),
        ("sources: [{name: a, folder: b, prefix: !!int x}]", "is not YAML at line 1"),
        ("sources:\n- name: a\n  folder: b\n  folder: c", "line 2, column 3: 'folder' stands twice"),
        ("[" * 3000, "nested too deeply"),
        ("sources: [{name: a, folder: b}, {name: a, folder: c}]", "two sources called 'a'"),
    ],
)
def test_a_wrong_configuration_is_told_what_where_and_what_to_do(tmp_path, text, said):
    path = put(tmp_path, "sources.yaml", text)
    with pytest.raises(SourcesError) as wrong:
        parse_sources(path, home="/home")
    assert said in str(wrong.value)
    assert str(path) in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_a_missing_configuration_file_is_named(tmp_path):
    with pytest.raises(SourcesError, match=r"nowhere\.yaml cannot be read"):
        parse_sources(tmp_path / "nowhere.yaml", home="/home")
