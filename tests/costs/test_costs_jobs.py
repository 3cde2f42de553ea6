"""Closing months and stating rates from the Launchpad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from ml_registry_pipelines.costs.currencies import rates_known
from ml_registry_pipelines.jobs.costs import costs_jobs
from ml_registry_pipelines.lake.lake import Lake
from resources import RegistryResource


def test_months_are_closed_and_rates_stated_in_the_launchpad(home: Path) -> None:
    jobs = {job.name: job for job in costs_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:

        def run(job: str, **form: Any) -> dg.ExecuteInProcessResult:
            return jobs[job].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=str(home))},
            )

        assert run("close_month", tenant="acme", month="2025-11", note="sent").success
        again = run("close_month", tenant="acme", month="2025-11")
        (failed,) = [event for event in again.all_events if event.is_step_failure]
        assert "2025-11 is closed already" in str(failed.step_failure_data.user_failure_data)
        assert run("close_months_after", tenant="acme", days=5).success
        rate = {"day": "2025-11-01", "base": "EUR", "quote": "USD", "rate": "1.08", "source": "ECB"}
        assert run("add_currency_rate", **rate).success
        assert not run("add_currency_rate", **{**rate, "rate": "1,08"}).success
    with Lake(str(home)) as lake, lake.read("currency_rates") as reading:
        assert [f"{one.base}{one.quote} {one.rate:.2f}" for one in rates_known(reading)] == ["EURUSD 1.08"]
