import math
import random

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.telemetry import sketches
from tests.examples import examples

CLOSE = 1e-9
"""What the arithmetic of doubles adds to the relative error, at a value on the edge of a bucket."""

times = st.floats(min_value=1e-9, max_value=1e15, allow_nan=False)
batches = st.lists(st.one_of(times, st.just(0.0)), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        sketches.install(opened)
        yield opened


def sketch(connection, values):
    return connection.execute(
        """
        SELECT sketch_of(bucket, n)
        FROM (
            SELECT sketch_bucket(x) AS bucket, count(*) AS n
            FROM (SELECT unnest($values::DOUBLE[]) AS x)
            GROUP BY ALL
        )
        """,
        {"values": values},
    ).fetchone()[0]


def merge(connection, *parts):
    kind = "STRUCT(bucket INTEGER, count BIGINT)[][]"
    return connection.execute(f"SELECT sketch_merge($parts::{kind})", {"parts": list(parts)}).fetchone()[0]


def quantile(connection, buckets, q):
    kind = "STRUCT(bucket INTEGER, count BIGINT)[]"
    return connection.execute(
        f"SELECT sketch_quantile($buckets::{kind}, $q)", {"buckets": buckets, "q": q}
    ).fetchone()[0]


def exact(connection, values, q):
    return connection.execute(
        f"SELECT quantile_disc(x, {q!r}) FROM (SELECT unnest($values::DOUBLE[]) AS x)", {"values": values}
    ).fetchone()[0]


@given(values=batches, q=st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]))
@settings(deadline=None, max_examples=examples(200))
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(connection, values, q):
    true = exact(connection, values, q)
    assert quantile(connection, sketch(connection, values), q) == pytest.approx(
        true, rel=sketches.RELATIVE_ERROR + CLOSE, abs=0
    )


@given(parts=st.lists(batches, min_size=1, max_size=5), seed=st.integers())
@settings(deadline=None, max_examples=examples(60))
def test_merging_in_any_order_gives_the_sketch_of_the_union(connection, parts, seed):
    together = sketch(connection, [value for part in parts for value in part])
    apart = [sketch(connection, part) for part in parts]
    random.Random(seed).shuffle(apart)
    assert merge(connection, *apart) == together
    if len(apart) > 2:
        assert merge(connection, merge(connection, *apart[:2]), *apart[2:]) == together


def test_zero_is_estimated_as_zero_and_sorts_first(connection):
    buckets = sketch(connection, [0.0, 0.0, 0.0, 50.0])
    assert quantile(connection, buckets, 0.5) == 0
    assert quantile(connection, buckets, 1.0) == pytest.approx(50, rel=sketches.RELATIVE_ERROR)
    assert buckets[0] == {"bucket": sketches.ZERO_BUCKET, "count": 3}


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf, None])
def test_what_is_no_duration_falls_into_no_bucket(connection, value):
    assert connection.execute("SELECT sketch_bucket($value::DOUBLE)", {"value": value}).fetchone()[0] is None


def test_the_edges_of_a_bucket_are_exactly_the_stated_error_away_from_its_value(connection):
    low, high, value = connection.execute(
        "SELECT pow($gamma, 299), pow($gamma, 300), sketch_value(300)", {"gamma": sketches.GAMMA}
    ).fetchone()
    assert value / low - 1 == pytest.approx(sketches.RELATIVE_ERROR)
    assert 1 - value / high == pytest.approx(sketches.RELATIVE_ERROR)
