"""G1 to G20 measure what the system holds: nothing passes for lack of data, and each can fail."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.access.access_log import AccessLog
from ml_registry_pipelines.compliance.ai_act.classifications import AiAct
from ml_registry_pipelines.compliance.gdpr import (
    data_metrics,
    memory_metrics,
    register_metrics,
    rights_metrics,
)
from ml_registry_pipelines.compliance.gdpr.columns import Holds, column_catalogue, special_by_name
from ml_registry_pipelines.compliance.gdpr.entries import Category
from ml_registry_pipelines.compliance.gdpr.memory_metrics import auc, auc_interval
from ml_registry_pipelines.compliance.gdpr.registers import Registers, read_file
from ml_registry_pipelines.compliance.gdpr.retention import enforce_retention
from ml_registry_pipelines.compliance.manager import subject_of
from ml_registry_pipelines.compliance.metrics import Context, Metric, catalogue
from ml_registry_pipelines.compliance.results import Area, Measured
from ml_registry_pipelines.compliance.suites.files import SuiteFiles
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from tests.compliance.test_dossier import CREDIT
from tests.examples import examples

# One story of one log: what a test declares, the next ones measure. `test_pii.py` is of the same
# group, because both import Presidio: three seconds of processor.
pytestmark = pytest.mark.xdist_group("presidio")
ACTOR = Actor("p-dpo", authenticated_by="api_key")
PARAMETERS: dict[str, dict[str, Any]] = {
    "gdpr_g3_no_undeclared_identifiers": {"sample": 100},
    "gdpr_g20_log_pseudonymous": {"sample": 100},
    "gdpr_g5_retention_kept": {"days": 2},
    "gdpr_g13_reads_have_a_purpose": {"days": 30},
    "gdpr_g14_k_anonymity": {"k": 5},
    "gdpr_g16_processors_and_transfers": {"allowed_regions": ["eu-central-1"]},
}


def metrics() -> dict[str, Metric]:
    modules = (register_metrics, data_metrics, memory_metrics, rights_metrics)
    listed = [metric for module in modules for metric in module.METRICS]
    known = catalogue()
    assert all(known[metric.name] is metric and metric.area is Area.GDPR for metric in listed)
    return {metric.name: metric for metric in listed}


def measure(log: Log, name: str, version: str | None = None) -> list[Measured]:
    metric = metrics()[name]
    subject = None if version is None else subject_of(log.view("default"), version)
    context = Context(log.lake, log, "default", datetime.now(UTC), subject)
    return list(metric.measure(context, metric.parameters(**PARAMETERS.get(name, {}))))


def only(measured: Sequence[Measured]) -> Measured:
    (found,) = measured
    return found


def written(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A model that learned from two columns of a dataset of people, before anything is declared of it."""
    folder = tmp_path_factory.mktemp("gdpr")
    with Lake(str(folder / "lake")) as lake, Log(lake) as log:
        data = written(
            folder / "people.csv",
            {
                "subject": [f"s-{n}" for n in range(20)],
                "income": list(range(20)),
                "ethnicity": ["a", "b"] * 10,
                "comment": ["fine"] * 18 + ["mail a@x.org", "call +44 20 7946 0123"],
                "city": ["here"] * 17 + ["there"] * 3,
            },
        )
        tracker = LineageTracker(log, actor=ACTOR)
        people = tracker.track_dataset("people", data)
        for name, shift in (("members", 0.0), ("others", 0.1)):
            tracker.track_dataset(
                name, written(folder / f"{name}.csv", {"loss": [n / 50 + shift for n in range(50)]})
            )
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("scoring")
        (folder / "weights.bin").write_bytes(b"w")
        registry.create_model_version(
            "scoring",
            folder / "weights.bin",
            VersionFacts(trained_on={people.id: ["subject", "income"]}),
        )
        yield log


def declare(log: Log, text: str) -> None:
    Registers(log, actor=ACTOR).put(*read_file(text, file="f"))


def test_every_check_of_the_reference_is_there_and_none_passes_on_an_empty_tenant(tmp_path: Path) -> None:
    numbers = {int(name.split("_")[1][1:]) for name in metrics()}
    assert numbers == set(range(1, 21))
    with Lake(str(tmp_path / "lake")) as lake, Log(lake) as log:
        registry = ModelRegistry(log, actor=ACTOR)
        registry.register_model("m")
        (tmp_path / "w").write_bytes(b"w")
        registry.create_model_version("m", tmp_path / "w")
        for name, metric in metrics().items():
            if name.startswith("gdpr_g20_") or name == "gdpr_g3_no_undeclared_identifiers":
                continue  # The log of the two commands above is there to be looked at.
            try:
                found = measure(log, name, "m@v1" if metric.needs_subject else None)
            except MlregError:
                continue
            assert found, name
            assert all(each.value is None and each.problem for each in found), name


def test_shipped_suites_name_every_metric_and_are_valid(tmp_path: Path) -> None:
    files = SuiteFiles(str(tmp_path))
    suites = [files.read(name).valid() for name in ("gdpr", "gdpr-model")]
    assert {e.metric.name for suite in suites for e in suite.expectations} >= metrics().keys()
    assert all(
        e.metric.needs_subject == (suite.name == "gdpr-model") for suite in suites for e in suite.expectations
    )


def test_columns_are_personal_by_declaration_and_unclassified_without(log: Log) -> None:
    found = {column.name: column for column in column_catalogue(log.view("default"))}
    assert found["inference_events.user_hash"].holds is Holds.PERSONAL
    assert found["people.income"].holds is Holds.UNCLASSIFIED
    assert found["people.ethnicity"].category is Category.RACE


@pytest.mark.parametrize(
    ("column", "category"),
    [
        ("race", Category.RACE),
        ("applicantEthnicity", Category.RACE),
        ("trade_union_member", Category.UNION),
        ("sexual_orientation", Category.ORIENTATION),
        ("health_score", Category.HEALTH),
        ("trace_id", Category.ORDINARY),
        ("embrace", Category.ORDINARY),
    ],
)
def test_a_special_category_is_seen_by_a_columns_name(column: str, category: Category) -> None:
    assert special_by_name(column) is category


def test_the_story_of_one_tenant(log: Log) -> None:
    """One after the other, because each register that is filled changes what is measured."""
    # Nothing declared: training on unclassified columns cannot be judged without purposes.
    assert only(measure(log, "gdpr_g2_training_columns_listed", "scoring@v1")).problem
    score = only(measure(log, "gdpr_g2_minimisation", "scoring@v1"))
    assert (score.value, score.n) == (0.4, 5)
    assert score.detail["unused"] == ["people.ethnicity", "people.comment", "people.city"]

    declare(
        log,
        """
        purposes:
          - {name: platform, legal_basis: legitimate_interests, owner: team:ml, retention_days: 365,
             columns: ["inference_events.*", "quarantined_rows.*", "assignments.*", "outcomes.*",
                       "access_log.*", "evaluation_data.*", "user_directory.*", "subject_keys.*"]}
          - {name: credit, legal_basis: consent, owner: team:credit, retention_days: 30, training: true,
             columns: [people.subject]}
        columns:
          - {dataset: people, column: subject, personal: true, subject: true}
          - {dataset: people, column: income, personal: true}
          - {dataset: people, column: comment, personal: false}
          - {dataset: people, column: city, personal: false}
          - {dataset: people, column: ethnicity, personal: true}
        """,
    )
    personal, unclassified = measure(log, "gdpr_g1_purposes_declared")
    assert set(personal.detail["amiss"]) == {"people.income", "people.ethnicity"}  # type: ignore[call-overload]
    assert set(unclassified.detail["amiss"]) == {"members.loss", "others.loss"}  # type: ignore[call-overload]
    listed = only(measure(log, "gdpr_g2_training_columns_listed", "scoring@v1"))
    assert (listed.value, listed.n) == (1.0, 2)
    assert listed.detail["amiss"] == {"people.income": "no purpose lists it for training"}

    found = {each.about: each for each in measure(log, "gdpr_g3_no_undeclared_identifiers")}
    comment = found["people.comment"]
    assert (comment.value, comment.n) == (2 / 3, 3)
    assert comment.interval is None  # Every value was looked at.
    assert comment.detail["kinds"] == {"EMAIL_ADDRESS": 1, "PHONE_NUMBER": 1}
    assert not [each for each in found.values() if "x.org" in str(each) or "7946" in str(each)]
    assert found["all other columns"].value == 0

    special = only(measure(log, "gdpr_g4_special_categories_grounded"))
    assert special.detail["amiss"] == {"people.ethnicity": "race: neither ground nor bias record"}
    declare(
        log,
        "bias_records: [{name: b, columns: [people.ethnicity], necessity: gaps, access: [p-1], delete_by: 2099-01-01}]",
    )
    assert only(measure(log, "gdpr_g4_special_categories_grounded")).value == 0


def test_rows_without_live_consent_are_counted(log: Log) -> None:
    assert only(measure(log, "gdpr_g6_consent_live_at_training", "scoring@v1")).problem
    consents = [f"{{subject: s-{n}, purpose: credit, given_at: 2020-01-01}}" for n in range(15)]
    consents += ["{subject: s-15, purpose: credit, given_at: 2020-01-01, withdrawn_at: 2021-01-01}"]
    consents += ["{subject: s-16, purpose: other, given_at: 2020-01-01}"]
    consents += ["{subject: s-17, purpose: credit, given_at: 2099-01-01}"]
    declare(log, f"consents: [{', '.join(consents)}]")
    without = only(measure(log, "gdpr_g6_consent_live_at_training", "scoring@v1"))
    assert (without.value, without.n) == (0.25, 20)
    assert "s-1" not in str(without)


def test_registers_are_judged_entry_by_entry(log: Log) -> None:
    now = datetime.now(UTC)
    declare(
        log,
        f"""
        decisions:
          - {{name: refuse, model: scoring, solely_automated: true, legal_effect: true, ground: "22(2)(a)"}}
          - {{name: rank, model: scoring, solely_automated: false, legal_effect: true}}
        dpias:
          - {{name: scoring, criteria: [evaluation_or_scoring, large_scale], high_risk_system: false, completed: true}}
        processors:
          - {{name: good, region: eu-central-1, contract: c-1}}
          - {{name: far, region: US, contract: c-2}}
          - {{name: clauses, region: US, contract: c-3, transfer: standard_clauses}}
        breaches:
          - {{name: late, aware_at: "2026-01-01T00:00Z", notified_at: "2026-01-05T00:00Z"}}
          - {{name: none, aware_at: "2026-01-01T00:00Z", risk: false, note: encrypted and the key apart}}
        key_stores:
          - {{name: in-home, place: "{log.lake.root}/keys", rotated_at: "{now.isoformat()}",
             backup_set: a, data_backup_set: b}}
          - {{name: apart, place: /srv/keys, rotated_at: "{now.isoformat()}", backup_set: a, data_backup_set: b}}
        notices:
          - {{name: privacy, version: "3", published_at: "2026-01-01", covers_ai: true, covers_logic: false}}
        """,
    )

    def amiss(name: str, version: str | None = None) -> object:
        return only(measure(log, name, version)).detail.get("amiss", {})

    assert amiss("gdpr_g7_automated_decisions") == {"refuse": "no human contact, no way to contest"}
    assert only(measure(log, "gdpr_g8_impact_assessment", "scoring@v1")).value == 1
    assert set(amiss("gdpr_g16_processors_and_transfers")) == {"far"}  # type: ignore[call-overload]
    assert amiss("gdpr_g17_breaches_notified") == {"late": "after 96 hours, without a reason"}
    assert amiss("gdpr_g18_pseudonym_keys") == {"in-home": "lies below the home"}
    assert amiss("gdpr_g19_notices_cover_ai") == ["scoring"]
    declare(
        log,
        """
        dpias:
          - {name: scoring, criteria: [evaluation_or_scoring, large_scale], high_risk_system: false, completed: true,
             signed_by: p-dpo, signed_at: "2026-01-01"}
        notices:
          - {name: privacy, version: "4", published_at: "2026-02-01", covers_ai: true, covers_logic: true}
        """,
    )
    assert only(measure(log, "gdpr_g8_impact_assessment", "scoring@v1")).value == 0
    assert only(measure(log, "gdpr_g19_notices_cover_ai")).value == 0


def test_a_high_risk_class_calls_for_an_assessment_whatever_the_register_says(log: Log) -> None:
    registry = ModelRegistry(log, actor=ACTOR)
    registry.register_model("lending")
    registry.create_model_version("lending", HostedModel("p", "lending"))
    name = "gdpr_g8_impact_assessment"
    assert only(measure(log, name, "lending@v1")).problem
    AiAct(log, actor=ACTOR).classify("lending", CREDIT)
    assert only(measure(log, name, "lending@v1")).value == 1
    signed = "completed: true, signed_by: p-dpo, signed_at: 2026-01-01"
    for said, value in (("completed: false", 1), (signed, 0)):
        declare(log, f"dpias: [{{name: lending, criteria: [], high_risk_system: false, {said}}}]")
        found = only(measure(log, name, "lending@v1"))
        assert (found.value, found.detail["needed"]) == (value, True)


def test_requests_plans_searches_and_exports_are_judged(log: Log) -> None:
    registers, now = Registers(log, actor=ACTOR), datetime.now(UTC)
    root = LineageTracker(log, actor=ACTOR).dataset_versions("people")[0]
    registers.open_request("s-1", "erasure", name="e-1", received_at=now - timedelta(days=3))
    registers.open_request("s-2", "access", name="a-1", received_at=now - timedelta(days=50))
    late = only(measure(log, "gdpr_g9_requests_answered"))
    assert (late.value, late.n, late.detail["open"]) == (1.0, 2, 2)
    registers.close_request(
        "e-1",
        outcome="erased",
        roots=[root.id],
        plan={root.id: "delete"},
        needle={"planted": 3, "found": 2, "searched": 10, "hits": 0},
    )
    registers.close_request("a-1", outcome="sent", bundle={"formats": ["json"], "schema_valid": True})
    plan = only(measure(log, "gdpr_g10_erasure_plan_complete"))
    assert list(plan.detail["amiss"].values()) == ["model_version"]  # type: ignore[attr-defined]
    assert "2 of 3 planted needles" in only(measure(log, "gdpr_g11_needle_test")).problem
    exports = only(measure(log, "gdpr_g12_exports"))
    assert exports.detail["amiss"] == {"a-1": "no csv, no schema, not complete, late"}
    assert only(measure(log, "gdpr_g9_requests_answered")).value == 1


def test_retention_reads_and_groups(log: Log) -> None:
    assert "was not enforced" in only(measure(log, "gdpr_g5_retention_kept")).problem
    enforce_retention(log, actor=ACTOR, dry_run=True)
    assert only(measure(log, "gdpr_g5_retention_kept")).problem
    enforce_retention(log, actor=ACTOR)
    assert only(measure(log, "gdpr_g5_retention_kept")).value == 0

    access = AccessLog(log.lake)
    access.note(ACTOR, "sql", "inference_events, model_costs", tenant="default", purpose="platform")
    access.note(ACTOR, "sql", "inference_events", tenant="default", purpose="curiosity")
    access.note(Actor("shell"), "download", "version:1", tenant="default", purpose="platform")
    access.note(ACTOR, "sql", "model_costs", tenant="default")
    access.flush()
    reads = {each.about: each.value for each in measure(log, "gdpr_g13_reads_have_a_purpose")}
    assert reads == {
        "without a declared purpose": pytest.approx(1 / 3),
        "by an unauthenticated actor": pytest.approx(1 / 3),
    }

    declare(log, "aggregates: [{name: by-city, dataset: people@v1, by: [city]}]")
    groups = only(measure(log, "gdpr_g14_k_anonymity"))
    assert (groups.value, groups.n, groups.detail["smallest group"]) == (1.0, 2, 3)


def test_membership_inference_is_the_area_under_the_curve_of_the_scores(log: Log) -> None:
    declare(
        log,
        """
        membership_scores:
          - {version: scoring@v1, train: members@v1, evaluation: others@v1, column: loss, higher_is_member: false,
             canaries_extracted: 0}
        """,
    )
    found = only(measure(log, "gdpr_g15_membership_inference", "scoring@v1"))
    members, others = [n / 50 for n in range(50)], [n / 50 + 0.1 for n in range(50)]
    pairs = [(m < o) + (m == o) / 2 for m in members for o in others]
    assert found.value == pytest.approx(sum(pairs) / len(pairs), abs=1e-3)
    assert found.interval is not None
    assert found.interval.low < 0.595 < found.interval.high
    assert only(measure(log, "gdpr_g15_canaries_extracted", "scoring@v1")).value == 0


def test_the_log_of_all_that_holds_pseudonyms_alone(log: Log) -> None:
    found = only(measure(log, "gdpr_g20_log_pseudonymous"))
    assert found.value == 0
    assert found.n


@settings(max_examples=examples(200))
@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=12), st.lists(st.integers(0, 8), min_size=1, max_size=12)
)
def test_the_area_counts_pairs(members: list[int], others: list[int]) -> None:
    pairs = [(m > o) + (m == o) / 2 for m in members for o in others]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(("n", "m"), [(10, 10), (50, 200)])
def test_the_interval_of_an_area_of_one_half_is_that_of_the_rank_sum(n: int, m: int) -> None:
    """There Hanley and McNeil's variance is Mann and Whitney's under the null, (n + m + 1) / 12nm."""
    interval = auc_interval(0.5, n, m)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.959964 * ((n + m + 1) / (12 * n * m)) ** 0.5)
