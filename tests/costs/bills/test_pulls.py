"""Pulls from billing APIs: pages, restatements, failures of every kind, and keys from where they are kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from ml_registry_pipelines.costs.bills import apis, calling
from ml_registry_pipelines.costs.bills.calling import Caller
from ml_registry_pipelines.costs.bills.intake import BillsError
from ml_registry_pipelines.costs.bills.pulling import Pulled, failed_pulls, pull_bills
from ml_registry_pipelines.lake.lake import Lake
from tests.costs.bills.api import Api, Asked, Reply, serving
from tests.costs.bills.made import (
    DAY,
    Desk,
    anthropic_bucket,
    anthropic_cost,
    cloudflare_answer,
    openai_bucket,
    openai_cost,
    page,
)

NOW = datetime(2026, 10, 7, 9, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)
COSTS, REPORT = "/v1/organization/costs", "/v1/organizations/cost_report"
GRAPHQL = "/client/v4/graphql"


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as api:
        yield api


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ADMIN_KEY", "ANTHROPIC_ADMIN_KEY", "CLOUDFLARE_API_TOKEN"):
        monkeypatch.setenv(name, f"secret of {name}")


def desk_of(lake: Lake, api: Api, name: str = "openai", more: str = "") -> Desk:
    return Desk(lake, f"pulls: [{{api: {name}, url: '{api.url}'{more}}}]")


def pull(desk: Desk, slept: list[float] | None = None) -> Pulled:
    caller = partial(Caller, sleep=(slept if slept is not None else []).append)
    (outcome,) = pull_bills(desk.lake, desk.settings, caller=caller, now=NOW)
    return outcome


def test_openai_is_asked_for_days_by_project_and_line_item_with_its_key(lake: Lake, api: Api) -> None:
    assert not pull(desk_of(lake, api)).failures
    first = api.asked[0]
    assert first.path == COSTS
    assert first.headers["authorization"] == "Bearer secret of OPENAI_ADMIN_KEY"
    assert first.query["group_by"] == ["project_id", "line_item"]
    start, end = int(first.query["start_time"][0]), int(first.query["end_time"][0])
    assert datetime.fromtimestamp(start, UTC) == datetime(2026, 9, 30, tzinfo=UTC)
    assert datetime.fromtimestamp(end, UTC) == datetime(2026, 10, 7, tzinfo=UTC)
    assert {path.rsplit("/", 1)[-1] for path in api.paths()} >= {
        "costs",
        "completions",
        "embeddings",
        "images",
    }


def test_all_pages_are_read_the_empty_ones_too(lake: Lake, api: Api) -> None:
    api.pages[COSTS] = [
        page(openai_bucket(DAY, openai_cost(0.5)), following="1"),
        page(following="2"),
        page(openai_bucket(NEXT, openai_cost("0.25"))),
    ]
    desk = desk_of(lake, api)
    assert pull(desk).taken.taken == 2
    assert desk.billed() == {"USD": Decimal("0.75")}


def test_a_second_pull_states_the_last_days_anew_and_withdraws_what_is_gone(lake: Lake, api: Api) -> None:
    desk = desk_of(lake, api)
    api.pages[COSTS] = [
        page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x")), openai_bucket(NEXT, openai_cost(4)))
    ]
    pull(desk)
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1.5)), openai_bucket(NEXT))]
    done = pull(desk).taken
    assert (done.taken, done.restated, done.withdrawn) == (2, 1, 2)
    assert desk.billed() == {"USD": Decimal("1.5")}


def test_days_that_an_answer_does_not_have_stay_as_they_were(lake: Lake, api: Api) -> None:
    desk = desk_of(lake, api)
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1)), openai_bucket(NEXT, openai_cost(4)))]
    pull(desk)
    api.pages[COSTS] = [page(openai_bucket(NEXT, openai_cost(5)))]
    pull(desk)
    assert desk.billed() == {"USD": Decimal(6)}


def test_anthropic_gives_cents_and_usage_beside_them(lake: Lake, api: Api) -> None:
    api.pages[REPORT] = [page(anthropic_bucket(DAY, anthropic_cost("12345.6789")))]
    usage = {"uncached_input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 10, "model": "m"}
    api.pages["/v1/organizations/usage_report/messages"] = [page(anthropic_bucket(DAY, usage))]
    desk = desk_of(lake, api, "anthropic")
    assert not pull(desk).failures
    first = api.asked[0]
    assert (first.headers["x-api-key"], first.headers["anthropic-version"]) == (
        "secret of ANTHROPIC_ADMIN_KEY",
        "2023-06-01",
    )
    assert first.query["starting_at"] == ["2026-09-30T00:00:00Z"]
    assert desk.billed() == {"USD": Decimal("123.456789")}
    sql = "SELECT sum(quantity) AS tokens FROM provider_bills WHERE kind = 'usage'"
    assert desk.rows(sql, "provider_bills") == [{"tokens": Decimal(160)}]


def test_cloudflare_is_asked_day_by_day_and_hour_by_hour_where_a_day_has_too_much(
    lake: Lake, api: Api, monkeypatch
) -> None:
    monkeypatch.setattr(apis, "CLOUDFLARE_ROWS", 2)

    def groups(asked: Asked) -> Reply:
        variables = asked.json["variables"]
        hours = [h for h in range(24) if variables["from"][11:13] <= f"{h:02}" <= variables["to"][11:13]]
        day = variables["from"][:10]
        made = [
            (f"{day}T{h:02}:00:00Z", "openai", "gpt-4o", 0.5)
            for h in hours
            if day == str(DAY) and h in (3, 7)
        ]
        return 200, {}, json.dumps(cloudflare_answer(*made[: apis.CLOUDFLARE_ROWS])).encode()

    api.answers = groups
    desk = desk_of(lake, api, "cloudflare", ", account: acc-1")
    outcome = pull(desk)
    assert not outcome.failures
    assert len(api.asked) == 7 + 24
    assert api.asked[0].json["variables"]["account"] == "acc-1"
    assert desk.billed() == {"USD": Decimal(1)}
    pull(desk)
    assert desk.billed() == {"USD": Decimal(1)}


def test_what_may_pass_is_tried_again_as_long_as_the_api_says(
    lake: Lake, api: Api, slept: list[float]
) -> None:
    api.failing = [(500, {}, b"oops"), (429, {"Retry-After": "7"}, b"{}"), (503, {}, b"")]
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1)))]
    desk = desk_of(lake, api)
    assert not pull(desk, slept).failures
    assert len(slept) == 3
    assert slept[1] == 7
    assert 0.7 < slept[0] < slept[2]
    assert desk.billed() == {"USD": Decimal(1)}


def test_an_api_that_keeps_failing_is_an_alert_and_costs_nothing(
    lake: Lake, api: Api, slept: list[float]
) -> None:
    desk = desk_of(lake, api)
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1)))]
    pull(desk)
    api.answers = lambda asked: (
        (500, {}, b'{"error": {"message": "overloaded"}}') if asked.path == COSTS else None
    )
    outcome = pull(desk, slept)
    assert len(slept) == calling.TRIES - 1
    assert "status 500 (overloaded)" in outcome.failures[0]
    assert "the next pull reads these days again" in outcome.failures[0]
    (alert,) = failed_pulls([outcome])
    assert alert.key == "bill_pull_failed/openai"
    assert desk.billed() == {"USD": Decimal(1)}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, {}, b'{"error": {"message": "expired"}}'), "does not accept the key"),
        ((403, {}, b""), "does not accept the key"),
        ((404, {}, b""), "status 404"),
        ((302, {"Location": "http://elsewhere.test/"}, b""), "status 302"),
        ((200, {}, b"<html>"), "cannot be read"),
        ((200, {}, b"[]"), "no JSON object"),
        ((200, {}, b"{}"), "no page"),
        ((200, {}, b'{"data": [{}], "has_more": false}'), "something else than buckets"),
        ((200, {}, b'{"data": [], "has_more": true, "next_page": null}'), "and not where"),
    ],
)
def test_an_answer_that_is_none_takes_nothing_and_says_so(
    lake: Lake, api: Api, reply: Reply, said: str
) -> None:
    api.answers = lambda asked: reply if asked.path == COSTS else None
    desk = desk_of(lake, api)
    outcome = pull(desk)
    assert said in outcome.failures[0]
    assert "secret of" not in outcome.failures[0]
    assert desk.lines() == []


def test_pages_that_lead_in_a_circle_are_left(lake: Lake, api: Api) -> None:
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1)), following="0")]
    assert "the same page again" in pull(desk_of(lake, api)).failures[0]


def test_a_chain_that_breaks_off_takes_nothing_of_its_beginning(lake: Lake, api: Api) -> None:
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1)), following="1"), b"cut off"]
    desk = desk_of(lake, api)
    assert pull(desk).failures
    assert desk.lines() == []


def test_an_api_that_is_not_there_is_said_to_be(lake: Lake, slept: list[float]) -> None:
    desk = Desk(lake, "pulls: [{api: openai, url: 'http://127.0.0.1:9'}]")
    assert "does not answer (ConnectionError)" in pull(desk, slept).failures[0]


def test_a_record_of_an_answer_that_cannot_be_taken_is_kept_and_withdraws_nothing(
    lake: Lake, api: Api
) -> None:
    desk = desk_of(lake, api)
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x")))]
    pull(desk)
    api.pages[COSTS] = [page(openai_bucket(DAY, openai_cost(1), openai_cost(2, "x", currency=None)))]
    outcome = pull(desk)
    assert (outcome.taken.quarantined, outcome.taken.withdrawn) == (1, 0)
    assert desk.billed() == {"USD": Decimal(3)}


def test_answers_are_kept_as_they_came_and_can_be_taken_again(lake: Lake, api: Api, tmp_path: Path) -> None:
    raw = json.dumps(page(openai_bucket(DAY, openai_cost(0.1)))).replace("0.1", "0.10000")
    api.pages[COSTS] = [raw.encode()]
    desk = desk_of(lake, api)
    pull(desk)
    (kept,) = (Path(lake.root) / "bills-pulled" / "openai").rglob("*openai_costs.json")
    assert raw.encode() in kept.read_bytes()
    with Lake(str(tmp_path / "other")) as other:
        again = Desk(other, f"sources: [{{name: kept, folder: '{kept.parent}'}}]")
        again.take()
        assert again.billed() == {"USD": Decimal("0.1")}


def test_without_a_key_the_pull_says_which_variable_is_missing(lake: Lake, api: Api, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_ADMIN_KEY")
    assert "set OPENAI_ADMIN_KEY" in pull(desk_of(lake, api)).failures[0]
    assert api.asked == []


def test_a_name_that_no_pull_has_is_refused(lake: Lake, api: Api) -> None:
    desk = desk_of(lake, api)
    with pytest.raises(BillsError, match="no pull is called 'x'; configured are openai"):
        pull_bills(lake, desk.settings, names=["x"])


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Secrets Manager on this machine, to which the environment leads every client."""
    import boto3
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, create_backend_app("secretsmanager"), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager")
    client.create_secret(Name="billing/openai", SecretString=json.dumps({"api_key": "from the vault"}))
    client.create_secret(Name="billing/plain", SecretString="plain key\n")
    yield
    server.shutdown()


@pytest.mark.soak
def test_keys_come_from_secrets_manager_too(lake: Lake, api: Api, secrets: None) -> None:
    from resources import BillsResource

    yaml = "pulls: [{{api: openai, url: '{0}', {1}}}]"
    for said, key in (
        ("key_secret: billing/openai, key_field: api_key", "from the vault"),
        ("key_secret: billing/plain", "plain key"),
    ):
        (Path(lake.root) / "bills.yaml").parent.mkdir(parents=True, exist_ok=True)
        (Path(lake.root) / "bills.yaml").write_text(yaml.format(api.url, said))
        api.asked.clear()
        (outcome,) = BillsResource(home=lake.root).pull(lake)
        assert not outcome.failures
        assert api.asked[0].headers["authorization"] == f"Bearer {key}"
    for said, why in (
        ("key_secret: billing/nothing", "cannot be read: ResourceNotFoundException"),
        ("key_secret: billing/openai, key_field: other", "has no field 'other'"),
        ("key_secret: billing/plain, key_field: api_key", "is no JSON object"),
    ):
        (Path(lake.root) / "bills.yaml").write_text(yaml.format(api.url, said))
        (outcome,) = BillsResource(home=lake.root).pull(lake)
        assert why in outcome.failures[0]
        assert "vault" not in outcome.failures[0]
