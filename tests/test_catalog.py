"""The registry as assets: whatever its rows hold, the location loads and shows what can be shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from dagster._utils.warnings import disable_dagster_warnings
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines import catalog
from ml_registry_pipelines.catalog import (
    EVERY_ROW,
    LOG_KEY,
    STALENESS,
    RegistryCatalog,
    asset_key,
    configured,
    evaluations,
    show,
)
from ml_registry_pipelines.definitions import build_defs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.catalogue import Catalogue, Entry, read_catalogue
from ml_registry_pipelines.lineage.staleness import Behind, Standing
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import VersionFacts
from ml_registry_pipelines.settings import Environment, Settings
from tests.examples import examples

ACTOR = Actor("p1")
NOON = datetime(2026, 5, 2, 12, tzinfo=UTC)
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            "..",
            "a/b",
            "ü x",
            "%2F",
            "team:",
            "a@b.c",
            "dagster/kind/x",
            "__x",
            "x" * 300,
            "\x00",
            "\ud800",
        ]
    ),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), HOSTILE),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(HOSTILE, inner, max_size=3)),
    max_leaves=6,
)
STANDINGS = st.builds(
    Standing,
    kind=st.just("model_version"),
    id=st.just("x"),
    name=HOSTILE,
    stage=HOSTILE,
    compared=st.integers(0, 3),
    behind=st.lists(st.builds(Behind, HOSTILE, st.just(1), st.just(2), st.just(NOON)), max_size=2).map(tuple),
)
ENTRIES = st.builds(
    Entry,
    tenant=st.sampled_from(["default", "acme", "a.b-c"]),
    kind=st.sampled_from(["dataset", "model", "model_version", "deployment", "surprise"]),
    id=st.sampled_from([str(n) for n in range(8)]),
    name=HOSTILE,
    number=st.one_of(st.none(), st.integers(1, 3)),
    place=HOSTILE,
    description=HOSTILE,
    owners=st.lists(HOSTILE, max_size=3).map(tuple),
    tags=st.dictionaries(HOSTILE, st.one_of(HOSTILE, st.integers(), st.booleans()), max_size=4),
    facts=st.dictionaries(
        st.one_of(HOSTILE, st.sampled_from(["columns", "rows", "location", "form", "dagster/row_count"])),
        JSON,
        max_size=6,
    ),
    standing=st.one_of(st.none(), STANDINGS),
)


def loaded(*definitions: dg.Definitions) -> dg.RepositoryDefinition:
    """The repository, loaded and packed as a code server does."""
    repository = dg.Definitions.merge(*definitions).get_repository_def()
    repository.load_all_definitions()
    with disable_dagster_warnings():
        serialize_value(RepositorySnap.from_def(repository)).encode()
    return repository


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
)
@given(st.lists(ENTRIES, max_size=8))
@example([Entry("default", "dataset", "1", "counted", facts={"rows": True})])
def test_no_row_breaks_the_location(entries):
    logging.disable(logging.WARNING)
    try:
        shown = show(Catalogue(tuple(entries)))
    finally:
        logging.disable(logging.NOTSET)
    repository = loaded(RegistryCatalog(home="/nowhere").definitions(shown))
    assert {spec.key for spec in shown.specs} <= {asset_key(e) for e in entries if _has_key(e)}
    assert len(shown.specs) + len(shown.dropped) == len(entries)
    assert LOG_KEY in repository.asset_graph.get_all_asset_keys()
    for evaluation in evaluations(shown):
        serialize_value(evaluation).encode()


def _has_key(entry: Entry) -> bool:
    try:
        asset_key(entry)
    except ValueError:
        return False
    return True


@given(st.lists(ENTRIES, max_size=4))
def test_a_catalogue_is_read_back_as_it_was_written(entries):
    import json

    kept = [e for e in entries if "nan" not in repr(e).lower()]
    catalogue = Catalogue(tuple(kept), {"model": 3})
    assert Catalogue.parse(json.loads(json.dumps(catalogue.recorded()))) == catalogue


def test_what_dagster_refuses_as_owner_or_tag_is_metadata():
    entry = Entry(
        "default",
        "model",
        "1",
        "fraud",
        owners=("team:risk", "p7", "team:"),
        tags={"tier": 1, "note": "x" * 200, "a/b": "c", "live": True, "ö": "x"},
    )
    (spec,) = show(Catalogue((entry,))).specs
    assert spec.owners == ["team:risk"]
    assert {k: v for k, v in spec.tags.items() if "/" not in k} == {"tier": "1", "live": "true"}
    assert spec.metadata["owners"].value == "p7, team:"
    assert spec.metadata["tag note"].value == "x" * 200
    assert spec.metadata["tag a/b"].value == "c"
    assert spec.metadata["tag ö"].value == "x"


def test_one_bad_row_drops_itself_with_a_failed_check_and_its_neighbours_stay(caplog):
    bad = Entry("default", "model_version", "2", "fraud", number=None)
    shown = show(Catalogue((Entry("default", "model", "1", "fraud", upstream=("2",)), bad)))
    assert [spec.key.path for spec in shown.specs] == [["models", "default", "fraud"]]
    assert "fraud" in caplog.text
    (check,) = evaluations(shown)
    assert (check.check_name, check.passed) == (EVERY_ROW, False)
    assert "model_version 'fraud' of tenant default (2)" in str(check.description)


def test_two_rows_with_one_key_are_the_first_of_them_and_a_failed_check():
    entries = (Entry("default", "model", "1", "fraud"), Entry("default", "model", "2", "fraud"))
    shown = show(Catalogue(entries))
    assert [spec.key.path for spec in shown.specs] == [["models", "default", "fraud"]]
    assert "its key models/default/fraud is that of 1" in shown.sentence


def test_a_key_that_an_asset_of_the_user_has_is_left_to_it():
    @dg.asset(key=["models", "default", "fraud"], owners=["team:mine"])
    def fraud() -> None: ...

    entries = (
        Entry("default", "model_version", "2", "fraud", 1, upstream=("3",)),
        Entry("default", "model", "1", "fraud", upstream=("2",)),
        Entry("default", "deployment", "4", "api", place="prod", upstream=("1",)),
        Entry("default", "dataset", "3", "credit"),
    )
    shown = show(Catalogue(entries), besides=[fraud.key])
    repository = loaded(RegistryCatalog(home="/nowhere").definitions(shown), dg.Definitions(assets=[fraud]))
    graph = repository.asset_graph
    assert graph.get(fraud.key).owners == ["team:mine"]
    api = dg.AssetKey(["deployments", "default", "prod", "api"])
    assert graph.get(api).parent_keys == {fraud.key}


# -- from a real registry -------------------------------------------------------------------------


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        yield log


def data(tracker: LineageTracker, name: str, n: int, **more: object) -> None:
    tracker.track_dataset(name, Uri(f"s3://b/{n}", f"{n:064x}"), **more)  # type: ignore[arg-type]


def location(home: Path) -> dg.Definitions:
    return build_defs(Settings(str(home), Environment.DEV, None, None))


def test_the_graph_of_a_location_leads_from_datasets_over_versions_and_deployments_to_costs(home, log):
    models, tracker = ModelRegistry(log, actor=ACTOR), LineageTracker(log, actor=ACTOR)
    data(tracker, "raw", 1)
    data(tracker, "credit/x", 2, derived_from=["raw@v1"])
    models.register_model("fraud", owners=["team:risk"])
    facts = VersionFacts(metrics={"auc": 0.9}, trained_on=["credit/x@v1"], framework="scikit-learn")
    for _ in range(5):
        models.create_model_version("fraud", HostedModel("p", "s"), facts)
    models.promote_to_production("fraud@v1")
    models.set_alias("fraud@v2", "champion")
    tracker.track_deployment("api", "fraud@v1", environment="eu/west")
    graph = loaded(location(home)).asset_graph

    def parents(*key: str) -> set[str]:
        return {k.to_user_string() for k in graph.get(dg.AssetKey(key)).parent_keys}

    assert parents("datasets", "default", "credit_x2F_x") == {"datasets/default/raw"}
    # In production, an alias, and the last three.
    live = {f"models/default/fraud/v{n}" for n in range(1, 6)}
    shown = {k.to_user_string() for k in graph.get(dg.AssetKey(["models", "default", "fraud"])).child_keys}
    assert shown == live
    assert parents("models", "default", "fraud", "v1") == {
        "datasets/default/credit_x2F_x",
        "models/default/fraud",
    }
    assert parents("deployments", "default", "eu_x2F_west", "api") == {"models/default/fraud/v1"}
    assert parents("sources", "landing") == {"deployments/default/eu_x2F_west/api"}
    assert {
        dg.AssetKey(["datasets", "default", "raw"]),
        dg.AssetKey(["models", "default", "fraud", "v1"]),
    } <= graph.get_ancestor_asset_keys(dg.AssetKey(["costs", "model_costs"]))
    version = graph.get(dg.AssetKey(["models", "default", "fraud", "v1"]))
    assert version.owners == ["team:risk"]
    assert version.kinds == {"scikitlearn", "production"}
    assert version.metadata["metric auc"].value == 0.9
    assert dg.AssetCheckKey(version.key, STALENESS) in graph.asset_check_keys


def test_hostile_rows_of_two_tenants_load(home, log):
    for tenant in ("default", "acme"):
        models, tracker = (
            ModelRegistry(log, actor=ACTOR, tenant=tenant),
            LineageTracker(log, actor=ACTOR, tenant=tenant),
        )
        for n, name in enumerate(
            ("fraud", "a/b", "..", "%2F", "ü" * 300, "x@y", "__ASSET_JOB", "\U0001f600")
        ):
            data(tracker, name, n, owners=["p1", "team:x"], tags={"x" * 200: "y" * 2000, "dagster/kind/z": 1})
            models.register_model(name, owners=["nobody"], tags={"k": "v" * 3000})
            models.create_model_version(
                name,
                HostedModel("p", "s"),
                VersionFacts(trained_on=[f"{name}@v1"], parameters={"a": [[]] * 50}),
            )
            tracker.track_deployment(name, f"{name}@v1", environment=name)
        models.things.register("prompt", "no asset", metadata={"x": 1})
    shown = show(read_catalogue(log))
    assert shown.dropped == ()
    assert len(shown.specs) == 2 * 8 * 4
    loaded(location(home))


def test_datasets_made_from_each_other_do_not_close_a_circle(home, log):
    tracker = LineageTracker(log, actor=ACTOR)
    data(tracker, "a", 1)
    data(tracker, "b", 2, derived_from=["a@v1"])
    data(tracker, "a", 3, derived_from=["b@v1", "a@v1"])
    graph = loaded(location(home)).asset_graph
    edges = {
        (k.path[-1], p.path[-1])
        for k in graph.get_all_asset_keys()
        for p in graph.get(k).parent_keys
        if k.path[0] == "datasets"
    }
    assert edges in ({("a", "b")}, {("b", "a")})


def test_what_is_in_use_comes_first_where_there_is_no_room_and_the_rest_is_counted(log):
    models, tracker = ModelRegistry(log, actor=ACTOR), LineageTracker(log, actor=ACTOR)
    data(tracker, "used", 1)
    for name in ("old", *(f"new{n}" for n in range(20))):
        models.register_model(name)
    models.create_model_version("old", HostedModel("p", "s"), VersionFacts(trained_on=["used@v1"]))
    tracker.track_deployment("api", "old@v1", environment="prod")
    for n in range(9):
        data(tracker, f"other{n}", 10 + n)
    found = read_catalogue(log, most=6)
    assert [e.name for e in found.entries[:4]] == ["api", "old", "old", "used"]
    assert found.left_out == {"dataset": 9, "model": 18}
    assert "raise `most`" in show(found).sentence


# -- keeping ---------------------------------------------------------------------------------------


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def starting() -> AbstractContextManager[DefinitionsLoadContext]:
    """A location that starts; within a run, the component goes by what its location was loaded with."""
    return DefinitionsLoadContext.scoped(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))


def test_a_run_sees_the_graph_that_its_location_was_loaded_with(home, log, instance):
    models = ModelRegistry(log, actor=ACTOR)
    models.register_model("first")
    component = configured(str(home))
    with starting():
        assert [e.name for e in component.current().entries] == ["first"]
        pinned = DefinitionsLoadContext.get().accessed_defs_state_info
    models.register_model("second")
    load = DefinitionsLoadContext(
        DefinitionsLoadType.RECONSTRUCTION, RepositoryLoadData(defs_state_info=pinned)
    )
    with DefinitionsLoadContext.scoped(load):
        assert [e.name for e in component.current().entries] == ["first"]
        # One whose state is gone, for it is old, reads anew.
        for state in (tmp := Path(instance.root_directory)).rglob("RegistryCatalog-*/*"):
            state.unlink()
        assert tmp.exists()
        assert {e.name for e in component.current().entries} == {"first", "second"}


def test_states_are_kept_once_and_few_of_them(home, log, instance, monkeypatch):
    monkeypatch.setattr(catalog, "KEPT_STATES", 3)
    models, component = ModelRegistry(log, actor=ACTOR), configured(str(home))
    storage = instance.defs_state_storage
    assert storage is not None
    for n in range(5):
        models.register_model(f"m{n}")
        assert component.keep(component.read(log), storage)
        assert not component.keep(component.read(log), storage)
    assert len(list(Path(instance.root_directory).rglob("RegistryCatalog-*/*"))) == 3


def test_a_registry_that_cannot_be_read_shows_what_it_held_before(home, log, instance, caplog):
    ModelRegistry(log, actor=ACTOR).register_model("fraud")
    component = configured(str(home))
    with starting():
        assert len(component.current().entries) == 1
    ModelRegistry(log, actor=ACTOR).register_model("later")
    for file in (home / "tables" / "governance_events" / "_delta_log").iterdir():
        file.write_text("damaged")
    with starting():
        assert [e.name for e in component.current().entries] == ["fraud"]
    assert "what the registry held before" in caplog.text


def test_where_nothing_was_registered_nothing_is_made(home):
    assert configured(str(home)).current() == Catalogue()
    assert not home.exists()
