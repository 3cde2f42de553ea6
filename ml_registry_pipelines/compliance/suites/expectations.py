"""Suites in Great Expectations: one class of expectation per metric, on the small table of what was measured.

It sees numbers and names of checks, never a row of anybody's. The import takes seconds, so it happens
at the first run and never when a code location is loaded; nothing is reported to anybody.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.results import Interval, Severity, Verdict, judged
from ml_registry_pipelines.iri_grammar import put_off

if TYPE_CHECKING:
    from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext
    from great_expectations.expectations.expectation import BatchExpectation

MEASURED = "mlreg.measured"
"""The metric of Great Expectations that reads one row of the table."""


@dataclass(frozen=True)
class Asserted:
    """One row of the metric table, and what is asserted on it.

    Attributes:
        says: what the check is, for people; without a personal value.
    """

    metric: str
    check: str
    about: str
    severity: Severity
    article: str
    at_least: float | None
    at_most: float | None
    value: float | None
    interval: Interval | None
    n: int | None = None
    says: str = ""


@dataclass(frozen=True)
class Judgement:
    """What Great Expectations said of one row; `problem` where it could not say anything."""

    verdict: Verdict
    problem: str = ""


def judge(suite: str, rows: Sequence[Asserted], *, site: Path | None = None) -> list[Judgement]:
    """Run the expectations of a suite over the rows, in their order.

    Args:
        site: folder in which Data Docs are built of it, if anywhere.
    """
    if not rows:
        return []
    gx = _great_expectations()
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    table = pd.DataFrame([_row(row) for row in rows])
    batch = (
        context.data_sources.add_pandas("measured")
        .add_dataframe_asset("metric_table")
        .add_batch_definition_whole_dataframe("all")
    )
    held = context.suites.add(gx.ExpectationSuite(suite))
    for place, row in enumerate(rows):
        held.add_expectation(_expectation(row, place))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=suite, data=batch, suite=held)
    )
    given = {"batch_parameters": {"dataframe": table}}
    if site is None:
        results = definition.run(**given, result_format="BASIC").results
    else:
        results = _with_docs(context, definition, given, site)
    by_place: dict[int, Any] = {r.expectation_config.kwargs["place"]: r for r in results}
    return [_judgement(by_place.get(place)) for place in range(len(rows))]


def _row(row: Asserted) -> dict[str, Any]:
    """A row of the metric table."""
    interval = row.interval
    return {
        "metric": row.metric,
        "check": row.check,
        "about": row.about,
        "value": math.nan if row.value is None else row.value,
        "interval_low": math.nan if interval is None else interval.low,
        "interval_high": math.nan if interval is None else interval.high,
        "confidence": math.nan if interval is None else interval.confidence,
        "has_interval": interval is not None,
        "n": -1 if row.n is None else row.n,
    }


def _expectation(row: Asserted, place: int) -> BatchExpectation:
    made: Any = expectation_class(row.metric)
    found: BatchExpectation = made(
        place=place,
        about=row.about,
        at_least=row.at_least,
        at_most=row.at_most,
        severity=row.severity.value,
        description=row.says or None,
        meta={"check": row.check, "article": row.article},
    )
    return found


def _judgement(result: Any) -> Judgement:
    """An exception within an expectation is no failure of what was checked: it could not be checked."""
    if result is None:
        return Judgement(Verdict.COULD_NOT_RUN, "Great Expectations gave no result for it")
    raised = result.exception_info or {}
    # Of one expectation as it is, of several metrics by their names.
    inner = [each for each in (raised, *raised.values()) if isinstance(each, Mapping)]
    if any(each.get("raised_exception") for each in inner):
        return Judgement(Verdict.COULD_NOT_RUN, "the expectation raised an exception in Great Expectations")
    said = (result.result or {}).get("verdict")
    if said not in {verdict.value for verdict in Verdict}:
        return Judgement(Verdict.COULD_NOT_RUN, "Great Expectations gave no verdict")
    verdict = Verdict(said)
    if (verdict is Verdict.PASS) != bool(result.success):
        return Judgement(Verdict.COULD_NOT_RUN, "Great Expectations contradicts itself")
    return Judgement(verdict)


def _with_docs(
    context: EphemeralDataContext, definition: Any, given: Mapping[str, Any], site: Path
) -> Sequence[Any]:
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    where = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)}
    settings: Any = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": where,
    }
    context.add_data_docs_site("checks", settings)
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=definition.name,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="docs", site_names=["checks"])],
            result_format="BASIC",
        )
    )
    done = checkpoint.run(**given)
    return [result for run in done.run_results.values() for result in run.results]


def name_of(metric: str) -> str:
    """The name of a metric's class of expectation.

    >>> name_of("demographic_parity_difference")
    'DemographicParityDifference'
    """
    return "".join(part[:1].upper() + part[1:] for part in metric.split("_"))


@cache
def expectation_class(metric: str) -> type[BatchExpectation]:
    """The class of expectation of a metric, named after it."""
    return type(
        name_of(metric),
        (_judged_expectation(),),
        {"__module__": __name__, "__doc__": f"{metric} keeps its threshold, by its whole interval."},
    )


@cache
def _judged_expectation() -> type[BatchExpectation]:
    """What all of them do: read their row, and judge it as everything is judged."""
    _great_expectations()
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import BatchExpectation
    from great_expectations.expectations.metrics.metric_provider import metric_value
    from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

    class MeasuredRow(TableMetricProvider):
        """One row of the metric table."""

        metric_name = MEASURED
        value_keys = ("place",)

        @metric_value(engine=PandasExecutionEngine)
        def _pandas(
            cls,  # noqa: N805 - as it is called
            execution_engine: PandasExecutionEngine,
            metric_domain_kwargs: dict[str, Any],
            metric_value_kwargs: dict[str, Any],
            **_: Any,
        ) -> dict[str, Any]:
            frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type="table")
            found: dict[str, Any] = frame.iloc[metric_value_kwargs["place"]].to_dict()
            return found

    class JudgedExpectation(BatchExpectation):
        """A measured value against its bounds."""

        place: int
        about: str = ""
        at_least: float | None = None
        at_most: float | None = None

        metric_dependencies = (MEASURED,)
        success_keys = ("place", "about", "at_least", "at_most")
        args_keys = ("place", "about", "at_least", "at_most")

        def _validate(
            self,
            metrics: dict[str, Any],
            runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002 - as it is called
            execution_engine: Any = None,  # noqa: ARG002
        ) -> dict[str, Any]:
            row = metrics[MEASURED]
            interval = None
            if row["has_interval"]:
                interval = Interval(row["interval_low"], row["interval_high"], row["confidence"], "")
            value = float(row["value"])
            verdict = judged(value, interval, low=self.at_least, high=self.at_most)
            return {
                "success": verdict is Verdict.PASS,
                "result": {"observed_value": None if math.isnan(value) else value, "verdict": verdict.value},
            }

    # Great Expectations resolves annotations of a class by its module.
    JudgedExpectation.__module__ = MeasuredRow.__module__ = __name__
    return JudgedExpectation


@cache
def _great_expectations() -> Any:
    """The package, imported once, with nothing to be sent home."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    put_off()
    with warnings.catch_warnings():
        # What it and its dependencies deprecate is theirs to mend.
        warnings.simplefilter("ignore")
        import great_expectations as gx
    for name in ("great_expectations", "great_expectations.expectations.registry"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return gx
