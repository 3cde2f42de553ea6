"""What holds for every asset, check, job, sensor and schedule of the location, whatever they are."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import dagster as dg
import pytest

from ml_registry_pipelines.definitions import build_defs
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.settings import Environment, Settings
from resources.instigators import SCHEDULES, SENSOR_SECONDS

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = [
    *("altair", "boto3", "dagster_aws", "daft", "deltalake", "duckdb", "genai_prices", "great_expectations"),
    *("lancedb", "numpy", "pandas", "pyarrow", "ray", "requests", "vl_convert"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return Settings(home=str(home), environment=Environment.DEV, sources_file=None, tenant=None)


@pytest.fixture(scope="module")
def repository(settings: Settings) -> dg.RepositoryDefinition:
    return build_defs(settings).get_repository_def()


@pytest.fixture(scope="module")
def specs(repository: dg.RepositoryDefinition) -> list[dg.AssetSpec]:
    graph = repository.asset_graph
    return [graph.get(key).to_asset_spec() for key in graph.get_all_asset_keys()]


def test_every_asset_says_what_it_is_and_whose(specs: list[dg.AssetSpec]) -> None:
    assert specs
    for spec in specs:
        name = spec.key.to_user_string()
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert spec.group_name == spec.key.path[0], name


def test_every_asset_that_is_written_here_has_a_freshness_policy(
    repository: dg.RepositoryDefinition, specs: list[dg.AssetSpec]
) -> None:
    written = repository.asset_graph.materializable_asset_keys
    assert [spec.key for spec in specs if spec.key in written and spec.freshness_policy is None] == []


def test_every_table_asset_shows_its_columns_with_units_and_meanings(specs: list[dg.AssetSpec]) -> None:
    tables = {spec.key.path[-1]: spec for spec in specs if spec.key.path[-1] in TABLES}
    assert {"inference_events", "model_costs", "cost_rollup", "performance_rollup", "price_catalog"} <= set(
        tables
    )
    for name, spec in tables.items():
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema)
        assert [column.name for column in schema.columns] == list(TABLES[name].column_names)
        assert all(column.description for column in schema.columns)
        assert TABLES[name].row in (spec.description or "")


def test_the_graph_starts_at_the_sources_and_has_no_island_on_the_way_to_the_reports(
    repository: dg.RepositoryDefinition,
) -> None:
    graph = repository.asset_graph
    above = graph.get_ancestor_asset_keys(dg.AssetKey(["reports", "cost_overview"]), include_self=True)
    names = {key.to_user_string() for key in above}
    assert {
        "sources/landing",
        "telemetry/inference_events",
        "costs/price_catalog",
        "costs/cost_rollup",
    } <= names


def test_everything_that_keeps_the_platform_going_is_on_from_the_start(
    repository: dg.RepositoryDefinition,
) -> None:
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert set(sensors) == set(SENSOR_SECONDS)
    assert all(sensor.default_status is dg.DefaultSensorStatus.RUNNING for sensor in sensors.values())
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert set(schedules) == set(SCHEDULES)
    assert all(schedule.default_status is dg.DefaultScheduleStatus.RUNNING for schedule in schedules.values())


def test_jobs_run_in_one_process(repository: dg.RepositoryDefinition) -> None:
    for job in repository.get_all_jobs():
        assert job.executor_def.name == "in_process", job.name


def test_a_writer_of_a_table_never_runs_twice_at_once(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    for key in graph.materializable_asset_keys:
        assert graph.get(key).pools, key


def test_a_sources_file_that_cannot_be_used_costs_its_nodes_and_not_the_location(tmp_path: Path) -> None:
    broken = tmp_path / "sources.yaml"
    broken.write_text("sources: nonsense")
    settings = Settings(
        home=str(tmp_path), environment=Environment.DEV, sources_file=str(broken), tenant=None
    )
    keys = build_defs(settings).get_repository_def().asset_graph.get_all_asset_keys()
    assert dg.AssetKey(["telemetry", "inference_events"]) in keys
    assert not [key for key in keys if key.path[0] == "sources"]


def test_every_configured_source_is_a_node(tmp_path: Path) -> None:
    configured = tmp_path / "sources.yaml"
    configured.write_text(
        "sources:\n"
        "  - {name: gateway, folder: 's3://logs/gateway', tenant_field: org}\n"
        "  - {name: local, folder: logs, tenant: acme}\n"
    )
    settings = Settings(
        home=str(tmp_path), environment=Environment.DEV, sources_file=str(configured), tenant=None
    )
    graph = build_defs(settings).get_repository_def().asset_graph
    gateway = graph.get(dg.AssetKey(["sources", "gateway"]))
    assert gateway.kinds == {"s3"}
    assert "s3://logs/gateway" in (gateway.description or "")
    assert (
        dg.AssetKey(["sources", "local"])
        in graph.get(dg.AssetKey(["telemetry", "inference_events"])).parent_keys
    )


def test_nothing_beta_preview_or_deprecated_is_used(settings: Settings) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # By its owner a reviewer may launch a job.
        warnings.filterwarnings("ignore", "Parameter `owners` of initializer `JobDefinition")
        build_defs(settings).get_repository_def()


def test_importing_the_location_imports_nothing_heavy(tmp_path: Path) -> None:
    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, ml_registry_pipelines.definitions as d; d.defs(); print(*sys.modules)",
        ],
        cwd=REPOSITORY,
        # A home with a registry, as `make demo` leaves one here, is read.
        env={**os.environ, "MLREG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(set(HEAVY) & set(listed.stdout.split())) == []
