"""The fields of Annex IV that the registry can fill by itself, each from what it knows and nothing else.

A function gives None where what it needs is not recorded; it never fills in words of its own instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from ml_registry_pipelines.compliance.dossier.content import Block, Derived, Facts, Grid, Source, Words
from ml_registry_pipelines.compliance.dossier.known import DAYS, Known
from ml_registry_pipelines.compliance.results import Area, Result, Verdict

MOST_ROWS = 40
_SUPPLY = {
    "file": "one file, downloaded from the registry",
    "folder": "a folder of files, downloaded from the registry as a zip",
    "uri": "content at an address of its own, with its digest",
    "hosted": "a model hosted by its provider, called through the provider's API",
}


def purpose(known: Known) -> Derived | None:
    """1(a)."""
    version, model = known.version, known.model
    text = version.description.strip() or model.description.strip()
    if not text:
        return None
    before = [v for v in known.versions if v.number < version.number and not v.deleted]
    base = next((v for v in known.versions if v.id == version.base_version), None)
    made = known.registration
    return Derived(
        (
            Words(text),
            facts(
                ("Provider (tenant)", known.desk.tenant),
                ("Owners", ", ".join(model.owners)),
                ("Model", model.name),
                (
                    "Version",
                    f"{version.reference}, registered {made.recorded_at:%Y-%m-%d %H:%M}Z by {made.actor}",
                ),
                ("Content digest", version.content_digest),
                ("Made from", base.reference if base else version.base_version or ""),
                ("Version before", before[-1].reference if before else "none: this is the first"),
                ("Stage", version.stage.value),
            ),
        ),
        (known.event, known.log_source(model.sequence)),
        "The provider's legal name and address are not in the registry, which keeps pseudonyms.",
    )


def interaction(known: Known) -> Derived | None:
    """1(b)."""
    if not known.deployments:
        return None
    rows = tuple(
        (
            d.name,
            str(d.data["metadata"].get("environment", "")),
            str(d.data["metadata"].get("endpoint", "")) or "not recorded",
            f"{float(d.data['metadata'].get('traffic_share', 1.0)):.0%}",
            f"{d.valid_from:%Y-%m-%d}",
        )
        for d in known.deployments
    )
    return Derived(
        (
            Grid(
                "Deployments that call it",
                ("deployment", "environment", "endpoint", "traffic", "since"),
                rows,
            ),
        ),
        tuple(known.log_source(d.sequence) for d in known.deployments),
        "Which systems of others use its output is recorded by nobody but those who run them.",
    )


def software(known: Known) -> Derived | None:
    """1(c)."""
    version = known.version
    if not version.framework or not version.code_commit:
        return None
    return Derived(
        (
            facts(
                ("Framework", version.framework),
                ("Code", version.code_commit),
                ("Licence", version.licence or ""),
                ("Updates", "each update is a version of its own; versions never change"),
            ),
        ),
        (known.event,),
    )


def supply(known: Known) -> Derived | None:
    """1(d)."""
    content = known.version.content
    form = str(content["form"])
    endpoints = [
        str(d.data["metadata"].get("endpoint"))
        for d in known.deployments
        if d.data["metadata"].get("endpoint")
    ]
    return Derived(
        (
            facts(
                ("Content", _SUPPLY.get(form, form)),
                ("Files", str(content.get("files") or "")),
                ("Size", "" if known.version.size is None else f"{known.version.size:,} bytes"),
                ("API", ", ".join(endpoints)),
            ),
        ),
        (known.event,),
    )


def hardware(known: Known) -> Derived | None:
    """1(e): from a tag or metadata `hardware`."""
    said = known.tagged("hardware")
    return None if said is None else Derived((Words(said[0]),), (said[1],))


def product(known: Known) -> Derived | None:
    """1(f): where it was answered that the system is part of no product."""
    found = known.classification
    if found is None:
        return None
    given = found.answers.given
    if given.get("annex_i_act") != frozenset() or given.get("safety_component") is not False:
        return None
    return Derived(
        (
            Words(
                "It is no component of a product: no act of Annex I covers it, and it is no safety component."
            ),
        ),
        (Source("EU AI Act intake", f"event {found.sequence}"),),
    )


def development(known: Known) -> Derived | None:
    """2(a)."""
    version, made = known.version, known.registration
    if not version.code_commit and not known.run_id:
        return None
    base = next((v.reference for v in known.versions if v.id == version.base_version), version.base_version)
    return Derived(
        (
            facts(
                ("Code", version.code_commit or ""),
                ("Training run", known.run_id or ""),
                ("Framework", version.framework or ""),
                ("Pre-trained system that it was made from", base or "none is recorded"),
                ("Trained on", ", ".join(s.name for s, _ in known.datasets) or "no data set is recorded"),
                ("Registered", f"{made.recorded_at:%Y-%m-%d %H:%M}Z by {made.actor}"),
            ),
        ),
        (known.log_source(made.sequence),),
        "Steps before the run, such as choices between candidates, are in no record of the registry.",
    )


def design(known: Known) -> Derived | None:
    """2(b)."""
    version = known.version
    if not version.parameters or not version.signature:
        return None
    blocks: list[Block] = [facts(("Framework", version.framework or ""), *flat(version.parameters))]
    blocks += signature_blocks(known)
    return Derived(
        tuple(blocks), (known.event,), "Rationale, assumptions and trade-offs have to be stated by a person."
    )


def architecture(known: Known) -> Derived | None:
    """2(c)."""
    version = known.version
    parts = [("content", version.content), *((str(a["kind"]), a) for a in version.artifacts)]
    rows = tuple(
        (kind, str(part["name"]), str(part["form"]), str(part["digest"])[:16], _bytes(part.get("size")))
        for kind, part in parts
    )
    found = known.classification
    flop = found.answers.given.get("train_flop") if found else None
    return Derived(
        (
            Grid("What it is made of", ("part", "name", "form", "digest", "bytes"), rows, 1),
            facts(
                ("Fed by", ", ".join(s.name for s, _ in known.datasets)),
                ("Feeds", ", ".join(d.name for d in known.deployments)),
                ("Training compute", f"{flop} FLOP" if flop else ""),
            ),
        ),
        (known.event,),
        "" if flop else "Computing resources of the training are not recorded.",
    )


def data(known: Known) -> Derived | None:
    """2(d)."""
    if not known.datasets:
        return None
    rows = []
    for state, columns in known.datasets:
        seen: Mapping[str, object] = state.data["metadata"]
        listed = seen.get("columns")
        count = len(listed) if isinstance(listed, list) else 0
        rows.append(
            (
                state.name,
                str(seen.get("format", "")),
                str(seen.get("digest", ""))[:16],
                f"{state.recorded_at:%Y-%m-%d}",
                f"{len(columns)} of {count}"
                if columns is not None
                else f"all {count}"
                if count
                else "not recorded",
                f"{seen['rows']:,}" if isinstance(seen.get("rows"), int) else "not recorded",
            )
        )
    used = [(s.name, ", ".join(columns)) for s, columns in known.datasets if columns]
    wholes = {str(s.data.get("parent_id")) for s, _ in known.datasets}
    described = [
        (s.name, str(s.data.get("description")))
        for s in known.view.by_any("things", "id", sorted(wholes))
        if s.data.get("description")
    ]
    blocks: list[Block] = [
        Grid(
            "Data sets", ("data set", "format", "digest", "recorded", "columns used", "rows"), tuple(rows), 1
        )
    ]
    if described:
        blocks.append(Facts(tuple(described)))
    if used:
        blocks.append(Facts(tuple((f"Columns of {name}", columns) for name, columns in used)))
    return Derived(
        tuple(blocks),
        tuple(known.log_source(s.sequence) for s, _ in known.datasets),
        "How the data were selected, labelled and cleaned has to be stated by a person.",
    )


def validation(known: Known) -> Derived | None:
    """2(g)."""
    results = known.results_of(Area.FAIRNESS)
    if not known.version.metrics or not (known.evaluated_on or _ran(results)):
        return None
    blocks: list[Block] = [metrics_grid(known)]
    if known.evaluated_on:
        blocks.append(facts(("Evaluated on", ", ".join(s.name for s in known.evaluated_on))))
    sources = [known.event]
    if results:
        blocks.append(results_grid("Checks", results))
        sources.append(known.results_source(results))
    return Derived(tuple(blocks), tuple(sources))


def security(known: Known) -> Derived | None:
    """2(h)."""
    results = known.results_of(Area.SECURITY)
    if not _ran(results):
        return None
    return Derived(
        (results_grid("Checks of the artifacts", results),),
        (known.results_source(results),),
        "Protection of the systems that serve it is not in the registry.",
    )


def capabilities(known: Known) -> Derived | None:
    """3."""
    results = known.results_of(Area.FAIRNESS)
    if not known.version.metrics or not _ran(results):
        return None
    blocks: list[Block] = [metrics_grid(known)]
    if groups := groups_grid(results):
        blocks.append(groups)
    blocks.append(results_grid("Differences between groups", results))
    return Derived(
        tuple(blocks),
        (known.event, known.results_source(results)),
        "Foreseeable unintended outcomes and sources of risk have to be stated by a person.",
    )


def changes(known: Known) -> Derived | None:
    """6."""
    recorded = known.history
    events = recorded[-MOST_ROWS:]
    names = {v.id: v.reference for v in known.versions}
    rows = tuple(
        (
            f"{e.recorded_at:%Y-%m-%d %H:%M}Z",
            names.get(e.id, known.model.name),
            e.action.replace("_", " "),
            e.actor,
            f"{e.sequence}",
        )
        for e in events
    )
    left = len(recorded) - len(events)
    caption = "Events of the log" + (f", the newest {len(events)} of {len(recorded)}" if left else "")
    return Derived(
        (Grid(caption, ("when", "about", "what", "by", "event"), rows, 1),),
        (Source("governance_events", f"events {recorded[0].sequence} to {recorded[-1].sequence}"),),
    )


def monitoring(known: Known) -> Derived | None:
    """9."""
    if known.traffic is None:
        return None
    group, source = known.traffic
    rate = group.error_rate_interval
    shown = [
        ("Requests", f"{group.requests:,} in {DAYS} days"),
        (
            "Errors",
            ""
            if rate is None
            else f"{rate.estimate:.2%} (95 % interval {rate.lower:.2%} to {rate.upper:.2%})",
        ),
        ("Tokens", f"{group.input_tokens:,} in, {group.output_tokens:,} out"),
    ]
    sources = [source]
    if known.costs is not None:
        costs, of = known.costs
        amounts = [f"{amount:,.2f} {code}" for code, amount in sorted(costs.totals.items())]
        priced = f"{costs.priced:,} of {costs.billable:,} billable requests have a price"
        shown.append(("Costs", "; ".join([*amounts, priced])))
        sources.append(of)
    if known.alert_rules is not None:
        rules, of = known.alert_rules
        shown.append(("Alert rules that are on", ", ".join(rules)))
        sources.append(of)
    return Derived(
        (facts(*shown),), tuple(sources), "The plan under Article 72(3) has to be stated by a person."
    )


DERIVING: Mapping[str, Callable[[Known], Derived | None]] = {
    "1(a)": purpose,
    "1(b)": interaction,
    "1(c)": software,
    "1(d)": supply,
    "1(e)": hardware,
    "1(f)": product,
    "2(a)": development,
    "2(b)": design,
    "2(c)": architecture,
    "2(d)": data,
    "2(g)": validation,
    "2(h)": security,
    "3": capabilities,
    "6": changes,
    "9": monitoring,
}
"""By field; 1(h) is the document `instructions_for_use` itself."""
NEEDS: Mapping[str, str] = {
    "1(a)": "describe the model",
    "1(b)": "track a deployment of the version",
    "1(c)": "register the version with its framework and code commit",
    "1(e)": "tag the version or its deployment with hardware=...",
    "1(f)": "answer annex_i_act and safety_component in the EU AI Act intake",
    "1(h)": "complete the instructions for use",
    "2(a)": "register the version with its code commit, or from a run",
    "2(b)": "register the version with parameters and signature",
    "2(d)": "register the version with the data that it was trained on",
    "2(g)": "register the version with metrics and the data of its evaluation, or run its suites",
    "2(h)": "run the security checks of the version",
    "3": "run the fairness checks of the version",
    "9": "serve the version, with its requests attributed",
}
"""What would let a field be derived, to be said where it is missing."""


# -- blocks that documents share --------------------------------------------------------------------


def facts(*rows: tuple[str, str]) -> Facts:
    """Names with their values; what is empty is left out."""
    return Facts(tuple((name, value) for name, value in rows if value))


def flat(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Parameters as names and texts."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)[:300])
        for name, value in sorted(values.items())
    ]


def signature_blocks(known: Known) -> list[Block]:
    """The schema of input and output."""
    made: list[Block] = []
    for side, said in (known.version.signature or {}).items():
        if isinstance(said, list) and said and all(isinstance(c, Mapping) and "name" in c for c in said):
            rows = tuple((str(c["name"]), str(c.get("type", ""))) for c in said[:MOST_ROWS])
            more = f", the first {MOST_ROWS} of {len(said)}" if len(said) > MOST_ROWS else ""
            made.append(Grid(f"Schema of {side}{more}", ("column", "type"), rows))
        else:
            made.append(
                Facts(((f"Schema of {side}", json.dumps(said, ensure_ascii=False, default=str)[:600]),))
            )
    return made


def metrics_grid(known: Known) -> Grid:
    """The metrics of the version as it was registered."""
    rows = tuple((name, f"{value:.6g}") for name, value in sorted(known.version.metrics.items()))
    return Grid("As registered", ("metric", "value"), rows, 1)


def results_grid(caption: str, results: Sequence[Result]) -> Grid:
    """Results of checks with their thresholds and verdicts."""
    rows = tuple(
        (
            f"{r.check} {r.about}".strip(),
            r.verdict.value.replace("_", " "),
            "" if r.interval is None else f"{r.interval.low:.4g} to {r.interval.high:.4g}",
            _bounds(r),
            "not measured" if r.observed is None else f"{r.observed:.4g}",
        )
        for r in sorted(results, key=lambda r: (r.suite, r.check, r.about))[:MOST_ROWS]
    )
    return Grid(caption, ("check", "verdict", "interval", "threshold", "value"), rows, 1)


def groups_grid(results: Sequence[Result]) -> Grid | None:
    """Values by group of people. What was too small to be judged is listed with the reason."""
    rows = tuple(
        (
            r.metric.replace("_", " "),
            g.name,
            g.left_out,
            "" if g.interval is None else f"{g.interval.low:.4g} to {g.interval.high:.4g}",
            "" if g.value is None else f"{g.value:.4g}",
            f"{g.n:,}",
        )
        for r in sorted(results, key=lambda r: (r.suite, r.check, r.about))
        for g in r.groups
    )[:MOST_ROWS]
    heads = ("metric", "group", "left out", "interval", "value", "people")
    return Grid("By group of people", heads, rows, 2) if rows else None


def _ran(results: Sequence[Result]) -> bool:
    """Whether anything was measured: checks that could not run say nothing about the version."""
    return any(r.verdict is not Verdict.COULD_NOT_RUN for r in results)


def _bounds(result: Result) -> str:
    match result.low, result.high:
        case None, None:
            return ""
        case None, high:
            return f"at most {high:.4g}"
        case low, None:
            return f"at least {low:.4g}"
        case low, high:
            return f"{low:.4g} to {high:.4g}"


def _bytes(size: object) -> str:
    return f"{size:,}" if isinstance(size, int) else ""
