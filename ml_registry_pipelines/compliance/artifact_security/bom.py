"""The bill of materials of a version: CycloneDX ML-BOM 1.6 or 1.7, derived from the registry and checked.

It lists the version as a machine-learning model with its model card (metrics with intervals, fairness
assessments, datasets by lineage), its files with digests, the base model, the licence and the packages
that its files ask for. Nothing in it is made up: what the registry does not know is left out. The same
facts give the same bytes, so that the same bill is kept once. No bill is kept that the strict schema
of CycloneDX refuses.

Schema: https://cyclonedx.org/docs/1.6/json/ (ECMA-424)
"""

from __future__ import annotations

import json
import math
import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ml_registry_pipelines.compliance.artifact_security.dependencies import dependencies_of
from ml_registry_pipelines.compliance.artifact_security.signatures import KIND as SIGNATURE
from ml_registry_pipelines.compliance.artifact_security.signatures import read_artifact
from ml_registry_pipelines.compliance.results import Area, Result
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.artifacts import ArtifactChanged
from ml_registry_pipelines.registry.versions import Artifact, Version, artifacts_of

if TYPE_CHECKING:
    from cyclonedx.validation.json import JsonStrictValidator

    from ml_registry_pipelines.compliance.evidence import Evidence
    from ml_registry_pipelines.registry.models import ModelRegistry

KIND = "bom"
_NAMESPACE = uuid.UUID("6ff5a2a6-3d57-4f0f-9d9a-5a9f6f0c4a11")
_MODEL = "model"


class BomFormat(Enum):
    """Versions of CycloneDX that are written."""

    V1_6 = "1.6"
    V1_7 = "1.7"


class BomInvalid(MlregError):
    """A bill of materials that its schema refuses; it is not kept."""


def store_bom(models: ModelRegistry, reference: str, form: BomFormat = BomFormat.V1_6) -> Version:
    """Make the bill of a version and add it to its artifacts, of the kind `bom`.

    Raises:
        BomInvalid: the schema refuses it; nothing was added.
    """
    version = models.get_version(reference)
    text = bom_text(models, version, form)
    with tempfile.TemporaryDirectory(prefix="mlreg-bom-") as folder:
        path = Path(folder) / "bom.cdx.json"
        path.write_text(text, encoding="utf-8")
        return models.add_artifact(version.id, Artifact(KIND, path))


def bom_text(models: ModelRegistry, version: Version, form: BomFormat = BomFormat.V1_6) -> str:
    """The bill as JSON, valid by the strict schema.

    Raises:
        BomInvalid: it is not.
    """
    text = json.dumps(make_bom(models, version, form), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    if wrong := invalidity(text, form):
        raise BomInvalid(f"the bill of materials of {version.reference} was not kept: {wrong}")
    return text


def invalidity(text: str, form: BomFormat) -> str:
    """What the strict schema says against a bill; empty: nothing."""
    found = _validator(form).validate_str(text)
    if found is None:
        return ""
    error: Any = found.data
    place = "/".join(str(step) for step in error.absolute_path)
    return f"{place or 'the document'}: {str(error.message)[:300]}"


@cache
def _validator(form: BomFormat) -> JsonStrictValidator:
    """Reading the schemas takes longer than checking a bill by them."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6 if form is BomFormat.V1_6 else SchemaVersion.V1_7)


def make_bom(models: ModelRegistry, version: Version, form: BomFormat) -> dict[str, Any]:
    """The bill of a version, not yet checked."""
    evidence = _evidence(models, version)
    datasets = _datasets(models, version)
    files = _files(models, version)
    packages = [
        {
            "type": "library",
            "bom-ref": f"package:{d.name}{'@' + d.version if d.version else ''}",
            "name": d.name,
            **({"version": d.version} if d.version else {}),
            "purl": f"pkg:pypi/{quote(d.name)}{'@' + quote(d.version) if d.version else ''}",
        }
        for d in dependencies_of(models.artifacts, version) or ()
    ]
    base = _base(models, version)
    components = [*files, *(d for d, _ in datasets), *base, *packages]
    # Not the newest state's time: adding this very bill would make it another one.
    first = models.view().history("model_versions", version.id)[0]
    made = max([first.recorded_at, *(e.recorded_at for e in evidence)])
    body: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{form.value}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": form.value,
        "version": 1,
        "metadata": {
            "timestamp": _time(made),
            "tools": {"components": [{"type": "application", "name": "ml-registry-pipelines"}]},
            "component": _model(models, version, evidence, datasets),
        },
        "components": components,
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [c["bom-ref"] for c in components if c["type"] != "file"]},
            *({"ref": c["bom-ref"]} for c in components),
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(body, sort_keys=True, ensure_ascii=False))
    return {**body, "serialNumber": f"urn:uuid:{serial}"}


def _model(
    models: ModelRegistry,
    version: Version,
    evidence: Sequence[Evidence],
    datasets: Sequence[tuple[dict[str, Any], str]],
) -> dict[str, Any]:
    results = [result for each in evidence for result in each.results]
    assessments = [_assessment(r) for r in results if r.area is Area.FAIRNESS]
    card: dict[str, Any] = {
        "modelParameters": {
            "datasets": [{"ref": dataset["bom-ref"]} for dataset, use in datasets if use == "trained_on"]
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                *({"type": name, "value": _figure(value)} for name, value in sorted(version.metrics.items())),
                *(_measured(r) for r in results if r.observed is not None and r.area is Area.FAIRNESS),
            ]
        },
    }
    if assessments:
        card["considerations"] = {"fairnessAssessments": assessments}
    properties = {
        "mlreg:tenant": models.tenant,
        "mlreg:version_id": version.id,
        "mlreg:framework": version.framework,
        "mlreg:code_commit": version.code_commit,
        "mlreg:parameters": json.dumps(version.parameters, sort_keys=True) if version.parameters else None,
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": version.model,
        "version": str(version.number),
        **({"description": version.description} if version.description else {}),
        "hashes": [{"alg": "SHA-256", "content": version.content_digest}],
        **_licences(version.licence),
        "modelCard": card,
        "properties": [{"name": n, "value": v} for n, v in properties.items() if v],
    }


def _licences(licence: str | None) -> dict[str, Any]:
    from cyclonedx.spdx import is_expression, is_supported_id

    if not licence:
        return {}
    if is_supported_id(licence):
        return {"licenses": [{"license": {"id": licence}}]}
    if is_expression(licence):
        return {"licenses": [{"expression": licence}]}
    return {"licenses": [{"license": {"name": licence}}]}


def _measured(result: Result) -> dict[str, Any]:
    """One measured value with its confidence interval, as CycloneDX spells a performance metric."""
    interval = result.interval
    return {
        "type": result.metric,
        "value": _figure(result.observed),
        **({"slice": result.about} if result.about else {}),
        **(
            {
                "confidenceInterval": {
                    "lowerBound": _figure(interval.low),
                    "upperBound": _figure(interval.high),
                }
            }
            if interval and math.isfinite(interval.low) and math.isfinite(interval.high)
            else {}
        ),
    }


def _assessment(result: Result) -> dict[str, Any]:
    """One fairness check: who may be harmed, and what was found."""
    bounds = [
        f"{word} {_figure(bound)}"
        for word, bound in (("at least", result.low), ("at most", result.high))
        if bound is not None
    ]
    at_risk = ", ".join(group.name for group in result.groups) or result.about or "not divided into groups"
    return {
        "groupAtRisk": at_risk,
        "harms": f"{result.metric}: {result.verdict.value}; {result.message}",
        "mitigationStrategy": f"Checked by suite {result.suite}; allowed is {' and '.join(bounds) or 'nothing else'}.",
    }


def _datasets(models: ModelRegistry, version: Version) -> list[tuple[dict[str, Any], str]]:
    """The dataset versions that it was trained and evaluated on, with the digest of their content."""
    view = models.view()
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for use, ids in (("trained_on", version.trained_on), ("evaluated_on", version.evaluated_on)):
        for dataset_id in ids:
            state = view.by_id("things", dataset_id)
            if state is None or dataset_id in found:
                continue
            seen = state.data.get("metadata", {})
            digest = str(seen.get("digest") or "")
            component = {
                "type": "data",
                "bom-ref": f"dataset:{dataset_id}",
                "name": state.name,
                "data": [{"type": "dataset", "name": state.name, "bom-ref": f"data:{dataset_id}"}],
                "properties": [
                    {"name": "mlreg:use", "value": use},
                    *([{"name": "mlreg:digest", "value": digest}] if digest else []),
                    *(
                        [{"name": "mlreg:rows", "value": str(seen["rows"])}]
                        if isinstance(seen.get("rows"), int)
                        else []
                    ),
                ],
            }
            if len(digest) == 64 and all(c in "0123456789abcdef" for c in digest):
                component["hashes"] = [{"alg": "SHA-256", "content": digest}]
            found[dataset_id] = (component, use)
    return list(found.values())


def _files(models: ModelRegistry, version: Version) -> list[dict[str, Any]]:
    """Each file with its digest. Signatures and earlier bills are about the version, and not of it."""
    found = []
    for artifact in artifacts_of(version):
        if artifact.kind in {KIND, SIGNATURE}:
            continue
        manifest = models.artifacts.manifest(artifact.digest)
        listed = [(f.path, f.sha256) for f in models.artifacts.files(artifact.digest)]
        if manifest["form"] == "uri":
            listed = [(manifest["uri"], manifest["sha256"])]
        found += [
            {
                "type": "file",
                "bom-ref": f"file:{artifact.digest[:12]}:{number}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "properties": [{"name": "mlreg:artifact", "value": f"{artifact.kind} {artifact.digest}"}],
            }
            for number, (path, sha256) in enumerate(listed)
        ]
        if manifest["form"] == "hosted":
            found.append(
                {
                    "type": "machine-learning-model",
                    "bom-ref": f"hosted:{artifact.digest[:12]}",
                    "name": manifest["snapshot"],
                    "publisher": manifest["provider"],
                    "hashes": [{"alg": "SHA-256", "content": artifact.digest}],
                }
            )
    return found


def _base(models: ModelRegistry, version: Version) -> list[dict[str, Any]]:
    if version.base_version is None:
        return []
    base = models.get_version(version.base_version)
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"base:{base.id}",
            "name": base.model,
            "version": str(base.number),
            "hashes": [{"alg": "SHA-256", "content": base.content_digest}],
            **_licences(base.licence),
        }
    ]


def _evidence(models: ModelRegistry, version: Version) -> list[Evidence]:
    """The newest run of checks of this very content."""
    from ml_registry_pipelines.compliance.evidence import evidence

    runs = evidence(models.log.lake, models.tenant, version_id=version.id, limit=20)
    return [
        run
        for run in runs
        if any(
            r.area is Area.FAIRNESS and r.subject and r.subject.content_digest == version.content_digest
            for r in run.results
        )
    ][:1]


def _figure(value: float | None) -> str:
    """A number as text, with all its digits."""
    return "" if value is None else str(value)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- whether it still says what the registry says ---------------------------------------------------------


def bom_mismatches(models: ModelRegistry, version: Version) -> list[str]:
    """What the newest bill says otherwise than the registry, in sentences; that there is none, too."""
    kept = [artifact for artifact in artifacts_of(version) if artifact.kind == KIND]
    if not kept:
        return ["it has no bill of materials; mlreg bom makes one"]
    try:
        ((_, data),) = read_artifact(models.artifacts, kept[-1].digest)
        given = json.loads(data)
        form = BomFormat(given["specVersion"])
        if wrong := invalidity(data.decode(), form):
            return [f"its bill of materials is not valid: {wrong}"]
    except ArtifactChanged as failure:
        return [str(failure)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ["its bill of materials is no CycloneDX 1.6 or 1.7"]
    return _compared(given, make_bom(models, version, form))


def _compared(given: dict[str, Any], now: dict[str, Any]) -> list[str]:
    wrong = []
    old, new = (bom.get("metadata", {}).get("component", {}) for bom in (given, now))
    for field, name in (
        ("name", "another model"),
        ("version", "another version"),
        ("licenses", "another licence"),
    ):
        if old.get(field) != new.get(field):
            wrong.append(f"its bill of materials is of {name}")
    if old.get("hashes") != new.get("hashes"):
        wrong.append("its bill of materials has another digest of the content")
    listed, there = ({_line(c) for c in bom.get("components", [])} for bom in (given, now))
    wrong += [f"the bill of materials lacks {what}" for what, _ in sorted(there - listed)]
    wrong += [
        f"the bill of materials has {what}, which the registry has not" for what, _ in sorted(listed - there)
    ]
    return wrong


def _line(component: dict[str, Any]) -> tuple[str, str]:
    digests = json.dumps(component.get("hashes", []), sort_keys=True)
    return f"{component.get('type')} {component.get('name')} {component.get('version', '')}".strip(), digests
