"""Data protection from the Launchpad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_registry_pipelines.compliance.gdpr.entries import Breach, DataRequest, Purpose
from ml_registry_pipelines.compliance.gdpr.registers import Registers
from ml_registry_pipelines.jobs.gdpr import gdpr_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from resources import RegistryResource

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    jobs = {job.name: job for job in gdpr_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(job: str, **form: Any) -> dg.ExecuteInProcessResult:
            return jobs[job].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=str(tmp_path))},
            )

        yield execute


def test_registers_requests_and_retention_have_a_form_each(run: Run, tmp_path: Path) -> None:
    assert run(
        "declare_purpose", name="p", legal_basis="CONTRACT", owner="team:x", columns=["inference_events.*"]
    ).success
    assert run("declare_registers", entries="processors: [{name: a, region: EU, contract: c}]").success
    assert not run("declare_registers", entries="processors: [{name: a}]").success
    assert run("open_data_request", subject="s-1", kind="ERASURE", received_at="2026-01-05").success
    assert not run("open_data_request", subject="Jane Doe", kind="ACCESS").success
    assert run("report_breach", name="b", aware_at="2026-01-05T00:00Z").success
    assert run("enforce_retention", dry_run=True).success
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        registers = Registers(log, actor=Actor("t"))
        assert [each.name for each in registers.list(Purpose)] == ["p"]
        assert [each.name for each in registers.list(Breach)] == ["b"]
        (request,) = registers.list(DataRequest)
        assert not lake.exists("inference_events")
    assert run("close_data_request", request=request.name, outcome="erased").success
    assert not run("close_data_request", request=request.name, outcome="again").success
