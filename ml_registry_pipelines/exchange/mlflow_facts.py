"""From MLflow's words to ours: what a run, a model file and a tag say, as facts of a version.

Pure functions. What has no place here is handed back as sentences, for the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import IllegalTransition
from ml_registry_pipelines.registry.foreign import EVALUATED_ON, TRAINED_ON, ForeignDataset
from ml_registry_pipelines.registry.names import MAX_TAGS, MAX_TEXT, TagValue, checked_alias, typed_tags
from ml_registry_pipelines.registry.versions import LEADS_TO, Stage, VersionFacts

STAGES: Mapping[str, Stage] = {
    "None": Stage.REGISTERED,
    "Staging": Stage.STAGING,
    "Production": Stage.PRODUCTION,
    "Archived": Stage.ARCHIVED,
}
PERSONAL_TAGS = frozenset({"mlflow.user"})
"""Tags that name a person, which nothing that cannot forget may hold."""
CONTEXT_TAG = "mlflow.data.context"
EVALUATION_CONTEXTS = ("eval", "valid", "test", "holdout")
MODEL_FILE = "MLmodel"
MAX_MODEL_FILE = 16 * 1024 * 1024


def stage_of(word: str) -> Stage | None:
    """Our stage for theirs; None for one that MLflow has not had so far."""
    return STAGES.get(word)


def usable_tags(tags: Mapping[str, str], what: str) -> tuple[dict[str, TagValue], list[str]]:
    """Tags that can be recorded, as text, and a sentence for each that cannot."""
    kept: dict[str, TagValue] = {}
    lost = []
    for name in sorted(tags):
        if name in PERSONAL_TAGS:
            continue
        try:
            typed_tags({name: tags[name]})
        except MlregError as refused:
            lost.append(f"{what}: {refused}")
            continue
        if len(kept) == MAX_TAGS:
            lost.append(f"{what}: tag {name[:80]!r} is one of more than {MAX_TAGS}")
            continue
        kept[name] = tags[name]
    return kept, lost


def usable_text(text: str, what: str) -> tuple[str, list[str]]:
    """A description, cut where it is longer than can be recorded."""
    if len(text) <= MAX_TEXT:
        return text, []
    return text[:MAX_TEXT], [
        f"{what}: the description has {len(text):,} characters and was cut at {MAX_TEXT:,}"
    ]


def alias_here(alias: str) -> str:
    """The alias under which ours keeps theirs: `production` and the like mean a stage here."""
    try:
        return checked_alias(alias)
    except MlregError:
        return checked_alias(f"mlflow-{alias}")


def run_facts(run: Mapping[str, Any], what: str) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """The last value of every metric, the parameters, and what of them cannot be recorded."""
    data = run.get("data", {})
    metrics: dict[str, float] = {}
    lost = []
    for row in data.get("metrics", ()):
        name, value = str(row["key"]), _number(row.get("value", 0.0))
        if value is None:
            lost.append(f"{what}: metric {name!r} is {row['value']}, and a metric is a finite number")
        else:
            metrics[name] = value
    return metrics, {str(p["key"]): str(p.get("value", "")) for p in data.get("params", ())}, lost


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def run_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run for keeping as a file: all of it but who ran it."""
    info = {name: value for name, value in run.get("info", {}).items() if name != "user_id"}
    data = dict(run.get("data", {}))
    data["tags"] = [tag for tag in data.get("tags", ()) if tag.get("key") not in PERSONAL_TAGS]
    return {**run, "info": info, "data": data}


def datasets_of(run: Mapping[str, Any], what: str) -> tuple[list[ForeignDataset], list[str]]:
    """The dataset inputs of a run."""
    found, lost = [], []
    for row in run.get("inputs", {}).get("dataset_inputs", ()):
        dataset = row.get("dataset", {})
        name, digest = str(dataset.get("name", "")).strip(), str(dataset.get("digest", ""))
        if not name or not digest:
            lost.append(f"{what}: a dataset input without name or digest")
            continue
        context = next(
            (str(t.get("value", "")) for t in row.get("tags", ()) if t.get("key") == CONTEXT_TAG), ""
        )
        found.append(
            ForeignDataset(
                name=name,
                identity=_identity(str(dataset.get("source_type", "")), str(dataset.get("source", ""))),
                digest=f"mlflow:{digest}",
                location=_location(str(dataset.get("source_type", "")), str(dataset.get("source", ""))),
                columns=tuple(_columns(str(dataset.get("schema", "")))),
                rows=_rows(str(dataset.get("profile", ""))),
                relation=EVALUATED_ON if context.lower().startswith(EVALUATION_CONTEXTS) else TRAINED_ON,
                context=context,
            )
        )
    return found, lost


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _place(source: str) -> str:
    """Where a source says that it lies, without what changes from version to version."""
    found = _parsed(source)
    if not isinstance(found, dict):
        return ""
    for name in ("uri", "url", "path", "delta_table_name", "table_name", "name"):
        if isinstance(found.get(name), str) and found[name]:
            return str(found[name])
    return ""


def _identity(source_type: str, source: str) -> str:
    # A dataset that was made by code has the commit as its source, another one per run.
    return f"mlflow:{source_type}:{'' if source_type == 'code' else _place(source)}"


def _location(source_type: str, source: str) -> str:
    return (_place(source) or source_type or "unknown")[:2000]


def _columns(schema: str) -> Iterable[tuple[str, str]]:
    found = _parsed(schema)
    specs = found.get("mlflow_colspec") if isinstance(found, dict) else None
    for spec in specs if isinstance(specs, list) else ():
        if isinstance(spec, dict) and "name" in spec:
            kind = spec.get("type", "")
            yield str(spec["name"]), kind if isinstance(kind, str) else json.dumps(kind, sort_keys=True)


def _rows(profile: str) -> int | None:
    found = _parsed(profile)
    rows = found.get("num_rows") if isinstance(found, dict) else None
    return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def model_file(folder: Path, what: str) -> tuple[dict[str, Any] | None, str | None, list[str]]:
    """Signature and framework that a model's own file states, and what of it cannot be read."""
    import yaml

    path = folder / MODEL_FILE
    if not path.is_file():
        return None, None, []
    if path.stat().st_size > MAX_MODEL_FILE:
        return None, None, [f"{what}: {MODEL_FILE} has {path.stat().st_size:,} bytes and was not read"]
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        return (
            None,
            None,
            [f"{what}: {MODEL_FILE} is no YAML that can be read, so signature and framework are unknown"],
        )
    flavors = stated.get("flavors")
    names = [str(n) for n in flavors] if isinstance(flavors, dict) else []
    framework = next((n for n in names if n != "python_function"), names[0] if names else None)
    given = stated.get("signature")
    if not isinstance(given, dict):
        return None, framework, []
    signature: dict[str, Any] = {}
    for part in ("inputs", "outputs", "params"):
        if given.get(part) is None:
            continue
        text = given[part]
        parsed = _parsed(text) if isinstance(text, str) else text
        if parsed is None:
            return None, framework, [f"{what}: the {part} of the signature in {MODEL_FILE} are no JSON"]
        signature[part] = parsed
    return signature or None, framework, []


def facts_of(
    run: Mapping[str, Any] | None, signature: Mapping[str, Any] | None, framework: str | None, what: str
) -> tuple[VersionFacts, list[str]]:
    """What is recorded of a version, from its run and its model file."""
    metrics, parameters, lost = run_facts(run, what) if run is not None else ({}, {}, [])
    tags = {t.get("key"): t.get("value") for t in (run or {}).get("data", {}).get("tags", ())}
    commit = tags.get("mlflow.source.git.commit")
    return (
        VersionFacts(
            signature=signature,
            metrics=metrics,
            parameters=parameters,
            framework=framework,
            code_commit=str(commit) if commit else None,
        ),
        lost,
    )


def instant(ms: int) -> datetime:
    """A time of the server's."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def merged_tags(ours: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded tags with what changed there between two looks; what was added here stays."""
    recorded = typed_tags(now)
    gone = {
        name
        for name in before
        if name not in now and ours.get(name) == typed_tags({name: before[name]})[name]
    }
    changed = {name: tag for name, tag in recorded.items() if before.get(name) != now[name]}
    return {**{name: tag for name, tag in ours.items() if name not in gone}, **changed}


def steps_between(now: Stage, to: Stage) -> list[Stage]:
    """The shortest way from stage to stage."""
    ways: list[list[Stage]] = [[now]]
    known = {now}
    for way in ways:
        if way[-1] is to:
            return way
        for step in sorted(LEADS_TO[way[-1]], key=_quiet):
            # On the way to another stage nothing goes through production.
            if step not in known and (step is to or step is not Stage.PRODUCTION):
                known.add(step)
                ways.append([*way, step])
    raise IllegalTransition(f"no steps lead from {now.value} to {to.value}")


def _quiet(stage: Stage) -> int:
    return [Stage.REGISTERED, Stage.ARCHIVED, Stage.STAGING, Stage.SHADOW, Stage.PRODUCTION].index(stage)
