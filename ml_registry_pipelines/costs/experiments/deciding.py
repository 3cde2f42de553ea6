"""From what was seen to what is decided: WINNER, KEEP_CONTROL, INCONCLUSIVE or INVALID, and nothing else.

Pure functions. A candidate has to prove every claim of its mode, each by an interval that leaves the
claim's threshold out, and that it breaks no guardrail. Two-sided confidence sequences at level alpha
are used for that, so that a look at every hour, and a stop at any time, keep the error rate.

Claims of one candidate need no correction, because all of them have to hold; candidates are corrected
for each other by Holm; guardrails are not corrected, because all of them have to pass (Schultzberg,
Ankargren, Frånberg, arXiv 2402.11609).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias

from ml_registry_pipelines.costs.experiments.declaring import (
    FEWEST_UNITS,
    REQUEST_METRICS,
    Declaration,
    Mode,
)
from ml_registry_pipelines.costs.experiments.gates import Gate, gates
from ml_registry_pipelines.costs.experiments.observing import ArmSeen, Seen, columns_of
from ml_registry_pipelines.costs.experiments.statistics import (
    Estimate,
    adjusted,
    always_valid_p,
    half_width,
    holm,
    ratio,
    tuning,
    units_to_decide,
    variance_of,
)

_Estimates: TypeAlias = Mapping[str, Mapping[str, Estimate]]
"""By metric and arm."""


class Outcome(Enum):
    """All that a look can come to."""

    WINNER = "WINNER"
    KEEP_CONTROL = "KEEP_CONTROL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


class Standing(Enum):
    """What an interval says of a claim."""

    PROVEN = "proven"
    DISPROVEN = "disproven"
    OPEN = "open"
    UNKNOWN = "unknown"
    """There is no estimate, or no spread to judge it by."""


@dataclass(frozen=True)
class Claim:
    """One claim about one candidate: a difference to the control, and on which side of a threshold it is to be.

    `estimate`, `lower`, `upper` and `threshold` are in the units of the metric, candidate less control.
    """

    arm: str
    about: str
    above: bool
    threshold: float
    units: int
    alpha: float
    estimate: float | None = None
    variance: float = 0.0
    lower: float | None = None
    upper: float | None = None
    p_value: float = 1.0
    standing: Standing = Standing.UNKNOWN
    candidate_value: float | None = None
    control_value: float | None = None
    fewest: int = 0
    """Units with a value in the arm that has fewer of them."""

    @property
    def distance(self) -> float:
        """How far the estimate is on the claimed side."""
        assert self.estimate is not None
        return self.estimate - self.threshold if self.above else self.threshold - self.estimate

    def recorded(self) -> dict[str, Any]:
        held = {name: getattr(self, name) for name in _RECORDED}
        return {**held, "wanted": "above" if self.above else "below", "standing": self.standing.value}


_RECORDED = (
    *("arm", "about", "threshold", "units", "alpha", "estimate", "lower", "upper", "p_value"),
    *("candidate_value", "control_value"),
)


@dataclass(frozen=True)
class Verdict:
    """What a look came to. `units_needed` is per arm; `ready` whether time and sample allow a winner."""

    outcome: Outcome
    reasons: tuple[str, ...]
    message: str
    winner: str | None = None
    units_needed: int | None = None
    gates: Sequence[Gate] = ()
    claims: Sequence[Claim] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


def decide(declaration: Declaration, seen: Seen, *, started_at: datetime) -> Verdict:
    """Decide on one look.

    Args:
        started_at: from when on units were assigned.
    """
    checked = gates(declaration, seen)
    rho = tuning(declaration.alpha, 2 * declaration.sample)
    estimates = _estimates(declaration, seen)
    claims, guardrails = _claims(declaration, seen, estimates, rho)
    judged = _judged(declaration, claims, rho)
    everything = [*judged, *guardrails]
    held = _Looked(declaration, seen, judged, guardrails, rho, seen.until - started_at)
    extras = {
        "rho": rho,
        "planned_sample": declaration.sample,
        "net_benefit": _net_benefit(declaration, estimates),
        "unmatched_labels": seen.unmatched_labels,
        "beside": [claim.recorded() for claim in _beside(declaration, seen, estimates, rho)],
    }
    if failed := [gate for gate in checked if not gate.passed]:
        message = "; ".join(gate.says for gate in failed)
        reasons = tuple(gate.name for gate in failed)
        return Verdict(Outcome.INVALID, reasons, message, None, None, checked, everything, extras)
    found = _spreadless(held) or _winner(held) or _keep(held) or _inconclusive(held)
    return replace(found, gates=checked, claims=everything, extras=extras)


@dataclass(frozen=True)
class _Looked:
    """A look that may be believed, with its claims."""

    declaration: Declaration
    seen: Seen
    claims: Sequence[Claim]
    guardrails: Sequence[Claim]
    rho: float
    ran: timedelta

    def of(self, arm: str) -> list[Claim]:
        return [claim for claim in self.claims if claim.arm == arm]

    def guarding(self, arm: str) -> list[Claim]:
        return [claim for claim in self.guardrails if claim.arm == arm]

    def labelled(self, arm: str) -> int:
        """Labelled units of the candidate or the control, whichever has fewer."""
        return min(self.seen.arms[arm].labelled, self.seen.arms[self.declaration.control.name].labelled)

    @property
    def long_enough(self) -> bool:
        return self.ran >= timedelta(days=self.declaration.min_days)


# -- estimates and claims -------------------------------------------------------------------------


def _claims(
    declaration: Declaration, seen: Seen, estimates: _Estimates, rho: float
) -> tuple[list[Claim], list[Claim]]:
    """The claims of every candidate, at the experiment's alpha, and those about guardrails."""
    claims: list[Claim] = []
    guardrails: list[Claim] = []
    for arm in declaration.candidates:
        pair = _Pair(declaration, seen, estimates, arm.name, rho)
        sign = -1.0 if declaration.quality.lower_is_better else 1.0
        match declaration.mode:
            case Mode.CHEAPER:
                margin = declaration.margin or 0.0
                claims.append(pair.claim("quality", above=sign > 0, threshold=-sign * margin))
                kept = 1 - declaration.min_saving
                claims.append(pair.claim("cost", above=False, threshold=0.0, of_control=kept))
            case Mode.BETTER:
                claims.append(pair.claim("quality", above=sign > 0, threshold=0.0))
                claims.append(pair.claim("cost", above=False, threshold=declaration.max_extra_cost or 0.0))
            case Mode.VALUE:
                claims.append(pair.value(declaration.value_per_point or 0.0))
        for guardrail in declaration.guardrails:
            threshold = guardrail.margin if guardrail.lower_is_better else -guardrail.margin
            about = f"guardrail:{guardrail.metric}"
            above = not guardrail.lower_is_better
            guardrails.append(pair.claim(about, above=above, threshold=threshold))
    return claims, guardrails


def _beside(declaration: Declaration, seen: Seen, estimates: _Estimates, rho: float) -> list[Claim]:
    """Where value alone is claimed, what quality and cost say by themselves; nothing is decided by it."""
    if declaration.mode is not Mode.VALUE:
        return []
    pairs = [_Pair(declaration, seen, estimates, arm.name, rho) for arm in declaration.candidates]
    return [
        pair.claim(about, above=about == "quality", threshold=0.0)
        for pair in pairs
        for about in ("quality", "cost")
    ]


def _estimates(declaration: Declaration, seen: Seen) -> dict[str, dict[str, Estimate]]:
    """For each metric the estimate of each arm that has one, adjusted where there is a period before."""
    found: dict[str, dict[str, Estimate]] = {}
    for metric, (above, below) in columns_of(declaration).items():
        made = {arm.name: ratio(seen.arms[arm.name].moments, above, below) for arm in declaration.arms}
        held = {name: estimate for name, estimate in made.items() if estimate is not None}
        if declaration.pre_period_days and metric in ("quality", "cost") and held:
            pairs = [(seen.arms[name].moments, estimate) for name, estimate in held.items()]
            held = dict(zip(held, adjusted(pairs, f"{metric}_x"), strict=True))
        found[metric] = held
    return found


@dataclass(frozen=True)
class _Pair:
    """A candidate and the control."""

    declaration: Declaration
    seen: Seen
    estimates: _Estimates
    arm: str
    rho: float

    @property
    def control(self) -> str:
        return self.declaration.control.name

    def claim(self, about: str, *, above: bool, threshold: float, of_control: float = 1.0) -> Claim:
        """A claim about one metric: candidate less so much of the control."""
        held = self.estimates[about]
        claim = self._plain([about], about, above=above, threshold=threshold)
        if self.arm not in held or self.control not in held:
            return claim
        mine, other = held[self.arm], held[self.control]
        variance = self._variance({about: 1.0}, {about: of_control})
        claim = replace(
            claim,
            estimate=mine.value - of_control * other.value,
            variance=variance,
            candidate_value=mine.value,
            control_value=other.value,
        )
        return _interval(claim, self.rho)

    def value(self, worth: float) -> Claim:
        """The claim that what quality is worth, less cost, is more than the control's (net monetary benefit).

        Stinnett, Mullahy: "Net Health Benefits", Medical Decision Making 1998.
        """
        claim = self._plain(["quality", "cost"], "value", above=True, threshold=0.0)
        quality, cost = self.estimates["quality"], self.estimates["cost"]
        if any(name not in held for name in (self.arm, self.control) for held in (quality, cost)):
            return claim
        weights = {"quality": worth, "cost": -1.0}
        values = [worth * quality[name].value - cost[name].value for name in (self.arm, self.control)]
        claim = replace(
            claim,
            estimate=values[0] - values[1],
            variance=self._variance(weights, weights),
            candidate_value=values[0],
            control_value=values[1],
        )
        return _interval(claim, self.rho)

    def _variance(self, mine: Mapping[str, float], other: Mapping[str, float]) -> float:
        """Variance of the difference, which is 0 where one of the arms shows no spread at all."""
        total = 0.0
        for name, weights in ((self.arm, mine), (self.control, other)):
            terms = [(weight, self.estimates[metric][name]) for metric, weight in weights.items()]
            found = max(variance_of(self.seen.arms[name].moments, terms), self._least(name, weights))
            if not found:
                return 0.0
            total += found
        return total

    def _least(self, name: str, weights: Mapping[str, float]) -> float:
        """The least variance of a guardrail that is a share: as if one unit more had failed than were seen.

        So a failure that was never seen is not taken for one that cannot be. A metric of the outcomes
        counts as a share where all its labels are 0, or all are 1.
        """
        (about, *others) = weights
        if others or not about.startswith("guardrail:"):
            return 0.0
        value = self.estimates[about][name].value
        if about.removeprefix("guardrail:") not in REQUEST_METRICS and value not in (0.0, 1.0):
            return 0.0
        return 1 / (self.seen.arms[name].based.get(about, 0) + 1) ** 2

    def _plain(self, metrics: Sequence[str], about: str, *, above: bool, threshold: float) -> Claim:
        """The claim before anything is estimated; its units have a value of all the metrics."""
        counts = [
            min(self.seen.arms[name].based.get(metric, 0) for metric in metrics)
            for name in (self.arm, self.control)
        ]
        alpha = self.declaration.alpha
        return Claim(self.arm, about, above, threshold, sum(counts), alpha, fewest=min(counts))


def _interval(claim: Claim, rho: float) -> Claim:
    """The claim with its interval, p-value and standing."""
    if claim.variance <= 0 or claim.fewest < FEWEST_UNITS or claim.estimate is None:
        return claim
    half = half_width(claim.variance, claim.units, claim.alpha, rho)
    lower, upper = claim.estimate - half, claim.estimate + half
    proven = lower > claim.threshold if claim.above else upper < claim.threshold
    disproven = upper < claim.threshold if claim.above else lower > claim.threshold
    standing = Standing.PROVEN if proven else Standing.DISPROVEN if disproven else Standing.OPEN
    p_value = always_valid_p(claim.distance, claim.variance, claim.units, rho)
    return replace(claim, lower=lower, upper=upper, standing=standing, p_value=p_value)


def _judged(declaration: Declaration, claims: Sequence[Claim], rho: float) -> list[Claim]:
    """The claims at the alpha that Holm gives to their candidate, whose p-value is that of its weakest claim."""
    weakest = {
        arm.name: max((c.p_value for c in claims if c.arm == arm.name), default=1.0)
        for arm in declaration.candidates
    }
    levels = holm(weakest, declaration.alpha)
    return [_interval(replace(claim, alpha=levels[claim.arm]), rho) for claim in claims]


def _net_benefit(declaration: Declaration, estimates: _Estimates) -> dict[str, Any]:
    """What a point of quality costs more at each candidate, and at which worth of it that one is ahead."""
    found: dict[str, Any] = {}
    quality, cost, control = estimates["quality"], estimates["cost"], declaration.control.name
    for arm in declaration.candidates:
        if any(name not in held for name in (arm.name, control) for held in (quality, cost)):
            continue
        better = quality[arm.name].value - quality[control].value
        better = -better if declaration.quality.lower_is_better else better
        dearer = cost[arm.name].value - cost[control].value
        found[arm.name] = {
            "quality_difference": better,
            "cost_difference": dearer,
            "cost_per_point": dearer / better if better else None,
            "ahead": _ahead(better, dearer),
        }
    return found


def _ahead(better: float, dearer: float) -> str:
    """From the point estimates: at which worth of a point the candidate is ahead."""
    if better >= 0 and dearer <= 0:
        return "at any worth of a point"
    if better <= 0 and dearer >= 0:
        return "at none"
    return f"if a point is worth {'more' if better > 0 else 'less'} than {dearer / better:.6g}"


# -- outcomes -------------------------------------------------------------------------------------


def _spreadless(look: _Looked) -> Verdict | None:
    """INVALID where units enough were seen and an arm shows no spread: then no interval can be made."""
    for claim in look.claims:
        if (
            claim.standing is Standing.UNKNOWN
            and claim.estimate is not None
            and not claim.variance
            and look.labelled(claim.arm) >= look.declaration.min_sample
        ):
            says = (
                f"the {claim.about} of every unit of {claim.arm} or {look.declaration.control.name} is the same, so "
                "there is no spread that an interval could be made of; see whether it is measured"
            )
            return Verdict(Outcome.INVALID, ("zero_variance",), says)
    return None


def _winner(look: _Looked) -> Verdict | None:
    """WINNER where a candidate has proven all, passed all guardrails, and time and sample allow it."""
    able = [
        arm.name
        for arm in look.declaration.candidates
        if look.long_enough
        and look.labelled(arm.name) >= look.declaration.min_sample
        and all(c.standing is Standing.PROVEN for c in [*look.of(arm.name), *look.guarding(arm.name)])
    ]
    if not able:
        return None
    best = min(able, key=lambda name: (_rank(look, name), name))
    told = "; ".join(says(claim) for claim in look.of(best))
    others = (
        f" ({', '.join(name for name in able if name != best)} would win as well)" if len(able) > 1 else ""
    )
    return Verdict(Outcome.WINNER, (look.declaration.mode.value,), f"{best} wins{others}: {told}", best)


def _rank(look: _Looked, arm: str) -> float:
    """The lower the better: cost, or the claimed difference."""
    held = {claim.about: claim for claim in look.of(arm)}
    match look.declaration.mode:
        case Mode.CHEAPER:
            return held["cost"].candidate_value or 0.0
        case Mode.BETTER:
            return -held["quality"].distance
        case Mode.VALUE:
            return -held["value"].distance


def _keep(look: _Looked) -> Verdict | None:
    """KEEP_CONTROL where every candidate is shown to fail: a guardrail, or a claim of the mode."""
    reasons: list[str] = []
    told: list[str] = []
    for arm in look.declaration.candidates:
        failed = [
            c for c in [*look.guarding(arm.name), *look.of(arm.name)] if c.standing is Standing.DISPROVEN
        ]
        if not failed:
            return None
        reasons += [f"{arm.name}:{claim.about}" for claim in failed]
        told += [says(claim) for claim in failed]
    return Verdict(Outcome.KEEP_CONTROL, tuple(reasons), "; ".join(told))


def _inconclusive(look: _Looked) -> Verdict:
    """INCONCLUSIVE, with what is missing and how many units more would do."""
    reasons: list[str] = []
    told: list[str] = []
    needed: list[int | None] = []
    for arm in look.declaration.candidates:
        short = look.declaration.min_sample - look.labelled(arm.name)
        if short > 0:
            reasons.append(f"{arm.name}:sample")
            told.append(
                f"{arm.name} and {look.declaration.control.name} have {look.labelled(arm.name):,} labelled units at "
                f"least, of {look.declaration.min_sample:,}"
            )
            needed.append(_units_for(look, arm.name, short))
        for claim in [*look.of(arm.name), *look.guarding(arm.name)]:
            if claim.standing in {Standing.OPEN, Standing.UNKNOWN}:
                reasons.append(f"{arm.name}:{claim.about}")
                told.append(says(claim))
                needed.append(_units_to_decide(look, claim))
    if not look.long_enough:
        reasons.append("days")
        ran = look.ran / timedelta(days=1)
        told.append(f"it has run for {ran:.1f} of {look.declaration.min_days:g} days")
    if not reasons:
        # Some candidates failed and others wait for a correction at a lower alpha.
        reasons.append("candidates")
        told.append("no candidate has proven all that it has to, and not every one has failed")
    known = [units for units in needed if units is not None]
    units = None if None in needed or not known else max(known)
    more = f"; about {units:,} more units per arm would decide it" if units else ""
    if None in needed:
        more = "; no sample of a sensible size would decide it if the estimates stay as they are"
    return Verdict(Outcome.INCONCLUSIVE, tuple(reasons), "; ".join(told) + more, None, units)


def _units_for(look: _Looked, arm: str, labelled: int) -> int:
    """Units per arm that bring so many labelled ones, at the rate of now; at first, all are thought to be."""
    seen = min((look.seen.arms[arm], look.seen.arms[look.declaration.control.name]), key=_label_rate)
    rate = _label_rate(seen)
    return math.ceil(labelled / rate) if rate else labelled


def _label_rate(arm: ArmSeen) -> float:
    return arm.labelled / arm.units if arm.units else 0.0


def _units_to_decide(look: _Looked, claim: Claim) -> int | None:
    """Units per arm, beside those there are, at which a claim would be settled if its estimate stays."""
    planned = 2 * look.declaration.sample
    if claim.estimate is None or not claim.variance:
        missing = max(0, planned - claim.units)
    else:
        units = max(claim.units, 2)
        wanted = units_to_decide(claim.distance, claim.variance, units, claim.alpha, look.rho)
        if wanted is None:
            return None
        missing = max(wanted - claim.units, 2 * (FEWEST_UNITS - claim.fewest), 0)
    per_arm = math.ceil(missing / 2)
    return _units_for(look, claim.arm, per_arm) if claim.about in ("quality", "value") else per_arm


def says(claim: Claim) -> str:
    """A claim in words."""
    if claim.estimate is None:
        return f"{claim.arm}: {claim.about} has no value yet"
    wanted = f"to be {'above' if claim.above else 'below'} {claim.threshold:.6g}"
    if claim.lower is None or claim.upper is None:
        few = claim.fewest < FEWEST_UNITS
        why = f"an arm has only {claim.fewest:,} units with a value" if few else "no spread"
        return f"{claim.arm}: {claim.about} differs by {claim.estimate:.6g}, {wanted}; no interval ({why})"
    level = f"{100 * (1 - claim.alpha):.4g} %"
    return (
        f"{claim.arm}: {claim.about} differs by {claim.estimate:.6g} [{claim.lower:.6g}, {claim.upper:.6g}] "
        f"at {level}, {wanted}: {claim.standing.value}"
    )
