"""Budgets and alerts through their doors: a shell, a YAML file, the Launchpad, and the sensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.costs.budget_file import read_budgets
from ml_registry_pipelines.costs.ledger import catch_up_costs
from ml_registry_pipelines.costs.rollups import roll_up_costs
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.jobs.budgets import budget_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.tenants import Tenants
from resources import RegistryResource
from tests.costs.test_budgets import PRICES
from tests.costs.test_ledger_and_rollups import put_prices
from tests.location import open_location
from tests.made_events import event, land
from tests.webhooks.sinks import sink

Mlreg = Callable[..., str]


@pytest.fixture
def mlreg(home: Path, monkeypatch: pytest.MonkeyPatch) -> Mlreg:
    monkeypatch.delenv("MLREG_ALERT_WEBHOOK", raising=False)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, arguments)
        said = f"mlreg: {done.exception}" if isinstance(done.exception, MlregError) else done.output
        assert done.exit_code == code, said
        return said

    return run


def spend(lake: Lake, cost: int, **more: object) -> None:
    """So many dollars, this very hour."""
    put_prices(lake, PRICES)
    given = {"provider": "acme", "model": "m", "in_uncached": cost, "out_text": None, **more}
    land(lake, [event(datetime.now(UTC), **given)])
    catch_up_costs(lake)
    roll_up_costs(lake)


def test_a_budget_from_a_shell_until_its_alert_is_taken_on(mlreg, lake, home):
    said = mlreg("budgets", "set", "all", "--amount", "100", "--alert-at", "0.5", "--tenant", "acme")
    assert said == "all  100.00 USD a month for everything\n"
    assert mlreg("budgets", "list") == "tenant default has no budget; `mlreg budgets set` makes one\n"
    assert "begin at midnight in Europe/Berlin" in mlreg(
        "tenants", "set-time-zone", "Europe/Berlin", "--tenant", "acme"
    )
    assert "Europe/Berlin, since" in mlreg("tenants", "show", "--tenant", "acme")
    spend(lake, 60)
    label = datetime.now(UTC).astimezone(Tenants(Log(lake), actor=Actor("p"), tenant="acme").settings().zone)
    assert mlreg("budgets", "list", "--tenant", "acme") == (
        f"all  100.00 USD a month for everything: 60.00 USD spent in {label:%Y-%m}  60.0%\n"
    )
    shown = mlreg("budgets", "show", "all", "--tenant", "acme")
    for part in (
        "60.00 USD, 60.0%",
        "Europe/Berlin",
        "100.0% of 1 billable",
        "takes 21 whole days",
        "last 72 h",
    ):
        assert part in shown
    assert "alerts opened" in mlreg("alerts", "evaluate")
    key = f"budget_spent/acme/all/{label:%Y-%m}"
    assert key in mlreg("alerts")
    said = mlreg("alerts", "ack", key, "--hours", "2", "--note", "asked them", "--tenant", "acme")
    assert said.startswith(f"{key} is yours until ")
    history = mlreg("alerts", "show", key)
    assert "opened, warning" in history
    assert "shell has it until" in history
    assert "nobody's any more" in mlreg("alerts", "unack", key, "--tenant", "acme")
    assert mlreg("budgets", "remove", "all", "--tenant", "acme") == "all is no budget any more\n"
    mlreg("alerts", "evaluate")
    assert key not in mlreg("alerts", "list")


def test_wrong_command_lines_get_one_sentence(mlreg, lake):
    spend(lake, 1)
    assert "is -1; a budget is zero" in mlreg("budgets", "set", "a", "--amount", "-1", code=1)
    assert "there is no budget 'a'" in mlreg("budgets", "show", "a", code=1)
    assert "is no time zone" in mlreg("tenants", "set-time-zone", "Mars", code=1)
    assert "no open alert 'x'" in mlreg("alerts", "ack", "x", "--hours", "1", code=1)
    assert "--hours or --until" in mlreg("alerts", "ack", "x", code=2)


def test_rules_and_sinks_are_shown_with_what_was_changed(mlreg, lake, home):
    spend(lake, 1)
    (home / "alert-rules.yaml").write_text("error_rate: {rate: 0.02}\n")
    assert "  rate: 0.02  (set)\n" in mlreg("alerts", "rules")
    assert "no sink is configured" in mlreg("alerts", "sinks")
    with sink() as chat:
        (home / "alert-sinks.yaml").write_text(
            f"sinks: [{{name: chat, slack: '{chat.url}', severity: error}}]\n"
        )
        Alerts(lake).open(Alert("lag", "x", Severity.ERROR, "Lag", "Wait."))
        assert "1 wait" in mlreg("alerts", "sinks")
        chat.status = lambda _: 503
        assert "answered with status 503" in mlreg("alerts", "deliver", code=1)
        shown = mlreg("alerts", "sinks", code=1)
        assert "1 times since" in shown
        assert "k=v" not in shown
    (home / "alert-sinks.yaml").write_text("sinks: [{name: chat}]\n")
    assert "alert-sinks.yaml, sink 1: needs exactly one" in mlreg("alerts", "deliver", code=1)


def test_budgets_of_a_file_are_set_together(mlreg, tmp_path):
    file = tmp_path / "budgets.yaml"
    file.write_text(
        "currency: EUR\nbudgets:\n  - {name: all, amount: 20_000}\n"
        "  - {name: search, amount: 0.1, period: day, currency: USD, tag: team=search, alert_at: [0.5, 1]}\n"
    )
    assert mlreg("budgets", "load", str(file)) == (
        "all  20,000.00 EUR a month for everything\nsearch  0.10 USD a day for tag=team=search\n"
    )
    file.write_text("currency: EUR\nbudgets: [{name: more, amount: 1}, {name: all, amount: -1}]\n")
    assert "budget 2: the amount of budget 'all' is -1" in mlreg("budgets", "load", str(file), code=1)
    assert "more" not in mlreg("budgets", "list")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgets: {", "is no YAML"),
        ("[]", "has to hold `budgets`"),
        ("budgets: []", "has 0 budgets"),
        ("budgets: [{name: a, amount: 1}]", "budget 1: currency is missing"),
        ("owner: x\nbudgets: [{name: a}]", "unknown field 'owner'"),
        ("currency: USD\nbudgets: [{name: a, amount: 1, limit: 2}]", "budget 1: unknown field 'limit'"),
        ("currency: USD\nbudgets: [{name: a, amount: [1]}]", "budget 1: amount has to be a text"),
        ("currency: USD\nbudgets: [{name: a, amount: 1, alert_at: 1}]", "alert_at has to be a list"),
        ("currency: USD\nbudgets: [{name: a, amount: 1, amount: 2}]", "stands twice"),
    ],
)
def test_a_file_of_budgets_is_refused_in_one_sentence_with_its_place(text, said):
    with pytest.raises(InvalidInput, match=said):
        read_budgets(text, file="budgets.yaml")


# -- the Launchpad and the sensor --------------------------------------------------------------------


@pytest.fixture
def run(home: Path) -> Iterator[Callable[..., dg.ExecuteInProcessResult]]:
    jobs = {job.name: job for job in budget_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:

        def execute(job: str, **form: Any) -> dg.ExecuteInProcessResult:
            return jobs[job].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=str(home))},
            )

        yield execute


def test_the_same_from_the_launchpad(run, mlreg, lake):
    assert run("set_budget", name="all", amount="12.50", period="WEEK", model="gpt-4*").success
    assert mlreg("budgets", "list").startswith("all  12.50 USD a week for model=gpt-4*: 0.00 USD spent in 20")
    assert not run("set_budget", name="all", amount="twelve").success
    assert run("set_time_zone", time_zone="Asia/Kolkata").success
    Alerts(lake).open(Alert("lag", "x", Severity.ERROR, "Lag", "Wait."))
    assert run("acknowledge_alert", alert="lag/x", hours=1).success
    (standing,) = Alerts(lake).standing()
    assert standing.acknowledged_by == "launchpad"
    assert run("remove_budget", name="all").success
    assert "has no budget" in mlreg("budgets", "list")


def test_the_sensor_looks_at_the_rules_and_tells_at_once(tmp_path, monkeypatch):
    with open_location(tmp_path / "home") as location, sink() as chat:
        (location.home / "alert-sinks.yaml").write_text(
            f"sinks: [{{name: chat, webhook: '{chat.url}', kinds: budget_*}}]"
        )
        # Whatever is free on the machine that runs this.
        (location.home / "alert-rules.yaml").write_text("storage: {enabled: false}\n")
        assert "0 findings" in str(location.tick("evaluate_alert_rules").skip_message)
        with Lake(str(location.home)) as lake, Log(lake) as log:
            from ml_registry_pipelines.costs.budgets import Budgets, NewBudget

            Budgets(log, actor=Actor("p"), tenant="acme").set(NewBudget("none", 0, "USD"))
            spend(lake, 5)
        said = str(location.tick("evaluate_alert_rules").skip_message)
        assert said == "1 findings: 1 alerts opened, 0 worse, 0 resolved, 0 reminded of"
        (told,) = chat.got
        assert told.content["title"] == "Budget none of tenant acme is zero, and 5.00 USD is spent"
        assert "0 alerts opened" in str(location.tick("evaluate_alert_rules").skip_message)
        (location.home / "alert-rules.yaml").write_text("storage: {enabled: maybe}\n")
        assert "could not be looked at: alert-rules.yaml" in str(
            location.tick("evaluate_alert_rules").skip_message
        )
