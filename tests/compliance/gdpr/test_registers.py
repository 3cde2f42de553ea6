"""Registers are typed, hold no names, and their clocks are those of the law."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.compliance.gdpr.clocks import after_months, breach_due, request_due
from ml_registry_pipelines.compliance.gdpr.entries import Breach, Consent, DataRequest, Purpose
from ml_registry_pipelines.compliance.gdpr.registers import Registers, made, read_file
from ml_registry_pipelines.compliance.gdpr.requests import ERASURE, all_requests
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alert_rules import DataProtectionRule
from ml_registry_pipelines.operations.alerts import Severity
from ml_registry_pipelines.operations.data_protection_alerts import deadline_alerts
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from tests.examples import examples

OFFICER = Actor("p-dpo", authenticated_by="api_key")
FILE = """
purposes:
  - name: fraud
    legal_basis: legitimate_interests
    owner: team:fraud
    retention_days: 400
    columns: [inference_events.user_hash, payments.*]
columns:
  - {dataset: payments, column: country, personal: false}
consents:
  - {subject: s-1, purpose: newsletter, given_at: "2026-01-05"}
processors:
  - {name: hosting, region: eu-central-1, contract: C-17}
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        yield log


@pytest.fixture
def registers(log: Log) -> Registers:
    return Registers(log, actor=OFFICER)


def test_a_file_declares_entries_of_several_registers_at_once(registers: Registers, log: Log) -> None:
    registers.put(*read_file(FILE, file="gdpr.yaml"))
    assert [purpose.retention_days for purpose in registers.list(Purpose)] == [400]
    assert registers.get(Consent, "newsletter/s-1").given_at == datetime(2026, 1, 5, tzinfo=UTC)
    events = log.events("default", [1, 2, 3, 4])
    assert len({event.command_id for event in events}) == 1
    assert Registers(log, actor=OFFICER, tenant="other").list(Purpose) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("purposes: [{name: x}]", "purposes, entry 1: legal_basis"),
        ("purpose: []", "unknown register 'purpose'"),
        ("consents: [{subject: jane@x.org, purpose: p, given_at: 2026-01-01}]", "e-mail address"),
        ("processors: [{name: a, region: eu, contract: ask jo@x.org}]", "e-mail address"),
        ("processors: [{name: a, region: eu, contrct: c}]", "there is no such field"),
        ("legal_holds: [{name: a, table: inference_event, reason: r, until: 2030-01-01}]", "no table"),
        ("purposes: [{name: x, legal_basis: contract, owner: a, columns: [users]}]", "is no column"),
        ("breaches: [{name: b, aware_at: 2026-01-01, risk: false}]", "why it is unlikely"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_a_file_has_wrong_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=r"gdpr\.yaml") as wrong:
        read_file(text, file="gdpr.yaml")
    assert said in str(wrong.value)
    assert "@x.org" not in str(wrong.value)


def test_a_request_runs_against_the_clock_of_a_month_and_two_more(registers: Registers) -> None:
    received = datetime.now(UTC) - timedelta(days=10)
    opened = registers.open_request("s-1", "erasure", received_at=received, idempotency_key="k")
    assert registers.open_request("s-1", "erasure", received_at=received, idempotency_key="k") == opened
    assert request_due(opened).date() == after_months(received, 1).date()
    extended = registers.extend_request(opened.name, reason="many systems")
    assert request_due(extended).date() == after_months(received, 3).date()
    with pytest.raises(IllegalTransition, match="no second time"):
        registers.extend_request(opened.name, reason="more")
    closed = registers.close_request(
        opened.name, outcome="erased", needle={"planted": 2, "found": 2, "searched": 9, "hits": 0}
    )
    assert closed.needle["hits"] == 0
    with pytest.raises(IllegalTransition, match="was closed"):
        registers.close_request(opened.name, outcome="again")


def test_an_extension_that_the_subject_hears_of_too_late_is_refused(registers: Registers) -> None:
    received = datetime.now(UTC) - timedelta(days=40)
    opened = registers.open_request("s-1", "access", received_at=received)
    with pytest.raises(IllegalTransition, match="within one month"):
        registers.extend_request(opened.name, reason="late")


def test_requests_are_neither_declared_nor_removed(registers: Registers) -> None:
    entry = made(
        DataRequest, {"name": "r", "subject": "s", "kind": "access", "received_at": "2026-01-01"}, "t"
    )
    with pytest.raises(InvalidInput, match="clock"):
        registers.put(entry)
    with pytest.raises(InvalidInput, match="closed and not removed"):
        registers.remove("request", "r")
    with pytest.raises(NotFound):
        registers.close_request("r", outcome="x")


def test_consent_that_is_withdrawn_keeps_when_it_was_given(registers: Registers) -> None:
    registers.put(*read_file(FILE, file="f"))
    withdrawn = registers.withdraw_consent("newsletter", "s-1")
    assert withdrawn.withdrawn_at is not None
    assert withdrawn.given_at < withdrawn.withdrawn_at
    with pytest.raises(IllegalTransition, match="before"):
        registers.withdraw_consent("newsletter", "s-1")


@pytest.mark.parametrize(
    ("received", "due"),
    [("2026-01-31", "2026-02-28"), ("2028-01-30", "2028-02-29"), ("2026-12-15", "2027-01-15")],
)
def test_a_month_ends_on_the_same_day_or_the_last_one(received: str, due: str) -> None:
    """Art. 3(2)(c) of Regulation (EEC, Euratom) No 1182/71."""
    assert f"{after_months(datetime.fromisoformat(received).replace(tzinfo=UTC), 1):%Y-%m-%d}" == due


@settings(max_examples=examples(200))
@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(0, 40))  # noqa: DTZ001
def test_more_months_are_never_due_earlier(moment: datetime, months: int) -> None:
    at = moment.replace(tzinfo=UTC)
    assert at <= after_months(at, months) <= after_months(at, months + 1)


def test_deadlines_are_alerted_before_they_pass_and_worse_after(registers: Registers, log: Log) -> None:
    now = datetime.now(UTC)
    registers.put(made(Breach, {"name": "b-1", "aware_at": now - timedelta(hours=30)}, "t"))
    registers.open_request("s-1", "access", name="r-1", received_at=now - timedelta(days=40))
    registers.open_request("s-2", "access", name="r-2", received_at=now - timedelta(days=2))
    alerts = {alert.about: alert for alert in deadline_alerts(log, DataProtectionRule(), now)}
    assert set(alerts) == {"default/breach/b-1", "default/request/r-1"}
    assert alerts["default/breach/b-1"].severity is Severity.WARNING
    assert alerts["default/request/r-1"].severity is Severity.ERROR
    registers.close_request("r-1", outcome="answered")
    registers.put(
        made(Breach, {"name": "b-1", "aware_at": now - timedelta(hours=30), "notified_at": now}, "t")
    )
    assert list(deadline_alerts(log, DataProtectionRule(), now)) == []


def test_the_clock_of_a_breach_is_72_hours() -> None:
    aware = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert breach_due(Breach(name="b", aware_at=aware)) == datetime(2026, 3, 4, 12, tzinfo=UTC)


def test_an_erasure_that_is_carried_out_here_is_a_request_like_the_others(
    registers: Registers, log: Log
) -> None:
    received = datetime.now(UTC) - timedelta(days=45)
    state = {
        "name": "e-1",
        "description": "",
        "status": "open",
        "deleted": False,
        "metadata": {
            "subject": "5f" * 16,
            "received_at": received.isoformat(),
            "due_at": after_months(received, 1).isoformat(),
            "extended": "",
            "items": [
                {"id": "table:outcomes", "action": "delete", "confirmed_by": "p-dpo"},
                {"id": "table:assignments", "action": "delete"},
            ],
            "verdict": "",
            "certificate": "",
            "completed_at": None,
        },
    }
    registers.do("request_erasure", ERASURE, {}, lambda _: [Change(ERASURE, "e-1", state)])
    (request,) = all_requests(registers.view())
    assert (request.kind.value, request.plan) == (
        "erasure",
        {"table:outcomes": "delete", "table:assignments": ""},
    )
    (alert,) = deadline_alerts(log, DataProtectionRule(), datetime.now(UTC))
    assert (alert.about, alert.severity) == ("default/request/e-1", Severity.ERROR)
