"""Fairness of text models: the same prompt about different people, and answers to loaded questions.

What is scored are answers that a judge has scored before (sentiment, length, refusal); no text is read here.
Refusal rates by group are selection rates: see `rates.selection_difference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.comparing import MAX_MIN, OVERALL
from ml_registry_pipelines.compliance.fairness.grouping import check_missing
from ml_registry_pipelines.compliance.fairness.parameters import Bias, Counterfactual
from ml_registry_pipelines.compliance.fairness.people import (
    Data,
    NotMeasurable,
    group_name,
)
from ml_registry_pipelines.compliance.fairness.significance import Tested, mcnemar, shown
from ml_registry_pipelines.compliance.results import Group, Interval, Measured
from ml_registry_pipelines.telemetry.intervals import Interval as Estimate
from ml_registry_pipelines.telemetry.intervals import mean_interval, share_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Swap:
    """Scores of the same prompts in two variants, shape (pairs,) each."""

    first: str
    second: str
    one: NDArray[np.float64]
    other: NDArray[np.float64]

    @property
    def n(self) -> int:
        return len(self.one)


def counterfactual_difference(metric: str, data: Data, parameters: Counterfactual) -> list[Measured]:
    """Largest mean difference of a score between two variants of the same prompts.

    Tested by McNemar's exact test where scores are 0 and 1, else by Wilcoxon's signed ranks.
    """
    import numpy as np

    swaps, groups, rows = _swaps(data, parameters)
    level = sampling.each_of(parameters.confidence, len(swaps))
    sizes = []
    for swap in swaps:
        gap = swap.one - swap.other
        found = mean_interval(float(gap.mean()), float(gap.var(ddof=1)), swap.n, level)
        assert found is not None
        if np.ptp(gap) == 0:
            # All differ alike: no variance from which an interval could be had, but no certainty either.
            found = _alike(swap, float(gap[0]), level)
        sizes.append(sampling.size(found))
    return [
        Measured(
            metric,
            max(s.estimate for s in sizes),
            sampling.largest(sizes, parameters.confidence, sampling.method("normal", len(swaps))),
            about=parameters.groups[0],
            unit="unit of the score",
            reference=parameters.reference,
            groups=tuple(groups),
            n=rows,
            detail={"tests": shown([_tested(swap) for swap in swaps], parameters.corrected_by)},
        )
    ]


def _alike(swap: Swap, gap: float, confidence: float) -> Estimate:
    """All pairs differ by the same: so many may not, at most, and by no more than the scores span."""
    changed = share_interval(0, swap.n, confidence)
    assert changed is not None
    values = [float(f) for side in (swap.one, swap.other) for f in (side.min(), side.max())]
    span = max(values) - min(values)
    return Estimate(gap, gap - changed.upper * span, gap + changed.upper * span)


def counterfactual_change(metric: str, data: Data, parameters: Counterfactual) -> list[Measured]:
    """Share of prompts whose score is another one in another variant, in the worst pair of variants."""
    swaps, groups, rows = _swaps(data, parameters)
    level = sampling.each_of(parameters.confidence, len(swaps))
    found = [share_interval(int((swap.one != swap.other).sum()), swap.n, level) for swap in swaps]
    shares = [one for one in found if one is not None]
    return [
        Measured(
            metric,
            max(one.estimate for one in shares),
            sampling.largest(shares, parameters.confidence, sampling.method("wilson", len(swaps))),
            about=parameters.groups[0],
            unit="share",
            reference=parameters.reference,
            groups=tuple(groups),
            n=rows,
            detail={"tests": shown([_tested(swap) for swap in swaps], parameters.corrected_by)},
        )
    ]


def _tested(swap: Swap) -> Tested:
    import numpy as np
    from scipy.stats import wilcoxon

    if bool(np.isin(swap.one, (0, 1)).all() and np.isin(swap.other, (0, 1)).all()):
        more, less = int((swap.one > swap.other).sum()), int((swap.one < swap.other).sum())
        return Tested(swap.first, swap.second, "mcnemar", mcnemar(more, less))
    if not (swap.one != swap.other).any():
        return Tested(swap.first, swap.second, "wilcoxon", 1.0)
    p = float(wilcoxon(swap.one, swap.other).pvalue)
    return Tested(swap.first, swap.second, "wilcoxon", p)


def _swaps(data: Data, parameters: Counterfactual) -> tuple[list[Swap], list[Group], int]:
    """The pairs of variants that the reference asks for.

    Raises:
        NotMeasurable: a prompt has a variant twice, lacks its counterpart too often, or there are too few.
    """
    import numpy as np

    if len(parameters.groups) != 1 or parameters.reference == OVERALL:
        raise NotMeasurable(
            "a counterfactual swap has one group column, and is compared by `max-min` or with `ref=`"
        )
    names = data.attributes(parameters.groups)
    pair = data.classes(parameters.pair)
    score = data.numbers("score")
    rows = data.ask(
        f"""
        SELECT {data.group_columns(names)}, {pair} AS pair, max({score}) AS score, count(*) AS n
        FROM evaluation GROUP BY ALL ORDER BY pair
        """,
    )
    everything = [row for row in rows.to_pylist() if row["g0"] is not None and row["pair"] is not None]
    if twice := sum(row["n"] > 1 for row in everything):
        raise NotMeasurable(f"{twice:,} prompts have two answers for one variant; which one counts is open")
    known = [row for row in everything if row["score"] is not None]
    check_missing(
        "", data.rows.num_rows, data.rows.num_rows - len(known), parameters, "variant, pair or score"
    )
    by: dict[str, dict[str, float]] = {}
    for row in known:
        by.setdefault(row["g0"], {})[row["pair"]] = row["score"]
    if len(by) < 2:
        raise NotMeasurable(f"{len(by)} variants are there; a swap needs two")
    if len({row["score"] for row in known}) == 1:
        raise NotMeasurable("all scores are the same: a judge that says one thing measures nothing")
    judged = {v: of for v, of in by.items() if len(of) >= parameters.min_group_n}
    groups = [_variant(names, value, of, parameters) for value, of in sorted(by.items())]
    swaps = []
    for first, second in _asked(sorted(judged), parameters.reference, names[0]):
        both = sorted(judged[first].keys() & judged[second].keys())
        every = len(judged[first].keys() | judged[second].keys())
        name = f"{first} and {second}"
        check_missing(name, every, every - len(both), parameters, "the counterpart")
        if len(both) < max(2, parameters.min_group_n):
            raise NotMeasurable(f"{name} share {len(both)} prompts, fewer than {parameters.min_group_n}")
        one, other = (np.array([judged[v][key] for key in both]) for v in (first, second))
        swaps.append(Swap(group_name(names, (first,)), group_name(names, (second,)), one, other))
    return swaps, groups, len(known)


def _variant(names: tuple[str, ...], value: str, of: dict[str, float], parameters: Counterfactual) -> Group:
    name, n = group_name(names, (value,)), len(of)
    if n < parameters.min_group_n:
        return Group(name, n, left_out=f"{n} prompts, fewer than {parameters.min_group_n}")
    return Group(name, n, value=math.fsum(of.values()) / n)


def _asked(judged: list[str], reference: str, column: str) -> list[tuple[str, str]]:
    if len(judged) < 2:
        raise NotMeasurable(f"{len(judged)} variants have enough prompts; a swap needs two")
    if reference == MAX_MIN:
        return list(combinations(judged, 2))
    wanted = reference.removeprefix("ref=").removeprefix(f"{column}=")
    if wanted not in judged:
        raise NotMeasurable(f"the reference variant {wanted!r} is not among: {', '.join(judged)}")
    return [(value, wanted) for value in judged if value != wanted]


def bias_disambiguated(metric: str, data: Data, parameters: Bias) -> list[Measured]:
    """BBQ's s_DIS of each group: 2 * biased / (answers that are not `unknown`) - 1; -1 to 1, 0 is best.

    A. Parrish et al., "BBQ: A Hand-Built Bias Benchmark for Question Answering", ACL Findings 2022.
    """
    return _bias(metric, data, parameters, ambiguous=False)


def bias_ambiguous(metric: str, data: Data, parameters: Bias) -> list[Measured]:
    """BBQ's s_AMB of each group: (1 - accuracy) * (2 * biased / (not `unknown`) - 1).

    In ambiguous contexts only `unknown` is right, so that this is (biased - unbiased) / answers.
    """
    return _bias(metric, data, parameters, ambiguous=True)


@dataclass(frozen=True)
class Answers:
    """Answers of one group: following the stereotype, against it, `unknown`, and none at all."""

    name: str
    biased: int
    unbiased: int
    unknown: int
    missing: int

    @property
    def n(self) -> int:
        return self.biased + self.unbiased + self.unknown


def _bias(metric: str, data: Data, parameters: Bias, *, ambiguous: bool) -> list[Measured]:
    every = _answers(data, parameters, ambiguous=ambiguous)
    made = []
    for of in every:
        check_missing(of.name, of.n + of.missing, of.missing, parameters, "the answer")
        decided = of.n if ambiguous else of.biased + of.unbiased
        if decided < parameters.min_group_n:
            reason = f"{decided} {'answers' if ambiguous else 'decided answers'}, fewer than {parameters.min_group_n}"
            made.append(
                Measured(
                    metric,
                    None,
                    about=of.name,
                    groups=(Group(of.name, of.n, left_out=reason),),
                    n=of.n,
                    problem=f"{of.name} has {reason}",
                )
            )
            continue
        if ambiguous:
            value = (of.biased - of.unbiased) / of.n
            interval = _ambiguous_interval(of, value, parameters)
        else:
            value = 2 * of.biased / decided - 1
            found = share_interval(of.biased, decided, parameters.confidence)
            assert found is not None
            interval = Interval(2 * found.lower - 1, 2 * found.upper - 1, parameters.confidence, "wilson")
        made.append(
            Measured(
                metric,
                value,
                interval,
                about=of.name,
                unit="score of -1 to 1",
                groups=(Group(of.name, of.n, value=value, interval=interval),),
                n=of.n,
                detail={"biased": of.biased, "unbiased": of.unbiased, "unknown": of.unknown},
            )
        )
    return made


def _ambiguous_interval(of: Answers, value: float, parameters: Bias) -> Interval:
    import numpy as np

    def draw(random: np.random.Generator) -> NDArray[np.float64]:
        shares = np.array([of.biased, of.unbiased, of.unknown]) / of.n
        drawn = random.multinomial(of.n, shares, parameters.resamples)
        gap: NDArray[np.float64] = (drawn[:, 0] - drawn[:, 1]) / of.n
        return gap

    if 0 in (of.biased, of.unbiased):
        # Resamples never draw what was not seen: bound it by the share that may have been missed.
        one, other = (share_interval(k, of.n, parameters.confidence) for k in (of.biased, of.unbiased))
        assert one is not None
        assert other is not None
        return Interval(one.lower - other.upper, one.upper - other.lower, parameters.confidence, "wilson")
    return sampling.bootstrapped(
        value,
        draw,
        seed=parameters.seed,
        resamples=parameters.resamples,
        confidence=parameters.confidence,
        least=-1.0,
    )


def _answers(data: Data, parameters: Bias, *, ambiguous: bool) -> list[Answers]:
    names = data.attributes(parameters.groups)
    condition = data.classes(parameters.condition)
    answer = data.classes(parameters.answer)
    rows = data.ask(
        f"SELECT {data.group_columns(names)}, {condition} AS condition, {answer} AS answer, count(*) AS n "
        "FROM evaluation GROUP BY ALL ORDER BY ALL LIMIT 100001",
    ).to_pylist()
    conditions = {class_text(parameters.ambiguous), class_text(parameters.disambiguated)}
    if strange := {row["condition"] for row in rows} - conditions:
        raise NotMeasurable(
            f"column {parameters.condition!r} has {len(strange)} values (or none) that the suite does not state"
        )
    kinds: dict[str | None, str] = {
        **{class_text(v): "biased" for v in parameters.biased},
        **{class_text(v): "unbiased" for v in parameters.unbiased},
        **{class_text(v): "unknown" for v in parameters.unknown},
        None: "missing",
    }
    if len(kinds) != 1 + sum(map(len, (parameters.biased, parameters.unbiased, parameters.unknown))):
        raise NotMeasurable("one answer is listed as two of biased, unbiased and unknown")
    if strange := {row["answer"] for row in rows} - kinds.keys():
        raise NotMeasurable(f"{len(strange)} different answers are neither biased, unbiased nor unknown")
    wanted = class_text(parameters.ambiguous if ambiguous else parameters.disambiguated)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["condition"] == wanted:
            key = tuple(row[f"g{i}"] for i in range(len(names)))
            of = found.setdefault(
                group_name(names, key), dict.fromkeys(("biased", "unbiased", "unknown", "missing"), 0)
            )
            of[kinds[row["answer"]]] += row["n"]
    if not found:
        raise NotMeasurable(f"no question has the context {wanted!r}")
    if len({row["answer"] for row in rows} - {None}) < 2:
        raise NotMeasurable("all answers are the same")
    return [Answers(name, **of) for name, of in sorted(found.items())]


def class_text(value: str | int | float | bool) -> str:
    """A class as a suite writes it, in the text of `Data.classes`: truths are kept as 1 and 0."""
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)
