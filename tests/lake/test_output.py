"""How rows are shown to people and given to programs."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_registry_pipelines.lake.output import OutputError, as_table, write_result, write_text

ROWS = pa.table(
    {
        "model": ["gpt", None, ""],
        "requests": pa.array([1200, 7, None], pa.int64()),
        "cost": pa.array([Decimal("0.000000150000"), Decimal(12), None], pa.decimal128(38, 12)),
        "at": pa.array([datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), None, None], pa.timestamp("us", "UTC")),
    }
)


def printed(capsys, rows: pa.Table, form: str, **options) -> str:
    write_result(rows, form=form, **options)
    return str(capsys.readouterr().out)


def test_the_table_is_aligned_and_shows_null(capsys):
    assert printed(capsys, ROWS, "table") == (
        "model  requests             cost  at\n"
        "-----  --------  ---------------  ---------------------------\n"
        "gpt        1200   0.000000150000  2026-01-02T03:04:05.678901Z\n"
        "NULL          7  12.000000000000  NULL\n"
        "           NULL             NULL  NULL\n"
        "(3 rows)\n"
    )


def test_csv_tells_null_from_empty_and_keeps_every_digit(capsys):
    assert printed(capsys, ROWS, "csv") == (
        "model,requests,cost,at\n"
        "gpt,1200,0.000000150000,2026-01-02T03:04:05.678901Z\n"
        ",7,12.000000000000,\n"
        '"",,,\n'
    )


def test_json_is_one_array_with_exact_decimals(capsys):
    assert json.loads(printed(capsys, ROWS, "json")) == [
        {"model": "gpt", "requests": 1200, "cost": "0.000000150000", "at": "2026-01-02T03:04:05.678901Z"},
        {"model": None, "requests": 7, "cost": "12.000000000000", "at": None},
        {"model": "", "requests": None, "cost": None, "at": None},
    ]


def test_no_rows_are_an_empty_array_and_an_empty_table(capsys):
    empty = ROWS.slice(0, 0)
    assert json.loads(printed(capsys, empty, "json")) == []
    assert printed(capsys, empty, "csv") == "model,requests,cost,at\n"
    assert printed(capsys, empty, "table").splitlines()[-1] == "(0 rows)"


def test_wide_values_are_cut_and_long_results_say_how_much_is_hidden(capsys):
    rows = pa.table({"text": ["x" * 100] * 12})
    lines = printed(capsys, rows, "table", longest=10).splitlines()
    assert lines[2] == "x" * 59 + "…"
    assert len(lines) == 13
    assert lines[-1] == "(12 rows, 2 of them not shown)"
    assert len(printed(capsys, rows, "table", longest=None).splitlines()) == 15


def test_a_value_cannot_steer_the_terminal(capsys):
    rows = pa.table({"te\x1bxt": ["\x1b[31mred\nnext\t\u202e\x07"]})
    out = printed(capsys, rows, "table")
    assert out.splitlines()[2] == r"\x1b[31mred\nnext\t\u202e\x07"
    assert "\x1b" not in out


def test_wide_letters_keep_the_columns_aligned(capsys):
    lines = printed(capsys, pa.table({"name": ["日本", "ab"], "n": [1, 2]}), "table").splitlines()
    assert lines[2:4] == ["日本  1", "ab    2"]


@given(st.text(max_size=90))
def test_every_text_is_one_line_of_bounded_width(text):
    lines = list(as_table(pa.table({"c": [text]})))
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.tuples(st.one_of(st.none(), st.text()), st.integers(-(2**63), 2**63 - 1)), max_size=5))
def test_csv_and_json_are_read_back_as_they_were(values):
    rows = pa.table(
        {
            "a": pa.array([a for a, _ in values], pa.string()),
            "b": pa.array([b for _, b in values], pa.int64()),
        }
    )
    for form in ("csv", "json"):
        stream = io.StringIO(newline="")
        write_text(rows, form, stream)
        if form == "json":
            assert json.loads(stream.getvalue()) == rows.to_pylist()
        else:
            read = list(csv.reader(io.StringIO(stream.getvalue(), newline=""), strict=True))
            assert read == [["a", "b"], *([a or "", str(b)] for a, b in values)]


def test_values_of_every_type_have_a_text(capsys):
    values = {
        "flag": True,
        "day": date(2026, 1, 2),
        "clock": time(1, 2, 3),
        "took": timedelta(seconds=90),
        "local": datetime(2026, 1, 2, 3, 4),  # noqa: DTZ001 - a time without a zone is the point
        "bytes": b"\x00\xff",
        "infinite": float("inf"),
        "list": [1, 2],
        "struct": {"cost": Decimal("1.50")},
    }
    (row,) = json.loads(printed(capsys, pa.Table.from_pylist([values]), "json"))
    assert row == {
        "flag": True,
        "day": "2026-01-02",
        "clock": "01:02:03",
        "took": "90 s",
        "local": "2026-01-02T03:04:00",
        "bytes": "AP8=",
        "infinite": "inf",
        "list": [1, 2],
        "struct": {"cost": "1.50"},
    }


def test_a_file_is_written_whole(tmp_path):
    for form in ("csv", "json", "table", "parquet"):
        target = tmp_path / f"out.{form}"
        write_result(ROWS, form=form, output=target)
        write_result(ROWS, form=form, output=target)
    assert pq.read_table(tmp_path / "out.parquet").equals(ROWS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.json", "out.parquet", "out.table"]


def test_what_cannot_be_written_is_told_in_one_sentence(tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/out\.csv cannot be written: No such file or directory"):
        write_result(ROWS, form="csv", output=tmp_path / "nowhere" / "out.csv")
    with pytest.raises(OutputError, match="cannot be printed; name a file with --output"):
        write_result(ROWS, form="parquet")
    with pytest.raises(
        OutputError, match="there is no format 'xml'; the formats are table, csv, json, parquet"
    ):
        write_result(ROWS, form="xml")
