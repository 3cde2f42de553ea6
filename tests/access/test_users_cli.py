"""`mlreg` with users: keys in the environment, and doors that open for who may."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ml_registry_pipelines.cli.main import cli
from ml_registry_pipelines.cli.support import OF_ALL, OPERATING
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity

Mlreg = Callable[..., Result]


@pytest.fixture
def mlreg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlreg:
    monkeypatch.setenv("MLREG_HOME", str(tmp_path / "home"))
    for name in ("MLREG_API_KEY", "MLREG_API_KEY_FILE", "MLREG_TENANT", "MLREG_ACTOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, key: str | None = None, tenant: str | None = None) -> Result:
        given = {"MLREG_API_KEY": key, "MLREG_TENANT": tenant}
        return CliRunner().invoke(cli, list(arguments), env=given)

    return run


def made(result: Result) -> tuple[str, str]:
    """Pseudonym and key of a user that was made."""
    assert result.exit_code == 0, result.output
    user, key = re.search(r"u-[0-9a-f]{16}", result.output), re.search(r"mlreg_\S+", result.output)
    assert user
    assert key
    return user[0], key[0]


def refused(result: Result, sentence: str) -> None:
    assert result.exit_code != 0
    assert isinstance(result.exception, MlregError), result.output
    assert sentence in str(result.exception)


def test_from_no_users_to_a_team_and_back_to_nobody(mlreg: Mlreg, tmp_path: Path) -> None:
    assert mlreg("models", "register", "fraud").exit_code == 0
    _, admin = made(mlreg("users", "init", "--name", "Ada Lovelace", "--email", "ada@example.org"))
    refused(mlreg("models", "register", "credit"), "set MLREG_API_KEY")
    refused(mlreg("models", "list"), "set MLREG_API_KEY")
    refused(mlreg("users", "add", "viewer", "--tenant", "*"), "set MLREG_API_KEY")
    refused(mlreg("models", "list", key="mlreg_wrong"), "this API key is not valid here")

    viewer, viewers = made(mlreg("users", "add", "viewer", "--tenant", "default", key=admin))
    assert "fraud" in mlreg("models", "list", key=viewers).output
    refused(mlreg("models", "register", "credit", key=viewers), "that takes admin or engineer")
    refused(mlreg("users", "list", key=viewers), "users are kept by an admin")
    refused(mlreg("users", "roles", viewer, "admin", key=viewers), "users are kept by an admin")

    assert mlreg("users", "roles", viewer, "engineer", key=admin).exit_code == 0
    assert mlreg("models", "register", "credit", key=viewers).exit_code == 0
    listed = mlreg("users", "list", key=admin).output
    assert "Ada Lovelace <ada@example.org>" in listed
    assert f"{viewer}  engineer  in default" in listed
    assert "last used 20" in listed
    assert "engineer" in mlreg("users", "whoami", key=viewers).output

    assert mlreg("users", "deactivate", viewer, "--forget", key=admin).exit_code == 0
    refused(mlreg("models", "list", key=viewers), "not valid here")
    log = b"".join(
        p.read_bytes() for p in (tmp_path / "home/tables/governance_events").rglob("*") if p.is_file()
    )
    assert b"Lovelace" not in log
    assert admin.encode() not in log


def test_a_tenant_of_others_is_closed_in_every_command(mlreg: Mlreg) -> None:
    _, admin = made(mlreg("users", "init"))
    assert mlreg("models", "register", "secret", key=admin, tenant="bank").exit_code == 0
    user, key = made(mlreg("users", "add", "engineer", "--tenant", "acme", key=admin))
    select = "SELECT payload LIKE '%ours%' AS seen FROM governance_events"
    assert mlreg("models", "register", "ours", key=key, tenant="acme").exit_code == 0
    assert "true" in mlreg("sql", select, "--tenant", "acme", key=key).output
    for command in (
        ("sql", select, "--tenant", "bank"),
        ("models", "list"),
        ("models", "register", "more"),
        ("audit", "export", "/nowhere"),
        ("costs", "summary", "--tenant", "bank"),
        ("quarantine", "list"),
        ("ingest",),
        ("maintain",),
    ):
        result = mlreg(*command, key=key, tenant="bank")
        assert result.exit_code != 0, command
        assert isinstance(result.exception, MlregError), (command, result.output)
        assert "grant" in str(result.exception), command
    for command in (("sql", select), ("costs", "summary"), ("bills", "list")):
        refused(mlreg(*command, key=key), "no grant for every tenant")
    assert mlreg("users", "grant", user, "bank", "--model", "secret", key=admin).exit_code == 0
    refused(mlreg("sql", select, "--tenant", "bank", key=key), "has grants for models")
    assert mlreg("maintain", key=admin).exit_code == 0


def test_who_may_only_read_changes_neither_measurements_nor_files(mlreg: Mlreg, tmp_path: Path) -> None:
    _, admin = made(mlreg("users", "init"))
    _, viewer = made(mlreg("users", "add", "viewer", "--tenant", "*", key=admin))
    for command in (
        ("costs", "rates", "add", "2026-10-01", "EUR", "USD", "7", "--source", "me"),
        ("costs", "rates", "sync"),
        ("attribution", "apply"),
        ("alerts", "evaluate"),
        ("reports", "deliver"),
        ("webhooks", "deliver"),
        ("search", "rebuild"),
        ("artifacts", "purge"),
        ("artifacts", "delete", "0" * 64),
        ("bills", "reconcile"),
    ):
        refused(mlreg(*command, key=viewer), "that takes admin or engineer with a grant for every tenant")
    table = tmp_path / "scores.csv"
    table.write_text("a,b,x,y\n1,0,1,1\n")
    assert mlreg("models", "register", "m", key=admin).exit_code == 0
    assert mlreg("models", "add-version", "m", str(table), key=admin).exit_code == 0
    for keeping in (
        ("artifacts", "upload", f"{'0' * 64}:1:w.bin"),
        ("lineage", "index", "--build"),
        ("experiments", "decide", "any"),
        ("experiments", "evaluate", str(table), "--arm", "a=a,x", "--arm", "b=b,y", "--margin", "0.1"),
        ("suites", "init"),
        ("scan", "m@v1"),
        ("reports", "make", "cost_report", "2026-10-05"),
        ("governance", "page"),
    ):
        refused(mlreg(*keeping, key=viewer), "that takes admin or")
    assert not (tmp_path / "home/suites").exists()
    assert not (tmp_path / "home/tables/decisions").exists()


def test_a_report_about_a_tenant_is_for_who_may_read_there(mlreg: Mlreg) -> None:
    _, admin = made(mlreg("users", "init"))
    _, key = made(mlreg("users", "add", "engineer", "--tenant", "acme", key=admin))
    for about, sentence in (("bank", "it has no grant there"), ("*", "it has no grant for every tenant")):
        # The operator's tenant is what the environment says, which whoever asks may set.
        make = ("reports", "make", "cost_report", "2026-10-05", "--about", about)
        refused(mlreg(*make, key=key, tenant="acme"), sentence)
        subscribe = ("reports", "subscribe", "mine", "cost_report", "--to", "us", "--about", about)
        refused(mlreg(*subscribe, key=key, tenant="acme"), sentence)


def test_no_command_that_keeps_to_no_tenant_is_opened_by_naming_an_own_one(mlreg: Mlreg) -> None:
    _, admin = made(mlreg("users", "init"))
    user, key = made(mlreg("users", "add", "viewer", "--tenant", "acme", key=admin))
    assert mlreg("users", "roles", user, "engineer", "compliance", key=admin).exit_code == 0
    for command in (
        ("bills", "list"),
        ("bills", "quarantine"),
        ("prices", "missing"),
        ("tables",),
        ("audit", "verify"),
        ("allocation", "preview", "2026-10"),
        ("statements", "issue", "2026-10", "bank"),
    ):
        refused(mlreg(*command, key=key, tenant="acme"), "it has no grant for every tenant")
    refused(mlreg("audit", "verify", "--tenant", "bank", key=key, tenant="acme"), "it has no grant there")
    draft = ("statements", "show", "bank", "2026-10", "--draft", "--operator", "acme")
    refused(mlreg(*draft, key=key, tenant="acme"), "it has no grant there")


def test_rows_and_alerts_of_other_tenants_are_not_shown_to_who_has_a_tenant_of_his_own(
    mlreg: Mlreg, tmp_path: Path
) -> None:
    with Lake(str(tmp_path / "home"), process="cli") as lake:
        Alerts(lake).open(
            Alert("spent", "bank/loans", Severity.ERROR, "bank spends", "", tenant="bank"),
            Alert("spent", "acme/ads", Severity.ERROR, "acme spends", "", tenant="acme"),
            Alert("disk", "root", Severity.ERROR, "the disk is full", ""),
        )
    for tenant in ("bank", "acme"):
        broken = tmp_path / f"{tenant}.jsonl"
        broken.write_text('{"id": "cut off\n')
        mlreg("ingest", str(broken), "--dialect", "openai_api", "--tenant", tenant)
    _, admin = made(mlreg("users", "init"))
    theirs, ours = (
        re.search(r"[0-9a-f]{32}", mlreg("quarantine", "list", "--tenant", tenant, key=admin).output)
        for tenant in ("bank", "acme")
    )
    assert theirs
    assert ours
    _, key = made(mlreg("users", "add", "engineer", "--tenant", "acme", key=admin))

    rows = mlreg("quarantine", "list", key=key, tenant="acme").output
    assert ours[0] in rows
    assert theirs[0] not in rows
    assert mlreg("quarantine", "show", theirs[0], key=key, tenant="acme").exit_code != 0
    shown = mlreg("alerts", key=key, tenant="acme").output
    assert "acme spends" in shown
    assert "bank" not in shown
    assert "disk" not in shown
    assert "bank spends" in mlreg("alerts", "list", key=admin).output
    assert mlreg("alerts", "show", "spent/bank/loans", key=key, tenant="acme").exit_code != 0
    for alert in ("spent/bank/loans", "disk/root"):
        refused(mlreg("alerts", "ack", alert, "--hours", "1", key=key, tenant="acme"), "open alert")
    assert mlreg("alerts", "ack", "spent/acme/ads", "--hours", "1", key=key, tenant="acme").exit_code == 0
    assert mlreg("alerts", "ack", "disk/root", "--hours", "1", key=admin).exit_code == 0


def test_who_has_one_model_alone_sees_no_figures_of_its_tenant(mlreg: Mlreg) -> None:
    assert mlreg("models", "register", "loans", tenant="bank").exit_code == 0
    _, admin = made(mlreg("users", "init"))
    user, key = made(mlreg("users", "add", "engineer", "--tenant", "acme", key=admin))
    assert mlreg("users", "grant", user, "bank", "--model", "loans", key=admin).exit_code == 0
    assert "loans" in mlreg("models", "show", "loans", key=key, tenant="bank").output
    for command in (
        ("costs", "summary"),
        ("costs", "export", "--month", "2026-10", "--output", "/nowhere.csv"),
        ("performance", "stats"),
        ("quarantine", "list"),
        ("budgets", "list"),
        ("alerts",),
        ("attribution", "coverage"),
        ("attribution", "gaps"),
        ("reports", "make", "cost_report", "2026-10-05"),
    ):
        refused(mlreg(*command, key=key, tenant="bank"), "has grants for models there")


def test_users_of_all_tenants_are_listed_for_who_has_a_grant_for_all(mlreg: Mlreg) -> None:
    _, admin = made(mlreg("users", "init"))
    _, one = made(mlreg("users", "add", "compliance", "--tenant", "acme", key=admin))
    _, every = made(mlreg("users", "add", "compliance", "--tenant", "*", key=admin))
    refused(mlreg("users", "list", key=one), "users are kept by an admin")
    assert mlreg("users", "list", key=every).exit_code == 0


def test_without_mlreg_tenant_figures_of_all_take_a_grant_for_all(mlreg: Mlreg) -> None:
    _, admin = made(mlreg("users", "init"))
    _, key = made(mlreg("users", "add", "viewer", "--tenant", "default", key=admin))
    for command in (("attribution", "coverage"), ("attribution", "gaps")):
        refused(mlreg(*command, key=key), "it has no grant for every tenant")


def test_commands_that_operate_are_commands() -> None:
    def leads(path: str) -> bool:
        found: click.Command = cli
        for name in path.split():
            if not isinstance(found, click.Group) or name not in found.commands:
                return False
            found = found.commands[name]
        return not isinstance(found, click.Group)

    assert [path for path in OPERATING | OF_ALL if not leads(path)] == []


def test_a_key_in_a_file_that_others_may_read_is_not_used(
    mlreg: Mlreg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, admin = made(mlreg("users", "init"))
    file = tmp_path / "key"
    file.write_text(f"{admin}\n")
    file.chmod(0o644)
    monkeypatch.setenv("MLREG_API_KEY_FILE", str(file))
    refused(mlreg("users", "whoami"), "chmod 600")
    file.chmod(0o600)
    assert "admin" in mlreg("users", "whoami").output
