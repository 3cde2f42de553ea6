"""False wins under 30 looks, and power at the planned sample, of experiments that are looked at all the time.

Simulates whole experiments: units come in equal steps, every look decides by the rules that decide
for real (statistics.py: tuning, half_width, planned_units), and an experiment counts as a win if any
look says so. Beside it, what a look-by-look z-test does with the same data.

    python -m benchmarks.experiments
    python -m benchmarks.experiments --runs 20000

- cheaper, no true saving or a true loss of quality of exactly the margin: a win is false.
- cheaper, equal quality and a true saving: a win is right, and has to come with the planned power.
- better, no true difference: a win is false. Three candidates: any win is false.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine, peak_mb
from ml_registry_pipelines.costs.experiments.statistics import half_width, holm, planned_units, tuning

Numbers = NDArray[np.float64]
ALPHA, POWER = 0.05, 0.8
RATE, MARGIN = 0.8, 0.02
COST, COST_SPREAD = 1.0, 1.5
"""Cost of a unit in the control: lognormal, mean 1, so that few units cost most."""
SAVING = 0.3
AT_ONCE = 500


@dataclass(frozen=True)
class World:
    """What is true: quality and cost of every candidate, the control first."""

    name: str
    quality: tuple[float, ...]
    cost: tuple[float, ...]
    better: bool = False
    """Whether quality has to be better; otherwise not worse by the margin, and cost lower."""


WORLDS = (
    World("cheaper: worse by the margin", (RATE, RATE - MARGIN), (COST, COST * (1 - SAVING))),
    World("cheaper: as good, no saving", (RATE, RATE), (COST, COST)),
    World("better: no difference", (RATE, RATE), (COST, COST), better=True),
    World("better: three candidates, no difference", (RATE,) * 4, (COST,) * 4, better=True),
    World("cheaper: as good, saves 30 %", (RATE, RATE), (COST, COST * (1 - SAVING))),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4000, help="experiments per world")
    parser.add_argument("--looks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=4)
    given = parser.parse_args()
    print(describe_machine())
    deviation = math.sqrt(RATE * (1 - RATE))
    planned = planned_units(deviation, MARGIN, alpha=ALPHA, power=POWER)
    print(
        f"{given.runs:,} experiments of {planned // 2:,} units per arm (planned for a margin of {MARGIN:g} at a "
        f"rate of {RATE:g}, power {POWER:g}), {given.looks} looks, alpha {ALPHA:g}"
    )
    print(f"{'':42}{'confidence sequence':>20}  {'z-test at every look':>20}  {'wanted':>12}")
    failed = False
    for number, world in enumerate(WORLDS):
        started = time.perf_counter()
        false = number < len(WORLDS) - 1
        wins = {
            name: simulate(world, rule, given.runs, given.looks, planned, np.random.default_rng(given.seed))
            for name, rule in (("cs", _sequence(planned)), ("z", _z_test))
        }
        wanted = f"<= {ALPHA:.0%}" if false else f">= {POWER:.0%}"
        noise = 3 * math.sqrt(ALPHA * (1 - ALPHA) / given.runs)
        failed |= wins["cs"] > ALPHA + noise if false else wins["cs"] < POWER - noise
        print(
            f"{world.name:42}{wins['cs']:>20.2%}  {wins['z']:>20.2%}  {wanted:>12}"
            f"  {time.perf_counter() - started:.1f} s"
        )
    print(f"peak {peak_mb():.0f} MB")
    if failed:
        raise SystemExit("a rate is not what is promised")


def simulate(
    world: World,
    half: Callable[[Numbers, float], Numbers],
    runs: int,
    looks: int,
    planned: int,
    random: np.random.Generator,
) -> float:
    """The share of experiments in which any candidate wins at any look."""
    won = 0
    for first in range(0, runs, AT_ONCE):
        won += int(_some(world, half, min(AT_ONCE, runs - first), looks, planned, random).sum())
    return won / runs


def _some(
    world: World,
    half: Callable[[Numbers, float], Numbers],
    runs: int,
    looks: int,
    planned: int,
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """Whether each of some experiments is won. Only sums per look are drawn and kept, not single units.

    Successes of a step are binomial. Costs of a step are the sum of its units' lognormal costs, drawn
    unit by unit, for one experiment after the other.
    """
    step = planned // 2 // looks
    counts = step * np.arange(1, looks + 1)
    spread = math.sqrt(math.log(1 + COST_SPREAD**2))
    arms = []
    for rate, cost in zip(world.quality, world.cost, strict=True):
        successes = np.cumsum(random.binomial(step, rate, (runs, looks)), axis=1)
        totals, squares = np.empty((runs, looks)), np.empty((runs, looks))
        for run in range(runs):
            costs = random.lognormal(math.log(cost) - spread**2 / 2, spread, (looks, step))
            totals[run], squares[run] = costs.sum(axis=1), (costs**2).sum(axis=1)
        mean = successes / counts
        average = np.cumsum(totals, axis=1) / counts
        cost_variance = (np.cumsum(squares, axis=1) / counts - average**2) / (counts - 1)
        arms.append((mean, mean * (1 - mean) / (counts - 1), average, cost_variance))
    control, *candidates = arms
    won = np.zeros(runs, dtype=bool)
    claims = []
    for arm in candidates:
        quality, quality_variance = arm[0] - control[0], arm[1] + control[1]
        dearer, cost_variance = arm[2] - control[2], arm[3] + control[3]
        claims.append((quality, quality_variance, dearer, cost_variance))
    # All candidates at the level that Holm gives to the first of them: any win begins with that one.
    alpha = holm({str(n): 0.0 for n in range(len(candidates))}, ALPHA)["0"]
    for quality, quality_variance, dearer, cost_variance in claims:
        above = quality - (0.0 if world.better else -MARGIN)
        wins = above > half(quality_variance, alpha)
        if not world.better:
            wins &= -dearer > half(cost_variance, alpha)
        # As declared: nobody wins before a thousand units per arm.
        won |= (wins & (counts >= 1000)).any(axis=1)
    return won


def _sequence(planned: int) -> Callable[[Numbers, float], Numbers]:
    rho = tuning(ALPHA, planned)

    def half(variance: Numbers, alpha: float) -> Numbers:
        looks = variance.shape[1]
        units = 2 * (planned // 2 // looks) * np.arange(1, looks + 1)
        unit_wide = np.array([half_width(1.0, float(n), alpha, rho) for n in units])
        wide: Numbers = np.sqrt(variance) * unit_wide
        return wide

    return half


def _z_test(variance: Numbers, alpha: float) -> Numbers:
    return np.sqrt(variance) * NormalDist().inv_cdf(1 - alpha)


if __name__ == "__main__":
    main()
