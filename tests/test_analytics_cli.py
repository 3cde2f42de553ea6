"""`mlreg performance`, `costs` and `value-models` from a shell, and value models from the Launchpad."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from ml_registry_pipelines.cli import main as cli
from ml_registry_pipelines.costs.value_models import ValueModels
from ml_registry_pipelines.jobs.values import value_jobs
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.telemetry.performance import MetricPoint, PerformanceTracker
from resources import RegistryResource
from tests.costs.made_costs import at, call, put_prices, take

DAY = date(2026, 10, 5)
DAYS = ("--since", "2026-10-05", "--until", "2026-10-05")
WINDOW = ("--since", "2026-10-05", "--until", "2026-10-06")
VALUES = """
value_models:
  - {name: worth, currency: USD, value_per_success: "20", success: ok, where: {model: m}}
"""

Mlreg = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home") / "home"
    with Lake(str(root)) as lake:
        put_prices(lake)
        take(
            lake,
            [
                *(call(at(DAY, 9 + n % 3), tags='{"team":"x"}', event_id=f"r{n}") for n in range(30)),
                *(call(at(DAY, 9), provider="other", latency_ms=900.0) for n in range(30)),
                call(at(DAY, 9), provider="other", status="error_billed"),
            ],
        )
        PerformanceTracker(lake).record_metrics(
            [MetricPoint("m", "ok", n < 9, "acme", at(DAY, 10), request_id=f"r{n}") for n in range(10)]
        )
    return root


@pytest.fixture
def mlreg(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mlreg:
    monkeypatch.setenv("MLREG_HOME", str(home))
    monkeypatch.delenv("MLREG_TENANT", raising=False)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["mlreg", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capfd.readouterr()
        return status, said.out + said.err

    return run


def test_statistics_say_how_exact_they_are(mlreg: Mlreg) -> None:
    status, said = mlreg("performance", "stats", *WINDOW, "--by", "provider", "--format", "json")
    rows = {row["provider"]: row for row in json.loads(said)}
    assert (status, rows["acme"]["requests"], rows["other"]["error_rate"]) == (0, 30, pytest.approx(1 / 31))
    assert rows["other"]["error_rate_upper"] > 1 / 31
    assert "within 1% of the exact ones; up to batch 1" in mlreg("performance", "stats", *WINDOW)[1]
    status, said = mlreg("performance", "stats", *WINDOW, "--model", "mm")
    assert (status, "the model 'mm' was ever logged; the nearest is m" in said) == (1, True)
    assert mlreg("performance", "stats", "--since", "2026-10-06", "--until", "2026-10-05")[0] == 1
    assert (
        "no request from"
        in mlreg("performance", "stats", "--since", "2025-01-01", "--until", "2025-01-02")[1]
    )


def test_a_comparison_says_what_cannot_be_told_and_its_rules(mlreg: Mlreg) -> None:
    status, said = mlreg("performance", "compare", "acme", "other", "--by", "provider", *WINDOW)
    assert status == 0
    assert "acme: latency: 30 values are too few for p95, p99" in said
    assert "acme / other  error_rate: cannot be told (too few attempts of acme and other)" in said
    assert "rule: Error rates differ where" in said
    assert "side by side is no experiment" in said
    assert mlreg("performance", "compare", "a", "b", "--by", "model_version", *WINDOW)[0] == 1


def test_points_are_recorded_and_come_to_figures(mlreg: Mlreg) -> None:
    assert mlreg("performance", "record", "m2", "tone", "--label", "kind")[0] == 0
    assert mlreg("performance", "record", "m2", "ok", "true", "--judge", "j", "--judge-cost", "0.10", "--judge-currency", "USD")[0] == 0  # fmt: skip  # noqa: E501
    assert mlreg("performance", "record", "m2", "ok", "very")[0] == 2
    said = mlreg("performance", "metrics", "m2")[1]
    assert "kind=1" in said
    assert "0.1 USD" in said
    assert "nothing is recorded of nobody" in mlreg("performance", "metrics", "nobody")[1]


def test_costs_are_summed_by_key_and_tag_with_their_coverage(mlreg: Mlreg) -> None:
    status, said = mlreg("costs", "summary", *DAYS, "--by", "tag:team", "--format", "json")
    rows = {row["tag:team"]: row for row in json.loads(said)}
    assert (status, float(rows["x"]["cost"]), float(rows[None]["cost"])) == (0, 300, 155)
    said = mlreg("costs", "summary", *DAYS, "--by", "provider", "--where", "model=m")[1]
    assert "total  455.000000 USD" in said
    assert "100.00% of the billable requests have a price, of 0.00% the version is known" in said
    assert "computed up to batch 1 from cost_rollup" in said
    assert mlreg("costs", "summary", "--where", "model")[0] == 2
    status, said = mlreg("costs", "summary", "--where", "model=mm")
    assert (status, "the nearest: m" in said) == (1, True)
    assert "nothing is rolled up" in mlreg("costs", "summary", "--until", "2020-01-01")[1]


def test_trends_say_why_there_is_no_forecast(mlreg: Mlreg) -> None:
    status, said = mlreg("costs", "trends", *DAYS)
    assert status == 0
    assert "USD: nothing_lately: nothing was logged in the last week" in said
    assert "24 hours have fewer than four weeks before them" in said


def test_providers_are_compared_with_rates_by_type_of_token(mlreg: Mlreg) -> None:
    status, said = mlreg("costs", "compare", *DAYS, "--format", "json")
    rows = {row["provider"]: row for row in json.loads(said)}
    assert (status, rows["acme"]["input_per_1k"], rows["other"]["input_per_1k"]) == (0, 1000, 500)
    assert "acme / other  error_rate" in mlreg("costs", "compare", *DAYS)[1]


def test_a_return_is_computed_by_a_value_model_from_a_file(mlreg: Mlreg, tmp_path: Path) -> None:
    assert "no value model is declared" in mlreg("value-models", "list", "--tenant", "acme")[1]
    (tmp_path / "values.yaml").write_text(VALUES)
    apply = ("value-models", "apply", tmp_path / "values.yaml", "--tenant", "acme")
    assert "worth  declared (event 1)" in mlreg(*apply)[1]
    assert "worth  unchanged (event 1)" in mlreg(*apply)[1]
    assert "worth  20 USD per ok" in mlreg("value-models", "list", "--tenant", "acme")[1]
    status, said = mlreg("costs", "roi", "worth", *DAYS, "--tenant", "acme")
    # 60 answers, 9 of 10 judged True: 54 successes at 20; they cost 455.
    assert status == 0
    assert "net value  625.00 USD (" in said
    assert "remark  16.7% of the answers are judged; the others are taken to be like them" in said
    status, said = mlreg("costs", "roi", "other", *DAYS, "--tenant", "acme")
    assert (status, "no value model 'other' in tenant 'acme': worth" in said) == (1, True)
    (tmp_path / "values.yaml").write_text(VALUES.replace('"20"', "much"))
    status, said = mlreg(*apply)
    assert (status, "value model 1: value_per_success much is no number" in said) == (1, True)
    assert "worth is ended" in mlreg("value-models", "remove", "worth", "--tenant", "acme")[1]


def test_value_models_and_returns_are_jobs(home: Path) -> None:
    jobs = {job.name: job for job in value_jobs()}
    with dg.DagsterInstance.ephemeral() as instance:

        def run(job: str, **form: object) -> dg.ExecuteInProcessResult:
            return jobs[job].execute_in_process(
                run_config=form,
                instance=instance,
                raise_on_error=False,
                resources={"registry": RegistryResource(root=str(home))},
            )

        given = {"name": "by-form", "currency": "USD", "value_per_success": "20", "tenant": "acme"}
        assert run("declare_value_model", **given, where={"model": "m"}).success
        done = run(
            "return_on_investment",
            value_model="by-form",
            tenant="acme",
            since="2026-10-05",
            until="2026-10-05",
        )
        (told,) = (e for e in done.all_node_events if e.is_successful_output)
        assert str(told.step_output_data.metadata["net value"].value).startswith("745.00 USD (")
        assert not run("declare_value_model", **{**given, "value_per_success": "much"}).success
        assert not run(
            "return_on_investment", value_model="by-form", tenant="acme", since="soon", until="x"
        ).success
        assert run("remove_value_model", name="by-form", tenant="acme").success
    with Lake(str(home), process="test") as lake, Log(lake) as log:
        assert ValueModels(log, actor=Actor("reader"), tenant="acme").list() == []
