"""The graph in the formats of others, and as a page that a person opens."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import networkx as nx  # type: ignore[import-untyped]
import pytest

from ml_registry_pipelines.lineage.exports import as_graphml, as_html, as_json, as_mermaid
from ml_registry_pipelines.lineage.graph import Edge, Node
from ml_registry_pipelines.lineage.tracker import Graph
from ml_registry_pipelines.registry.errors import InvalidInput
from tests.conftest import PATIENCE_MS

NASTY = 'a "b" </script><!-- \u2028 & ]]> [x](y) \x01 ü'


def small() -> Graph:
    nodes = (
        Node("d1", "dataset", NASTY, (("owners", ("team:a",)), ("rows", 3), ("status", None))),
        Node("m1", "model_version", "fraud@v1", (("stage", "production"),)),
        Node("p1", "deployment", "eu", (("status", "live"), ("owners", ("team:ops",)))),
    )
    return Graph(nodes, (Edge("d1", "m1", "trained_on"), Edge("m1", "p1", "deployed_to")), ("d1",))


def large(models: int = 60, versions: int = 20) -> Graph:
    nodes = [Node("d", "dataset_version", "credit@v1")]
    edges = []
    for m in range(models):
        nodes.append(Node(f"m{m}", "model", f"model-{m}"))
        nodes.append(Node(f"p{m}", "deployment", f"deployment-{m}", (("status", "live"),)))
        edges.append(Edge(f"m{m}v0", f"p{m}", "deployed_to"))
        for v in range(versions):
            nodes.append(Node(f"m{m}v{v}", "model_version", f"model-{m}@v{v}"))
            edges += [Edge("d", f"m{m}v{v}", "trained_on"), Edge(f"m{m}v{v}", f"m{m}", "part_of")]
    return Graph(tuple(nodes), tuple(edges), ("d",))


def test_json_holds_every_node_and_edge():
    found = json.loads(as_json(small(), "t"))
    assert [n["name"] for n in found["nodes"]] == [NASTY, "fraud@v1", "eu"]
    assert found["edges"][0] == {"from": "d1", "to": "m1", "type": "trained_on"}
    assert (found["partial"], found["roots"]) == (False, ["d1"])


def test_graphml_is_read_by_others_whatever_the_names_are(tmp_path):
    graph = small()
    twice = replace(graph, edges=(*graph.edges, Edge("d1", "m1", "evaluated_on")))
    (tmp_path / "g.graphml").write_text(as_graphml(twice, NASTY), encoding="utf-8")
    found = nx.read_graphml(tmp_path / "g.graphml")
    assert sorted(found.edges(data="relation")) == [
        ("d1", "m1", "evaluated_on"),
        ("d1", "m1", "trained_on"),
        ("m1", "p1", "deployed_to"),
    ]
    assert (found.is_directed(), set(found.nodes)) == (True, {"d1", "m1", "p1"})
    legible = NASTY.replace("\x01", "\ufffd")
    assert (found.graph["title"], found.nodes["d1"]["name"]) == (legible, legible)
    assert found.nodes["d1"]["detail.rows"] == "3"
    assert "detail.status" not in found.nodes["d1"]


def test_mermaid_escapes_names_and_refuses_what_no_viewer_draws():
    text = as_mermaid(small(), "Lineage")
    assert 'n0 -->|"trained_on"| n1' in text
    (label,) = re.findall(r'n0\["(.*?)<br/>', text)
    assert not set(label) & set('"<>&[]()')
    with pytest.raises(InvalidInput, match="1,321 entities"):
        as_mermaid(large(), "Lineage")


def test_the_page_needs_nothing_from_the_network_and_no_name_breaks_out_of_it():
    page = as_html(small(), NASTY)
    assert not re.search(r'(src|href)="(?!#)', page)
    assert page.count("</script>") == 2
    (held,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(held)["nodes"][0]["name"] == NASTY


@pytest.mark.soak  # a thousand entities
def test_a_person_finds_a_way_through_a_graph_of_a_thousand_entities(browser, tmp_path):
    path = tmp_path / "g.html"
    path.write_text(as_html(large(), "Lineage of credit"), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    # Direct neighbours first, and not a thousand of them one by one.
    assert page.locator(".node").count() == 2
    assert page.locator(".node.group .name").text_content().endswith(" model version")
    page.keyboard.press("/")
    page.keyboard.type("deployment-17")
    page.keyboard.press("Enter")
    assert page.locator("#details h3").text_content() == "deployment-17"
    assert page.locator("#details ol li").all_text_contents() == ["credit@v1", "model-17@v0", "deployment-17"]
    assert page.locator(".edge.on").count() == 2
    page.keyboard.press("ArrowLeft")
    assert page.locator("#details h3").text_content() == "model-17@v0"
    page.keyboard.press("c")
    assert {"model-17", "deployment-17", "credit@v1"} <= set(page.locator(".node .name").all_text_contents())
    page.click("#home")
    page.select_option("#depth", "0")
    page.click('[data-mode="deployment|all"]')
    assert page.locator(".node:not(.group) .kind", has_text="deployment").count() == 60
    page.click('[data-mode="model_version|hidden"]')
    assert page.locator(".node .kind", has_text="model version").count() == 0
    page.emulate_media(media="print")
    assert page.locator("#listing").is_visible()
    assert page.locator("#listing tr", has_text="model-3@v7").count() == 1
    assert errors == []
    page.close()
