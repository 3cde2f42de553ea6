"""Fairness of rankings: how much attention groups get, and how the top is mixed.

An item at rank r has the exposure 1 / log2(1 + r). A. Singh, T. Joachims, "Fairness of Exposure in
Rankings", KDD 2018; S. C. Geyik et al., "Fairness-Aware Ranking in Search & Recommendation Systems",
KDD 2019 (NDKL). Rankings, not items, are drawn anew for intervals: the items of one depend on each other.
A single ranking is no sample: its figures are facts about that ranking, without an interval. Its items drawn anew
would be another ranking, with ties; and to shuffle it tells how far chance alone would bring a figure from 1 or 0,
which is a test of no preference and not how far the figure may be off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.fairness import sampling
from ml_registry_pipelines.compliance.fairness.comparing import OVERALL, Sides, pairs, share
from ml_registry_pipelines.compliance.fairness.grouping import check_missing
from ml_registry_pipelines.compliance.fairness.parameters import Ranking
from ml_registry_pipelines.compliance.fairness.people import (
    Data,
    Key,
    NotMeasurable,
    group_name,
)
from ml_registry_pipelines.compliance.results import Group, Interval, Measured
from ml_registry_pipelines.telemetry.intervals import share_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK = 64
"""Resamples that are computed at once: their weights are a matrix with the rankings."""


@dataclass(frozen=True)
class Ranked:
    """Items in the order of ranking and rank.

    Attributes:
        group: index of the item's group in `keys`, shape (items,).
        ranking: index of its ranking, rising, shape (items,).
        rank: from 1, shape (items,).
    """

    names: tuple[str, ...]
    keys: list[Key]
    group: NDArray[np.int64]
    ranking: NDArray[np.int64]
    rank: NDArray[np.int64]
    missing: int

    @property
    def rankings(self) -> int:
        return int(self.ranking[-1]) + 1

    @property
    def exposure(self) -> NDArray[np.float64]:
        import numpy as np

        return 1 / np.log2(1 + self.rank)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an item's value by ranking and group."""
        import numpy as np

        shape = (self.rankings, len(self.keys))
        flat = np.bincount(self.ranking * shape[1] + self.group, values, minlength=shape[0] * shape[1])
        return flat.reshape(shape).astype(np.float64)


def exposure_ratio(metric: str, data: Data, parameters: Ranking) -> list[Measured]:
    """Smallest mean exposure of an item of a group by the largest."""
    import numpy as np

    if parameters.reference == OVERALL:
        raise NotMeasurable("compare exposure by `max-min` or with `ref=`, not with `overall`")
    ranked = _ranked(data, parameters)
    judged, left_out = _choose(ranked, parameters)
    exposure, items = ranked.sums(ranked.exposure), ranked.sums(np.ones(len(ranked.group)))
    sides = Sides(
        tuple(share(group_name(ranked.names, ranked.keys[i]), ranked.keys[i], 0, 1) for i in judged)
    )
    index = {q.name: i for q, i in zip(sides.judged, judged, strict=True)}
    found = [(index[p.first.name], index[p.second.name]) for p in pairs(sides, parameters.reference)]

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (weights @ exposure) / (weights @ items)
            each = [np.minimum(mean[:, a] / mean[:, b], mean[:, b] / mean[:, a]) for a, b in found]
        return np.min(each, axis=0)  # type: ignore[no-any-return]

    value = float(figure(np.ones((1, ranked.rankings)))[0])
    total, count = exposure.sum(axis=0), items.sum(axis=0)
    groups = [
        Group(group_name(ranked.names, ranked.keys[i]), int(count[i]), value=float(total[i] / count[i]))
        for i in judged
    ]
    return [_measured(metric, parameters, ranked, value, figure, [*groups, *left_out], 1.0, "ratio")]


def ndkl(metric: str, data: Data, parameters: Ranking) -> list[Measured]:
    """Mean over rankings of NDKL: how far the mix of the top i is from that of the ranking, over all i.

    (1 / Z) sum_i KL(mix of the top i || mix of all) / log2(i + 1) with Z = sum_i 1 / log2(i + 1), in nats.
    Groups that are too small are one group here: to leave them out would change the ranks of the others.
    """
    import numpy as np

    ranked = _ranked(data, parameters)
    judged, left_out = _choose(ranked, parameters)
    if len(judged) < 2:
        raise NotMeasurable(f"{len(judged)} groups can be judged; a comparison needs two")
    first = np.flatnonzero(np.diff(ranked.ranking, prepend=-1))
    items = ranked.sums(np.ones(len(ranked.group)))
    size = items.sum(axis=1)
    divergence = np.zeros(len(ranked.group))
    rest = [i for i in range(len(ranked.keys)) if i not in judged]
    for members in [[i] for i in judged] + ([rest] if rest else []):
        of = np.isin(ranked.group, members)
        total = np.cumsum(of)
        before: NDArray[np.int64] = (total[first] - of[first])[ranked.ranking]
        top = (total - before) / ranked.rank
        whole = (items[:, members].sum(axis=1) / size)[ranked.ranking]
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence += np.where(top > 0, top * np.log(top / whole), 0.0)
    weight = np.bincount(ranked.ranking, ranked.exposure)
    each = np.bincount(ranked.ranking, divergence * ranked.exposure) / weight

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weights @ each / weights.sum(axis=1)  # type: ignore[no-any-return]

    count = items.sum(axis=0)
    groups = [Group(group_name(ranked.names, ranked.keys[i]), int(count[i])) for i in judged]
    value = max(0.0, float(each.mean()))
    # All of the top from the smallest share.
    most = math.log(len(ranked.group))
    return [_measured(metric, parameters, ranked, value, figure, [*groups, *left_out], most, "nats")]


def _ranked(data: Data, parameters: Ranking) -> Ranked:
    import numpy as np

    names = data.attributes(parameters.groups)
    score = data.numbers("score")
    ranking = "''" if parameters.ranking is None else data.classes(parameters.ranking)
    inner = ", ".join(f"g{i}" for i in range(len(names)))
    rows = data.ask(
        f"""
        WITH given AS (
            SELECT {data.group_columns(names)}, {ranking} AS ranking, {score} AS score FROM evaluation
        )
        SELECT {inner}, dense_rank() OVER (ORDER BY ranking) - 1 AS ranking,
            row_number() OVER (PARTITION BY ranking ORDER BY score DESC) AS rank,
            score IS NOT DISTINCT FROM lag(score) OVER (PARTITION BY ranking ORDER BY score DESC) AS tied
        FROM given WHERE ranking IS NOT NULL AND score IS NOT NULL ORDER BY ranking, rank
        """,
    )
    missing = data.rows.num_rows - len(rows)
    check_missing("", data.rows.num_rows, missing, parameters, "ranking or score")
    if not len(rows):
        raise NotMeasurable("no row has a ranking and a score")
    ties = sum(rows["tied"].to_pylist())
    # The first item of a ranking has no item before it, whose score reads as NULL, and its own is not.
    if ties:
        raise NotMeasurable(
            f"{ties:,} items have the score of another one in their ranking, so that their order is open"
        )
    columns = [rows[f"g{i}"].combine_chunks().dictionary_encode() for i in range(len(names))]
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in columns:
        filled = column.indices.fill_null(len(column.dictionary)).to_numpy(zero_copy_only=False)
        codes = codes * (len(column.dictionary) + 1) + filled
    unique, group = np.unique(codes, return_inverse=True)
    keys: list[Key] = []
    for code in unique.tolist():
        values: list[str | None] = []
        rest = code
        for column in reversed(columns):
            rest, index = divmod(rest, len(column.dictionary) + 1)
            values.append(None if index == len(column.dictionary) else column.dictionary[index].as_py())
        keys.append(tuple(reversed(values)))
    unstated = int(np.isin(group, [i for i, key in enumerate(keys) if None in key]).sum())
    check_missing("", len(rows), unstated, parameters, "the group")
    ranked = Ranked(
        names,
        keys,
        group.astype(np.int64),
        rows["ranking"].to_numpy(),
        rows["rank"].to_numpy(),
        missing,
    )
    if ranked.rankings < parameters.min_rankings:
        raise NotMeasurable(
            f"there are {ranked.rankings} rankings, fewer than the {parameters.min_rankings} that are asked for"
        )
    return ranked


def _choose(ranked: Ranked, parameters: Ranking) -> tuple[list[int], list[Group]]:
    import numpy as np

    items = np.bincount(ranked.group, minlength=len(ranked.keys))
    judged: list[int] = []
    left_out: list[Group] = []
    for i in sorted(range(len(items)), key=lambda i: (-items[i], str(ranked.keys[i]))):
        n, name = int(items[i]), group_name(ranked.names, ranked.keys[i])
        if None in ranked.keys[i]:
            left_out.append(Group(name, n, left_out="the group is not stated"))
        elif n < parameters.min_group_n:
            left_out.append(Group(name, n, left_out=f"{n} items, fewer than {parameters.min_group_n}"))
        else:
            judged.append(i)
    return judged, left_out


def _measured(
    metric: str,
    parameters: Ranking,
    ranked: Ranked,
    value: float,
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: list[Group],
    most: float,
    unit: str,
) -> Measured:
    import numpy as np

    interval: Interval | None = None
    n = ranked.rankings
    if n > 1:

        def draw(random: np.random.Generator) -> NDArray[np.float64]:
            done = []
            for start in range(0, parameters.resamples, CHUNK):
                many = min(CHUNK, parameters.resamples - start)
                weights = random.multinomial(n, np.full(n, 1 / n), many).astype(np.float64)
                done.append(figure(weights))
            return np.concatenate(done)

        interval = sampling.bootstrapped(
            value,
            draw,
            seed=parameters.seed,
            resamples=parameters.resamples,
            confidence=parameters.confidence,
            most=most,
        )
        if interval.high - interval.low < 1e-9:
            # All rankings are alike: so many of those that were not seen may be quite different.
            unseen = share_interval(0, n, parameters.confidence)
            assert unseen is not None
            low, high = value * (1 - unseen.upper), value + max(0.0, most - value) * unseen.upper
            interval = Interval(low, high, parameters.confidence, "wilson")
    return Measured(
        metric,
        value,
        interval,
        about=" x ".join(ranked.names),
        unit=unit,
        reference=parameters.reference if unit == "ratio" else OVERALL,
        groups=tuple(groups),
        n=len(ranked.group),
        detail={"rankings": n, "rows_missing": ranked.missing},
    )
