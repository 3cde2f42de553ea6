"""Who needs a dataset version or a base model: live versions that learned from it.

A version is live while it is in production, staging or shadow, has an alias, or is deployed.
"""

from __future__ import annotations

from ml_registry_pipelines.registry.states import DATASET, State
from ml_registry_pipelines.registry.view import View

LEARNED = {"trained_on", "evaluated_on", "derived_from"}
STAGES = {"production", "staging", "shadow"}


def why_live(view: View, version: State) -> str | None:
    """Why a version counts as live, None where it does not."""
    model = view.by_id("things", str(version.data["model_id"]))
    if version.deleted or (model is not None and model.deleted):
        return None
    if version.data["stage"] in STAGES:
        return f"is in {version.data['stage']}"
    aliases = model.data.get("aliases", {}) if model else {}
    held = sorted(alias for alias, number in aliases.items() if number == version.data["version"])
    if held:
        return f"has the alias {', '.join(held)}"
    for edge in view.by_column("relationships", "source_id", version.id):
        deployment = view.by_id("things", str(edge.data["target_id"]))
        deployed = edge.data["type"] == "deployed_to" and not edge.deleted
        if deployed and deployment is not None and not deployment.deleted:
            return f"is deployed to {deployment.name!r}"
    return None


def live_user(view: View, state: State) -> str | None:
    """A live version that learned from a dataset, a dataset version or a model version, in words."""
    sources = [state.id]
    if state.entity_type == DATASET:
        sources += [s.id for s in view.by_column("things", "parent_id", state.id) if not s.deleted]
    for edge in view.by_any("relationships", "target_id", sources):
        if edge.deleted or edge.data["type"] not in LEARNED:
            continue
        user = view.by_id("model_versions", str(edge.data["source_id"]))
        if user is not None and (why := why_live(view, user)) is not None:
            model = view.by_id("things", str(user.data["model_id"]))
            name = model.name if model else user.data["model_id"]
            return f"version v{user.data['version']} of {name!r} {why} and was {_spoken(edge)} it"
    return None


def _spoken(edge: State) -> str:
    return str(edge.data["type"]).replace("_", " ")
