"""A self-contained HTML page: elements that escape what is put into them, tables, figures and the style.

Nothing here knows what a report is about; that is in `costs.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


class Markup(str):
    """Text that is HTML already. Every other string is escaped when it is put into an element."""

    __slots__ = ()


Content = str | None | Iterable["Content"]


def el(name: str, *content: Content, **attributes: str | None) -> Markup:
    """An element. Attributes with None are left out; `class_` is `class`, `aria_label` is `aria-label`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: Content) -> Markup:
    """Pieces one after the other, escaped where they are not markup."""
    found = []
    for piece in content:
        if isinstance(piece, Markup):
            found.append(str(piece))
        elif isinstance(piece, str):
            found.append(escape(piece))
        elif piece is not None:
            found.append(str(join(*piece)))
    return Markup("".join(found))


ASSUMED = el("span", "assumed", class_="assumed")
"""The mark of a figure that rests on assumed data or prices."""


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand right. `unit` is set small below the head."""

    head: str
    unit: str | None = None
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell with more than its text: an exact value to hover, or a quieter look."""

    text: Content
    title: str | None = None
    quiet: bool = False


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Content | Cell]], *, note: Content = None
) -> Markup:
    """A table with a caption and a note on it; the first cell of each row heads it."""
    heads = [
        el(
            "th",
            column.head,
            el("small", column.unit) if column.unit else None,
            scope="col",
            class_="n" if column.number else None,
        )
        for column in columns
    ]
    body = [
        el(
            "tr",
            [
                _cell(cell, column, first=not index)
                for index, (cell, column) in enumerate(zip(row, columns, strict=True))
            ],
        )
        for row in rows
    ]
    return el(
        "div",
        el(
            "table",
            el("caption", caption, el("small", note) if note else None),
            el("thead", el("tr", heads)),
            el("tbody", body),
        ),
        class_="wide",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def _cell(content: Content | Cell, column: Column, *, first: bool) -> Markup:
    cell = content if isinstance(content, Cell) else Cell(content)
    classes = " ".join(filter(None, ["n" if column.number else "", "quiet" if cell.quiet else ""])) or None
    if first:
        return el("th", cell.text, scope="row", title=cell.title, class_=classes)
    return el("td", cell.text, title=cell.title, class_=classes)


def figure(heading: str, svg: str, *caption: Content) -> Markup:
    """A chart with its heading above and its caption below."""
    return el(
        "figure",
        el("h3", heading),
        el("div", Markup(svg), class_="chart"),
        el("figcaption", *caption),
    )


def headline(label: str, value: str, *note: Content, assumed: bool = False) -> Markup:
    """One of the figures on top: what it is, its value, and what to know about it."""
    return el(
        "div",
        el("dt", label, Markup(" ") if assumed else None, ASSUMED if assumed else None),
        el("dd", el("strong", value)),
        el("dd", *note, class_="note"),
    )


def document(title: str, subtitle: str, *content: Content) -> str:
    """The page as a file's text. It loads nothing, and says so to the browser."""
    head = el(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        ),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        el("title", f"{title}, {subtitle}"),
        el("style", Markup(STYLE)),
    )
    main = el("main", el("header", el("h1", title), el("p", subtitle, class_="subtitle")), *content)
    return f"<!doctype html>\n{el('html', head, el('body', main), lang='en')}\n"


STYLE = """
:root {
  --paper: #ffffff; --ink: #1c2430; --muted: #5a6472; --line: #dfe3e8; --soft: #f5f7f9;
  --mark: #8a4b0f; --mark-line: #d9a45f; --mark-soft: #fdf4e7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e6e9ed; --muted: #a0a9b4; --line: #333a43; --soft: #1c2229;
    --mark: #f0b76b; --mark-line: #8d6329; --mark-soft: #2a2217;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header { border-bottom: 2px solid var(--ink); margin-bottom: 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 0.75rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
.subtitle { color: var(--muted); margin: 0.35rem 0 0.9rem; }
.assumed {
  display: inline-block; font-size: 0.72rem; font-weight: 600; line-height: 1.25; letter-spacing: 0.02em;
  color: var(--mark); border: 1px solid var(--mark-line); border-radius: 3px;
  padding: 0 0.3rem; vertical-align: 0.12em;
}
.notice {
  background: var(--mark-soft); border-left: 3px solid var(--mark-line);
  padding: 0.7rem 1rem; margin: 1rem 0;
}
.notice p { margin: 0; max-width: none; }
.empty { background: var(--soft); padding: 0.9rem 1rem; color: var(--muted); }
dl.headlines {
  display: flex; flex-wrap: wrap; gap: 1px;
  margin: 1.25rem 0 0; background: var(--line); border: 1px solid var(--line);
}
dl.headlines > div { flex: 1 1 17rem; background: var(--paper); padding: 0.8rem 1rem 0.9rem; }
dt { color: var(--muted); font-size: 0.85rem; }
dd { margin: 0; }
dd strong { font-size: 1.3rem; font-weight: 600; line-height: 1.3; letter-spacing: -0.01em; }
dd.note { color: var(--muted); font-size: 0.85rem; line-height: 1.4; }
figure { margin: 1.75rem 0 2.25rem; }
.chart { overflow-x: auto; }
.chart svg { display: block; max-width: 100%; min-width: 40rem; height: auto; }
figcaption { color: var(--muted); font-size: 0.85rem; max-width: 46rem; margin-top: 0.5rem; }
.wide { overflow-x: auto; margin: 1rem 0 1.75rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
caption { text-align: left; font-weight: 600; padding: 0.25rem 0 0.5rem; font-size: 0.95rem; }
th, td {
  padding: 0.32rem 0.6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
}
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
thead th {
  color: var(--muted); font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--muted);
}
caption small { display: block; font-weight: 400; color: var(--muted); }
thead small { display: block; font-weight: 400; }
tbody th { font-weight: 400; overflow-wrap: anywhere; min-width: 8rem; }
.n { text-align: right; }
td.n { white-space: nowrap; }
.quiet { color: var(--muted); }
.mark { color: var(--mark); }
dl.reading dt { color: var(--ink); font-weight: 600; margin-top: 0.7rem; }
dl.reading dd { max-width: 46rem; color: var(--muted); }
@media print {
  :root {
    --paper: #ffffff; --ink: #000000; --muted: #444444; --line: #cccccc; --soft: #f5f5f5;
    --mark: #000000; --mark-line: #777777; --mark-soft: #f5f5f5;
  }
  @page { margin: 16mm 14mm; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  figure, dl.headlines, tr, .notice { break-inside: avoid; }
  dl.headlines > div { flex-basis: 30%; }
  dd strong { font-size: 1rem; }
  h2 { margin-top: 1.5rem; }
  figure { margin: 1rem 0 1.25rem; }
  h2, h3, caption { break-after: avoid; }
  /* Room for a few rows, so that no heading of a table is left alone at the foot of a page. */
  caption { break-inside: avoid; }
  caption::after { content: ""; display: block; height: 30mm; margin-bottom: -30mm; }
  thead { display: table-header-group; }
  .chart, .wide { overflow: visible; }
  .chart svg { min-width: 0; max-height: 115mm; }
  th, td { padding: 0.2rem 0.45rem; }
  table { font-size: 8pt; }
}
"""
