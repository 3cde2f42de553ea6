"""`mlreg` from a shell: what it takes, and what it says of what it cannot take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_registry_pipelines.cli import main as cli

Mlreg = Callable[..., tuple[int, str]]


@pytest.fixture
def mlreg(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mlreg:
    """Runs a command; its exit status, and all that it printed."""
    monkeypatch.delenv("MLREG_CONTRACT_PRICES", raising=False)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mlreg", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capfd.readouterr()
        return status, said.out + said.err

    return run


def put(path: Path, event_id: str = "e1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "event_id": event_id,
        "attempt": 1,
        "ts": "2026-11-01T12:00:00.000Z",
        "provider": "openai",
        "model": "gpt-4o",
        "status": "error_unbilled",
        "error_type": "rate_limited",
    }
    path.write_text(json.dumps(record) + "\n")
    return path


def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: object) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text(f"sources:\n  - name: logs\n    folder: {folder}\n")
    monkeypatch.setenv("MLREG_SOURCES", str(file))


@pytest.mark.parametrize("port", ["0", "99999", "-1"])
def test_a_port_that_cannot_be_is_a_wrong_argument(mlreg: Mlreg, port: str) -> None:
    status, said = mlreg("ui", "--port", port)
    assert status == 2
    assert "1<=x<=65535" in said


@pytest.mark.parametrize("seconds", ["-1", "0"])
def test_a_query_needs_some_time(mlreg: Mlreg, seconds: str) -> None:
    status, said = mlreg("sql", "select 1", "--timeout", seconds)
    assert status == 2
    assert "--timeout" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "--dry-run", "a" * 10_000),
        ("artifacts", "verify", "\udcff"),
        ("audit", "export", "--tenant", "\udcff", "elsewhere/"),
        ("datasets", "track", "d", "a" * 10_000),
        ("ai-act", "form", "m", "--output", "nowhere/form.yaml"),
        ("artifacts", "purge", "--grace-days", "nan"),
        ("alerts", "ack", "x", "--hours", "inf"),
        ("alerts", "list", "--limit", "-1"),
        ("models", "register", "m" * 10_000),
        ("costs", "summary", "--since", "z" * 10_000),
    ],
    ids=lambda arguments: " ".join(arguments)[:30].encode("ascii", "replace").decode(),
)
def test_what_nothing_can_be_named_is_one_short_sentence(
    mlreg: Mlreg, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    home.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    status, said = mlreg(*arguments)
    assert status in {1, 2}, said
    assert len(said) < 1_200
    assert "Traceback" not in said


def test_an_empty_tenant_is_not_everybody(mlreg: Mlreg, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlreg("sql", "select 1", "--tenant", "")[0] == 2
    monkeypatch.setenv("MLREG_TENANT", " ")
    status, said = mlreg("sql", "select 1")
    assert status == 2
    assert "the tenant is empty; name one, or unset MLREG_TENANT" in said


def test_an_empty_file_name_is_said_to_be_empty(mlreg: Mlreg) -> None:
    status, said = mlreg("ingest", "")
    assert status == 2
    assert "empty name" in said


def test_a_pipe_is_refused_by_name_and_skipped_in_a_source(mlreg: Mlreg, home: Path) -> None:
    put(home / "landing" / "native" / "a.jsonl")
    os.mkfifo(home / "landing" / "native" / "p.jsonl")
    status, said = mlreg("ingest", home / "landing" / "native" / "p.jsonl")
    assert (status, said.count("\n")) == (1, 1)
    assert "p.jsonl cannot be read: it is no regular file" in said
    status, said = mlreg("ingest")
    assert status == 0
    assert "1 files: 1 rows in = 1 taken" in said


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(mlreg: Mlreg, tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/bad\xff.jsonl", "w"):  # noqa: PTH123 - a path of bytes
        pass
    status, said = mlreg("ingest", os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jsonl"))
    assert (status, said.count("\n")) == (1, 1)
    assert "bad\\xff.jsonl of source 'files' has a name that is not UTF-8" in said


def test_a_home_in_a_store_that_is_not_known_is_refused(
    mlreg: Mlreg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLREG_HOME", "gs://bucket/x")
    assert mlreg("sources") == (
        1,
        "mlreg: MLREG_HOME is 'gs://bucket/x'; it must be a folder or s3://bucket/prefix\n",
    )


def test_one_file_under_two_names_counts_once(
    mlreg: Mlreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "t" / "a.jsonl")
    monkeypatch.chdir(tmp_path / "t")
    status, said = mlreg("ingest", "--dialect", "native", "a.jsonl", "../t/a.jsonl", "./a.jsonl")
    assert status == 0, said
    assert "1 files: 1 rows in = 1 taken + 0 duplicates" in said
    assert "taken before" not in said


def test_a_file_that_changed_after_it_was_taken_is_named(mlreg: Mlreg, home: Path) -> None:
    file = put(home / "landing" / "native" / "a.jsonl")
    assert mlreg("ingest")[0] == 0
    put(file, "another-one")
    for command in (["ingest"], ["ingest", "--rescan"]):
        status, said = mlreg(*command)
        assert status == 1
        assert "changed: native/a.jsonl of source 'landing' changed after it was taken" in said


@pytest.mark.parametrize("command", ["sources", "ingest"])
def test_a_source_whose_folder_is_none_is_a_problem(
    mlreg: Mlreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    configure(tmp_path, monkeypatch, tmp_path / "nowhere")
    status, said = mlreg(command)
    assert status == 1
    assert f"the folder {tmp_path}/nowhere is not there" in said
    (tmp_path / "nowhere").write_text("")
    status, said = mlreg(command)
    assert status == 1
    assert f"the folder {tmp_path}/nowhere is no folder" in said


def test_what_was_taken_is_priced_although_something_else_could_not_be(
    mlreg: Mlreg, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path / "logs" / "a.jsonl")
    configured = tmp_path / "sources.yaml"
    configured.write_text(
        f"sources:\n  - {{name: logs, folder: {file.parent}}}\n  - {{name: lost, folder: {tmp_path}/nowhere}}\n"
    )
    monkeypatch.setenv("MLREG_SOURCES", str(configured))
    status, said = mlreg("ingest")
    assert status == 1
    assert "1 files: 1 rows in = 1 taken" in said
    assert "nowhere is not there" in said
    put(file, "another-one")
    put(file.with_name("b.jsonl"), "e2")
    assert "changed: a.jsonl of source 'logs' changed after it was taken" in mlreg("ingest")[1]
    status, said = mlreg(
        "sql",
        "select count(*), (select sum(requests) from cost_rollup where grain = 'day') from model_costs",
        "--format",
        "csv",
    )
    assert said.splitlines()[1] == "2,2"


def test_a_landing_folder_that_is_not_made_yet_is_no_problem(
    mlreg: Mlreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlreg("sources")[0] == 0
    configure(tmp_path, monkeypatch, '"{home}/logs"')
    assert mlreg("sources")[0] == 0


@pytest.mark.soak
def test_links_in_a_circle_do_not_stop_a_source(mlreg: Mlreg, home: Path) -> None:
    put(home / "landing" / "native" / "a.jsonl")
    (home / "landing" / "native" / "again").symlink_to("..")
    (home / "landing" / "native" / "b.jsonl").symlink_to("b.jsonl")
    status, said = mlreg("ingest")
    assert status == 0, said
    assert "1 files: 1 rows in = 1 taken" in said


@pytest.mark.parametrize("folder", ["'s3://'", "s3:///prefix"])
def test_a_bucket_without_a_name_is_refused_in_the_configuration(
    mlreg: Mlreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    configure(tmp_path, monkeypatch, folder)
    status, said = mlreg("sources")
    assert (status, said.count("\n")) == (1, 1)
    assert "names no bucket; write s3://bucket/prefix" in said


# -- the demo keeps out of a home in use -------------------------------------------------------


def everything(home: Path) -> set[Path]:
    """All files but those of the lake's own account of its queries."""
    return {path for path in home.rglob("*") if "query_timings" not in path.parts}


def test_the_demo_refuses_a_home_where_other_logs_lie(mlreg: Mlreg, home: Path) -> None:
    put(home / "landing" / "native" / "mine.jsonl")
    before = everything(home)
    status, said = mlreg("demo")
    assert (status, said.count("\n")) == (1, 1)
    assert f"{home} holds logs that are not the demo's" in said
    assert everything(home) == before


def test_the_demo_refuses_a_home_where_other_logs_were_taken(
    mlreg: Mlreg, home: Path, tmp_path: Path
) -> None:
    assert mlreg("ingest", "--dialect", "native", put(tmp_path / "mine.jsonl"))[0] == 0
    before = everything(home)
    status, said = mlreg("demo")
    assert status == 1
    assert "mine.jsonl of source 'files'" in said
    assert everything(home) == before


def test_the_demo_goes_on_in_a_home_that_is_new_or_its_own(home: Path) -> None:
    from ml_registry_pipelines import demo
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.settings import Settings
    from ml_registry_pipelines.telemetry.ingestion import Ingestion
    from ml_registry_pipelines.telemetry.sources import Sources

    settings = Settings.from_environment()
    demo.refuse_a_home_in_use(settings)
    assert not home.exists()
    demo.land(settings)
    demo.refuse_a_home_in_use(settings)
    sources = Sources.load(settings)
    with Lake(settings.home) as lake:
        look = sources.look(lake, settled=True)
        Ingestion(lake, sources).take(look.files[:1])
    demo.refuse_a_home_in_use(settings)
