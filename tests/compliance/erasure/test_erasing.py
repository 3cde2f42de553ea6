"""One person goes from everywhere, everybody else stays as they were, and the proof can fail."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.compliance.erasure.certificates import Certificate, kept
from ml_registry_pipelines.compliance.erasure.needles import Needles
from ml_registry_pipelines.compliance.erasure.requests import Action
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.audits import counts_add_up
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.batch import Taken
from ml_registry_pipelines.telemetry.tracking import Inference, Tracking
from tests.compliance.erasure.people import (
    BOB,
    JANE,
    JOANN,
    eraser,
    fill,
    fill_dagster,
    land,
    lines,
    others,
    records,
    request,
    sums,
    take,
)
from tests.examples import examples


@dataclass
class Story:
    """What was there before and after Jane was erased."""

    home: Path
    planned: Any
    certificate: Certificate
    taken: Taken
    sums_before: dict[str, Any]
    sums_after: dict[str, Any]


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = tmp_path_factory.mktemp("erased") / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        taken = fill(home, lake)
        dagster = fill_dagster(home)
        (home / "reports").mkdir()
        (home / "reports" / "users.html").write_text(f"<p>{JANE}</p>")
        before = sums(lake)
        at = eraser(lake, log, dagster=dagster)
        subject = at.subject([JANE])
        planned = at.plan(subject)
        certificate = at.erase(subject)
        return Story(home, planned, certificate, taken, before, sums(lake))


@pytest.fixture
def after(erased: Story, tmp_path: Path) -> Iterator[tuple[Lake, Log]]:
    """A copy of the storage after the erasure, to be changed."""
    home = tmp_path / "home"
    shutil.copytree(erased.home, home)
    with Lake(str(home)) as lake, Log(lake) as log:
        yield lake, log


def test_everything_that_holds_the_person_is_planned(erased):
    actions = {item.id: item.action for item in erased.planned.items}
    assert actions["table:inference_events"] is Action.DELETE
    assert actions["table:quarantined_rows"] is Action.DELETE
    assert actions["place:Dagster"] is Action.DELETE
    assert actions["place:report"] is Action.REMATERIALISE
    assert sum(item.kind == "raw file" for item in erased.planned.items) == 4
    assert not erased.planned.problems


def test_the_proof_finds_its_own_needles_and_nothing_of_the_person(erased):
    proof = erased.certificate.proof
    assert [kind for kind, found in proof.planted.items() if not found] == []
    assert (proof.verdict, proof.hits, proof.problems) == (Verdict.PASS, (), ())
    assert erased.certificate.complete, erased.certificate.sentence()
    assert not (erased.home / "_needles").exists()


def test_no_file_holds_the_address_and_longer_ones_of_others_stay(erased):
    holding = [p for p in erased.home.rglob("*") if p.is_file() and b"u'jane@" in p.read_bytes()]
    assert holding == []
    assert JOANN in (erased.home / "landing/native/dt=2026-10-06/hh=00/a.jsonl").read_text()
    assert b"bob" in (erased.home / "dagster/storage/run-1/compute_logs/step.out").read_bytes()


def test_sums_of_requests_tokens_and_costs_stay_exact(erased):
    assert erased.sums_after == erased.sums_before
    assert erased.sums_before["requests"] == erased.sums_before["priced"] == 15


def test_a_rewritten_file_is_neither_taken_again_nor_called_changed(after):
    lake, _ = after
    assert take(lake).rows_in == 0


def test_a_resend_of_everything_brings_nobody_back_and_the_counts_add_up(after, erased):
    lake, _ = after
    before = others(lake)
    land(Path(lake.root), "again.jsonl", lines(records()) + f'{{"user_id": "{JANE}", broken\n'.encode())
    done = take(lake)
    assert done.rows_in == done.taken + done.duplicates + done.quarantined + done.suppressed == 16
    assert (done.taken, done.suppressed) == (0, 6), done
    assert others(lake) == before
    assert counts_add_up(lake).passed, counts_add_up(lake).sentence


def test_code_that_tells_of_the_person_is_not_listened_to(after):
    lake, _ = after
    told = [Inference("gpt-4o", "openai", user_id=who) for who in (JANE, BOB)]
    done = Tracking(lake).track(told)
    assert (done.landed, done.suppressed) == (1, 1)


def test_erasing_again_finds_nothing_and_says_so(after):
    lake, log = after
    at = eraser(lake, log, dagster=Path(lake.root) / "dagster")
    certificate = at.erase(at.subject([JANE]))
    assert (dict(certificate.rows), certificate.complete) == ({}, True)


def test_certificate_and_log_name_nobody_and_the_chain_holds(after, erased):
    lake, log = after
    page = kept(lake, "default", erased.certificate.request, kind="html")
    document = json.loads(kept(lake, "default", erased.certificate.request))
    subject = eraser(lake, log).subject([JANE])
    assert not subject.needles.in_text(page)
    assert not subject.needles.in_text(json.dumps(document))
    assert document["digest"] == erased.certificate.digest
    events = log.events("default", range(1, log.head("default")[0] + 1))
    assert [e.action for e in events] == ["request_erasure", "confirm_erasure_plan", "certify_erasure"]
    assert not any(subject.needles.in_text(e.payload) for e in events)
    assert {i["confirmed_by"] for i in events[1].state["metadata"]["items"]} == {"officer-1"}
    assert [verdict.damage for verdict in verify(lake)] == [None]


def test_a_needle_that_comes_back_fails_the_proof(after):
    lake, log = after
    at = eraser(lake, log, dagster=Path(lake.root) / "dagster")
    (Path(lake.root) / "artifacts").mkdir(exist_ok=True)
    (Path(lake.root) / "artifacts" / "left.bin").write_bytes(b"\x00\x01" + JANE.encode())
    proof = at.prove(at.subject([JANE]))
    assert proof.verdict is Verdict.FAIL
    assert [hit.path for hit in proof.hits] == ["artifacts/left.bin"]


def test_a_file_that_nobody_can_decode_makes_the_proof_prove_nothing(after):
    lake, log = after
    (Path(lake.root) / "reports" / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    at = eraser(lake, log)
    proof = at.prove(at.subject([JANE]))
    assert proof.verdict is Verdict.COULD_NOT_RUN
    assert "broken.parquet" in proof.problems[0]


def test_what_stays_needs_a_ground_of_the_law(after):
    lake, log = after
    at = eraser(lake, log)
    (Path(lake.root) / "artifacts").mkdir(exist_ok=True)
    (Path(lake.root) / "artifacts" / "model.bin").write_bytes(b"\x00" + JANE.encode())
    subject = at.subject([JANE])
    assert not at.erase(subject).complete
    with pytest.raises(
        InvalidInput, match=r"is no ground on which data may stay; begin with one of 17\(3\)\(a\)"
    ):
        at.erase(subject, justified={"place:artifact": "we like it"})
    with pytest.raises(InvalidInput, match="is no item of the plan"):
        at.erase(subject, justified={"place:moon": "17(3)(e)"})
    certificate = at.erase(subject, justified={"place:artifact": "17(3)(e): evidence in a pending case"})
    assert certificate.complete, certificate.sentence()
    assert certificate.proof.justified == 1
    assert "but in 1 place that a ground lets stay" in certificate.sentence()


@pytest.mark.soak
def test_rows_that_are_taken_while_the_person_is_erased_do_not_come_back(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        ended = threading.Event()
        failures: list[MlregError] = []

        def keep_taking() -> None:
            number = 0
            try:
                while not ended.is_set() or number < 3:
                    number += 1
                    made = [request(100 + 2 * number, JANE), request(101 + 2 * number, BOB)]
                    land(home, f"live-{number}.jsonl", lines(made))
                    take(lake)
            except MlregError as failure:
                failures.append(failure)

        worker = threading.Thread(target=keep_taking)
        worker.start()
        at = eraser(lake, log)
        subject = at.subject([JANE])
        at.erase(subject)
        ended.set()
        worker.join()
        assert not failures
        with lake.read("inference_events") as reading:
            left = reading.query(
                "test.left",
                "SELECT count(*) AS n FROM inference_events WHERE list_contains($hashes, user_hash)",
                {"hashes": list(subject.hashes)},
            )["n"][0].as_py()
        assert left == 0
        assert counts_add_up(lake).passed
        # What still lies there as a file, because it came after, goes with the next one.
        assert at.erase(subject).complete


def test_only_the_tenant_that_was_asked_forgets(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        land(home, "a.jsonl", lines([request(1, JANE), request(2, JANE, tenant="acme")]))
        take(lake)
        at = eraser(lake, log)
        at.erase(at.subject([JANE]))
        with lake.read("inference_events") as reading:
            rows = reading.query(
                "test.tenants",
                "SELECT tenant, user_hash IS NULL AS gone FROM inference_events ORDER BY tenant",
            ).to_pylist()
        assert rows == [{"tenant": "acme", "gone": False}, {"tenant": "default", "gone": True}]
        assert "acme" in (home / "landing/native/dt=2026-10-06/hh=00/a.jsonl").read_text()


@pytest.mark.parametrize("wrong", [[], [""], ["x" * 501], ["a\x00b"]])
def test_what_is_no_identifier_is_refused(after, wrong):
    with pytest.raises(InvalidInput):
        eraser(*after).subject(wrong)


@given(st.text("abcxyz.-_@", max_size=4), st.text("abcxyz.-_@ ,", max_size=4))
def test_an_identifier_within_a_longer_one_is_not_it(before, after):
    needles = Needles({"it": "ann@x.com"})
    text = f"{before}ann@x.com{after}"
    alone = (not before or before[-1] not in "abcxyz-_@") and not (
        len(before) > 1 and before[-1] == "." and before[-2].isalnum()
    )
    alone = alone and (not after or after[0] not in "abcxyz-_@")
    alone = alone and not (len(after) > 1 and after[0] == "." and after[1].isalnum())
    assert needles.in_text(text) == alone
    assert needles.blanked(text) == (text.replace("ann@x.com", "erased") if alone else text)


people = st.sampled_from([JANE, JOANN, BOB, None])


@settings(max_examples=examples(16), deadline=None)
@given(st.lists(st.tuples(people, st.integers(0, 2)), min_size=1, max_size=12), st.integers(0, 3))
def test_a_resend_of_anything_brings_nobody_back_and_leaves_others_exact(tmp_path_factory, told, split):
    made = [request(n, who, session_id=f"s-{who}-{chat}") for n, (who, chat) in enumerate(told)]
    home = tmp_path_factory.mktemp("any") / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        land(home, "a.jsonl", lines(made[split:]))
        take(lake)
        at = eraser(lake, log)
        at.erase(at.subject([JANE]))
        before = {row["event_id"]: row for row in others(lake)}
        land(home, "b.jsonl", lines(made))
        done = take(lake)
        assert done.rows_in == done.taken + done.duplicates + done.quarantined + done.suppressed == len(made)
        assert done.suppressed >= sum(who == JANE for who, _ in told)
        now = {row["event_id"]: row for row in others(lake)}
        assert {n: now[n] for n in before} == before
        mine = {f"req-{n}" for n, (who, _) in enumerate(told) if who == JANE}
        assert not mine & set(now)
        assert {f"req-{n}" for n, (who, _) in enumerate(told) if who != JANE} == set(now)
        assert counts_add_up(lake).passed


@pytest.mark.parametrize(
    "word",
    ["success", *(pytest.param(word, marks=pytest.mark.soak) for word in ("GPT-4o", "default", "tokens"))],
)
def test_an_identifier_that_is_a_word_takes_nothing_from_anybody_else(tmp_path, word):
    """Replaced wherever it stands, it would be taken from statuses, models and tenants."""
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        fill(home, lake)
        land(home, "word.jsonl", lines([request(40, word), request(41, BOB)]))
        take(lake)
        before = others(lake)
        worker = eraser(lake, log)
        done = worker.erase(worker.subject([word]))
        assert not done.complete
        assert "may mean something else as well" in done.proof.problems[0]
        after = others(lake)
        assert [row for row in before if row["event_id"] != "req-40"] == after
        assert "req-40" not in (home / "landing/native/dt=2026-10-06/hh=00/word.jsonl").read_text()
        assert counts_add_up(lake).passed


def test_records_of_labels_and_assignments_go_from_raw_files_although_the_identifier_is_short(tmp_path):
    home = tmp_path / "home"
    with Lake(str(home)) as lake, Log(lake) as log:
        for kind, more in (
            ("outcomes", {"metric": "ok", "value": 1}),
            ("assignments", {"experiment": "e", "arm": "a"}),
        ):
            path = home / "landing" / kind / "dt=2026-10-06" / "hh=00" / "x.jsonl"
            path.parent.mkdir(parents=True)
            path.write_bytes(
                lines({"unit_id": who, "ts": "2026-10-06T12:00:00Z", **more} for who in ("u-1", "u-2"))
            )
        assert take(lake).taken == 4
        worker = eraser(lake, log)
        worker.erase(worker.subject(["u-1"]))
        left = [p.read_text() for p in (home / "landing").rglob("*.jsonl")]
    assert len(left) == 2
    assert all("u-2" in text and "u-1" not in text for text in left)
