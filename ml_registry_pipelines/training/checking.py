"""Checks of what a step has just trained: its evaluation is declared and kept, its suites are run.

Nothing that goes wrong here unregisters a version: the checks say that they could not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluation_rows import Columns
from ml_registry_pipelines.compliance.evaluations import Evaluations
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.suites.asset_checks import (
    Answer,
    DeclaredCheck,
    answers_of,
    checks_of,
    named_apart,
)
from ml_registry_pipelines.compliance.suites.files import NoSuchSuite, SuiteFiles
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.registry.versions import Version
    from ml_registry_pipelines.training.recording import Recorder


@dataclass(frozen=True)
class Checks:
    """What a training asset declares: by which columns of its evaluation, and by which suites, it is checked."""

    columns: Columns
    suites: Sequence[str]


def declared(checks: Checks, home: str) -> list[DeclaredCheck]:
    """The checks of the suites as their files are now; of one that cannot be read, the check that says so."""
    files = SuiteFiles(home)
    found: list[DeclaredCheck] = []
    for name in dict.fromkeys(checks.suites):
        try:
            found += checks_of(name, files.read(name))
        except NoSuchSuite:
            found += checks_of(name, None)
    return list(named_apart(found))


def checked(
    recorder: Recorder, version: Version, checks: Checks, specs: Sequence[DeclaredCheck], rows: object
) -> tuple[list[Answer], str]:
    """Declare, keep the rows, run the suites: an answer for each check, and what went wrong with the rows.

    Args:
        rows: of the evaluation, as an Arrow table or a data frame; None: what is recorded already.
    """
    registry = recorder.registry
    desk: dict[str, Any] = {
        "actor": registry.actor,
        "tenant": registry.tenant,
        "run_id": registry.run_id,
    }
    evaluations = Evaluations(registry.log, **desk)
    problem = ""
    try:
        evaluations.declare_evaluation(version.id, checks.columns, suites=checks.suites)
        if rows is not None:
            evaluations.record_evaluation(version.id, as_table(rows))
    except MlregError as wrong:
        problem = str(wrong)
    done = ComplianceManager(registry.log, **desk).run_compliance_checks(
        version.id, suites=checks.suites, idempotency_key=f"{recorder.key}/checks"
    )
    return answers_of(done.results, specs, done.evidence_id), problem


def as_table(rows: Any) -> pa.Table:
    """An Arrow table, of one or of a data frame.

    Raises:
        InvalidInput: it is neither.
    """
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        return rows
    if hasattr(rows, "columns") and hasattr(rows, "iloc"):
        return pa.Table.from_pandas(rows, preserve_index=False)
    raise InvalidInput(f"the evaluation is a {type(rows).__name__}; give an Arrow table or a data frame")
