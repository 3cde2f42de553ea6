"""Measures over data: G2, G3, G5, G6, G13, G14 and G20. None of them keeps or tells a value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from ml_registry_pipelines.compliance.gdpr import pii
from ml_registry_pipelines.compliance.gdpr.columns import (
    Holds,
    columns_of_version,
    covering,
    declared_columns,
)
from ml_registry_pipelines.compliance.gdpr.entries import (
    Aggregate,
    Consent,
    LegalBasis,
    PersonalColumn,
    Purpose,
)
from ml_registry_pipelines.compliance.gdpr.learned import Learned, learned_from
from ml_registry_pipelines.compliance.gdpr.measuring import (
    SHOWN,
    NoParameters,
    amiss,
    empty,
    gdpr_metric,
    rate,
    register,
    unmeasured,
    view_of,
)
from ml_registry_pipelines.compliance.gdpr.retention import overdue, retention_rules
from ml_registry_pipelines.compliance.gdpr.scanning import scan
from ml_registry_pipelines.compliance.metrics import Bound, Parameters
from ml_registry_pipelines.compliance.results import Measured
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.lineage.contents import UNREAD, read_content
from ml_registry_pipelines.lineage.fingerprints import DatasetUnreadable
from ml_registry_pipelines.registry.actors import UNAUTHENTICATED
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.personal import holds_address
from ml_registry_pipelines.registry.references import dataset_state
from ml_registry_pipelines.registry.states import State

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context

G2, G2_SCORE, G3, G5 = (
    "gdpr_g2_training_columns_listed",
    "gdpr_g2_minimisation",
    "gdpr_g3_no_undeclared_identifiers",
    "gdpr_g5_retention_kept",
)
G6, G13, G14 = (
    "gdpr_g6_consent_live_at_training",
    "gdpr_g13_reads_have_a_purpose",
    "gdpr_g14_k_anonymity",
)
G20, G20_ADDRESSES = "gdpr_g20_log_pseudonymous", "gdpr_g20_addresses_in_log"
UNTOLD = "the lineage does not say what the version was trained on"


class Sample(Parameters):
    """How much is looked at. `kinds`: of identifiers; machines have addresses, too, so IP and URL are asked for."""

    sample: int = Field(ge=1, le=10_000)
    kinds: tuple[str, ...] = Field(
        default=(pii.EMAIL, pii.IBAN, pii.SSN, pii.CARD, pii.PHONE), min_length=1, strict=False
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(kinds) - set(pii.KINDS):
            raise ValueError(f"{min(unknown)} is no kind of identifier; there are {', '.join(pii.KINDS)}")
        return kinds


class Within(Parameters):
    """Of how many days."""

    days: int = Field(ge=1, le=3_650)


class Anonymity(Parameters):
    """The least size of a group that may be shown."""

    k: int = Field(ge=2, le=10_000)


# -- what models are trained on --------------------------------------------------------------


def training_columns(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Columns that the version learned from and that are personal, or unclassified, without a purpose for that.

    To any depth: also of what its data and its base models were made from, as far as columns went on.
    """
    purposes = register(context, Purpose)
    if not purposes:
        return empty(G2, Purpose)
    learned = learned_from(context)
    if not learned:
        return [unmeasured(G2, UNTOLD)]
    declared, wrong, looked = declared_columns(view_of(context)), dict[str, str](), 0
    for each in learned:
        columns = columns_of_version(each.dataset, each.version, declared)
        if not columns:
            return [unmeasured(G2, f"nobody told the columns of dataset {each.dataset!r}")]
        through = f"; it went on into {each.through}" if each.through else ""
        if each.through and each.used is None:
            through = (
                f"; all of {each.dataset} may have gone on into {each.through}: the lineage names no columns"
            )
        for column in columns:
            if each.used is not None and column.column not in each.used:
                continue
            looked += 1
            if column.holds is Holds.NOT_PERSONAL:
                continue
            if column.holds is Holds.UNCLASSIFIED:
                wrong[column.name] = f"nobody declared whether it is personal{through}"
            elif not any(p.training for p in covering(purposes, each.dataset, column.column)):
                wrong[column.name] = f"no purpose lists it for training{through}"
    return [amiss(G2, wrong, of=looked, unit="columns")]


def minimisation(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Columns that were used to train, by those that were collected: of datasets that were made from no other."""
    learned = [each for each in learned_from(context) if not each.sources]
    if not learned:
        return [unmeasured(G2_SCORE, UNTOLD)]
    collected, used_ones, unused = 0, 0, list[str]()
    for each in learned:
        names = [str(column["name"]) for column in each.version.data["metadata"].get("columns") or []]
        if not names:
            return [unmeasured(G2_SCORE, f"nobody told the columns of dataset {each.dataset!r}")]
        if each.used is None:
            problem = f"the lineage does not say which columns of {each.dataset!r} were used"
            return [unmeasured(G2_SCORE, problem)]
        collected += len(names)
        used_ones += len(each.used & set(names))
        unused += [f"{each.dataset}.{name}" for name in names if name not in each.used]
    detail = {"unused": unused[:SHOWN]} if unused else {}
    return [Measured(G2_SCORE, used_ones / collected, unit="share", n=collected, detail=detail)]


def consent_live(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Rows that rest on consent and whose subject had none for the purpose when a model was trained on them.

    To any depth. A dataset that says whom its rows are about, and rests on consent, answers for what it was
    made from: those rows are the ones that were learned from, whoever was left out on the way. Of what lies
    behind a base model, consent is asked for when that one was trained.
    """
    purposes = register(context, Purpose)
    if not purposes:
        return empty(G6, Purpose)
    learned = {each.version.id: each for each in learned_from(context)}
    if not learned:
        return [unmeasured(G6, UNTOLD)]
    view = view_of(context)
    declared = declared_columns(view)
    made = {
        learner: view.history("model_versions", learner)
        for each in learned.values()
        for learner in each.learners
    }
    if not all(made.values()):
        return [unmeasured(G6, "the version is not in the registry")]
    measured = []
    for each in learned.values():
        if _answered(each, learned, purposes, declared):
            continue
        serving = [p for p in covering(purposes, each.dataset) if p.training]
        resting = [p for p in serving if p.legal_basis is LegalBasis.CONSENT]
        columns = columns_of_version(each.dataset, each.version, declared)
        if columns and all(column.holds is Holds.NOT_PERSONAL for column in columns):
            detail: dict[str, object] = {"rests on": "nothing: no column is personal"}
            measured.append(Measured(G6, 0.0, about=each.dataset, unit="share", n=0, detail=detail))
        elif not serving:
            problem = "no purpose lists the dataset for training"
            measured.append(unmeasured(G6, problem, each.dataset))
        elif len(resting) < len(serving):
            others = sorted(p.name for p in serving if p not in resting)
            detail = {"rests on": others[:SHOWN]}
            measured.append(Measured(G6, 0.0, about=each.dataset, unit="share", n=0, detail=detail))
        else:
            times = sorted({made[learner][0].recorded_at for learner in each.learners})
            measured.append(_consented(context, each.dataset, each.version, resting, times))
    return measured


def _answered(
    each: Learned,
    learned: Mapping[str, Learned],
    purposes: Sequence[Purpose],
    declared: Sequence[PersonalColumn],
) -> bool:
    """Whether every dataset that was made from it, and learned from, answers for its rows; a model never does."""
    below = [other for other in learned.values() if each.version.id in other.sources]
    if each.straight or not below:
        return False
    return all(
        _answers(other, purposes, declared) or _answered(other, learned, purposes, declared)
        for other in below
    )


def _answers(each: Learned, purposes: Sequence[Purpose], declared: Sequence[PersonalColumn]) -> bool:
    """Whether consent is asked for of each row of it."""
    serving = [p for p in covering(purposes, each.dataset) if p.training]
    resting = bool(serving) and all(p.legal_basis is LegalBasis.CONSENT for p in serving)
    return resting and any(entry.dataset == each.dataset and entry.subject for entry in declared)


def _consented(
    context: Context, dataset: str, version: State, purposes: Sequence[Purpose], times: Sequence[datetime]
) -> Measured:
    consents = register(context, Consent)
    if not consents:
        return empty(G6, Consent, dataset)[0]
    declared = declared_columns(view_of(context))
    subjects = [entry.column for entry in declared if entry.dataset == dataset and entry.subject]
    if len(subjects) != 1:
        problem = "its rows rest on consent, and not one column of it is declared to hold the subject"
        return unmeasured(G6, problem, dataset)
    try:
        rows = read_content(
            version.data["metadata"],
            subjects,
            reference=dataset,
            storage_options=context.lake.storage_options,
            readable=context.lake.readable,
        )[subjects[0]].to_pylist()
    except DatasetUnreadable:
        return unmeasured(G6, f"its data cannot be read; {UNREAD}", dataset)
    names = {purpose.name for purpose in purposes}
    live = set.intersection(
        *(
            {
                consent.subject
                for consent in consents
                if consent.purpose in names
                and consent.given_at <= at
                and (consent.withdrawn_at is None or consent.withdrawn_at > at)
            }
            for at in times
        )
    )
    if not rows:
        return unmeasured(G6, "it has no rows", dataset)
    without = sum(str(subject) not in live for subject in rows)
    # All rows are looked at: the share is exact.
    return Measured(
        G6, without / len(rows), about=dataset, unit="share", n=len(rows), detail={"rows": without}
    )


# -- what is stored --------------------------------------------------------------------------


def undeclared_identifiers(context: Context, parameters: Sample) -> Sequence[Measured]:
    """Share of sampled values with an identifier, by column where there was one, and of all others together.

    Patterns find what has a form; names and addresses are not found, whatever the share.
    """
    scanned = scan(context.lake, view_of(context), sample=parameters.sample, kinds=parameters.kinds)
    looked = [column for column in scanned if not column.problem]
    if not looked:
        return [unmeasured(G3, "there is no text column with rows that is declared to hold nothing personal")]
    measured = [
        rate(
            G3,
            c.hits,
            c.looked_at,
            about=c.column,
            whole=c.whole,
            detail={"kinds": c.kinds, "rows read": c.rows},
        )
        for c in looked
        if c.hits
    ]
    clean = [column for column in looked if not column.hits]
    if clean:
        detail = {"columns": len(clean), "finds": "patterns only, no names"}
        values = sum(column.looked_at for column in clean)
        whole = all(column.whole for column in clean)
        measured.append(rate(G3, 0, values, about="all other columns", whole=whole, detail=detail))
    measured += [unmeasured(G3, c.problem, c.column) for c in scanned if c.problem]
    return measured


def retention_kept(context: Context, parameters: Within) -> Sequence[Measured]:
    """Rows that are kept longer than their retention, where enforcing it ran within the days."""
    rules, held = retention_rules(context.log, context.at)
    mine = [rule for rule in rules if rule.tenant in (None, context.tenant)]
    since = context.at - timedelta(days=parameters.days)
    with context.lake.read("retention_runs") as reading:
        ran = reading.query(
            "gdpr.last_retention",
            """
            SELECT max(recorded_at) AS last, count(*) FILTER (WHERE outcome = 'failed') AS failed
            FROM retention_runs
            WHERE outcome IN ('erased', 'nothing', 'failed') AND recorded_at >= $since AND recorded_at <= $at
            """,
            {"since": since, "at": context.at},
        ).to_pylist()[0]
    if ran["last"] is None:
        problem = f"retention was not enforced within {parameters.days} days; run `mlreg gdpr retention`"
        return [unmeasured(G5, problem)]
    late = {f"{rule.table} ({rule.why})": overdue(context.lake, rule, context.at) for rule in mine}
    detail = {
        "overdue": {name: rows for name, rows in sorted(late.items()) if rows},
        "last run": ran["last"].isoformat(),
        "failed": ran["failed"],
        "held": sorted({each.rule.table for each in held if each.rule.tenant in (None, context.tenant)}),
    }
    return [Measured(G5, float(sum(late.values())), unit="rows", n=len(mine), detail=detail)]


def reads_have_a_purpose(context: Context, parameters: Within) -> Sequence[Measured]:
    """Reads of tables with personal columns, and of models: without a purpose, and by nobody in particular."""
    personal = [table.name for table in TABLES.values() if any(c.personal for c in table.columns)]
    purposes = {purpose.name for purpose in register(context, Purpose)}
    with context.lake.read("access_log") as reading:
        rows = reading.query(
            "gdpr.reads",
            """
            SELECT purpose, authenticated_by, count(*) AS n
            FROM access_log
            WHERE (tenant = $tenant OR tenant IS NULL) AND outcome = 'allowed'
                AND recorded_at >= $since AND recorded_at <= $at
                AND action IN ('read', 'sql', 'download', 'link', 'export')
                AND (subject LIKE 'version:%' OR action = 'export'
                    OR len(list_intersect(string_split(subject, ', '), $personal)) > 0)
            GROUP BY purpose, authenticated_by
            """,
            {
                "tenant": context.tenant,
                "since": context.at - timedelta(days=parameters.days),
                "at": context.at,
                "personal": personal,
            },
        ).to_pylist()
    n = sum(row["n"] for row in rows)
    if not n:
        return [unmeasured(G13, f"nobody read a personal asset within {parameters.days} days")]
    if not purposes:
        return empty(G13, Purpose)
    undeclared = sum(row["n"] for row in rows if row["purpose"] not in purposes)
    nobody = sum(row["n"] for row in rows if row["authenticated_by"] == UNAUTHENTICATED)
    # All reads are counted: the shares are exact.
    return [
        Measured(G13, undeclared / n, about="without a declared purpose", unit="share", n=n),
        Measured(G13, nobody / n, about="by an unauthenticated actor", unit="share", n=n),
    ]


def k_anonymity(context: Context, parameters: Anonymity) -> Sequence[Measured]:
    """Groups of fewer than k people for which a figure is shown."""
    with context.lake.read("compliance_results") as reading:
        rows = reading.query(
            "gdpr.groups_shown",
            "SELECT metric, about, groups FROM compliance_results WHERE tenant = $tenant AND groups <> '[]'",
            {"tenant": context.tenant},
        ).to_pylist()
    shown = [(row["metric"], group) for row in rows for group in json.loads(row["groups"])]
    small = [metric for metric, group in shown if group["n"] < parameters.k and group["value"] is not None]
    measured = []
    if shown:
        detail = {"metrics": sorted(set(small))[:SHOWN]} if small else {}
        measured.append(
            Measured(
                G14, float(len(small)), about="results of checks", unit="groups", n=len(shown), detail=detail
            )
        )
    aggregates = register(context, Aggregate)
    measured += [_published(context, aggregate, parameters.k) for aggregate in aggregates]
    if not measured:
        return [
            unmeasured(
                G14, "no figure of a group was ever published, and the register of aggregates is empty"
            )
        ]
    return measured


def _published(context: Context, aggregate: Aggregate, k: int) -> Measured:
    import pyarrow.compute as pc

    try:
        version = dataset_state(view_of(context), aggregate.dataset)
        known = {str(column["name"]) for column in version.data["metadata"].get("columns") or []}
        if lacking := [name for name in aggregate.by if name not in known]:
            return unmeasured(G14, f"{aggregate.dataset} has no column {lacking[0]!r}", aggregate.name)
        rows = read_content(
            version.data["metadata"],
            list(aggregate.by),
            reference=aggregate.dataset,
            storage_options=context.lake.storage_options,
            readable=context.lake.readable,
        )
    except (RegistryError, DatasetUnreadable) as wrong:
        return unmeasured(G14, f"its rows cannot be read: {wrong}", aggregate.name)
    sizes = rows.group_by(list(aggregate.by)).aggregate([([], "count_all")])["count_all"]
    if not len(sizes):
        return unmeasured(G14, "it has no rows", aggregate.name)
    below = int(pc.sum(pc.less(sizes, k)).as_py() or 0)
    detail = {"smallest group": int(pc.min(sizes).as_py())}
    return Measured(G14, float(below), about=aggregate.name, unit="groups", n=len(sizes), detail=detail)


def log_pseudonymous(context: Context, parameters: Sample) -> Sequence[Measured]:
    """Share of the newest events whose payload, actor or entity holds an identifier."""
    with context.lake.read("governance_events") as reading:
        rows = reading.query(
            "gdpr.events",
            """
            SELECT payload, actor, entity_id, idempotency_key FROM governance_events
            WHERE tenant = $tenant ORDER BY sequence DESC LIMIT $sample
            """,
            {"tenant": context.tenant, "sample": parameters.sample},
        ).to_pylist()
    if not rows:
        return [unmeasured(G20, "the log has no event of the tenant")]
    hits, kinds = 0, set[str]()
    for row in rows:
        texts = (text for text in row.values() if text)
        found = {finding.kind for text in texts for finding in pii.find(text, kinds=parameters.kinds)}
        hits += bool(found)
        kinds |= found
    whole = len(rows) < parameters.sample and all(
        len(text) <= pii.LONGEST for row in rows for text in row.values() if text
    )
    return [rate(G20, hits, len(rows), whole=whole, detail={"kinds": sorted(kinds)})]


def addresses_in_log(context: Context, _: NoParameters) -> Sequence[Measured]:
    """Events, of all that the tenant has, with an e-mail address in the clear: each is one too many."""
    with context.lake.read("governance_events") as reading:
        (rows,) = reading.query(
            "gdpr.addresses",
            """
            SELECT count(*) AS events,
                   list({sequence: sequence, texts: concat_ws(' ', payload, actor, entity_id, idempotency_key)})
                       FILTER (WHERE contains(concat_ws(' ', payload, actor, entity_id, idempotency_key), '@'))
                       AS suspects
            FROM governance_events WHERE tenant = $tenant
            """,
            {"tenant": context.tenant},
        ).to_pylist()
    if not rows["events"]:
        return [unmeasured(G20_ADDRESSES, "the log has no event of the tenant")]
    wrong = [f"event {s['sequence']}" for s in rows["suspects"] or [] if holds_address(s["texts"])]
    return [amiss(G20_ADDRESSES, wrong, of=int(rows["events"]), unit="events")]


METRICS = (
    gdpr_metric(G2, "Training takes listed columns alone", ("5(1)(c)", "25"), training_columns, subject=True),
    gdpr_metric(
        G2_SCORE,
        "Columns used by columns collected",
        ("5(1)(c)",),
        minimisation,
        bound=Bound.AT_LEAST,
        subject=True,
    ),
    gdpr_metric(
        G3,
        "No identifiers in columns declared non-personal",
        ("5(1)(f)", "32"),
        undeclared_identifiers,
        parameters=Sample,
    ),
    gdpr_metric(G5, "Nothing is kept longer than declared", ("5(1)(e)",), retention_kept, parameters=Within),
    gdpr_metric(G6, "Consent was live at training", ("6(1)(a)", "7"), consent_live, subject=True),
    gdpr_metric(
        G13, "Reads have a purpose and a reader", ("30", "32"), reads_have_a_purpose, parameters=Within
    ),
    gdpr_metric(G14, "No small group is shown", ("5(1)(f)", "25"), k_anonymity, parameters=Anonymity),
    gdpr_metric(
        G20, "The log holds pseudonyms alone", ("5(1)(c)", "25"), log_pseudonymous, parameters=Sample
    ),
    gdpr_metric(G20_ADDRESSES, "No event holds an address in the clear", ("5(1)(c)", "25"), addresses_in_log),
)
