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
"""Up to so many points each bears its name."""
MOST_FAMILIES = 12
DIMENSIONS = 30
SEED = 7
SIDE = 620


@dataclass(frozen=True)
class Point:
    """One model: what it is called and its family, empty where it has none."""

    name: str
    family: str = ""


def map_png(vectors: Floats, points: Sequence[Point]) -> bytes | None:
    """The map as a picture; None where there are not two models to hold against each other.

    Args:
        vectors: one row per point; they need not be of unit length.
    """
    if len(vectors) != len(points):
        raise ValueError(f"{len(vectors)} vectors for {len(points)} points")
    chosen = _sample(points)
    if len(chosen) < 2:
        return None
    drawn = [points[i] for i in chosen]
    left_out = len(points) - len(chosen)
    return charts.as_png(_chart(projected(vectors[chosen]), drawn, left_out))


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
    fewer = PCA(kept, svd_solver="full").fit_transform(units)
    if count > 5:
        # Begun with the main axes, so that nothing but the vectors decides; the seed is for its ties.
        perplexity = min(30.0, (count - 1) / 3)
        start = fewer[:, :2] if kept > 1 else np.pad(fewer, ((0, 0), (0, 1)))
        start = start / (start[:, 0].std() or 1.0) * 1e-4
        layout = TSNE(
            2, perplexity=perplexity, init=start, random_state=SEED, max_iter=500, n_iter_without_progress=120
        )
        # Its threads wait for each other by spinning: one takes 2 s of processor time, two take 13.
        with threadpool_limits(1):
            placed = layout.fit_transform(fewer)
    else:
        placed = fewer[:, :2] if kept > 1 else np.pad(fewer, ((0, 0), (0, 1)))
    low, high = placed.min(axis=0), placed.max(axis=0)
    span = np.where(high > low, high - low, 1)
    return np.asarray((placed - low) / span, dtype=np.float32)


def _sample(points: Sequence[Point]) -> list[int]:
    """Which points are drawn: all, or those whose names' digests are the smallest, so the choice is steady."""
    order = sorted(range(len(points)), key=lambda i: hashlib.sha256(points[i].name.encode()).digest())
    return sorted(order[:MOST_POINTS])


def _chart(places: Floats, points: Sequence[Point], left_out: int) -> charts.Drawing:
    import altair as alt

    counts = Counter(point.family for point in points if point.family)
    largest = [family for family, _ in counts.most_common(MOST_FAMILIES)]
    rows = [
        {
            "x": round(float(x), 3),
            "y": round(float(y), 3),
            "name": point.name,
            "family": point.family if point.family in largest else "",
        }
        for (x, y), point in zip(places, points, strict=True)
    ]
    colours = [_colour(n) for n in range(len(largest))]
    title = f"{len(points):,} models by likeness" + (f", of {len(points) + left_out:,}" if left_out else "")
    base = _base(rows)
    size = 14 if len(rows) > 400 else 40
    others = base.transform_filter("datum.family === ''").mark_circle(
        size=size, color=charts.OTHERS_COLOUR, opacity=0.55
    )
    scale = alt.Scale(domain=largest, range=colours)
    families = base.transform_filter("datum.family !== ''").mark_circle(size=size * 1.6, opacity=0.85)
    families = families.encode(color=alt.Color("family:N", scale=scale, legend=None))
    layers: list[Any] = [others, families]
    labels = (
        _labels(places, points, largest)
        if len(rows) > FEW
        else [{**row, "label": row["name"]} for row in rows]
    )
    if labels:
        named = _base(labels).encode(text="label:N")
        layers.append(
            named.mark_text(fontSize=12, fontWeight=600, dy=-9, color="white", stroke="white", strokeWidth=4)
        )
        layers.append(named.mark_text(fontSize=12, fontWeight=600, dy=-9, color="#1c2430"))
    return alt.layer(*layers, title=alt.TitleParams(title, anchor="start", fontSize=13)).properties(
        width=SIDE * 1.3, height=SIDE
    )


def _base(rows: Sequence[dict[str, Any]]) -> Any:
    import altair as alt

    axis = {"axis": None, "scale": alt.Scale(domain=[-0.03, 1.03])}
    return alt.Chart({"values": list(rows)}).encode(
        x=alt.X(field="x", type="quantitative", **axis), y=alt.Y(field="y", type="quantitative", **axis)
    )


def _labels(places: Floats, points: Sequence[Point], families: Sequence[str]) -> list[dict[str, Any]]:
    """A name per family, on that point of it which has most of its kin around; none upon another."""
    import numpy as np

    found: list[dict[str, Any]] = []
    for family in families:
        own = places[[n for n, point in enumerate(points) if point.family == family]]
        near = (np.linalg.norm(own[:, None] - own[None], axis=2) < 0.06).sum(axis=1)
        for i in np.argsort(-near, kind="stable"):
            x, y = float(own[i][0]), float(own[i][1])
            if all(abs(x - o["x"]) > 0.13 or abs(y - o["y"]) > 0.035 for o in found):
                found.append({"x": round(x, 3), "y": round(y, 3), "label": family})
                break
    return found


_PALETTE = (*charts.SERIES, "#c2513d", "#6b8e23", "#00838f", "#b0578d", "#7a5c3e")


def _colour(number: int) -> str:
    return _PALETTE[number % len(_PALETTE)]
