"""`mlreg scan|sign|verify-signature|bom`: whether what versions are made of can be trusted, from a shell.

A door and no more; `main.py` attaches these commands.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_registry_pipelines.cli.support import Number, open_log, registry_of, tenant, tenant_option

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.artifact_security.findings import FileScan

PASSWORD = "MLREG_SIGNING_PASSWORD"  # noqa: S105 - the name of a setting


def attach(group: click.Group) -> None:
    """Add the commands."""
    for command in (scan, sign, verify_signature, bom):
        group.add_command(command)


@click.command("scan")
@click.argument("target")
@click.option("--again", is_flag=True, help="Of a version: scan anew what was scanned before.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all findings.")
@click.option("--seconds", type=Number(1), help="Time for one file.")
@click.option("--memory-gb", type=Number(1), help="Memory for one file.")
@tenant_option
def scan(target: str, again: bool, as_json: bool, seconds: float | None, memory_gb: float | None) -> None:
    """Look for harm in a file, a folder or a version, without loading anything of it.

    TARGET is a path, or MODEL@v3, MODEL@ALIAS, MODEL@production. Each file is clean, flagged
    (it does what no model needs) or refused (nobody can say what it does). The exit status is 1
    unless all are clean.
    """
    from ml_registry_pipelines.compliance.artifact_security.findings import FileVerdict, worst_verdict
    from ml_registry_pipelines.compliance.artifact_security.guard import Limits
    from ml_registry_pipelines.compliance.artifact_security.scans import scan_path, scan_version
    from ml_registry_pipelines.registry.states import MODEL_VERSION

    base = Limits()
    limits = Limits(
        int(memory_gb * 2**30) if memory_gb else base.memory,
        max(1, int(seconds)) if seconds else base.processor_seconds,
        seconds or base.seconds,
    )
    elsewhere: tuple[str, ...] = ()
    if Path(target).exists():
        files = tuple(scan_path(Path(target), limits=limits))
        verdict = worst_verdict(f.verdict for f in files) if files else FileVerdict.REFUSED
    else:
        with open_log() as log:
            models = registry_of(log)
            version = models.get_version(target)
            # What is found is kept, and gates read it.
            models.ask("run_compliance_checks", MODEL_VERSION, {"version": target})
            found = scan_version(log.lake, tenant(), version, models.artifacts, again=again, limits=limits)
        files, elsewhere, verdict = found.files, found.elsewhere, found.verdict
    if as_json:
        click.echo(
            json.dumps({"verdict": verdict.value, "files": [_json(f) for f in files], "elsewhere": elsewhere})
        )
    else:
        _show(files)
        for why in elsewhere:
            click.echo(f"refused  {why}")
        click.echo(f"{target} is {verdict.value}: {len(files):,} {'file' if len(files) == 1 else 'files'}")
    sys.exit(0 if verdict is FileVerdict.CLEAN else 1)


def _show(files: tuple[FileScan, ...]) -> None:
    now = datetime.now(UTC)
    for file in files:
        age = f", scanned {(now - file.scanned_at).days} days ago" if file.scanned_at else ""
        click.echo(f"{file.verdict.value:<8} {file.name}  ({', '.join(file.formats)}{age})")
        for finding in file.findings:
            click.echo(f"         {finding.check.value}: {finding.text}")
        for note in file.notes:
            click.echo(f"         note: {note}")


def _json(file: FileScan) -> dict[str, object]:
    return {
        "name": file.name,
        "sha256": file.sha256,
        "size": file.size,
        "verdict": file.verdict.value,
        "formats": list(file.formats),
        "findings": [
            {"check": f.check.value, "verdict": f.verdict.value, "where": f.where, "what": f.what}
            for f in file.findings
        ],
        "notes": list(file.notes),
        "scanner": file.scanner,
        "scanned_at": file.scanned_at.isoformat() if file.scanned_at else None,
    }


@click.command("sign")
@click.argument("version", required=False)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Private P-256 key as PEM; never on the platform.",
)
@click.option(
    "--make-keys",
    nargs=2,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PRIVATE PUBLIC",
    help="Write a new pair of keys, and sign nothing.",
)
@tenant_option
def sign(version: str | None, key: Path | None, make_keys: tuple[Path, Path] | None) -> None:
    """Sign all that VERSION is made of with an offline key, and add the signatures to it.

    The files are verified first. A key's password is taken from MLREG_SIGNING_PASSWORD. The format is
    that of OpenSSF model signing; no certificate authority and no transparency log is asked.
    """
    from ml_registry_pipelines.compliance.artifact_security.signatures import make_signing_keys, sign_version

    password = os.environ.get(PASSWORD) or None
    if make_keys:
        if version or key:
            raise click.UsageError("--make-keys stands alone")
        make_signing_keys(*make_keys, password=password)
        click.echo(f"{make_keys[0]} signs, {make_keys[1]} verifies: name the second in MLREG_TRUSTED_KEYS")
        return
    if not version or not key:
        raise click.UsageError("sign wants VERSION and --key, or --make-keys")
    with open_log() as log:
        signed, added = sign_version(registry_of(log), version, key, password=password)
    already = "" if added else "; all of it was signed with this key before"
    click.echo(f"{signed.reference}: {added} {'signature' if added == 1 else 'signatures'} added{already}")


@click.command("verify-signature")
@click.argument("version")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Public key, or a folder of them; default: those of MLREG_TRUSTED_KEYS.",
)
@tenant_option
def verify_signature(version: str, keys: tuple[Path, ...]) -> None:
    """Verify every file of VERSION and its signatures by trusted keys; exit status 1 unless all hold."""
    from ml_registry_pipelines.compliance.artifact_security.signatures import (
        trusted_keys,
        verify_version_signatures,
    )

    trusted = trusted_keys(os.pathsep.join(map(str, keys)) if keys else None)
    with open_log() as log:
        models = registry_of(log)
        found = verify_version_signatures(models.artifacts, models.get_version(version), trusted)
    for each in found:
        said = f"signed by {each.key[:16]}" if each.key else f"NOT VERIFIED: {each.problem}"
        click.echo(f"{each.kind} {each.digest[:12]}  {said}")
    sys.exit(0 if all(each.key for each in found) else 1)


@click.command("bom")
@click.argument("version")
@click.option("--cyclonedx", "form", type=click.Choice(["1.6", "1.7"]), default="1.6", show_default=True)
@click.option("--show", is_flag=True, help="Print it, and add nothing to the version.")
@tenant_option
def bom(version: str, form: str, show: bool) -> None:
    """Make the bill of materials of VERSION (CycloneDX ML-BOM), check it by its schema, and keep it."""
    from ml_registry_pipelines.compliance.artifact_security.bom import BomFormat, bom_text, store_bom

    with open_log() as log:
        models = registry_of(log)
        if show:
            click.echo(bom_text(models, models.get_version(version), BomFormat(form)), nl=False)
            return
        kept = store_bom(models, version, BomFormat(form))
    digest = next(a["digest"] for a in reversed(kept.artifacts) if a["kind"] == "bom")
    click.echo(f"{kept.reference}: bom {digest}, valid CycloneDX {form}")
