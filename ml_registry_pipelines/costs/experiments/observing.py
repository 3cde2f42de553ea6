"""What a look at an experiment sees: per arm, counts and the moments of its units' columns.

One statement joins assignments, requests, costs and labels to units, and aggregates them; no unit's own
values leave the database but for the first of those that were assigned to several arms.

How things count:

- A unit belongs to the arm of its assignments between start and stop; in several arms, it is left out.
- Its requests count from its first assignment on, up to the stop or the end of its window.
- A label of a request or trace counts where that request counts, whenever it was observed. A label of a
  unit counts by its own time, until `label_days` after the stop.
- What was observed before the request that it is about is clock skew: it is left out and counted.
- Money is summed up exactly before it becomes an input of an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.experiments.declaring import (
    ERROR_RATE,
    SLOW_SHARE,
    Declaration,
    Per,
    Unit,
)
from ml_registry_pipelines.costs.experiments.statistics import Moments
from ml_registry_pipelines.costs.standing import CORRECTIONS, standing

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

READS = ("assignments", "outcomes", "inference_events", "model_costs", CORRECTIONS, "price_catalog")
SHOWN_UNITS = 20
"""Units in several arms that a decision names."""
BEFORE = timedelta(days=1)
"""A request's label may be logged under a day that its own clock has wrong by this."""


@dataclass(frozen=True)
class ArmSeen:
    """One arm at one look. `moments` has the columns that `columns_of` names."""

    name: str
    moments: Moments
    labelled: int = 0
    labels: int = 0
    skewed_labels: int = 0
    early_labels: int = 0
    requests: int = 0
    foreign_requests: int = 0
    """Answered by a model that another arm declares and this one does not."""
    billable: int = 0
    priced: int = 0
    cost: Decimal = Decimal(0)
    price_ids: tuple[str, ...] = ()
    based: Mapping[str, int] = field(default_factory=dict)
    """Units that have a value of each metric."""

    @property
    def units(self) -> int:
        return self.moments.units

    @property
    def coverage(self) -> float | None:
        """Share of the billable requests that are priced; None where none is billable."""
        return self.priced / self.billable if self.billable else None


@dataclass(frozen=True)
class Seen:
    """All that one look sees. `looked_at` is its instant, `until` where assignments and requests end."""

    looked_at: datetime
    until: datetime
    arms: Mapping[str, ArmSeen]
    crossed: int = 0
    crossed_units: tuple[str, ...] = ()
    undeclared: Mapping[str, int] = field(default_factory=dict)
    """Units by arm that is in the logs and not in the declaration."""
    unmatched_labels: int = 0
    """Labels of the metrics whose request or trace leads to no unit, or to several."""
    catalogues: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()
    """Prices that were applied and are no longer in force."""
    versions: Mapping[str, int] = field(default_factory=dict)
    price_generation: int = 0


def columns_of(declaration: Declaration) -> dict[str, tuple[str, str]]:
    """For each metric the columns of its numerator and denominator."""
    found = {"quality": ("quality_n", "quality_d"), "cost": ("cost_n", "cost_d")}
    for number, _ in enumerate(declaration.guardrails):
        found[f"guardrail:{declaration.guardrails[number].metric}"] = (f"g{number}_n", f"g{number}_d")
    return found


def observe(
    reading: Reading,
    declaration: Declaration,
    *,
    tenant: str,
    started_at: datetime,
    stopped_at: datetime | None,
    looked_at: datetime,
    salt: str,
) -> Seen:
    """Look at an experiment. The reading has to hold `READS`.

    Args:
        salt: the secret of user ids, where the unit is a trace.
    """
    until = min(filter(None, (stopped_at, looked_at)))
    window = None if declaration.window_days is None else timedelta(days=declaration.window_days)
    before = timedelta(days=declaration.pre_period_days)
    label_end = looked_at
    if stopped_at is not None:
        label_end = min(looked_at, stopped_at + timedelta(days=declaration.label_days))
    parameters = {
        "tenant": tenant,
        "experiment": declaration.name,
        "started": started_at,
        "until": until,
        "window_us": -1 if window is None else window // timedelta(microseconds=1),
        "before_us": before // timedelta(microseconds=1),
        "first_day": (started_at - before - BEFORE).astimezone(UTC).date(),
        "last_day": (until + BEFORE).astimezone(UTC).date(),
        "looked_at": looked_at,
        "label_end": label_end,
        "currency": declaration.cost.currency,
        "quality": declaration.quality.metric,
        "metrics": _label_metrics(declaration),
        "salt": salt,
        "application": declaration.scope.application,
        "environment": declaration.scope.environment,
        "endpoint": declaration.scope.endpoint,
    }
    reading.register("declared_arms", _declared_arms(declaration))
    reading.register("model_arms", _model_arms(declaration))
    reading.define(_macros)
    names = [*_columns(declaration)]
    rows = reading.query(
        "experiments.look",
        _look_sql(declaration, names, standing(reading, "tenant = $tenant")),
        _used(parameters, declaration),
    )
    arms = {row["arm"]: _arm(row, names, declaration) for row in rows.to_pylist()}
    nothing: list[float] = []
    for arm in declaration.arms:
        arms.setdefault(arm.name, ArmSeen(arm.name, Moments.of(dict.fromkeys(names, nothing))))
    crossed, first, undeclared = _strays(reading, parameters)
    catalogues, withdrawn = _prices(reading, arms)
    return Seen(
        looked_at=looked_at,
        until=until,
        arms=arms,
        crossed=crossed,
        crossed_units=first,
        undeclared=undeclared,
        unmatched_labels=_unmatched(reading, declaration, parameters),
        catalogues=catalogues,
        withdrawn=withdrawn,
        versions={table: reading.version(table) for table in READS},
        price_generation=reading.sequence("price_catalog", "catalog"),
    )


def _macros(connection: Any) -> None:
    """The hash of units, for traces."""
    from ml_registry_pipelines.telemetry.identity import MACROS

    for macro in MACROS:
        connection.execute(macro.replace("CREATE TEMP MACRO", "CREATE OR REPLACE TEMP MACRO"))


def _label_metrics(declaration: Declaration) -> list[str]:
    guarded = (g.metric for g in declaration.guardrails if g.metric not in (ERROR_RATE, SLOW_SHARE))
    return list(dict.fromkeys([declaration.quality.metric, *guarded]))


def _declared_arms(declaration: Declaration) -> pa.Table:
    import pyarrow as pa

    return pa.table({"arm": pa.array([arm.name for arm in declaration.arms], pa.string())})


def _model_arms(declaration: Declaration) -> pa.Table:
    """Which arms declare a model."""
    import pyarrow as pa

    held: dict[str, list[str]] = {}
    for arm in declaration.arms:
        for model in arm.models:
            held.setdefault(model, []).append(arm.name)
    return pa.table(
        {
            "model": pa.array(list(held), pa.string()),
            "arms": pa.array(list(held.values()), pa.list_(pa.string())),
        }
    )


def _unit_of_a_request(unit: Unit) -> str:
    match unit:
        case Unit.USER:
            return "e.user_hash"
        case Unit.CONVERSATION:
            return "e.session_hash"
        case Unit.TRACE:
            return "salted($salt, e.tenant, e.trace_id)"


_ASSIGNED = """
    assigned AS (
        SELECT unit_hash, min(assigned_at) AS assigned_at, any_value(arm) AS arm,
               count(DISTINCT arm) AS arms, list(DISTINCT arm ORDER BY arm) AS all_arms
        FROM assignments
        WHERE tenant = $tenant AND experiment = $experiment AND assigned_at >= $started AND assigned_at < $until
        GROUP BY unit_hash
    )
"""
"""Units and the arms that they were assigned to while the experiment ran."""


def _requests(unit: Unit, name: str, columns: str, only: str = "") -> str:
    """Model calls of the tenant in the days and the scope that matter, with their unit, a row per attempt.

    Each use is a scan of its own with the columns that it needs: shared, all strings of all requests
    would be held in memory.
    """
    return f"""
    {name} AS (
        SELECT {_unit_of_a_request(unit)} AS unit_hash, e.event_ts, {columns}
        FROM inference_events AS e {only}
        WHERE e.tenant = $tenant AND e.span_kind = 'leaf' AND e.day BETWEEN $first_day AND $last_day
          AND ($application IS NULL OR e.application = $application)
          AND ($environment IS NULL OR e.environment = $environment)
          AND ($endpoint IS NULL OR e.endpoint = $endpoint)
    )
    """


def _labels(unit: Unit) -> str:
    """Labels with the unit that they are about, and when that happened."""
    by_id = _requests(
        unit,
        "labelled_requests",
        "e.event_id, e.source_system",
        "SEMI JOIN (SELECT event_id FROM wanted WHERE event_id IS NOT NULL) AS ids ON ids.event_id = e.event_id",
    )
    by_trace = _requests(
        unit,
        "labelled_traces",
        "e.trace_id",
        "SEMI JOIN (SELECT trace_id FROM wanted WHERE trace_id IS NOT NULL) AS ids ON ids.trace_id = e.trace_id",
    )
    return f"""
    wanted AS (
        SELECT * FROM outcomes
        WHERE tenant = $tenant AND list_contains($metrics, metric) AND observed_at <= $looked_at
          AND day >= $first_day
    ),
    {by_id},
    {by_trace},
    about_requests AS (
        SELECT event_id, source_system, unit_hash, min(event_ts) AS event_ts
        FROM labelled_requests WHERE unit_hash IS NOT NULL GROUP BY ALL
    ),
    about_traces AS (
        SELECT trace_id, any_value(unit_hash) AS unit_hash, min(event_ts) AS event_ts
        FROM labelled_traces WHERE unit_hash IS NOT NULL
        GROUP BY trace_id HAVING count(DISTINCT unit_hash) = 1
    ),
    of_requests AS (
        SELECT w.row_key, any_value(r.unit_hash) AS unit_hash, min(r.event_ts) AS event_ts
        FROM wanted AS w JOIN about_requests AS r
            ON r.event_id = w.event_id AND (w.source_system IS NULL OR w.source_system = r.source_system)
        WHERE w.event_id IS NOT NULL
        GROUP BY w.row_key HAVING count(DISTINCT r.unit_hash) = 1 AND count(DISTINCT r.source_system) = 1
    ),
    labels AS (
        SELECT w.metric, w.value, w.observed_at, w.event_id IS NULL AND w.trace_id IS NULL AS of_unit,
               CASE WHEN w.event_id IS NOT NULL THEN r.unit_hash WHEN w.trace_id IS NOT NULL THEN t.unit_hash
                    ELSE w.unit_hash END AS unit_hash,
               CASE WHEN w.event_id IS NOT NULL THEN r.event_ts WHEN w.trace_id IS NOT NULL THEN t.event_ts
                    ELSE w.observed_at END AS happened_at
        FROM wanted AS w
        LEFT JOIN of_requests AS r ON w.event_id IS NOT NULL AND r.row_key = w.row_key
        LEFT JOIN about_traces AS t ON w.event_id IS NULL AND t.trace_id = w.trace_id
    )
    """


def _look_sql(declaration: Declaration, names: list[str], costs: str) -> str:
    """One row per arm: counts, mean of each column, and their covariances; `costs` has one row per attempt."""
    means = ", ".join(f"avg({name}) AS mean_{name}" for name in names)
    pairs = ", ".join(
        f"covar_samp({a}, {b}) AS covar_{i}_{j}"
        for i, a in enumerate(names)
        for j, b in enumerate(names[: i + 1])
    )
    columns = ",\n".join(f"CAST({made} AS DOUBLE) AS {name}" for name, made in _columns(declaration).items())
    based = ", ".join(
        f"count(*) FILTER (WHERE {below} > 0) AS based_{number}"
        for number, (_, below) in enumerate(columns_of(declaration).values())
    )
    slow = " ".join(
        f"count(*) FILTER (WHERE counts AND latency_ms > {guardrail.threshold_ms!r}) AS slow,"
        for guardrail in declaration.guardrails
        if guardrail.metric == SLOW_SHARE
    )
    summed = ["requests", "errors", "foreign_requests", "billable", "priced", "cost", "earlier_cost"]
    summed += ["slow"] if slow else []
    outcomes = " ".join(
        f"sum(value) FILTER (WHERE counts AND metric = $metrics[{number}]) AS sum_{number}, "
        f"count(*) FILTER (WHERE counts AND metric = $metrics[{number}]) AS labels_{number},"
        for number, _ in enumerate(_label_metrics(declaration), start=1)
    )
    return f"""
    WITH {_ASSIGNED},
    units AS (
        SELECT a.unit_hash, a.arm, a.assigned_at,
               CASE WHEN $window_us < 0 THEN $until
                    ELSE least($until, a.assigned_at + to_microseconds($window_us)) END AS ends_at
        FROM assigned AS a SEMI JOIN declared_arms AS d ON d.arm = a.arm
        WHERE a.arms = 1
          -- Where units are observed for some days, those that have not been for so long wait.
          AND ($window_us < 0 OR a.assigned_at + to_microseconds($window_us) <= $until)
    ),
    {_requests(declaration.unit, "requests", "e.day, e.event_key, e.batch, e.model, e.status, e.latency_ms")},
    unit_requests AS (
        SELECT u.unit_hash, u.arm, r.status, r.latency_ms,
               r.event_ts >= u.assigned_at AND r.event_ts < u.ends_at AS counts,
               r.event_ts < u.assigned_at
                   AND r.event_ts >= u.assigned_at - to_microseconds($before_us) AS precedes,
               c.cost_status, c.price_id,
               coalesce(c.cost_status, 'unpriced') <> 'not_billed' AS billable,
               CASE WHEN c.cost_status = 'priced' AND c.currency = $currency THEN c.cost END AS cost,
               m.arms IS NOT NULL AND NOT list_contains(m.arms, u.arm) AS foreign_model
        FROM units AS u
        JOIN requests AS r ON r.unit_hash = u.unit_hash
        LEFT JOIN ({costs}) AS c
            ON c.day = r.day AND c.tenant = $tenant AND c.event_key = r.event_key AND c.batch = r.batch
        LEFT JOIN model_arms AS m ON m.model = r.model
    ),
    by_price AS (
        -- A unit has few prices: what each arm was priced by is known without a list for every unit.
        SELECT unit_hash, arm, CASE WHEN counts AND billable THEN price_id END AS price_id,
               count(*) FILTER (WHERE counts) AS requests,
               count(*) FILTER (WHERE counts AND starts_with(status, 'error')) AS errors,
               {slow}
               count(*) FILTER (WHERE counts AND foreign_model) AS foreign_requests,
               count(*) FILTER (WHERE counts AND billable) AS billable,
               count(*) FILTER (WHERE counts AND billable AND cost IS NOT NULL) AS priced,
               sum(cost) FILTER (WHERE counts AND billable) AS cost,
               sum(cost) FILTER (WHERE precedes AND billable) AS earlier_cost
        FROM unit_requests GROUP BY ALL
    ),
    by_requests AS (
        SELECT unit_hash, {", ".join(f"sum({name}) AS {name}" for name in summed)}
        FROM by_price GROUP BY unit_hash
    ),
    arm_prices AS (
        SELECT arm, list(DISTINCT price_id ORDER BY price_id) AS price_ids
        FROM by_price WHERE price_id IS NOT NULL GROUP BY arm
    ),
    {_labels(declaration.unit)},
    unit_labels AS (
        SELECT u.unit_hash, l.*,
               NOT of_unit AND observed_at < happened_at AS skewed,
               happened_at < u.assigned_at AS early,
               happened_at >= u.assigned_at AND NOT (NOT of_unit AND observed_at < happened_at)
                   AND CASE WHEN of_unit AND $window_us < 0 THEN happened_at < $label_end
                            ELSE happened_at < u.ends_at END AS counts
        FROM units AS u JOIN labels AS l ON l.unit_hash = u.unit_hash
    ),
    by_labels AS (
        SELECT l.unit_hash, {outcomes}
               count(*) FILTER (WHERE skewed) AS skewed_labels,
               count(*) FILTER (WHERE early AND metric = $quality) AS early_labels,
               avg(value) FILTER (
                   WHERE early AND metric = $quality
                     AND happened_at >= u.assigned_at - to_microseconds($before_us)
               ) AS earlier_quality
        FROM unit_labels AS l JOIN units AS u USING (unit_hash) GROUP BY l.unit_hash
    ),
    joined AS (
        SELECT u.arm, r.* EXCLUDE (unit_hash), l.* EXCLUDE (unit_hash),
               avg(l.earlier_quality) OVER () AS usual_quality
        FROM units AS u LEFT JOIN by_requests AS r USING (unit_hash) LEFT JOIN by_labels AS l USING (unit_hash)
    ),
    measured AS (
        SELECT arm, requests, foreign_requests, billable, priced, cost, labels_1, skewed_labels,
               early_labels, {columns}
        FROM joined
    )
    SELECT arm, count(*) AS units,
           CAST(coalesce(sum(requests), 0) AS BIGINT) AS requests,
           CAST(coalesce(sum(foreign_requests), 0) AS BIGINT) AS foreign_requests,
           CAST(coalesce(sum(billable), 0) AS BIGINT) AS billable,
           CAST(coalesce(sum(priced), 0) AS BIGINT) AS priced,
           CAST(coalesce(sum(cost), 0) AS DECIMAL(38, 12)) AS cost,
           any_value(price_ids) AS price_ids,
           count(*) FILTER (WHERE labels_1 > 0) AS labelled,
           CAST(coalesce(sum(labels_1), 0) AS BIGINT) AS labels,
           CAST(coalesce(sum(skewed_labels), 0) AS BIGINT) AS skewed_labels,
           CAST(coalesce(sum(early_labels), 0) AS BIGINT) AS early_labels,
           {based}, {means}, {pairs}
    FROM measured LEFT JOIN arm_prices USING (arm) GROUP BY arm
    """


def _columns(declaration: Declaration) -> dict[str, str]:
    """SQL over `joined` of each column of the moments."""
    found = dict[str, str]()
    metrics = _label_metrics(declaration)
    found["quality_n"], found["quality_d"] = _of_labels(1, per_unit=declaration.quality.per is Per.UNIT)
    found["cost_n"] = "coalesce(cost, 0)"
    found["cost_d"] = {
        Per.UNIT: "1",
        Per.REQUEST: "coalesce(requests, 0)",
        Per.SUCCESS: "coalesce(sum_1, 0)",
    }[declaration.cost.per]
    for number, guardrail in enumerate(declaration.guardrails):
        above, below = f"g{number}_n", f"g{number}_d"
        match guardrail.metric:
            case "error_rate":
                found[above], found[below] = "coalesce(errors, 0)", "coalesce(requests, 0)"
            case "slow_share":
                found[above], found[below] = "coalesce(slow, 0)", "coalesce(requests, 0)"
            case metric:
                found[above], found[below] = _of_labels(metrics.index(metric) + 1, per_unit=True)
    if declaration.pre_period_days:
        found["quality_x"] = "coalesce(earlier_quality, usual_quality, 0)"
        found["cost_x"] = "coalesce(earlier_cost, 0)"
    return found


def _of_labels(number: int, *, per_unit: bool) -> tuple[str, str]:
    """Numerator and denominator of a metric of the outcomes."""
    total, count = f"coalesce(sum_{number}, 0)", f"coalesce(labels_{number}, 0)"
    if per_unit:
        return (
            f"CASE WHEN {count} > 0 THEN {total} / {count} ELSE 0 END",
            f"CASE WHEN {count} > 0 THEN 1 ELSE 0 END",
        )
    return total, count


def _arm(row: Mapping[str, Any], names: list[str], declaration: Declaration) -> ArmSeen:
    import numpy as np

    covariance = np.zeros((len(names), len(names)))
    for i in range(len(names)):
        for j in range(i + 1):
            covariance[i, j] = covariance[j, i] = row[f"covar_{i}_{j}"] or 0.0
    mean = np.array([row[f"mean_{name}"] for name in names], dtype=float)
    return ArmSeen(
        name=row["arm"],
        moments=Moments(row["units"], tuple(names), mean, covariance),
        cost=row["cost"],
        price_ids=tuple(row["price_ids"] or ()),
        based={name: row[f"based_{number}"] for number, name in enumerate(columns_of(declaration))},
        **{
            name: int(row[name])
            for name in (
                *("labelled", "labels", "skewed_labels", "early_labels"),
                *("requests", "foreign_requests", "billable", "priced"),
            )
        },
    )


def _strays(
    reading: Reading, parameters: Mapping[str, object]
) -> tuple[int, tuple[str, ...], dict[str, int]]:
    """Units in several arms, the first of them, and units by arm that was not declared."""
    given = {name: parameters[name] for name in ("tenant", "experiment", "started", "until")}
    crossed = reading.query(
        "experiments.crossed_units",
        f"""
        WITH {_ASSIGNED}
        SELECT unit_hash, count(*) OVER () AS units FROM assigned
        WHERE arms > 1 ORDER BY unit_hash LIMIT {SHOWN_UNITS}
        """,
        given,
    ).to_pylist()
    undeclared = reading.query(
        "experiments.undeclared_arms",
        f"""
        WITH {_ASSIGNED}
        SELECT arm, count(*) AS units FROM (SELECT unnest(all_arms) AS arm FROM assigned)
        ANTI JOIN declared_arms USING (arm) GROUP BY arm ORDER BY arm
        """,
        given,
    ).to_pylist()
    units = crossed[0]["units"] if crossed else 0
    return units, tuple(r["unit_hash"] for r in crossed), {r["arm"]: r["units"] for r in undeclared}


def _unmatched(reading: Reading, declaration: Declaration, parameters: Mapping[str, object]) -> int:
    """Labels since the start whose request or trace leads to no unit, or to several."""
    used = _used(parameters, declaration)
    names = (
        "tenant",
        "metrics",
        "first_day",
        "last_day",
        "looked_at",
        "application",
        "environment",
        "endpoint",
    )
    given = {name: used[name] for name in (*names, *(("salt",) if "salt" in used else ()))}
    rows = reading.query(
        "experiments.unmatched_labels",
        f"""
        WITH {_labels(declaration.unit)}
        SELECT count(*) AS labels FROM labels WHERE unit_hash IS NULL AND observed_at >= $started
        """,
        {**given, "started": parameters["started"]},
    ).to_pylist()
    return int(rows[0]["labels"])


def _used(parameters: Mapping[str, Any], declaration: Declaration) -> dict[str, Any]:
    """The parameters that the statement has: DuckDB refuses others."""
    return {n: v for n, v in parameters.items() if n != "salt" or declaration.unit is Unit.TRACE}


def _prices(
    reading: Reading, arms: Mapping[str, ArmSeen]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The catalogues that each arm was priced from, and prices that are no longer in force."""
    used = sorted({price for arm in arms.values() for price in arm.price_ids})
    if not used:
        return dict.fromkeys(arms, ()), ()
    rows = reading.query(
        "experiments.prices",
        """
        SELECT price_id, any_value(catalog) AS catalog, arg_max(state, generation) AS state
        FROM price_catalog WHERE list_contains($used, price_id) GROUP BY price_id
        """,
        {"used": used},
    ).to_pylist()
    catalogue = {row["price_id"]: row["catalog"] for row in rows}
    withdrawn = tuple(sorted(row["price_id"] for row in rows if row["state"] != "in_force"))
    return {
        name: tuple(sorted({catalogue.get(price, "unknown") for price in arm.price_ids}))
        for name, arm in arms.items()
    }, withdrawn
