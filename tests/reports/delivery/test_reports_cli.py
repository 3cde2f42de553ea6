"""`mlreg reports` as somebody at a shell sees it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.errors import MlregError


def run(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(cli, ["reports", *words])
    if isinstance(done.exception, MlregError):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def test_a_report_is_subscribed_delivered_and_made_again(home, monkeypatch):
    monkeypatch.delenv("MLREG_TENANT", raising=False)
    home.mkdir(parents=True)
    file = home / "report-recipients.yaml"
    file.write_text("recipients: [{name: archive, folder: out, tenants: [default]}]")
    assert "cost_report" in run("kinds")
    assert run("subscribe", "costs", "cost_report", "--to", "archive", "--about", "*").startswith(
        "costs: cost_report about all tenants, every day"
    )
    assert run("recipients") == f"archive  folder  {home}/out\n"
    assert run("deliver") == "0 reports delivered, 0 corrected\n"
    made = run("make", "provider_comparison", "2026-W40", "--about", "*", "--output", str(home / "copies"))
    assert "No requests were logged in this period." in made
    assert len(list((home / "copies").iterdir())) == 3
    today = datetime.now(UTC).date().isoformat()
    assert f"from {today} on again" in run("redeliver", "costs", "--from", today)
    assert run("deliveries", "costs") == ""
    assert run("unsubscribe", "costs") == "costs gets nothing any more\n"
    assert run("list") == ""
    with pytest.raises(MlregError, match="write such as 2026-11-23, 2026-W48 or 2026-11"):
        run("make", "provider_comparison", "2026")
    monkeypatch.setenv("MLREG_TENANT", "acme")
    with pytest.raises(MlregError, match="tenant 'globex' gets reports about itself alone"):
        run("make", "cost_report", "2026-10", "--about", "*", "--tenant", "globex")
