"""Costs by tag: summed from single requests, because no rollup keeps what a producer may write in tags.

A tag such as a session's id would make as many rows as there are requests. So there is a bound on
the requests that one question may read, and no figure beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.provenance import CostsError
from ml_registry_pipelines.costs.queries import FILTERS, KEYS, UnknownKey, summed
from ml_registry_pipelines.costs.rollups import complete_sequence
from ml_registry_pipelines.costs.standing import standing
from ml_registry_pipelines.lake.attributing import rules_of
from ml_registry_pipelines.lake.tables.costs import AMOUNTS, TYPED_TOKENS
from ml_registry_pipelines.lake.tables.telemetry import INPUT_BUCKETS, OUTPUT_BUCKETS

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

TAG = "tag:"
MOST_REQUESTS = 5_000_000
"""Requests of the days that one question may read; some seconds."""


def is_tagged(by: Sequence[str], where: Mapping[str, str]) -> bool:
    """Whether a question is about a tag."""
    return any(name.startswith(TAG) for name in (*by, *where))


def cost_by_tag(
    reading: Reading,
    by: Sequence[str],
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
    most: int = MOST_REQUESTS,
) -> pa.Table:
    """As `queries.cost_by`, with keys and filters such as `tag:team`; the reading holds `provenance.READS`.

    A request without the tag stands under NULL. Only what is both taken and priced is counted. Amounts are
    what each request costs by now, so there are no `corrections` apart.

    Raises:
        CostsError: the days hold more than `most` requests.
        UnknownKey: a key is none of `KEYS` and no tag.
    """
    where = where or {}
    for name in by:
        if name not in KEYS and not (name.startswith(TAG) and len(name) > len(TAG)):
            raise UnknownKey(f"costs are not kept by {name!r}; the keys are {', '.join(KEYS)} and tag:NAME")
    first, last = since or date.min, until or date.max
    _check_bound(reading, first, last, most)
    rules = rules_of(reading)
    reading.register("outcomes", rules.outcome_rows())
    tags = {f"tag{number}": name for number, name in enumerate(n for n in (*by, *where) if n.startswith(TAG))}
    columns = {name: f"key{number}" for number, name in enumerate(by)}
    chosen = ", ".join(f"{_column(name, tags)} AS {column}" for name, column in columns.items())
    parameters: dict[str, object] = {"first": first, "last": last, "sequence": complete_sequence(reading)}
    parameters |= {f"{column}_path": _pointer(name) for column, name in tags.items()}
    limits = []
    for number, (name, wanted) in enumerate(where.items()):
        limits.append(f"{_column(name, tags)} = $wanted{number}")
        parameters[f"wanted{number}"] = wanted
    used = ", ".join(dict.fromkeys(["tenant", "event_key", "batch"]))
    rows = reading.query(
        "costs.by_tag",
        f"""
        WITH events AS (
            SELECT {used}, day, date_trunc('hour', event_ts) AS hour, application, provider, model, status,
                   {"".join(f"json_extract_string(tags, ${column}_path) AS {column}, " for column in tags)}
                   {_sum(INPUT_BUCKETS)} AS input_tokens, {_sum(OUTPUT_BUCKETS)} AS output_tokens,
                   {rules.number} AS outcome
            FROM inference_events
            WHERE day >= $first AND day < $last AND batch <= $sequence
        ),
        costs AS (
            SELECT {used}, coalesce(currency, logged_currency) AS currency, cost_status, assumed, tokens,
                   {", ".join(f"{name} AS typed_{name}" for name in TYPED_TOKENS)},
                   {", ".join(AMOUNTS)}, list_cost, contracted_cost,
                   CASE WHEN logged_currency = coalesce(currency, logged_currency) THEN logged_cost END AS logged_cost
            FROM ({standing(reading, "day >= $first AND day < $last AND batch <= $sequence")})
        ),
        priced AS (
            SELECT *, cost_status = 'priced' AS priced, cost_status <> 'not_billed' AS billable,
                   cost_status = 'priced' AND list_cost IS NOT NULL AS listed
            FROM events JOIN costs USING ({used}) LEFT JOIN outcomes USING (outcome)
            WHERE {" AND ".join(limits) or "TRUE"}
        ),
        keyed AS (
            SELECT {chosen}{", " if chosen else ""}0 AS grouping, currency,
                   count(*) AS requests,
                   count(*) FILTER (billable) AS billable_requests,
                   count(*) FILTER (priced) AS priced_requests,
                   count(*) FILTER (assumed) AS assumed_requests,
                   count(*) FILTER (billable AND attribution = 'version') AS attributed_requests,
                   sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                   coalesce(sum(tokens) FILTER (priced), 0) AS priced_tokens,
                   {", ".join(f"sum(typed_{n}) FILTER (priced) AS priced_{n}" for n in TYPED_TOKENS)},
                   count(typed_output_tokens) FILTER (priced) AS typed_requests,
                   {", ".join(f"sum({n}) FILTER (priced) AS {n}" for n in (*AMOUNTS, "list_cost", "contracted_cost"))},
                   count(*) FILTER (listed) AS listed_requests, sum(cost) FILTER (listed) AS listed_cost,
                   sum(logged_cost) AS logged_cost, false AS corrected
            FROM priced
            GROUP BY ALL
        ),
        {summed(["grouping", *columns.values()])}
        """,
        parameters,
    )
    named = {column: name for name, column in columns.items()}
    rows = rows.drop_columns(["grouping", "corrections"])
    return rows.rename_columns([named.get(name, name) for name in rows.column_names])


def _column(name: str, tags: Mapping[str, str]) -> str:
    if name.startswith(TAG):
        return next(column for column, tag in tags.items() if tag == name)
    assert name in (*KEYS, *FILTERS), name
    return name


def _pointer(tag: str) -> str:
    """RFC 6901: the tag as one step of a JSON pointer."""
    return "/" + tag.removeprefix(TAG).replace("~", "~0").replace("/", "~1")


def _sum(buckets: Sequence[str]) -> str:
    return " + ".join(f"coalesce({name}, 0)" for name in buckets)


def _check_bound(reading: Reading, first: date, last: date, most: int) -> None:
    files = reading.files("inference_events")
    if not files.num_rows:
        return
    days = zip(files["partition.day"].to_pylist(), files["num_records"].to_pylist(), strict=True)
    held = sum(rows or 0 for day, rows in days if first <= day < last)
    if held > most:
        raise CostsError(
            f"costs by tag are summed from single requests, and these days hold {held:,} of them, more than "
            f"{most:,}; ask about fewer days"
        )
