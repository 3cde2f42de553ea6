"""Documents as pages: self-contained HTML that prints, and Markdown. Nothing here knows the law."""

from __future__ import annotations

from datetime import datetime

from ml_registry_pipelines.compliance.dossier.content import (
    Block,
    Document,
    Facts,
    Grid,
    Section,
    Status,
    Words,
)
from ml_registry_pipelines.compliance.dossier.documents import is_empty
from ml_registry_pipelines.reports.made import escaped, markdown_table
from ml_registry_pipelines.reports.page import Column, Content, Markup, el, headline, table
from ml_registry_pipelines.reports.page import document as page

NARROW = 2
"""Columns of a table that would be torn apart on the whole width."""
_STYLE = """
.tag { display: inline-block; font-size: 0.72rem; font-weight: 600; line-height: 1.35; letter-spacing: 0.02em;
  border: 1px solid var(--line); border-radius: 3px; padding: 0 0.35rem; margin-left: 0.5rem;
  vertical-align: 0.12em; color: var(--muted); white-space: nowrap; }
.tag.missing { color: var(--mark); border-color: var(--mark-line); background: var(--mark-soft); }
.tag.attested { color: var(--ink); border-color: var(--ink); }
dl.headlines > div { flex-basis: 10rem; }
section { margin: 0 0 1.75rem; }
section .narrow { max-width: 34rem; }
section h2 { margin: 1.75rem 0 0.5rem; font-size: 1.1rem; }
section h2 small { font-weight: 400; margin-left: 0.4rem; color: var(--muted); font-size: 0.85rem; }
section .from, section .beyond { color: var(--muted); font-size: 0.82rem; margin: 0.35rem 0 0; }
section dl.facts { display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: 0.15rem 1rem; margin: 0.6rem 0; }
section dl.facts dt { font-size: 0.85rem; }
section dl.facts dd { font-size: 0.9rem; overflow-wrap: anywhere; }
@media (max-width: 34rem) {
  section dl.facts { grid-template-columns: 1fr; } section dl.facts dd { margin-bottom: 0.35rem; }
}
section .wide { margin: 0.75rem 0; }
section caption { font-size: 0.85rem; }
blockquote { margin: 0.6rem 0; padding: 0.1rem 0 0.1rem 0.9rem; border-left: 3px solid var(--line); }
@media print {
  section { margin-bottom: 0.8rem; } section h2 { margin-top: 0.9rem; } blockquote { break-inside: avoid; }
}
"""


def html(document: Document, made: datetime) -> str:
    """The page of a document."""
    missing = document.missing
    notice = (
        el(
            "div",
            el(
                "p",
                f"{len(missing)} {'part is' if len(missing) == 1 else 'parts are'} missing. ",
                "This document is not complete; each gap is marked where it is.",
            ),
            class_="notice",
        )
        if missing
        else None
    )
    top = (
        el(
            "dl",
            [headline(label, value, note) for label, value, note in document.headlines],
            class_="headlines",
        )
        if document.headlines
        else None
    )
    return page(
        document.title,
        document.subtitle,
        Markup(f"<style>{_STYLE}</style>"),
        el("p", document.about),
        top,
        notice,
        [_section(section) for section in document.sections],
        el("p", f"Made {made:%Y-%m-%d %H:%M}Z.", class_="quiet"),
    )


def _section(section: Section) -> Markup:
    return el(
        "section",
        el(
            "h2",
            section.title,
            el("small", f"  Art. {section.article}") if section.article else None,
            _tag(section),
        ),
        [_block(block) for block in section.blocks if not is_empty(block)],
        [el("div", el("p", sentence), class_="notice") for sentence in section.missing],
        el("p", section.note, class_="beyond") if section.note else None,
        el("p", _whence(section), class_="from") if _whence(section) else None,
    )


def _tag(section: Section) -> Markup | None:
    status = Status.MISSING if section.missing else section.status
    return None if status is None else el("span", status.value, class_=f"tag {status.value}")


def _whence(section: Section) -> str:
    said = []
    if section.sources:
        by_name: dict[str, list[str]] = {}
        for source in section.sources:
            by_name.setdefault(source.name, []).append(source.version)
        read = "; ".join(f"{name}, {', '.join(dict.fromkeys(of))}" for name, of in by_name.items())
        said.append(f"From {read}.")
    if section.attestation is not None:
        by = section.attestation
        said.append(
            f"Attested by {by.actor} ({by.authenticated_by.replace('_', ' ')}) on {by.recorded_at:%Y-%m-%d} "
            f"about {by.about} (event {by.sequence})."
        )
    return " ".join(said)


def _block(block: Block) -> Content:
    match block:
        case Words(text):
            return el("blockquote", [el("p", part) for part in text.split("\n\n")])
        case Facts(rows):
            return el("dl", [[el("dt", name), el("dd", value)] for name, value in rows], class_="facts")
        case Grid(caption, heads, rows, numbers):
            columns = [Column(head, number=n >= len(heads) - numbers) for n, head in enumerate(heads)]
            return el("div", table(caption, columns, rows), class_="narrow" if len(heads) <= NARROW else None)


def markdown(document: Document, made: datetime) -> str:
    """The document in Markdown; what was given as text means nothing in it but itself."""
    lines = [f"# {escaped(document.title)}: {escaped(document.subtitle)}", "", escaped(document.about), ""]
    if document.headlines:
        lines += [
            f"- **{escaped(label)}**: {escaped(value)}" + (f" ({escaped(note)})" if note else "")
            for label, value, note in document.headlines
        ]
        lines.append("")
    for section in document.sections:
        status = Status.MISSING if section.missing else section.status
        marks = [f"Art. {section.article}"] if section.article else []
        marks += [status.value] if status else []
        lines += [f"## {escaped(section.title)}" + (f" ({'; '.join(marks)})" if marks else ""), ""]
        for block in section.blocks:
            if not is_empty(block):
                lines += [*_lines(block), ""]
        for sentence in section.missing:
            lines += [f"> **Missing.** {escaped(sentence)}", ""]
        for said in (section.note, _whence(section)):
            if said:
                lines += [f"*{escaped(said)}*", ""]
    lines.append(f"Made {made:%Y-%m-%d %H:%M}Z.")
    return "\n".join(lines) + "\n"


def _lines(block: Block) -> list[str]:
    match block:
        case Words(text):
            return [escaped(part) for part in text.split("\n\n")]
        case Facts(rows):
            return [f"- **{escaped(name)}**: {escaped(value)}" for name, value in rows]
        case Grid(caption, heads, rows, numbers):
            return [f"**{escaped(caption)}**", "", markdown_table(heads, rows, numbers=numbers)]
