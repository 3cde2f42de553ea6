"""`mlreg gdpr ...`: registers, requests, retention, scans and checks of data protection. A door and no more."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_registry_pipelines.cli.support import (
    TIME,
    as_of_option,
    desk,
    key_option,
    open_log,
    shell_actor,
    show_lines,
    tenant,
    tenant_option,
    utc,
)

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.gdpr.entries import DataRequest
    from ml_registry_pipelines.compliance.gdpr.registers import Registers
    from ml_registry_pipelines.registry.log import Log


@click.group()
def gdpr() -> None:
    """Data protection: registers with deadlines, requests, retention, scans and checks."""


def _registers(log: Log) -> Registers:
    from ml_registry_pipelines.compliance.gdpr.registers import Registers

    return Registers(log, **desk())


# -- registers -------------------------------------------------------------------------------


@gdpr.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@key_option
@tenant_option
def load(file: Path, key: str | None) -> None:
    """Declare all entries of a YAML FILE, or none; others stay as they are."""
    from ml_registry_pipelines.compliance.gdpr.entries import Purpose
    from ml_registry_pipelines.compliance.gdpr.registers import read_file
    from ml_registry_pipelines.compliance.gdpr.retention import retention_rules

    entries = read_file(file.read_text("utf-8", "replace"), file=str(file))
    with open_log() as log:
        done = _registers(log).put(*entries, idempotency_key=key)
        rules, _ = retention_rules(log, datetime.now(UTC))
    click.echo(f"{len(done)} entries declared")
    for rule in rules:
        if rule.tenant == tenant() and any(isinstance(entry, Purpose) for entry in done):
            click.echo(
                f"rows of {rule.table} now go {rule.days} days after they were taken, by {rule.why}; "
                "`mlreg gdpr retention --dry-run` counts them",
                err=True,
            )


@gdpr.command("registers")
def registers() -> None:
    """List the registers and the fields of an entry in each."""
    from ml_registry_pipelines.compliance.gdpr.entries import KINDS

    for kind in KINDS:
        required = [name for name, field in kind.model_fields.items() if field.is_required()]
        others = [name for name in kind.model_fields if name not in required]
        click.echo(f"{kind.REGISTER} (in a file: {kind.PLURAL}; {kind.ARTICLE})")
        click.echo(f"    {', '.join(required)}; may have {', '.join(others)}")


@gdpr.command("list")
@click.argument("register")
@as_of_option
@tenant_option
def list_(register: str, as_of: datetime | None) -> None:
    """List the entries of REGISTER; `mlreg gdpr registers` names them."""
    from ml_registry_pipelines.compliance.gdpr.registers import kind_of

    kind = kind_of(register)
    with open_log() as log:
        found = _registers(log).list(kind, as_of=utc(as_of))
    for entry in found:
        said = entry.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        click.echo(f"{entry.name}  " + "  ".join(f"{name}={_plain(value)}" for name, value in said.items()))
    if not found:
        click.echo(f"the register of {kind.PLURAL} is empty in tenant {tenant()}")


@gdpr.command("remove")
@click.argument("register")
@click.argument("name")
@key_option
@tenant_option
def remove(register: str, name: str, key: str | None) -> None:
    """End the entry NAME of REGISTER; the log keeps that it was there."""
    with open_log() as log:
        done = _registers(log).remove(register, name, idempotency_key=key)
    click.echo(f"{done.REGISTER} {done.name} is ended")


@gdpr.command("withdraw-consent")
@click.argument("purpose")
@click.argument("subject")
@click.option("--at", type=TIME, help="When (UTC); by default now.")
@key_option
@tenant_option
def withdraw_consent(purpose: str, subject: str, at: datetime | None, key: str | None) -> None:
    """Take back the consent of SUBJECT, a pseudonym, to PURPOSE."""
    with open_log() as log:
        _registers(log).withdraw_consent(purpose, subject, at=utc(at), idempotency_key=key)
    click.echo(f"{subject} has withdrawn the consent to {purpose}")


@gdpr.command("deadlines")
@tenant_option
def deadlines() -> None:
    """List what is to be done until when, the first due first."""
    from ml_registry_pipelines.compliance.gdpr.clocks import CLOCKED
    from ml_registry_pipelines.compliance.gdpr.clocks import deadlines as of
    from ml_registry_pipelines.compliance.gdpr.requests import all_requests

    with open_log() as log:
        view = _registers(log).view()
        entries = [e for kind in CLOCKED[1:] for e in _registers(log).list(kind)]
        found = sorted(
            of([(tenant(), entry) for entry in (*all_requests(view), *entries)]), key=lambda d: d.due_at
        )
    for due in found:
        late = "  LATE" if due.due_at < datetime.now(UTC) else ""
        click.echo(
            f"{due.due_at:%Y-%m-%d %H:%M}Z  {due.register} {due.name}: {due.what} ({due.article}){late}"
        )
    if not found:
        click.echo("nothing is due")


# -- requests --------------------------------------------------------------------------------


@gdpr.group("request")
def request() -> None:
    """What subjects ask for under Art. 15 to 21, with the clock of one month."""


@request.command("open")
@click.argument("subject")
@click.argument(
    "kind",
    type=click.Choice(["access", "rectification", "erasure", "restriction", "portability", "objection"]),
)
@click.option("--name", help="By default a random one.")
@click.option("--received-at", type=TIME, help="When it came (UTC); by default now.")
@click.option("--note", default="")
@key_option
@tenant_option
def request_open(
    subject: str, kind: str, name: str | None, received_at: datetime | None, note: str, key: str | None
) -> None:
    """Take in what SUBJECT, a pseudonym, asks for; the clock begins when it came."""
    with open_log() as log:
        done = _registers(log).open_request(
            subject, kind, name=name, received_at=utc(received_at), note=note, idempotency_key=key
        )
    _show(done)


@request.command("extend")
@click.argument("name")
@click.option("--reason", required=True, help="As the subject was told.")
@click.option("--informed-at", type=TIME, help="When the subject was told (UTC); by default now.")
@key_option
@tenant_option
def request_extend(name: str, reason: str, informed_at: datetime | None, key: str | None) -> None:
    """Take two more months, of which the subject was told within the first."""
    with open_log() as log:
        done = _registers(log).extend_request(
            name, reason=reason, informed_at=utc(informed_at), idempotency_key=key
        )
    _show(done)


@request.command("close")
@click.argument("name")
@click.option("--outcome", required=True, help="Such as: corrected, or refused and why.")
@click.option("--certificate", help="Digest of what proves it.")
@key_option
@tenant_option
def request_close(name: str, outcome: str, certificate: str | None, key: str | None) -> None:
    """Close a request with its outcome."""
    with open_log() as log:
        done = _registers(log).close_request(
            name, outcome=outcome, certificate=certificate, idempotency_key=key
        )
    _show(done)


@request.command("list")
@tenant_option
def request_list() -> None:
    """List requests, those that are open first."""
    from ml_registry_pipelines.compliance.gdpr.requests import all_requests

    with open_log() as log:
        found = all_requests(_registers(log).view())
    for each in sorted(found, key=lambda r: (r.closed_at is not None, r.received_at)):
        click.echo(f"{each.name}  {each.kind.value} of {each.subject}  {_clock(each)}")
    if not found:
        click.echo("there is no request")


# -- columns, scans and retention ------------------------------------------------------------


@gdpr.command("columns")
@click.option("--all", "everything", is_flag=True, help="Also those that hold nothing personal.")
@tenant_option
def columns(everything: bool) -> None:
    """List columns of tables and datasets that are personal, and those that nobody has classified."""
    from ml_registry_pipelines.compliance.gdpr.columns import Holds, column_catalogue

    with open_log() as log:
        found = column_catalogue(_registers(log).view())
    for column in found:
        if everything or column.holds is not Holds.NOT_PERSONAL:
            click.echo(f"{column.name}  {column.holds.value}  {column.category.value}")


@gdpr.command("scan")
@click.argument("names", nargs=-1, metavar="[TABLE or DATASET]...")
@click.option("--sample", type=click.IntRange(1, 10_000), default=200, show_default=True)
@click.option("--kind", "kinds", multiple=True, help="Of identifiers; by default all but IP_ADDRESS and URL.")
@tenant_option
def scan(names: tuple[str, ...], sample: int, kinds: tuple[str, ...]) -> None:
    """Look for identifiers in text columns that are declared to hold nothing personal; exit status 1 where one is.

    Patterns find e-mail addresses, IBANs, social security numbers, cards, telephone numbers, IP addresses and
    URLs. Names and postal addresses are not found.
    """
    from ml_registry_pipelines.compliance.gdpr import pii
    from ml_registry_pipelines.compliance.gdpr.scanning import scan as look

    wanted = kinds or tuple(kind for kind in pii.KINDS if kind not in {pii.IP, pii.URL})
    if unknown := set(wanted) - set(pii.KINDS):
        raise click.UsageError(f"{min(unknown)} is no kind of identifier; there are {', '.join(pii.KINDS)}")
    with open_log() as log:
        found = look(log.lake, _registers(log).view(), sample=sample, kinds=wanted, only=names or None)
    hits = [column for column in found if column.hits]
    for column in hits:
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(column.kinds.items()))
        click.echo(f"{column.column}: {column.hits} of {column.looked_at} values hold an identifier ({said})")
    for column in found:
        if column.problem:
            click.echo(f"{column.column}: {column.problem}", err=True)
    values = sum(column.looked_at for column in found)
    click.echo(
        f"{len(found)} columns, {values:,} values looked at; {len(hits)} columns hold identifiers "
        "(patterns only: names and addresses are not found)"
    )
    if hits:
        sys.exit(1)


@gdpr.command("retention")
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
def retention(dry_run: bool) -> None:
    """Erase rows of all tenants whose retention is over; legal holds keep theirs."""
    from ml_registry_pipelines.compliance.gdpr.retention import enforce_retention

    with open_log() as log:
        done = enforce_retention(log, actor=shell_actor(), dry_run=dry_run)
    failed = False
    for each in done:
        whose = "" if each.rule.tenant is None else f" of tenant {each.rule.tenant}"
        what = f"{each.rule.table}{whose}, {each.rule.days} days by {each.rule.why}"
        match each.outcome:
            case "nothing" | "would_erase" if not each.rows:
                continue
            case "held":
                click.echo(f"{what}: kept, {each.reason}")
            case "failed":
                failed = True
                click.echo(f"{what}: {each.rows:,} rows could not be erased: {each.reason}", err=True)
            case outcome:
                word = "would go" if outcome == "would_erase" else "erased"
                click.echo(f"{what}: {each.rows:,} rows {word}, taken before {each.cutoff:%Y-%m-%d %H:%M}Z")
    gone = sum(each.rows for each in done if each.outcome in {"erased", "would_erase"})
    click.echo(f"{len(done)} rules looked at, {gone:,} rows {'would go' if dry_run else 'erased'}")
    if failed:
        sys.exit(1)


# -- checks ----------------------------------------------------------------------------------


@gdpr.command("check")
@click.argument("version", required=False)
@click.option("--suite", "suites", multiple=True, help="By default gdpr; with a version, gdpr-model.")
@key_option
@tenant_option
def check(version: str | None, suites: tuple[str, ...], key: str | None) -> None:
    """Check the tenant, or one VERSION of a model, and keep the evidence; exit status 1 unless it passes."""
    from ml_registry_pipelines.compliance.manager import ComplianceManager
    from ml_registry_pipelines.compliance.results import Verdict

    named = suites or (("gdpr",) if version is None else ("gdpr-model",))
    with open_log() as log:
        manager = ComplianceManager(log, **desk())
        done = manager.run_compliance_checks(version, suites=named, idempotency_key=key)
    for result in done.results:
        # What could not run says why, and not which check it is.
        which = "" if result.message.startswith(result.metric) else f"{result.metric}: "
        click.echo(f"{result.verdict.value:>13}  {which}{result.message}")
    click.echo(f"{done.verdict.value}: evidence {done.evidence_id}")
    if done.verdict is not Verdict.PASS:
        sys.exit(1)


def _show(found: DataRequest) -> None:
    show_lines(
        {
            "request": found.name,
            "kind": found.kind.value,
            "subject": found.subject,
            "received": f"{found.received_at:%Y-%m-%d %H:%M}Z",
            "state": _clock(found),
            "outcome": found.outcome,
        }
    )


def _clock(found: DataRequest) -> str:
    from ml_registry_pipelines.compliance.gdpr.clocks import request_due

    if found.closed_at is not None:
        return f"closed {found.closed_at:%Y-%m-%d}"
    return f"open, due {request_due(found):%Y-%m-%d}" + (", extended" if found.extended_at else "")


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def attach(cli: click.Group) -> None:
    """Add these commands to `mlreg`, beside others of the group that are there already."""
    there = cli.commands.get("gdpr")
    if isinstance(there, click.Group):
        for command in gdpr.commands.values():
            there.add_command(command)
    else:
        cli.add_command(gdpr)
