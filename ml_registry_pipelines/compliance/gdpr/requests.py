"""All requests of subjects: those of the register, and erasures, which carry out what they were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.gdpr.entries import DataRequest, RequestKind
from ml_registry_pipelines.compliance.gdpr.registers import entries_of
from ml_registry_pipelines.registry.states import DATASET_VERSION, State, from_rows

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.view import View

ERASURE = "erasure_request"
"""Entity type of an erasure that is carried out here."""
EXPORT = "subject_export"
"""Entity type of a bundle that was made for a subject."""


def all_requests(view: View) -> list[DataRequest]:
    """Requests of one tenant: of the register, and erasures.

    One of the register that was closed with the certificate of an erasure is shown by what that came to.
    """
    states = view.select("gdpr.erasures", "things", "type = $type", parameters={"type": ERASURE})
    erasures = [_erasure(view, state) for state in states]
    certified = {one.certificate: one for one in erasures if one.certificate}
    return [*(_shown_by(certified, one) for one in entries_of(view, DataRequest)), *erasures]


def _shown_by(certified: Mapping[str, DataRequest], request: DataRequest) -> DataRequest:
    erasure = certified.get(request.certificate) if request.certificate else None
    if erasure is None or request.plan or request.needle:
        return request
    return request.model_copy(update={"roots": erasure.roots, "plan": erasure.plan, "needle": erasure.needle})


def erasures_of_all(log: Log) -> list[tuple[str, DataRequest]]:
    """Erasures of all tenants, each with its tenant."""
    view = log.view("default")
    rows = view.of_all_tenants(
        "gdpr.all_erasures", "things", "SELECT * FROM current WHERE type = $type", {"type": ERASURE}
    )
    return [(state.tenant, _erasure(None, state)) for state in from_rows("things", rows)]


def _erasure(view: View | None, state: State) -> DataRequest:
    data: dict[str, Any] = state.data["metadata"]
    items: list[dict[str, Any]] = data.get("items") or []
    ids = [str(item["id"]) for item in items]
    known = [] if view is None else view.by_any("things", "id", ids)
    verdict = str(data.get("verdict") or "")
    needle: dict[str, int] = dict(data.get("needle") or {})
    done, received = data.get("completed_at"), datetime.fromisoformat(data["received_at"])
    return DataRequest(
        name=state.id,
        subject=_short(str(data["subject"])),
        kind=RequestKind.ERASURE,
        received_at=received,
        # It can be extended within the first month alone.
        extended_at=received if data.get("extended") else None,
        extension_reason="told" if data.get("extended") else "",
        closed_at=None if done is None else datetime.fromisoformat(done),
        outcome=verdict,
        roots=tuple(s.id for s in known if s.entity_type == DATASET_VERSION),
        plan={str(item["id"]): _step(item) for item in items},
        needle=needle,
        certificate=data.get("certificate") or None,
    )


def _step(item: Mapping[str, Any]) -> str:
    """The step of a plan as the register writes it; one that nobody confirmed is none."""
    if not item.get("confirmed_by"):
        return ""
    ground = str(item.get("ground") or "")
    return f"{item['action']}: {ground}"[:2_000] if ground else str(item["action"])


def _short(subject: str) -> str:
    """The beginning of a keyed hash tells subjects apart."""
    return f"subject-{subject[:32]}"
