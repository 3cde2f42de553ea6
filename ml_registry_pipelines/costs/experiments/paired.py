"""The same decision on a table of evaluations: every prompt answered by every arm, looked at once.

One row per prompt, with one column per arm for its score and maybe one for its cost. Differences are
taken prompt by prompt; where prompts come in clusters (several questions on one text), so do errors.
Nothing was assigned and nobody looks twice: intervals are the usual normal ones, two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.experiments.deciding import Claim, Outcome, Standing, Verdict, says
from ml_registry_pipelines.costs.experiments.declaring import FEWEST_UNITS, Mode
from ml_registry_pipelines.costs.experiments.gates import LEAST_COVERAGE, SRM_ALPHA, Gate
from ml_registry_pipelines.costs.experiments.statistics import (
    fixed_half_width,
    fixed_p,
    holm,
    paired_variance,
    same_rate_p,
)
from ml_registry_pipelines.registry.errors import InvalidInput, shown

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


@dataclass(frozen=True)
class PairedArm:
    """An arm and the columns that hold its scores and costs."""

    name: str
    score: str
    cost: str | None = None
    failed: str | None = None
    """Column that says whether the arm gave no answer to a prompt: 1 or true."""


@dataclass(frozen=True)
class PairedTest:
    """What is asked of a table of evaluations. The first arm is the control."""

    arms: tuple[PairedArm, ...]
    mode: Mode
    margin: float | None = None
    max_extra_cost: float | None = None
    value_per_point: float | None = None
    error_margin: float | None = None
    """Guardrail: by how much more often than the control a candidate may fail."""
    cluster: str | None = None
    alpha: float = 0.05
    min_sample: int = FEWEST_UNITS
    currency: str = "USD"

    def recorded(self) -> dict[str, Any]:
        """The test as plain values."""
        return {**asdict(self), "mode": self.mode.value}

    def checked(self, columns: Sequence[str]) -> PairedTest:
        """The same.

        Raises:
            InvalidInput: something of it cannot be used on a table of these columns.
        """
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InvalidInput(
                "a table of evaluations is decided on with two arms or more, each with its own name"
            )
        wanted = {
            Mode.CHEAPER: ("margin",),
            Mode.BETTER: ("max_extra_cost",),
            Mode.VALUE: ("value_per_point",),
        }[self.mode]
        for name in wanted:
            value = getattr(self, name)
            if (
                value is None
                or not math.isfinite(value)
                or value < 0
                or (name != "max_extra_cost" and not value)
            ):
                raise InvalidInput(
                    f"mode {self.mode.value} needs `{name}`, a number above 0, not {shown(str(value))}"
                )
        if not 0 < self.alpha < 0.5:
            raise InvalidInput(f"alpha is {self.alpha!r}; it is a number above 0 and below 0.5")
        if self.min_sample < FEWEST_UNITS:
            raise InvalidInput(
                f"min_sample is {self.min_sample}; below {FEWEST_UNITS} no interval is believed"
            )
        for arm in self.arms:
            if arm.cost is None:
                raise InvalidInput(f"arm {shown(arm.name)} has no cost column; every mode compares costs")
            if self.error_margin is not None and arm.failed is None:
                raise InvalidInput(f"arm {shown(arm.name)} has no column of failures for the guardrail")
        used = [c for a in self.arms for c in (a.score, a.cost, a.failed) if c is not None]
        for column in [*used, *filter(None, [self.cluster])]:
            if column not in columns:
                raise InvalidInput(f"the table has no column {shown(column)}; it has {', '.join(columns)}")
        return self


def read_table(path: Path) -> pa.Table:
    """A table of evaluations from a CSV or Parquet file.

    Raises:
        InvalidInput: it cannot be read as one.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path)
    except (pa.ArrowException, OSError) as failure:
        said = (str(failure).splitlines() or ["unreadable"])[0][:200]
        raise InvalidInput(f"{path} cannot be read as a table of evaluations: {said}") from None


def decide_paired(table: pa.Table, test: PairedTest) -> Verdict:
    """Decide on a table with one row per prompt.

    A prompt without the score of one of two arms is left out of their comparison, and counted.

    Raises:
        InvalidInput: the test cannot be used on this table.
    """
    test = test.checked(table.column_names)
    held = {arm.name: _Arm.of(table, arm) for arm in test.arms}
    clusters = None if test.cluster is None else table[test.cluster].to_pylist()
    gates = _gates(held)
    control = held[test.arms[0].name]
    claims = [c for arm in test.arms[1:] for c in _claims(test, held[arm.name], control, clusters)]
    guardrails = [g for arm in test.arms[1:] for g in _guardrails(test, held[arm.name], control, clusters)]
    weakest = {
        arm.name: max(claim.p_value for claim in claims if claim.arm == arm.name) for arm in test.arms[1:]
    }
    levels = holm(weakest, test.alpha)
    judged = [_interval(replace(claim, alpha=levels[claim.arm])) for claim in claims]
    everything = [*judged, *guardrails]
    extras = {"prompts": table.num_rows, "form": "paired"}
    if failed := [gate for gate in gates if not gate.passed]:
        message = "; ".join(gate.says for gate in failed)
        reasons = tuple(gate.name for gate in failed)
        return Verdict(Outcome.INVALID, reasons, message, None, None, gates, everything, extras)
    return replace(_verdict(test, everything), gates=gates, claims=everything, extras=extras)


@dataclass(frozen=True)
class _Arm:
    name: str
    scores: Vector
    costs: Vector
    failures: Vector | None

    @classmethod
    def of(cls, table: pa.Table, arm: PairedArm) -> _Arm:
        scores, costs = _numbers(table, arm.score), _numbers(table, str(arm.cost))
        return cls(arm.name, scores, costs, None if arm.failed is None else _numbers(table, arm.failed))


def _numbers(table: pa.Table, column: str) -> Vector:
    """A column as numbers, NaN where it says nothing."""
    import numpy as np
    import pyarrow as pa

    try:
        found = table[column].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise InvalidInput(f"the column {shown(column)} holds what is no number") from None
    numbers = np.asarray(found, dtype=float)
    if np.isinf(numbers).any():
        raise InvalidInput(f"the column {shown(column)} holds an infinite number")
    return numbers


def _gates(held: Mapping[str, _Arm]) -> list[Gate]:
    import numpy as np

    rows = {name: len(arm.scores) for name, arm in held.items()}
    scored = {name: int(np.isfinite(arm.scores).sum()) for name, arm in held.items()}
    p = same_rate_p(list(scored.values()), list(rows.values()))
    told = ", ".join(f"{name} {scored[name]:,} of {rows[name]:,}" for name in held)
    none = [name for name, count in scored.items() if not count and rows[name]]
    name = "arm_without_labels" if none else "label_rate"
    labels = Gate(
        name, p >= SRM_ALPHA and not none, f"prompts are scored: {told} (p = {p:.3g})", {"scored": scored}
    )
    known = {name: int(np.isfinite(arm.costs).sum()) for name, arm in held.items()}
    least = min((known[name] / rows[name] for name in held if rows[name]), default=1.0)
    told = ", ".join(f"{name} {known[name]:,} of {rows[name]:,}" for name in held)
    says_cost = f"prompts have a cost: {told}"
    return [labels, Gate("price_coverage", least >= LEAST_COVERAGE, says_cost, {"coverage": least})]


def _claims(test: PairedTest, mine: _Arm, control: _Arm, clusters: Sequence[object] | None) -> list[Claim]:
    quality, cost = mine.scores - control.scores, mine.costs - control.costs
    values = (mine.scores, control.scores), (mine.costs, control.costs)
    match test.mode:
        case Mode.CHEAPER:
            wanted = [("quality", quality, True, -(test.margin or 0.0)), ("cost", cost, False, 0.0)]
        case Mode.BETTER:
            wanted = [("quality", quality, True, 0.0), ("cost", cost, False, test.max_extra_cost or 0.0)]
        case _:
            worth = (test.value_per_point or 0.0) * quality - cost
            wanted = [("value", worth, True, 0.0)]
    return [
        _claim(test, mine.name, about, differences, above, threshold, clusters, of)
        for (about, differences, above, threshold), of in zip(wanted, values, strict=False)
    ]


def _guardrails(
    test: PairedTest, mine: _Arm, control: _Arm, clusters: Sequence[object] | None
) -> list[Claim]:
    if test.error_margin is None or mine.failures is None or control.failures is None:
        return []
    of = (mine.failures, control.failures)
    return [
        _claim(test, mine.name, "guardrail:error_rate", of[0] - of[1], False, test.error_margin, clusters, of)
    ]


def _claim(
    test: PairedTest,
    arm: str,
    about: str,
    differences: Vector,
    above: bool,
    threshold: float,
    clusters: Sequence[object] | None,
    of: tuple[Vector, Vector],
) -> Claim:
    import numpy as np

    both = np.isfinite(differences)
    claim = Claim(arm, about, above, threshold, int(both.sum()), test.alpha)
    if not both.any():
        return claim
    groups = None if clusters is None else [group for group, kept in zip(clusters, both, strict=True) if kept]
    variance = paired_variance(differences[both], groups)
    if about.startswith("guardrail:"):
        variance = max(variance, 1 / (claim.units + 1) ** 2)
    values = [None, None] if about == "value" else [float(np.mean(each[both])) for each in of]
    return _interval(
        replace(
            claim,
            estimate=float(np.mean(differences[both])),
            variance=variance,
            candidate_value=values[0],
            control_value=values[1],
        )
    )


def _interval(claim: Claim) -> Claim:
    if claim.estimate is None:
        return claim
    if claim.variance <= 0:
        # Every prompt costs the same more or less: that is known exactly. Of quality it is not believed.
        if claim.about != "cost":
            return claim
        standing = Standing.PROVEN if claim.distance > 0 else Standing.DISPROVEN
        return replace(
            claim,
            lower=claim.estimate,
            upper=claim.estimate,
            standing=standing,
            p_value=0.0 if claim.distance > 0 else 1.0,
        )
    half = fixed_half_width(claim.variance, claim.alpha)
    lower, upper = claim.estimate - half, claim.estimate + half
    proven = lower > claim.threshold if claim.above else upper < claim.threshold
    disproven = upper < claim.threshold if claim.above else lower > claim.threshold
    standing = Standing.PROVEN if proven else Standing.DISPROVEN if disproven else Standing.OPEN
    return replace(
        claim, lower=lower, upper=upper, standing=standing, p_value=fixed_p(claim.distance, claim.variance)
    )


def _verdict(test: PairedTest, claims: Sequence[Claim]) -> Verdict:
    by_arm = {arm.name: [c for c in claims if c.arm == arm.name] for arm in test.arms[1:]}
    enough = {n: all(c.units >= test.min_sample for c in held) for n, held in by_arm.items()}
    able = [n for n, held in by_arm.items() if enough[n] and all(c.standing is Standing.PROVEN for c in held)]
    if able:
        best = min(able, key=lambda n: (_rank(test, by_arm[n]), n))
        proof = "; ".join(says(claim) for claim in by_arm[best])
        return Verdict(Outcome.WINNER, (test.mode.value,), f"{best} wins: {proof}", best)
    failed = {
        n: [c for c in held if c.standing is Standing.DISPROVEN] for n, held in by_arm.items() if enough[n]
    }
    if len(failed) == len(by_arm) and all(failed.values()):
        reasons = tuple(f"{n}:{c.about}" for n, held in failed.items() for c in held)
        return Verdict(
            Outcome.KEEP_CONTROL, reasons, "; ".join(says(c) for held in failed.values() for c in held)
        )
    unsure = [c for held in by_arm.values() for c in held if c.standing is not Standing.PROVEN]
    needed = [_prompts_needed(test, claim) for claim in unsure]
    known = [n for n in needed if n is not None]
    short = [f"{n}:sample" for n, whether in enough.items() if not whether]
    told = [says(claim) for claim in unsure]
    told += [
        f"{n} has fewer than {test.min_sample:,} prompts with both scores"
        for n, ok in enough.items()
        if not ok
    ]
    more = max(
        [*known, *(test.min_sample - min(c.units for c in by_arm[n]) for n, ok in enough.items() if not ok)],
        default=0,
    )
    if None in needed:
        more = 0
    message = "; ".join(told) + (f"; about {more:,} more prompts would decide it" if more > 0 else "")
    reasons = (*(f"{c.arm}:{c.about}" for c in unsure), *short)
    return Verdict(Outcome.INCONCLUSIVE, reasons, message, None, more if more > 0 else None)


def _rank(test: PairedTest, claims: Sequence[Claim]) -> float:
    """The lower the better, among candidates that would win: cost, quality or value."""
    held = {claim.about: claim.estimate or 0.0 for claim in claims}
    match test.mode:
        case Mode.CHEAPER:
            return held["cost"]
        case Mode.BETTER:
            return -held["quality"]
        case _:
            return -held["value"]


def _prompts_needed(test: PairedTest, claim: Claim) -> int | None:
    """Prompts, beside those there are, at which the interval would leave the threshold out."""
    if claim.estimate is None or not claim.distance:
        return None
    if claim.variance <= 0 or claim.standing is Standing.DISPROVEN:
        return max(0, test.min_sample - claim.units)
    half = fixed_half_width(claim.variance, claim.alpha)
    return max(0, math.ceil(claim.units * (half / abs(claim.distance)) ** 2) - claim.units)


def told_arms(table: pa.Table, test: PairedTest) -> list[dict[str, Any]]:
    """Each arm's prompts, scores and costs, for the record. Costs are added up exactly, as they are written."""
    from decimal import Decimal

    found = []
    for arm in test.arms:
        costs = [Decimal(str(cost)) for cost in table[str(arm.cost)].to_pylist() if cost is not None]
        scores = table[arm.score]
        found.append(
            {
                "arm": arm.name,
                "units": table.num_rows,
                "labelled": table.num_rows - scores.null_count,
                "priced": len(costs),
                "cost": sum(costs, Decimal(0)),
            }
        )
    return found
