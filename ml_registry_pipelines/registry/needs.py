"""Who needs a thing or a version, so that it cannot be deleted: what serves it, and what learned from it.

A version is live while it is in production, staging or shadow, has an alias, or is deployed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ml_registry_pipelines.registry.states import DATASET, DEPLOYMENT, MODEL, MODEL_VERSION, State
from ml_registry_pipelines.registry.view import View

LEARNED = {"trained_on", "evaluated_on", "derived_from"}
LIVE_STAGES = ("production", "staging", "shadow")


def needed_by(view: View, state: State) -> str | None:
    """Why a thing or a version cannot be deleted now, None where it can."""
    sources = [state]
    kind = state.entity_type
    if kind == DEPLOYMENT and state.data["status"] == "live":
        return "it is live; end it first"
    if kind == MODEL_VERSION and (use := _use(view, state)):
        return f"it {'; '.join(use)}"
    if kind == DATASET:
        sources += [s for s in view.by_column("things", "parent_id", state.id) if not s.deleted]
    if kind == MODEL:
        # Its aliases go with it, and so does what is being tried out.
        sources = [s for s in view.by_column("model_versions", "model_id", state.id) if not s.deleted]
        for version in sources:
            if use := _use(view, version, stages={"production"}, aliases=False):
                return f"version v{version.data['version']} {'; '.join(use)}"
    return _learner(view, [s.id for s in sources], but=state.id)


def deleted_source(view: View, version: State) -> State | None:
    """What a version learned from that has been deleted since, by itself or with its dataset or model."""
    data = version.data
    sources = view.by_any("things", "id", [*data["trained_on"], *data["evaluated_on"]])
    sources += view.by_any("model_versions", "id", [data["base_version"]] if data["base_version"] else [])
    wholes = {str(s.data.get("parent_id") or s.data.get("model_id")) for s in sources}
    gone = {s.id for s in view.by_any("things", "id", sorted(wholes)) if s.deleted}
    return next(
        (s for s in sources if s.deleted or gone & {s.data.get("parent_id"), s.data.get("model_id")}), None
    )


def _use(
    view: View, version: State, *, stages: Collection[str] = LIVE_STAGES, aliases: bool = True
) -> tuple[str, str] | None:
    """What makes a version live, and how to end that; None where it is not live."""
    model = view.by_id("things", str(version.data["model_id"]))
    if version.deleted or model is None or model.deleted:
        return None
    if version.data["stage"] in stages:
        return f"is in {version.data['stage']}", "archive it first"
    held = [a for a, number in model.data.get("aliases", {}).items() if number == version.data["version"]]
    if aliases and held:
        return f"has the alias {', '.join(sorted(held))}", "remove it first"
    for edge in view.by_column("relationships", "source_id", version.id):
        if edge.deleted or edge.data["type"] != "deployed_to":
            continue
        deployment = view.by_id("things", str(edge.data["target_id"]))
        if deployment is not None and not deployment.deleted:
            return f"is deployed to {deployment.name!r}", "end the deployment first"
    return None


def _learner(view: View, sources: Sequence[str], *, but: str) -> str | None:
    """A live version, of another model than `but`, that learned from one of the sources, in words."""
    for edge in view.by_any("relationships", "target_id", sources):
        if edge.deleted or edge.data["type"] not in LEARNED:
            continue
        user = view.by_id("model_versions", str(edge.data["source_id"]))
        if user is None or user.data["model_id"] == but or (use := _use(view, user)) is None:
            continue
        model = view.by_id("things", str(user.data["model_id"]))
        name = model.name if model else user.data["model_id"]
        learned = str(edge.data["type"]).replace("_", " ")
        return f"version v{user.data['version']} of {name!r} {use[0]} and was {learned} it"
    return None
