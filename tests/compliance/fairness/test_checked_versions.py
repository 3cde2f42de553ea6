"""Fairness of a registered version, and of a file from the shell."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.compliance.evaluation_rows import Columns
from ml_registry_pipelines.compliance.evaluations import EvaluationProblem, Evaluations
from ml_registry_pipelines.compliance.metrics import Bound, Context, catalogue
from ml_registry_pipelines.compliance.results import Subject
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from tests.compliance.fairness.made import BY_NAME, COMMON, SHIPPED

ROWS = pa.table(
    {
        "good": [1, 0, 1, 0, 1, 0, 1, 0],
        "says": [1, 1, 1, 0, 1, 0, 0, 0],
        "sex": ["f"] * 4 + ["m"] * 4,
        "person": [f"someone{i}@example.com" for i in range(8)],
    }
)
COLUMNS = Columns(label="good", prediction="says", groups={"sex": "sex"}, positive=("1",), subject="person")


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Iterator[Context]:
    file = tmp_path_factory.mktemp("model") / "model.bin"
    file.write_bytes(b"model")
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as log:
        models = ModelRegistry(log, actor=Actor("author"))
        models.register_model("risk")
        version = models.create_model_version("risk", file)
        evaluations = Evaluations(log, actor=Actor("officer"))
        evaluations.declare_evaluation("risk@v1", COLUMNS, suites=["fairness"])
        evaluations.record_evaluation("risk@v1", ROWS)
        subject = Subject("default", version.model_id, version.id, "risk@v1", version.content_digest)
        yield Context(lake, log, "default", datetime.now(UTC), subject)


def given(name, **more):
    kind: Any = catalogue()[name].parameters
    return kind(**{k: v for k, v in {**COMMON, **more}.items() if k in kind.model_fields})


def test_a_version_is_measured_on_what_was_declared_for_it(context):
    name = "demographic_parity_difference"
    (found,) = catalogue()[name].measure(context, given(name, groups=["sex"]))
    assert found.value == pytest.approx(0.5)
    assert [(g.name, g.n) for g in found.groups] == [("sex=f", 4), ("sex=m", 4)]
    assert "@" not in repr(found)


def test_without_a_subject_there_is_nothing_to_measure(context):
    nobody = Context(context.lake, context.log, "default", context.at)
    with pytest.raises(EvaluationProblem, match="a tenant as a whole"):
        catalogue()["demographic_parity_ratio"].measure(nobody, given("demographic_parity_ratio"))


def test_a_suite_states_every_parameter():
    for metric in BY_NAME.values():
        assert catalogue()[metric.name] is metric
        assert metric.articles
        assert metric.source
        assert all(field.is_required() for field in metric.parameters.model_fields.values())
        with pytest.raises(ValidationError):
            metric.parameters.model_validate({"groups": ["race"]})


def test_differences_have_an_upper_bound_and_ratios_a_lower_one():
    for metric in BY_NAME.values():
        if metric.name.endswith("_ratio"):
            assert metric.bound is Bound.AT_LEAST
        if metric.name.endswith("_difference") and metric.name != "statistical_parity_difference":
            assert metric.bound is Bound.AT_MOST


# -- mlreg fairness ----------------------------------------------------------------------------

COMPAS = [
    "fairness", str(SHIPPED / "compas_two_years.csv.gz"), "--label", "two_year_recid", "--prediction", "score_text",
    "--positive", "1", "--positive-prediction", "Medium", "--positive-prediction", "High", "--favourable", "negative",
]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(cli, [*COMPAS, *arguments])


def test_a_file_is_measured_without_registering_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    printed = run("--by", "race").output
    assert not (tmp_path / "home").exists()
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert lines["race=African-American"][1:] == ["3696", "0.4118", "0.7201", "0.4485", "0.2799", "0.6297"]
    assert lines["race=Asian"][1:] == ["32", "0.75", "NULL", "0.087", "NULL", "NULL"]
    assert "race=Native American: left out, at least once: 18 rows, fewer than 30" in printed
    assert lines["four_fifths_rule"][1:5] == ["race", "0.521", "0.454", "0.5762"]


def test_json_holds_every_group_test_and_parameter():
    found = json.loads(run("--by", "race", "--by", "sex", "--cross", "--json").output)
    assert found["parameters"]["min_group_n"] == 30
    assert {m["about"] for m in found["metrics"]} == {"race", "sex", "race x sex"}
    first = found["metrics"][0]
    assert first["metric"] == "demographic_parity_difference"
    assert first["groups"][-1] == {
        "name": "race=Native American", "n": 18, "positives": None, "negatives": None, "value": None,
        "interval": None, "left_out": "18 rows, fewer than 30",
    }  # fmt: skip


def test_a_regression_is_measured_too():
    named = ["--label", "priors_count", "--prediction", "decile_score", "--by", "sex"]
    printed = CliRunner().invoke(cli, ["fairness", COMPAS[1], *named, "--regression"])
    assert "mean_residual_difference" in printed.output
    assert "regression_demographic_parity" in printed.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by", "nothing"], "has no column nothing"),
        (["--by", "race", "--positive-prediction", "Meduim"], None),
        (["--by", "race", "--reference", "ref=Martian"], "'Martian' is not among"),
        (["--by", "race", "--by", "race"], "each group column once"),
        (["--by", "race", "--reference", "best"], "--reference is"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_sentence(arguments, sentence):
    done = run(*arguments)
    if isinstance(done.exception, MlregError):
        assert sentence in str(done.exception)
    elif sentence is not None:
        assert sentence in done.output


def test_a_broken_file_is_named_without_what_it_holds(tmp_path):
    broken = tmp_path / "people.csv"
    broken.write_text("label,prediction,sex\n1,1,f\nanna@example.com\n")
    columns = ["--label", "label", "--positive", "1", "--favourable", "positive", "--by", "sex"]
    for file in (broken, tmp_path / "gone.csv"):
        done = CliRunner().invoke(cli, ["fairness", str(file), *columns])
        assert isinstance(done.exception, MlregError)
        assert str(file) in str(done.exception)
        assert "anna" not in str(done.exception)
