"""Subscribers get every event, signed, in order and at least once, whatever happens to them or to us."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ml_registry_pipelines.cli.webhooks import attach
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import InvalidInput, NameTaken, NotFound
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.webhooks import addresses
from ml_registry_pipelines.webhooks.addresses import Allowed, Forbidden, checked_url, resolved
from ml_registry_pipelines.webhooks.marks import DEAD_AFTER
from ml_registry_pipelines.webhooks.outbox import Outbox
from ml_registry_pipelines.webhooks.subscriptions import Secret, Webhooks
from tests.webhooks.sinks import Delivery, Sink, sink

ACTOR = Actor("p1", authenticated_by="test")
SECRET = "a-secret-of-good-length"
BY_NAME = Secret("TEST_HOOK_SECRET")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def past(self, moment: datetime | None) -> None:
        assert moment is not None
        self.now = moment + timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv(addresses.VARIABLE, "127.0.0.1")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture
def hooks(log: Log) -> Webhooks:
    return Webhooks(log, actor=ACTOR)


@pytest.fixture
def registry(log: Log) -> ModelRegistry:
    return ModelRegistry(log, actor=ACTOR)


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(log: Log, clock: Clock) -> Outbox:
    return Outbox(log, now=clock, whole_seconds=1.0)


def test_every_event_is_delivered_in_order_deletes_included(hooks, registry, outbox, receiver):
    registry.register_model("before")
    hooks.add("ci", receiver.url, BY_NAME)
    registry.register_model("a")
    registry.set_model_owners("a", ["team:risk"])
    registry.delete_model("a")
    told = outbox.deliver()
    assert receiver.sequences == [2, 3, 4, 5]
    assert [d.content["type"] for d in receiver.got[1:]] == [
        "register_model",
        "set_owners_of_model",
        "delete_model",
    ]
    assert receiver.got[-1].content["data"]["state"]["deleted"] is True
    assert (told.sent, told.all_told) == (4, True)
    assert outbox.deliver().sent == 0
    assert len(receiver.got) == 4


def test_a_receiver_can_verify_who_sent_it_and_when(hooks, registry, outbox, receiver):
    hooks.add("ci", receiver.url, BY_NAME)
    outbox.deliver()
    [delivery] = receiver.got
    signed = (
        f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}.".encode() + delivery.body
    )
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert delivery.headers["webhook-signature"] == f"v1,{expected}"
    assert delivery.headers["webhook-id"] == delivery.content["data"]["event_id"]
    assert abs(int(delivery.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60


def test_the_secret_is_in_no_event(hooks, log, tmp_path, receiver):
    (tmp_path / "secret").write_text(SECRET)
    hooks.add("one", receiver.url, BY_NAME)
    hooks.add("two", receiver.url, Secret(file=str(tmp_path / "secret")))
    head, _ = log.head("default")
    assert not [e for e in log.events("default", range(1, head + 1)) if SECRET in e.payload]


def test_filters_pass_what_was_asked_for(hooks, registry, outbox, receiver):
    hooks.add("deletes", receiver.url, BY_NAME, actions=["delete_*"], entity_types=["model"])
    registry.register_model("a")
    registry.delete_model("a")
    registry.things.register("team", "t")
    registry.things.delete("team", "t")
    assert outbox.deliver().sent == 1
    assert [d.content["type"] for d in receiver.got] == ["delete_model"]
    assert [s.waiting for s in outbox.standings()] == [0]


def test_tenants_are_told_of_their_own_events_alone(log, hooks, registry, outbox, receiver):
    hooks.add("ci", receiver.url, BY_NAME)
    ModelRegistry(log, actor=ACTOR, tenant="other").register_model("secret")
    registry.register_model("ours")
    outbox.deliver()
    assert {d.content["data"]["tenant"] for d in receiver.got} == {"default"}


def test_a_receiver_that_fails_is_tried_again_later_and_loses_nothing(
    hooks, registry, outbox, receiver, clock
):
    hooks.add("ci", receiver.url, BY_NAME)
    registry.register_model("a")
    failures = iter([500, 503, 429])
    receiver.status = lambda delivery: next(failures, 200) if delivery.sequence == 2 else 200
    pauses = []
    for _ in range(3):
        told = outbox.deliver()
        [standing] = told.standings
        pauses.append(standing.mark.next_attempt_at - clock.now)
        sent = len(receiver.got)
        outbox.deliver()
        assert len(receiver.got) == sent
        assert "event 2: 127.0.0.1" in str(standing.mark.last_failure)
        clock.past(standing.mark.next_attempt_at)
    assert all(
        timedelta(seconds=2.5) * 2**n <= p <= timedelta(seconds=5) * 2**n for n, p in enumerate(pauses)
    )
    registry.register_model("b")
    told = outbox.deliver()
    assert receiver.sequences == [1, 2, 2, 2, 2, 3]
    assert (told.standings[0].mark.failures, told.standings[0].mark.last_failure) == (0, None)


def test_one_that_hangs_or_trickles_holds_nobody_up(hooks, registry, outbox, receiver):
    with sink() as hanging, sink() as trickling:
        hanging.silent.set()
        trickling.trickles = True
        for name, at in (("hangs", hanging), ("trickles", trickling), ("well", receiver)):
            hooks.add(name, at.url, BY_NAME, first=1)
        told = outbox.deliver()
        assert receiver.sequences == [1, 2, 3]
        why = {s.subscription.name: s.mark.last_failure for s in told.standings}
        assert "no answer within 1 seconds" in str(why["hangs"])
        assert "no answer within 1 seconds" in str(why["trickles"])
        assert why["well"] is None


def test_a_redirect_is_not_followed(hooks, outbox, receiver):
    with sink() as other:
        receiver.to, receiver.status = other.url, lambda _: 307
        hooks.add("ci", receiver.url, BY_NAME)
        [standing] = outbox.deliver().standings
        assert other.got == []
    assert "status 307 and leads on to 127.0.0.1" in str(standing.mark.last_failure)
    assert "k=v" not in str(standing.mark.last_failure)


def test_a_subscriber_that_stays_away_is_called_dead_and_comes_back(hooks, outbox, receiver, clock):
    hooks.add("ci", receiver.url, BY_NAME)
    receiver.status = lambda _: 500
    for n in range(1, DEAD_AFTER + 1):
        told = outbox.deliver()
        assert bool(told.dead) == (n == DEAD_AFTER)
        clock.past(told.next_attempt_at)
    receiver.status = lambda _: 200
    assert outbox.deliver().dead == ()


def test_a_replay_tells_again_from_an_event_and_can_go_past_one(hooks, registry, outbox, receiver, clock):
    hooks.add("ci", receiver.url, BY_NAME)
    registry.register_model("a")
    outbox.deliver()
    hooks.replay("ci", 2)
    outbox.deliver()
    assert receiver.sequences == [1, 2, 2, 3]
    receiver.status = lambda delivery: 400 if delivery.sequence == 4 else 200
    registry.register_model("refused")
    registry.register_model("b")
    outbox.deliver()
    hooks.replay("ci", 5)
    outbox.deliver()
    assert receiver.sequences[4:] == [4, 5, 6]
    with pytest.raises(InvalidInput, match="there is no event 99"):
        hooks.replay("ci", 99)


def test_a_removed_subscription_gets_nothing_more_and_frees_its_name(hooks, registry, outbox, receiver):
    hooks.add("ci", receiver.url, BY_NAME)
    with pytest.raises(NameTaken):
        hooks.add("ci", receiver.url, BY_NAME)
    hooks.remove("ci")
    assert (outbox.deliver().sent, hooks.list()) == (0, [])
    with pytest.raises(NotFound):
        hooks.replay("other", 1)
    hooks.add("ci", receiver.url, BY_NAME)
    assert outbox.deliver().sent == 1


def test_a_secret_that_is_not_there_says_so_and_nothing_is_sent_unsigned(
    hooks, outbox, receiver, monkeypatch
):
    hooks.add("ci", receiver.url, BY_NAME)
    monkeypatch.delenv("TEST_HOOK_SECRET")
    [standing] = outbox.deliver().standings
    assert "no secret in environment variable TEST_HOOK_SECRET" in str(standing.mark.last_failure)
    assert receiver.got == []


def test_an_address_that_is_a_secret_comes_from_the_environment(hooks, outbox, receiver, monkeypatch, log):
    monkeypatch.setenv("TEST_HOOK_URL", receiver.url)
    hooks.add("ci", "env:TEST_HOOK_URL", BY_NAME)
    assert outbox.deliver().sent == 1
    assert receiver.url not in log.events("default", [1])[0].payload


def test_marks_survive_and_a_slower_process_does_not_set_them_back(tmp_path, hooks, registry, log, receiver):
    hooks.add("ci", receiver.url, BY_NAME)
    slow = Outbox(log)
    [behind] = slow.standings()
    Outbox(log).deliver()
    assert slow._marks.keep(behind.mark).delivered == 1
    log.settle()
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as again:
        assert Outbox(again).deliver().sent == 0
        assert [s.mark.delivered for s in Outbox(again).standings()] == [1]


WORKER = """
import sys
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.webhooks.outbox import Outbox
with Lake(sys.argv[1]) as lake, Log(lake) as log:
    Outbox(log).deliver(seconds=300)
"""


@pytest.mark.soak
def test_a_kill_between_delivery_and_mark_tells_again_and_skips_nothing(
    tmp_path, hooks, registry, log, receiver
):
    hooks.add("ci", receiver.url, BY_NAME)
    for n in range(9):
        registry.register_model(f"m{n}")
    workers: list[subprocess.Popen[bytes]] = []

    def kill(delivery: Delivery) -> int:
        if delivery.sequence == 5 and len(receiver.got) == 5:
            workers[0].send_signal(signal.SIGKILL)
            workers[0].wait()
        return 200

    receiver.status = kill
    workers.append(
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path / "lake")], env=dict(os.environ))
    )
    workers[0].wait()
    assert workers[0].returncode == -signal.SIGKILL
    assert receiver.sequences == [1, 2, 3, 4, 5]
    Outbox(log).deliver()
    assert receiver.sequences == [1, 2, 3, 4, 5, *range(1, 11)]
    ids = [d.headers["webhook-id"] for d in receiver.got]
    assert ids[:5] == ids[5:10]


# -- where a webhook may lead ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/x",
        "https://127.0.0.1/x",
        "https://10.0.0.8/x",
        "https://169.254.169.254/latest",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[fd00::1]/x",
        "https://[64:ff9b::a00:1]/x",
        "https://0.0.0.0/x",
        "https://100.64.0.1/x",
        "https://224.0.0.1/x",
    ],
)
def test_what_only_this_machine_should_reach_is_refused(url):
    with pytest.raises(Forbidden, match=addresses.VARIABLE):
        checked_url(url, Allowed())


@pytest.mark.parametrize(
    "url",
    ["ftp://x/y", "https://", "https://user:pw@hooks.example.org/", "https://a b/", "https://x:y/", "h"],
)
def test_what_is_no_address_is_refused_without_showing_a_password(url):
    with pytest.raises(InvalidInput) as raised:
        checked_url(url, Allowed())
    assert "pw" not in str(raised.value)


@given(st.ip_addresses(v=4))
def test_only_public_addresses_pass_unasked(address):
    if address.is_global and not address.is_multicast:
        assert checked_url(f"https://{address}/", Allowed())
    else:
        with pytest.raises(Forbidden):
            checked_url(f"https://{address}/", Allowed())


def test_a_name_that_leads_inside_is_refused_unless_the_operator_allows_it(monkeypatch):
    with pytest.raises(Forbidden, match="no public address"):
        resolved("localhost", 443, Allowed())
    monkeypatch.setenv(addresses.VARIABLE, "localhost, 10.1.0.0/16")
    allowed = Allowed.from_environment()
    assert resolved("localhost", 443, allowed)
    assert checked_url("http://localhost:8080/x", allowed)
    assert checked_url("http://10.1.2.3/x", allowed)
    with pytest.raises(Forbidden):
        checked_url("http://10.2.2.3/x", allowed)


def test_what_was_allowed_once_is_looked_at_at_each_delivery(hooks, outbox, receiver, monkeypatch):
    hooks.add("ci", receiver.url, BY_NAME)
    monkeypatch.setenv(addresses.VARIABLE, "")
    [standing] = outbox.deliver().standings
    assert f"may allow its host in {addresses.VARIABLE}" in str(standing.mark.last_failure)
    assert receiver.got == []


def test_a_subscription_makes_no_use_of_other_secrets(hooks, receiver):
    for secret, url in (("AWS_SECRET_ACCESS_KEY", receiver.url), ("TEST_HOOK_SECRET", "env:DATABASE_URL")):
        with pytest.raises(InvalidInput, match="whose name holds HOOK"):
            hooks.add("ci", url, Secret(secret))


def test_a_thing_that_only_looks_like_a_subscription_keeps_events_from_nobody(
    hooks, registry, outbox, receiver
):
    with pytest.raises(InvalidInput, match="`mlreg webhooks add` records it"):
        registry.things.register("webhook", "odd")

    def recorded(name: str, **metadata: object) -> None:
        state = NewThing(name, metadata=metadata).recorded()
        registry.do("register_webhook", "webhook", state, lambda _: [Change("webhook", new_id(), state)])

    recorded("odd", url=receiver.url)
    bare = {
        "actions": [],
        "entity_types": [],
        "first": 1,
        "epoch": 0,
        "secret": {"variable": "TEST_HOOK_SECRET"},
    }
    recorded("inside", url="http://localhost/x", **bare)
    recorded("nowhere", url="https://a..b/x", **bare)
    hooks.add("ci", receiver.url, BY_NAME, first=1)
    told = outbox.deliver()
    assert receiver.sequences == [1, 2, 3, 4]
    why = {s.subscription.name: str(s.mark.last_failure) for s in told.standings}
    assert "may allow its host" in why["inside"]
    assert "'https://a..b/x' is no address" in why["nowhere"]
    with pytest.raises(InvalidInput, match="'odd' of tenant 'default' was not made by"):
        hooks.list()
    assert hooks.remove("odd") == "odd"
    assert [s.name for s in hooks.list()] == ["ci", "inside", "nowhere"]


# -- from a shell ------------------------------------------------------------------------------


def test_subscriptions_from_a_shell(tmp_path, monkeypatch, receiver):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    group = click.Group("mlreg")
    attach(group)

    def mlreg(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(group, ["webhooks", *arguments])
        return done.exit_code, done.output

    assert mlreg("add", "ci", receiver.url, "--secret-env", "TEST_HOOK_SECRET", "--action", "register_*") == (
        0,
        "ci gets events from 1 on\n",
    )
    code, said = mlreg("deliver")
    assert (code, said) == (0, "1 events delivered\n")
    assert "register_*" in mlreg("list")[1]
    code, said = mlreg("status", "ci")
    assert code == 0
    assert "up to event 1 of 1; 1 were taken" in said
    receiver.status = lambda _: 500
    assert "from 1 on" in mlreg("replay", "ci", "--from", "1")[1]
    code, said = mlreg("deliver")
    assert code == 1
    assert "answered with status 500" in said
    assert "1 times since" in mlreg("status")[1]
    assert mlreg("remove", "ci") == (0, "ci gets nothing any more\n")
