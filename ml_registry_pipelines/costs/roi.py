"""What models returned: the value of their successes less all that they cost, as an interval, never as a point alone.

    net value = value per success x successes - model cost - judge cost - platform cost
    saving    = counterfactual cost per request x answers - the same costs

They are two answers to two questions, and never added. The interval takes the window's answers as a
sample of such traffic. Successes: the score interval (Wilson) of the share of True among the labels, carried
over to all answers. Model cost: the ratio of cost to answers over the hours of the window, with the delta
method's interval, so that answers of one hour need not be independent. Both are combined by the limits
of their difference (Zou and Donner, `intervals.difference`); judge and platform cost are as declared. Bounds
of the return are conservative: each from 97.5 % intervals of value and cost.

An answer is refused, and stored as refused, where under 99 % of the billable requests have a price, where
costs are of another currency than the value, and where nothing can be said about successes.
"""

from __future__ import annotations

import calendar
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.provenance import (
    COVERED,
    READS,
    CostsError,
    Provenance,
    check_logged,
    checked_days,
    provenance,
)
from ml_registry_pipelines.costs.queries import cost_by
from ml_registry_pipelines.costs.tagged import MOST_REQUESTS
from ml_registry_pipelines.costs.value_models import Declared, ValueModel
from ml_registry_pipelines.lake.attributing import rules_of
from ml_registry_pipelines.lake.tables.costs import ROI_RESULTS
from ml_registry_pipelines.telemetry.intervals import (
    CONFIDENCE,
    Interval,
    difference,
    ratio_interval,
    scaled,
    share_interval,
)
from ml_registry_pipelines.telemetry.metrics import POINTS, point_parameters
from ml_registry_pipelines.telemetry.rollups import Attempts

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading

ROI_READS = (*READS, "model_metrics")
FEW_LABELS = 100
FEW_HOURS = 24
LONGEST = 1100
"""Days of one answer."""
_PLACES = Decimal("0.000000000001")


@dataclass(frozen=True)
class MoneyInterval:
    """An amount with its bounds."""

    estimate: Decimal
    lower: Decimal
    upper: Decimal


@dataclass(frozen=True)
class Roi:
    """One answer. Where it is `refused`, `reason` says why and there is no net value.

    `labels` counts judged answers, None where the value model takes every answer as a success.
    `successes` are carried over to all answers. `unplaced_labels` name no request of the scope, or none at all.
    """

    result_id: str
    value_model: Declared
    since: date
    until: date
    status: str
    reason: str | None
    answers: int
    labels: int | None
    unplaced_labels: int
    successes: Decimal | None
    value: Decimal | None
    model_cost: Decimal | None
    unpriced_cost: Decimal | None
    judge_cost: Decimal | None
    platform_cost: Decimal
    net_value: MoneyInterval | None
    returns: Interval | None
    """Net value by all costs."""
    counterfactual_cost: Decimal | None
    saving: MoneyInterval | None
    price_coverage: float | None
    remarks: tuple[str, ...]
    provenance: Provenance
    confidence: float = CONFIDENCE

    @property
    def currency(self) -> str:
        return self.value_model.model.currency

    @property
    def label_coverage(self) -> float | None:
        """Judged answers per answer; None where none is judged, or there is no answer."""
        return self.labels / self.answers if self.labels is not None and self.answers else None

    def assumptions(self) -> dict[str, object]:
        """What the answer was computed with."""
        return {
            "value_model": {"name": self.value_model.model.name, **self.value_model.model.recorded()},
            "note": self.value_model.model.note,
            "method": " ".join((__doc__ or "").split()),
            "unplaced_labels": self.unplaced_labels,
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True)
class _Traffic:
    """Costs of the scope: by hour the cost and the answers, and what is priced."""

    hours: list[tuple[float, float]]
    answers: int
    cost: Decimal
    billable: int
    priced: int
    currencies: frozenset[str]


@dataclass(frozen=True)
class _Labels:
    """Labels of the success metric: of how many different answers, how many True, and what judging cost."""

    n: int
    hits: int
    unplaced: int
    judges: tuple[str | None, ...]
    other_kinds: int
    paid: Mapping[str, Decimal]
    unpaid: int


def return_on_investment(reading: Reading, declared: Declared, *, since: date, until: date) -> Roi:
    """As `VibeCodingIntegration.get_roi`, without storing it; the reading holds `ROI_READS`.

    Raises:
        CostsError: the days are none, too many, or not all of those that the value model holds for.
    """
    checked_days(since, until)
    model = declared.model
    if (until - since).days > LONGEST:
        raise CostsError(f"one answer is about at most {LONGEST:,} days; these are {(until - since).days:,}")
    if not model.covers(since, until):
        raise CostsError(
            f"value model {model.name!r} holds from {model.valid_from or 'ever'} to "
            f"{model.valid_to or 'further notice'}, not on all days from {since} to {until - timedelta(days=1)}"
        )
    where = {**model.where, "tenant": declared.tenant}
    traffic = _traffic(reading, where, since, until)
    if not traffic.answers and not traffic.billable:
        check_logged(reading, where)
    labels = None if model.success is None else _labels(reading, declared, since, until)
    answer = Roi(
        result_id=uuid.uuid4().hex,
        value_model=declared,
        since=since,
        until=until,
        status="refused",
        reason=None,
        answers=traffic.answers,
        labels=None if labels is None else labels.n,
        unplaced_labels=0 if labels is None else labels.unplaced,
        successes=None,
        value=None,
        model_cost=traffic.cost if traffic.currencies <= {model.currency} else None,
        unpriced_cost=None,
        judge_cost=None,
        platform_cost=_platform_cost(model, since, until),
        net_value=None,
        returns=None,
        counterfactual_cost=None,
        saving=None,
        price_coverage=traffic.priced / traffic.billable if traffic.billable else None,
        remarks=(),
        provenance=provenance(reading, since=since, until=until, where=where, tables=ROI_READS),
    )
    if why := _refusal(model, traffic, labels):
        return replace(answer, reason=why)
    return _stated(answer, model, traffic, labels)


def roi_row(answer: Roi) -> pa.Table:
    """The answer as a row of `roi_results`."""
    import pyarrow as pa

    net, saving, returns = answer.net_value, answer.saving, answer.returns
    own = {
        name: getattr(answer, name)
        for name in ROI_RESULTS.column_names
        if name not in ("value_model", "provenance", "assumptions", "net_value", "saving")
        and hasattr(answer, name)
    }
    row: dict[str, Any] = own | {
        "tenant": answer.value_model.tenant,
        "value_model": answer.value_model.model.name,
        "value_model_id": answer.value_model.id,
        "value_model_sequence": answer.value_model.sequence,
        "net_value": net and net.estimate,
        "net_lower": net and net.lower,
        "net_upper": net and net.upper,
        "return": returns and returns.estimate,
        "return_lower": returns and returns.lower,
        "return_upper": returns and returns.upper,
        "saving": saving and saving.estimate,
        "saving_lower": saving and saving.lower,
        "saving_upper": saving and saving.upper,
        "assumptions": json.dumps(answer.assumptions(), sort_keys=True, ensure_ascii=False),
        "provenance": json.dumps(answer.provenance.recorded(), sort_keys=True),
        "recorded_at": answer.provenance.computed_at,
    }
    assert row.keys() <= set(ROI_RESULTS.column_names), row.keys() - set(ROI_RESULTS.column_names)
    return pa.Table.from_pylist([row], schema=ROI_RESULTS.schema)


def _refusal(model: ValueModel, traffic: _Traffic, labels: _Labels | None) -> str | None:
    if not traffic.answers:
        return "there is no answer in these days"
    if odd := sorted(traffic.currencies - {model.currency}):
        return f"costs are in {', '.join(odd)} as well, and the value in {model.currency}: they are not added"
    if traffic.billable and traffic.priced < COVERED * traffic.billable:
        return (
            f"{traffic.priced / traffic.billable:.2%} of {traffic.billable:,} billable requests have a price; "
            f"under {COVERED:.0%} the costs say too little"
        )
    if len(traffic.hours) < 2:
        return "all answers are of one hour, which says nothing about how cost varies"
    if labels is None:
        return None
    return _refusal_of_labels(model, labels)


def _refusal_of_labels(model: ValueModel, labels: _Labels) -> str | None:
    if not labels.n:
        kinds = " as True or False" if labels.other_kinds else ""
        unplaced = f" ({labels.unplaced:,} labels name no request of the scope)" if labels.unplaced else ""
        return f"{model.success!r} was not recorded{kinds} of any answer{unplaced}"
    if len(labels.judges) > 1:
        judges = ", ".join(str(judge) for judge in labels.judges)
        return f"{model.success!r} was judged by {judges}; name one as judge in the value model"
    if odd := sorted(set(labels.paid) - {model.currency}):
        return (
            f"judging cost {', '.join(odd)} as well, and the value is in {model.currency}: they are not added"
        )
    return None


def _stated(answer: Roi, model: ValueModel, traffic: _Traffic, labels: _Labels | None) -> Roi:
    share = Decimal(1) if labels is None else Decimal(labels.hits) / labels.n
    successes = share * traffic.answers
    value = _money(model.value_per_success * successes)
    missing = traffic.billable - traffic.priced
    unpriced = _money(traffic.cost / traffic.priced * missing) if missing else Decimal(0)
    judge = Decimal(0)
    if labels is not None:
        judge = labels.paid.get(model.currency, Decimal(0))
        judge += (model.judge_per_label or Decimal(0)) * labels.unpaid
    fixed = judge + answer.platform_cost
    cost = traffic.cost + unpriced
    total = cost + fixed
    of_value, of_cost = _intervals(answer, model, traffic, labels, CONFIDENCE)
    net = difference(of_value, of_cost)
    wide_value, wide_cost = _intervals(answer, model, traffic, labels, (1 + CONFIDENCE) / 2)
    least, most = wide_cost.lower + float(fixed), wide_cost.upper + float(fixed)
    returns = None
    if total > 0 and least > 0:
        returns = Interval(
            float((value - total) / total), wide_value.lower / most - 1, wide_value.upper / least - 1
        )
    counterfactual = saving = None
    if model.counterfactual_per_request is not None:
        counterfactual = _money(model.counterfactual_per_request * traffic.answers)
        held = Interval(float(counterfactual), float(counterfactual), float(counterfactual))
        saving = _around(counterfactual - total, difference(held, of_cost))
    return replace(
        answer,
        status="stated",
        successes=successes.quantize(Decimal("0.000001")),
        value=value,
        unpriced_cost=unpriced,
        judge_cost=_money(judge),
        net_value=_around(value - total, net),
        returns=returns,
        counterfactual_cost=counterfactual,
        saving=saving,
        remarks=tuple(_remarks(answer, model, traffic, labels, missing)),
    )


def _intervals(
    answer: Roi, model: ValueModel, traffic: _Traffic, labels: _Labels | None, confidence: float
) -> tuple[Interval, Interval]:
    """Value and model cost of the whole window with their bounds, in floating point: bounds are estimates."""
    worth = float(model.value_per_success) * answer.answers
    value = Interval(worth, worth, worth)
    if labels is not None:
        share = share_interval(labels.hits, labels.n, confidence)
        assert share is not None
        value = scaled(share, worth)
    ratio = ratio_interval(traffic.hours, confidence)
    assert ratio is not None
    cost = scaled(ratio, answer.answers * (traffic.billable / traffic.priced if traffic.priced else 1.0))
    return value, Interval(cost.estimate, max(0.0, cost.lower), cost.upper)


def _around(estimate: Decimal, interval: Interval) -> MoneyInterval:
    below, above = interval.estimate - interval.lower, interval.upper - interval.estimate
    return MoneyInterval(
        _money(estimate), _money(estimate - Decimal(repr(below))), _money(estimate + Decimal(repr(above)))
    )


def _remarks(
    answer: Roi, model: ValueModel, traffic: _Traffic, labels: _Labels | None, missing: int
) -> list[str]:
    said = []
    if missing:
        said.append(
            f"{missing:,} of {traffic.billable:,} billable requests have no price; they are taken to cost as the others"
        )
    if len(traffic.hours) < FEW_HOURS:
        said.append(f"answers of {len(traffic.hours)} hours alone: the interval of the cost is too narrow")
    if labels is not None:
        if labels.n < FEW_LABELS:
            said.append(f"{labels.n:,} labels alone: the interval of the successes is wide")
        if labels.n < traffic.answers:
            said.append(
                f"{labels.n / traffic.answers:.1%} of the answers are judged; the others are taken to be like them"
            )
        if labels.unplaced:
            said.append(f"{labels.unplaced:,} labels name no request of the scope and are left out")
        if labels.unpaid and model.judge_per_label is None:
            said.append(f"of {labels.unpaid:,} labels it is not known what judging cost; it is in no figure")
    if answer.provenance.pending:
        said.append(f"{answer.provenance.pending:,} requests were taken and are not rolled up yet")
    return said


def _traffic(reading: Reading, where: Mapping[str, str], since: date, until: date) -> _Traffic:
    # An answer of a model is billable and a success; one of the gateway's own cache is neither, and an answer.
    rows = cost_by(reading, ["hour", "status"], since=since, until=until, where=where).to_pylist()
    hours: dict[datetime, tuple[float, float]] = {}
    answers = billable = priced = 0
    cost = Decimal(0)
    for row in rows:
        given = {"success": row["billable_requests"], "cache_hit": row["requests"]}.get(row["status"], 0)
        before, among = hours.get(row["hour"], (0.0, 0.0))
        hours[row["hour"]] = (before + float(row["cost"] or 0), among + given)
        answers += given
        billable += row["billable_requests"]
        priced += row["priced_requests"]
        cost += row["cost"] or 0
    currencies = frozenset(row["currency"] for row in rows if row["currency"] is not None and row["cost"])
    return _Traffic(list(hours.values()), answers, cost, billable, priced, currencies)


def _labels(reading: Reading, declared: Declared, since: date, until: date) -> _Labels:
    """Labels of the scope: by the model's name alone where it has no other condition, else by their requests."""
    model = declared.model
    start, end = (datetime.combine(day, time(), UTC) for day in (since, until))
    only = model.where.get("model")
    narrower = sorted(set(model.where) - {"model"})
    parameters = point_parameters(
        None if only is None else [only], model.success, declared.tenant, start, end
    )
    parameters |= {"judge": model.judge}
    placed = "TRUE"
    if narrower:
        placed = "request_id IN (SELECT event_id FROM scope)"
        _define_scope(reading, declared, narrower, since, until)
    rows = reading.query(
        "roi.labels",
        f"""
        WITH points AS ({POINTS}),
        asked AS (
            SELECT *, {placed} AS placed FROM points WHERE $judge IS NULL OR judge = $judge
        ),
        truths AS (SELECT * FROM asked WHERE kind = 'boolean' AND placed),
        newest AS (
            SELECT judge, value FROM truths WHERE request_id IS NULL
            UNION ALL
            SELECT judge, arg_max(value, (recorded_at, event_ts, value)) FROM truths
            WHERE request_id IS NOT NULL GROUP BY judge, request_id
        )
        SELECT (SELECT count(*) FROM newest) AS n,
               (SELECT count(*) FROM newest WHERE value = 1) AS hits,
               (SELECT count(*) FROM asked WHERE NOT coalesce(placed, false)) AS unplaced,
               (SELECT list(DISTINCT coalesce(judge, '') ORDER BY coalesce(judge, '')) FROM newest) AS judges,
               (SELECT count(*) FROM asked WHERE kind <> 'boolean') AS other_kinds,
               (SELECT list(judge_currency ORDER BY judge_currency)
                FROM (SELECT DISTINCT judge_currency FROM truths WHERE judge_cost IS NOT NULL)) AS currencies,
               (SELECT list(cost ORDER BY judge_currency)
                FROM (SELECT judge_currency, sum(judge_cost) AS cost FROM truths
                      WHERE judge_cost IS NOT NULL GROUP BY judge_currency)) AS costs,
               (SELECT count(*) FROM truths WHERE judge_cost IS NULL AND judge IS NOT NULL) AS unpaid
        """,
        parameters,
    ).to_pylist()[0]
    return _Labels(
        rows["n"],
        rows["hits"],
        rows["unplaced"],
        tuple(judge or "nobody named" for judge in rows["judges"] or []),
        rows["other_kinds"],
        dict(zip(rows["currencies"] or [], rows["costs"] or [], strict=True)),
        rows["unpaid"],
    )


def _define_scope(reading: Reading, declared: Declared, names: list[str], since: date, until: date) -> None:
    """Make the `event_id`s of the answers of a scope the relation `scope`; `MOST_REQUESTS` bounds what is read."""
    files = reading.files("inference_events")
    if files.num_rows:
        days = zip(files["partition.day"].to_pylist(), files["num_records"].to_pylist(), strict=True)
        held = sum(rows or 0 for day, rows in days if since <= day < until)
        if held > MOST_REQUESTS:
            raise CostsError(
                f"labels of a scope by {', '.join(names)} are found by their requests, and these days hold {held:,}, "
                f"more than {MOST_REQUESTS:,}; ask about fewer days, or narrow the scope by model alone"
            )
    rules = rules_of(reading)
    reading.define(Attempts.attributed(rules))
    where = declared.model.where
    rows = reading.query(
        "roi.scope",
        f"""
        SELECT DISTINCT event_id
        FROM (SELECT *, {rules.columns("outcome")} FROM (
            SELECT event_id, day, tenant, application, provider, model, {rules.number} AS outcome
            FROM inference_events
            WHERE day >= $first AND day < $last AND tenant = $tenant AND span_kind = 'leaf'
              AND status IN ('success', 'cache_hit')))
        WHERE {" AND ".join(f"{name} = ${name}" for name in where)}
        """,
        {"first": since, "last": until, "tenant": declared.tenant, **where},
    )
    reading.register("scope", rows)


def _platform_cost(model: ValueModel, since: date, until: date) -> Decimal:
    """The months' platform cost by their days."""
    total, day = Decimal(0), since
    while day < until:
        length = calendar.monthrange(day.year, day.month)[1]
        following = min(until, day.replace(day=1) + timedelta(days=length))
        total += model.platform_per_month * (following - day).days / length
        day = following
    return _money(total)


def _money(amount: Decimal) -> Decimal:
    with localcontext(prec=60):
        return amount.quantize(_PLACES, rounding=ROUND_HALF_EVEN)
