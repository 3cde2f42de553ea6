"""Providers' bills as a Dagster resource: their configuration, their files, and keys for their APIs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_registry_pipelines.telemetry.sources import FileRef, Look, Scope, Sources

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.bills.intake import TakenBills
    from ml_registry_pipelines.costs.bills.pulling import Pulled
    from ml_registry_pipelines.costs.bills.settings import BillSettings
    from ml_registry_pipelines.lake.lake import Lake


class BillsResource(dg.ConfigurableResource["BillsResource"]):
    """What `bills.yaml` says: sources of bills and pulls. Keys never leave the process that pulls."""

    home: str
    bills_file: str | None = None
    """A file that must be there; None: `bills.yaml` below the home, where there is one."""

    def settings(self) -> BillSettings:
        """The settings as they are now.

        Raises:
            BillSettingsError: the file cannot be used.
        """
        from ml_registry_pipelines.costs.bills.settings import load_settings

        return load_settings(self.home, self.bills_file)

    def look(self, lake: Lake, *, memory: str | None = None, settled: bool = False) -> Look:
        """Find files of bills to take, answers of pulls that were not taken included."""
        sources = Sources(self.settings().all_sources, taken="bill_files")
        return sources.look(lake, scope=Scope.ALL, memory=memory, settled=settled)

    def take(self, lake: Lake, files: Sequence[FileRef]) -> TakenBills:
        """Take these files; without any, whatever lies in the sources.

        Raises:
            BillsUnread: some could not be read; the others were taken.
        """
        from ml_registry_pipelines.costs.bills.intake import BillIntake

        intake = BillIntake(lake, self.settings().all_sources)
        return intake.take(files or self.look(lake, settled=True).files)

    def pull(
        self, lake: Lake, *, names: Sequence[str] = (), since: date | None = None, until: date | None = None
    ) -> list[Pulled]:
        """Ask the APIs, and take what they answer."""
        from ml_registry_pipelines.costs.bills.pulling import pull_bills

        return pull_bills(lake, self.settings(), names=names, since=since, until=until, secrets=self.secrets)

    def are_expected(self, lake: Lake) -> bool:
        """Whether there is anything to compare: bills that were taken, or pulls to make."""
        return lake.exists("provider_bills") or bool(self.settings().pulls)

    def secrets(self) -> Any:
        """A client of AWS Secrets Manager; region, endpoint and credentials come from `AWS_*` variables."""
        from dagster_aws.secretsmanager import SecretsManagerResource

        return SecretsManagerResource().get_client()
