"""Experiments as commands: declared beforehand, fixed from the start on, and decisions that are kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.costs.experiments.deciding import Outcome, Standing
from ml_registry_pipelines.costs.experiments.declaring import Mode, parse
from ml_registry_pipelines.costs.experiments.looking import code_version, decisions, due, look
from ml_registry_pipelines.costs.experiments.paired import PairedArm, PairedTest, decide_paired
from ml_registry_pipelines.costs.integration import VibeCodingIntegration
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.errors import IllegalTransition, InvalidInput, NotFound, RegistryError
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.versions import Stage
from tests.costs.experiments.test_deciding import DATA, LLMPERF
from tests.costs.experiments.trial import START, TENANT, Trial, day, declared, populate, trial

pytestmark = pytest.mark.xdist_group("experiments")  # they go on from what the ones before decided


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """A model with two versions, and 600 users of what each of them runs."""
    with trial(tmp_path_factory.mktemp("made")) as made:
        registry = ModelRegistry(made.log, actor=made.experiments.actor, tenant=TENANT)
        registry.register_model("bot")
        for name in ("big", "small"):
            registry.create_model_version("bot", HostedModel("acme", name))
        populate(made, solved={"big": 0.8, "small": 0.8})
        made.take()
        yield made


VERSIONED = [
    {"name": "big", "models": ["big"], "version": "bot@v1"},
    {"name": "small", "models": ["small"], "version": "bot@v2"},
]


def test_a_winner_is_proposed_as_an_event_and_promoted_by_nobody(made):
    found = made.run(declared(arms=VERSIONED))
    assert (found.outcome, found.winner, found.proposes) == (Outcome.WINNER, "small", "bot@v2")
    shown = made.experiments.show("size")
    assert shown.proposal is not None
    assert (shown.proposal["version"], shown.proposal["decision_id"]) == ("bot@v2", found.decision_id)
    registry = ModelRegistry(made.log, actor=made.experiments.actor, tenant=TENANT)
    assert [v.stage for v in registry.list_versions("bot")] == [Stage.REGISTERED] * 2
    head, _ = made.log.head(TENANT)
    assert [e.action for e in made.log.events(TENANT, [head])] == ["propose_promotion"]
    # Looked at again, it says the same, and does not propose a second time.
    again = VibeCodingIntegration(made.lake).compare_models(made.experiments, "size", now=day(11))
    assert (again.outcome, made.log.head(TENANT)[0]) == (Outcome.WINNER, head)
    assert len(decisions(made.lake, tenant=TENANT, experiment="size")) == 2


def test_a_decision_keeps_what_it_was_made_on(made):
    made.experiments.declare(declared(name="kept", margin=0.05))
    made.experiments.start("kept", at=START)
    found = look(made.experiments, "kept", now=day(10))
    assert found.outcome is Outcome.INCONCLUSIVE  # nobody was assigned to it
    assert found.versions["events"] == made.lake.version("inference_events")
    assert found.versions["outcomes"] == made.lake.version("outcomes")
    assert found.versions["prices"] == 1
    assert found.parameters["margin"] == 0.05
    assert found.code_version == code_version()
    assert {gate["gate"] for gate in found.gates} >= {"sample_ratio", "price_coverage", "label_rate"}
    assert [i["about"] for i in found.intervals] == ["quality", "cost"]
    (won,) = [d for d in decisions(made.lake, tenant=TENANT, experiment="size") if d.looked_at == day(10)]
    assert [arm["cost"] for arm in won.arms] == ["2395.000000000000", "239.500000000000"]
    with pytest.raises(NotFound, match="no decision 'zzz'"):
        decisions(made.lake, tenant=TENANT, decision_id="zzz")


def test_a_declaration_may_change_until_the_start_and_never_after(made):
    commands = made.experiments
    commands.declare(declared(name="fixed"))
    assert commands.declare(declared(name="fixed", margin=0.02)).declaration.margin == 0.02
    started = commands.start("fixed")
    for new_version in (False, True):
        with pytest.raises(
            IllegalTransition, match=r"'fixed' version 1 runs since .* its declaration is fixed"
        ):
            commands.declare(declared(name="fixed", margin=0.2), new_version=new_version)
    with pytest.raises(IllegalTransition, match="it starts once"):
        commands.start("fixed")
    stopped = commands.stop("fixed", reason="enough")
    assert (stopped.status, stopped.stop_reason) == ("stopped", "enough")
    with pytest.raises(IllegalTransition, match="is stopped, not running"):
        commands.stop("fixed")
    with pytest.raises(IllegalTransition, match="declare a new version of it"):
        commands.declare(declared(name="fixed", margin=0.2))
    second = commands.declare(declared(name="fixed", margin=0.2), new_version=True)
    assert (second.id, second.version, second.status) == (started.id, 2, "declared")
    first = commands.show("fixed", version=1)
    assert (first.status, first.declaration.margin) == ("stopped", 0.02)
    assert "fixed" in [each.name for each in commands.list()]


def test_a_command_given_again_under_its_key_is_done_once(made):
    one = made.experiments.declare(declared(name="once"), idempotency_key="k")
    assert made.experiments.declare(declared(name="once"), idempotency_key="k") == one


def test_what_was_declared_after_its_data_proposes_nothing(made):
    made.experiments.declare(declared(name="late", arms=VERSIONED))
    late = made.experiments.start("late", at=datetime(2026, 1, 1, tzinfo=UTC))
    assert late.retrospective
    found = look(made.experiments, "late", now=day(10))
    assert found.retrospective


def test_nothing_is_looked_at_before_it_starts(made):
    made.experiments.declare(declared(name="waits"))
    with pytest.raises(IllegalTransition, match="has not been started"):
        look(made.experiments, "waits")
    made.experiments.start("waits", at=START)
    with pytest.raises(IllegalTransition, match="there is nothing to see yet"):
        look(made.experiments, "waits", now=START)
    with pytest.raises(NotFound, match="mlreg experiments list"):
        look(made.experiments, "nothing")


def test_an_experiment_is_due_an_hour_after_its_last_look_and_as_long_as_labels_may_come(tmp_path):
    with trial(tmp_path) as made:
        assert due(made.lake, made.log, now=day(1)) == []
        made.experiments.declare(declared(label_days=2.0))
        assert due(made.lake, made.log, now=day(1)) == []
        made.experiments.start("size", at=START)
        assert [e.name for e in due(made.lake, made.log, now=day(1))] == ["size"]
        look(made.experiments, "size", now=day(1))
        assert due(made.lake, made.log, now=day(1) + timedelta(minutes=59)) == []
        assert due(made.lake, made.log, now=day(1) + timedelta(hours=1))
        stopped = made.experiments.stop("size").stopped_at
        assert stopped is not None
        assert due(made.lake, made.log, now=stopped + timedelta(days=2))
        assert due(made.lake, made.log, now=stopped + timedelta(days=3)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": None}, "an experiment needs `name`"),
        ({"margn": 1}, "no 'margn'; did you mean 'margin'?"),
        ({"arms": [{"name": "a", "models": ["m"]}]}, "2 to 10 arms, the control first; 1 are given"),
        (
            {"arms": [{"name": "a", "models": ["m"]}, {"name": "a", "models": ["n"]}]},
            "two arms have one name",
        ),
        ({"arms": [{"name": "a", "models": ["m"]}, {"name": "b", "models": ["m"]}]}, "all arms run the same"),
        ({"arms": [{"name": "a"}, {"name": "b", "models": ["m"]}]}, "says neither `models` nor `version`"),
        ({"mode": "best"}, "`mode` is 'best'; it is one of cheaper, better, value"),
        ({"margin": None}, "of mode cheaper needs `margin`"),
        ({"margin": 0}, "margin is '0'; it is a number above 0"),
        ({"margin": float("nan")}, "margin is 'nan'"),
        ({"max_extra_cost": 1}, "of mode cheaper has no `max_extra_cost`"),
        ({"alpha": 0.9}, "alpha is '0.9'; it is a number above 0 and below 0.5"),
        ({"min_sample": 5}, "min_sample is '5'; it is a whole number from 100 on"),
        ({"planned_sample": None}, "planned by one of `planned_sample`"),
        ({"unit": "request"}, "`unit` is 'request'; it is one of user, conversation, trace"),
        ({"cost": {"currency": "dollars"}}, "no ISO 4217 code"),
        ({"guardrails": [{"metric": "slow_share", "margin": 1}]}, "`threshold_ms` belongs to"),
        (
            {"guardrails": [{"metric": "error_rate", "margin": 0}]},
            "the margin of guardrail 'error_rate' is '0'",
        ),
        ({"quality": {"metric": "solved", "per": "request"}}, "quality is measured per unit or per label"),
        ({"arms": "a, b"}, "`arms` is a list"),
        ({"scope": {"tenant": "x"}}, "`scope` has no 'tenant'"),
    ],
)
def test_a_declaration_that_cannot_be_used_says_so_in_one_sentence(change, says):
    plain = declared().recorded()
    held = {name: value for name, value in {**plain, **change}.items() if value is not None}
    with pytest.raises(InvalidInput) as told:
        parse(held)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_declaration_comes_back_as_it_was_recorded():
    one = declared(
        guardrails=[{"metric": "slow_share", "margin": 0.01, "threshold_ms": 900}], scope={"endpoint": "chat"},
        cost={"per": "success", "currency": "EUR"}, planned_sample=None, deviation=0.4, window_days=3,
    )  # fmt: skip
    assert parse(json.loads(json.dumps(one.recorded()))) == one
    assert declared(planned_sample=None, deviation=0.4, margin=0.02).sample == 12_024


def test_nobody_changes_an_experiment_but_by_its_own_commands(made):
    registry = ModelRegistry(made.log, actor=made.experiments.actor, tenant=TENANT)
    for act in (
        lambda: registry.things.register("experiment", "x"),
        lambda: registry.things.set_metadata("experiment", "size", {}),
        lambda: registry.things.delete("experiment", "size"),
    ):
        with pytest.raises(RegistryError, match="'experiment' is no kind"):
            act()


# -- tables of evaluations ------------------------------------------------------------------------


def gsm8k() -> pa.Table:
    with (DATA / "routellm_gsm8k_correct.csv").open() as file:
        rows = list(csv.DictReader(file))
    return pa.table(
        {
            "gpt4": [int(row["gpt4_1106_correct"]) for row in rows],
            "mixtral": [int(row["mixtral_8x7b_correct"]) for row in rows],
            "gpt4_usd": [0.01] * len(rows),
            "mixtral_usd": [0.0000001] * len(rows),
        }
    )


def paired(**changes: Any) -> PairedTest:
    arms = (PairedArm("gpt4", "gpt4", "gpt4_usd"), PairedArm("mixtral", "mixtral", "mixtral_usd"))
    return PairedTest(**{"arms": arms, "mode": Mode.CHEAPER, "margin": 0.05, **changes})


@pytest.mark.parametrize("margin", [0.001, 0.01, 0.02, 0.03, 0.04, 0.05])
def test_prompt_by_prompt_mixtral_is_not_as_good_as_gpt4_at_any_margin_up_to_five_points(margin):
    found = decide_paired(gsm8k(), paired(margin=margin))
    assert (found.outcome, found.reasons) == (Outcome.KEEP_CONTROL, ("mixtral:quality",))
    quality = found.claims[0]
    assert quality.estimate == pytest.approx(-288 / 1319)
    # 68 and 356 questions that only one of them solved: the variance of the mean difference by hand.
    table = gsm8k().to_pylist()
    only = [sum(r[a] > r[b] for r in table) for a, b in (("mixtral", "gpt4"), ("gpt4", "mixtral"))]
    assert only[1] - only[0] == 288
    variance = (sum(only) - 288**2 / 1319) / 1318 / 1319
    assert quality.variance == pytest.approx(variance)


def llmperf() -> pa.Table:
    """Calls of two providers to the same models, prompt by prompt."""
    with LLMPERF.open() as file:
        calls = {(r["provider"], r["model"], r["request_no"]): r for r in csv.DictReader(file)}
    prompts = sorted((m, n) for p, m, n in calls if p == "lepton" and ("anyscale", m, n) in calls)
    columns: dict[str, list[Any]] = {"model": [model for model, _ in prompts]}
    for provider, price in (("anyscale", 1e-6), ("lepton", 1e-9)):
        rows = [calls[provider, *prompt] for prompt in prompts]
        columns[f"{provider}_failed"] = [bool(row["error_code"]) for row in rows]
        columns[f"{provider}_score"] = [1.0] * len(rows)
        columns[f"{provider}_usd"] = [int(row["output_tokens"] or 0) * price for row in rows]
    return pa.table(columns)


def test_the_provider_that_refused_130_of_150_calls_fails_the_guardrail():
    arms = tuple(PairedArm(p, f"{p}_score", f"{p}_usd", f"{p}_failed") for p in ("anyscale", "lepton"))
    found = decide_paired(llmperf(), paired(arms=arms, error_margin=0.05))
    assert found.outcome is Outcome.KEEP_CONTROL
    assert found.reasons == ("lepton:guardrail:error_rate",)
    (error,) = [c for c in found.claims if c.about == "guardrail:error_rate"]
    assert (error.standing, error.units) == (Standing.DISPROVEN, 450)
    assert error.estimate == pytest.approx(390 / 450)


def test_prompts_in_clusters_have_wider_intervals():
    table = gsm8k().append_column("text", pa.array([n // 50 for n in range(1319)]))
    alone, clustered = (decide_paired(table, paired(cluster=c)).claims[0] for c in (None, "text"))
    assert alone.variance != clustered.variance


def test_an_arm_without_scores_costs_or_prompts_is_not_decided_on():
    table = gsm8k()
    half = pa.array([None if n % 2 else 1.0 for n in range(1319)])
    for column, reason in (("mixtral", "label_rate"), ("mixtral_usd", "price_coverage")):
        spoiled = table.set_column(table.schema.get_field_index(column), column, half)
        assert (decide_paired(spoiled, paired()).outcome, decide_paired(spoiled, paired()).reasons) == (
            Outcome.INVALID,
            (reason,),
        )
    few = decide_paired(table.slice(0, 30), paired())
    assert few.outcome is Outcome.INCONCLUSIVE
    assert few.units_needed is not None
    with pytest.raises(InvalidInput, match="no column 'gpt5'; it has gpt4"):
        decide_paired(
            table, paired(arms=(PairedArm("a", "gpt5", "gpt4_usd"), PairedArm("b", "gpt4", "gpt4_usd")))
        )
    with pytest.raises(InvalidInput, match="mode better needs `max_extra_cost`"):
        decide_paired(table, paired(mode=Mode.BETTER))


def test_better_and_worth_it_are_decided_on_tables_too():
    turned = (PairedArm("mixtral", "mixtral", "mixtral_usd"), PairedArm("gpt4", "gpt4", "gpt4_usd"))
    better = decide_paired(gsm8k(), paired(arms=turned, mode=Mode.BETTER, max_extra_cost=0.02))
    assert (better.outcome, better.winner) == (Outcome.WINNER, "gpt4")
    for worth, outcome in ((1.0, Outcome.WINNER), (0.01, Outcome.KEEP_CONTROL)):
        assert (
            decide_paired(gsm8k(), paired(arms=turned, mode=Mode.VALUE, value_per_point=worth)).outcome
            is outcome
        )


# -- from a shell ---------------------------------------------------------------------------------

YAML = """
name: tone
arms:
  - {name: formal, models: [gpt-4o]}
  - {name: casual, models: [gpt-4o-mini]}
quality: solved
mode: cheaper
margin: 0.02
deviation: 0.4
"""


def mlreg(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    return done.output + (str(done.exception) if done.exception is not None else "")


def test_an_experiment_from_a_shell(home, tmp_path):
    (tmp_path / "tone.yaml").write_text(YAML)
    assert "12,024 labelled units per arm" in mlreg("experiments", "declare", tmp_path / "tone.yaml")
    assert "tone version 1 runs from" in mlreg("experiments", "start", "tone")
    assert "its declaration is fixed" in mlreg("experiments", "declare", tmp_path / "tone.yaml")
    decided = mlreg("experiments", "decide", "tone")
    assert "INCONCLUSIVE" in decided
    assert "12,024 more per arm" in decided
    assert "tone  version 1  running  cheaper  INCONCLUSIVE" in mlreg("experiments", "list")
    assert "formal (gpt-4o), casual (gpt-4o-mini)" in mlreg("experiments", "show", "tone")
    assert "stopped on" in mlreg("experiments", "stop", "tone", "--reason", "over")
    assert "there is no experiment 'tune'" in mlreg("experiments", "show", "tune")
    assert "12,024 labelled units per arm" in mlreg("experiments", "plan", "--rate", 0.8, "--effect", 0.02)
    (tmp_path / "broken.yaml").write_text("name: [")
    assert "is no YAML at line 1" in mlreg("experiments", "declare", tmp_path / "broken.yaml")


def test_a_table_of_evaluations_from_a_shell(home, tmp_path):
    import pyarrow.csv as pacsv

    pacsv.write_csv(gsm8k(), tmp_path / "gsm8k.csv")
    arms = ("--arm", "gpt4=gpt4,gpt4_usd", "--arm", "mixtral=mixtral,mixtral_usd")
    said = mlreg("experiments", "evaluate", tmp_path / "gsm8k.csv", *arms, "--margin", 0.05)
    assert "KEEP_CONTROL" in said
    assert "mixtral  1,319 units, 1,319 labelled" in said
    assert "an arm is NAME=SCORE,COST" in mlreg(
        "experiments", "evaluate", tmp_path / "gsm8k.csv", "--arm", "x"
    )
    (tmp_path / "no.parquet").write_text("nothing")
    assert "cannot be read as a table" in mlreg("experiments", "evaluate", tmp_path / "no.parquet", *arms)


def test_the_code_that_decides_is_named_by_its_content():
    version, _, digest = code_version().partition("+")
    assert version
    assert len(digest) == 16
