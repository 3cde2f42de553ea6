"""The evidence: results of checks, kept as rows, and the digest that an approval is bound to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ml_registry_pipelines.compliance.results import (
    Area,
    Group,
    Interval,
    Result,
    Severity,
    Subject,
    Verdict,
    worst,
)
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.tables.compliance import COMPLIANCE_RESULTS
from ml_registry_pipelines.registry.actors import Actor
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.events import new_id

TABLE = COMPLIANCE_RESULTS.name
SOURCE = "checks"


@dataclass(frozen=True)
class Evidence:
    """The results of one run of suites, on one version or on a tenant as a whole."""

    evidence_id: str
    tenant: str
    recorded_at: datetime
    actor: str
    results: tuple[Result, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the critical ones; where none is critical, of all."""
        critical = [r.verdict for r in self.results if r.severity is Severity.CRITICAL]
        return worst(critical or [r.verdict for r in self.results])

    @property
    def digest(self) -> str:
        """SHA-256 over what was found and by which rule, without ids and times.

        Checked again with nothing changed, it is the same; any other value, threshold, suite, data,
        legal text or code of a check gives another one. Versions of tables are left out: a log grows.
        """
        return digest(sorted((_bound(result) for result in self.results), key=json.dumps))


def record(
    lake: Lake, results: Sequence[Result], *, tenant: str, actor: Actor, run_id: str | None = None
) -> Evidence:
    """Keep the results of one run of suites, in one commit.

    Raises:
        ValueError: there are none, or one is of another tenant.
    """
    import pyarrow as pa

    if not results or any(r.tenant != tenant for r in results):
        raise ValueError("evidence is a run of checks of one tenant")
    now = datetime.now(UTC)
    evidence_id = new_id()
    results = [replace(result, code_version=code_version()) for result in results]
    rows = [
        {
            **_row(result),
            "result_id": new_id(),
            "evidence_id": evidence_id,
            "recorded_at": now,
            "measured_at": result.measured_at or now,
            "actor": actor.id,
            "run_id": run_id,
        }
        for result in results
    ]
    lake.append_next(TABLE, pa.Table.from_pylist(rows, schema=COMPLIANCE_RESULTS.schema), source=SOURCE)
    return Evidence(evidence_id, tenant, now, actor.id, tuple(results))


def evidence(
    lake: Lake,
    tenant: str,
    *,
    version_id: str | None = None,
    evidence_id: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Evidence]:
    """Runs of suites of a tenant, newest first: of a version, one run, or all since an instant."""
    with lake.read(TABLE) as reading:
        if reading.is_empty(TABLE):
            return []
        rows = reading.query(
            "compliance.evidence",
            """
            WITH runs AS (
                SELECT evidence_id, max(recorded_at) AS made FROM compliance_results
                WHERE tenant = $tenant
                    AND ($version IS NULL OR version_id = $version)
                    AND ($evidence IS NULL OR evidence_id = $evidence)
                    AND ($since IS NULL OR recorded_at >= $since)
                GROUP BY evidence_id ORDER BY made DESC, evidence_id LIMIT $limit
            )
            SELECT results.* FROM compliance_results AS results JOIN runs USING (evidence_id)
            WHERE tenant = $tenant
            ORDER BY runs.made DESC, evidence_id, area, suite, check_name, about
            """,
            {
                "tenant": tenant,
                "version": version_id,
                "evidence": evidence_id,
                "since": since,
                "limit": limit,
            },
        ).to_pylist()
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["evidence_id"], []).append(row)
    return [
        Evidence(name, tenant, of[0]["recorded_at"], of[0]["actor"], tuple(map(_result, of)))
        for name, of in runs.items()
    ]


@cache
def code_version() -> str:
    """Version of the package, and a digest of the modules that check."""
    found = sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(str(path.relative_to(Path(__file__).parent)).encode() + b"\0" + path.read_bytes())
    try:
        installed = version("ml-registry-pipelines")
    except PackageNotFoundError:
        installed = "0"
    return f"{installed}+{found.hexdigest()[:16]}"


def _bound(result: Result) -> dict[str, Any]:
    return {name: value for name, value in _row(result).items() if name != "table_versions"}


def _row(result: Result) -> dict[str, Any]:
    subject, interval = result.subject, result.interval
    return {
        "tenant": result.tenant,
        "model_id": subject and subject.model_id,
        "version_id": subject and subject.version_id,
        "content_digest": subject and subject.content_digest,
        "area": result.area.value,
        "suite": result.suite,
        "suite_digest": result.suite_digest,
        "check_name": result.check,
        "metric": result.metric,
        "about": result.about,
        "verdict": result.verdict.value,
        "severity": result.severity.value,
        "message": result.message,
        "article": result.article,
        "observed": _number(result.observed),
        "interval_low": _number(interval.low if interval else None),
        "interval_high": _number(interval.high if interval else None),
        "confidence": _number(interval.confidence if interval else None),
        "interval_method": interval and interval.method,
        "bound_low": _number(result.low),
        "bound_high": _number(result.high),
        "unit": result.unit,
        "reference": result.reference,
        "n": result.n,
        "groups": _json([asdict(group) for group in result.groups]),
        "parameters": _json(result.parameters),
        "detail": _json(result.detail),
        "table_versions": _json(result.table_versions),
        "data_digest": result.data_digest,
        "law": result.law,
        "code_version": result.code_version,
    }


def _result(row: Mapping[str, Any]) -> Result:
    subject = None
    if row["version_id"] is not None:
        subject = Subject(row["tenant"], row["model_id"], row["version_id"], "", row["content_digest"])
    return Result(
        tenant=row["tenant"],
        area=Area(row["area"]),
        suite=row["suite"],
        suite_digest=row["suite_digest"],
        check=row["check_name"],
        metric=row["metric"],
        verdict=Verdict(row["verdict"]),
        severity=Severity(row["severity"]),
        message=row["message"],
        article=row["article"],
        observed=row["observed"],
        interval=_interval(
            row["interval_low"], row["interval_high"], row["confidence"], row["interval_method"]
        ),
        low=row["bound_low"],
        high=row["bound_high"],
        unit=row["unit"],
        about=row["about"],
        reference=row["reference"],
        groups=tuple(_group(group) for group in json.loads(row["groups"])),
        n=row["n"],
        parameters=json.loads(row["parameters"]),
        detail=json.loads(row["detail"]),
        table_versions=json.loads(row["table_versions"]),
        data_digest=row["data_digest"],
        law=row["law"],
        subject=subject,
        code_version=row["code_version"],
        measured_at=row["measured_at"],
    )


def _group(given: Mapping[str, Any]) -> Group:
    inner = given["interval"]
    return Group(**{**given, "interval": Interval(**inner) if inner else None})


def _interval(
    low: float | None, high: float | None, confidence: float | None, method: str | None
) -> Interval | None:
    if low is None or high is None or confidence is None:
        return None
    return Interval(low, high, confidence, method or "")


def _number(value: float | None) -> float | None:
    """NaN is no measured value, and equal to nothing; an infinity cannot be written as JSON."""
    return float(value) if value is not None and math.isfinite(value) else None


def _json(value: object) -> str:
    return json.dumps(_finite(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value
