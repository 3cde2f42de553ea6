"""The catalogue of hosted models: real entries, imported once, followed afterwards, and in nobody's way."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import dagster as dg
import pytest
from click.testing import CliRunner
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.costs.list_prices import list_prices
from ml_registry_pipelines.exchange.hosted_facts import HostedEntry, family_of, hosted_entries, maker_of
from ml_registry_pipelines.exchange.hosted_import import BY_PROVIDER, NOT_LISTED, HostedImport
from ml_registry_pipelines.jobs.exchange import exchange_jobs
from ml_registry_pipelines.lineage.catalogue import read_catalogue
from ml_registry_pipelines.lineage.mirroring import reports
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_name
from ml_registry_pipelines.registry.versions import VersionFacts
from resources import RegistryResource
from tests.exchange.conftest import ACTOR, Here


def entry(model: str = "gpt-x", provider: str = "openai", **changes: object) -> HostedEntry:
    made = HostedEntry(provider, model, f"{model} of {provider}.", {"provider": provider})
    return replace(made, **changes)  # type: ignore[arg-type]


def take(here: Here, *entries: HostedEntry, providers: tuple[str, ...] = ()) -> str:
    return HostedImport(here.log, actor=ACTOR, tenant=here.tenant, entries=entries).run(providers).sentence


@pytest.fixture(scope="module")
def whole(log: Log) -> Here:
    """A tenant with the whole catalogue."""
    here = Here(log, "whole")
    assert HostedImport(log, actor=ACTOR, tenant="whole").run().added > 1_400
    return here


# -- what is known of them ---------------------------------------------------------------------


def test_every_model_of_the_catalogue_has_a_name_of_its_own_and_typed_facts():
    entries = hosted_entries()
    assert len(entries) > 1_400
    assert len({checked_name(e.name) for e in entries}) == len(entries)
    for e in entries:
        assert e.tags["provider"] == e.provider
        assert e.name == f"{e.provider}/{e.model}"
        assert type(e.tags.get("context_window", 1)) is int
        assert e.context_window is None or f"{e.context_window:,} tokens" in e.description


def test_stated_prices_are_those_that_requests_are_charged():
    tagged = {(e.provider, e.model): e.tags for e in hosted_entries(on=date(2026, 11, 1))}
    compared = 0
    for price in list_prices():
        at = "2026-11-01"
        holds = (price.valid_from is None or f"{price.valid_from:%F}" <= at) and (
            price.valid_to is None or at < f"{price.valid_to:%F}"
        )
        if price.service_tier is None and price.day_from is None and holds:
            for component in price.components:
                if component.name == "in_uncached" and component.context_over == 0:
                    stated = tagged[price.provider, price.model].get("input_usd_per_mtok")
                    assert stated == float(component.unit_price * 1_000_000), price
                    compared += 1
    assert compared > 1_400


def test_prices_are_stated_with_their_dates_tiers_and_steps():
    steps = TieredPrices(base=Decimal("1.50"), tiers=[Tier(start=200_000, price=Decimal(3))])
    dated = [
        ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(4))),
        ConditionalPrice(
            constraint=StartDateConstraint(start_date=date(2026, 5, 1)),
            prices=ModelPrice(input_mtok=steps, output_mtok=Decimal("4.000")),
        ),
    ]
    model = ModelInfo("acme-2", ClauseEquals(equals="acme-2"), context_window=1_000, prices=dated)
    provider = Provider("p", "P & Co", "", models=[model])
    (before,) = hosted_entries(on=date(2026, 4, 30), among=[provider])
    (after,) = hosted_entries(on=date(2026, 5, 1), among=[provider])
    assert before.tags["input_usd_per_mtok"] == 2
    assert "priced_since" not in before.tags
    assert after.tags["input_usd_per_mtok"] == 1.5
    assert after.tags["priced_since"] == date(2026, 5, 1)
    assert "input 1.5 (3 above 200,000 tokens), output 4." in after.description
    assert (
        before.prices
        == after.prices
        == (
            {"until": "2026-05-01", "input_mtok": "2", "output_mtok": "4"},
            {"from": "2026-05-01", "input_mtok": {"0": "1.5", "200000": "3"}, "output_mtok": "4"},
        )
    )


@pytest.mark.parametrize(
    ("model", "family", "maker"),
    [
        ("claude-3-5-haiku-latest", "claude", ""),
        ("regional.anthropic.claude-3-5-haiku-20241022-v1:0", "claude", "anthropic"),
        ("openai/gpt-5.6-terra-pro:batch", "gpt", "openai"),
        ("~openai/gpt-sol-latest", "gpt", "openai"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama", "meta-llama"),
        ("@cf/meta/llama-3.1-8b-instruct", "llama", "meta"),
        ("glm-5p3-us", "glm", ""),
        ("o3-mini", "o", ""),
        ("sao10k/l31-70b-euryale", "", "sao10k"),
    ],
)
def test_family_and_maker_are_read_from_the_name(model, family, maker):
    assert (family_of(model), maker_of(model)) == (family, maker)


def test_an_unknown_provider_is_answered_with_the_nearest():
    with pytest.raises(InvalidInput, match="no provider 'antropic'; did you mean anthropic"):
        hosted_entries(["antropic"])


# -- importing ---------------------------------------------------------------------------------


def test_the_whole_catalogue_is_one_commit_and_a_second_import_does_nothing(whole):
    assert whole.events() == 2
    again = HostedImport(whole.log, actor=ACTOR, tenant=whole.tenant).run()
    assert "nothing has changed" in again.sentence
    assert whole.events() == 2
    assert all(verdict.damage is None for verdict in verify(whole.log.lake, tenant=whole.tenant))
    haiku = whole.registry.get_version("aws/regional.anthropic.claude-3-5-haiku-20241022-v1:0@v1")
    assert haiku.content["form"] == "hosted"
    manifest = whole.registry.artifacts.manifest(haiku.content_digest)
    assert (manifest["provider"], manifest["snapshot"]) == (
        "aws",
        "regional.anthropic.claude-3-5-haiku-20241022-v1:0",
    )
    # An at-sign in a model's name is none of a version's.
    assert whole.registry.get_version("cloudflare/@cf/baai/bge-m3@latest").number == 1
    found = whole.registry.search_models(tags={"family": "claude", "provider": "anthropic"})
    assert found
    assert {m.tags["family"] for m in found} == {"claude"}


def test_another_price_or_context_window_is_another_state_of_the_same_model(here):
    take(here, entry(context_window=1_000, tags={"provider": "openai", "context_window": 1_000}))
    before = here.registry.get_model("openai/gpt-x")
    said = take(
        here,
        entry(
            context_window=2_000,
            description="gpt-x has grown.",
            tags={"provider": "openai", "context_window": 2_000},
            prices=({"input_mtok": "3"},),
        ),
    )
    after = here.registry.get_model("openai/gpt-x")
    assert said.endswith(": 1 changed")
    assert (before.id, before.tags["context_window"]) == (after.id, 1_000)
    assert after.tags["context_window"] == 2_000
    assert after.description == "gpt-x has grown."
    assert after.metadata["hosted"]["list_prices"] == [{"input_mtok": "3"}]
    assert len(here.registry.list_versions("openai/gpt-x")) == 1
    assert here.registry.get_model("openai/gpt-x", as_of=before.recorded_at).tags["context_window"] == 1_000


def test_what_people_have_said_of_a_model_stays(here):
    take(here, entry(tags={"provider": "openai", "family": "gpt"}))
    here.registry.tag_model("openai/gpt-x", {"reviewed": True})
    here.registry.describe_model("openai/gpt-x", "Our own words.")
    here.registry.set_model_owners("openai/gpt-x", ["team:a"])
    here.registry.rename_model("openai/gpt-x", "the one we use")
    assert take(here, entry(tags={"provider": "openai"}, description="Other words.")).endswith("1 changed")
    kept = here.registry.get_model("the one we use")
    assert dict(kept.tags) == {"provider": "openai", "reviewed": True}
    assert kept.description == "Our own words."
    assert kept.owners == ("team:a",)
    assert len(here.registry.list_models()) == 1


def test_what_the_provider_deprecates_or_no_longer_lists_is_deprecated_and_comes_back(here):
    take(here, entry(), entry("old", deprecated=True), entry("b", provider="groq"))
    assert here.registry.get_model("openai/old").status == "deprecated"
    assert take(here, entry("old"), providers=("openai",)).endswith("1 deprecated, 1 reinstated")
    status = {m.name: m.status for m in here.registry.list_models()}
    assert status == {"openai/gpt-x": "deprecated", "openai/old": "active", "groq/b": "active"}
    assert "nothing has changed" in take(here, entry("old"), providers=("openai",))
    assert take(here, entry(), entry("old", deprecated=True), entry("b", provider="groq")).endswith(
        "1 deprecated, 1 reinstated"
    )
    assert {BY_PROVIDER, NOT_LISTED} == {
        s.data["deprecation"]["reason"]
        for name in ("openai/gpt-x", "openai/old")
        for s in here.registry.things.history_of("things", here.registry.get_model(name).id)
        if s.data.get("deprecation")
    }


def test_a_deprecation_deletion_or_name_of_somebody_else_is_left(here):
    here.registry.register_model("openai/taken")
    take(here, entry(), entry("gone"))
    here.registry.deprecate_model("openai/gpt-x", reason="not allowed here")
    here.registry.delete_model("openai/gone")
    done = HostedImport(
        here.log, actor=ACTOR, tenant=here.tenant, entries=[entry(), entry("gone"), entry("taken")]
    ).run()
    assert "nothing has changed" in done.sentence
    assert [s.split(":")[0] for s in done.left] == ["openai/gone", "openai/taken"]
    assert here.registry.get_model("openai/gpt-x").status == "deprecated"
    assert [m.name for m in here.registry.list_models()] == ["openai/gpt-x", "openai/taken"]


def test_metadata_that_somebody_else_wrote_is_no_entry(here):
    here.registry.register_model("mine", metadata={"hosted": {"catalog": "genai-prices", "provider": 3}})
    assert take(here, entry()).endswith("1 added")
    assert here.registry.get_model("mine").status == "active"


# -- the graph -----------------------------------------------------------------------------------


def test_only_hosted_models_that_are_used_become_assets(here):
    listed = [entry(name) for name in ("deployed", "aliased", "staged", "built-on", "prompted", "unused")]
    take(here, *listed)
    registry = here.registry
    tracker = LineageTracker(here.log, actor=ACTOR, tenant=here.tenant)
    assert shown(here) == set()
    tracker.track_deployment("api", "openai/deployed@v1", environment="staging")
    registry.set_alias("openai/aliased@v1", "ours")
    registry.set_stage("openai/staged@v1", "staging")
    registry.register_model("tuned")
    registry.create_model_version(
        "tuned", HostedModel("openai", "ft"), VersionFacts(base_model="openai/built-on@v1")
    )
    registry.create_model_version("openai/prompted", HostedModel("openai", "prompted", {"temperature": 0}))
    assert shown(here) == {
        "tuned",
        *(f"openai/{n}" for n in ("deployed", "aliased", "staged", "built-on", "prompted")),
    }


def shown(here: Here) -> set[str]:
    entries = read_catalogue(here.log).entries
    return {e.name for e in entries if e.tenant == here.tenant and e.kind == "model"}


def test_unused_models_are_counted_and_cost_no_history(whole):
    catalogue = read_catalogue(whole.log)
    assert catalogue.unused > 1_400
    assert not catalogue.left_out
    assert not [e for e in catalogue.entries if e.tenant == whole.tenant]
    (first, *_) = whole.log.events(whole.tenant, [2])
    assert set(reports(whole.log, first, {})) == {None}


# -- doors ---------------------------------------------------------------------------------------


def test_the_shell_imports_one_provider_and_says_so(home):
    first = CliRunner().invoke(cli, ["import", "hosted", "--provider", "cerebras", "--tenant", "acme"])
    assert first.exit_code == 0, first.output
    assert "added" in first.output
    again = CliRunner().invoke(cli, ["import", "hosted", "--provider", "cerebras", "--tenant", "acme"])
    assert "nothing has changed" in again.output
    wrong = CliRunner().invoke(cli, ["import", "hosted", "--provider", "cerebra"])
    assert wrong.exit_code == 1
    assert "did you mean cerebras" in str(wrong.exception)


def test_the_launchpad_imports_once_per_run(home):
    (job,) = exchange_jobs()
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(
            run_config={"tenant": "acme", "providers": ["cerebras"]},
            instance=instance,
            resources={"registry": RegistryResource(root=str(home))},
        )
    (told,) = [e for e in done.all_events if e.is_successful_output]
    added = told.step_output_data.metadata["added"]
    assert isinstance(added, dg.IntMetadataValue)
    assert added == told.step_output_data.metadata["in the catalogue"]
    assert added.value
