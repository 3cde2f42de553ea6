"""What the log knows of evidence: its digest, so that a result that was changed afterwards is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.evidence import Evidence
    from ml_registry_pipelines.registry.states import State
    from ml_registry_pipelines.registry.view import View

KIND = "compliance_evidence"


def state_of_evidence(evidence: Evidence, *, window: tuple[str, str] | None = None) -> dict[str, Any]:
    """The state that the log keeps of one run of suites: no value, but what all values come to."""
    subject = next((result.subject for result in evidence.results), None)
    return {
        "name": evidence.evidence_id,
        "parent_id": subject and subject.version_id,
        "description": "",
        "status": "active",
        "metadata": {
            "digest": evidence.digest,
            "results": len(evidence.results),
            "verdict": evidence.verdict.value,
            "verdicts": dict(Counter(result.verdict.value for result in evidence.results)),
            "suites": {result.suite: result.suite_digest for result in evidence.results},
            "version_id": subject and subject.version_id,
            "content_digest": subject and subject.content_digest,
            "window": window and list(window),
        },
    }


def newest_runs(view: View, version_id: str) -> dict[str, State]:
    """The last run of each suite on a version as the log knows it, whatever has become of its results."""
    found: dict[str, State] = {}
    for state in sorted(view.by_column("things", "parent_id", version_id), key=lambda s: s.sequence):
        if state.entity_type == KIND and not state.deleted:
            found.update(dict.fromkeys(state.data["metadata"]["suites"], state))
    return found


def tampering(view: View, evidence: Evidence) -> str:
    """Why results that were read are not those that were recorded, in a sentence; empty where they are."""
    state = view.by_id("things", evidence.evidence_id)
    if state is None or state.entity_type != KIND:
        return f"the log knows no evidence {evidence.evidence_id}: it was not made by a run of checks, or not finished"
    held: Mapping[str, Any] = state.data["metadata"]
    if held["digest"] != evidence.digest:
        return (
            f"the results of evidence {evidence.evidence_id} are not those that were recorded: "
            f"event {state.sequence} has digest {held['digest'][:12]}, they have {evidence.digest[:12]}"
        )
    return ""
