"""Rows go when they have been kept long enough, unless a hold or the declaration keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ml_registry_pipelines.compliance.gdpr.registers import Registers, read_file
from ml_registry_pipelines.compliance.gdpr.retention import enforce_retention
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.audits import costs_follow_events, counts_add_up
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from tests.compliance.erasure.people import fill

NOW = datetime.now(UTC)
ACTOR = Actor("p-dpo")


def row(lake: Lake, table: str, **values: object) -> None:
    declared = lake.declaration(table)
    blank = {
        "string": "x",
        "int64": 0,
        "int32": 0,
        "bool": False,
        "float64": 0.0,
        "timestamp": NOW,
        "date": NOW.date(),
    }
    full = {c.name: blank.get(c.type) if c.required else None for c in declared.columns} | values
    lake.append_next(table, pa.Table.from_pylist([full], schema=declared.schema), source="made")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        for tenant, days in (("a", 10), ("a", 400), ("b", 10), ("b", 200), ("b", 400)):
            taken = NOW - timedelta(days=days)
            row(lake, "quarantined_rows", tenant=tenant, recorded_at=taken, quarantine_id=f"{tenant}{days}")
            row(lake, "access_log", tenant=tenant, recorded_at=taken, access_id=f"{tenant}{days}")
        yield log


def ids(log: Log, table: str, column: str) -> list[str]:
    with log.lake.read(table) as reading:
        found: list[str] = reading.query("t", f"SELECT {column} AS id FROM {table} ORDER BY 1")[
            "id"
        ].to_pylist()
    return found


def declare(log: Log, tenant: str, text: str) -> None:
    Registers(log, actor=ACTOR, tenant=tenant).put(*read_file(text, file="f"))


def test_rows_past_the_tables_period_go_and_what_was_done_is_kept(log: Log) -> None:
    dry = enforce_retention(log, actor=ACTOR, dry_run=True)
    assert {e.rule.table: e.rows for e in dry if e.rows} == {
        "quarantined_rows": 2,
        "access_log": 2,
    }
    assert len(ids(log, "quarantined_rows", "quarantine_id")) == 5
    enforce_retention(log, actor=ACTOR)
    assert ids(log, "quarantined_rows", "quarantine_id") == ["a10", "b10", "b200"]
    assert ids(log, "access_log", "access_id") == ["a10", "b10", "b200"]
    with log.lake.read("retention_runs") as reading:
        kept = reading.query(
            "t",
            "SELECT outcome, sum(rows)::INT AS n FROM retention_runs WHERE rows > 0 GROUP BY 1 ORDER BY 1",
        ).to_pylist()
    assert kept == [{"outcome": "erased", "n": 4}, {"outcome": "would_erase", "n": 4}]


def test_a_shorter_purpose_erases_earlier_only_where_erasure_has_precedence(log: Log) -> None:
    declare(
        log,
        "b",
        """
        purposes:
          - {name: mend, legal_basis: contract, owner: team:x, retention_days: 100, columns: [quarantined_rows.raw]}
          - {name: audit, legal_basis: contract, owner: team:x, retention_days: 100, columns: [access_log.actor]}
        """,
    )
    enforce_retention(log, actor=ACTOR)
    assert ids(log, "quarantined_rows", "quarantine_id") == ["a10", "b10"]
    assert ids(log, "access_log", "access_id") == ["a10", "b10", "b200"]


def test_a_legal_hold_keeps_the_rows_of_its_tenant_alone_until_it_ends(log: Log) -> None:
    until = NOW + timedelta(days=1)
    declare(
        log,
        "b",
        "legal_holds: [{name: case-7, table: quarantined_rows, reason: claim, "
        f"until: {until.isoformat()}}}]",
    )
    done = enforce_retention(log, actor=ACTOR)
    assert [e.reason for e in done if e.outcome == "held"] == [f"legal hold case-7 until {until:%Y-%m-%d}"]
    assert ids(log, "quarantined_rows", "quarantine_id") == ["a10", "b10", "b200", "b400"]


def test_counts_add_up_after_rows_went_by_retention(tmp_path: Path) -> None:
    """What retention removed from a batch is on record, as what an erasure removed is."""
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        declare(
            log,
            "default",
            """
            purposes:
              - {name: p, legal_basis: contract, owner: team:ml, retention_days: 1,
                 columns: ["inference_events.*", "quarantined_rows.*"]}
            """,
        )
        assert counts_add_up(lake).passed
        with lake.read("inference_events") as reading:
            stored = reading.query("t", "SELECT count(*) AS n FROM inference_events")["n"][0].as_py()
        later = datetime.now(UTC) + timedelta(days=3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ml_registry_pipelines.compliance.gdpr.retention.now", lambda: later)
            done = enforce_retention(log, actor=ACTOR)
        gone = {e.rule.table: e.rows for e in done if e.outcome == "erased"}
        assert gone["inference_events"] == stored
        finding = counts_add_up(lake)
        assert finding.passed, finding.sentence
        assert costs_follow_events(lake).passed
        with lake.read("erased_rows") as reading:
            rows = reading.query(
                "t", "SELECT table_name, sum(rows) AS n FROM erased_rows GROUP BY ALL ORDER BY 1"
            )
        # The row in quarantine names no tenant, so that no purpose of one shortens its time.
        assert rows.to_pylist() == [{"table_name": "inference_events", "n": stored}]
