"""Suites as files that people edit: read strictly, run, judged, kept; nothing that fails to run ever passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ml_registry_pipelines.cli.main import main
from ml_registry_pipelines.compliance import metrics
from ml_registry_pipelines.compliance.evaluations import Columns, Evaluations
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.results import Subject, Verdict
from ml_registry_pipelines.compliance.suites.files import NoSuchSuite, SuiteFiles
from ml_registry_pipelines.compliance.suites.running import READABLE, check_suites, run_suites
from ml_registry_pipelines.compliance.suites.suite import parse
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.compliance import suite_metrics

pytestmark = pytest.mark.xdist_group("great_expectations")
ACTOR = Actor("officer")
FAIR = """\
# What a compliance officer writes
suite: fair
description: For tests
expectations:
  - metric: given_value
    severity: critical
    article: AI Act 10(2)(f)
    at_most: 0.1
    parameters: {values: [0.05], half_width: 0.01}
"""


@pytest.fixture(autouse=True)
def _metrics_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "AREAS", (suite_metrics.__name__,))
    metrics.catalogue.cache_clear()
    yield
    metrics.catalogue.cache_clear()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture(scope="module")
def subject(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Version 1 of `risk`, with an evaluation of four rows."""
    file = tmp_path_factory.mktemp("model") / "model.bin"
    file.write_bytes(b"model")
    registry = ModelRegistry(log, actor=ACTOR)
    registry.register_model("risk")
    version = registry.create_model_version("risk", file)
    desk = Evaluations(log, actor=ACTOR)
    columns = Columns(prediction="says", groups={"sex": "sex"}, positive=("1",))
    desk.declare_evaluation("risk@v1", columns, suites=["fair"])
    desk.record_evaluation("risk@v1", pa.table({"says": [1, 1, 0, 1], "sex": ["f", "f", "m", "m"]}))
    return Subject("default", version.model_id, version.id, version.reference, version.content_digest)


def write(log: Log, name: str, text: str) -> str:
    path = Path(log.lake.root, "suites", f"{name}.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return name


def entry(metric: str, rest: str = "at_most: 0.1") -> str:
    return f"suite: one\nexpectations:\n  - metric: {metric}\n    severity: critical\n    {rest}\n"


def check(log: Log, subject: Subject | None, text: str):
    write(log, "one", text)
    return check_suites(log.lake, log, subject, ["one"], tenant="default")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (FAIR.replace("given_value", "given_valeu"), 5, "metric 'given_valeu' is not known; did you mean given_value?"),
        (FAIR.replace("half_width", "half_widht"), 9, "no parameter 'half_widht'; did you mean half_width?"),
        (FAIR.replace("values: [0.05], ", ""), 9, "no value for parameter 'values', which is required"),
        (FAIR.replace("[0.05]", "[x]"), 9, "parameter 'values.0' of given_value"),
        (FAIR.replace("    at_most: 0.1\n", ""), 5, "no at_most: a threshold is required, there is no default"),
        (FAIR.replace("at_most: 0.1", "at_least: 0.1"), 8, "judged by at_most, not by at_least"),
        (FAIR.replace("at_most: 0.1", "at_most: .nan"), 8, "at_most is a number"),
        (FAIR.replace("at_most: 0.1", "at_most: true"), 8, "at_most is a number, not True"),
        (FAIR.replace("at_most", "at_mots"), 8, "'at_mots' is not known; did you mean at_most?"),
        (FAIR.replace("critical", "severe"), 6, "severity 'severe' is not known; it is critical, warning or info"),
        (FAIR.replace("    severity: critical\n", ""), 5, "has no severity"),
        (FAIR.replace("suite: fair", "suite: fare"), 2, "it is named as its file is, fair"),
        (FAIR + "    at_most: 0.5\n", 5, "'at_most' stands twice"),
        (FAIR + "  - metric: [\n", 11, "this is no YAML"),
        (FAIR + FAIR.split("expectations:\n")[1], 10, "'given_value' stands twice"),
        ("suite: fair\nexpectations: []\n", 2, "a list of 1 to 200 entries"),
        ("", 1, "a suite is a mapping"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_a_problem_with_its_line(text, line, said):
    problems = parse(text, "fair").problems
    assert [p for p in problems if p.line == line and said in p.text], [str(p) for p in problems]


def test_a_comment_changes_no_digest_and_a_threshold_does():
    digests = [parse(t, "fair").digest for t in (FAIR, f"# more\n{FAIR}", FAIR.replace("0.1\n", "0.2\n"))]
    assert digests[0] == digests[1] != digests[2]
    assert parse(FAIR.replace("critical", "warning"), "fair").digest != digests[0]


def test_editing_a_threshold_changes_the_verdict(log, subject):
    found = {}
    for most in ("0.1", "0.055", "0.01"):
        write(log, "fair", FAIR.replace("at_most: 0.1", f"at_most: {most}"))
        (result,) = run_suites(log.lake, log, subject, ["fair"], ACTOR).results
        assert result.high == float(most)
        found[result.verdict] = result.suite_digest
    assert list(found) == [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]
    assert len(set(found.values())) == 3


def test_a_result_says_all_that_it_rests_on(log, subject):
    text = FAIR.replace("given_value", "selection_difference")
    write(log, "fair", text.replace("{values: [0.05], half_width: 0.01}", "{}"))
    (result,) = check_suites(log.lake, log, subject, ["fair"], tenant="default")
    assert (result.verdict, result.observed, result.n) == (Verdict.FAIL, 0.5, 4)
    assert result.table_versions["evaluation_data"] > 0
    assert len(result.data_digest or "") == 64
    assert result.article == "AI Act 10(2)(f)"
    assert result.message == "selection_difference is 0.5, and has to be at most 0.1"


def test_several_measured_values_are_judged_each_and_addresses_are_cut_out(log, subject):
    results = check(log, subject, entry("given_value", "at_most: 0.1\n    parameters: {values: [0.0, 0.3]}"))
    assert {r.about: r.verdict for r in results} == {"part 0": Verdict.PASS, "part 1": Verdict.FAIL}
    assert "1 group is too small to be judged" in results[0].message
    assert results[0].detail == {"seen": "by [address]"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (entry("raising"), "it raised KeyError in suite_metrics.py"),
        (entry("silent"), "it measured nothing"),
        (entry("not_a_number", "at_least: 0.1"), "which is no number"),
        (entry("unheard_of"), "line 3: metric 'unheard_of' is not known"),
        (entry("given_value", "at_mots: 1"), "'at_mots' is not known"),
    ],
)
def test_what_cannot_run_does_not_pass(log, subject, text, said):
    results = check(log, subject, text)
    assert {r.verdict for r in results} == {Verdict.COULD_NOT_RUN}
    assert any(said in r.message for r in results)
    assert "Anna" not in str(results)


def test_one_broken_expectation_does_not_hide_the_others(log, subject):
    results = check(
        log, subject, FAIR.replace("suite: fair", "suite: one") + entry("raising").split("tations:\n")[1]
    )
    assert [r.verdict for r in results] == [Verdict.PASS, Verdict.COULD_NOT_RUN]


def test_a_suite_that_was_deleted_is_a_check_that_could_not_run(log, subject):
    (result,) = run_suites(log.lake, log, subject, ["gone"], ACTOR).results
    assert (result.verdict, result.check, result.suite) == (Verdict.COULD_NOT_RUN, READABLE, "gone")
    assert "there is no such suite" in result.message
    assert run_suites(log.lake, log, subject, [], ACTOR).verdict is Verdict.COULD_NOT_RUN


def test_missing_predictions_and_one_without_data_are_could_not_run(log, subject):
    other = Subject("default", subject.model_id, "0" * 32, "risk@v2", "0" * 64)
    (result,) = check(log, other, entry("selection_difference"))
    assert (result.verdict, result.observed) == (Verdict.COULD_NOT_RUN, None)
    (result,) = check(log, None, entry("selection_difference"))
    assert "it is about a version, and none was given" in result.message


def test_an_exception_in_great_expectations_is_no_failure(log, subject, monkeypatch):
    from ml_registry_pipelines.compliance.suites import expectations

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Anna")

    monkeypatch.setattr(expectations, "judged", broken)
    (result,) = check(log, subject, FAIR.replace("suite: fair", "suite: one"))
    assert result.verdict is Verdict.COULD_NOT_RUN
    assert "raised an exception in Great Expectations" in result.message
    assert "Anna" not in json.dumps(str(result))


def test_expectations_are_named_after_their_metric():
    from ml_registry_pipelines.compliance.suites.expectations import expectation_class

    made = expectation_class("given_value")
    assert made.__name__ == "GivenValue"
    assert made.expectation_type == "given_value"
    assert expectation_class("given_value") is made


def test_a_file_in_the_home_stands_in_for_the_shipped_one_even_when_it_is_broken(tmp_path, monkeypatch):
    from ml_registry_pipelines.compliance.suites import files

    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(FAIR)
    monkeypatch.setattr(files, "shipped", lambda: {"fair": shipped})
    own = SuiteFiles(str(tmp_path))
    assert not own.read("fair").problems
    assert own.init() == [f"{tmp_path}/suites/fair.yaml"]
    assert own.init() == []
    (tmp_path / "suites/fair.yaml").write_text("suite: fair\n")
    assert own.read("fair").problems
    with pytest.raises(NoSuchSuite, match="there are fair"):
        own.read("other")


def test_results_that_are_changed_afterwards_are_found_out(log, subject):
    write(log, "fair", FAIR)
    manager = ComplianceManager(log, actor=ACTOR)
    done = manager.run_compliance_checks("risk@v1")
    (found,) = manager.get_checks("risk@v1", limit=1)
    assert (found.evidence.evidence_id, found.problem, found.verdict) == (done.evidence_id, "", Verdict.PASS)
    write(log, "fair", FAIR.replace("at_most: 0.1", "at_most: 0.01"))
    failed = manager.run_compliance_checks("risk@v1")
    with log.lake.read("compliance_results") as reading:
        rows = reading.query(
            "test", "SELECT * FROM compliance_results WHERE evidence_id = $e", {"e": failed.evidence_id}
        )
    forged = rows.set_column(
        rows.column_names.index("verdict"), rows.schema.field("verdict"), pa.array(["pass"])
    )
    log.lake.erase("compliance_results", f"evidence_id = '{failed.evidence_id}'")
    log.lake.append_next("compliance_results", forged, source="forger")
    (found,) = manager.get_checks(evidence_id=failed.evidence_id)
    assert found.evidence.verdict is Verdict.PASS
    assert found.verdict is Verdict.COULD_NOT_RUN
    assert "are not those that were recorded" in found.problem
    made_up = run_suites(log.lake, log, subject, ["fair"], ACTOR)
    (found,) = manager.get_checks(evidence_id=made_up.evidence_id)
    assert "the log knows no evidence" in found.problem


def test_a_run_is_done_once_under_its_key_and_an_audit_needs_names(log, subject):
    write(log, "fair", FAIR)
    manager = ComplianceManager(log, actor=ACTOR)
    first = manager.run_compliance_checks("risk@v1", idempotency_key="k1")
    assert manager.run_compliance_checks("risk@v1", idempotency_key="k1").evidence_id == first.evidence_id
    with pytest.raises(InvalidInput, match="needs the names of suites"):
        manager.run_compliance_checks(None)
    audit = manager.run_compliance_checks(None, suites=["fair"])
    assert (audit.verdict, audit.results[0].subject) == (Verdict.PASS, None)


def test_checks_on_production_are_no_evidence_for_a_gate(log, subject):
    write(log, "fair", FAIR)
    now = datetime.now(UTC)
    manager = ComplianceManager(log, actor=ACTOR)
    done = manager.run_compliance_checks("risk@v1", production=(now - timedelta(days=1), now))
    assert {result.suite for result in done.results} == {"fair@production"}
    write(
        log,
        "fair",
        FAIR.replace("given_value", "selection_difference").replace("values: [0.05], half_width: 0.01", ""),
    )
    done = manager.run_compliance_checks("risk@v1", production=(now - timedelta(days=1), now))
    assert "no prediction is recorded for this time in production" in done.results[0].message


def test_a_suite_with_a_typo_is_told_at_the_shell_with_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path))
    (tmp_path / "fair.yaml").write_text(FAIR.replace("half_width", "half_widht"))
    monkeypatch.setattr("sys.argv", ["mlreg", "suites", "validate", str(tmp_path / "fair.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = f"{tmp_path}/fair.yaml:9: given_value has no parameter 'half_widht'; did you mean half_width?\n"
    assert capsys.readouterr().out == said
