"""What holds for a tenant as a whole: its time zone. Set by people, so it is an event of the log.

Days, weeks and months of budgets, reports and statements are the tenant's: they begin at
midnight where the tenant is. Rollups stay in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.desk import Desk, state_of
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.references import named
from ml_registry_pipelines.registry.states import State

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

KIND = "tenant_settings"
NAME = "settings"
_OF_THE_MACHINE = frozenset({"localtime", "posixrules", "Factory"})
"""Names that mean another zone on another machine, or none."""


@dataclass(frozen=True)
class TenantSettings:
    """Settings of a tenant. `recorded_at` None: nobody has set any, and the defaults hold."""

    tenant: str
    time_zone: str = "UTC"
    recorded_at: datetime | None = None
    actor: str = ""

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


class Tenants(Desk):
    """Settings of one tenant, for one actor. Every verb is one event."""

    def settings(self, *, as_of: datetime | None = None) -> TenantSettings:
        """What holds, or had been recorded at an instant."""
        return settings_in(self.view(as_of))

    def set_time_zone(self, zone: str, *, idempotency_key: str | None = None) -> TenantSettings:
        """Let days, weeks and months of the tenant begin at midnight in a time zone, such as Europe/Berlin.

        Budgets and later reports follow at once, for the month under way as well; what was issued stays.

        Raises:
            InvalidInput: there is no such zone.
        """
        name = checked_zone(zone)

        def decide(view: View) -> list[Change]:
            old = _state(view)
            state = {
                "name": NAME,
                "description": "",
                "status": "active",
                "deleted": False,
                "metadata": {**(old.data["metadata"] if old else {}), "time_zone": name},
            }
            return [Change(KIND, old.id if old else new_id(), state)]

        done = self.do("set_time_zone", KIND, {"time_zone": name}, decide, idempotency_key=idempotency_key)
        return _settings(self.tenant, state_of(done))


def settings_in(view: View) -> TenantSettings:
    """The settings of the tenant that a view shows."""
    state = _state(view)
    return TenantSettings(view.tenant) if state is None else _settings(view.tenant, state)


def zone_of(log: Log, tenant: str) -> ZoneInfo:
    """The time zone of a tenant; UTC where nobody has set one."""
    return settings_in(log.view(tenant)).zone


def checked_zone(name: str) -> str:
    """The name of a time zone of the IANA database.

    Raises:
        InvalidInput: there is none of that name.
    """
    if name not in _zones():
        raise InvalidInput(f"{shown(str(name))} is no time zone; write a name such as UTC or Europe/Berlin")
    return name


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _OF_THE_MACHINE


def _state(view: View) -> State | None:
    return next((state for state in named(view, KIND, NAME) if not state.deleted), None)


def _settings(tenant: str, state: State) -> TenantSettings:
    data: Mapping[str, Any] = state.data["metadata"]
    return TenantSettings(tenant, str(data["time_zone"]), state.recorded_at, state.actor)
