"""What the measures of data protection share: reading registers once, counting, and saying why not.

An empty register measures nothing: the check could not run, and never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ml_registry_pipelines.compliance.gdpr.entries import Entry
from ml_registry_pipelines.compliance.gdpr.registers import entries_of
from ml_registry_pipelines.compliance.metrics import Bound, Metric, Parameters
from ml_registry_pipelines.compliance.results import Area, Interval, Measured
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.metrics import Context
    from ml_registry_pipelines.registry.view import View

E = TypeVar("E", bound=Entry)
SHOWN = 50
"""Names of what is amiss that the evidence lists; the count is of all."""
CONFIDENCE = 0.95
REGULATION = "Regulation (EU) 2016/679"


class NoParameters(Parameters):
    """A measure that takes none."""


def view_of(context: Context) -> View:
    """What the registers hold, read once for all measures of a run."""
    found: View = context.memo.setdefault("gdpr view", None) or context.log.view(context.tenant)
    context.memo["gdpr view"] = found
    return found


def register(context: Context, kind: type[E]) -> list[E]:
    """The entries of a register, read once for all measures of a run."""
    key = f"gdpr {kind.REGISTER}"
    if key not in context.memo:
        context.memo[key] = entries_of(view_of(context), kind)
    found: list[E] = context.memo[key]
    return found


def empty(metric: str, kind: type[Entry], about: str = "") -> list[Measured]:
    """What is said where a register has no entry."""
    return [unmeasured(metric, f"the register of {kind.PLURAL} is empty; `mlreg gdpr load` fills it", about)]


def unmeasured(metric: str, problem: str, about: str = "", **more: Any) -> Measured:
    """Something that could not be measured, and why."""
    return Measured(metric, None, about=about, problem=problem, **more)


def amiss(
    metric: str,
    wrong: Mapping[str, str] | Sequence[str],
    *,
    of: int,
    about: str = "",
    unit: str = "entries",
    detail: Mapping[str, object] | None = None,
) -> Measured:
    """How many of all entries are not as they should be, with their names: a count of all, so exact."""
    listed: object = (
        dict(sorted(wrong.items())[:SHOWN]) if isinstance(wrong, Mapping) else sorted(wrong)[:SHOWN]
    )
    more = {"amiss": listed} if wrong else {}
    return Measured(
        metric, float(len(wrong)), about=about, unit=unit, n=of, detail={**more, **(detail or {})}
    )


def rate(
    metric: str,
    hits: int,
    n: int,
    *,
    about: str = "",
    whole: bool = False,
    detail: Mapping[str, object] | None = None,
) -> Measured:
    """A share of a sample, with its Wilson score interval; of the `whole` it is exact."""
    found = share_interval(hits, n, CONFIDENCE)
    if found is None:
        return unmeasured(metric, "there is nothing to look at", about)
    if whole:
        return Measured(metric, hits / n, about=about, unit="share", n=n, detail=detail or {})
    interval = Interval(found.lower, found.upper, CONFIDENCE, "wilson")
    return Measured(metric, hits / n, interval, about=about, unit="share", n=n, detail=detail or {})


def gdpr_metric(
    name: str,
    title: str,
    articles: Iterable[str],
    measure: Callable[[Context, Any], Sequence[Measured]],
    *,
    parameters: type[Parameters] = NoParameters,
    bound: Bound = Bound.AT_MOST,
    subject: bool = False,
    source: str = REGULATION,
) -> Metric:
    """A metric of the area."""
    return Metric(
        name,
        title,
        Area.GDPR,
        bound,
        parameters,
        measure,
        tuple(f"GDPR {article}" for article in articles),
        source,
        needs_subject=subject,
    )
