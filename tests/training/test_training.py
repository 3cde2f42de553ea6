"""Assets of a user's own that write datasets and train models: what the registry holds afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from deltalake import write_deltalake

from ml_registry_pipelines.lineage.staleness import Staleness
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.training import (
    Artifact,
    RegistryResource,
    TrainedModel,
    TrainingSet,
    Uri,
    dataset_key,
    tracked_dataset,
    trained_model,
)
from ml_registry_pipelines.training.recording import code_commit
from tests.conftest import S3
from tests.training.conftest import ME, Run, made, refusal


def people(rows: int = 90, *, odd: int = 0) -> pa.Table:
    return pa.table(
        {
            "age": [20 + n % 50 for n in range(rows)],
            "income": [(n * 37) % 100 + odd for n in range(rows)],
            "town": [f"t{n % 3}" for n in range(rows)],
            "paid": [n % 3 > 0 for n in range(rows)],
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.parquet"
    pq.write_table(people(), path)
    return path


@pytest.fixture
def credit(file: Path) -> dg.AssetsDefinition:
    @tracked_dataset("credit", owners=["team:risk"])
    def write() -> Path:
        """One row is one borrower."""
        return file

    return write


def estimator(**options: Any) -> Any:
    """A logistic regression; scikit-learn is imported by the worker that runs these tests alone."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(**options)


def fit(rows: TrainingSet, **options: Any) -> Any:
    frame = rows.to_pandas(["age", "income", "paid"])
    return estimator(**options).fit(frame[["age", "income"]], frame["paid"])


@pytest.fixture
def risk(credit: dg.AssetsDefinition) -> dg.AssetsDefinition:
    @trained_model("risk", trained_on={"rows": credit}, owners=["team:risk", "p-17"])
    def train(rows: TrainingSet) -> TrainedModel:
        """Whether a loan is paid back."""
        frame = rows.to_pandas(["age", "income", "paid"])
        model = estimator(C=0.5).fit(frame[["age", "income"]], frame["paid"])
        return TrainedModel(
            model,
            metrics={"accuracy": model.score(frame[["age", "income"]], frame["paid"])},
            inputs=frame[["age", "income"]],
            outputs=frame["paid"],
        )

    return train


def status(instance: dg.DagsterInstance, key: dg.AssetKey, *assets: dg.AssetsDefinition) -> StaleStatus:
    """Dagster's own mark."""
    resources = {"registry": RegistryResource()}
    graph = dg.Definitions(assets=list(assets), resources=resources).get_repository_def().asset_graph
    return CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance)).get_status(key)


# -- what is recorded ----------------------------------------------------------------------


def test_a_returned_model_is_a_version_with_all_that_is_known_of_it(
    run: Run, credit, risk, registry: ModelRegistry, tmp_path: Path
) -> None:
    result = run(credit, risk)
    version = registry.get_version("risk@latest")
    assert version.number == 1
    assert version.framework == "scikit-learn"
    assert version.parameters["C"] == 0.5
    assert 0 < version.metrics["accuracy"] <= 1
    assert version.signature == {
        "inputs": [{"name": "age", "type": "int64"}, {"name": "income", "type": "int64"}],
        "outputs": [{"type": "bool", "name": "paid", "shape": [None]}],
    }
    assert version.tags["format"] == "joblib"
    model = registry.get_model("risk")
    assert (model.description, model.owners) == ("Whether a loan is paid back.", ("p-17", "team:risk"))

    (file,) = registry.download("risk@v1", tmp_path / "got")
    assert (file.name, file.stat().st_size) == ("model.joblib", version.size)
    (environment,) = registry.download("risk@v1", tmp_path / "environment", kind="environment")
    import sklearn

    assert f"scikit-learn=={sklearn.__version__}" in environment.read_text().splitlines()
    registry.verify_version("risk@v1")

    (event,) = [e for e in registry.history("risk") if e.action == "create_model_version" and e.part == 1]
    assert event.run_id == result.run_id
    said = made(result, risk)
    assert said.metadata["reference"].value == "risk@v1"
    assert said.metadata["accuracy"].value == version.metrics["accuracy"]
    assert said.tags is not None
    assert said.tags["dagster/data_version"] == version.content_digest


def test_lineage_goes_from_the_dataset_version_and_the_columns_that_were_read(
    run: Run, credit, risk, registry: ModelRegistry, tracker: LineageTracker
) -> None:
    run(credit, risk)
    registry.promote_to_production("risk@v1")
    tracker.track_deployment("api", "risk@v1", environment="production")
    found = tracker.get_full_lineage("model", "risk")
    assert [r.node.name for r in found.upstream] == ["credit@v1"]
    by_income = tracker.get_impact_analysis("dataset", "credit", column="income")
    assert [r.node.name for r in by_income.deployments] == ["api"]
    assert tracker.get_impact_analysis("dataset", "credit", column="town").deployments == ()


def test_who_takes_the_location_is_taken_to_have_read_every_column(
    run: Run, credit, tracker: LineageTracker, registry: ModelRegistry
) -> None:
    @trained_model("own-reader", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> Any:
        assert Path(rows.location).exists()
        return fit(rows)

    run(credit, train)
    assert registry.get_version("own-reader@v1").trained_on
    reached = tracker.get_impact_analysis("dataset", "credit", column="town").affected["model_version"]
    assert [r.node.name for r in reached] == ["own-reader@v1"]


def test_a_dataset_asset_says_rows_columns_and_version(run: Run, credit, tracker: LineageTracker) -> None:
    said = made(run(credit), credit)
    (version,) = tracker.dataset_versions("credit")
    assert said.metadata["dagster/row_count"].value == 90
    schema = said.metadata["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert [column.name for column in schema.columns] == ["age", "income", "town", "paid"]
    assert said.tags is not None
    assert said.tags["dagster/data_version"] == version.metadata["digest"]
    again = made(run(credit), credit)
    assert again.metadata["version"].value == 1


def test_data_that_were_held_back_are_evaluated_on_and_not_trained_on(
    run: Run, credit, tmp_path: Path, registry: ModelRegistry, tracker: LineageTracker
) -> None:
    @tracked_dataset("holdout")
    def holdout() -> Path:
        pq.write_table(people(30, odd=1), tmp_path / "holdout.parquet")
        return tmp_path / "holdout.parquet"

    @trained_model("risk", trained_on={"rows": credit}, evaluated_on={"unseen": holdout})
    def train(rows: TrainingSet, unseen: TrainingSet) -> TrainedModel:
        frame = unseen.to_pandas()
        model = fit(rows)
        return TrainedModel(model, metrics={"unseen": model.score(frame[["age", "income"]], frame["paid"])})

    run(credit, holdout, train)
    version = registry.get_version("risk@v1")
    (first,), (second,) = tracker.dataset_versions("credit"), tracker.dataset_versions("holdout")
    assert (version.trained_on, version.evaluated_on) == ((first.id,), (second.id,))


def test_context_configuration_and_resources_reach_the_training_code(
    run: Run, credit, registry: ModelRegistry
) -> None:
    class Strength(dg.Config):
        c: float = 1.0

    class Names(dg.ConfigurableResource["Names"]):
        licence: str

    def train(context, rows: TrainingSet, config: Strength, names: Names) -> TrainedModel:
        context.log.info("training")
        return TrainedModel(fit(rows, C=config.c), licence=names.licence)

    # As with `from __future__ import annotations`, which makes text of them; local classes stay classes.
    train.__annotations__ |= {"config": Strength, "names": Names}
    asset = trained_model("tuned", trained_on={"rows": credit})(train)
    result = run(
        credit,
        asset,
        resources={"names": Names(licence="Apache-2.0")},
        run_config={"ops": {asset.op.name: {"config": {"c": 0.25}}}},
    )
    assert result.success
    version = registry.get_version("tuned@v1")
    assert (version.parameters["C"], version.licence) == (0.25, "Apache-2.0")


def test_another_tenants_models_are_its_own(run: Run, file: Path, log: Log, registry: ModelRegistry) -> None:
    @tracked_dataset("credit", tenant="acme")
    def data() -> Path:
        return file

    @trained_model("risk", trained_on={"rows": data}, tenant="acme")
    def train(rows: TrainingSet) -> Any:
        return fit(rows)

    assert run(data, train).success
    assert train.key == dg.AssetKey(["models", "acme", "risk"])
    assert registry.list_models() == []
    (version,) = ModelRegistry(log, actor=ME, tenant="acme").list_versions("risk")
    assert version.trained_on


def test_a_model_that_the_code_wrote_itself_is_stored_as_it_is(
    run: Run, credit, registry: ModelRegistry, tmp_path: Path
) -> None:
    @trained_model("folder", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> TrainedModel:
        target = tmp_path / "out"
        target.mkdir()
        (target / "weights.bin").write_bytes(b"\x00" * 10)
        (target / "config.json").write_text("{}")
        card = tmp_path / "card.md"
        card.write_text("# a card")
        return TrainedModel(
            target, framework="own", parameters={"rows": rows.rows}, artifacts=[Artifact("model_card", card)]
        )

    run(credit, train)
    version = registry.get_version("folder@v1")
    assert (version.content["form"], version.framework, version.parameters) == ("folder", "own", {"rows": 90})
    assert [a["kind"] for a in version.artifacts] == ["model_card"]
    assert {p.name for p in registry.download("folder@v1", tmp_path / "got")} == {
        "weights.bin",
        "config.json",
    }


# -- once and no more ----------------------------------------------------------------------


def test_the_same_run_carried_out_again_registers_nothing_twice_and_does_not_train(
    run: Run, credit, registry: ModelRegistry, log: Log
) -> None:
    trained = []

    @trained_model("moody", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> Any:
        trained.append(uuid4().hex)
        return fit(rows, C=len(trained))

    run(credit)
    run_id = str(uuid4())
    # An instance of its own each time: the one before died with all that it knew.
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as fresh:
            result = run(credit, train, only=[train], within=fresh, run_id=run_id)
            assert made(result, train).metadata["reference"].value == "moody@v1"
    assert len(trained) == 1
    assert len(registry.list_versions("moody")) == 1
    head, _ = log.head("default")
    assert run(credit, train, only=[train]).success
    assert len(registry.list_versions("moody")) == 2
    assert log.head("default")[0] > head


def test_two_attempts_of_a_step_at_once_come_to_one_version(
    run: Run, credit, registry: ModelRegistry
) -> None:
    """As when a worker that was given up for dead is not."""
    run_id = str(uuid4())
    attempts: list[str] = []

    @trained_model("raced", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> Any:
        attempts.append("one more")
        strength = len(attempts)
        if strength == 1:
            with dg.DagsterInstance.ephemeral() as other:
                assert run(credit, train, only=[train], within=other, run_id=run_id).success
        return fit(rows, C=strength)

    run(credit)
    said = made(run(credit, train, only=[train], run_id=run_id), train)
    (version,) = registry.list_versions("raced")
    assert version.parameters["C"] == len(attempts) == 2
    assert said.metadata["how"].value == "registered by an earlier attempt of this step"


def test_a_retrain_that_changes_nothing_is_recognised(run: Run, credit, risk, registry, log: Log) -> None:
    run(credit, risk)
    head = log.head("default")
    said = made(run(credit, risk), risk)
    assert log.head("default") == head
    assert (said.metadata["reference"].value, said.metadata["new"].value) == ("risk@v1", False)
    assert len(registry.list_versions("risk")) == 1


def test_the_same_model_with_other_facts_is_a_version(run: Run, credit, registry: ModelRegistry) -> None:
    def asset(metrics: dict[str, float]) -> dg.AssetsDefinition:
        @trained_model("measured", trained_on={"rows": credit})
        def train(rows: TrainingSet) -> TrainedModel:
            return TrainedModel(fit(rows), metrics=metrics)

        return train

    for metrics in ({"a": 1.0}, {"a": 1.0}, {"a": 1.0, "b": 2.0}):
        assert run(credit, asset(metrics)).success
    assert [v.metrics for v in registry.list_versions("measured")] == [{"a": 1.0}, {"a": 1.0, "b": 2.0}]


# -- data that change ------------------------------------------------------------------------


def test_a_live_version_is_stale_once_its_dataset_changed_and_a_retrain_is_not(
    run: Run, credit, risk, file: Path, registry: ModelRegistry, staleness: Staleness, instance
) -> None:
    run(credit, risk)
    registry.promote_to_production("risk@v1")
    assert not staleness.of_version("risk@v1").stale
    assert status(instance, risk.key, credit, risk) is StaleStatus.FRESH

    pq.write_table(people(odd=3), file)
    run(credit)
    assert [(s.name, s.stale) for s in staleness.of_models()] == [("risk@v1", True)]
    assert status(instance, risk.key, credit, risk) is StaleStatus.STALE

    assert made(run(credit, risk, only=[risk]), risk).metadata["reference"].value == "risk@v2"
    assert not staleness.of_version("risk@v2").stale
    assert staleness.of_version("risk@v1").stale
    assert status(instance, risk.key, credit, risk) is StaleStatus.FRESH


def test_a_dataset_that_changed_without_dagster_is_learned_from_and_said_so(
    run: Run, credit, risk, file: Path, tmp_path: Path, tracker: LineageTracker, instance
) -> None:
    run(credit, risk)
    pq.write_table(people(odd=3), tmp_path / "people2.parquet")
    tracked = tracker.track_dataset("credit", tmp_path / "people2.parquet")
    said = made(run(credit, risk, only=[risk]), risk)
    key = credit.key.to_user_string()
    assert said.metadata["datasets"].value == "credit@v2"
    assert said.tags is not None
    assert said.tags[f"dagster/input_data_version/{key}"] == tracked.metadata["digest"]
    pointed = instance.get_latest_data_version_record(credit.key)
    assert said.tags[f"dagster/input_event_pointer/{key}"] == str(pointed.storage_id)
    assert status(instance, risk.key, credit, risk) is StaleStatus.FRESH


def test_a_dataset_that_changes_while_it_is_trained_on_stays_the_newer_one(
    run: Run, credit, file: Path, tmp_path: Path, tracker: LineageTracker, registry: ModelRegistry, instance
) -> None:
    run(credit)

    @trained_model("slow", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> Any:
        model = fit(rows)
        pq.write_table(people(odd=3), file)
        assert run(credit).success
        return model

    said = made(run(credit, train, only=[train]), train)
    first, second = tracker.dataset_versions("credit")
    assert registry.get_version("slow@v1").trained_on == (first.id,)
    assert said.tags is not None
    assert said.tags[f"dagster/input_data_version/{credit.key.to_user_string()}"] == first.metadata["digest"]
    newest = instance.get_latest_materialization_event(credit.key).asset_materialization
    assert newest.tags["dagster/data_version"] == second.metadata["digest"]
    assert status(instance, train.key, credit, train) is StaleStatus.STALE


def test_an_attempt_that_finds_its_version_says_what_that_learned_from(
    run: Run, credit, risk, file: Path, tracker: LineageTracker, instance
) -> None:
    run_id = str(uuid4())
    run(credit)
    with dg.DagsterInstance.ephemeral() as lost:
        run(credit, risk, only=[risk], within=lost, run_id=run_id)
    pq.write_table(people(odd=3), file)
    run(credit)
    said = made(run(credit, risk, only=[risk], run_id=run_id), risk)
    first, second = tracker.dataset_versions("credit")
    assert said.metadata["how"].value == "registered by an earlier attempt of this step"
    assert said.metadata["datasets"].value == "credit@v1"
    assert said.tags is not None
    assert said.tags[f"dagster/input_data_version/{credit.key.to_user_string()}"] == first.metadata["digest"]
    newest = instance.get_latest_materialization_event(credit.key).asset_materialization
    assert newest.tags["dagster/data_version"] == second.metadata["digest"]
    assert status(instance, risk.key, credit, risk) is StaleStatus.STALE


def test_a_dataset_that_no_asset_writes_can_be_trained_on(
    run: Run, file: Path, tracker: LineageTracker, registry: ModelRegistry, instance
) -> None:
    tracker.track_dataset("ledger/österreich", file)

    @trained_model("by name", trained_on={"rows": "ledger/österreich"})
    def train(rows: TrainingSet) -> Any:
        return fit(rows)

    assert run(train).success
    assert registry.get_version("by name@v1").trained_on
    assert instance.get_latest_materialization_event(dataset_key("ledger/österreich"))
    assert status(instance, train.key, train) is StaleStatus.FRESH


def test_a_delta_table_is_read_in_the_version_that_was_tracked(
    run: Run, tmp_path: Path, tracker: LineageTracker, registry: ModelRegistry
) -> None:
    table = str(tmp_path / "table")
    write_deltalake(table, people(90))
    tracker.track_dataset("credit", table)
    write_deltalake(table, people(10), mode="overwrite")

    @trained_model("pinned", trained_on={"rows": "credit"})
    def train(rows: TrainingSet) -> TrainedModel:
        assert rows.delta_version == 0
        return TrainedModel(fit(rows), metrics={"rows": rows.to_arrow().num_rows})

    assert run(train).success
    assert registry.get_version("pinned@v1").metrics == {"rows": 90}


def test_files_of_a_folder_are_read_together_whatever_types_each_shows(
    run: Run, tmp_path: Path, tracker: LineageTracker, registry: ModelRegistry
) -> None:
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "a.csv").write_text("age,income,paid\n20,1,true\n30,2,false\n")
    (folder / "b.csv").write_text("age,income,paid\n40,3.5,true\n")
    tracker.track_dataset("credit", folder)

    @trained_model("risk", trained_on={"rows": "credit"})
    def train(rows: TrainingSet) -> TrainedModel:
        return TrainedModel(fit(rows), metrics={"income": rows.to_pandas()["income"].sum()})

    assert run(train).success
    assert registry.get_version("risk@v1").metrics == {"income": 6.5}


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta"])
def test_data_that_are_not_the_tracked_ones_any_more_are_refused(
    kind: str, run: Run, tmp_path: Path, tracker: LineageTracker, registry: ModelRegistry
) -> None:
    import shutil

    import pyarrow.csv as pacsv

    path = tmp_path / ("table" if kind == "delta" else f"people.{kind}")

    def write(rows: pa.Table) -> None:
        match kind:
            case "delta":
                shutil.rmtree(path, ignore_errors=True)
                write_deltalake(str(path), rows)
            case "csv":
                pacsv.write_csv(rows, path)
            case _:
                pq.write_table(rows, path)

    write(people())
    tracker.track_dataset("credit", path)
    write(people(odd=1))

    @trained_model("risk", trained_on={"rows": "credit"})
    def train(rows: TrainingSet) -> Any:
        return fit(rows)

    said = refusal(run(train))
    assert str(path) in said
    assert "credit@v1" in said
    assert "track the dataset again" in said
    assert registry.list_models() == []


def test_a_derived_dataset_has_a_version_for_each_new_origin_and_no_other(
    run: Run, credit, file: Path, tmp_path: Path, tracker: LineageTracker
) -> None:
    @tracked_dataset("towns", derived_from={"rows": credit})
    def towns(rows: TrainingSet) -> Path:
        pq.write_table(rows.to_arrow(["town"]), tmp_path / "towns.parquet")
        return tmp_path / "towns.parquet"

    run(credit, towns)
    run(credit, towns)
    assert len(tracker.dataset_versions("towns")) == 1
    assert [r.node.name for r in tracker.get_full_lineage("dataset", "towns").upstream][:1] == ["credit@v1"]
    pq.write_table(people(odd=3), file)  # other incomes, the same towns
    run(credit, towns)
    assert len(tracker.dataset_versions("towns")) == 2
    found = tracker.get_full_lineage("dataset_version", "towns@v2", depth=1)
    assert [r.node.name for r in found.upstream] == ["credit@v2"]


# -- what is refused -------------------------------------------------------------------------


def test_a_dataset_that_nobody_tracked_is_named_with_what_to_do(run: Run, registry: ModelRegistry) -> None:
    @trained_model("risk", trained_on=["rows"])
    def train(rows: TrainingSet) -> Any:
        raise AssertionError("nothing to train on")

    said = refusal(run(train))
    assert "there is no dataset 'rows' in tenant 'default'" in said
    assert "mlreg datasets track" in said
    assert registry.list_models() == []


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda: {"a": 1}, "a dict is no scikit-learn estimator"),
        (lambda: None, "a NoneType is no scikit-learn estimator"),
        (lambda: TrainedModel(estimator(), metrics={"auc": float("nan")}), "auc is nan"),
        (lambda: TrainedModel(estimator(), metrics={"auc": "high"}), "metric 'auc' is a str"),  # type: ignore[dict-item]
        (lambda: TrainedModel(estimator(), inputs="text"), "a str shows no schema"),
        (lambda: TrainedModel("/nowhere/model.onnx"), "/nowhere/model.onnx is no file"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_one_sentence(
    returned, words: str, run: Run, credit, registry: ModelRegistry
) -> None:
    @trained_model("risk", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> object:
        return returned()

    assert words in refusal(run(credit, train))
    assert [v for m in registry.list_models() for v in registry.list_versions(m.name)] == []


def test_an_error_of_the_training_code_keeps_its_own_name_and_trace(run: Run, credit) -> None:
    @trained_model("risk", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> object:
        raise KeyError("missing")

    (failed,) = [e for e in run(credit, train).all_events if e.is_step_failure]
    assert failed.step_failure_data.error is not None
    assert "KeyError: 'missing'" in failed.step_failure_data.error.to_string()


def test_a_column_that_is_not_there_is_refused_with_those_that_are(run: Run, credit) -> None:
    @trained_model("risk", trained_on={"rows": credit})
    def train(rows: TrainingSet) -> object:
        return rows.to_pandas(["agee"])

    assert "credit@v1 has no column 'agee'; it has age, income, town, paid" in refusal(run(credit, train))


def test_an_address_is_not_read_and_says_where_it_is(run: Run, tracker: LineageTracker) -> None:
    tracker.track_dataset("far", Uri("https://data.example/far.parquet", "0" * 64), columns=[("a", "int64")])

    @trained_model("risk", trained_on={"rows": "far"})
    def train(rows: TrainingSet) -> object:
        return rows.to_pandas()

    assert "https://data.example/far.parquet" in refusal(run(train))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trained_on": "rows"}, "trained_on is one text"),
        ({"trained_on": ["other"]}, "no parameter is called 'other'"),
        ({"trained_on": {"rows": "a"}, "evaluated_on": {"rows": "b"}}, "rows stands in trained_on and in"),
        ({"trained_on": []}, "parameter 'rows' is a TrainingSet and stands for no dataset"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(given: dict[str, Any], words: str) -> None:
    def train(rows: TrainingSet) -> object:
        return rows

    with pytest.raises(InvalidInput, match=r"test_training\.") as wrong:
        trained_model("risk", **given)(train)
    assert words in str(wrong.value)


def test_an_owner_with_an_address_is_refused_where_it_is_declared() -> None:
    with pytest.raises(InvalidInput, match="never an e-mail address"):

        @tracked_dataset("credit", owners=["ada@example.com"])
        def credit() -> str:
            return "credit.parquet"


# -- where code comes from ---------------------------------------------------------------------


def test_the_commit_is_that_of_the_repository_around_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLREG_CODE_COMMIT", raising=False)
    code = tmp_path / "train.py"
    code.write_text("x = 1\n")
    assert code_commit(code) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    assert code_commit(code) is None, "a file that is not committed comes from no commit"
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert code_commit(code) == commit
    code.write_text("x = 2\n")
    assert code_commit(code) == f"{commit}-dirty"
    monkeypatch.setenv("MLREG_CODE_COMMIT", "build-7")
    assert code_commit(code) == "build-7"


# -- elsewhere ------------------------------------------------------------------------------------


def test_registry_and_data_may_be_in_a_bucket(run: Run, s3: S3, s3_root: str, tmp_path: Path) -> None:
    from ml_registry_pipelines.lake.lake import Lake

    uri = f"{s3_root.rsplit('/', 1)[0]}/data/people"

    @tracked_dataset("credit")
    def write() -> str:
        write_deltalake(uri, people(), mode="overwrite")
        return uri

    @trained_model("risk", trained_on={"rows": write})
    def train(rows: TrainingSet) -> Any:
        return fit(rows)

    result = run(write, train, resources={"registry": RegistryResource(home=s3_root)})
    assert made(result, train).metadata["reference"].value == "risk@v1"
    with Lake(s3_root) as lake, Log(lake) as log:
        (file,) = ModelRegistry(log, actor=ME).download("risk@v1", tmp_path)
    assert file.name == "model.joblib"
