"""Spreading an amount so that its parts sum to it to the last digit: the method of the largest remainder.

Every part gets the whole units (10^-12 of the currency) of its exact share; the units that are left go one
by one to the parts that lost most by that, and where they lost as much, in the order of their names.
(Hamilton's method; see M. Balinski and H. P. Young, Fair Representation, 1982.)
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from ml_registry_pipelines.costs.bills.lines import EXACT
from ml_registry_pipelines.errors import MlregError

PLACES = 12


class NothingToShareBy(MlregError):
    """All weights are zero, or there are none."""


def spread(total: Decimal, weights: Mapping[str, Decimal | int]) -> dict[str, Decimal]:
    """The part of each name, by its weight; parts sum to `total` exactly.

    Args:
        total: at most twelve decimals; a negative one, a credit, is spread the same way.
        weights: none negative; one of them above 0.

    Raises:
        NothingToShareBy: no weight is above 0.
        ValueError: a weight is negative or not finite, or `total` has more decimals.
    """
    units = total.scaleb(PLACES, context=EXACT)
    if units != units.to_integral_value():
        raise ValueError(f"{total} has more than {PLACES} decimals")
    if wrong := [name for name, weight in weights.items() if not Decimal(weight).is_finite() or weight < 0]:
        raise ValueError(f"the weight of {wrong[0]!r} is {weights[wrong[0]]}; it has to be 0 or more")
    exact = {name: Fraction(weight) for name, weight in weights.items()}
    whole = sum(exact.values(), Fraction(0))
    if not whole:
        raise NothingToShareBy("there is nothing to share by: every weight is 0")
    count, sign = abs(int(units)), -1 if units < 0 else 1
    quotas = {name: count * share / whole for name, share in exact.items()}
    parts = {name: int(quota) for name, quota in quotas.items()}
    left = count - sum(parts.values())
    by_loss = sorted(
        (name for name in quotas if exact[name]), key=lambda name: (parts[name] - quotas[name], name)
    )
    for name in by_loss[:left]:
        parts[name] += 1
    return {name: Decimal(sign * part).scaleb(-PLACES, context=EXACT) for name, part in parts.items()}
