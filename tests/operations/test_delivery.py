"""Alerts from their opening to their end, and on their way to real HTTP, SMTP and file sinks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.acknowledging import Acknowledgements, note_acknowledgements
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Settled, Severity
from ml_registry_pipelines.operations.messages import Messages
from ml_registry_pipelines.operations.sinks import SinksError, configured_sinks, read_sinks, usable_sinks
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from tests.examples import examples
from tests.operations.smtp import mail_server
from tests.webhooks.sinks import Delivery, Sink, sink

HOUR = timedelta(hours=1)
COOL = {"budget": HOUR}


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def past(self, time: timedelta) -> None:
        self.now += time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alerts(lake: Lake, clock: Clock) -> Alerts:
    return Alerts(lake, now=clock)


@pytest.fixture
def log(lake: Lake) -> Iterator[Log]:
    with Log(lake) as log:
        yield log


def over(
    severity: Severity = Severity.WARNING, about: str = "acme/search", tenant: str | None = "acme"
) -> Alert:
    return Alert("budget", about, severity, f"Budget {about} is <spent>", "80 of 100 USD.", tenant=tenant)


def settle(alerts: Alerts, *current: Alert) -> Settled:
    return alerts.settle({"budget"}, current, because="Less is spent.", cooldown=COOL)


def rows(lake: Lake) -> list[tuple[str, str, bool]]:
    with lake.read("alerts") as reading:
        found = reading.query("test", "SELECT * FROM alerts ORDER BY recorded_at").to_pylist()
    return [(row["state"], row["severity"], bool(row["silent"])) for row in found]


# -- worse, quiet, acknowledged, reminded ----------------------------------------------------------


def test_what_gets_worse_escalates_once_and_stays_one_occurrence(lake, alerts):
    first = settle(alerts, over())
    assert settle(alerts, over(Severity.ERROR)).escalated == ("budget/acme/search",)
    assert not settle(alerts, over(Severity.ERROR))
    assert not settle(alerts, over())
    settle(alerts)
    assert first.opened == ("budget/acme/search",)
    assert rows(lake) == [
        ("opened", "warning", False),
        ("escalated", "error", False),
        ("resolved", "error", False),
    ]
    with lake.read("alerts") as reading:
        ids = reading.query("test", "SELECT DISTINCT alert_id FROM alerts")
    assert ids.num_rows == 1


def test_what_flaps_within_its_cooldown_is_kept_and_told_of_only_if_it_lasts(lake, alerts, clock):
    settle(alerts, over())
    settle(alerts)
    clock.past(HOUR / 2)
    settle(alerts, over())
    settle(alerts)
    settle(alerts, over())
    assert [silent for _, _, silent in rows(lake)] == [False, False, True, True, True]
    assert not alerts.remind()
    clock.past(2 * HOUR)
    assert alerts.remind().reminded == ("budget/acme/search",)
    assert not alerts.remind()
    settle(alerts)
    assert rows(lake)[-2:] == [("reminded", "warning", False), ("resolved", "warning", False)]


def test_what_comes_back_worse_is_told_of_at_once(lake, alerts, clock):
    settle(alerts, over())
    settle(alerts)
    settle(alerts, over(Severity.ERROR))
    assert rows(lake)[-1] == ("opened", "error", False)
    clock.past(2 * HOUR)
    settle(alerts)
    clock.past(2 * HOUR)
    settle(alerts, over())
    assert rows(lake)[-1] == ("opened", "warning", False)


def test_who_acknowledges_is_an_event_and_keeps_the_key_quiet_until_then(lake, log, alerts, clock):
    settle(alerts, over())
    desk = Acknowledgements(log, actor=Actor("p7", authenticated_by="test"), tenant="acme")
    done = desk.acknowledge("budget/acme/search", clock.now + 3 * HOUR, note="talking to them")
    (event,) = log.events("acme", [1])
    assert (event.action, event.actor) == ("acknowledge_alert", "p7")
    (standing,) = alerts.standing()
    assert (standing.acknowledged_by, standing.quiet_until) == ("p7", clock.now + 3 * HOUR)
    assert standing.acknowledgement == "acme/1"
    # It is over, comes back, and nobody is told but of the end.
    settle(alerts)
    settle(alerts, over())
    assert rows(lake) == [
        ("opened", "warning", False),
        ("acknowledged", "warning", False),
        ("resolved", "warning", False),
        ("opened", "warning", True),
    ]
    assert not note_acknowledgements(log, alerts)
    clock.past(4 * HOUR)
    assert alerts.remind().reminded
    with pytest.raises(IllegalTransition, match="nobody has acknowledged"):
        desk.withdraw("budget/acme/search")
    assert done.key == "budget/acme/search"


def test_what_gets_worse_is_told_of_whoever_has_it(lake, log, alerts, clock):
    settle(alerts, over())
    Acknowledgements(log, actor=Actor("p7"), tenant="acme").acknowledge(
        "budget/acme/search", clock.now + HOUR
    )
    settle(alerts, over(Severity.ERROR))
    note_acknowledgements(log, alerts)
    assert [state for state, _, _ in rows(lake)] == ["opened", "acknowledged", "escalated"]
    assert rows(lake)[-1] == ("escalated", "error", False)


def test_an_acknowledgement_whose_note_was_lost_is_made_up_for(lake, log, alerts, clock, monkeypatch):
    settle(alerts, over())
    with pytest.raises(InvalidInput, match="concerns tenant 'acme', not 'default'; acknowledge it there"):
        Acknowledgements(log, actor=Actor("p7")).acknowledge("budget/acme/search", clock.now + HOUR)
    desk = Acknowledgements(log, actor=Actor("p7"), tenant="acme")
    with monkeypatch.context() as killed:
        killed.setattr(
            "ml_registry_pipelines.operations.acknowledging.note_acknowledgements", lambda *_: Settled()
        )
        desk.acknowledge(alerts.standing()[0].alert_id[:8], clock.now + HOUR)
    assert note_acknowledgements(log, alerts).acknowledged == ("budget/acme/search",)
    desk.withdraw("budget/acme/search")
    assert [state for state, _, _ in rows(lake)] == ["opened", "acknowledged", "reminded"]


def test_an_acknowledgement_is_about_an_open_alert_and_a_time_to_come(log, alerts, clock):
    desk = Acknowledgements(log, actor=Actor("p7"), tenant="acme")
    with pytest.raises(NotFound, match="mlreg alerts"):
        desk.acknowledge("budget/acme/search", clock.now + HOUR)
    settle(alerts, over())
    for wrong in (clock.now - HOUR, clock.now + timedelta(days=400)):
        with pytest.raises(InvalidInput, match="within the next 366 days"):
            desk.acknowledge("budget/acme/search", wrong)
    with pytest.raises(InvalidInput, match="has no zone"):
        desk.acknowledge("budget/acme/search", datetime(2030, 1, 1))  # noqa: DTZ001 - what is refused


# -- sinks -----------------------------------------------------------------------------------------


def told(receiver: Sink) -> list[tuple[str, str]]:
    return [(d.content["alert_key"], d.content["state"]) for d in receiver.got]


def sinks_at(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "alert-sinks.yaml").write_text(text)


def test_a_sink_that_is_down_for_an_hour_gets_everything_in_order_and_holds_nobody_up(
    lake, alerts, clock, home
):
    with sink() as down, sink() as well:
        sinks_at(home, f"sinks: [{{name: a, webhook: '{down.url}'}}, {{name: b, webhook: '{well.url}'}}]")
        messages = Messages(lake, configured_sinks(str(home)), now=clock)
        down.status = lambda _: 503
        for minute in range(0, 60, 4):
            if minute % 12 == 0:
                alerts.open(over(about=f"at {minute}"))
            messages.tell()
            clock.past(timedelta(minutes=4))
        expected = [(f"budget/at {minute}", "opened") for minute in range(0, 60, 12)]
        assert [one for one in told(well) if one[0] != "sink_failing/a"] == expected
        # Asked anew after growing pauses: not at each look.
        assert 5 < len(down.got) <= 15
        down.got.clear()
        down.status = lambda _: 204
        clock.past(timedelta(minutes=5))
        messages.tell()
        messages.tell()
        assert [one for one in told(down) if one[0] != "sink_failing/a"] == expected
        assert told(down)[1] == ("sink_failing/a", "opened")
        assert told(down)[-1] == told(well)[-1] == ("sink_failing/a", "resolved")
        assert len(told(down)) == len(set(told(down)))


def test_a_sink_that_hangs_does_not_keep_the_others_from_hearing(lake, alerts, home, monkeypatch):
    monkeypatch.setattr("ml_registry_pipelines.operations.sinks.SECONDS", 0.3)
    with sink() as hangs, sink() as well:
        hangs.silent.set()
        sinks_at(home, f"sinks: [{{name: a, slack: '{hangs.url}'}}, {{name: b, webhook: '{well.url}'}}]")
        alerts.open(over())
        done = Messages(lake, configured_sinks(str(home))).tell()
        assert told(well) == [("budget/acme/search", "opened")]
        assert "no answer within 0.3 seconds" in (done.failures or {})["a"]


def test_each_sink_hears_what_passes_its_filter_in_its_own_form(lake, alerts, home, tmp_path, monkeypatch):
    with sink() as chat, mail_server() as box:
        for name, value in (
            ("MLREG_SMTP_HOST", "127.0.0.1"),
            ("MLREG_SMTP_PORT", str(box.port)),
            ("MLREG_SMTP_SECURITY", "none"),
            ("MLREG_MAIL_FROM", "mlreg@example.org"),
            ("CHAT", chat.url),
        ):
            monkeypatch.setenv(name, value)
        sinks_at(
            home,
            f"""
            sinks:
              - {{name: chat, slack: 'env:CHAT', severity: error}}
              - {{name: finance, email: [cfo@example.org, ops@example.org], kinds: budget*, tenants: acme}}
              - {{name: archive, folder: {tmp_path}/archive, kinds: [lag]}}
            """,
        )
        alerts.open(
            over(),
            over(Severity.ERROR, "other/all", "other"),
            Alert("lag", "x", Severity.INFO, "Lag", "Wait."),
        )
        done = Messages(lake, configured_sinks(str(home))).tell()
    assert (done.sent, done.failures) == ({"chat": 1, "finance": 1, "archive": 1}, {})
    (said,) = chat.got
    assert said.content["text"] == "[error] Budget other/all is &lt;spent&gt;\n80 of 100 USD."
    assert said.content["blocks"][0]["text"] == {
        "type": "plain_text",
        "text": "[error] Budget other/all is <spent>",
        "emoji": False,
    }
    (mail,) = box.messages
    assert box.came[0][0] == ["cfo@example.org", "ops@example.org"]
    assert mail["Subject"] == "[warning] Budget acme/search is <spent>"
    assert "mlreg alerts ack" in mail.get_content()
    (file,) = (tmp_path / "archive").glob("*.jsonl")
    assert [json.loads(line)["alert_key"] for line in file.read_text().splitlines()] == ["lag/x"]


def test_silent_states_reach_the_file_of_the_day_and_no_sink(lake, alerts, home):
    with sink() as chat:
        sinks_at(home, f"sinks: [{{name: chat, webhook: '{chat.url}'}}]")
        for _ in range(2):
            settle(alerts, over())
            settle(alerts)
        Messages(lake, configured_sinks(str(home))).tell()
    assert [state for _, state in told(chat)] == ["opened", "resolved"]
    (file,) = (home / "alerts").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 4


def test_e_mail_waits_until_its_server_is_set_up(lake, alerts, home, monkeypatch, clock):
    monkeypatch.delenv("MLREG_SMTP_HOST", raising=False)
    sinks_at(home, "sinks: [{name: ops, email: ops@example.org}]")
    alerts.open(over())
    messages = Messages(lake, configured_sinks(str(home)), now=clock)
    assert "set MLREG_SMTP_HOST" in (messages.tell().failures or {})["ops"]
    with mail_server() as box:
        monkeypatch.setenv("MLREG_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("MLREG_SMTP_PORT", str(box.port))
        monkeypatch.setenv("MLREG_SMTP_SECURITY", "none")
        monkeypatch.setenv("MLREG_MAIL_FROM", "mlreg@example.org")
        clock.past(HOUR)
        messages.tell()
    assert box.subjects[0] == "[warning] Budget acme/search is <spent>"


def test_sinks_that_cannot_be_read_are_an_alert_and_lose_nothing(lake, alerts, home):
    with sink() as chat, sink() as webhook:
        alerts.open(over())
        sinks_at(home, "sinks: [{name: chat}]")
        Messages(lake, *usable_sinks(str(home), webhook.url)).tell()
        assert told(webhook)[:2] == [("budget/acme/search", "opened"), ("sinks_unusable/file", "opened")]
        assert {o.key for o in alerts.standing()} == {"budget/acme/search", "sinks_unusable/file"}
        sinks_at(home, f"sinks: [{{name: chat, webhook: '{chat.url}'}}]")
        Messages(lake, configured_sinks(str(home))).tell()
    assert told(chat)[0] == ("budget/acme/search", "opened")
    assert told(chat)[-1] == ("sinks_unusable/file", "resolved")


def test_two_that_tell_at_once_lose_nothing_and_write_no_line_twice(lake, home):
    with sink() as chat:
        sinks_at(home, f"sinks: [{{name: chat, webhook: '{chat.url}'}}]")
        configured = configured_sinks(str(home))

        def work(name: str) -> None:
            with Lake(str(home)) as own:
                for number in range(3):
                    Alerts(own).open(over(about=f"{name}{number}"))
                    Messages(own, configured).tell()

        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Messages(lake, configured).tell()
    expected = {(f"budget/{name}{n}", "opened") for name in "ab" for n in range(3)}
    assert set(told(chat)) == expected
    lines = [
        json.loads(x)["alert_key"]
        for f in (home / "alerts").glob("*.jsonl")
        for x in f.read_text().splitlines()
    ]
    assert sorted(lines) == sorted(key for key, _ in expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("sinks: {}", "has to hold `sinks`, a list"),
        ("sinks: [x]", "sink 1: has to be a mapping"),
        ("sinks: [{name: A, slack: 'env:X'}]", "lower-case letters"),
        ("sinks: [{name: files, slack: 'env:X'}]", "none of files, webhook"),
        ("sinks: [{name: a}]", "exactly one of slack, webhook, email and folder"),
        ("sinks: [{name: a, slack: 'env:X', email: a@b.c}]", "exactly one of"),
        ("sinks: [{name: a, slack: 'ftp://x'}]", "slack must be an address"),
        ("sinks: [{name: a, slack: 'https://s3cret@[bad'}]", "slack must be an address"),
        ("sinks: [{name: a, webhook: 'env:A B'}]", "names no environment variable"),
        ("sinks: [{name: a, email: nobody}]", "no e-mail address"),
        ("sinks: [{name: a, folder: relative}]", "begin with / or s3://"),
        ("sinks: [{name: a, slack: 'env:X', severity: bad}]", "info, warning or error"),
        ("sinks: [{name: a, slack: 'env:X', colour: red}]", "unknown field 'colour'"),
        ("sinks: [{name: a, slack: 'env:X'}, {name: a, slack: 'env:Y'}]", "two sinks are called 'a'"),
        ("sinks: [{name: a, name: b, slack: 'env:X'}]", "stands twice"),
    ],
)
def test_a_file_of_sinks_is_refused_in_one_sentence_with_its_place(text, said):
    with pytest.raises(SinksError, match=said) as wrong:
        read_sinks(text, file="alert-sinks.yaml")
    assert "alert-sinks.yaml" in str(wrong.value)
    assert "s3cret" not in str(wrong.value)


@settings(deadline=None, max_examples=examples(12))
@given(up=st.lists(st.booleans(), min_size=1, max_size=4))
def test_whatever_a_sink_fails_at_it_hears_every_state_in_order(up, tmp_path_factory):
    clock = Clock()
    home = tmp_path_factory.mktemp("home")
    with Lake(str(home)) as lake, sink() as chat:
        sinks_at(home, f"sinks: [{{name: chat, webhook: '{chat.url}', kinds: budget}}]")
        messages = Messages(lake, configured_sinks(str(home)), now=clock)
        taken: list[str] = []

        def take(delivery: Delivery) -> int:
            taken.append(delivery.content["alert_key"])
            return 204

        for number, well in enumerate(up):
            chat.status = take if well else lambda _: 500
            Alerts(lake, now=clock).open(over(about=str(number)))
            messages.tell()
            clock.past(HOUR)
        chat.status = take
        messages.tell()
        assert taken == [f"budget/{number}" for number in range(len(up))]
