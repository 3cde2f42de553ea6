"""Measures over registers: G1, G4, G7, G8, G16, G17, G18 and G19. Each counts what is not as it should be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ml_registry_pipelines.compliance.ai_act.classifications import classified
from ml_registry_pipelines.compliance.ai_act.table import Tier
from ml_registry_pipelines.compliance.evaluations import declared_evaluations
from ml_registry_pipelines.compliance.gdpr.clocks import breach_due
from ml_registry_pipelines.compliance.gdpr.columns import (
    CataloguedColumn,
    Holds,
    column_catalogue,
    covering,
    special_by_name,
)
from ml_registry_pipelines.compliance.gdpr.entries import (
    Assessment,
    AutomatedDecision,
    BiasRecord,
    Breach,
    Category,
    KeyStore,
    Notice,
    Processor,
    Purpose,
    TransferGround,
)
from ml_registry_pipelines.compliance.gdpr.measuring import (
    NoParameters,
    amiss,
    empty,
    gdpr_metric,
    register,
    unmeasured,
    view_of,
)
from ml_registry_pipelines.compliance.metrics import Parameters
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.shredding import KEK_FILE
from ml_registry_pipelines.registry.states import MODEL
from ml_registry_pipelines.telemetry.suppression import keys_folder

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context

G1, G4, G7, G8 = (
    "gdpr_g1_purposes_declared",
    "gdpr_g4_special_categories_grounded",
    "gdpr_g7_automated_decisions",
    "gdpr_g8_impact_assessment",
)
G16, G17, G18, G19 = (
    "gdpr_g16_processors_and_transfers",
    "gdpr_g17_breaches_notified",
    "gdpr_g18_pseudonym_keys",
    "gdpr_g19_notices_cover_ai",
)


class Regions(Parameters):
    """Regions that personal data may be in without a ground for a transfer."""

    allowed_regions: tuple[str, ...] = Field(min_length=1, strict=False)


def _catalogue(context: Context) -> list[CataloguedColumn]:
    key = "gdpr catalogue"
    if key not in context.memo:
        context.memo[key] = column_catalogue(view_of(context))
    found: list[CataloguedColumn] = context.memo[key]
    return found


def purposes_declared(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Personal columns without purpose, legal basis, retention and owner; and columns nobody classified."""
    purposes = register(context, Purpose)
    if not purposes:
        return empty(G1, Purpose)
    columns = _catalogue(context)
    personal = [column for column in columns if column.holds is Holds.PERSONAL]
    wrong: dict[str, str] = {}
    for column in personal:
        serving = covering(purposes, column.of, column.column)
        kept = TABLES[column.of].retention_days if column.table else None
        if not serving:
            wrong[column.name] = "no purpose lists it"
        elif kept is None and any(purpose.retention_days is None for purpose in serving):
            wrong[column.name] = "neither purpose nor table says how long it is kept"
    datasets = [column for column in columns if not column.table]
    unclassified = [column.name for column in datasets if column.holds is Holds.UNCLASSIFIED]
    return [
        amiss(G1, wrong, of=len(personal), about="personal columns", unit="columns"),
        amiss(G1, unclassified, of=len(datasets), about="unclassified columns", unit="columns"),
    ]


def special_categories(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Columns of special categories without a ground of Art. 9(2) or a bias record that is not over."""
    purposes = register(context, Purpose)
    records = register(context, BiasRecord)
    if not purposes and not records:
        return empty(G4, Purpose)
    special = [
        (c.of, c.column, c.category) for c in _catalogue(context) if c.category is not Category.ORDINARY
    ]
    for declared in declared_evaluations(view_of(context)):
        for attribute in declared.columns.groups or {}:
            category = special_by_name(attribute)
            if category is not Category.ORDINARY:
                special.append(("evaluation_data", attribute, category))
    wrong: dict[str, str] = {}
    for of, column, category in set(special):
        name = f"{of}.{column}"
        grounded = any(p.special_ground is not None for p in covering(purposes, of, column))
        recorded = [record for record in records if name in record.columns]
        if grounded or any(record.delete_by > context.at for record in recorded):
            continue
        wrong[name] = f"{category.value}: " + (
            "its bias record says that it was to be deleted" if recorded else "neither ground nor bias record"
        )
    return [amiss(G4, wrong, of=len(set(special)), unit="columns")]


def automated_decisions(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Solely automated decisions with legal effect that lack ground, human contact or a way to contest."""
    decisions = register(context, AutomatedDecision)
    if not decisions:
        return empty(G7, AutomatedDecision)
    strict = [d for d in decisions if d.solely_automated and d.legal_effect]
    wrong = {}
    for decision in strict:
        needed = {
            "ground": decision.ground,
            "human contact": decision.human_contact,
            "way to contest": decision.contest,
        }
        if lacking := [name for name, value in needed.items() if not value]:
            wrong[decision.name] = f"no {', no '.join(lacking)}"
    return [amiss(G7, wrong, of=len(decisions), detail={"solely automated with legal effect": len(strict)})]


def impact_assessment(context: Context, _: NoParameters) -> Sequence[Measured]:
    """1 where the model needs an assessment that is not completed and signed, else 0.

    High-risk is what the register says, or the class under the AI Act, of which the worst counts that
    unknown facts leave.
    """
    assert context.subject is not None
    model = view_of(context).by_id("things", context.subject.model_id)
    name = "" if model is None else str(model.data["name"])
    found = [entry for entry in register(context, Assessment) if entry.name == name]
    act = classified(view_of(context), context.subject.model_id, context.at.date())
    high_risk = act is not None and act.gate_tier.rank >= Tier.HIGH_RISK.rank
    if not found and act is not None and high_risk:
        detail: dict[str, object] = {
            "class": act.gate_tier.value,
            "needed": True,
            "completed and signed": False,
        }
        return [Measured(G8, 1.0, n=1, unit="assessments missing", detail=detail)]
    if not found:
        problem = f"the register of dpias says nothing of model {name!r}, not even that none is needed"
        return [unmeasured(G8, problem)]
    entry = found[0]
    signed = entry.completed and entry.signed_by is not None and entry.signed_at is not None
    if entry.signed_at is not None and entry.signed_at > context.at:
        signed = False
    detail = {
        "criteria": sorted(c.value for c in entry.criteria),
        "high-risk system": entry.high_risk_system or high_risk,
        "class": None if act is None else act.gate_tier.value,
        "needed": entry.needed or high_risk,
        "completed and signed": signed,
    }
    return [
        Measured(
            G8,
            float((entry.needed or high_risk) and not signed),
            n=1,
            unit="assessments missing",
            detail=detail,
        )
    ]


def processors(context: Context, parameters: Regions) -> Sequence[Measured]:
    """Processors without a contract, or outside the allowed regions without a ground for the transfer."""
    listed = register(context, Processor)
    if not listed:
        return empty(G16, Processor)
    wrong = {}
    for processor in listed:
        problems = [] if processor.contract else ["no contract"]
        outside = processor.region not in parameters.allowed_regions
        if outside and processor.transfer is TransferGround.NONE_NEEDED:
            problems.append(
                f"region {processor.region} is not allowed, and no ground for a transfer is given"
            )
        if problems:
            wrong[processor.name] = ", ".join(problems)
    return [amiss(G16, wrong, of=len(listed))]


def breaches(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Breaches that were notified later than 72 hours after we were aware, or are still not and due."""
    listed = register(context, Breach)
    if not listed:
        return empty(G17, Breach)
    late = {}
    for breach in listed:
        if not breach.risk:
            continue
        if breach.notified_at is None:
            if context.at > breach_due(breach):
                late[breach.name] = "not notified"
        elif breach.notified_at > breach_due(breach):
            hours = (breach.notified_at - breach.aware_at) / timedelta(hours=1)
            told = "with a reason" if breach.delay_reason else "without a reason"
            late[breach.name] = f"after {hours:.0f} hours, {told}"
    return [amiss(G17, late, of=len(listed), unit="breaches")]


def key_stores(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Key stores that lie with the data, are not rotated in time, or are backed up with the data; and secrets
    that lie below the home, whatever the register says.
    """
    listed = register(context, KeyStore)
    beside = _secrets_beside(context)
    found = [] if not beside else [amiss(G18, beside, of=len(beside), about="secrets", unit="secrets")]
    if not listed:
        return [*empty(G18, KeyStore), *found]
    wrong = {}
    for store in listed:
        problems = []
        if _within(store.place, context.lake.root):
            problems.append("lies below the home")
        if context.at > store.rotated_at + timedelta(days=store.rotation_days):
            problems.append("was not rotated in time")
        if store.backup_set == store.data_backup_set:
            problems.append("is in the backup set of the data")
        if problems:
            wrong[store.name] = ", ".join(problems)
    return [amiss(G18, wrong, of=len(listed)), *found]


def _secrets_beside(context: Context) -> dict[str, str]:
    """Secrets of this home that lie below it, and so in its backups."""
    root = context.lake.root
    keys = keys_folder(root)
    beside: dict[str, str] = {}
    if _within(keys, root):
        for entry in open_folder(keys, context.lake.storage_options).entries():
            beside[entry.path] = "lies below the home; MLREG_KEYS names a folder apart from it"
    kek = os.environ.get(KEK_FILE, "")
    if kek and _within(str(Path(kek).expanduser()), root):
        beside["key-encryption key"] = f"lies below the home; {KEK_FILE} names a file apart from it"
    return beside


def notices(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Models that no published notice covers which tells of the use of AI and of its logic."""
    listed = [notice for notice in register(context, Notice) if notice.published_at <= context.at]
    if not listed:
        return empty(G19, Notice)
    view = view_of(context)
    if context.subject is not None:
        model = view.by_id("things", context.subject.model_id)
        models = [] if model is None else [str(model.data["name"])]
    else:
        states = view.select(
            "gdpr.models", "things", "type = $type AND NOT deleted", parameters={"type": MODEL}
        )
        models = [str(state.data["name"]) for state in states]
    if not models:
        return [unmeasured(G19, "there is no model that a notice could cover")]
    newest = {notice.name: notice for notice in sorted(listed, key=lambda notice: notice.published_at)}
    telling = [notice for notice in newest.values() if notice.covers_ai and notice.covers_logic]
    wrong = [name for name in models if not any(not n.models or name in n.models for n in telling)]
    return [amiss(G19, wrong, of=len(models), unit="models")]


def _within(place: str, root: str) -> bool:
    if "://" in root or "://" in place:
        return place.rstrip("/").startswith(root.rstrip("/") + "/") or place.rstrip("/") == root.rstrip("/")
    inside, home = Path(place).absolute(), Path(root).absolute()
    return inside == home or home in inside.parents


METRICS = (
    gdpr_metric(G1, "Personal columns have a purpose", ("5(1)(b)", "6", "30"), purposes_declared),
    gdpr_metric(G4, "Special categories have a ground", ("9",), special_categories),
    gdpr_metric(G7, "Automated decisions can be contested", ("22",), automated_decisions),
    gdpr_metric(G8, "The impact assessment is signed", ("35",), impact_assessment, subject=True),
    gdpr_metric(
        G16, "Processors have contracts and grounds", ("28", "44-46"), processors, parameters=Regions
    ),
    gdpr_metric(G17, "Breaches are notified in 72 hours", ("33",), breaches),
    gdpr_metric(G18, "Keys of pseudonyms are apart", ("4(5)", "25", "32"), key_stores),
    gdpr_metric(G19, "Notices cover AI and its logic", ("13-14",), notices),
)
