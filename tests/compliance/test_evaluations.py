"""Which data, columns and suites a version is checked with, and how metrics read them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from ml_registry_pipelines.compliance.erasure.erasing import Eraser
from ml_registry_pipelines.compliance.evaluation_rows import rows_digest
from ml_registry_pipelines.compliance.evaluations import (
    Columns,
    EvaluationProblem,
    Evaluations,
    Outcome,
    Task,
    evaluation,
)
from ml_registry_pipelines.compliance.manager import ComplianceManager
from ml_registry_pipelines.compliance.metrics import Context
from ml_registry_pipelines.compliance.results import Subject
from ml_registry_pipelines.compliance.suites.files import NoSuchSuite, SuiteFiles
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.contents import DatasetMoved
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.telemetry.sources import Sources

ACTOR = Actor("officer")
ROWS = pa.table(
    {
        "good": [1, 0, 1, 1, 0, 0],
        "says": [1, 0, 0, 1, 1, 0],
        "p": [0.9, 0.1, 0.4, 0.8, 0.7, 0.2],
        "sex": ["f", "f", "f", "m", "m", None],
        "query": ["a", "a", "b", "b", "c", "c"],
        "rank": [1, 2, 1, 2, 1, 2],
        "person": ["anna", "bert", "cara", "dora", "emil", "finn"],
        "name": ["Anna A", "Bert B", "Cara C", "Dora D", "Emil E", "Finn F"],
    }
)
COLUMNS = Columns(
    label="good",
    prediction="says",
    score="p",
    groups={"sex": "sex"},
    positive=("1",),
    further={"query": "query", "rank": "rank"},
    subject="person",
)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as opened:
        yield opened


@pytest.fixture
def evaluations(log: Log, tmp_path: Path) -> Evaluations:
    """In a tenant of its own, with model `risk` of one version."""
    tenant = f"t{next(_numbers)}"
    file = tmp_path / "model.bin"
    file.write_bytes(b"model")
    registry = ModelRegistry(log, actor=ACTOR, tenant=tenant)
    registry.register_model("risk")
    registry.create_model_version("risk", file)
    return Evaluations(log, actor=ACTOR, tenant=tenant)


def context(evaluations: Evaluations, **more) -> Context:
    version = ModelRegistry(evaluations.log, actor=ACTOR, tenant=evaluations.tenant).get_version("risk@v1")
    subject = Subject(
        evaluations.tenant, version.model_id, version.id, version.reference, version.content_digest
    )
    log = evaluations.log
    return Context(log.lake, log, evaluations.tenant, datetime.now(UTC), subject, **more)


def test_rows_that_are_recorded_are_read_back_under_their_roles(evaluations):
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", ROWS)
    found = evaluation(context(evaluations))
    assert found.rows.to_pydict() == {
        "label": [1, 0, 1, 1, 0, 0],
        "prediction": [1, 0, 0, 1, 1, 0],
        "score": [0.9, 0.1, 0.4, 0.8, 0.7, 0.2],
        "group_sex": ["f", "f", "f", "m", "m", None],
        "query": ["a", "a", "b", "b", "c", "c"],
        "rank": [1, 2, 1, 2, 1, 2],
    }
    assert (found.task, found.favourable, found.attributes) == (
        Task.CLASSIFICATION,
        Outcome.POSITIVE,
        ("sex",),
    )
    assert found.table_versions["evaluation_data"] > 0


def test_the_same_data_have_the_same_digest_from_the_table_a_file_and_a_dataset(evaluations, tmp_path):
    found = []
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", ROWS)
    found.append(evaluation(context(evaluations)))
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"], data=tmp_path / "rows.parquet")
    found.append(evaluation(context(evaluations)))
    pacsv.write_csv(ROWS, tmp_path / "rows.csv")
    tracker = LineageTracker(evaluations.log, actor=ACTOR, tenant=evaluations.tenant)
    tracker.track_dataset("credit", tmp_path / "rows.csv")
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"], data="credit@v1")
    found.append(evaluation(context(evaluations)))
    assert found[0].rows.equals(found[1].rows)
    assert len({each.digest for each in found}) == 1
    changed = found[0].rows.set_column(0, "label", pa.array([1.0, 0, 1, 1, 0, 1]))
    assert rows_digest(changed) != rows_digest(found[0].rows)


def test_who_was_erased_does_not_come_back_with_an_evaluation_that_is_recorded_again(evaluations, tmp_path):
    log, tenant = evaluations.log, evaluations.tenant
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", ROWS)
    eraser = Eraser(log, ACTOR, tenant, Sources([]))
    assert eraser.erase(eraser.subject(["anna"])).rows["evaluation_data"] == 1
    evaluations.record_evaluation("risk@v1", ROWS)
    assert evaluation(context(evaluations)).rows.num_rows == 5
    with pytest.raises(EvaluationProblem, match="every row is about somebody who was erased"):
        evaluations.record_evaluation("risk@v1", ROWS.slice(0, 1))


def test_no_name_and_no_person_is_kept(evaluations):
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", ROWS)
    with evaluations.log.lake.read("evaluation_data") as reading:
        rows = reading.query(
            "test", "SELECT * FROM evaluation_data WHERE tenant = $t", {"t": evaluations.tenant}
        )
    text = json.dumps(rows.to_pylist(), default=str)
    assert not any(word in text for word in (*ROWS["person"].to_pylist(), *ROWS["name"].to_pylist()))
    assert len(set(rows["subject_hash"].to_pylist())) == 6


def test_a_column_of_names_is_no_group(evaluations):
    many = pa.table(
        {**dict(zip(ROWS.column_names, ROWS.columns, strict=True)), "mail": ["a@example.org"] * 6}
    )
    columns = replace(COLUMNS, groups={"sex": "mail"})
    evaluations.declare_evaluation("risk@v1", columns, suites=["fairness"])
    with pytest.raises(EvaluationProblem, match="point at persons"):
        evaluations.record_evaluation("risk@v1", many)
    wide = pa.table({"good": [1, 0] * 60, "says": [1, 0] * 60, "id": [f"n{i}" for i in range(120)]})
    columns = Columns(label="good", prediction="says", groups={"who": "id"}, positive=("1",))
    evaluations.declare_evaluation("risk@v1", columns, suites=["fairness"])
    with pytest.raises(EvaluationProblem, match="120 values"):
        evaluations.record_evaluation("risk@v1", wide)


def test_files_that_changed_after_they_were_declared_are_refused(evaluations, tmp_path):
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"], data=tmp_path / "rows.parquet")
    pq.write_table(ROWS.slice(1), tmp_path / "rows.parquet")
    with pytest.raises(DatasetMoved, match="is not the declared evaluation data any more"):
        evaluation(context(evaluations))


def test_rows_recorded_under_other_columns_do_not_count(evaluations):
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", ROWS)
    evaluations.declare_evaluation("risk@v1", replace(COLUMNS, positive=("0",)), suites=["fairness"])
    with pytest.raises(EvaluationProblem, match="6 were, under columns that were declared otherwise"):
        evaluation(context(evaluations))


def test_the_newest_rows_count_and_production_has_its_own(evaluations):
    columns = replace(COLUMNS, observed="at")
    now = datetime.now(UTC)
    rows = ROWS.append_column("at", pa.array([now - timedelta(days=n) for n in range(6)]))
    evaluations.declare_evaluation("risk@v1", columns, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", rows)
    evaluations.record_evaluation("risk@v1", rows.slice(0, 4))
    evaluations.record_evaluation("risk@v1", rows, origin="production")
    assert evaluation(context(evaluations)).rows.num_rows == 4
    window = (now - timedelta(days=2, hours=1), now)
    assert evaluation(context(evaluations, production=window)).rows.num_rows == 2
    with pytest.raises(EvaluationProblem, match="in production"):
        evaluation(context(evaluations, production=(now + timedelta(days=1), now + timedelta(days=2))))


@pytest.mark.parametrize(
    ("column", "values", "role", "lacking"),
    [
        ("good", [1, 0, None, 1, 0, 0], "label", 1),
        ("p", [0.9, float("nan"), float("inf"), None, 0.7, 0.2], "score", 3),
    ],
)
def test_missing_values_and_numbers_that_are_none_are_counted(evaluations, column, values, role, lacking):
    rows = ROWS.set_column(ROWS.column_names.index(column), column, pa.array(values))
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    evaluations.record_evaluation("risk@v1", rows)
    found = evaluation(context(evaluations))
    assert found.missing[role] == lacking
    with pytest.raises(EvaluationProblem, match=f"{lacking} of 6 rows have no {role}"):
        found.require(role)
    found.require("prediction")


def test_a_misspelt_class_is_no_constant_prediction(evaluations):
    evaluations.declare_evaluation("risk@v1", replace(COLUMNS, positive=("yes",)), suites=["fairness"])
    with pytest.raises(EvaluationProblem, match="holds numbers"):
        evaluations.record_evaluation("risk@v1", ROWS)
    evaluations.declare_evaluation("risk@v1", replace(COLUMNS, positive=("2",)), suites=["fairness"])
    with pytest.raises(EvaluationProblem, match="no value of label column"):
        evaluations.record_evaluation("risk@v1", ROWS)
    evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    constant = ROWS.set_column(1, "says", pa.array([0] * 6))
    evaluations.record_evaluation("risk@v1", constant)
    assert evaluation(context(evaluations)).rows["prediction"].to_pylist() == [0] * 6


def test_what_is_declared_again_unchanged_leaves_no_event(evaluations):
    first = evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    again = evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
    other = evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness", "strict"])
    assert (first.sequence, first.digest) == (again.sequence, again.digest)
    assert (other.id, other.digest != first.digest) == (first.id, True)
    evaluations.withdraw_evaluation("risk@v1")
    with pytest.raises(NotFound, match="there is no evaluation of 'risk@v1'"):
        evaluations.get_evaluation("risk@v1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positive": ()}, "which labels are the positive class"),
        ({"groups": {"Sex!": "sex"}}, "no name for a group attribute"),
        ({"further": {"label": "query"}}, "a role of its own"),
        ({"further": {"query": "sex"}}, "'sex' is named twice"),
        ({"task": Task.REGRESSION}, "no positive class"),
        ({"label": None, "prediction": None, "score": None}, "has a label, a prediction or a score"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(evaluations, change, said):
    with pytest.raises(InvalidInput, match=said):
        evaluations.declare_evaluation("risk@v1", replace(COLUMNS, **change), suites=["fairness"])


def test_data_without_a_declared_column_are_refused_when_they_are_declared(evaluations, tmp_path):
    pq.write_table(ROWS.drop_columns("p"), tmp_path / "rows.parquet")
    with pytest.raises(InvalidInput, match="has no column 'p'; it has good, says"):
        evaluations.declare_evaluation(
            "risk@v1", COLUMNS, suites=["fairness"], data=tmp_path / "rows.parquet"
        )
    with pytest.raises(InvalidInput, match="no name of a suite"):
        evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["../x"])


def test_every_shipped_suite_is_valid(tmp_path):
    files = SuiteFiles(str(tmp_path))
    assert "fairness" in files.names()
    assert {name: files.read(name).problems for name in files.names()} == dict.fromkeys(files.names(), ())


def test_suites_that_no_model_can_keep_on_the_data_are_refused_when_they_are_declared(evaluations, tmp_path):
    given = {"groups": ["sex"], "reference": "max-min", "min_group_n": 30, "min_positives": 10}
    given |= {"min_negatives": 10, "max_missing": 0, "confidence": 0.95, "correction": "holm"}
    entry = {"severity": "critical", "at_most": 0.05, "parameters": given}
    names = (
        "predictive_parity_difference",
        "false_positive_rate_difference",
        "false_negative_rate_difference",
    )
    suite = {"suite": "all-three", "expectations": [{"metric": name, **entry} for name in names]}
    folder = Path(evaluations.log.lake.root, "suites")
    folder.mkdir(exist_ok=True)
    (folder / "all-three.yaml").write_text(json.dumps(suite))
    rows = pa.table(
        {
            "good": [1, 1, 1, 0] * 100 + [1, 0, 0, 0] * 100,
            "says": [1, 1, 0, 0] * 200,
            "sex": ["f"] * 400 + ["m"] * 400,
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    columns = Columns(label="good", prediction="says", groups={"sex": "sex"}, positive=("1",))
    manager = ComplianceManager(evaluations.log, actor=ACTOR, tenant=evaluations.tenant)
    with pytest.raises(InvalidInput, match="their base rates differ"):
        manager.declare_evaluation("risk@v1", columns, suites=["all-three"], data=tmp_path / "rows.parquet")
    manager.declare_evaluation("risk@v1", columns, suites=["all-three"])
    with pytest.raises(InvalidInput, match="their base rates differ"):
        manager.record_evaluation("risk@v1", rows)
    with pytest.raises(NoSuchSuite, match="there is no suite 'unheard-of'"):
        manager.declare_evaluation("risk@v1", columns, suites=["unheard-of"])
