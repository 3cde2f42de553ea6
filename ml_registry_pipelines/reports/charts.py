"""The charts of the reports, drawn by Altair and turned into SVG or PNG offline.

Every chart is a function of plain values to a chart; colours that follow the reader's light or
dark page are put in when it is drawn. Colours differ in lightness as well as in hue, so that they
stay apart for colour-blind eyes and on grey paper. What is charted is in `figures.py`.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.iri_grammar import put_off
from ml_registry_pipelines.reports.formats import short_names

if TYPE_CHECKING:
    import altair as alt

    Drawing = alt.Chart | alt.LayerChart | alt.FacetChart

put_off()  # before anything here imports Altair

WIDTH = 850
STEP = 24
"""Height of one bar of a horizontal chart, with its gap."""
LONGEST_NAME = 36
LONGEST_IN_LEGEND = 56
FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
"""Arial and its metric twins: the renderer measures text with one of them, so labels fit in all."""

SERIES = ("#3567a6", "#8cc5e3", "#8a2c6b", "#e3b93c", "#2a7d4f", "#e98b7a", "#5b5b9e")
"""Dark and light in turn, so that neighbours in a stack differ in grey."""
OTHERS_COLOUR = "#a9adb3"
MAIN, WARNING = "#3567a6", "#c2513d"

_INK, _MUTED, _LINE, _PAPER = "#010101", "#020202", "#030303", "#040404"
"""Stand-ins for the page's colours of text, secondary text, lines and background."""
_ON_PAGE = {_INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)", _PAPER: "var(--paper)"}
_ON_WHITE = {_INK: "#1c2430", _MUTED: "#5a6472", _LINE: "#dfe3e8", _PAPER: "#ffffff"}

LARGEST_PNG = 100_000
"""Bytes of a picture in an asset's metadata, which lies in Dagster's database."""


@dataclass(frozen=True)
class Segment:
    """One piece of a stacked bar; series of rank 0 stand lowest and first in the legend."""

    start: datetime
    series: str
    rank: int
    value: Decimal


@dataclass(frozen=True)
class Bar:
    """One horizontal bar with its label at the end; no bar where `value` is None. `hollow`: assumed."""

    name: str
    value: float | None
    label: str
    hollow: bool = False


@dataclass(frozen=True)
class Spread:
    """The percentiles of one row, with a remark at its end, bold if `loud`; no mark where they are None."""

    name: str
    p50: float | None
    p95: float | None
    p99: float | None
    remark: str
    loud: bool = False


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and, where there is one, a threshold, with a remark at its end."""

    name: str
    estimate: float
    lower: float
    upper: float
    threshold: float | None
    remark: str


def stacked_over_time(
    segments: Sequence[Segment], *, grain: str, title: str, others: str | None
) -> alt.Chart:
    """Bars per hour, day, week or month, stacked by series; the series `others` is grey.

    A bar stands over the label of its start. Hours fill a whole day, so that one day's chart can
    be held against another's.
    """
    import altair as alt

    ranked = sorted({(segment.rank, segment.series) for segment in segments})
    names = short_names([series for _, series in ranked], longest=LONGEST_IN_LEGEND)
    colours = [OTHERS_COLOUR if series == others else SERIES[rank % len(SERIES)] for rank, series in ranked]
    half, labels = {
        "hour": (timedelta(minutes=30), "%H:%M"),
        "day": (timedelta(hours=12), "%-d %b"),
        "week": (timedelta(days=3.5), "%-d %b %Y"),
        "month": (timedelta(days=14), "%b %Y"),
    }[grain]
    sums: dict[datetime, Decimal] = {}
    rows = []
    for segment in sorted(segments, key=lambda piece: piece.rank):
        below = sums.get(segment.start, Decimal(0))
        sums[segment.start] = below + segment.value
        rows.append(
            {
                "from": _moment(segment.start - half * 0.94),
                "to": _moment(segment.start + half * 0.94),
                "low": float(below),
                "high": float(sums[segment.start]),
                "series": names[segment.series],
            }
        )
    starts = _starts(min(sums), max(sums), grain)
    every = 3 if grain == "hour" else math.ceil(len(starts) / 11)
    axis = alt.Axis(
        title=None, format=labels, grid=False, values=[_moment(start) for start in starts[::every]]
    )
    columns = 3 if max(map(len, names.values())) <= LONGEST_NAME else 2
    drawn: alt.Chart = (
        _chart(rows, width=WIDTH, height=280)
        .mark_rect(stroke=_PAPER, strokeWidth=0.4)
        .encode(
            x=alt.X(
                field="from",
                type="temporal",
                scale=alt.Scale(type="utc", domain=[_moment(starts[0] - half), _moment(starts[-1] + half)]),
                axis=axis,
            ),
            x2=alt.X2(field="to"),
            y=alt.Y(
                field="low",
                type="quantitative",
                scale=alt.Scale(zero=True),
                axis=alt.Axis(title=title, format=_decimals(max(map(float, sums.values()))), tickCount=5),
            ),
            y2=alt.Y2(field="high"),
            color=alt.Color(
                field="series",
                type="nominal",
                scale=alt.Scale(domain=list(names.values()), range=colours),
                legend=alt.Legend(
                    title=None, orient="bottom", columns=columns, symbolType="square", labelLimit=0
                ),
            ),
        )
    )
    return drawn


def bars(rows: Sequence[Bar], *, title: str, colour: str = MAIN, percent: bool = False) -> Drawing:
    """Horizontal bars in the given order, each with its label behind it."""
    import altair as alt

    names = short_names([row.name for row in rows], longest=LONGEST_NAME)
    longest = max((row.value or 0 for row in rows), default=0) or 1
    data = [
        {
            "name": names[row.name],
            "value": row.value,
            "at": row.value or 0,
            "label": row.label,
            "hollow": row.hollow,
        }
        for row in rows
    ]
    base = _chart(data, width=WIDTH - 300, height=STEP * len(rows)).encode(
        y=alt.Y(field="name", type="nominal", sort=None, axis=_name_axis()),
    )
    scale = alt.Scale(domain=[0, longest], nice=False, zero=True)
    shares = ".0%" if longest >= 0.05 else ".1%"
    axis = alt.Axis(title=title, format=shares if percent else _decimals(longest), tickCount=4)
    drawn = base.transform_filter("datum.value !== null").mark_bar(
        height=STEP * 0.6, color=colour, stroke=colour, strokeWidth=1.2
    )
    return alt.layer(
        drawn.encode(
            x=alt.X(field="value", type="quantitative", scale=scale, axis=axis),
            # By their class: what `alt.condition` makes is tried against the schema of every class there is.
            fillOpacity=alt.FillOpacityValue(1, condition={"test": "datum.hollow", "value": 0.25}),
            strokeDash=alt.StrokeDashValue([1, 0], condition={"test": "datum.hollow", "value": [3, 2]}),
        ),
        base.mark_text(align="left", dx=6, color=_INK, fontSize=11).encode(
            x=alt.X(field="at", type="quantitative", scale=scale),
            text=alt.Text(field="label", type="nominal"),
        ),
    )


def spreads(rows: Sequence[Spread], *, title: str) -> Drawing:
    """p50, p95 and p99 of each row on a logarithmic axis, in the given order, with a remark at the right."""
    import altair as alt

    names = short_names([row.name for row in rows], longest=LONGEST_NAME)
    marks = [("p50", "circle", MAIN), ("p95", "diamond", "#e3b93c"), ("p99", "triangle-right", WARNING)]
    points = [
        {"name": names[row.name], "which": which, "ms": value}
        for row in rows
        for which, value in (("p50", row.p50), ("p95", row.p95), ("p99", row.p99))
        if value
    ]
    ticks = _log_ticks([value for row in rows for value in (row.p50, row.p95, row.p99) if value])
    scale = alt.Scale(type="log", domain=[ticks[0], ticks[-1]], nice=False)
    axis = alt.Axis(title=title, values=ticks, format=",~r", grid=True)
    y = alt.Y(
        field="name",
        type="nominal",
        sort=None,
        scale=alt.Scale(domain=list(names.values())),
        axis=_name_axis(),
    )
    width = WIDTH - 300
    lines = [
        {"name": names[row.name], "low": row.p50, "high": row.p99} for row in rows if row.p50 and row.p99
    ]

    def chart(values: Sequence[Mapping[str, object]]) -> alt.Chart:
        return _chart(values, width=width, height=STEP * len(rows))

    return alt.layer(
        chart(lines)
        .mark_rule(color=_MUTED, strokeWidth=1.2, opacity=0.7)
        .encode(
            x=alt.X(field="low", type="quantitative", scale=scale, axis=axis), x2=alt.X2(field="high"), y=y
        ),
        chart(points)
        .mark_point(filled=True, size=70, opacity=1, stroke=_INK, strokeWidth=0.5)
        .encode(
            x=alt.X(field="ms", type="quantitative", scale=scale, axis=axis),
            y=y,
            shape=alt.Shape(
                field="which",
                type="nominal",
                scale=alt.Scale(domain=[m[0] for m in marks], range=[m[1] for m in marks]),
                legend=alt.Legend(title=None, orient="top", symbolSize=80),
            ),
            color=alt.Color(
                field="which",
                type="nominal",
                scale=alt.Scale(domain=[m[0] for m in marks], range=[m[2] for m in marks]),
                legend=alt.Legend(title=None, orient="top", symbolSize=80),
            ),
        ),
        *(
            chart([{"name": names[row.name], "remark": row.remark} for row in rows if row.loud is loud])
            .mark_text(align="left", dx=8, color=_INK, fontSize=11, fontWeight="bold" if loud else "normal")
            .encode(
                x=alt.XValue(width),  # type: ignore[no-untyped-call]
                y=y,
                text=alt.Text(field="remark", type="nominal"),
            )
            for loud in (False, True)
        ),
    )


def intervals(rows: Sequence[Interval], *, title: str) -> Drawing:
    """Estimates with their intervals and thresholds on one axis, in the given order, with a remark at the right."""
    import altair as alt

    names = short_names([row.name for row in rows], longest=LONGEST_NAME)
    ends = [v for row in rows for v in (row.lower, row.upper, row.threshold, 0.0) if v is not None]
    room = (max(ends) - min(ends) or 1.0) * 0.06
    scale = alt.Scale(domain=[min(ends) - room, max(ends) + room], nice=False)
    width = WIDTH - 300
    y = alt.Y(
        field="name",
        type="nominal",
        sort=None,
        scale=alt.Scale(domain=list(names.values())),
        axis=_name_axis(),
    )
    axis = alt.Axis(title=title, grid=True, tickCount=6, format=",~r")

    def chart(values: Sequence[Mapping[str, object]]) -> alt.Chart:
        return _chart(values, width=width, height=STEP * max(len(rows), 2))

    data = [{**vars(row), "name": names[row.name]} for row in rows]
    x = alt.X(field="lower", type="quantitative", scale=scale, axis=axis)
    return alt.layer(
        chart([{"zero": 0}])
        .mark_rule(color=_MUTED, strokeWidth=1)
        .encode(x=alt.X(field="zero", type="quantitative", scale=scale, axis=axis)),
        chart(data).mark_rule(color=MAIN, strokeWidth=3).encode(x=x, x2=alt.X2(field="upper"), y=y),
        chart(data)
        .mark_point(filled=True, size=80, color=MAIN, opacity=1, stroke=_PAPER, strokeWidth=1)
        .encode(x=alt.X(field="estimate", type="quantitative", scale=scale, axis=axis), y=y),
        chart([row for row in data if row["threshold"] is not None])
        .mark_tick(color=WARNING, thickness=3, size=STEP * 0.8)
        .encode(x=alt.X(field="threshold", type="quantitative", scale=scale, axis=axis), y=y),
        chart(data)
        .mark_text(align="left", dx=8, color=_INK, fontSize=11)
        .encode(
            x=alt.XValue(width),  # type: ignore[no-untyped-call]
            y=y,
            text=alt.Text(field="remark", type="nominal"),
        ),
    )


def as_svg(chart: Drawing, *, label: str) -> str:
    """The chart as an element of a page, which gives it its colours; `label` says what it shows."""
    from html import escape

    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(_specification(chart), vl_version=_version())
    for stand_in, colour in _ON_PAGE.items():
        svg = svg.replace(f'"{stand_in}"', f'"{colour}"')
    opening, rest = svg.split(">", 1)
    found = re.search(r'width="(\d+)" height="(\d+)"', opening)
    assert found is not None, opening
    width, height = found.groups()
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{rest}'
    )


def as_png(chart: Drawing) -> bytes:
    """The chart on white as a picture of at most `LARGEST_PNG` bytes, as sharp as that allows."""
    import json

    import vl_convert

    specification = json.dumps(_specification(chart))
    for stand_in, colour in _ON_WHITE.items():
        specification = specification.replace(f'"{stand_in}"', f'"{colour}"')
    specification = specification.replace('"background": "transparent"', '"background": "white"')
    picture = b""
    for scale in (2.0, 1.5, 1.0, 0.7, 0.5):
        picture = _packed(vl_convert.vegalite_to_png(specification, vl_version=_version(), scale=scale))
        if len(picture) <= LARGEST_PNG:
            break
    return picture


def _packed(png: bytes) -> bytes:
    """The same picture, compressed as well as zlib can: a quarter of what the renderer writes."""
    chunks: list[tuple[bytes, bytes]] = []
    position = 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        chunks.append((png[position + 4 : position + 8], png[position + 8 : position + 8 + length]))
        position += length + 12
    data = zlib.compress(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), 9)
    kept = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")]
    return png[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*kept, (b"IDAT", data), (b"IEND", b"")]
    )


def _specification(chart: Drawing) -> dict[str, Any]:
    """The chart with the look that all have."""
    text = {"labelColor": _INK, "titleColor": _MUTED, "labelFontSize": 11, "titleFontSize": 11}
    # Without Altair's own check against the schema of Vega-Lite, which takes longer than the drawing.
    specification: dict[str, Any] = chart.to_dict(validate=False)
    specification["config"] = {
        "background": "transparent",
        "font": FONT,
        "aria": False,
        "view": {"stroke": None},
        "axis": {
            **text,
            "titleFontWeight": "normal",
            "gridColor": _LINE,
            "domainColor": _LINE,
            "tickColor": _LINE,
            "titlePadding": 8,
            "labelFlush": False,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {**text, "columnPadding": 18, "rowPadding": 4, "symbolStrokeWidth": 0, "offset": 12},
        "mark": {"clip": False},
    }
    return specification


def _version() -> str:
    """The Vega-Lite version that Altair writes, as the renderer names it."""
    import altair as alt

    major, minor = re.match(r"v(\d+)\.(\d+)", alt.SCHEMA_VERSION).groups()  # type: ignore[union-attr]
    return f"{major}.{minor}"


def _chart(values: Sequence[Mapping[str, object]], *, width: int, height: int) -> alt.Chart:
    import altair as alt

    return alt.Chart({"values": list(values)}, width=width, height=height)


def _name_axis() -> alt.Axis:
    import altair as alt

    return alt.Axis(title=None, labelLimit=0, grid=False)


def _decimals(largest: float) -> str:
    """A number format that tells the ticks of an axis up to `largest` apart."""
    if largest <= 0:
        return ",.0f"
    return f",.{max(0, 1 - math.floor(math.log10(largest / 2)))}~f"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _starts(first: datetime, last: datetime, grain: str) -> list[datetime]:
    """The starts of all periods from `first` to `last`, of all hours of a day where the grain is that."""
    if grain == "hour":
        first, last = first.replace(hour=0), last.replace(hour=23)
    if grain == "month":
        months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
        return [first.replace(year=month // 12, month=month % 12 + 1) for month in months]
    step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}[grain]
    return [first + number * step for number in range((last - first) // step + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Round values around the given ones: 1, 2, 5 of each decade, or fewer where there are many decades."""
    low, high = (min(values) / 1.05, max(values) * 1.05) if values else (100.0, 10_000.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1, 3) if math.log10(high / low) < 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    first = max(index for index, tick in enumerate(ticks) if tick <= low)
    last = min(index for index, tick in enumerate(ticks) if tick >= high)
    return ticks[first : last + 1]
