"""Whether an experiment's figures may be believed at all: what makes a look INVALID.

Each gate is a pure function of what was seen. A gate that fails says so whatever the estimates are:
a difference between arms that were not filled, labelled or priced alike is no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ml_registry_pipelines.costs.experiments.declaring import Declaration
from ml_registry_pipelines.costs.experiments.observing import ArmSeen, Seen
from ml_registry_pipelines.costs.experiments.statistics import (
    same_rate_p,
    sample_ratio_p,
    sequential_sample_ratio_p,
)

SRM_ALPHA = 0.001
"""The usual level for sample-ratio mismatch: so low that it is hardly ever chance."""
LEAST_COVERAGE = 0.99
MOST_CROSSED = 0.01
"""Share of units in several arms above which leaving them out may leave out one kind of unit."""
MOST_FOREIGN = 0.05
"""Share of an arm's requests that another arm's model answered, above which it did not run what it says."""
MOST_SKEWED = 0.01


@dataclass(frozen=True)
class Gate:
    """One gate at one look. `figures` are what it compared."""

    name: str
    passed: bool
    says: str
    figures: dict[str, Any] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        return {"gate": self.name, "passed": self.passed, "says": self.says, **self.figures}


def gates(declaration: Declaration, seen: Seen) -> list[Gate]:
    """All gates, whether they passed or not."""
    arms = [seen.arms[arm.name] for arm in declaration.arms]
    return [
        *_sample_ratio(declaration, arms),
        _labels(arms),
        _declared(seen),
        _crossed(seen, sum(arm.units for arm in arms)),
        _coverage(arms),
        _catalogue(declaration, seen, arms),
        *_foreign(arms),
        _skew(arms),
    ]


def _sample_ratio(declaration: Declaration, arms: list[ArmSeen]) -> Iterator[Gate]:
    counts = [arm.units for arm in arms]
    shares = [arm.share for arm in declaration.arms]
    p, sequential = sample_ratio_p(counts, shares), sequential_sample_ratio_p(counts, shares)
    passed = min(p, sequential) >= SRM_ALPHA
    empty = [arm.name for arm in arms if not arm.units]
    told = ", ".join(f"{arm.name} {arm.units:,}" for arm in arms)
    name = "sample_ratio" if passed or not empty else "empty_arm"
    says = f"units fell to the arms as declared ({told}; p = {p:.3g})"
    if not passed:
        says = (
            f"arm {empty[0]} got no unit ({told}); see what assigns, or what logs it"
            if empty
            else f"units did not fall to the arms in the declared shares ({told}; p = {p:.3g}); "
            "see what assigns, and what is lost before it is logged"
        )
    yield Gate(name, passed, says, {"units": counts, "p": p, "sequential_p": sequential})


def _labels(arms: list[ArmSeen]) -> Gate:
    p = same_rate_p([arm.labelled for arm in arms], [arm.units for arm in arms])
    passed = p >= SRM_ALPHA
    told = ", ".join(f"{arm.name} {_share(arm.labelled, arm.units)}" for arm in arms)
    without = [arm.name for arm in arms if arm.units and not arm.labelled]
    name = "label_rate" if passed or not without else "arm_without_labels"
    says = f"units are labelled alike in all arms ({told}; p = {p:.3g})"
    if not passed:
        says = (
            f"arm {without[0]} has no label ({told}); see what labels it"
            if without
            else f"units are labelled differently by arm ({told}; p = {p:.3g}): labels are not missing at random"
        )
    return Gate(name, passed, says, {"labelled": [arm.labelled for arm in arms], "p": p})


def _declared(seen: Seen) -> Gate:
    told = ", ".join(f"{arm} ({units:,} units)" for arm, units in seen.undeclared.items())
    says = f"units are assigned to arms that are not declared: {told}" if told else "every arm is declared"
    return Gate("undeclared_arm", not told, says, {"undeclared": dict(seen.undeclared)})


def _crossed(seen: Seen, units: int) -> Gate:
    share = seen.crossed / (units + seen.crossed) if seen.crossed else 0.0
    says = f"{seen.crossed:,} units were assigned to several arms ({share:.2%}) and are left out"
    listed = {"crossed": seen.crossed, "share": share, "units": list(seen.crossed_units)}
    return Gate("crossed_units", share <= MOST_CROSSED, says, listed)


def _coverage(arms: list[ArmSeen]) -> Gate:
    least = min((arm.coverage for arm in arms if arm.coverage is not None), default=None)
    told = ", ".join(f"{arm.name} {_share(arm.priced, arm.billable)}" for arm in arms)
    passed = least is None or least >= LEAST_COVERAGE
    says = f"billable requests are priced: {told}"
    if not passed:
        says += f"; under {LEAST_COVERAGE:.0%} of an arm, its cost is not known: see `mlreg prices missing`"
    return Gate("price_coverage", passed, says, {"coverage": [arm.coverage for arm in arms]})


def _catalogue(declaration: Declaration, seen: Seen, arms: list[ArmSeen]) -> Gate:
    used = {arm.name: seen.catalogues.get(arm.name, ()) for arm in arms if arm.priced}
    told = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in used.items())
    figures = {"catalogues": {n: list(f) for n, f in used.items()}, "withdrawn": list(seen.withdrawn)}
    if seen.withdrawn:
        says = (
            f"{len(seen.withdrawn)} of the prices that were applied are no longer in force; price the days anew "
            "(`mlreg prices reprice`), so that all arms have the prices of one catalogue"
        )
        return Gate("price_catalogue", False, says, figures)
    same = len(set(used.values())) < 2 or declaration.different_catalogues
    says = f"arms are priced from the same catalogues ({told or 'nothing is priced'})"
    if not same:
        says = (
            f"arms are priced from different catalogues ({told}); a contract against a list price compares prices and "
            "not models, unless the experiment declares `different_catalogues`"
        )
    elif len(set(used.values())) > 1:
        says = f"arms are priced from different catalogues ({told}), as declared"
    return Gate("price_catalogue", same, says, figures)


def _foreign(arms: list[ArmSeen]) -> Iterator[Gate]:
    shares = {arm.name: arm.foreign_requests / arm.requests for arm in arms if arm.requests}
    worst = max(shares, key=lambda name: shares[name], default=None)
    if worst is None:
        return
    says = f"at most {shares[worst]:.1%} of an arm's requests were answered by another arm's model ({worst})"
    yield Gate("foreign_model", shares[worst] <= MOST_FOREIGN, says, {"shares": shares})


def _skew(arms: list[ArmSeen]) -> Gate:
    skewed = sum(arm.skewed_labels for arm in arms)
    share = skewed / max(1, skewed + sum(arm.labels for arm in arms))
    says = f"{skewed:,} labels ({share:.2%}) were observed before the request that they are about, and are left out"
    if share > MOST_SKEWED:
        says += "; the clocks of requests and labels differ"
    return Gate("clock_skew", share <= MOST_SKEWED, says, {"skewed": skewed, "share": share})


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"
