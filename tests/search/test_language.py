"""The query language: what reads, what it reads as, and where an error points."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given, settings

from ml_registry_pipelines.search.language.ast import And, Compare, In, Node, Not, OfVersion, Or
from ml_registry_pipelines.search.language.errors import QueryError
from ml_registry_pipelines.search.language.fields import Kind
from ml_registry_pipelines.search.language.parsing import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_LENGTH,
    parse,
    parse_order,
)
from tests.examples import examples
from tests.search.queries import queries


@settings(max_examples=examples(400, least=50), deadline=None)
@given(queries(Kind.MODEL, any_text=True, measures=True))
def test_a_query_that_is_printed_reads_as_the_same_tree(tree: Node):
    assert parse(str(tree)) == tree


@settings(max_examples=examples(400, least=50), deadline=None)
@given(queries(Kind.VERSION, any_text=True, measures=True))
def test_a_query_about_versions_that_is_printed_reads_as_the_same_tree(tree: Node):
    assert parse(str(tree), Kind.VERSION) == tree


@pytest.mark.parametrize(
    ("query", "printed"),
    [
        ("name ILIKE '%x%' and tags.foo = 'bar'", "name ILIKE '%x%' AND tags.foo = 'bar'"),
        ('metrics."m" > 0.9', "metrics.m > 0.9"),
        ("metrics.`val loss` <= 1e-3", 'metrics."val loss" <= 0.001'),
        ("params.x = '6'", "params.x = '6'"),
        ('attributes.name = "fraud"', "name = 'fraud'"),
        ("tag.`mlflow.source` LIKE 'git%'", "tags.mlflow.source LIKE 'git%'"),
        ("creation_timestamp > 1700000000000", "created > 1700000000000"),
        ("param.depth IN (1, 2)", "params.depth IN (1, 2)"),
        ("name = 'it''s'", "name = 'it''s'"),
        ("license <> 'MIT'", "licence != 'MIT'"),
    ],
)
def test_filters_of_mlflow_are_read(query, printed):
    assert str(parse(query)) == printed


def test_not_binds_tighter_than_and_and_and_tighter_than_or():
    tree = parse("NOT name = 'a' AND name = 'b' OR name = 'c'")
    assert isinstance(tree, Or)
    assert isinstance(tree.items[0], And)
    assert isinstance(tree.items[0].items[0], Not)


def test_values_keep_their_types():
    tree = parse("tags.x IN (1, 1.0, '1', TRUE, DATE '2026-01-31')")
    assert isinstance(tree, In)
    assert [(type(v), v) for v in tree.values] == [
        (int, 1),
        (float, 1.0),
        (str, "1"),
        (bool, True),
        (date, date(2026, 1, 31)),
    ]


def test_an_empty_query_is_met_by_all():
    assert parse("") is None
    assert parse(" \n\t") is None


@pytest.mark.parametrize(
    ("query", "position", "says"),
    [
        ("nmae = 'x'", 0, "did you mean name?"),
        ("tags.a = 'x' AND stag = 'production'", 17, "did you mean stage?"),
        ("metric > 1", 0, "metrics needs a name"),
        ("name = x", 7, "a text stands in quotes: 'x'"),
        ("name = 'x", 7, "no end"),
        ("name == = 'x'", 8, "expected a value"),
        ("(name = 'a'", 11, "closing parenthesis"),
        ("name = 'a' name = 'b'", 11, "expected AND, OR"),
        ("name ~ 'x'", 5, "begins nothing"),
        ("name = 'a'; DROP TABLE models", 10, "without a semicolon"),
        ("metrics.auc LIKE '9%'", 12, "is for texts"),
        ("metrics.auc > '9'", 14, "wants a number"),
        ("stage = 'Production'", 8, "there are registered, staging"),
        ("created > 'yesterday'", 10, "wants a day or a time"),
        ("tags.x = 1.2.3", 9, "no number"),
        ("tags.x = NULL", 9, "IS NULL"),
        ("tags.x > TRUE", 9, "no order"),
        ("tags.d = DATE '2026-02-30'", 14, "there is no day"),
        ("name NOT 'x'", 9, "behind NOT"),
        ("name IN ()", 9, "expected a value"),
        ("name.x = 'a'", 4, "has no parts"),
        ("text = 'a'", 5, "MATCHES"),
        ("name MATCHES 'a'", 5, "full text"),
        ("any(any.stage = 'staging')", 4, "there is one already"),
        ("any(latest(stage = 'staging'))", 4, "one version already"),
        ("cost_9999d > 1", 0, "cost"),
        ("metrics.x = " + "9" * 500, 12, "at most"),
        ("metrics.x = 1e999", 12, "too large"),
        ("name = 'a\0b'", 9, "NUL"),
        ("name = '\ud800'", 8, "surrogate"),
        ("AND", 0, "no field"),
    ],
)
def test_an_error_points_at_the_offending_character(query, position, says):
    with pytest.raises(QueryError) as raised:
        parse(query)
    assert raised.value.position == position
    assert says in str(raised.value)
    line, caret = str(raised.value).splitlines()[-2:]
    assert caret.strip() == "^"
    assert len(caret) <= len(line) + 1


def test_the_caret_of_a_long_query_stands_below_the_character():
    query = " OR ".join(f"tags.a = {n}" for n in range(100)) + " OR ! OR " + "tags.b = 1"
    with pytest.raises(QueryError) as raised:
        parse(query)
    line, caret = str(raised.value).splitlines()[-2:]
    assert line[len(caret) - 1] == "!"
    assert len(line) < 100


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("name = '" + "x" * 100_000 + "'", f"at most {MAX_LENGTH:,}"),
        ("(" * 10_000 + "name = 'x'" + ")" * 10_000, f"more than {MAX_DEPTH} deep"),
        ("NOT " * 10_000 + "name = 'x'", f"more than {MAX_DEPTH} deep"),
        (" AND ".join(["name = 'x'"] * (MAX_CONDITIONS + 1)), f"at most {MAX_CONDITIONS} conditions"),
        ("tags.a IN (" + ",".join("1" for _ in range(6_000)) + ")", "at most 5,000 values"),
    ],
)
def test_what_is_too_large_is_refused_in_a_sentence(query, says):
    with pytest.raises(QueryError) as raised:
        parse(query)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 500


def test_an_order_has_keys_with_directions():
    assert [str(key) for key in parse_order('metrics."a b" desc, name ASC, any.metrics.f1')] == [
        'metrics."a b" DESC',
        "name",
        "any.metrics.f1",
    ]
    with pytest.raises(QueryError, match="ASC, DESC, a comma"):
        parse_order("name up")
    with pytest.raises(QueryError, match="relevance"):
        parse_order("text")


def test_versions_have_fields_of_their_own_and_of_their_model():
    tree = parse("stage = 'production' AND model.tags.a = 1 AND owner = 'team:x'", Kind.VERSION)
    assert isinstance(tree, And)
    with pytest.raises(QueryError, match="for searches of models"):
        parse("any.stage = 'production'", Kind.VERSION)
    assert isinstance(parse("any(stage IN ('production'))"), OfVersion)
    assert isinstance(parse("version IN (1, 2)", Kind.VERSION), In)
    assert isinstance(parse("description = 'x'", Kind.VERSION), Compare)


def test_the_language_is_read_without_heavy_libraries():
    code = (
        "import sys; import ml_registry_pipelines.search.language.parsing;"
        "print([m for m in ('pyarrow', 'duckdb', 'deltalake', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
