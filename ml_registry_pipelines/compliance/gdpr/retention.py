"""Retention: rows that have been kept long enough go by the lake's fourth write.

How long is said by a table's declaration for all tenants, and by purposes for one: once none of
the purposes that list a table's columns needs them any more, its rows go earlier. That holds where the
table's declaration gives erasure precedence; where it gives retention precedence (accounts, the
access log), rows are kept for the table's whole period. The period begins when a row was taken.
A legal hold keeps all rows of its table for a tenant, and so the table's rows of all tenants are
erased tenant by tenant around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.gdpr.columns import covering
from ml_registry_pipelines.compliance.gdpr.entries import LegalHold, Purpose
from ml_registry_pipelines.compliance.gdpr.registers import all_entries
from ml_registry_pipelines.lake.declarations import Precedence, Table
from ml_registry_pipelines.lake.outcomes import LakeError
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lake.tables.gdpr import RETENTION_RUNS
from ml_registry_pipelines.registry.actors import ANY, Actor, Request
from ml_registry_pipelines.registry.events import new_id, now
from ml_registry_pipelines.telemetry.erased_rows import write_down

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.log import Log

ENFORCE = "enforce_retention"
SOURCE = "retention"
TAKEN = ("recorded_at", "computed_at", "day")
"""Columns that say since when a row is kept, in this order."""
DERIVED = frozenset({"lineage_index"})
"""Built anew by their own upkeep, which also keeps their period."""


@dataclass(frozen=True)
class Rule:
    """How long rows of a table are kept. `tenant` None: those of all tenants."""

    table: str
    tenant: str | None
    days: int
    why: str
    except_tenants: tuple[str, ...] = ()

    def cutoff(self, at: datetime) -> datetime:
        return at - timedelta(days=self.days)


@dataclass(frozen=True)
class Enforced:
    """What came of one rule. `outcome`: erased, nothing, would_erase, held or failed."""

    rule: Rule
    cutoff: datetime
    outcome: str
    rows: int
    reason: str = ""


def retention_rules(log: Log, at: datetime) -> tuple[list[Rule], list[Enforced]]:
    """The rules that hold now, and those that a legal hold suspends."""
    holds = [(tenant, hold) for tenant, hold in all_entries(log, LegalHold) if hold.until > at]
    purposes: dict[str, list[Purpose]] = {}
    for tenant, purpose in all_entries(log, Purpose):
        purposes.setdefault(tenant, []).append(purpose)
    rules: list[Rule] = []
    held: list[Enforced] = []
    for table in TABLES.values():
        if table.name in DERIVED or taken_column(table) is None:
            continue
        keeping = {tenant: hold for tenant, hold in holds if hold.table == table.name}
        if table.retention_days is not None:
            if keeping and table.tenant_column is None:
                rule = Rule(table.name, None, table.retention_days, "table")
                held.append(_held(rule, next(iter(keeping.values())), at))
                continue
            rules.append(Rule(table.name, None, table.retention_days, "table", tuple(sorted(keeping))))
            for tenant, hold in keeping.items():
                held.append(_held(Rule(table.name, tenant, table.retention_days, "table"), hold, at))
        for rule in _by_purpose(table, purposes):
            hold_of = keeping.get(rule.tenant or "")
            if hold_of is None:
                rules.append(rule)
            else:
                held.append(_held(rule, hold_of, at))
    return rules, held


def _by_purpose(table: Table, purposes: dict[str, list[Purpose]]) -> Iterator[Rule]:
    if table.precedence is not Precedence.ERASURE or table.tenant_column is None:
        return
    for tenant, declared in sorted(purposes.items()):
        serving = covering(declared, table.name)
        if not serving or any(purpose.retention_days is None for purpose in serving):
            # One that names no period of its own needs the table's.
            continue
        days = max(purpose.retention_days or 0 for purpose in serving)
        if table.retention_days is None or days < table.retention_days:
            names = ", ".join(sorted(purpose.name for purpose in serving))
            yield Rule(table.name, tenant, days, f"purpose {names}")


def enforce_retention(
    log: Log,
    *,
    actor: Actor,
    dry_run: bool = False,
    at: datetime | None = None,
    run_id: str | None = None,
) -> list[Enforced]:
    """Erase the rows whose period is over, and record what was done; with `dry_run` only say it.

    Args:
        at: the present instant; never later than that.

    Raises:
        NotAllowed: the policy refuses.
    """
    at = min(at or now(), now())
    log.ask(Request(actor, "default", ENFORCE, ANY, {"dry_run": dry_run}))
    rules, held = retention_rules(log, at)
    identity = new_id()
    done = [*held, *(_enforced(log.lake, rule, at, identity, dry_run=dry_run) for rule in rules)]
    _record(log.lake, done, identity, at=at, actor=actor, run_id=run_id)
    return done


def overdue(lake: Lake, rule: Rule, at: datetime) -> int:
    """Rows that are kept longer than a rule lets them be."""
    if not lake.exists(rule.table):
        return 0
    with lake.read(rule.table) as reading:
        found: int = reading.query(
            f"gdpr.overdue.{rule.table}",
            f"SELECT count(*) AS n FROM {rule.table} WHERE {_condition(rule, at)}",
        )["n"][0].as_py()
    return found


def taken_column(table: Table) -> str | None:
    """The column that says since when a row is kept."""
    return next((name for name in TAKEN if name in table.column_names), None)


def _enforced(lake: Lake, rule: Rule, at: datetime, run: str, *, dry_run: bool) -> Enforced:
    cutoff = rule.cutoff(at)
    rows = overdue(lake, rule, at)
    if dry_run:
        return Enforced(rule, cutoff, "would_erase", rows)
    if not rows:
        return Enforced(rule, cutoff, "nothing", 0)
    try:
        if "batch" in TABLES[rule.table].column_names:
            write_down(lake, rule.table, _condition(rule, at), run)
        erased = lake.erase(rule.table, _condition(rule, at))
    except LakeError as failure:
        # The others are to go all the same; the next run takes this one up again.
        return Enforced(rule, cutoff, "failed", rows, str(failure))
    return Enforced(rule, cutoff, "erased", erased.rows)


def _condition(rule: Rule, at: datetime) -> str:
    """Rows of the rule that are too old. Tenants are checked names, so that quoting them is enough."""
    table = TABLES[rule.table]
    column = taken_column(table)
    assert column is not None
    kind = next(c.type for c in table.columns if c.name == column)
    cutoff = rule.cutoff(at)
    # A plain text is what both DuckDB and delta-rs compare with a time: of other literals one refuses each.
    bound = f"'{cutoff:%Y-%m-%d}'" if kind == "date" else f"'{cutoff:%Y-%m-%d %H:%M:%S.%f}+00:00'"
    parts = [f'"{column}" < {bound}']
    if rule.tenant is not None:
        parts.append(f"\"{table.tenant_column}\" = '{rule.tenant}'")
    elif rule.except_tenants:
        kept = ", ".join(f"'{tenant}'" for tenant in rule.except_tenants)
        parts.append(f'("{table.tenant_column}" IS NULL OR "{table.tenant_column}" NOT IN ({kept}))')
    return " AND ".join(parts)


def _held(rule: Rule, hold: LegalHold, at: datetime) -> Enforced:
    return Enforced(rule, rule.cutoff(at), "held", 0, f"legal hold {hold.name} until {hold.until:%Y-%m-%d}")


def _record(
    lake: Lake,
    done: Sequence[Enforced],
    identity: str,
    *,
    at: datetime,
    actor: Actor,
    run_id: str | None,
) -> None:
    import pyarrow as pa

    rows = [
        {
            "run_id": identity,
            "tenant": each.rule.tenant,
            "recorded_at": at,
            "table_name": each.rule.table,
            "rule": each.rule.why,
            "days": each.rule.days,
            "cutoff": each.cutoff,
            "outcome": each.outcome,
            "rows": each.rows,
            "reason": each.reason,
            "actor": actor.id,
            "dagster_run_id": run_id,
        }
        for each in done
    ]
    lake.append_next(
        RETENTION_RUNS.name, pa.Table.from_pylist(rows, schema=RETENTION_RUNS.schema), source=SOURCE
    )
