"""The fourteen checks of a version's artifacts as metrics: how many things are wrong, and in which file.

A file that was flagged counts its findings; one that was refused could not be checked, and says why.
The numbers S1 to S14 are those of the audit of artifacts; what each looks for is in the docstrings of
`scanning.py`, `signatures.py` and `bom.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pydantic import Field

from ml_registry_pipelines.compliance.artifact_security.findings import Check, FileScan, FileVerdict
from ml_registry_pipelines.compliance.metrics import Bound, Context, Metric, Parameters
from ml_registry_pipelines.compliance.results import Area, Measured
from ml_registry_pipelines.registry.actors import BY_PLATFORM, Actor, ActorKind
from ml_registry_pipelines.registry.artifacts import ArtifactChanged, ArtifactElsewhere
from ml_registry_pipelines.registry.content import ArtifactError
from ml_registry_pipelines.registry.versions import Version, artifacts_of

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.artifact_security.scans import VersionScan
    from ml_registry_pipelines.registry.models import ModelRegistry

SOURCE = (
    "OWASP Machine Learning Security Top 10 (2023), ML06 and ML10; CycloneDX 1.6; OpenSSF Model Signing 1.0"
)
ARTICLES = ("AI Act 15(5)", "GDPR 32")
MOST_FILES = 100
"""Files of which a metric tells one by one."""
MOST_LISTED = 20
_SCAN = "artifact_security.scan"
CHECKER = Actor("artifact-security", ActorKind.SYSTEM, BY_PLATFORM)


class NoParameters(Parameters):
    """None."""


class Formats(Parameters):
    """Which formats may be in an artifact, such as safetensors, onnx, text, numpy and zip."""

    allowed: list[str] = Field(min_length=1)


class Kinds(Parameters):
    """Which artifacts have to be signed: `content`, and kinds such as `checkpoint` or `bom`."""

    kinds: list[str] = Field(min_length=1)


class Age(Parameters):
    """How long ago a scan may be."""

    max_days: int = Field(ge=1)


def version_of(context: Context) -> tuple[ModelRegistry, Version]:
    """The version that is checked.

    Raises:
        ArtifactError: it is another one than was meant: its content digest differs.
    """
    from ml_registry_pipelines.registry.models import ModelRegistry

    assert context.subject is not None
    models = ModelRegistry(context.log, actor=CHECKER, tenant=context.tenant)
    version = models.get_version(context.subject.version_id)
    if version.content_digest != context.subject.content_digest:
        raise ArtifactError(f"{version.reference} has another content than the one that was to be checked")
    return models, version


def scan_of(context: Context) -> VersionScan:
    """What the scan says of the version, from before where the same scanner has looked at it."""
    from ml_registry_pipelines.compliance.artifact_security.scans import scan_version

    if _SCAN not in context.memo:
        models, version = version_of(context)
        context.memo[_SCAN] = scan_version(context.lake, context.tenant, version, models.artifacts)
    found: VersionScan = context.memo[_SCAN]
    return found


# -- of files -------------------------------------------------------------------------------------------


def _of_files(name: str, *checks: Check) -> Callable[[Context, Parameters], Sequence[Measured]]:
    def measure(context: Context, _: Parameters) -> Sequence[Measured]:
        scan = scan_of(context)
        return [*_unread(name, scan), *_told(name, scan, [(f, _counted(f, checks)) for f in scan.files])]

    return measure


def _counted(file: FileScan, checks: Sequence[Check]) -> tuple[int, list[str], list[str]]:
    """How many findings, their texts, and why the file was refused.

    A file of whose contents nothing is known passes no check of contents.
    """
    found = file.of(*checks)
    unknown = [f for f in file.findings if f.verdict is FileVerdict.REFUSED and f.check is Check.FORMAT]
    flagged = [f.text for f in found if f.verdict is FileVerdict.FLAGGED]
    refused = [f.text for f in (*found, *unknown) if f.verdict is FileVerdict.REFUSED]
    return len(flagged), flagged, refused


def _told(
    name: str, scan: VersionScan, counted: Sequence[tuple[FileScan, tuple[int, list[str], list[str]]]]
) -> Iterator[Measured]:
    bad = [(file, count) for file, count in counted if count[0] or count[2]]
    for file, (count, flagged, refused) in bad[:MOST_FILES]:
        yield Measured(
            name,
            float(count) if count else None,
            about=file.name,
            unit="findings",
            n=1,
            detail=_detail(file, [*flagged, *refused]),
            problem="" if count else f"{file.name} was refused: {refused[0]}",
        )
    if len(bad) > MOST_FILES:
        yield Measured(name, float(len(bad)), about="more files", unit="findings", n=len(bad))
    if not bad and scan.files:
        yield Measured(
            name,
            0.0,
            unit="findings",
            n=len(scan.files),
            detail={"scanner": scan.files[0].scanner, "formats": list(scan.formats)},
        )


def _unread(name: str, scan: VersionScan) -> Iterator[Measured]:
    problems = scan.elsewhere or (() if scan.files else ("the version has no files",))
    for why in problems:
        yield Measured(name, None, about=why.partition(":")[0], problem=why)


def _detail(file: FileScan, findings: Sequence[str]) -> dict[str, object]:
    return {
        "sha256": file.sha256,
        "scanner": file.scanner,
        "formats": list(file.formats),
        "findings": list(findings[:MOST_LISTED]),
        "notes": list(file.notes[:MOST_LISTED]),
    }


def _formats(context: Context, parameters: Formats) -> Sequence[Measured]:
    """S2: formats outside the list, and files that are not what their format demands."""
    scan = scan_of(context)
    allowed = {form.strip().lower() for form in parameters.allowed}
    counted = []
    for file in scan.files:
        beyond = [f"it holds {form}, which is not allowed" for form in file.formats if form not in allowed]
        count, flagged, refused = _counted(file, [Check.FORMAT])
        counted.append((file, (count + len(beyond), [*flagged, *beyond], refused)))
    return [*_unread(S2, scan), *_told(S2, scan, counted)]


def _hashes(context: Context, _: NoParameters) -> Sequence[Measured]:
    """S1: every file is read, and its SHA-256 compared with the registered one."""
    models, version = version_of(context)
    found = []
    for artifact in artifacts_of(version):
        about = f"{artifact.kind} {artifact.digest[:12]}"
        try:
            models.artifacts.verify(artifact.digest)
            found.append(Measured(S1, 0.0, about=about, unit="files", n=artifact.files))
        except ArtifactChanged as failure:
            found.append(
                Measured(
                    S1, 1.0, about=about, unit="files", n=artifact.files, detail={"findings": [str(failure)]}
                )
            )
        except ArtifactElsewhere as failure:
            if artifact.form != "hosted":
                found.append(Measured(S1, None, about=about, problem=str(failure)))
    return found or [
        Measured(S1, None, problem="a hosted model has no files whose digests could be compared")
    ]


def _age(context: Context, parameters: Age) -> Sequence[Measured]:
    """S14: files whose scan is longer ago than allowed. The age itself, new every day, would make evidence new."""
    scan = scan_of(context)
    if not scan.files:
        return list(_unread(S14, scan))
    most = timedelta(days=parameters.max_days)
    late = [f.name for f in scan.files if f.scanned_at is None or context.at - f.scanned_at > most]
    detail = {"scanner": scan.files[0].scanner, "findings": late[:MOST_LISTED]}
    return [Measured(S14, float(len(late)), unit="files", n=len(scan.files), detail=detail)]


# -- of the version -------------------------------------------------------------------------------------


def _signatures(context: Context, parameters: Kinds) -> Sequence[Measured]:
    """S6: artifacts without a signature by a trusted key that holds."""
    from ml_registry_pipelines.compliance.artifact_security.signatures import (
        SignatureError,
        trusted_keys,
        verify_version_signatures,
    )

    models, version = version_of(context)
    try:
        keys = trusted_keys()
    except SignatureError as failure:
        return [Measured(S6, None, problem=str(failure))]
    signed = verify_version_signatures(models.artifacts, version, keys, bytes_too=False)
    found = [
        Measured(
            S6,
            0.0 if each.key else 1.0,
            about=f"{each.kind} {each.digest[:12]}",
            unit="artifacts",
            n=1,
            detail={"key": each.key} if each.key else {"findings": [each.problem]},
        )
        for each in signed
        if each.kind in parameters.kinds
    ]
    missing = sorted(set(parameters.kinds) - {each.kind for each in signed})
    return found + [Measured(S6, None, about=kind, problem=f"the version has no {kind}") for kind in missing]


def _bom(context: Context, _: NoParameters) -> Sequence[Measured]:
    """S7: what the newest bill of materials says otherwise than the registry, or that there is none."""
    from ml_registry_pipelines.compliance.artifact_security.bom import bom_mismatches

    models, version = version_of(context)
    wrong = bom_mismatches(models, version)
    return [Measured(S7, float(len(wrong)), unit="findings", n=1, detail={"findings": wrong[:MOST_LISTED]})]


def _dependencies(context: Context, _: NoParameters) -> Sequence[Measured]:
    """S8: a missing list of dependencies or licence, an unknown licence, dependencies without exact versions."""
    from ml_registry_pipelines.compliance.artifact_security.dependencies import dependencies_of, known_licence

    models, version = version_of(context)
    wrong = []
    if version.content["form"] != "hosted":
        listed = dependencies_of(models.artifacts, version)
        if listed is None:
            wrong.append("no list of dependencies, such as requirements.txt, is among its artifacts")
        wrong += [f"{d.name} has no exact version" for d in listed or () if d.version is None]
    if not version.licence:
        wrong.append("no licence is recorded")
    elif not known_licence(version.licence):
        wrong.append("its licence is no SPDX licence id or expression")
    return [Measured(S8, float(len(wrong)), unit="findings", n=1, detail={"findings": wrong[:MOST_LISTED]})]


def _base_model(context: Context, _: NoParameters) -> Sequence[Measured]:
    """S10: what is not known of the model that it was made from, or a base that its files name and nobody recorded."""
    from ml_registry_pipelines.compliance.artifact_security.dependencies import named_bases
    from ml_registry_pipelines.compliance.artifact_security.scans import kept

    models, version = version_of(context)
    wrong = []
    if version.base_version is None:
        wrong += [
            f"{path} names a base model, and none is recorded"
            for path in named_bases(models.artifacts, version)
        ]
        return [
            Measured(S10, float(len(wrong)), unit="findings", n=1, detail={"findings": wrong[:MOST_LISTED]})
        ]
    state = models.view().by_id("model_versions", version.base_version)
    if state is None or state.deleted:
        wrong.append("the version that it was made from is deleted")
    else:
        base = models.get_version(version.base_version)
        if not base.licence:
            wrong.append(f"{base.reference}, from which it was made, has no licence")
        files = (
            models.artifacts.files(base.content_digest) if base.content["form"] in {"file", "folder"} else []
        )
        scans = kept(context.lake, context.tenant, [file.sha256 for file in files])
        for file in files:
            scan = scans.get((file.sha256, PurePosixPath(file.path).name))
            if scan is None:
                wrong.append(f"{base.reference}: {file.path} was never scanned; run mlreg scan on it")
            elif scan.verdict is not FileVerdict.CLEAN:
                wrong.append(f"{base.reference}: {file.path} is {scan.verdict.value}")
    return [
        Measured(
            S10,
            float(len(wrong)),
            unit="findings",
            n=1,
            detail={"base_version": version.base_version, "findings": wrong[:MOST_LISTED]},
        )
    ]


# -- the catalogue --------------------------------------------------------------------------------------

S1 = "security_s1_hash_mismatches"
S2 = "security_s2_disallowed_formats"
S3 = "security_s3_pickle_findings"
S4 = "security_s4_archive_anomalies"
S5 = "security_s5_code_in_artifacts"
S6 = "security_s6_unsigned_artifacts"
S7 = "security_s7_bom_mismatches"
S8 = "security_s8_dependency_gaps"
S9 = "security_s9_secrets"
S10 = "security_s10_base_model_gaps"
S11 = "security_s11_external_data_paths"
S12 = "security_s12_chat_template_findings"
S13 = "security_s13_gguf_anomalies"
S14 = "security_s14_stale_scans"


def _metric(
    name: str,
    title: str,
    measure: Callable[[Context, Parameters], Sequence[Measured]] | Callable[..., Sequence[Measured]],
    parameters: type[Parameters] = NoParameters,
) -> Metric:
    return Metric(
        name, title, Area.SECURITY, Bound.AT_MOST, parameters, measure, articles=ARTICLES, source=SOURCE
    )


METRICS: tuple[Metric, ...] = (
    _metric(S1, "Files whose digest is not the registered one", _hashes),
    _metric(S2, "Files of formats that are not allowed, or not what their format demands", _formats, Formats),
    _metric(S3, "What pickles would call beyond the list of harmless globals", _of_files(S3, Check.PICKLE)),
    _metric(S4, "Anomalies of archives: checksums, paths, bombs, overlaps", _of_files(S4, Check.ARCHIVE)),
    _metric(S5, "Code in artifacts: Lambda layers, TorchScript, custom operators", _of_files(S5, Check.CODE)),
    _metric(S6, "Artifacts without a signature by a trusted key", _signatures, Kinds),
    _metric(S7, "What the bill of materials says otherwise than the registry", _bom),
    _metric(S8, "Gaps in the list of dependencies and the licence", _dependencies),
    _metric(S9, "Secrets in configurations and notebooks", _of_files(S9, Check.SECRETS)),
    _metric(S10, "Gaps in the provenance of the base model", _base_model),
    _metric(S11, "External data of ONNX models outside their folder", _of_files(S11, Check.EXTERNAL)),
    _metric(S12, "What chat templates do beyond formatting a chat", _of_files(S12, Check.TEMPLATE)),
    _metric(S13, "Headers of GGUF files that do not add up", _of_files(S13, Check.GGUF)),
    _metric(S14, "Files whose scan is longer ago than allowed", _age, Age),
)
