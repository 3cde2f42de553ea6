"""A lineage graph in the formats that others read: JSON, GraphML, Mermaid, and a page for people.

Each takes a graph and gives text. OpenLineage events are made in `openlineage/exporting.py`;
the script and style of the page lie in `page/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    from ml_registry_pipelines.lineage.tracker import Graph

MERMAID_NODES = 500
"""Entities that Mermaid's viewers still lay out; its own limit is 500 edges, which the text raises."""
_PAGE = Path(__file__).parent / "page"


def as_json(graph: Graph, title: str) -> str:
    """Nodes and edges; `cursor` says where a partial graph goes on."""
    return json.dumps({"title": title, **_data(graph)}, indent=1, ensure_ascii=False) + "\n"


def _data(graph: Graph) -> dict[str, Any]:
    return {
        "roots": list(graph.roots),
        "partial": graph.partial,
        "cursor": graph.cursor,
        "nodes": [{"id": n.id, "type": n.type, "name": n.name, **dict(n.detail)} for n in graph.nodes],
        "edges": [{"from": e.upstream, "to": e.downstream, "type": e.type} for e in graph.edges],
    }


def as_graphml(graph: Graph, title: str) -> str:
    """GraphML, as Gephi, yEd and networkx read it; what is no text or number is JSON."""
    keys = sorted({name for node in graph.nodes for name, value in node.detail if value is not None})
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *(
            f'  <key id={quoteattr(name)} for="node" attr.name={quoteattr(name)} attr.type="string"/>'
            for name in ("type", "name", *(f"detail.{key}" for key in keys))
        ),
        '  <key id="relation" for="edge" attr.name="relation" attr.type="string"/>',
        '  <key id="title" for="graph" attr.name="title" attr.type="string"/>',
        '  <graph id="lineage" edgedefault="directed">',
        f'    <data key="title">{_xml(title)}</data>',
    ]
    for node in graph.nodes:
        lines.append(f"    <node id={quoteattr(_plain(node.id))}>")
        lines += [
            f'      <data key="{k}">{_xml(v)}</data>' for k, v in (("type", node.type), ("name", node.name))
        ]
        lines += [
            f"      <data key={quoteattr(f'detail.{key}')}>{_xml(_word(value))}</data>"
            for key, value in node.detail
            if value is not None
        ]
        lines.append("    </node>")
    for number, edge in enumerate(graph.edges):
        ends = f"source={quoteattr(_plain(edge.upstream))} target={quoteattr(_plain(edge.downstream))}"
        lines.append(f'    <edge id="e{number}" {ends}><data key="relation">{_xml(edge.type)}</data></edge>')
    return "\n".join([*lines, "  </graph>", "</graphml>", ""])


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _plain(text: str) -> str:
    """The text without what XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)


def _xml(text: str) -> str:
    return xml_escape(_plain(text))


def as_mermaid(graph: Graph, title: str) -> str:
    """A Mermaid flowchart, for Markdown pages.

    Raises:
        InvalidInput: there are more entities than its viewers lay out.
    """
    if len(graph.nodes) > MERMAID_NODES:
        raise InvalidInput(
            f"the graph has {len(graph.nodes):,} entities and Mermaid draws {MERMAID_NODES} at most; "
            "limit depth or types, or export html"
        )
    place = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    kinds = sorted({node.type for node in graph.nodes})
    config = json.dumps({"maxEdges": max(500, len(graph.edges)), "maxTextSize": 10_000_000})
    lines = ["---", f"title: {json.dumps(title)}", f"config: {config}", "---", "flowchart LR"]
    lines += [
        f'  {place[node.id]}["{_label(node.name)}<br/><small>{_label(node.type)}</small>"]'
        for node in graph.nodes
    ]
    lines += [
        f'  {place[edge.upstream]} -->|"{_label(edge.type)}"| {place[edge.downstream]}'
        for edge in graph.edges
    ]
    for number, kind in enumerate(kinds):
        members = ",".join(place[n.id] for n in graph.nodes if n.type == kind)
        lines.append(f"  classDef t{number} stroke-width:2px,stroke:{_STROKES[number % len(_STROKES)]}")
        lines.append(f"  class {members} t{number}")
    lines += [f"  style {place[root]} stroke-width:4px" for root in graph.roots if root in place]
    return "\n".join([*lines, ""])


_STROKES = ("#2f6fde", "#0f8a6d", "#b4560b", "#8a3ffc", "#c2255c", "#5c7080", "#7a7a00", "#007f99")


def _label(text: str) -> str:
    """Text that Mermaid shows as it is: its own entities for whatever is not a plain letter."""
    return "".join(
        c if c.isalnum() or c in " _-.@/:" else f"#{ord(c)};" if c.isprintable() else " " for c in text
    )


def as_html(graph: Graph, title: str, *, as_of: datetime | None = None) -> str:
    """A page of its own that needs nothing from the network: drawing, search, details and a list."""
    data = {
        "title": title,
        "asOf": as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if as_of else None,
        **_data(graph),
    }
    # Within a script element only these could end it.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    parts = {
        "title": escape(title),
        "style": (_PAGE / "graph.css").read_text(encoding="utf-8"),
        "script": (_PAGE / "graph.js").read_text(encoding="utf-8"),
        "data": text.replace("\u2029", "\\u2029"),
    }
    page = (_PAGE / "graph.html").read_text(encoding="utf-8")
    head, *rest = page.split("{{")
    return head + "".join(parts[name] + after for name, after in (piece.split("}}", 1) for piece in rest))


FORMATS: Mapping[str, Callable[[Graph, str], str]] = {
    "json": as_json,
    "graphml": as_graphml,
    "mermaid": as_mermaid,
    "html": as_html,
}
