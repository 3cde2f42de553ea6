"""Judgements and the evidence that they leave."""

from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from ml_registry_pipelines.compliance.evidence import evidence, record
from ml_registry_pipelines.compliance.results import (
    Area,
    Group,
    Interval,
    Result,
    Severity,
    Subject,
    Verdict,
    judged,
    worst,
)
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor

OFFICER = Actor("officer")
RESULT = Result(
    tenant="default",
    area=Area.FAIRNESS,
    suite="fairness",
    suite_digest="0" * 64,
    check="demographic_parity_difference of race",
    metric="demographic_parity_difference",
    verdict=Verdict.FAIL,
    severity=Severity.CRITICAL,
    message="0.24 is above 0.1",
    observed=0.24,
    interval=Interval(0.2, 0.28, 0.95, "newcombe"),
    high=0.1,
    groups=(
        Group("race=A", 100, 40, 60, 0.5, Interval(0.4, 0.6, 0.95, "wilson")),
        Group("race=B", 3, left_out="n < 30"),
    ),
    subject=Subject("default", "m", "v", "", "1" * 64),
)


@pytest.mark.parametrize(
    ("value", "interval", "verdict"),
    [
        (0.05, (0.01, 0.1), Verdict.PASS),
        (0.05, (0.01, 0.11), Verdict.INCONCLUSIVE),
        (0.2, (0.1, 0.3), Verdict.INCONCLUSIVE),
        (0.2, (0.11, 0.3), Verdict.FAIL),
        (0.1, None, Verdict.PASS),
        (0.1000001, None, Verdict.FAIL),
        (None, None, Verdict.COULD_NOT_RUN),
        (nan, (0.0, 0.01), Verdict.COULD_NOT_RUN),
        (0.0, (nan, nan), Verdict.COULD_NOT_RUN),
    ],
)
def test_a_value_is_judged_by_its_whole_interval(value, interval, verdict):
    between = Interval(interval[0], interval[1], 0.95, "wilson") if interval else None
    assert judged(value, between, high=0.1) is verdict


def test_of_no_checks_nothing_passes():
    assert worst([]) is Verdict.COULD_NOT_RUN


def test_evidence_reads_back_as_it_was_recorded_newest_first(tmp_path: Path):
    with Lake(str(tmp_path)) as lake:
        first = record(lake, [RESULT], tenant="default", actor=OFFICER)
        passed = replace(RESULT, verdict=Verdict.PASS, observed=0.01, interval=None)
        second = record(lake, [passed, RESULT], tenant="default", actor=OFFICER)
        other = replace(RESULT, tenant="other", subject=None)
        record(lake, [other], tenant="other", actor=OFFICER)
        found = evidence(lake, "default", version_id="v")
        assert [run.evidence_id for run in found] == [second.evidence_id, first.evidence_id]
        (read,) = found[1].results
        assert replace(read, measured_at=None, code_version="") == RESULT
        assert [run.digest for run in found] == [second.digest, first.digest]
        assert found[0].verdict is Verdict.FAIL


def test_the_digest_is_of_what_was_found_and_by_which_rule(tmp_path: Path):
    with Lake(str(tmp_path)) as lake:
        one, again, stricter = (
            record(lake, [result], tenant="default", actor=OFFICER).digest
            for result in (RESULT, RESULT, replace(RESULT, high=0.05))
        )
    assert one == again != stricter
