"""Alerts as a Dagster resource: recorded as rows, then told to files and sinks at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import dagster as dg

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Occurrence, Settled
from ml_registry_pipelines.operations.messages import Messages, Told
from ml_registry_pipelines.operations.sinks import usable_sinks
from resources.lake import kept_log, kept_open

if TYPE_CHECKING:
    from ml_registry_pipelines.operations.evaluating import Evaluated


class AlertsResource(dg.ConfigurableResource["AlertsResource"]):
    """What a person should know: one open occurrence per key, as a row, a line in a file, and a message."""

    root: str
    webhook: str | None = None

    def open(self, *alerts: Alert) -> Settled:
        """Open an occurrence for each alert whose key has none."""
        return self._told(Alerts(self._lake).open(*alerts))

    def announce(self, *alerts: Alert) -> Settled:
        """Open an occurrence for each alert whose key never had one."""
        return self._told(Alerts(self._lake).announce(*alerts))

    def resolve(self, *keys: str, because: str) -> Settled:
        """End the open occurrences of these keys."""
        return self._told(Alerts(self._lake).resolve(*keys, because=because))

    def settle(self, kinds: Collection[str], current: Iterable[Alert], *, because: str) -> Settled:
        """Make the open alerts of `kinds` those that hold now."""
        return self._told(Alerts(self._lake).settle(kinds, current, because=because))

    def standing(self, *kinds: str) -> list[Occurrence]:
        """Open occurrences of these kinds, or of all."""
        return Alerts(self._lake).standing(*kinds)

    def evaluate(self) -> Evaluated:
        """Look at all rules; what they find becomes the open alerts."""
        from ml_registry_pipelines.operations.evaluating import evaluate_rules

        log = kept_log(self.root) if self._lake.exists("governance_events") else None
        done = evaluate_rules(self._lake, log)
        self._told(done.settled)
        return done

    def tell(self) -> Told:
        """Pass on what has not been passed on yet."""
        return Messages(self._lake, *usable_sinks(self.root, self.webhook)).tell()

    @property
    def _lake(self) -> Lake:
        return kept_open(self.root, "sensor")

    def _told(self, settled: Settled) -> Settled:
        if settled:
            self.tell()
        return settled
