"""G2 and G6 follow what a model learned from to any depth: derived data, base models, and what went on of it."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ml_registry_pipelines.compliance.gdpr.registers import Registers, read_file
from ml_registry_pipelines.compliance.manager import subject_of
from ml_registry_pipelines.compliance.metrics import Context, catalogue
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import Relationships
from ml_registry_pipelines.registry.versions import VersionFacts

ACTOR = Actor("p-dpo", authenticated_by="api_key")
G2, SCORE, G6 = "gdpr_g2_training_columns_listed", "gdpr_g2_minimisation", "gdpr_g6_consent_live_at_training"
_tenants = itertools.count(1)


class House:
    """A tenant in which people's data become features, features a model, and that one the base of another."""

    def __init__(self, log: Log, folder: Path) -> None:
        self.log, self.tenant = log, f"t{next(_tenants)}"
        self.folder = folder / self.tenant
        self.folder.mkdir()
        desk: dict[str, Any] = {"actor": ACTOR, "tenant": self.tenant}
        self.tracker, self.models = LineageTracker(log, **desk), ModelRegistry(log, **desk)
        self.edges, self.registers = Relationships(log, **desk), Registers(log, **desk)

    def data(self, name: str, columns: dict[str, Sequence[object]], *made_from: str) -> str:
        path = self.folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return self.tracker.track_dataset(name, path, derived_from=made_from).id

    def model(self, name: str, **facts: Any) -> str:
        self.models.register_model(name)
        self.models.create_model_version(name, HostedModel("o", name), VersionFacts(**facts))
        return f"{name}@v1"

    def declare(self, text: str) -> None:
        self.registers.put(*read_file(text, file="f"))

    def measure(self, metric: str, version: str) -> dict[str, Measured]:
        subject = subject_of(self.log.view(self.tenant), version)
        context = Context(self.log.lake, self.log, self.tenant, datetime.now(UTC), subject)
        found = catalogue()[metric]
        return {each.about: each for each in found.measure(context, found.parameters())}


PEOPLE: dict[str, Sequence[object]] = {
    "person": ["anna", "bert", "cara"],
    "mail": ["a", "b", "c"],
    "income": [1, 2, 3],
}
PURPOSE = """
purposes:
  - {name: credit, legal_basis: consent, owner: team:credit, retention_days: 30, training: true,
     columns: [people.person, people.income, features.income, features.person]}
columns:
  - {dataset: people, column: person, personal: true, subject: true}
  - {dataset: people, column: mail, personal: true}
  - {dataset: people, column: income, personal: true}
  - {dataset: features, column: income, personal: true}
consents: [{subject: anna, purpose: credit, given_at: 2020-01-01}]
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Log, Path]]:
    folder = tmp_path_factory.mktemp("learned")
    with Lake(str(folder / "lake")) as lake, Log(lake) as opened:
        yield opened, folder


@pytest.fixture
def house(log: tuple[Log, Path]) -> House:
    return House(*log)


def test_columns_are_followed_behind_derived_data_and_base_models(house: House) -> None:
    people = house.data("people", PEOPLE)
    features = house.data("features", {"income": [1, 2, 3]}, people)
    base = house.model("base", trained_on=[features])
    fine = house.model("fine", base_model=base)
    judged = house.model("judged", evaluated_on=[people])
    house.declare(PURPOSE)
    for version in (base, fine):
        (found,) = house.measure(G2, version).values()
        assert (found.value, found.n) == (1.0, 4)
        assert dict(found.detail["amiss"]) == {  # type: ignore[call-overload]
            "people.mail": "no purpose lists it for training; all of people may have gone on into features@v1: the "
            "lineage names no columns"
        }
        (score,) = house.measure(SCORE, version).values()
        assert "which columns of 'people' were used" in score.problem
    (untold,) = house.measure(G2, judged).values()
    assert "does not say what the version was trained on" in untold.problem


def test_columns_that_did_not_go_on_were_not_learned_from(house: House) -> None:
    people = house.data("people", PEOPLE)
    features = house.data("features", {"income": [1, 2, 3], "noise": [0, 0, 0]}, people)
    house.edges.relate(
        "derived_from", ("dataset_version", features), ("dataset_version", people),
        properties={"column_lineage": {"income": ["income"], "noise": ["mail"]}},
    )  # fmt: skip
    version = house.model("m", trained_on={features: ["income"]})
    house.declare(PURPOSE)
    (found,) = house.measure(G2, version).values()
    assert (found.value, found.n) == (0.0, 2)
    (score,) = house.measure(SCORE, version).values()
    assert (score.value, score.n) == (1 / 3, 3)
    both = house.model("both", trained_on={features: ["income", "noise"]})
    (found,) = house.measure(G2, both).values()
    assert set(found.detail["amiss"]) == {"features.noise", "people.mail"}  # type: ignore[call-overload]


def test_consent_is_asked_of_the_people_behind_the_features(house: House) -> None:
    people = house.data("people", PEOPLE)
    features = house.data("features", {"income": [1, 2, 3]}, people)
    fine = house.model("fine", base_model=house.model("base", trained_on=[features]))
    house.declare(PURPOSE)
    found = house.measure(G6, fine)
    assert found["people"].value == 2 / 3
    assert "not one column of it is declared to hold the subject" in found["features"].problem


def test_a_dataset_that_names_its_people_answers_for_what_it_was_made_from(house: House) -> None:
    people = house.data("people", PEOPLE)
    features = house.data("features", {"income": [1], "person": ["anna"]}, people)
    version = house.model("m", trained_on=[features])
    house.declare(PURPOSE)
    house.declare("columns: [{dataset: features, column: person, personal: true, subject: true}]")
    found = house.measure(G6, version)
    assert {about: one.value for about, one in found.items()} == {"features": 0.0}
    # Once another model learns from all of them as well, they are asked for.
    fine = house.model("fine", base_model=house.model("base", trained_on=[people]), trained_on=[features])
    assert house.measure(G6, fine)["people"].value == 2 / 3


def test_consent_has_to_live_when_each_model_learned(house: House) -> None:
    people = house.data("people", {"person": ["anna"], "income": [1]})
    base = house.model("base", trained_on=[people])
    between = datetime.now(UTC).isoformat()
    fine = house.model("fine", base_model=base, trained_on=[people])
    house.declare(PURPOSE.replace("given_at: 2020-01-01", f"given_at: {between}"))
    assert house.measure(G6, fine)["people"].value == 1.0
    assert house.measure(G6, house.model("later", trained_on=[people]))["people"].value == 0.0


def test_data_without_anything_personal_need_no_consent(house: House) -> None:
    version = house.model("m", trained_on=[house.data("weather", {"rain": [1]})])
    house.declare(PURPOSE)
    house.declare("columns: [{dataset: weather, column: rain, personal: false}]")
    assert house.measure(G6, version)["weather"].value == 0.0
