"""Which deployment and version an attempt belongs to, as an SQL expression made of the rules.

A compiled rule (a row of `attribution_rules`) holds for a tenant, during a stretch of time, for
attempts that meet its conditions. Of the rules that cover an attempt the one with the highest
priority wins, then the one with more exact conditions, then with more patterns, then with more
characters in its patterns. What is left equal points at the same deployment: another one is
refused when a rule is made (`telemetry/attribution.py`). Strings are compared as they stand, and
times by the start of the attempt, from `valid_from` up to, not including, `valid_to`.

What a rule means for a day has a digest, which rollups store: a day is attributed anew exactly
when the digest is another one. How rules are compiled is in `telemetry/compiling.py`.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTED, CONDITIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

RULES = "attribution_rules"
NOTHING = "CAST(NULL AS INTEGER)"
_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Outcome:
    """What attribution says of an attempt that a rule covers."""

    deployment_id: str
    model_id: str | None
    model_version: int | None
    attribution: str


@dataclass(frozen=True)
class CompiledRule:
    """One row of `attribution_rules`, as far as it decides anything."""

    tenant: str
    valid_from: datetime | None
    valid_to: datetime | None
    conditions: tuple[str | None, ...]
    """One per `CONDITIONS`."""
    priority: int
    outcome: Outcome

    @property
    def precedence(self) -> tuple[int, int, int, int]:
        """The greater one wins."""
        return (self.priority, *precision(self.conditions))

    def sql(self) -> str:
        """The condition on an attempt of its tenant."""
        terms = [
            _meets(name, wanted)
            for name, wanted in zip(CONDITIONS, self.conditions, strict=True)
            if wanted is not None
        ]
        if self.valid_from is not None:
            terms.append(f"event_ts >= {_instant(self.valid_from)}")
        if self.valid_to is not None:
            terms.append(f"event_ts < {_instant(self.valid_to)}")
        return " AND ".join(terms) or "TRUE"


def precision(conditions: Iterable[str | None]) -> tuple[int, int, int]:
    """Exact conditions, patterns, and characters in patterns: how narrowly conditions are drawn."""
    given = [wanted for wanted in conditions if wanted is not None]
    patterns = [wanted for wanted in given if "*" in wanted]
    return len(given) - len(patterns), len(patterns), sum(len(p) - p.count("*") for p in patterns)


class Rules:
    """All compiled rules that a reader may see, ready to be put into queries."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rules = sorted(
            (_compiled(row) for row in rows),
            key=lambda rule: (rule.tenant, *(-part for part in rule.precedence), _sort_key(rule)),
        )
        self.outcomes: list[Outcome] = list(dict.fromkeys(rule.outcome for rule in self.rules))
        self._days: dict[tuple[int, ...], int | None] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    @cached_property
    def used(self) -> tuple[str, ...]:
        """The columns of `CONDITIONS` that any rule looks at: no other one can make a difference."""
        return tuple(
            name
            for index, name in enumerate(CONDITIONS)
            if any(rule.conditions[index] is not None for rule in self.rules)
        )

    @cached_property
    def number(self) -> str:
        """Expression over an attempt's columns: the index of its outcome, NULL where no rule covers it."""
        numbers = {outcome: number for number, outcome in enumerate(self.outcomes)}
        by_tenant: dict[str, list[str]] = {}
        for rule in self.rules:
            case = f"WHEN {rule.sql()} THEN {numbers[rule.outcome]}"
            by_tenant.setdefault(rule.tenant, []).append(case)
        if not by_tenant:
            return NOTHING
        cases = (
            f"WHEN {_text(tenant)} THEN CASE {' '.join(found)} END" for tenant, found in by_tenant.items()
        )
        return f"CAST(CASE tenant {' '.join(cases)} END AS INTEGER)"

    def columns(self, number: str) -> str:
        """The columns `ATTRIBUTED`, given the expression of the outcome's index."""
        if not self.rules:
            return (
                "CAST(NULL AS VARCHAR) AS deployment_id, CAST(NULL AS VARCHAR) AS model_id, "
                "CAST(NULL AS BIGINT) AS model_version, CAST(NULL AS VARCHAR) AS attribution"
            )
        lists = {
            "deployment_id": _list([o.deployment_id for o in self.outcomes], "VARCHAR"),
            "model_id": _list([o.model_id for o in self.outcomes], "VARCHAR"),
            "model_version": _list([o.model_version for o in self.outcomes], "BIGINT"),
            "attribution": _list([o.attribution for o in self.outcomes], "VARCHAR"),
        }
        return ", ".join(f"{lists[name]}[{number} + 1] AS {name}" for name in ATTRIBUTED)

    def segment(self, days: Collection[date]) -> str:
        """Expression over `event_ts`: a number that is the same only where no rule begins or ends between.

        With the columns `used`, it decides what becomes of an attempt of one of `days`.
        """
        inside = sorted(set(days))
        instants = sorted(
            {i for rule in self.rules for i in (rule.valid_from, rule.valid_to) if i is not None}
        )
        dividing: list[datetime] = []
        for before, day in pairwise([None, *inside]):
            assert day is not None
            # What lies between two of the days divides them at the later one's midnight.
            since = _midnight(day) + _MICROSECOND if before is None else _midnight(before) + _DAY
            first, until = (bisect_left(instants, i) for i in (since, _midnight(day) + _DAY))
            dividing += {max(i, _midnight(day)) for i in instants[first:until]}
        return _search(sorted(dividing))

    def digest(self, day: date) -> int | None:
        """What the rules mean for a day, as a number; None where none holds on it."""
        start, end = _midnight(day), _midnight(day) + _DAY
        holding: list[int] = []
        cut = False
        for index, rule in enumerate(self.rules):
            if (rule.valid_from is None or rule.valid_from < end) and (
                rule.valid_to is None or rule.valid_to > start
            ):
                holding.append(index)
                cut = cut or any(i is not None and start < i < end for i in (rule.valid_from, rule.valid_to))
        if not holding:
            return None
        # Most days are not cut by a boundary, and then the same rules mean the same.
        key = tuple(holding)
        if not cut and key in self._days:
            return self._days[key]
        meant = [self._meant(self.rules[index], start, end) for index in holding]
        text = json.dumps(sorted(meant, key=json.dumps), separators=(",", ":"))
        found = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        if not cut:
            self._days[key] = found
        return found

    @staticmethod
    def _meant(rule: CompiledRule, start: datetime, end: datetime) -> list[object]:
        begins = None if rule.valid_from is None or rule.valid_from <= start else rule.valid_from.isoformat()
        ends = None if rule.valid_to is None or rule.valid_to >= end else rule.valid_to.isoformat()
        outcome = rule.outcome
        return [
            rule.tenant,
            begins,
            ends,
            list(rule.conditions),
            rule.priority,
            outcome.deployment_id,
            outcome.model_id,
            outcome.model_version,
            outcome.attribution,
        ]

    def outcome_rows(self) -> pa.Table:
        """The outcomes as a relation: `outcome`, their index, and the columns `ATTRIBUTED`."""
        import pyarrow as pa

        return pa.table(
            {
                "outcome": pa.array(range(len(self.outcomes)), pa.int32()),
                "deployment_id": pa.array([o.deployment_id for o in self.outcomes], pa.string()),
                "model_id": pa.array([o.model_id for o in self.outcomes], pa.string()),
                "model_version": pa.array([o.model_version for o in self.outcomes], pa.int64()),
                "attribution": pa.array([o.attribution for o in self.outcomes], pa.string()),
            }
        )

    def digest_rows(self, days: Sequence[date]) -> pa.Table:
        """`day` and `attribution_version` of some days."""
        import pyarrow as pa

        return pa.table(
            {
                "day": pa.array(list(days), pa.date32()),
                "attribution_version": pa.array([self.digest(day) for day in days], pa.int64()),
            }
        )


def rules_of(reading: Reading) -> Rules:
    """The rules within a reading, which must hold `attribution_rules`."""
    if reading.is_empty(RULES):
        return Rules(())
    return Rules(reading.query("attribution.rules", f"SELECT * FROM {RULES}").to_pylist())


def _compiled(row: Mapping[str, Any]) -> CompiledRule:
    return CompiledRule(
        tenant=row["tenant"],
        valid_from=row["valid_from"],
        valid_to=row["valid_to"],
        conditions=tuple(row[name] for name in CONDITIONS),
        priority=row["priority"],
        outcome=Outcome(row["deployment_id"], row["model_id"], row["model_version"], row["attribution"]),
    )


def _sort_key(rule: CompiledRule) -> tuple[str, str]:
    return (json.dumps(rule.conditions), "" if rule.valid_from is None else rule.valid_from.isoformat())


def _meets(name: str, wanted: str) -> str:
    if "*" not in wanted:
        return f"{name} = {_text(wanted)}"
    parts = wanted.split("*")
    if not any(parts):
        return f"{name} IS NOT NULL"
    like = "%".join(part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for part in parts)
    return f"{name} LIKE {_text(like)} ESCAPE '\\'"


def _search(boundaries: Sequence[datetime], low: int = 0) -> str:
    """How many of the boundaries are not after `event_ts`, by halving: any number costs little."""
    if not boundaries:
        return str(low)
    middle = len(boundaries) // 2
    before = _search(boundaries[:middle], low)
    after = _search(boundaries[middle + 1 :], low + middle + 1)
    return f"CASE WHEN event_ts < {_instant(boundaries[middle])} THEN {before} ELSE {after} END"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _instant(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"


def _list(values: Sequence[str | int | None], kind: str) -> str:
    shown = ("NULL" if v is None else str(v) if isinstance(v, int) else _text(v) for v in values)
    return f"CAST([{', '.join(shown)}] AS {kind}[])"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
