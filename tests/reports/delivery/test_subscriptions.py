"""Who may send what where: subscriptions, and the file of recipients."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from ml_registry_pipelines.costs.periods import PeriodKind
from ml_registry_pipelines.registry.errors import InvalidInput, NameTaken, NotFound
from ml_registry_pipelines.reports.delivery.recipients import Channel, RecipientsError, read_recipients
from ml_registry_pipelines.reports.delivery.subscriptions import NewSubscription

TODAY = datetime.now(UTC).date()


def read(text: str):
    return read_recipients(text, file="r.yaml", home="/home")


def test_a_file_of_recipients_is_read():
    found = read(
        "recipients:\n"
        "  - {name: finance, email: [cfo@example.org, a@example.org], tenants: [acme]}\n"
        "  - {name: warehouse, webhook: 'env:REPORTS_HOOK', secret: 'env:REPORTS_SECRET'}\n"
        "  - {name: archive, folder: out}\n"
        "  - {name: bucket, folder: 's3://b/reports/'}\n"
    )
    assert {name: (each.channel, each.to) for name, each in found.items()} == {
        "finance": (Channel.EMAIL, ("cfo@example.org", "a@example.org")),
        "warehouse": (Channel.WEBHOOK, ("env:REPORTS_HOOK",)),
        "archive": (Channel.FOLDER, ("/home/out",)),
        "bucket": (Channel.FOLDER, ("s3://b/reports",)),
    }
    assert found["finance"].takes_from("acme")
    assert not found["finance"].takes_from("globex")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{name: a}", "exactly one of email, webhook and folder"),
        ("{name: a, email: x@example.org, folder: b}", "exactly one of email, webhook and folder"),
        ("{name: a, email: nobody}", "no e-mail address"),
        ("{name: a, folder: ../etc}", "without `..`"),
        ("{name: a, folder: 'gs://b'}", "a path, or s3://bucket/prefix"),
        ("{name: a, webhook: 'https://example.org/x'}", "needs a secret"),
        ("{name: a, webhook: 'https://example.org/x', secret: abc}", "never the secret itself"),
        ("{name: a, webhook: 'http://10.0.0.1/x', secret: 'env:S'}", "is not https"),
        ("{name: A, folder: b}", "lower-case letters"),
        ("{name: a, folder: b, to: c}", "unknown field 'to'"),
        ("3", "has to be a mapping"),
    ],
)
def test_what_is_wrong_with_a_recipient_is_said(entry, why):
    with pytest.raises(RecipientsError, match=r"r\.yaml, recipient 1: ") as wrong:
        read(f"recipients: [{entry}]")
    assert why in str(wrong.value)


def test_names_are_given_once():
    with pytest.raises(RecipientsError, match="two recipients are called 'a'"):
        read("recipients: [{name: a, folder: b}, {name: a, folder: c}]")


def test_a_subscription_is_an_event_and_can_be_taken_back(post):
    made = post.subscribe(report="provider_comparison", formats=["csv", "html", "csv"])
    assert (made.cadence, made.scope, [f.value for f in made.formats]) == (
        PeriodKind.WEEK,
        None,
        ["html", "csv"],
    )
    head, _ = post.log.head("default")
    (event,) = post.log.events("default", [head])
    assert event.action == "add_report_subscription"
    with pytest.raises(NameTaken):
        post.subscribe()
    post.desk().remove("costs")
    with pytest.raises(NotFound):
        post.desk().get("costs")
    assert post.subscribe().name == "costs"


def test_a_command_given_again_is_given_once(post):
    asked = NewSubscription("costs", "cost_report", "archive")
    one, two = (post.desk().add(asked, idempotency_key="k") for _ in range(2))
    assert one.id == two.id
    assert TODAY <= one.first <= datetime.now(UTC).date()
    again = [post.desk().redeliver("costs", one.first, idempotency_key="r") for _ in range(2)]
    assert [each.epoch for each in again] == [1, 1]


def test_a_tenant_gets_reports_about_itself_alone(post):
    for scope in ("*", "globex"):
        with pytest.raises(InvalidInput, match="about itself alone"):
            post.subscribe(tenant="acme", scope=scope)
    assert post.subscribe(tenant="acme").scope == "acme"
    assert post.subscribe("all", scope="*").scope is None
    post.recipients("recipients: [{name: archive, folder: out, tenants: [globex]}]")
    with pytest.raises(InvalidInput, match="tenant 'acme' has no recipient 'archive'"):
        post.subscribe("other", tenant="acme")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"report": "nothing"}, "there is no report 'nothing'"),
        ({"cadence": "hour"}, "made by day or week or month"),
        ({"formats": ["pdf"]}, "formats are some of html, csv, markdown"),
        ({"formats": []}, "at least one"),
        ({"recipient": "nobody"}, "no recipient 'nobody'"),
        ({"first": date(2020, 1, 1)}, "over 400 days ago"),
        ({"first": TODAY + timedelta(days=500)}, "days ahead"),
        ({"report": "tenant_statement", "scope": "*"}, "is about one tenant"),
        ({"name": ""}, "name of a subscription"),
    ],
)
def test_what_cannot_be_subscribed_says_why(post, given, why):
    with pytest.raises(InvalidInput, match=why):
        post.subscribe(**given)
