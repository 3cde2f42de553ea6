"""Erasure of one person as a job, gated like every command; its form never holds who the person is.

What is typed into the Launchpad stays in Dagster's run storage. So the form names a file with the
identifiers, which the run reads and then removes.
"""

from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.jobs.commands import InTenant, instant, refuse_variables
from ml_registry_pipelines.lake.readable import SETTING
from resources.registry import RegistryResource


class EraseSubject(InTenant):
    """Erase one person everywhere and prove it."""

    subject_file: str = Field(
        description="Absolute path of a file with one identifier per line, on the machine of the run, in a folder "
        f"that {SETTING} names or MLREG_HOME/intake. It is removed once the erasure is complete. Never type an "
        "identifier here: run configuration is kept."
    )
    received: str = Field(default="", description="When the person asked, such as 2026-09-01; empty: now.")
    datasets: list[str] = Field(default=[], description="Datasets that hold the person somewhere else.")
    justify: dict[str, str] = Field(
        default={}, description="Items of the plan that stay, with their ground: 17(3)(b): why."
    )
    purpose: str = Field(
        default="", description="What for, as the register of purposes names it; kept in the access log."
    )


@dg.op(name="erase_subject_command", description="Erase one person everywhere and prove it.")
def erase_subject_command(
    context: dg.OpExecutionContext, config: EraseSubject, registry: RegistryResource
) -> None:
    from ml_registry_pipelines.compliance.erasure.erasing import Eraser
    from ml_registry_pipelines.services import dagster_home
    from ml_registry_pipelines.settings import Settings
    from ml_registry_pipelines.telemetry.sources import Sources

    settings = Settings.from_environment()
    home = dagster_home(settings)
    file = Path(config.subject_file)
    try:
        refuse_variables(EraseSubject, context.run.run_config)
        with registry.log().lake.readable.opened(file) as place:
            given = [line.strip() for line in place.read_text().splitlines() if line.strip()]
        at = Eraser(
            registry.log(),
            registry.actor(),
            config.tenant,
            Sources.load(settings),
            dagster_home=home if home.is_dir() else None,
            run_id=context.run.run_id,
            purpose=config.purpose or None,
        )
        done = at.erase(
            at.subject(given),
            received_at=instant(config.received, "the time of receipt"),
            datasets=config.datasets,
            justified=config.justify,
        )
    except (OSError, UnicodeDecodeError):
        raise dg.Failure(
            "the file of identifiers cannot be read on this machine", allow_retries=False
        ) from None
    except MlregError as wrong:
        raise dg.Failure(str(wrong), allow_retries=False) from None
    context.add_output_metadata(
        {
            "request": done.request,
            "complete": done.complete,
            "rows": sum(done.rows.values()),
            "proof": done.proof.verdict.value,
            "certificate": done.digest,
        }
    )
    if not done.complete:
        raise dg.Failure(done.sentence(), allow_retries=False)
    file.unlink(missing_ok=True)


@dg.config_mapping
def _as_form(config: EraseSubject) -> dict[str, Any]:
    return {"ops": {"erase_subject_command": {"config": config.model_dump()}}}


@cache
def erasure_jobs() -> list[dg.JobDefinition]:
    """The job of this room."""

    @dg.job(
        name="erase_subject",
        description="Erase one person everywhere by the file that names them, and prove it.",
        config=_as_form,
        executor_def=dg.in_process_executor,
    )
    def erase_subject() -> None:
        erase_subject_command()

    return [erase_subject]
