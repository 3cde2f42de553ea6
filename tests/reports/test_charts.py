import re
import struct
import zlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from ml_registry_pipelines.reports import charts

START = datetime(2026, 10, 1, tzinfo=UTC)
NASTY = '<script>alert("x")</script>&amp;'


def segments(models: int, days: int) -> list[charts.Segment]:
    return [
        charts.Segment(
            START + timedelta(days=day),
            f"a-rather-long-model-name-of-some-lab-{model:02}",
            model,
            Decimal(model + 1),
        )
        for day in range(days)
        for model in range(models)
    ]


def texts(svg: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        inside = False

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "text"

        def handle_data(self, data):
            if self.inside:
                found.append(data)

    Reader().feed(svg)
    return found


@pytest.mark.parametrize("grain", ["hour", "day", "week", "month"])
def test_the_axis_over_time_names_its_unit_and_the_legend_every_model(grain):
    chart = charts.stacked_over_time(segments(3, 5), grain=grain, title=f"USD per {grain}", others=None)
    said = texts(charts.as_svg(chart, label="costs"))
    assert f"USD per {grain}" in said
    assert sum("long-model" in text or "…" in text for text in said) == 3


def test_one_bar_of_one_model_is_a_chart():
    chart = charts.stacked_over_time(segments(1, 1), grain="day", title="USD per day", others=None)
    assert "1 Oct" in texts(charts.as_svg(chart, label="costs"))


def test_names_out_of_logs_stay_text():
    rows = [charts.Bar(NASTY, 1.0, NASTY), charts.Bar("b", None, "not priced")]
    svg = charts.as_svg(charts.bars(rows, title="USD"), label=NASTY)
    assert "<script" not in svg
    assert any("script" in text for text in texts(svg))


def test_a_row_without_a_value_keeps_its_label_and_gets_no_bar():
    svg = charts.as_svg(charts.bars([charts.Bar("ollama", None, "not priced")], title="USD"), label="prices")
    assert {"ollama", "not priced"} <= set(texts(svg))


def test_percentiles_of_a_row_without_answers_leave_the_row_empty():
    rows = [charts.Spread("dead", None, None, None, "0 answers, 100% failed", loud=True)]
    assert "0 answers, 100% failed" in texts(charts.as_svg(charts.spreads(rows, title="ms"), label="latency"))


@pytest.mark.parametrize("values", [(0.02, 0.03, 0.05), (3000, 3000, 3000), (1, 5e3, 4e7)])
def test_latencies_of_any_size_lie_between_the_ends_of_the_axis(values):
    low, middle, high = values
    rows = [charts.Spread("one", low, middle, high, "3 answers"), charts.Spread("none", None, None, None, "")]
    svg = charts.as_svg(charts.spreads(rows, title="latency in ms"), label="latency")
    ticks = [float(text.replace(",", "")) for text in texts(svg) if re.fullmatch(r"[\d,.]+", text)]
    assert min(ticks) <= min(values)
    assert max(values) <= max(ticks)
    assert 2 <= len(ticks) <= 14


def test_charts_take_their_colours_of_text_from_the_page_and_load_nothing():
    chart = charts.stacked_over_time(segments(2, 2), grain="day", title="USD per day", others=None)
    svg = charts.as_svg(chart, label="costs")
    assert "var(--ink)" in svg
    assert not re.search(r"(?:href|src|url\(|xmlns|@import)", svg)
    assert svg.startswith('<svg role="img" aria-label="costs"')


def test_the_same_chart_is_drawn_with_the_same_bytes():
    made = [
        charts.as_svg(
            charts.stacked_over_time(segments(9, 9), grain="day", title="USD", others=None), label="x"
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(("models", "days"), [(1, 1), (8, 92), (40, 31)])
def test_the_picture_for_the_ui_is_a_small_png(models, days):
    picture = charts.as_png(
        charts.stacked_over_time(segments(models, days), grain="day", title="USD per day", others=None)
    )
    assert len(picture) <= charts.LARGEST_PNG
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    position, kinds, data = 8, [], b""
    while position < len(picture):
        (length,) = struct.unpack_from(">I", picture, position)
        kind, body = picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", picture, position + 8 + length)[0] == zlib.crc32(kind + body)
        kinds.append(kind)
        data += body if kind == b"IDAT" else b""
        position += length + 12
    width, height = struct.unpack_from(">II", picture, 16)
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    assert len(zlib.decompress(data)) == height * (1 + 4 * width)
    assert width >= 400
