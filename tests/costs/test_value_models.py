"""Value models: declared from files as events, checked at the door, and kept as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from ml_registry_pipelines.costs.value_models import ValueModel, ValueModels, read_value_models
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.things import Things

FILE = """
value_models:
  - name: support
    currency: USD
    value_per_success: "1.20"
    success: resolved
    judge: gpt-4o/rubric-3
    counterfactual_per_request: "0.80"
    platform_per_month: 500
    where: {application: chat}
    valid_from: 2026-01-01
    note: agreed
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    with Lake(str(tmp_path_factory.mktemp("lake"))) as lake, Log(lake) as opened:
        yield opened


def test_a_file_says_what_a_value_model_is():
    (found,) = read_value_models(FILE, file="value.yaml")
    assert found == ValueModel(
        "support", "USD", Decimal("1.20"), "resolved", "gpt-4o/rubric-3", Decimal("0.80"), Decimal(500), None,
        {"application": "chat"}, date(2026, 1, 1), None, "agreed",
    )  # fmt: skip
    assert found.covers(date(2026, 1, 1), date(2027, 1, 1))
    assert not found.covers(date(2025, 12, 31), date(2026, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('value_per_success: "1.20"', "value_per_success: -1"),
            "value_per_success is -1; it has to be an exact",
        ),
        (('"1.20"', "lots"), "value_per_success lots is no number"),
        (('"1.20"', "NaN"), "value_per_success is NaN"),
        (('"1.20"', "1.0000000000001"), "more than 12 decimals"),
        (("currency: USD", "currency: dollars"), "currency 'dollars' is no ISO 4217 code"),
        (("    success: resolved\n", ""), "a judge gives scores of a metric"),
        (("application: chat", "colour: red"), "where has no colour"),
        (("valid_from: 2026-01-01", "valid_from: soon"), "valid_from soon is no day"),
        (("    note: agreed", "    valid_to: 2025-01-01"), "valid_to 2025-01-01 is not after valid_from"),
        (("    note:", "    remark:"), "unknown field 'remark'"),
        (("  - name: support\n    currency", "  - currency"), "name is missing"),
        (("    note: agreed", "    note: agreed\n    note: twice"), "'note' stands twice"),
    ],
)
def test_a_wrong_file_is_named_with_its_place(change: tuple[str, str], message: str):
    with pytest.raises(InvalidInput, match=message) as wrong:
        read_value_models(FILE.replace(*change), file="value.yaml")
    assert str(wrong.value).startswith("value.yaml")


@pytest.mark.parametrize("text", ["", "[]", "value_models: []", "value_models: 3", "other: 1"])
def test_a_file_of_something_else_is_refused(text: str):
    with pytest.raises(InvalidInput, match="has to be a mapping with value_models"):
        read_value_models(text, file="value.yaml")


def test_a_declaration_is_an_event_and_what_is_the_same_is_none(log: Log):
    models = ValueModels(log, actor=Actor("tester"), tenant="acme")
    (model,) = read_value_models(FILE, file="value.yaml")
    first = models.declare(model)
    assert models.declare(model) == first
    later = models.declare(replace(model, value_per_success=Decimal("1.30")))
    assert (later.id, later.model.value_per_success) == (first.id, Decimal("1.30"))
    assert later.sequence > first.sequence
    assert models.get("support") == later
    assert [d.model.name for d in models.list()] == ["support"]
    assert ValueModels(log, actor=Actor("tester"), tenant="globex").list() == []
    again = models.declare(replace(model, name="other"), idempotency_key="k")
    assert models.declare(replace(model, name="other"), idempotency_key="k") == again
    assert models.remove("support") == "support"
    with pytest.raises(InvalidInput, match="no value model 'support' in tenant 'acme': other"):
        models.get("support")


def test_nothing_else_makes_a_value_model(log: Log):
    with pytest.raises(InvalidInput, match="mlreg value-models"):
        Things(log, actor=Actor("tester"), tenant="acme").register("value_model", "by hand")
