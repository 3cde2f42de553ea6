"""How a model becomes files, a signature and parameters; and names of any kind become assets."""

from __future__ import annotations

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import checked_name
from ml_registry_pipelines.training import TrainingSet, tracked_dataset, trained_model
from ml_registry_pipelines.training.models import TrainedModel, framework_of, prepared, recordable, schema_of
from tests.examples import examples


def is_taken(name: str) -> bool:
    """Whether the registry takes it as a name."""
    try:
        return bool(checked_name(name))
    except InvalidInput:
        return False


NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")), min_size=1, max_size=500
).filter(is_taken)


@settings(max_examples=examples(60), deadline=None)
@given(model=NAMES, dataset=NAMES)
def test_every_name_that_the_registry_takes_makes_an_asset_that_loads(model: str, dataset: str) -> None:
    @tracked_dataset(dataset)
    def data() -> str:
        return "data.parquet"

    @trained_model(model, trained_on={"rows": data})
    def train(rows: TrainingSet) -> object:
        return rows

    graph = dg.Definitions(assets=[data, train], resources={"registry": object()}).resolve_asset_graph()
    assert graph.get(train.key).parent_keys == {data.key}
    assert dg.AssetKey.from_user_string(train.key.to_user_string()) == train.key


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "a_b"), ("a/b", "a.b"), ("a-b", "a_b"), ("x" * 400, "x" * 399 + "y")]
)
def test_names_that_look_alike_stay_two_assets(one: str, other: str) -> None:
    def asset(name: str) -> dg.AssetsDefinition:
        @tracked_dataset(name)
        def data() -> str:
            return "data.parquet"

        return data

    first, second = asset(one), asset(other)
    assert first.key != second.key
    assert first.op.name != second.op.name


@pytest.mark.parametrize(
    ("example", "schema"),
    [
        (None, []),
        (
            pd.DataFrame({"a": [1], "b": ["x"]}),
            [{"name": "a", "type": "int64"}, {"name": "b", "type": "str"}],
        ),
        (pa.table({"a": pa.array([1.5])}), [{"name": "a", "type": "double"}]),
        (np.zeros((5, 3), dtype="float32"), [{"type": "float32", "shape": [None, 3]}]),
        (pd.Series([1, 2], name="y"), [{"name": "y", "type": "int64", "shape": [None]}]),
    ],
)
def test_a_schema_holds_names_and_types_and_no_values(example: object, schema: list[object]) -> None:
    assert schema_of(example) == schema


def test_what_shows_no_schema_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a list shows no schema"):
        schema_of([1, 2])


def test_parameters_of_a_pipeline_are_those_of_its_steps_as_json(tmp_path) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(
        SimpleImputer(missing_values=float("nan")), LogisticRegression(C=np.float32(0.5))
    )
    parameters = prepared(TrainedModel(pipeline), tmp_path).parameters
    assert parameters["logisticregression__C"] == 0.5
    assert parameters["simpleimputer__missing_values"] == "nan"
    assert "steps" not in parameters
    assert "logisticregression" not in parameters
    canonical(parameters)


def test_what_json_cannot_say_is_said_as_text_without_addresses_in_memory() -> None:
    assert recordable({1: (np.int64(2), {"a": object()})}) == {"1": [2, {"a": "<object object>"}]}
    assert (
        recordable(test_what_shows_no_schema_is_refused) == "<function test_what_shows_no_schema_is_refused>"
    )
    assert len(recordable(b"x" * 5000)) < 1100


def test_a_subclass_of_ones_own_is_of_the_framework_it_comes_from() -> None:
    from sklearn.linear_model import LogisticRegression

    class Own(LogisticRegression):  # type: ignore[misc]
        pass

    assert framework_of(Own()) == "scikit-learn"
    assert framework_of(object()) is None


def test_the_same_model_is_the_same_bytes(tmp_path) -> None:
    from sklearn.linear_model import LogisticRegression

    frame = pd.DataFrame({"a": range(50), "b": [n % 7 for n in range(50)]})
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model = LogisticRegression().fit(frame, frame["a"] > 20)
        contents.append(prepared(TrainedModel(model), tmp_path / name).content.read_bytes())
    assert contents[0] == contents[1]
