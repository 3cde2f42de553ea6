"""Attribution from a shell."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_registry_pipelines.cli import main as cli
from tests.telemetry.attributed import at, call, opened, opened_again

Mlreg = Callable[..., tuple[int, str]]


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Mlreg:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path))
    monkeypatch.setenv("MLREG_TENANT", "acme")

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mlreg", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capfd.readouterr()
        return status, said.out + said.err

    return run


def fill(root: Path) -> None:
    with opened(root) as world:
        world.versions("fraud")
        world.deploy("prod", "fraud@v1", at(0, day=-30))
        world.deploy("beta", "fraud@v2", at(0, day=-30), endpoint="two")
        world.take(call(at(9)), call(at(11)), call(at(10, day=1), model="other"))
        world.apply()


def test_from_gaps_to_coverage(tmp_path: Path, mlreg: Mlreg) -> None:
    fill(tmp_path)
    assert mlreg("attribution", "list") == (
        0,
        "there is no rule; `mlreg attribution gaps` lists what they could be about\n",
    )
    shutil.rmtree(tmp_path / "tables/attribution_gaps")  # As a lake has it that an older version wrote.
    _, said = mlreg("attribution", "gaps")
    assert "no_rule" in said
    assert "other" in said
    _, said = mlreg("attribution", "preview", "prod", "--model", "m")
    assert "provider=acme model=m endpoint=chat: nothing -> prod (fraud@v1)" in said
    assert "2 requests would change, and 2 days be rolled up again" in said
    assert mlreg("attribution", "add", "prod", "--model", "m", "--note", "the chat") == (
        0,
        (
            "rule-1  model='m' -> prod  since ever  by shell  (the chat)\n"
            "rolled up 2 days, 2026-10-05 to 2026-10-06\n"
        ),
    )
    _, said = mlreg("attribution", "coverage")
    assert "66.7% of 3 billable requests lead to a version (0 ambiguous, 0 to a deployment" in said
    assert "1 without a rule); 66.7% are priced" in said
    assert "fraud" in said
    assert "price_coverage" in said
    _, said = mlreg("attribution", "coverage", "--since", "2026-10-06")
    assert said.startswith("0.0% of 1 billable requests")
    assert mlreg("attribution", "end", "rule-1", "--at", "2026-10-05T00:00:00")[0] == 0
    assert "to 2026-10-05 00:00:00Z" in mlreg("attribution", "list")[1]
    assert mlreg("attribution", "list", "--on", "2026-10-06")[1].startswith("there is no rule")
    assert (
        mlreg("attribution", "change", "rule-1", "--open", "--any", "model", "--endpoint", "chat", "--later")[
            0
        ]
        == 0
    )
    assert mlreg("attribution", "apply") == (0, "rolled up 2 days, 2026-10-05 to 2026-10-06\n")
    assert mlreg("attribution", "gaps") == (0, "every request of these days leads to a version\n")
    assert mlreg("attribution", "remove", "rule-1")[1].startswith("rule-1  removed\nrolled up 2 days")


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, mlreg: Mlreg) -> None:
    fill(tmp_path)
    mlreg("attribution", "add", "prod", "--model", "m*")
    status, said = mlreg("attribution", "add", "beta", "--model", "*m")
    assert status == 1
    assert said.startswith(
        "mlreg: rules 'rule-2' (model='*m', to 'beta') and 'rule-1' (model='m*', to 'prod') are equ"
    )
    assert mlreg("attribution", "add", "prod") == (
        1,
        (
            "mlreg: a rule without a condition would cover everything; "
            "give one on provider, model, endpoint, application, environment\n"
        ),
    )
    assert mlreg("attribution", "add", "none", "--model", "m")[1].startswith(
        "mlreg: there is no deployment 'none'"
    )
    assert mlreg("attribution", "end", "rule-9")[1].startswith("mlreg: there is no attribution rule 'rule-9'")
    assert mlreg("attribution", "change", "rule-1", "--open", "--to", "2026-01-01")[0] == 2


def test_what_was_in_production_on_a_day_is_one_call(tmp_path: Path, mlreg: Mlreg) -> None:
    fill(tmp_path)
    with opened(tmp_path) as world:
        world.deploy("prod", "fraud@v2", at(12))
    _, said = mlreg("deployments", "on", "2026-10-05", "--environment", "production")
    assert said == (
        "beta  fraud@v2  production  100%  since 2026-09-05 00:00Z by p-ada at two\n"
        "prod  fraud@v1  production  100%  since 2026-09-05 00:00Z until 2026-10-05 12:00Z by p-ada at chat\n"
        "prod  fraud@v2  production  100%  since 2026-10-05 12:00Z by p-ada at chat\n"
    )
    assert mlreg("deployments", "on", "2026-10-05T11:59:59")[1].count("prod  fraud@v1") == 1
    assert mlreg("deployments", "on", "2020-01-01") == (
        0,
        "nothing was deployed then, as far as is recorded\n",
    )
    assert mlreg("deployments", "on", "yesterday")[0] == 2
    assert mlreg("deployments", "on", "2026-10-05", "--as-of", "2020-01-01")[1].startswith(
        "nothing was deployed"
    )


def test_logs_are_attributed_when_they_are_taken(tmp_path: Path, mlreg: Mlreg) -> None:
    with opened(tmp_path) as world:
        world.versions("fraud", 1)
        world.deploy("prod", "fraud@v1", at(0, day=-30))
        world.rule("prod", provider="acme")
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"event_id": "e1", "attempt": 1, "ts": "2026-10-05T12:00:00.000Z", "provider": "acme", "model": "m", '
        '"status": "success", "tenant": "acme", "usage": {"input_tokens": 5, "output_tokens": 1}}\n'
    )
    status, said = mlreg("ingest", log)
    assert status == 0, said
    with opened_again(tmp_path) as world:
        assert [row[:2] for row in world.attributed()] == [(1, "version")]
    assert "100.0% of 1 billable" in mlreg("attribution", "coverage")[1]
