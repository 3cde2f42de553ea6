"""`mlreg approvals`: ask for approval of versions, decide on it, and see what the policy demands, from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import desk, key_option, open_log, show_lines
from ml_registry_pipelines.settings import Settings

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.approvals.approval import Approval
    from ml_registry_pipelines.compliance.manager import ComplianceManager
    from ml_registry_pipelines.registry.log import Log

SHOWN = ("requested", "changes_requested", "approved", "rejected", "withdrawn", "stale", "expired", "used")


@click.group()
def approvals() -> None:
    """Approvals: who lets which version go live, and what the policy demands for it."""


def attach(cli: click.Group) -> None:
    """Add the group to `mlreg`."""
    cli.add_command(approvals)


@approvals.command("request")
@click.argument("version")
@click.option("--note", default="", help="To the reviewers; no e-mail addresses.")
@key_option
def approvals_request(version: str, note: str, key: str | None) -> None:
    """Run the demanded checks on VERSION (MODEL@v3, MODEL@ALIAS) and ask for its approval."""
    with open_log() as log:
        _show(_manager(log).request_approval(version, note=note, idempotency_key=key))


@approvals.command("list")
@click.option("--status", multiple=True, type=click.Choice(SHOWN), help="Only these; by default all.")
@click.option("--version", help="Of this version alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
def approvals_list(status: tuple[str, ...], version: str | None, limit: int) -> None:
    """Approvals, the newest first."""
    from ml_registry_pipelines.compliance.approvals.approval import Kind, Status

    with open_log() as log:
        found = _manager(log).approvals.list(
            statuses=[Status(s) for s in status], version=version, limit=limit
        )
    for one in found:
        kind = "broken glass" if one.kind is Kind.BREAK_GLASS else one.risk_class
        votes = f"{len(one.votes)}/{one.people} votes"
        click.echo(
            f"{one.id[:12]}  {one.status.value:<18} {one.reference}  {kind}  {votes}  "
            f"until {one.expires_at:%Y-%m-%d %H:%M}Z"
        )
    if not found:
        click.echo("no approvals", err=True)


@approvals.command("show")
@click.argument("approval")
def approvals_show(approval: str) -> None:
    """One approval: what it is bound to, and whose votes it has."""
    with open_log() as log:
        _show(_manager(log).approvals.get(approval))


@approvals.command("review")
@click.argument("approval")
@click.option("--approve", "decision", flag_value="approve", help="Let it go live.")
@click.option("--reject", "decision", flag_value="reject", help="Do not; wants a comment.")
@click.option("--changes", "decision", flag_value="changes_requested", help="Not yet; wants a comment.")
@click.option(
    "--digest", required=True, help="Of what was looked at, as `show` and the evidence page have it."
)
@click.option("--comment", default="", help="Why; no e-mail addresses.")
@key_option
def approvals_review(approval: str, decision: str | None, digest: str, comment: str, key: str | None) -> None:
    """Decide on a request, as somebody who neither registered the version nor asked."""
    if decision is None:
        raise click.UsageError("say one of --approve, --reject and --changes")
    with open_log() as log:
        done = _manager(log).review_approval(
            approval, decision, digest=digest, comment=comment, idempotency_key=key
        )
        _show(done)


@approvals.command("withdraw")
@click.argument("approval")
@click.option("--reason", default="", help="Why; no e-mail addresses.")
@key_option
def approvals_withdraw(approval: str, reason: str, key: str | None) -> None:
    """Take a request, or an approval that was not used, back."""
    with open_log() as log:
        _show(_manager(log).approvals.withdraw(approval, reason=reason, idempotency_key=key))


@approvals.command("break-glass")
@click.argument("version")
@click.option("--reason", required=True, help="Why it cannot wait; no e-mail addresses.")
@key_option
def approvals_break_glass(version: str, reason: str, key: str | None) -> None:
    """Let VERSION go live without approval for a few hours: recorded, alerted, and to be reviewed."""
    with open_log() as log:
        _show(_manager(log).approvals.break_glass(version, reason, idempotency_key=key))


@approvals.command("review-break-glass")
@click.argument("approval")
@click.option("--comment", required=True, help="What came of it; no e-mail addresses.")
@key_option
def approvals_review_break_glass(approval: str, comment: str, key: str | None) -> None:
    """Say, as another person, that a broken glass was looked into."""
    with open_log() as log:
        _show(_manager(log).approvals.review_break_glass(approval, comment, idempotency_key=key))


@approvals.command("check")
@click.argument("version")
def approvals_check(version: str) -> None:
    """What the policy demands of VERSION now, and what is missing."""
    with open_log() as log:
        asked = _manager(log).approvals
        found = asked.standing(version)
        gated = asked.in_force()
    people = ", ".join(f"{count} x {role}" for role, count in found.requirement.roles.items())
    show_lines(
        {
            "version": found.reference,
            "risk class": found.risk_class,
            "counts as": found.counted.value,
            "policy": f"{found.source}, {found.policy.digest[:12]}",
            "in force": "yes" if gated else "no: dev, without users, policy file or approvals",
            "approvals": people or "none",
            "suites": ", ".join(suite.suite for suite in found.suites),
        }
    )
    for number, unmet in enumerate(found.unmet):
        show_lines({"missing" if not number else " ": unmet})


@approvals.command("page")
@click.argument("approval")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="By default below the home.")
def approvals_page(approval: str, out: Path | None) -> None:
    """Write the evidence page of an approval, and say where it lies."""
    from ml_registry_pipelines.lake.files import open_folder
    from ml_registry_pipelines.reports.evidence_page import evidence_page

    with open_log() as log:
        how = desk()
        one = _manager(log).approvals.get(approval)
        page = evidence_page(log, one.id, actor=how["actor"], tenant=how["tenant"])
    if out is not None:
        out.write_text(page, encoding="utf-8")
        click.echo(out)
        return
    home, path = Settings.from_environment().home, f"reports/evidence/{one.tenant}/{one.id}.html"
    open_folder(home).write(path, page.encode())
    click.echo(f"{home}/{path}")


@approvals.group("policy")
def approvals_policy() -> None:
    """The policy of approvals: what a version needs before it goes live."""


@approvals_policy.command("show")
def approvals_policy_show() -> None:
    """Print the policy that holds, as it is written."""
    from ml_registry_pipelines.compliance.policies.policy import FILE, policy_of, shipped_text
    from ml_registry_pipelines.lake.files import open_folder

    home = Settings.from_environment().home
    held = policy_of(home)
    click.echo(f"# {held.source}, digest {held.policy.digest[:12]}")
    click.echo(shipped_text() if held.shipped else open_folder(home).read(FILE).decode(), nl=False)


@approvals_policy.command("validate")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def approvals_policy_validate(file: Path | None) -> None:
    """Say what is wrong with FILE, by default with the home's policy, by line; nothing is changed."""
    from ml_registry_pipelines.compliance.policies.policy import PolicyError, policy_of, read_policy

    if file is None:
        held = policy_of(Settings.from_environment().home)
        click.echo(f"{held.source} is a policy, digest {held.policy.digest[:12]}")
        return
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as wrong:
        raise PolicyError(f"{file} cannot be read: {wrong}") from None
    click.echo(f"{file} is a policy, digest {read_policy(text, file=str(file)).digest[:12]}")


def _manager(log: Log) -> ComplianceManager:
    from ml_registry_pipelines.compliance.manager import ComplianceManager

    return ComplianceManager(log, **desk())


def _show(one: Approval) -> None:
    needed = ", ".join(f"{count} x {role}" for role, count in one.needed.items())
    more = "" if one.author_known or not one.needed else ", and one more, as nobody knows who registered it"
    show_lines(
        {
            "approval": one.id,
            "kind": one.kind.value.replace("_", " "),
            "version": one.reference,
            "status": one.status.value,
            "risk class": one.risk_class,
            "digest": one.bound.digest,
            "needs": needed + more,
            "requested": f"{one.requested_at:%Y-%m-%d %H:%M:%S}Z by {one.requested_by}",
            "registered": f"by {one.author}{'' if one.author_known else ', whom nobody knows'}",
            "until": f"{one.expires_at:%Y-%m-%d %H:%M}Z",
            "note": one.note,
            "because": "; ".join(one.reasons),
            "reviewed by": one.reviewed_by or "",
        }
    )
    for vote in one.votes:
        said = f": {vote.comment}" if vote.comment else ""
        show_lines({"vote": f"{vote.decision.value} by {vote.by} ({', '.join(vote.roles)}){said}"})
    for unmet in one.unmet:
        show_lines({"missing": unmet})
