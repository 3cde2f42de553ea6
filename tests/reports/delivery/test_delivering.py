"""Deliveries as recipients see them: what comes, when, how often, and what is said when figures change."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.reports.delivery import courier as couriers
from ml_registry_pipelines.reports.delivery import ledger as ledgers
from ml_registry_pipelines.reports.delivery.courier import NOT_DELIVERED
from tests.made_events import event, land
from tests.operations.smtp import mail_server
from tests.webhooks.sinks import sink

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
HOOK = """
recipients:
  - {{name: archive, folder: archive}}
  - name: warehouse
    webhook: {url}
    secret: env:REPORTS_HOOK_SECRET
"""


def test_a_report_is_delivered_once_when_its_day_is_over(post):
    post.take(NOON)
    post.subscribe(formats=["html", "csv"])
    first = post.deliver()
    assert (first.delivered, first.failures) == (1, [])
    assert post.files() == ["all/cost_report/2026-11-02.csv", "all/cost_report/2026-11-02.html"]
    total = next(csv.DictReader(io.StringIO(post.text("all/cost_report/2026-11-02.csv"))))
    assert (total["cost"], total["currency"], total["priced_requests"]) == ("2.5", "USD", "1")
    again = post.deliver()
    assert (again.delivered, again.corrected) == (0, 0)
    assert post.courier.look().due == 0
    # The next one: the day after it, and an hour for its last files.
    assert again.next_at == datetime(2026, 11, 4, 1, tzinfo=UTC)


@pytest.mark.soak
def test_what_was_missed_comes_once_each_and_the_oldest_first(post):
    post.subscribe(formats=["csv"])
    post.clock.on(days=3)
    assert post.deliver().delivered == 4
    delivered = sorted(post.ledger(), key=lambda each: each.recorded_at)
    assert [each.period for each in delivered] == ["2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05"]
    assert post.deliver().delivered == 0


def test_days_begin_where_the_tenant_is(post):
    # India is 5:30 ahead: its 2nd of November is from 18:30 of the 1st to 18:30 of the 2nd, UTC.
    post.zone("Asia/Kolkata", "acme")
    start = datetime(2026, 11, 1, 18, 30, tzinfo=UTC)
    minute = timedelta(minutes=1)
    post.take(start - minute, start, start + 12 * 60 * minute, start + 24 * 60 * minute - minute)
    post.take(start + 24 * 60 * minute, start + minute, tenant="globex")
    post.subscribe(tenant="acme", formats=["csv"])
    post.clock.at = start + timedelta(days=1)
    assert post.deliver().waiting == [
        "acme/costs: 2026-11-02 ended a moment ago, and its last files may be on their way"
    ]
    post.clock.on(hours=1)
    assert post.deliver().delivered == 1
    total = next(csv.DictReader(io.StringIO(post.text("tenants/acme/cost_report/2026-11-02.csv"))))
    assert (total["requests"], total["cost"]) == ("3", "7.5")


def test_a_report_waits_until_all_is_counted_but_not_for_ever(post):
    post.take(NOON)
    post.subscribe(formats=["html"])
    assert "files are being taken" in post.deliver(busy=True).waiting[0]
    land(
        post.lake, [event(NOON, in_uncached=1_000_000, out_text=0)]
    )  # taken, and not priced or rolled up yet
    assert "2026-11-02 are taken and not counted yet" in post.deliver().waiting[0]
    post.clock.at = datetime(2026, 11, 3, 12, tzinfo=UTC)
    assert post.deliver(busy=True).delivered == 1
    page = post.text("all/cost_report/2026-11-02.html")
    assert "requests that are not counted yet" in page
    (edition,) = post.courier._editions.newest().values()
    assert not edition.final


def test_late_logs_are_one_correction_that_says_what_changed(post):
    post.take(NOON)
    post.subscribe()
    post.deliver()
    for hour in (13, 14, 15):  # They trickle in.
        post.take(NOON.replace(hour=hour))
        post.clock.on(hours=1)
        assert post.deliver().corrected == 0
    delivered = post.text("all/cost_report/2026-11-02.csv")
    post.clock.on(hours=6)
    assert post.deliver().corrected == 1
    assert post.deliver().corrected == 0
    names = [name for name in post.files() if "corrections" in name]
    assert len(names) == 1
    rows = list(csv.DictReader(io.StringIO(post.text(names[0]))))
    cost = next(row for row in rows if row["row"] == "by=total, currency=USD" and row["figure"] == "cost")
    assert (cost["before"], cost["after"], cost["difference"]) == ("2.5", "10", "7.5")
    assert post.text("all/cost_report/2026-11-02.csv") == delivered  # What was delivered stays.
    assert [(each.number, each.state) for each in post.ledger()] == [(0, "delivered"), (1, "delivered")]


@pytest.mark.soak
def test_many_changed_days_are_one_message(post):
    post.subscribe()
    post.clock.on(days=1)
    post.deliver()
    post.take(*(NOON + timedelta(days=day) for day in range(2)))
    post.clock.on(hours=6)
    assert post.deliver().corrected == 2
    assert len([name for name in post.files() if "corrections" in name]) == 1


@pytest.mark.soak
def test_newer_tables_with_the_same_figures_are_no_correction(post):
    post.take(NOON, tenant="globex")
    post.subscribe(tenant="acme")
    post.deliver()
    post.take(NOON, tenant="globex")  # The day is computed anew, and nothing of acme's is.
    post.clock.on(hours=7)
    assert post.courier.look().due == 1
    assert post.deliver().corrected == 0
    assert post.courier.look().due == 0


def test_two_couriers_at_once_deliver_once(post):
    for number in range(2):
        post.subscribe(f"costs-{number}")
    with sink() as box, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLREG_WEBHOOK_HOSTS", "127.0.0.1")
        patch.setenv("REPORTS_HOOK_SECRET", "0123456789abcdef")
        post.recipients(HOOK.format(url=box.url))
        for number in range(2):
            post.subscribe(f"hook-{number}", recipient="warehouse")
        with ThreadPoolExecutor(3) as pool:
            rounds = list(pool.map(lambda _: post.deliver(), range(3)))
    assert sum(each.delivered for each in rounds) == 4
    assert len(box.got) == 2
    assert len({delivery.headers["webhook-id"] for delivery in box.got}) == 2


def test_a_courier_that_dies_after_sending_is_followed_by_another(post, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with sink() as box:
        monkeypatch.setenv("MLREG_WEBHOOK_HOSTS", "127.0.0.1")
        monkeypatch.setenv("REPORTS_HOOK_SECRET", "0123456789abcdef")
        post.recipients(HOOK.format(url=box.url))
        post.subscribe(recipient="warehouse")
        with monkeypatch.context() as patch:
            patch.setattr(ledgers.Ledger, "settle", die)
            with pytest.raises(Killed):
                post.deliver()
        assert "another courier sends it" in post.deliver().waiting[0]
        post.clock.on(minutes=11)
        assert post.deliver().delivered == 1
        ids = [delivery.headers["webhook-id"] for delivery in box.got]
        assert len(ids) == 2
        assert ids[0] == ids[1]  # So that the receiver can drop one.


def test_a_recipient_that_fails_holds_up_no_other_and_is_given_up_at_last(post, monkeypatch):
    with sink() as box:
        box.status = lambda _: 503
        monkeypatch.setenv("MLREG_WEBHOOK_HOSTS", "127.0.0.1")
        monkeypatch.setenv("REPORTS_HOOK_SECRET", "0123456789abcdef")
        post.recipients(HOOK.format(url=box.url))
        post.subscribe("broken", recipient="warehouse")
        post.subscribe("fine")
        done = post.deliver()
        assert done.delivered == 1
        assert "status 503" in done.failures[0]
        assert done.alerts == ()
        pauses = []
        monkeypatch.setattr(couriers, "MOST_ATTEMPTS", 6)
        for attempt in range(1, 6):
            failed = next(each for each in post.ledger() if each.channel != "folder" and each.number == 0)
            assert failed.attempt == attempt
            assert failed.next_attempt_at is not None
            pauses.append(failed.next_attempt_at - post.clock.at)
            assert post.deliver().failures == []  # not before then
            post.clock.at = failed.next_attempt_at
            done = post.deliver(names=["broken"])
            assert len(done.failures) == 1
        assert timedelta(minutes=30) * 0.5 < sum(pauses, timedelta()) < timedelta(minutes=32)
        (alert,) = done.alerts
        assert (alert.kind, alert.severity.value) == (NOT_DELIVERED, "error")
        assert "mlreg reports redeliver broken" in alert.message
        box.status = lambda _: 204
        post.clock.on(hours=1)
        post.desk().redeliver("broken", date(2026, 11, 2))
        done = post.deliver(names=["broken"])
        assert done.alerts == ()
        assert "2026-11-02" in [d.content["data"]["period"] for d in box.got if d.content]


def test_an_email_has_the_page_and_the_figures_attached(post, monkeypatch):
    post.take(NOON)
    with mail_server() as box:
        monkeypatch.setenv("MLREG_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("MLREG_SMTP_PORT", str(box.port))
        monkeypatch.setenv("MLREG_SMTP_SECURITY", "none")
        monkeypatch.setenv("MLREG_MAIL_FROM", "reports@example.org")
        post.recipients("recipients: [{name: finance, email: [cfo@example.org, ops@example.org]}]")
        post.subscribe(recipient="finance", formats=["html", "csv"])
        assert post.deliver().delivered == 1
    (message,) = box.messages
    assert message["Subject"] == "Cost report, 2026-11-02, all tenants"
    text = message.get_body(("plain",))
    assert text is not None
    body = text.get_content()
    assert "2.50 USD" in body
    assert "100% of 1 billable requests are priced" in body
    attached = {part.get_filename(): part.get_content_type() for part in message.iter_attachments()}
    assert attached == {"2026-11-02.html": "text/html", "2026-11-02.csv": "text/csv"}


def test_addresses_do_not_get_into_the_ledger(post, monkeypatch):
    with mail_server() as box:
        box.refuses["gone@example.org"] = "550 5.1.1 <gone@example.org> is no user here"
        monkeypatch.setenv("MLREG_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("MLREG_SMTP_PORT", str(box.port))
        monkeypatch.setenv("MLREG_SMTP_SECURITY", "none")
        monkeypatch.setenv("MLREG_MAIL_FROM", "reports@example.org")
        post.recipients(
            "recipients:\n  - {name: one, email: gone@example.org}\n"
            "  - {name: two, email: [gone@example.org, cfo@example.org]}\n"
        )
        post.subscribe("a", recipient="one")
        post.subscribe("b", recipient="two")
        done = post.deliver()
    assert done.delivered == 1
    held = {each.recipient: each for each in post.ledger()}
    assert held["one"].state == "failed"
    assert held["two"].message is not None
    assert held["two"].message.startswith("1 of 2 addresses get nothing")
    assert not any("gone" in (each.message or "") for each in held.values())


def test_a_subscription_that_was_removed_gets_nothing_more(post):
    post.subscribe()
    post.desk().remove("costs")
    assert post.deliver().delivered == 0
    assert post.desk().list() == []


def test_a_post_says_what_its_figures_rest_on(post, monkeypatch):
    post.take(NOON, NOON.replace(hour=13))
    post.take(NOON, provider="nobody", model="unknown")
    with sink() as box:
        monkeypatch.setenv("MLREG_WEBHOOK_HOSTS", "127.0.0.1")
        monkeypatch.setenv("REPORTS_HOOK_SECRET", "0123456789abcdef")
        post.recipients(HOOK.format(url=box.url))
        post.subscribe(
            recipient="warehouse", report="provider_comparison", cadence="day", formats=["html", "csv"]
        )
        assert post.deliver().delivered == 1
    (delivery,) = box.got
    data = delivery.content["data"]
    assert delivery.content["type"] == "report.delivered"
    assert data["coverage"]["billable_requests"] == 3
    assert data["coverage"]["priced_requests"] == 2
    assert data["assumptions"]["price_lists"] == ["test-prices 1.2.3"]
    assert data["made_of"]["cost_rollup"] == post.lake.version("cost_rollup")
    assert [file["name"] for file in data["files"]] == ["2026-11-02.html", "2026-11-02.csv"]


@pytest.mark.soak
def test_a_zone_that_changes_moves_no_report_that_was_delivered(post):
    post.take(NOON.replace(hour=23))
    post.subscribe()
    post.deliver()
    post.zone("Asia/Tokyo")  # There it was the 3rd.
    post.clock.on(hours=12)
    done = post.deliver()
    assert (done.delivered, done.corrected) == (0, 0)


def test_what_cannot_be_sent_says_so_in_a_sentence(post):
    post.subscribe()
    post.recipients("recipients: [{name: another, folder: archive}]")
    done = post.deliver()
    assert done.failures == [
        "default/costs: tenant 'default' has no recipient 'archive' of reports; it may send to another"
    ]
    post.recipients("recipients: 3")
    with pytest.raises(MlregError, match="has to hold `recipients`, a list"):
        post.deliver()
