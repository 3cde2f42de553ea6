"""The documents that are made of a dossier: Annex IV, model card, transparency notice, instructions, oversight.

All from the same fields, so that no two of them disagree. A section without content says what is
missing; nothing is filled in for it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.ai_act.table import current
from ml_registry_pipelines.compliance.dossier.content import (
    Block,
    Document,
    Facts,
    Field,
    Grid,
    Section,
    Status,
    Words,
)
from ml_registry_pipelines.compliance.dossier.deriving import (
    facts,
    groups_grid,
    metrics_grid,
    results_grid,
    signature_blocks,
)
from ml_registry_pipelines.compliance.results import Area

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.ai_act.classifications import Classification
    from ml_registry_pipelines.compliance.dossier.dossier import Dossier


def document(dossier: Dossier, kind: str) -> Document:
    """One document of a dossier.

    Raises:
        KeyError: there is no such kind.
    """
    return KINDS[kind](dossier)


def annex_iv(dossier: Dossier) -> Document:
    """The technical documentation: the 23 fields of Annex IV."""
    sections = [_of_field(field) for field in dossier.fields]
    filled = len(dossier.fields) - len(dossier.missing)
    return Document(
        "annex_iv",
        "Technical documentation",
        f"{dossier.reference}, Annex IV of Regulation (EU) 2024/1689",
        "Each field says where its content comes from: derived from the registry, attested by a person, or missing.",
        tuple(sections),
        (
            ("Filled", f"{filled} of {len(dossier.fields)}", f"{dossier.score:.0%}"),
            ("Derived", str(len(dossier.derived)), "from registry, lineage, results, traffic and costs"),
            ("Attested", str(len(dossier.attested)), "by people; listed with who and when"),
            ("Missing", str(len(dossier.missing)), ", ".join(dossier.missing) or "nothing"),
        ),
    )


def model_card(dossier: Dossier) -> Document:
    """What somebody who is to use the version has to know first."""
    known = dossier.known
    results = known.results
    fair = [r for r in results if r.area is Area.FAIRNESS]
    metrics: list[Block] = [metrics_grid(known)] if known.version.metrics else []
    groups: list[Block] = []
    if fair:
        by_group = groups_grid(fair)
        groups = [*([by_group] if by_group else []), results_grid("Differences between groups", fair)]
    schema = signature_blocks(known)
    return Document(
        "model_card",
        "Model card",
        dossier.reference,
        "Made from the registry; what it does not know is said.",
        (
            _part(dossier, "What it is", "1(a)"),
            _class_section(known.classification),
            Section(
                "Input and output",
                blocks=tuple(schema),
                missing=_unless(
                    schema,
                    "The schema of input and output is not recorded: register the version with its signature.",
                ),
            ),
            _part(dossier, "Training data", "2(d)"),
            Section(
                "Metrics",
                blocks=tuple(metrics),
                missing=_unless(metrics, "No metric is recorded: register the version with its metrics."),
            ),
            Section(
                "Groups of people",
                blocks=tuple(groups),
                missing=_unless(groups, "No fairness check of this content is recorded: run its suites."),
            ),
            _part(dossier, "Risks and limits", "5"),
            _part(dossier, "Human oversight", "2(e)"),
            _part(dossier, "Software", "1(c)"),
            _part(dossier, "In operation", "9"),
        ),
        _card_headlines(dossier),
    )


def instructions_for_use(dossier: Dossier) -> Document:
    """What the deployer is told, after Article 13(3)."""
    known = dossier.known
    schema = signature_blocks(known)
    results = [r for r in known.results if r.area in (Area.FAIRNESS, Area.SECURITY)]
    levels: list[Block] = [metrics_grid(known)] if known.version.metrics else []
    if results:
        levels.append(results_grid("Checks", results))
    return Document(
        "instructions_for_use",
        "Instructions for use",
        f"{dossier.reference}, Article 13 of Regulation (EU) 2024/1689",
        "For those who deploy it.",
        (
            _part(dossier, "Provider and intended purpose", "1(a)", article="13(3)(a), (b)(i)"),
            Section(
                "Accuracy, robustness and cyber security",
                "13(3)(b)(ii)",
                tuple(levels),
                _unless(levels, "No metric and no check of this content is recorded."),
            ),
            _part(dossier, "Known risks", "5", article="13(3)(b)(iii)"),
            _part(dossier, "Performance for groups of people", "3", article="13(3)(b)(v)"),
            Section(
                "Input data, and how to read the output",
                "13(3)(b)(vi), (vii)",
                tuple(schema),
                _unless(schema, "The schema of input and output is not recorded."),
            ),
            _part(dossier, "Data that it learned from", "2(d)", article="13(3)(b)(vi)"),
            _part(dossier, "Pre-determined changes", "2(f)", article="13(3)(c)"),
            _part(dossier, "Human oversight", "2(e)", article="13(3)(d)"),
            _part(dossier, "Hardware, updates and lifetime", "1(e)", article="13(3)(e)"),
            Section(
                "Logs",
                "13(3)(f)",
                (
                    Words(
                        "Requests are recorded when their logs are ingested: `mlreg ingest`. Each is kept in "
                        "inference_events with time, provider, model, deployment and outcome, without its text."
                    ),
                ),
            ),
        ),
    )


def oversight_measures(dossier: Dossier) -> Document:
    """How people oversee it, after Article 14(4)(a) to (e)."""
    known = dossier.known
    oversight = dossier.field("2(e)")
    back = [
        v
        for v in known.versions
        if v.id != known.version.id and not v.deleted and v.number < known.version.number
    ]
    stop: list[Block] = []
    if known.deployments:
        stop.append(
            Grid(
                "What can be stopped, and by which command",
                ("deployment", "environment", "to stop it"),
                tuple(
                    (
                        d.name,
                        str(d.data["metadata"].get("environment", "")),
                        _ending(d.name, known.desk.tenant),
                    )
                    for d in known.deployments
                ),
            )
        )
        stop.append(facts(("Earlier version to go back to", back[-1].reference if back else "none")))
    sections = [
        _part(dossier, "Understand what it can and cannot do", "3", article="14(4)(a)"),
        Section(
            "Stay aware of automation bias",
            "14(4)(b)",
            _stated(oversight),
            () if oversight.attestation else (_why(oversight),),
            note="What is stated on human oversight as a whole (2(e)); a reviewer says whether it covers this.",
            attestation=oversight.attestation,
        ),
        Section(
            "Interpret the output",
            "14(4)(c)",
            tuple(signature_blocks(known)),
            _unless(signature_blocks(known), "The schema of the output is not recorded."),
        ),
        _record(dossier, "Decide not to use it, or override it", "oversight_assignment", "14(4)(d), 26(2)"),
        Section(
            "Stop it",
            "14(4)(e)",
            tuple(stop),
            _unless(stop, "No deployment is recorded, so it is not known what would have to be stopped."),
        ),
    ]
    found = known.classification
    if found is not None and any(duty.id == "two_person_rule" for duty in found.duties):
        sections.append(_record(dossier, "Verification by two people", "verifiers", "14(5)"))
    return Document(
        "oversight_measures",
        "Human oversight",
        f"{dossier.reference}, Article 14 of Regulation (EU) 2024/1689",
        "What those who oversee it have to be able to do, and by which means.",
        tuple(sections),
    )


_NOTICES = (
    ("tell_of_interaction", "You interact with an AI system", "ai_disclosure"),
    ("mark_content", "Content is generated", "content_marking"),
    ("tell_of_biometrics", "Emotions or biometric categories are inferred", "biometric_notice"),
    ("disclose_content", "Content is artificial", "content_disclosure"),
)


def transparency_notice(dossier: Dossier) -> Document:
    """What people are told, after Article 50."""
    found = dossier.known.classification
    sections = [_what_it_does(dossier)]
    if found is None:
        sections.append(
            Section(
                "What has to be told",
                "50",
                missing=("The model is not classified, so nobody can say what people have to be told.",),
            )
        )
    else:
        duties = {duty.id: duty for duty in found.duties}
        free = []
        for name, title, record in _NOTICES:
            if name in duties:
                duty = duties[name]
                since = f"Applies {'since' if duty.in_force else 'from'} {duty.applies_from}."
                open_ = "" if duty.certain else " Whether it applies hangs on an open question."
                sections.append(_record(dossier, title, record, duty.article, note=since + open_))
            else:
                rule = current().duty(name)
                free.append((f"Art. {rule.article}", f"{rule.title}: does not apply"))
        if any(duty.id == "explanation" for duty in found.duties):
            sections.append(_record(dossier, "Your right to an explanation", "explanation", "86"))
        if free:
            sections.append(
                Section(
                    "What need not be told",
                    blocks=(Facts(tuple(free)),),
                    note="By what was answered about the system, and the roles of those who run it.",
                )
            )
    return Document(
        "transparency_notice",
        "Transparency notice",
        f"{dossier.reference}, Article 50 of Regulation (EU) 2024/1689",
        "For the people who meet the system.",
        tuple(sections),
    )


def _what_it_does(dossier: Dossier) -> Section:
    """For people who have no use for digests: its purpose, and who runs it."""
    whole = _part(dossier, "What the system does", "1(a)")
    known = dossier.known
    words = tuple(block for block in whole.blocks if isinstance(block, Words))
    who = facts(
        ("Run by", known.desk.tenant), ("System", f"{known.model.name}, version {known.version.number}")
    )
    return replace(whole, blocks=(*words, *((who,) if words else ())))


KINDS: Mapping[str, Callable[[Dossier], Document]] = {
    "annex_iv": annex_iv,
    "model_card": model_card,
    "instructions_for_use": instructions_for_use,
    "oversight_measures": oversight_measures,
    "transparency_notice": transparency_notice,
}


def _of_field(field: Field, *, title: str = "", article: str = "") -> Section:
    derived = field.derived
    return Section(
        title or f"{field.asked.id}  {field.asked.title}",
        article,
        (*(derived.blocks if derived else ()), *_stated(field)),
        () if field.status is not Status.MISSING else (_why(field),),
        field.status,
        derived.beyond if derived and not field.attestation else "",
        derived.sources if derived else (),
        field.attestation,
    )


def _part(dossier: Dossier, title: str, name: str, *, article: str = "") -> Section:
    return _of_field(dossier.field(name), title=title, article=article)


def _record(dossier: Dossier, title: str, record: str, article: str, *, note: str = "") -> Section:
    stated = dossier.records.get(record)
    asks = current().records[record]
    return Section(
        title,
        article,
        (Words(stated.text),) if stated else (),
        () if stated else (f"{asks}: attest the record {record}.",),
        Status.ATTESTED if stated else Status.MISSING,
        note,
        attestation=stated,
    )


def _stated(field: Field) -> tuple[Block, ...]:
    return (Words(field.attestation.text),) if field.attestation else ()


def _why(field: Field) -> str:
    return f"{field.asked.asks} {field.why_missing}"


def _ending(deployment: str, tenant: str) -> str:
    inside = "" if tenant == "default" else f" --tenant {tenant}"
    return f"mlreg deployments end {shlex.quote(deployment)}{inside}"


def _unless(blocks: Sequence[object], sentence: str) -> tuple[str, ...]:
    return () if blocks else (sentence,)


def _class_section(found: Classification | None) -> Section:
    if found is None:
        return Section(
            "Class under the EU AI Act",
            missing=("The model is not classified: answer the EU AI Act intake.",),
        )
    evaluated = found.evaluation
    rows = [
        ("Class", found.tier.value.replace("_", " ")),
        ("Gates go by", found.gate_tier.value.replace("_", " ")),
        ("General-purpose model", "" if evaluated.gpai == "none" else evaluated.gpai.replace("_", " ")),
        ("Legal text", f"version {found.text_version}, on {evaluated.as_of}"),
        ("Not current", found.stale_because),
    ]
    open_ = tuple((q.name, q.article, q.ask, q.could_be.value.replace("_", " ")) for q in found.questions)
    because = tuple(
        (o.rule, f"{o.article}{' (amended)' if o.amended else ''}", o.says)
        for o in evaluated.outcomes
        if o.certain
    )
    return Section(
        "Class under the EU AI Act",
        blocks=(
            facts(*rows),
            Grid("By these rules", ("rule", "article", "what it says"), because),
            Grid("Open questions", ("fact", "article", "what is asked", "could make it"), open_),
        ),
        note=" ".join(
            f"{a.regulation}: {a.note}" for a in current().amended_by if not a.official_text_available
        ),
    )


def _card_headlines(dossier: Dossier) -> tuple[tuple[str, str, str], ...]:
    known = dossier.known
    found = known.classification
    shown = [("Stage", known.version.stage.value, f"registered {known.registration.recorded_at:%Y-%m-%d}")]
    shown.append(
        (
            "EU AI Act",
            found.tier.value.replace("_", " "),
            f"{len(found.missing)} open question{'' if len(found.missing) == 1 else 's'}",
        )
        if found
        else ("EU AI Act", "not classified", "")
    )
    shown.append(
        (
            "Dossier",
            f"{len(dossier.fields) - len(dossier.missing)} of {len(dossier.fields)}",
            "fields of Annex IV",
        )
    )
    return tuple(shown)


def is_empty(block: Block) -> bool:
    """Whether a block has nothing to show."""
    return isinstance(block, Facts | Grid) and not block.rows
