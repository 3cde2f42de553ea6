"""The map of a catalogue: every model a point, near those that are like it, coloured by family.

Vectors of hundreds of dimensions are laid out on a plane by t-SNE with a fixed seed, so the same
vectors give the same map. What is near is alike; how far apart two groups are, says nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.reports import charts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

MOST_POINTS = 1_500
"""More are not told apart on a picture of this size, and take longer to lay out: 2 s for these."""
FEW = 8
"""Up to so many own models each bears its name."""
MOST_FAMILIES = 12
DIMENSIONS = 30
SEED = 7
SIDE = 620


@dataclass(frozen=True)
class Point:
    """One model: what it is called and its family, empty where it has none. `own`: not of an imported catalogue."""

    name: str
    family: str = ""
    own: bool = False


def sample(names: Sequence[str], first: Sequence[bool] = ()) -> list[int]:
    """Which of the points are drawn: all, or a choice by the digests of their names, so that it is steady.

    Args:
        first: which of them come before all others.
    """
    later = [not wanted for wanted in first] or [False] * len(names)
    order = sorted(range(len(names)), key=lambda i: (later[i], hashlib.sha256(names[i].encode()).digest()))
    return sorted(order[:MOST_POINTS])


def map_png(vectors: Floats, points: Sequence[Point], *, of: int | None = None) -> bytes | None:
    """The map as a picture; None where there are not two models to hold against each other.

    Args:
        vectors: one row per point, of which there are `MOST_POINTS` at most; they need not be of unit length.
        of: how many models there are, where the points are a sample.
    """
    if len(vectors) != len(points):
        raise ValueError(f"{len(vectors)} vectors for {len(points)} points")
    if len(points) < 2:
        return None
    return charts.as_png(_chart(projected(vectors), points, (of or len(points)) - len(points)))


def projected(vectors: Floats) -> Floats:
    """Places on a plane, shape (n, 2), each axis from 0 to 1; equal for equal vectors."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count, width = vectors.shape
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.nan_to_num(vectors / np.where(lengths > 0, lengths, 1)).astype(np.float64)
    kept = min(DIMENSIONS, width, count - 1)
    if not np.ptp(units, axis=0).any():
        return np.full((count, 2), 0.5, dtype=np.float32)
    # Their threads wait for each other by spinning: one takes 2 s of processor time, two take 13.
    with threadpool_limits(1):
        fewer = PCA(kept, svd_solver="full").fit_transform(units)
        main = fewer[:, :2] if kept > 1 else np.pad(fewer, ((0, 0), (0, 1)))
        # Begun with the main axes, so that nothing but the vectors decides; the seed is for its ties.
        layout = TSNE(
            2,
            perplexity=min(30.0, (count - 1) / 3),
            init=main / (main[:, 0].std() or 1.0) * 1e-4,
            random_state=SEED,
            max_iter=500,
            n_iter_without_progress=120,
        )
        placed = layout.fit_transform(fewer) if count > 5 else main
    low, high = placed.min(axis=0), placed.max(axis=0)
    span = np.where(high > low, high - low, 1)
    return np.asarray((placed - low) / span, dtype=np.float32)


def _chart(places: Floats, points: Sequence[Point], left_out: int) -> charts.Drawing:
    import altair as alt

    counts = Counter(point.family for point in points if point.family)
    largest = [family for family, _ in counts.most_common(MOST_FAMILIES)]
    rows = [
        {
            "x": round(float(x), 3),
            "y": round(float(y), 3),
            "family": point.family if point.family in largest else "",
            "own": point.own,
        }
        for (x, y), point in zip(places, points, strict=True)
    ]
    size = 14 if len(rows) > 400 else 40
    base = _base(rows)
    scale = alt.Scale(domain=largest, range=[_PALETTE[n % len(_PALETTE)] for n in range(len(largest))])
    layers: list[Any] = [
        base.transform_filter("!datum.own && datum.family === ''").mark_circle(
            size=size, color=charts.OTHERS_COLOUR, opacity=0.55
        ),
        base.transform_filter("!datum.own && datum.family !== ''")
        .mark_circle(size=size * 1.6, opacity=0.85)
        .encode(color=alt.Color("family:N", scale=scale, legend=None)),
        base.transform_filter("datum.own").mark_point(
            shape="diamond", size=110, filled=True, color=INK, stroke="white", opacity=1
        ),
    ]
    if labels := _labels(places, points, largest):
        for halo in (True, False):
            edge = {"color": "white", "stroke": "white", "strokeWidth": 4} if halo else {"color": INK}
            layers.append(
                _base(labels).mark_text(fontSize=12, fontWeight=600, dy=-10, **edge).encode(text="label:N")
            )
    told = f"{len(points):,} models by likeness" + (
        f", of {len(points) + left_out:,}" if left_out > 0 else ""
    )
    if any(p.own for p in points) and not all(p.own for p in points):
        told += "; diamonds are own models, dots those of an imported catalogue"
    title = alt.TitleParams(told, anchor="start", fontSize=13)
    return alt.layer(*layers, title=title).properties(width=SIDE * 1.3, height=SIDE)


def _base(rows: Sequence[dict[str, Any]]) -> Any:
    import altair as alt

    whole = alt.Scale(domain=[-0.03, 1.03])
    return alt.Chart({"values": list(rows)}).encode(
        x=alt.X(field="x", type="quantitative", axis=None, scale=whole),
        y=alt.Y(field="y", type="quantitative", axis=None, scale=whole),
    )


def _labels(places: Floats, points: Sequence[Point], families: Sequence[str]) -> list[dict[str, Any]]:
    """Names of few own models, and one per family, where most of its kin is around; none upon another."""
    import numpy as np

    found: list[dict[str, Any]] = []

    def put(place: Floats, label: str) -> bool:
        x, y = float(place[0]), float(place[1])
        if any(abs(x - o["x"]) < 0.13 and abs(y - o["y"]) < 0.035 for o in found):
            return False
        found.append({"x": round(x, 3), "y": round(y, 3), "label": label[: charts.LONGEST_NAME]})
        return True

    own = [n for n, point in enumerate(points) if point.own]
    for n in own if len(own) <= FEW else []:
        put(places[n], points[n].name)
    for family in families:
        kin = places[[n for n, point in enumerate(points) if point.family == family]]
        near = (np.linalg.norm(kin[:, None] - kin[None], axis=2) < 0.06).sum(axis=1)
        for i in np.argsort(-near, kind="stable"):
            if put(kin[i], family):
                break
    return found


INK = "#1c2430"
_PALETTE = (*charts.SERIES, "#c2513d", "#6b8e23", "#00838f", "#b0578d", "#7a5c3e")
