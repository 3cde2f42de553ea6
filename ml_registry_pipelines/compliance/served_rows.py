"""What a version predicted in production, read from the requests that it answered and the labels that came later.

A request counts that attribution assigns to the version and that succeeded, once: its last such attempt. Its
prediction, score, groups and further values are tags of the request, under the names of the columns that the
evaluation declares. What came true is a metric of `outcomes`: 1 for the positive class and 0 for the other, or
the number itself. Rows that a user's own asset records instead are in `evaluation_store.py`.

How a label finds its request:

- By the request's id, and the source system where the label names one; else by a trace that has one request
  alone. What could be meant for two requests is joined to none of them.
- The newest observation counts, since labels are corrected.
- A label from before its request is another one's, or a clock is wrong: it is left out.
- A label has `label_days` to arrive: the window is shifted back by as many days, so that what is slow to come
  true is not measured by its quick part. A prediction that has no label by then is a row without one, which a
  suite allows for by `max_missing` or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluation_rows import Columns, EvaluationProblem, Task, normalised
from ml_registry_pipelines.registry.errors import InvalidInput, shown

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

READS = ("inference_events", "outcomes", "attribution_rules")
MOST_LABEL_DAYS = 730
MOST_PREDICTIONS = 5_000_000
LONGEST_METRIC = 200
_AROUND = timedelta(days=1)
"""A label's own clock may have its day wrong by this."""


@dataclass(frozen=True)
class Served:
    """That predictions in production are the requests which the version answered.

    Attributes:
        label_metric: metric of `outcomes` that says what came true; None: nothing does, and what needs a
            label cannot run.
        label_days: days that a label has to arrive.
    """

    label_metric: str | None = None
    label_days: int = 0

    def recorded(self) -> dict[str, Any]:
        """As the log keeps it."""
        return {"label_metric": self.label_metric, "label_days": self.label_days}

    def checked(self, columns: Columns) -> Served:
        """The same.

        Raises:
            InvalidInput: it cannot be meant.
        """
        if self.label_metric is not None:
            if not 0 < len(self.label_metric.strip()) <= LONGEST_METRIC:
                raise InvalidInput(f"{shown(self.label_metric)} is no name of a metric of outcomes")
            if columns.label is None:
                raise InvalidInput(
                    f"outcomes {shown(self.label_metric)} are labels, and the evaluation declares none; name its column"
                )
        elif self.label_days:
            raise InvalidInput("days to wait for labels need the metric of outcomes that holds them")
        if not 0 <= self.label_days <= MOST_LABEL_DAYS:
            raise InvalidInput(f"labels arrive within 0 to {MOST_LABEL_DAYS} days, not {self.label_days}")
        if columns.subject is not None:
            raise InvalidInput(
                "requests say by themselves whom they are about; leave the column of the subject out"
            )
        return self

    def window(self, window: tuple[datetime, datetime]) -> tuple[datetime, datetime]:
        """When the predictions were made whose labels can be there at the end of a window."""
        waits = timedelta(days=self.label_days)
        return window[0] - waits, window[1] - waits


def served_of(label_metric: str | None, label_days: int, *, served: bool) -> Served | None:
    """What a form says of it.

    Raises:
        InvalidInput: labels of requests are named, and requests are not asked for.
    """
    if not served:
        if label_metric or label_days:
            raise InvalidInput(
                "a label metric and its days go with requests as predictions; ask for `served` too"
            )
        return None
    return Served(label_metric or None, label_days)


@dataclass(frozen=True)
class ServedRows:
    """Rows under their roles, the versions of the tables, and what was read, for whoever reads the evidence."""

    rows: pa.Table
    versions: Mapping[str, int]
    facts: Mapping[str, Any]


def served_rows(
    lake: Lake,
    columns: Columns,
    served: Served,
    *,
    tenant: str,
    model_id: str,
    number: int,
    window: tuple[datetime, datetime],
) -> ServedRows:
    """What a version predicted in a half-open window, with the labels that were observed by its end.

    Raises:
        EvaluationProblem: it answered nothing that has a prediction, or tags or labels are not what is declared.
    """
    start, end = served.window(window)
    with lake.read(*READS) as reading:
        from ml_registry_pipelines.lake.attributing import rules_of

        rules = rules_of(reading)
        own = [
            index
            for index, outcome in enumerate(rules.outcomes)
            if outcome.attribution == "version"
            and (outcome.model_id, outcome.model_version) == (model_id, number)
        ]
        if not own:
            raise EvaluationProblem(
                "no attribution rule assigns requests to it, so that nobody knows what it predicted in production"
            )
        names = [name for name in columns.needed if name not in {columns.label, columns.observed}]
        found = reading.query(
            "compliance.served_rows",
            _statement(rules.number, own, len(names), most=MOST_PREDICTIONS + 1),
            {
                "tenant": tenant,
                "first_day": start.astimezone(UTC).date(),
                "last_day": end.astimezone(UTC).date(),
                "label_day": (start - _AROUND).astimezone(UTC).date(),
                "start": start,
                "end": end,
                "known": window[1],
                "metric": served.label_metric,
                **{f"tag_{n}": _pointer(name) for n, name in enumerate(names)},
            },
        )
        versions = {table: reading.version(table) for table in READS}
    if not found.num_rows:
        raise EvaluationProblem(
            f"no request between {start:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M} (UTC) was answered by it"
        )
    if found.num_rows > MOST_PREDICTIONS:
        raise EvaluationProblem(
            f"it answered more than {MOST_PREDICTIONS:,} requests in this window; check a shorter one"
        )
    rows = _rows(found, names, columns, served)
    facts = {
        "predictions from": start.isoformat(),
        "predictions to": end.isoformat(),
        "labels until": window[1].isoformat(),
        "predictions": found.num_rows,
        "labelled": found.num_rows - found["label"].null_count,
    }
    return ServedRows(rows, versions, facts)


def _statement(number: str, own: list[int], tags: int, *, most: int) -> str:
    """One row per request of the version: its tags, their kind, and its label; numbers alone are put into the text."""
    picked = "".join(
        f", json_extract_string(tags, $tag_{n}) AS tag_{n}, json_type(tags, $tag_{n}) AS kind_{n}"
        for n in range(tags)
    )
    shown_tags = "".join(f", a.tag_{n}, a.kind_{n}" for n in range(tags))
    return f"""
    WITH answered AS (
        SELECT source_system, event_id, event_ts, trace_id {picked}
        FROM inference_events
        WHERE tenant = $tenant AND day BETWEEN $first_day AND $last_day
          AND event_ts >= $start AND event_ts < $end
          AND span_kind = 'leaf' AND status = 'success'
          AND {number} IN ({", ".join(map(str, own))})
        QUALIFY row_number() OVER (
            PARTITION BY source_system, event_id ORDER BY attempt DESC, event_ts DESC, event_key
        ) = 1
    ),
    wanted AS (
        SELECT * FROM outcomes
        WHERE tenant = $tenant AND metric = $metric AND observed_at < $known AND day >= $label_day
    ),
    ids AS (
        SELECT event_id, count(DISTINCT source_system) AS systems
        FROM inference_events
            SEMI JOIN (SELECT event_id FROM wanted WHERE source_system IS NULL) AS asked USING (event_id)
        WHERE tenant = $tenant AND span_kind = 'leaf'
        GROUP BY event_id
    ),
    traces AS (
        SELECT trace_id, count(DISTINCT (source_system, event_id)) AS requests
        FROM inference_events
            SEMI JOIN (SELECT trace_id FROM wanted WHERE event_id IS NULL) AS asked USING (trace_id)
        WHERE tenant = $tenant AND span_kind = 'leaf'
        GROUP BY trace_id
    ),
    labels AS (
        SELECT a.source_system, a.event_id, w.value, w.observed_at, w.recorded_at, w.row_key
        FROM wanted AS w JOIN answered AS a
            ON a.event_id = w.event_id AND (w.source_system IS NULL OR w.source_system = a.source_system)
            LEFT JOIN ids ON ids.event_id = w.event_id
        WHERE w.observed_at >= a.event_ts AND (w.source_system IS NOT NULL OR ids.systems = 1)
        UNION ALL
        SELECT a.source_system, a.event_id, w.value, w.observed_at, w.recorded_at, w.row_key
        FROM wanted AS w JOIN traces ON traces.trace_id = w.trace_id AND traces.requests = 1
            JOIN answered AS a ON a.trace_id = w.trace_id
        WHERE w.event_id IS NULL AND w.observed_at >= a.event_ts
    ),
    newest AS (
        SELECT source_system, event_id, value FROM labels
        QUALIFY row_number() OVER (
            PARTITION BY source_system, event_id ORDER BY observed_at DESC, recorded_at DESC, row_key DESC
        ) = 1
    )
    SELECT newest.value AS label {shown_tags}
    FROM answered AS a LEFT JOIN newest USING (source_system, event_id)
    ORDER BY a.event_ts, a.source_system, a.event_id
    LIMIT {most}
    """


def _pointer(name: str) -> str:
    """A tag as JSON points at it (RFC 6901)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _rows(found: pa.Table, names: list[str], columns: Columns, served: Served) -> pa.Table:
    """The rows under their roles."""
    import pyarrow as pa
    import pyarrow.compute as pc

    groups = set((columns.groups or {}).values())
    classes = columns.task is Task.CLASSIFICATION or bool(columns.positive)
    raw: dict[str, Any] = {}
    for n, name in enumerate(names):
        values, kinds = found[f"tag_{n}"], found[f"kind_{n}"]
        if pc.any(pc.is_in(kinds, pa.array(["OBJECT", "ARRAY"]))).as_py():
            raise EvaluationProblem(f"tag {shown(name)} of some requests holds a list or an object")
        if values.null_count == found.num_rows:
            raise EvaluationProblem(f"no request of this window has a tag {shown(name)}")
        words = name in groups
        if name == columns.prediction and classes:
            named = columns.positive_predictions or columns.positive
            words = not (_are_numbers(values) and all(map(_is_number, named)))
        elif name in (columns.further or {}).values():
            words = bool(pc.any(pc.equal(kinds, "VARCHAR")).as_py())
        raw[name] = values if words else _numbers(values, name)
    # There is no column of times: the window is that of the requests.
    read = Columns(**{**vars(columns), "observed": None, "label": None})
    label = None
    if served.label_metric is not None:
        label = _labels(found["label"], served.label_metric, classes=classes)
    return normalised(pa.table(raw), read, label=label)


def _labels(values: pa.ChunkedArray, metric: str, *, classes: bool) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if classes:
        known = pc.is_in(values, value_set=pa.array([0.0, 1.0, None], pa.float64()))
        if strange := values.filter(pc.invert(known)):
            raise EvaluationProblem(
                f"{len(strange):,} labels of {shown(metric)} are neither 1 (the positive class) nor 0"
            )
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _are_numbers(values: pa.ChunkedArray) -> bool:
    return all(value is None or _is_number(value) for value in values.unique().to_pylist())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        # Without the value, which may be anybody's.
        raise EvaluationProblem(
            f"tag {shown(name)} of some requests holds no number, and numbers are declared"
        ) from None
