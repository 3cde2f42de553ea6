"""`attribution_rules`: what the rules of the log come to over time, given what deployments served.

A rule is cut where its deployment begins to serve something else, and where a deployment behind
the same endpoint comes or goes. Of a stretch between two cuts it is known which version answered,
or that it is `ambiguous`, or that the deployment was `not_serving`.

Ambiguous is split traffic that no rule tells apart: another deployment behind the same endpoint
gets a share of it and has no rule of its own then, or the shares of those that have one leave
some traffic unaccounted for. Shares are never used to guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.attributing import RULES
from ml_registry_pipelines.lake.lake import Lake, LostRace, SnapshotGone, StaleSlice
from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTION_RULES, CONDITIONS
from ml_registry_pipelines.lineage.serving import ALWAYS, Stretch, stretches
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.states import ATTRIBUTION_RULE
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.telemetry.attribution import Rule, rules_in

if TYPE_CHECKING:
    import pyarrow as pa

LOG = "governance_events"
ATTEMPTS = 8
WHOLE = 1 - 1e-9
"""Shares that are meant to be all of it, added up in floating point."""


class AttributionBusy(MlregError):
    """Other writers kept replacing the compiled rules; nothing is wrong, try again."""


@dataclass(frozen=True)
class Compiled:
    """How many rows `attribution_rules` has, and whether they are others than before."""

    rows: int
    changed: bool


def compile_rules(lake: Lake, log: Log | None = None) -> Compiled:
    """Bring `attribution_rules` up to the log. A lake without a log has no rules.

    Args:
        log: the process's log of this lake, where it has one open.

    Raises:
        AttributionBusy: other writers were faster again and again.
    """
    if log is None:
        if not lake.exists(LOG):
            return Compiled(0, changed=False)
        with Log(lake) as opened:
            return compile_rules(lake, opened)
    for _ in range(ATTEMPTS):
        try:
            return _compile_once(lake, log)
        except (LostRace, SnapshotGone, StaleSlice):
            continue
    raise AttributionBusy(f"{RULES} was replaced by others {ATTEMPTS} times; try again")


def rules_are_behind(lake: Lake) -> bool:
    """Whether `compile_rules` would change anything."""
    if not lake.exists(LOG):
        return False
    with Log(lake) as log:
        _, rows = _wanted(log)
    return not _stored(lake, rows)


def _compile_once(lake: Lake, log: Log) -> Compiled:
    position, rows = _wanted(log)
    if _stored(lake, rows):
        return Compiled(rows.num_rows, changed=False)
    lake.replace(RULES, rows, predicate="tenant IS NOT NULL", source=LOG, sequence=position)
    return Compiled(rows.num_rows, changed=True)


def _wanted(log: Log) -> tuple[int, pa.Table]:
    """How far the log was read, and what its rules come to."""
    import pyarrow as pa

    position, tenants = _tenants_with_rules(log)
    rows = [row for tenant in tenants for row in compiled(log.view(tenant))]
    return position, pa.Table.from_pylist(rows, schema=ATTRIBUTION_RULES.schema)


def _stored(lake: Lake, wanted: pa.Table) -> bool:
    """Whether the table holds just these rows."""
    if not lake.exists(RULES):
        return not wanted.num_rows
    with lake.read(RULES) as reading:
        stored = reading.query("attribution.stored", f"SELECT * FROM {RULES}")
    return _sorted(stored) == _sorted(wanted)


def _tenants_with_rules(log: Log) -> tuple[int, list[str]]:
    """How far the log was read, and the tenants that ever had a rule by then."""
    view = log.view("default")
    found = view.of_all_tenants(
        "attribution.tenants",
        "things",
        "SELECT DISTINCT tenant FROM states WHERE type = $type ORDER BY tenant",
        {"type": ATTRIBUTION_RULE},
    )
    return max(tail.head for tail in view.tails), found["tenant"].to_pylist()


def _sorted(rows: pa.Table) -> list[dict[str, Any]]:
    return sorted(
        rows.to_pylist(), key=lambda row: (row["tenant"], row["rule_id"], row["valid_from"] or ALWAYS)
    )


def compiled(view: View, rules: Sequence[Rule] | None = None) -> list[dict[str, Any]]:
    """Rows of `attribution_rules` of one tenant; with `rules`, as if these were its rules."""
    rules = rules_in(view) if rules is None else rules
    served = stretches(view) if rules else {}
    wanted = {rule.deployment_id for rule in rules}
    identities = {s.version_id for i in wanted for s in served.get(i, ()) if s.version_id is not None}
    versions = {s.id: s.data for s in view.by_any("model_versions", "id", sorted(identities))}
    ruled: dict[str, list[Rule]] = {}
    for rule in rules:
        ruled.setdefault(rule.deployment_id, []).append(rule)
    return [row for rule in rules for row in _rows(rule, _Meaning(rule, served, ruled), versions)]


def _rows(
    rule: Rule, meaning: _Meaning, versions: Mapping[str, Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    for start, end, (attribution, version_id) in meaning.stretches():
        version = versions.get(version_id or "", {})
        yield {
            "tenant": rule.tenant,
            "rule_id": rule.id,
            "rule": rule.name,
            "valid_from": start,
            "valid_to": end,
            **{name: rule.conditions.get(name) for name in CONDITIONS},
            "priority": rule.priority,
            "deployment_id": rule.deployment_id,
            "model_id": version.get("model_id"),
            "version_id": version_id,
            "model_version": version.get("version"),
            "attribution": attribution,
        }


class _Meaning:
    """What one rule says, instant by instant."""

    def __init__(
        self, rule: Rule, served: Mapping[str, Sequence[Stretch]], ruled: Mapping[str, Sequence[Rule]]
    ) -> None:
        self._rule = rule
        self._ruled = ruled
        self._own = served.get(rule.deployment_id, ())
        places = {_place(s) for s in self._own if s.version_id is not None and s.endpoint}
        self._others = {
            identity: found
            for identity, found in served.items()
            if identity != rule.deployment_id and any(_place(s) in places for s in found)
        }

    def stretches(self) -> Iterable[tuple[datetime | None, datetime | None, tuple[str, str | None]]]:
        """(start, end, (attribution, version id)) of stretches in order, each as long as it can be."""
        rule = self._rule
        inside = sorted(i for i in self._cuts() if _after(i, rule.valid_from) and _within(i, rule.valid_to))
        begun, said = rule.valid_from, self._at(rule.valid_from or ALWAYS)
        for cut in inside:
            says = self._at(cut)
            if says != said:
                yield begun, cut, said
                begun, said = cut, says
        yield begun, rule.valid_to, said

    def _cuts(self) -> set[datetime]:
        found = [s for one in (self._own, *self._others.values()) for s in one]
        rules = [r for identity in self._others for r in self._ruled.get(identity, ())]
        instants = [i for s in found for i in (s.start, s.end)] + [
            i for r in rules for i in (r.valid_from, r.valid_to)
        ]
        return {i for i in instants if i is not None}

    def _at(self, instant: datetime) -> tuple[str, str | None]:
        own = next((s for s in self._own if s.holds_at(instant)), None)
        if own is None or own.version_id is None:
            return "not_serving", None
        beside = [
            s
            for found in self._others.values()
            for s in found
            if own.endpoint
            and s.holds_at(instant)
            and s.version_id is not None
            and _place(s) == _place(own)
            and s.traffic_share > 0
        ]
        told_apart = [s for s in beside if self._has_rule(s.deployment_id, instant)]
        accounted = own.traffic_share + sum(s.traffic_share for s in told_apart)
        # A share of 0 is a shadow: what a rule finds in its logs is its own, and no part of the split.
        if len(told_apart) < len(beside) or (own.traffic_share > 0 and accounted < WHOLE):
            return "ambiguous", None
        return "version", own.version_id

    def _has_rule(self, deployment_id: str, instant: datetime) -> bool:
        return any(rule.holds_at(instant) for rule in self._ruled.get(deployment_id, ()))


def _place(stretch: Stretch) -> tuple[str, str]:
    return stretch.environment, stretch.endpoint


def _after(instant: datetime, start: datetime | None) -> bool:
    return start is None or instant > start


def _within(instant: datetime, end: datetime | None) -> bool:
    return end is None or instant < end
