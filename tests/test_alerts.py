"""Alerts: one open occurrence per key, told to files and to a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alerts import MOST_PER_KIND, Alert, Alerts, Severity, open_alerts
from ml_registry_pipelines.operations.messages import Messages
from ml_registry_pipelines.operations.sinks import SinksError, webhook_sink
from tests.examples import examples

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """A chat system: keeps what is posted, and answers with the status it is told to."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/a-secret"

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(body["alert_key"], body["state"]) for body in self.heard]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status == 200:
            self.server.heard.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(str(tmp_path / "home")) as lake:
        yield lake


def lag(about: str = "landing", severity: Severity = Severity.ERROR) -> Alert:
    return Alert(
        "lag", about, severity, f"Files of {about} wait", "The oldest for 20 minutes; start the daemon."
    )


def rows(lake: Lake) -> list[tuple[str, str]]:
    with lake.read("alerts") as reading:
        found = reading.query("test", "SELECT alert_key, state FROM alerts ORDER BY recorded_at").to_pylist()
    return [(row["alert_key"], row["state"]) for row in found]


def lines(lake: Lake) -> list[tuple[str, str]]:
    files = sorted(Path(lake.root, "alerts").glob("*.jsonl"))
    held = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [(line["alert_key"], line["state"]) for line in held]


def test_what_stays_wrong_is_said_once_and_once_more_when_it_is_over(lake: Lake) -> None:
    alerts = Alerts(lake)
    for _ in range(3):
        alerts.settle({"lag"}, [lag()], because="")
    assert rows(lake) == [("lag/landing", "opened")]
    for _ in range(3):
        alerts.settle({"lag"}, [], because="Nothing waits.")
    assert rows(lake) == [("lag/landing", "opened"), ("lag/landing", "resolved")]


def test_what_goes_wrong_again_is_a_new_occurrence(lake: Lake) -> None:
    alerts = Alerts(lake)
    for _ in range(2):
        alerts.open(lag())
        alerts.resolve("lag/landing", because="Nothing waits.")
    with lake.read("alerts") as reading:
        ids = reading.query("test", "SELECT alert_id, count(*) AS n FROM alerts GROUP BY 1").to_pylist()
    assert sorted(row["n"] for row in ids) == [2, 2]


def test_settling_one_kind_leaves_the_others_open(lake: Lake) -> None:
    alerts = Alerts(lake)
    alerts.open(lag(), Alert("stale", "a table", Severity.WARNING, "Old", "Look."))
    alerts.settle({"stale"}, [], because="Fresh.")
    assert [o.key for o in alerts.standing()] == ["lag/landing"]


def test_a_storm_of_one_kind_becomes_a_bounded_number_of_alerts(lake: Lake) -> None:
    storm = [lag(f"file {number:04}") for number in range(1000)]
    settled = Alerts(lake).settle({"lag"}, storm, because="")
    assert len(settled.opened) == MOST_PER_KIND + 1
    last = open_alerts(lake).to_pylist()[0]
    assert last["title"] == f"{1000 - MOST_PER_KIND} more alerts of the kind lag"


def test_two_processes_that_see_the_same_thing_open_one_occurrence(tmp_path: Path) -> None:
    homes = [Lake(str(tmp_path)) for _ in range(4)]
    threads = [threading.Thread(target=Alerts(lake).open, args=(lag(),)) for lake in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(homes[0]) == [("lag/landing", "opened")]


def test_every_state_is_a_line_in_the_file_of_its_day(lake: Lake) -> None:
    clock = iter(NOON + timedelta(hours=10 * n) for n in range(4))
    alerts = Alerts(lake, now=lambda: next(clock))
    alerts.open(lag())
    Messages(lake).tell()
    alerts.resolve("lag/landing", because="Nothing waits.")
    assert Messages(lake).tell().to_files == 1
    assert Messages(lake).tell().to_files == 0
    assert sorted(p.name for p in Path(lake.root, "alerts").glob("*.jsonl")) == ["2026-05-01.jsonl"]
    alerts.open(lag())
    Messages(lake).tell()
    assert Path(lake.root, "alerts", "2026-05-02.jsonl").exists()
    assert lines(lake) == rows(lake)


def test_times_of_rows_increase_even_when_the_clock_does_not(lake: Lake) -> None:
    alerts = Alerts(lake, now=lambda: NOON)
    for number in range(5):
        alerts.open(lag(str(number)))
    with lake.read("alerts") as reading:
        times = reading.query("test", "SELECT recorded_at FROM alerts")["recorded_at"].to_pylist()
    assert len(set(times)) == 5


def test_a_webhook_hears_of_every_state_once(lake: Lake, receiver: Receiver) -> None:
    messages = Messages(lake, [webhook_sink(receiver.url)])
    Alerts(lake).open(lag())
    messages.tell()
    Alerts(lake).resolve("lag/landing", because="Nothing waits.")
    messages.tell()
    messages.tell()
    assert receiver.told == [("lag/landing", "opened"), ("lag/landing", "resolved")]
    assert receiver.heard[0]["text"].startswith("[error] Files of landing wait")


def test_a_webhook_that_was_down_hears_the_rest_later_and_no_row_is_lost(
    lake: Lake, receiver: Receiver
) -> None:
    clock = [datetime.now(UTC)]
    messages = Messages(lake, [webhook_sink(receiver.url)], now=lambda: clock[0])
    receiver.status = 503
    Alerts(lake).open(lag("one"))
    said = f"127.0.0.1:{receiver.server_port} answered with status 503"
    assert messages.tell().failures == {"webhook": said}
    Alerts(lake).open(lag("two"))
    # Before its pause is over it is not asked, and counts as failing.
    receiver.status = 200
    assert messages.tell().failures == {"webhook": said}
    expected = [("lag/one", "opened"), ("sink_failing/webhook", "opened"), ("lag/two", "opened")]
    assert rows(lake) == lines(lake) == expected
    clock[0] += timedelta(minutes=5)
    messages.tell()
    messages.tell()
    assert receiver.told == [*expected, ("sink_failing/webhook", "resolved")]


def test_a_message_that_the_webhook_refuses_does_not_hold_up_the_others(
    lake: Lake, receiver: Receiver
) -> None:
    messages = Messages(lake, [webhook_sink(receiver.url)])
    receiver.status = 400
    Alerts(lake).open(lag("one"))
    assert "answered with status 400" in (messages.tell().failures or {})["webhook"]
    receiver.status = 200
    Alerts(lake).open(lag("two"))
    messages.tell()
    assert ("lag/two", "opened") in receiver.told


def test_a_webhook_set_up_later_is_not_flooded_with_history(lake: Lake, receiver: Receiver) -> None:
    Alerts(lake, now=lambda: NOON).open(lag("old"))
    Alerts(lake, now=lambda: NOON + timedelta(days=30)).open(lag("new"))
    Messages(lake, [webhook_sink(receiver.url)], now=lambda: NOON + timedelta(days=30)).tell()
    assert receiver.told == [("lag/new", "opened")]


def test_nobody_answering_is_a_failure_with_the_host_and_without_the_secret(
    lake: Lake, receiver: Receiver
) -> None:
    url = receiver.url
    receiver.server_close()
    Alerts(lake).open(lag())
    failure = (Messages(lake, [webhook_sink(url)]).tell().failures or {})["webhook"]
    assert "127.0.0.1" in failure
    assert "a-secret" not in failure
    with lake.read("alerts") as reading:
        assert "a-secret" not in str(reading.query("test", "SELECT * FROM alerts").to_pylist())


@pytest.mark.parametrize("url", ["hooks.example.org", "ftp://example.org/x", "http://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(SinksError, match="MLREG_ALERT_WEBHOOK must be an address"):
        webhook_sink(url)


@settings(deadline=None, max_examples=examples(10))
@given(steps=st.lists(st.sets(st.sampled_from(["a", "b", "c"])), max_size=6))
def test_the_open_alerts_are_always_what_was_settled_last(
    steps: list[set[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Lake(str(tmp_path_factory.mktemp("home"))) as lake:
        alerts = Alerts(lake)
        for current in steps:
            alerts.settle({"lag"}, [lag(about) for about in sorted(current)], because="")
            assert {o.about for o in alerts.standing()} == current
