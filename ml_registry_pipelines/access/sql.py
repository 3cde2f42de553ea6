"""SQL of a person, with a note in the access log for each query; what may be asked is the sandbox's.

No query is answered whose note could not be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.access.access_log import AccessLog, Outcome, tables_of
from ml_registry_pipelines.access.policy import admit
from ml_registry_pipelines.lake.sandbox import SqlLimits, run_sql
from ml_registry_pipelines.lake.statement import SqlError
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.settings import Environment, Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor


@dataclass(frozen=True)
class Asker:
    """Who asks, in whose data and what for. `tenant` None: all, which is the operator's."""

    actor: Actor
    tenant: str | None
    purpose: str | None = None


def ask_sql(lake: Lake, sql: str, asker: Asker, *, limits: SqlLimits | None = None) -> pa.Table:
    """Run one SELECT over the lake's tables and return its rows.

    Raises:
        NotAllowed: the asker may not read that tenant, or not all of them.
        SqlError: the query is not one plain SELECT, fails, or needs more than its limits.
        LakeError: it could not be noted.
    """
    access = AccessLog(lake)
    if lake.exists("governance_events") or Settings.from_environment().environment is not Environment.DEV:
        with Log(lake) as log:
            admit(log, asker.actor, asker.tenant, what="sql")

    def note(outcome: Outcome, rows: int | None, reason: str = "") -> None:
        access.note(
            asker.actor,
            "sql",
            tables_of(sql) or "no table",
            tenant=asker.tenant,
            outcome=outcome,
            reason=reason,
            purpose=asker.purpose,
            statement=sql,
            rows=rows,
        )

    try:
        rows = run_sql(lake, sql, tenant=asker.tenant, limits=limits)
    except SqlError:
        # Its text may quote a literal.
        note(Outcome.REFUSED, None, "it is no SELECT that is allowed here, or it failed")
        raise
    note(Outcome.ALLOWED, rows.num_rows)
    access.flush()
    return rows
