"""What others ask about costs: figures by any key, how much of the traffic is priced, and what is not.

Every figure comes with its coverage, and amounts of different currencies are never added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.currencies import rates_into
from ml_registry_pipelines.costs.standing import standing
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import AMOUNTS, TOKEN_TYPES, TYPED_TOKENS

if TYPE_CHECKING:
    import pyarrow as pa

ATTRIBUTED: tuple[str, ...] = ("deployment_id", "model_id", "model_version")
"""Keys that attribution gives; NULL where no rule covers a request, or the version is not known."""
KEYS: tuple[str, ...] = (
    "day",
    "hour",
    "tenant",
    "application",
    "provider",
    "model",
    "status",
    *ATTRIBUTED,
)
FILTERS: tuple[str, ...] = (
    "tenant",
    "application",
    "provider",
    "model",
    "status",
    "deployment_id",
    "model_id",
)


_COUNTS = (
    "requests",
    "billable_requests",
    "priced_requests",
    "assumed_requests",
    "attributed_requests",
    "input_tokens",
    "output_tokens",
    "priced_tokens",
    *(f"priced_{name}" for name in TYPED_TOKENS),
    "typed_requests",
    "listed_requests",
)
SUMMED_AMOUNTS: tuple[str, ...] = (*AMOUNTS, "list_cost", "contracted_cost", "listed_cost")
"""Amounts that `summed` wants of the priced attempts alone."""
_CONVERTED = (*SUMMED_AMOUNTS, "logged_cost")


class Basis(Enum):
    """To which days amounts belong that were booked after their month had been closed."""

    USE = "use"
    """To the days of the requests: what a period costs as far as is known by now."""
    BOOKED = "booked"
    """To the days on which they were booked: closed months stay what they were, and nothing is left out."""
    CLOSED = "closed"
    """To no day: what the closed months were closed with."""


class UnknownKey(MlregError):
    """Costs are not kept by that key."""


@dataclass(frozen=True)
class Coverage:
    """How many of the attempts that should have a price have one, and how many an illustrative one."""

    billable: int
    priced: int
    assumed: int

    @property
    def share(self) -> float | None:
        """Priced per billable, 0 to 1; None where nothing was billable."""
        return self.priced / self.billable if self.billable else None


@dataclass(frozen=True)
class AttributionCoverage:
    """Of how many billable attempts it is known which version answered, and why not of the others.

    `ambiguous`: the endpoint's traffic was split; `not_serving`: the deployment served nothing then.
    """

    billable: int
    versions: int
    ambiguous: int
    not_serving: int

    @property
    def no_rule(self) -> int:
        """Attempts that no rule covers."""
        return self.billable - self.versions - self.ambiguous - self.not_serving

    @property
    def share(self) -> float | None:
        """Attempts with a version per billable, 0 to 1; None where nothing was billable."""
        return self.versions / self.billable if self.billable else None


def cost_by(
    reading: Reading,
    by: Sequence[str],
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
    basis: Basis = Basis.USE,
    currency: str | None = None,
) -> pa.Table:
    """Costs, requests and tokens by some of KEYS, from `cost_rollup`, which the reading must hold.

    `since` is inclusive, `until` exclusive, both UTC days. `where` limits any of FILTERS to one value.

    Args:
        basis: to which days corrections of closed months belong, and requests that came too late.
        currency: converts every amount to this one at the rate of its day (`currencies.py`); the reading
            must hold `currency_rates` too. By default each currency has rows of its own.

    Returns:
        One row per combination and currency, ordered by the keys: the keys, `currency`, `requests`,
        `billable_requests`, `priced_requests`, `assumed_requests`, `coverage` (0 to 1, NULL where
        nothing is billable), `attributed_requests` (billable, with a known version), `attribution_coverage`
        (0 to 1, as `coverage`), `input_tokens`, `output_tokens`, `priced_tokens`, `input_cost`,
        `cache_read_cost`, `cache_write_cost`, `output_cost`, `other_cost`, `cost`, `logged_cost`
        (DECIMAL, NULL where unknown) and, of the priced attempts, `cost_per_request`, `cost_per_1k_tokens`
        and by type of token `input_per_1k`, `cache_read_per_1k`, `cache_write_per_1k`, `output_per_1k` (NULL
        where no such token was priced, or some attempt was priced before its tokens were kept by type),
        over `priced_input_tokens`, `priced_cache_read_tokens`, `priced_cache_write_tokens`,
        `priced_output_tokens`; `typed_requests` counts the attempts whose tokens these are. Then `list_cost`
        and `contracted_cost` (FOCUS), `listed_requests` (priced ones with a list cost), `savings` (by how much
        those cost less than the list, NULL where none has one), `corrections` (the part of `cost` that
        corrects closed months; NULL where nothing was corrected). Attempts without a currency stand in the
        row of the only currency of their combination.

        With `currency`, a combination has one row in it, and one for each currency that had no rate on some
        day: its amounts are NULL, `unconverted_cost` is what they come to in that currency, and the
        requests in it are those of such days. Nothing is converted by a rate that nobody stated.

    Raises:
        UnknownKey: a key or filter is none of those.
        RateError: the currency is no ISO 4217 code.
    """
    (rows,) = costs_by(reading, [by], since=since, until=until, where=where, basis=basis, currency=currency)
    return rows


def costs_by(
    reading: Reading,
    groupings: Sequence[Sequence[str]],
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
    basis: Basis = Basis.USE,
    currency: str | None = None,
) -> list[pa.Table]:
    """As `cost_by`, for several groupings of the same requests at once: one table each, in their order."""
    import pyarrow.compute as pc

    for name in (name for by in groupings for name in by):
        if name not in KEYS:
            raise UnknownKey(f"costs are not kept by {name!r}; the keys are {', '.join(KEYS)}")
    if currency is not None:
        reading.register("rates", rates_into(reading, currency))
    statement = _cost_by(basis, converted=currency is not None)
    found: dict[int, pa.Table] = {}
    for grain in ("day", "hour"):
        # Planning the statement takes longer than a small lake's rows do, so it is not run for each grouping.
        asked = {
            n: list(by) for n, by in enumerate(groupings) if grain == ("hour" if "hour" in by else "day")
        }
        if not asked:
            continue
        given = {"numbers": list(asked), "groupings": list(asked.values()), "grain": grain}
        if currency is not None:
            given["reporting"] = currency
        rows = reading.query("cost_by", statement, given | _bounds(since, until, where))
        for number, by in asked.items():
            own = rows.filter(pc.equal(rows["grouping"], number))
            found[number] = own.drop_columns(["grouping", *(name for name in KEYS if name not in by)])
    return [found[number] for number in range(len(groupings))]


def coverage(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
) -> Coverage:
    """How much of the billable traffic is priced. The reading must hold `cost_rollup`."""
    rows = reading.query("cost_coverage", _COVERAGE, _bounds(since, until, where)).to_pylist()
    return Coverage(**rows[0])


def attribution_coverage(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
) -> AttributionCoverage:
    """How much of the billable traffic leads to a version. The reading must hold `cost_rollup`."""
    rows = reading.query("attribution_coverage", _ATTRIBUTION_COVERAGE, _bounds(since, until, where))
    return AttributionCoverage(**rows.to_pylist()[0])


def unpriced_models(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    where: Mapping[str, str] | None = None,
) -> pa.Table:
    """What has no cost, largest first. The reading must hold `model_costs` and `cost_corrections`.

    Returns:
        One row per tenant, provider, model and reason: `tenant`, `provider`, `model`, `cost_status`
        (the reason), `requests`, `tokens`.
    """
    bounds = _bounds(since, until, where)
    if chosen := [name for name in ATTRIBUTED if bounds.pop(name, None) is not None]:
        raise UnknownKey(f"requests without a price cannot be limited by {chosen[0]!r}")
    attempts = standing(reading, "day >= $since AND day < $until")
    return reading.query("unpriced_models", _UNPRICED.format(attempts=attempts), bounds)


def _bounds(since: date | None, until: date | None, where: Mapping[str, str] | None) -> dict[str, object]:
    for name in where or {}:
        if name not in FILTERS:
            raise UnknownKey(f"costs cannot be limited by {name!r}; the filters are {', '.join(FILTERS)}")
    chosen = {name: (where or {}).get(name) for name in FILTERS}
    return {"since": since or date.min, "until": until or date.max, **chosen}


def summed(keys: Sequence[str], *, converted: bool = False) -> str:
    """From a relation `keyed` with these keys, currency, counts and amounts to the columns of `cost_by`.

    `keyed` has `SUMMED_AMOUNTS`, `logged_cost`, whether a row is a correction (`corrected`), and where amounts
    are `converted` the `unconverted_cost`. What has no currency joins the only currency beside it.
    """
    same = ", ".join(keys)
    counts = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in _COUNTS)
    unconverted = ["unconverted_cost"] if converted else []
    amounts = ", ".join(f"sum({name}) AS {name}" for name in (*_CONVERTED, *unconverted))
    # Summed before and after: what joins another currency is found among few rows then.
    return f"""
apart AS MATERIALIZED (
    SELECT {same}, currency, {counts}, {amounts},
        sum(cost) FILTER (WHERE corrected) AS corrections, bool_or(corrected) AS corrected
    FROM keyed GROUP BY ALL
),
folded AS (
    SELECT
        * REPLACE (
            CASE
                WHEN min(currency) OVER same = max(currency) OVER same THEN min(currency) OVER same
                ELSE currency
            END AS currency)
    FROM apart
    WINDOW same AS (PARTITION BY {same})
),
summed AS (
    SELECT {same}, currency, {counts}, {amounts},
        sum(corrections) AS corrections, bool_or(corrected) AS corrected
    FROM folded GROUP BY ALL
)
SELECT
    {same}, currency,
    requests, billable_requests, priced_requests, assumed_requests,
    CASE WHEN billable_requests > 0 THEN priced_requests / billable_requests END AS coverage,
    attributed_requests,
    CASE WHEN billable_requests > 0 THEN attributed_requests / billable_requests END AS attribution_coverage,
    input_tokens, output_tokens, priced_tokens,
    {", ".join(_known(name) for name in (*AMOUNTS, "list_cost", "contracted_cost"))},
    logged_cost,
    CASE WHEN priced_requests > 0 THEN CAST(cost AS DOUBLE) / priced_requests END AS cost_per_request,
    CASE WHEN priced_tokens > 0 THEN CAST(cost AS DOUBLE) * 1000 / priced_tokens END AS cost_per_1k_tokens,
    {", ".join(_per_1k(kind) for kind in TOKEN_TYPES)},
    {", ".join(f"priced_{name}" for name in TYPED_TOKENS)}, typed_requests,
    listed_requests,
    CASE WHEN listed_requests > 0 OR corrected THEN list_cost - listed_cost END AS savings,
    {", ".join(["corrections", *unconverted])}
FROM summed
ORDER BY {same}, currency
"""


def _known(amount: str) -> str:
    return f"CASE WHEN billable_requests = 0 AND NOT corrected THEN 0 ELSE {amount} END AS {amount}"


def _per_1k(kind: str) -> str:
    return (
        f"CASE WHEN priced_{kind}_tokens > 0 AND typed_requests = priced_requests "
        f"THEN CAST({kind}_cost AS DOUBLE) * 1000 / priced_{kind}_tokens END AS {kind}_per_1k"
    )


_ROWS_OF: Mapping[Basis, str] = {
    Basis.USE: "cost_rollup",
    Basis.CLOSED: "(FROM cost_rollup WHERE booked_day IS NULL)",
    Basis.BOOKED: """(
        SELECT * REPLACE (
            coalesce(booked_day, day) AS day,
            CASE WHEN booked_day IS NULL THEN period_start ELSE CAST(booked_day AS TIMESTAMPTZ) END AS period_start)
        FROM cost_rollup
    )""",
}


def _cost_by(basis: Basis, *, converted: bool) -> str:
    """The statement of `costs_by`."""
    rows = _ROWS_OF[basis]
    if converted:
        amounts = ", ".join(f"CAST({name} * rate AS DECIMAL(38, 12)) AS {name}" for name in _CONVERTED)
        rows = f"""(
            SELECT r.* REPLACE (CASE WHEN rate IS NULL THEN currency ELSE $reporting END AS currency, {amounts}),
                CASE WHEN rate IS NULL THEN cost END AS unconverted_cost
            FROM {rows} AS r
            LEFT JOIN rates ON r.currency = rates.base AND r.day >= rates.since AND r.day < rates.until
        )"""
    known = ",\n        ".join(
        f"CASE WHEN priced_requests > 0 OR charge_class IS NOT NULL THEN {name} END AS {name}"
        for name in SUMMED_AMOUNTS
    )
    return f"""
WITH groupings AS (
    SELECT unnest($numbers::INTEGER[]) AS grouping, unnest($groupings::VARCHAR[][]) AS keys
),
keyed AS (
    SELECT
        grouping,
        CASE WHEN list_contains(keys, 'day') THEN day END AS day,
        CASE WHEN list_contains(keys, 'hour') THEN period_start END AS hour,
        CASE WHEN list_contains(keys, 'tenant') THEN tenant END AS tenant,
        CASE WHEN list_contains(keys, 'application') THEN application END AS application,
        CASE WHEN list_contains(keys, 'provider') THEN provider END AS provider,
        CASE WHEN list_contains(keys, 'model') THEN model END AS model,
        CASE WHEN list_contains(keys, 'status') THEN status END AS status,
        CASE WHEN list_contains(keys, 'deployment_id') THEN deployment_id END AS deployment_id,
        CASE WHEN list_contains(keys, 'model_id') THEN model_id END AS model_id,
        CASE WHEN list_contains(keys, 'model_version') THEN model_version END AS model_version,
        CASE WHEN attribution = 'version' THEN billable_requests ELSE 0 END AS attributed_requests,
        currency, requests, billable_requests, priced_requests, assumed_requests, priced_tokens,
        priced_input_tokens, priced_cache_read_tokens, priced_cache_write_tokens, priced_output_tokens,
        typed_requests,
        coalesce(in_uncached, 0) + coalesce(in_cache_read, 0) + coalesce(in_cache_read_audio, 0)
            + coalesce(in_cache_read_image, 0) + coalesce(in_cache_write_5m, 0)
            + coalesce(in_cache_write_30m, 0) + coalesce(in_cache_write_1h, 0)
            + coalesce(in_cache_write_12h, 0) + coalesce(in_audio, 0) + coalesce(in_image, 0)
            + coalesce(in_video, 0) AS input_tokens,
        coalesce(out_text, 0) + coalesce(out_reasoning, 0) + coalesce(out_audio, 0) + coalesce(out_image, 0)
            AS output_tokens,
        {known},
        logged_cost, coalesce(listed_requests, 0) AS listed_requests,
        charge_class IS NOT NULL AS corrected{", unconverted_cost" if converted else ""}
    FROM {rows} AS rows, groupings
    WHERE grain = $grain
        AND day >= $since AND day < $until
        AND ($tenant IS NULL OR tenant = $tenant)
        AND ($application IS NULL OR application = $application)
        AND ($provider IS NULL OR provider = $provider)
        AND ($model IS NULL OR model = $model)
        AND ($status IS NULL OR status = $status)
        AND ($deployment_id IS NULL OR deployment_id = $deployment_id)
        AND ($model_id IS NULL OR model_id = $model_id)
),
{summed(("grouping", *KEYS), converted=converted)}
"""


_COVERAGE = """
SELECT
    CAST(coalesce(sum(billable_requests), 0) AS BIGINT) AS billable,
    CAST(coalesce(sum(priced_requests), 0) AS BIGINT) AS priced,
    CAST(coalesce(sum(assumed_requests), 0) AS BIGINT) AS assumed
FROM cost_rollup
WHERE grain = 'day'
    AND day >= $since AND day < $until
    AND ($tenant IS NULL OR tenant = $tenant)
    AND ($application IS NULL OR application = $application)
    AND ($provider IS NULL OR provider = $provider)
    AND ($model IS NULL OR model = $model)
    AND ($status IS NULL OR status = $status)
    AND ($deployment_id IS NULL OR deployment_id = $deployment_id)
    AND ($model_id IS NULL OR model_id = $model_id)
"""

_ATTRIBUTION_COVERAGE = """
SELECT
    CAST(coalesce(sum(billable_requests), 0) AS BIGINT) AS billable,
    CAST(coalesce(sum(billable_requests) FILTER (attribution = 'version'), 0) AS BIGINT) AS versions,
    CAST(coalesce(sum(billable_requests) FILTER (attribution = 'ambiguous'), 0) AS BIGINT) AS ambiguous,
    CAST(coalesce(sum(billable_requests) FILTER (attribution = 'not_serving'), 0) AS BIGINT) AS not_serving
FROM cost_rollup
WHERE grain = 'day'
    AND day >= $since AND day < $until
    AND ($tenant IS NULL OR tenant = $tenant)
    AND ($application IS NULL OR application = $application)
    AND ($provider IS NULL OR provider = $provider)
    AND ($model IS NULL OR model = $model)
    AND ($status IS NULL OR status = $status)
    AND ($deployment_id IS NULL OR deployment_id = $deployment_id)
    AND ($model_id IS NULL OR model_id = $model_id)
"""

_UNPRICED = """
SELECT
    tenant, provider, model, cost_status,
    count(*) AS requests,
    CAST(sum(tokens) AS BIGINT) AS tokens
FROM ({attempts})
WHERE cost_status NOT IN ('priced', 'not_billed')
    AND ($tenant IS NULL OR tenant = $tenant)
    AND ($application IS NULL OR application = $application)
    AND ($provider IS NULL OR provider = $provider)
    AND ($model IS NULL OR model = $model)
    AND ($status IS NULL OR status = $status)
GROUP BY tenant, provider, model, cost_status
ORDER BY requests DESC, tokens DESC, tenant, provider, model, cost_status
"""
