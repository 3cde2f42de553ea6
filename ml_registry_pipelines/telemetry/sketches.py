"""Percentiles that merge: DDSketch as plain SQL over a list column.

Charles Masson, Jee E. Rim, Homin K. Lee, "DDSketch: a fast and fully-mergeable quantile sketch
with relative-error guarantees", PVLDB 12(12), 2019, arXiv:1908.10693. A value x > 0 falls into
bucket i = ceil(log_gamma(x)) with gamma = (1 + alpha) / (1 - alpha); the bucket stands for
2 * gamma^i / (gamma + 1), which is within alpha of every value in it, relative to that value.
Merging adds counts, so the sketch of a union is the merge of the sketches, exactly and in any order.

Buckets are never collapsed, so the bound holds for every quantile; one group of response times
spans about 300 of them. Stored as `list<struct<bucket:int32,count:int64>>` in order of bucket.

The quantile q of n values is the ceil(q * n)-th smallest, the lower nearest rank: what SQL calls
PERCENTILE_DISC and DuckDB `quantile_disc`. The guarantee compares with that exact value.

Which rows are sketched is in `rollups.py`; windows that sketches cover in part are in `windows.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

RELATIVE_ERROR = 0.01
"""alpha: a quantile from a sketch is off by at most this share of the exact value."""
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
ZERO_BUCKET = -(2**31)
"""Holds the zeros, which have no logarithm; it sorts first and stands for 0."""
SMALLEST, LARGEST = 1e-300, 1e300
"""Between these the arithmetic of a double keeps the bound; nothing that we time comes near."""


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Define the sketch macros on a connection; doing so again changes nothing.

    - `sketch_bucket(x)`: the bucket of x >= 0; NULL for what has none (NULL, negative, not finite).
    - `sketch_value(bucket)`: the value that a bucket stands for.
    - `sketch_rank(n, q)`: the rank, from 1, of quantile q among n values.
    - `sketch_of(bucket, count)`: the sketch, as an aggregate over a group's buckets and counts.
    - `sketch_merge(sketches)`: one sketch of a list of them, such as `list(latency_sketch)`.
    - `sketch_quantile(sketch, q)`: the quantile q of what was sketched.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP MACRO sketch_bucket(x) AS
            CASE WHEN x BETWEEN {SMALLEST!r} AND {LARGEST!r} THEN ceil(ln(x) / {math.log(GAMMA)!r})::INTEGER
                 WHEN x >= 0 AND x < {SMALLEST!r} THEN ({ZERO_BUCKET})::INTEGER END;
        CREATE OR REPLACE TEMP MACRO sketch_value(bucket) AS
            CASE WHEN bucket = {ZERO_BUCKET} THEN 0 ELSE 2 * pow({GAMMA!r}, bucket) / {GAMMA + 1!r} END;
        CREATE OR REPLACE TEMP MACRO sketch_rank(n, q) AS greatest(1, n - floor(n - q * n));
        CREATE OR REPLACE TEMP MACRO sketch_of(bucket, count) AS
            list({{'bucket': bucket::INTEGER, 'count': count::BIGINT}} ORDER BY bucket);
        CREATE OR REPLACE TEMP MACRO sketch_merge(sketches) AS (
            SELECT sketch_of(bucket, n)
            FROM (
                SELECT entry.bucket AS bucket, sum(entry.count) AS n
                FROM (SELECT unnest(flatten(sketches)) AS entry)
                GROUP BY entry.bucket
            )
        );
        CREATE OR REPLACE TEMP MACRO sketch_quantile(sketch, q) AS (
            SELECT sketch_value(min(bucket))
            FROM (
                SELECT entry.bucket AS bucket, sum(entry.count) OVER () AS total,
                       sum(entry.count) OVER (ORDER BY entry.bucket) AS up_to
                FROM (SELECT unnest(sketch) AS entry)
            )
            WHERE up_to >= sketch_rank(total, q)
        );
        """
    )
