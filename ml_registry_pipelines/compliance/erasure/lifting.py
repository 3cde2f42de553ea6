"""Who was erased by mistake may be taken again: their entries leave the suppression list, and the log says why.

What was erased stays erased, and so does what a resend of the same records would bring: it counts as
duplicates of what is left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.words import impersonal
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.telemetry.suppression import TABLE, entries_of, suppression_key

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.erasure.requests import ErasureRequests
    from ml_registry_pipelines.compliance.erasure.subjects import Subject
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.view import View

KIND = "suppression_lift"


def lift(requests: ErasureRequests, subject: Subject, reason: str) -> int:
    """Take a person off the list, with the conversations that their erasure put there; how many entries went.

    The event is recorded first, so that nobody leaves the list without one.

    Raises:
        InvalidInput: there is no reason, or nobody with these identifiers is on the list.
        NotAllowed: the policy refuses.
        LostRace: other writers kept changing the list; give it again.
    """
    requests.ask("lift_suppression", KIND, {"subject": subject.pseudonym})
    reason = impersonal(reason.strip(), "reason")
    if not reason:
        raise InvalidInput(
            "an entry leaves the suppression list for a reason alone, such as: the wrong person"
        )
    lake = requests.log.lake
    entries = _entries(lake, subject)
    if not entries:
        raise InvalidInput("nobody with these identifiers is on the suppression list of this tenant")
    entity = new_id()
    said = {"subject": subject.pseudonym, "reason": reason, "entries": len(entries)}
    state = {"name": entity, "description": reason, "status": "made", "deleted": False, "metadata": said}

    def decide(_: View) -> list[Change]:
        return [Change(KIND, entity, state)]

    requests.do("lift_suppression", KIND, said, decide)
    listed = ", ".join(f"'{entry}'" for entry in entries)
    return lake.erase(TABLE, f"tenant = '{subject.tenant}' AND entry IN ({listed})").rows


def _entries(lake: Lake, subject: Subject) -> Sequence[str]:
    """Keyed hashes on the list: of the identifiers, and what else the same erasures put there."""
    if not lake.exists(TABLE):
        return ()
    mine = list(entries_of(suppression_key(lake.root), subject.tenant, subject.hashes))
    with lake.read(TABLE) as reading:
        rows = reading.query(
            "suppression.of_subject",
            f"""
            SELECT DISTINCT entry FROM {TABLE} WHERE tenant = $tenant AND erasure_id IN (
                SELECT erasure_id FROM {TABLE} WHERE tenant = $tenant AND list_contains($mine, entry))
            ORDER BY entry
            """,
            {"tenant": subject.tenant, "mine": mine},
        )
    return [str(entry) for entry in rows["entry"].to_pylist()]
