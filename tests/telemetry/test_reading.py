"""What a file's bytes become before anyone knows what they mean: formats, ends of lines, and damage."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.telemetry.reading import LogReader
from ml_registry_pipelines.telemetry.splitting import Limits
from tests.examples import examples
from tests.telemetry.logs import gz, lines, native, read

TEN = [native(number) for number in range(1, 11)]
IDS = [f"r{number}" for number in range(1, 11)]


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def raw(content: bytes, name: str, **limits: int) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]]]:
    """All records and rejects of a file, as they come from its chunks."""
    reader = LogReader(io.BytesIO(content), name, limits=Limits(**limits))
    chunks = list(reader)
    edges = [(chunk.first_line, chunk.last_line) for chunk in chunks]
    assert all(first <= last for first, last in edges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(edges))
    assert reader.digest == hashlib.sha256(content).hexdigest()
    records = [(row["line"], row["raw"].strip()) for chunk in chunks for row in chunk.records.to_pylist()]
    rejects = [row for chunk in chunks for row in chunk.rejected.to_pylist()]
    rejected = [(row["line"], row["reason"], row["raw"]) for row in rejects]
    for chunk in chunks:
        seen = [*chunk.records["line"].to_pylist(), *chunk.rejected["line"].to_pylist()]
        assert all(chunk.first_line <= line <= chunk.last_line for line in seen if line)
    return records, rejected


# -- formats ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.log", "a", "a.csv", "a.parquet"])
def test_json_lines_are_seen_whatever_the_name(name: str):
    assert read(TEN, name).ids == IDS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl", "a.gz", "a"])
def test_gzip_is_seen_whatever_the_name(name: str):
    assert read(gz(lines(TEN)), name).ids == IDS


@pytest.mark.parametrize(
    ("ending", "first"),
    [("\n", ""), ("\r\n", ""), ("\n\n \t\n\n", ""), ("\n", "\ufeff"), ("\r\n\r\n", "\n\n")],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(ending: str, first: str):
    found = read(first + ending.join(map(json.dumps, TEN)))
    assert found.ids == IDS
    assert found.rejected == []


def test_lines_are_counted_from_one_and_blank_ones_too():
    text = "\n" + json.dumps(native(1)) + "\n\n\n" + json.dumps(native(2)) + "\r\n{\n"
    found = read(text)
    assert [row["line"] for row in found.rows] == [2, 5]
    assert found.reasons == [(6, "invalid_json")]


NOTHING = [b"", b"\n\n", b"  ", b"\xef\xbb\xbf", gz(""), gz("\n")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[(name, content) for name in ("a.jsonl", "a.csv", "a.json", "a.parquet") for content in NOTHING],
        ("a.json", b"[]"),
        ("a.json", b"[\n]\n"),
        ("a.csv", b"ts,event_id\n"),
    ],
)
def test_an_empty_file_holds_no_records_and_no_error(name: str, content: bytes):
    found = read(content, name)
    assert found.rows_in == 0
    assert found.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "export"])
@pytest.mark.parametrize("indent", [None, 1, 4])
def test_one_json_document_with_a_list_holds_its_elements(name: str, indent: int | None):
    found = read(json.dumps(TEN, indent=indent), name)
    assert found.ids == IDS
    assert [row["line"] for row in found.rows] == list(range(1, 11))


def test_a_pretty_printed_object_is_one_record():
    assert read(json.dumps(native(7), indent=2), "a.json").ids == ["r7"]


def test_pretty_printed_objects_one_after_the_other_are_records():
    text = "\n".join(json.dumps(record, indent=2) for record in TEN)
    assert read(text, "a.json").ids == IDS


def test_a_broken_first_line_does_not_make_json_lines_a_document():
    found = read(json.dumps(native(1))[:-9] + "\n" + lines(TEN), "a.json")
    assert found.ids == IDS
    assert found.reasons == [(1, "invalid_json")]


def test_brackets_commas_and_quotes_within_texts_do_not_cut_a_document():
    odd = [
        native(number, application=text)
        for number, text in enumerate(['],[{"', "\\", '\\"}', "a\\\\", ",\n}]"])
    ]
    found = read(json.dumps(odd, indent=1), "a.json")
    assert [row["application"] for row in found.rows] == ['],[{"', "\\", '\\"}', "a\\\\", ",\n}]"]


def test_a_broken_element_of_a_document_is_rejected_alone():
    good = [json.dumps(native(number)) for number in (1, 2)]
    found = read(f"[{good[0]}, {{oops}}, {good[1]}]", "a.json")
    assert found.ids == ["r1", "r2"]
    assert found.reasons == [(2, "invalid_json")]


def test_a_document_that_breaks_off_gives_its_whole_elements():
    found = read(json.dumps(TEN)[:-30], "a.json")
    assert found.ids == IDS[:-1]
    assert found.reasons == [(10, "invalid_json")]


HEADER = "event_id,ts,provider,model,usage.in_uncached,usage.out_text,application\n"


def csv_row(number: int, application: str = "") -> str:
    return f"r{number},2026-10-31T12:00:00Z,openai,gpt-4o,100,20,{application}\n"


def test_csv_rows_are_records_and_dots_are_levels():
    found = read(HEADER + csv_row(1) + csv_row(2, "web"), "a.csv")
    assert found.ids == ["r1", "r2"]
    assert [row["in_uncached"] for row in found.rows] == [100, 100]
    assert [row["application"] for row in found.rows] == [None, "web"]
    assert [row["line"] for row in found.rows] == [2, 3]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_cut_at_the_delimiter_of_its_header(delimiter: str):
    assert read((HEADER + csv_row(1)).replace(",", delimiter), "a.csv").ids == ["r1"]


def test_csv_needs_no_name_and_no_last_line_end():
    assert read((HEADER + csv_row(1) + csv_row(2)).rstrip("\n"), "export").ids == ["r1", "r2"]


def test_quotes_in_csv_hold_commas_quotes_and_line_ends():
    found = read(
        HEADER + csv_row(1, '"a,b"') + csv_row(2, '"two\nlines"') + csv_row(3, '"say ""hi"""'), "a.csv"
    )
    assert [row["application"] for row in found.rows] == ["a,b", "two\nlines", 'say "hi"']
    assert [row["line"] for row in found.rows] == [2, 3, 5]


def test_a_csv_row_with_another_number_of_fields_is_rejected_with_its_text():
    found = read(HEADER + csv_row(1) + "r2,short\n" + csv_row(3).strip() + ",long,er\n" + csv_row(4), "a.csv")
    assert found.ids == ["r1", "r4"]
    assert found.reasons == [(3, "bad_csv_row"), (4, "bad_csv_row")]
    assert found.rejected[0]["raw"] == "r2,short"
    assert found.rejected[0]["message"] == "line 3: it has 2 fields, the header has 7"


def test_a_stray_quote_in_csv_costs_its_own_row_at_most():
    rows = [csv_row(number) for number in range(1, 6)]
    rows[1] = csv_row(2, '"never closed')
    found = read(HEADER + "".join(rows), "a.csv")
    assert found.ids == ["r1", "r3", "r4", "r5"]
    assert found.reasons == [(3, "bad_csv_row")]


def test_two_stray_quotes_in_csv_draw_no_rows_into_one_between_them():
    rows = [csv_row(number) for number in range(1, 6)]
    rows[0], rows[2] = csv_row(1, '"open'), csv_row(3, '5" disk')
    rows[3] = csv_row(4, '"two\nlines"')
    found = read(HEADER + "".join(rows), "a.csv")
    assert found.ids == ["r2", "r3", "r4", "r5"]
    assert found.reasons == [(2, "bad_csv_row")]


def test_a_long_field_beside_a_stray_quote_in_csv_is_taken():
    rows = [csv_row(1, "x" * 200_000), csv_row(2, '"never closed'), csv_row(3)]
    found = read(HEADER + "".join(rows), "a.csv")
    assert (found.ids, found.reasons) == (["r1", "r3"], [(3, "bad_csv_row")])


def test_csv_whose_lines_end_with_cr_alone_is_refused_as_a_whole():
    found = read((HEADER + csv_row(1)).replace("\n", "\r"), "a.csv")
    assert (found.rows, found.reasons) == ([], [(0, "unreadable_file")])
    assert found.reject["message"] == "a.csv: its lines end with CR alone; write them with LF"


def test_a_count_in_csv_that_may_mean_thousands_is_refused():
    counts = ["12.0", "7.00", "1.000", "1.200", "1000.000", "3.0000"]
    rows = [f"r{n},2026-10-31T12:00:00Z,openai,gpt-4o,{count}\n" for n, count in enumerate(counts)]
    found = read("event_id,ts,provider,model,usage.in_uncached\n" + "".join(rows), "a.csv")
    assert [row["in_uncached"] for row in found.rows] == [12, 7, 1000, 3]
    assert found.reasons == [(4, "wrong_type"), (5, "wrong_type")]


def test_a_stray_quote_in_a_long_csv_file_is_given_up_after_a_thousand_lines():
    rows = [csv_row(number) for number in range(1, 5001)]
    rows[99] = csv_row(100, '"never closed')
    records, rejected = raw((HEADER + "".join(rows)).encode(), "a.csv", chunk_bytes=4096)
    assert rejected == [(101, "bad_csv_row", rows[99].strip())]
    assert [line for line, _ in records] == [line for line in range(2, 5002) if line != 101]


def test_csv_with_a_column_twice_is_refused_as_a_whole():
    found = read("ts,ts\n1,2\n", "a.csv")
    assert found.reasons == [(0, "unreadable_file")]
    assert "two columns 'ts'" in found.reject["message"]


def test_parquet_gives_the_same_records_as_json_lines():
    table = pa.Table.from_pylist([{**record, "usage": record["usage"]} for record in TEN])
    assert read(parquet(table), "a.parquet").rows == [
        {**row, "file": "a.parquet"} for row in read(TEN, "a.jsonl").rows
    ]


def test_parquet_is_seen_by_its_first_bytes_and_read_from_a_stream_without_seeking():
    class Pipe(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            super().__init__()
            self.rest = content

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            given, self.rest = self.rest[:size], self.rest[size:]
            return given

    content = parquet(pa.Table.from_pylist(TEN), row_group_size=3)
    found = read(b"", "export", stream=Pipe(content))
    assert found.ids == IDS
    assert [row["line"] for row in found.rows] == list(range(1, 11))
    assert found.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (pa.timestamp("us", "UTC"), "2026-10-31T12:00:00.250000+00:00"),
        (pa.timestamp("ms", "Europe/Berlin"), "2026-10-31T12:00:00.250000+00:00"),
        (pa.timestamp("ns", "America/New_York"), "2026-10-31T12:00:00.250000+00:00"),
        (pa.timestamp("us"), "2026-10-31T16:00:00.250000+00:00"),
        (pa.int64(), "2026-10-31T12:00:00.250000+00:00"),
    ],
)
def test_times_in_parquet_mean_what_their_type_says(type_: pa.DataType, expected: str):
    first = pa.timestamp("ms", "UTC") if pa.types.is_timestamp(type_) else type_
    column = pa.chunked_array([[1793448000250]]).cast(first)
    table = pa.table(
        {"event_id": ["r1"], "ts": column.cast(type_), "provider": ["openai"], "model": ["gpt-4o"]}
    )
    found = read(parquet(table), "a.parquet", time_zone="America/New_York")
    assert found.row["event_ts"].isoformat(timespec="microseconds") == expected


def test_amounts_in_parquet_stay_exact():
    from decimal import Decimal

    amount = Decimal("12345678901234567.123456789012")
    table = pa.Table.from_pylist([{**native(), "usage": None, "cost": amount}])
    assert read(parquet(table), "a.parquet").row["logged_cost"] == amount


def test_counts_in_parquet_that_are_decimals_are_whole_numbers():
    from decimal import Decimal

    table = pa.Table.from_pylist([native()])
    table = table.set_column(
        table.schema.get_field_index("usage"),
        "usage.in_uncached",
        pa.array([Decimal(7)], pa.decimal128(10, 3)),
    )
    assert read(parquet(table), "a.parquet").row["in_uncached"] == 7


def test_parquet_columns_of_types_that_are_not_looked_at_keep_no_row_out():
    import numpy as np

    half = pa.array([np.float16(1.5)], pa.float16())
    odd = {
        "half": half,
        "halves": pa.ListArray.from_arrays([0, 1], half),
        "wide": pa.StructArray.from_arrays([pa.array([1]).cast(pa.decimal256(50, 12))], ["a"]),
        "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.decimal256(50, 12))),
    }
    table = pa.Table.from_pylist([native()])
    for name, column in odd.items():
        table = table.append_column(name, column)
    assert read(parquet(table), "a.parquet").ids == ["r1"]


def test_parquet_with_a_column_twice_is_refused_as_a_whole():
    table = pa.Table.from_pylist([native()])
    found = read(parquet(table.append_column("model", pa.array(["other"]))), "a.parquet")
    assert (found.rows, found.reasons) == ([], [(0, "unreadable_file")])
    assert "two columns 'model'" in found.reject["message"]


def test_text_in_parquet_that_is_not_utf8_costs_its_row_alone_and_keeps_its_text():
    table = pa.Table.from_pylist([native(1), native(2), native(3)])
    models = pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string())
    table = table.set_column(table.schema.get_field_index("model"), "model", models)
    found = read(parquet(table), "a.parquet")
    assert found.ids == ["r1", "r3"]
    assert found.reasons == [(2, "not_utf8")]
    assert '"event_id": "r2"' in found.reject["raw"]
    assert "caf\\\\xe9" in found.reject["raw"]


# -- damage ----------------------------------------------------------------------------


def test_bytes_that_are_not_utf8_cost_their_line_alone():
    good = [json.dumps(native(number)).encode() for number in (1, 2)]
    found = read(good[0] + b'\n{"event_id": "caf\xe9"}\r\n' + good[1] + b"\n")
    assert found.ids == ["r1", "r2"]
    assert found.reject["reason"] == "not_utf8"
    assert found.reject["line"] == 2
    assert found.reject["raw"] == '{"event_id": "caf\\xe9"}'


@pytest.mark.parametrize(
    ("line", "place"),
    [
        *(("\0\0\0", 1), ('{"event_id":', 13), ("oops", 1), ("{} {}", 4), ('{"a": "\0"}', 8)),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin1"), 1),
    ],
)
def test_what_is_not_json_is_rejected_with_its_place_and_text(line: str, place: int):
    found = read([native(1), line, native(2)])
    assert found.ids == ["r1", "r2"]
    assert found.reject == {
        "line": 2,
        "part": 0,
        "reason": "invalid_json",
        "message": f"line 2: the text is not JSON from character {place} on",
        "raw": line,
        "tenant": None,
    }


@pytest.mark.parametrize("line", ["[1]", "5", '"text"', "null", "true"])
def test_json_that_is_no_object_is_rejected_as_such(line: str):
    assert read([native(1), line]).reasons == [(2, "not_an_object")]


def test_a_gzip_file_that_breaks_off_gives_all_whole_lines_and_says_where_it_broke():
    records = [
        native(number, trace_id=random.Random(number).randbytes(16).hex()) for number in range(1, 2001)
    ]
    whole = gz(lines(records))
    found = read(whole[: len(whole) // 2], "a.jsonl.gz")
    assert 100 < len(found.rows) < 2000
    assert found.ids == [f"r{number}" for number in range(1, len(found.rows) + 1)]
    assert found.reasons == [(len(found.rows) + 1, "truncated_gzip")]
    assert "breaks off" in found.reject["message"]
    assert lines(records).splitlines()[len(found.rows)].startswith(found.reject["raw"])


@given(cut=st.integers(3, 600))
@settings(deadline=None)
def test_a_gzip_file_may_break_off_anywhere(cut: int):
    texts = [hashlib.sha256(bytes([number])).hexdigest() for number in range(12)]
    whole = gz("".join(text + "\n" for text in texts))
    records, rejected = raw(whole[: min(cut, len(whole) - 1)], "a.jsonl.gz")
    assert records == list(enumerate(texts, start=1))[: len(records)]
    assert [(line, reason) for line, reason, _ in rejected] == [(len(records) + 1, "truncated_gzip")]


def test_gzip_members_one_after_the_other_are_one_file():
    content = b"".join(gz(json.dumps(record) + "\n") for record in TEN)
    assert read(content, "a.jsonl.gz").ids == IDS


def test_a_line_may_go_on_in_the_next_gzip_member():
    text = lines(TEN)
    assert read(gz(text[:500]) + gz(text[500:]) + b"\0" * 100, "a.jsonl.gz").ids == IDS


@pytest.mark.parametrize("size", [1, 2, 70_000])
def test_foreign_bytes_behind_gzip_data_are_reported_after_the_records(size: int):
    found = read(gz(lines(TEN)) + b"x" * size, "a.jsonl.gz")
    assert found.ids == IDS
    assert [reason for _, reason in found.reasons] == ["corrupt_gzip"]


def test_damage_within_gzip_data_keeps_what_lies_before():
    records = [
        native(number, trace_id=random.Random(number).randbytes(16).hex()) for number in range(1, 5001)
    ]
    whole = bytearray(gz(lines(records)))
    whole[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    found = read(bytes(whole), "a.jsonl.gz")
    assert found.reasons[-1][1] == "corrupt_gzip"
    assert found.ids[:1000] == [f"r{number}" for number in range(1, 1001)]


def test_a_little_file_may_unpack_to_much_in_bounded_memory():
    bomb = gz(b"\0" * (50 << 20))
    records, ((line, reason, text),) = raw(bomb, "a.jsonl.gz", chunk_bytes=1 << 20, longest_record=2 << 20)
    assert (records, line, reason) == ([], 1, "record_too_large")
    assert len(text) <= 64 << 10


@pytest.mark.parametrize("cut", [10, 200, -1, -20])
def test_a_damaged_parquet_file_is_one_reject(cut: int):
    content = parquet(pa.Table.from_pylist(TEN))
    found = read(content[:cut], "a.parquet")
    assert found.rows == []
    assert found.reasons == [(0, "unreadable_file")]
    assert found.reject["message"].startswith("a.parquet: the Parquet file cannot be read (")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x28\xb5\x2f\xfd" + b"x" * 90, "compressed with zstd"),
        (b"PK\x03\x04" + b"x" * 90, "a zip archive"),
        (gz(gz("{}")), "gzipped twice"),
        ("\ufeff{}".encode("utf-16-le"), "UTF-16 text"),
    ],
)
def test_what_cannot_be_read_is_called_by_its_name(content: bytes, what: str):
    found = read(content, "a.jsonl")
    assert found.reasons == [(0, "unreadable_file")]
    assert found.reject["message"] == f"a.jsonl: it is {what}; land UTF-8 text, plain or gzipped, or Parquet"


# -- size ------------------------------------------------------------------------------


def test_a_record_of_ten_megabytes_is_taken():
    long = native(2, tags={"note": "x" * (10 << 20)})
    found = read([native(1), long, native(3)])
    assert found.ids == ["r1", "r2", "r3"]
    assert len(found.rows[1]["tags"]) > 10 << 20


@pytest.mark.parametrize("chunk_bytes", [1000, 10_000, 1 << 20])
def test_a_record_over_the_limit_is_rejected_and_reading_goes_on_behind_it(chunk_bytes: int):
    long = native(2, note="x" * 200_000)
    limits = Limits(chunk_bytes=chunk_bytes, longest_record=100_000)
    found = read([native(1), long, native(3), native(4)], limits=limits)
    assert found.ids == ["r1", "r3", "r4"]
    assert [row["line"] for row in found.rows] == [1, 3, 4]
    assert found.reasons == [(2, "record_too_large")]
    assert found.reject["raw"] == json.dumps(long)[: 64 << 10]


@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_a_document_goes_on_behind_an_element_over_the_limit(chunk_bytes: int):
    records = [native(1), native(2, note='}],"\\' * 40_000), native(3), native(4)]
    limits = Limits(chunk_bytes=chunk_bytes, longest_record=100_000)
    found = read(json.dumps(records, indent=1), "a.json", limits=limits)
    assert found.ids == ["r1", "r3", "r4"]
    assert found.reasons == [(2, "record_too_large")]


def test_a_rejected_row_keeps_a_mebibyte_of_its_text():
    found = read([json.dumps(native(1, ts="never", note="é" * (1 << 20)), ensure_ascii=False)])
    assert found.reject["reason"] == "bad_timestamp"
    assert len(found.reject["raw"].encode()) in (1 << 20, (1 << 20) - 1)


# -- any bytes, cut anywhere: seen by the reader alone, which is quick ------------------


TEXTS = st.one_of(
    st.integers(1, 10**6).map(lambda number: json.dumps(native(number))),
    st.sampled_from(["", "  ", "{", "[]", "null", '"', "a,b", 'a,"b', '"a"",b",c']),
    st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"]), max_size=40),
)
CUTS: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.builds(dict, chunk_bytes=st.integers(1, 300)), st.builds(dict, chunk_rows=st.integers(1, 9))
)


@given(st.lists(TEXTS, max_size=30), st.sampled_from(["\n", "\r\n"]), CUTS)
@settings(deadline=None)
def test_how_lines_are_cut_into_chunks_changes_nothing(texts: list[str], ending: str, cut: dict[str, int]):
    content = ending.join(texts).encode()
    records, rejected = raw(content, "a.jsonl", **cut)
    assert (records, rejected) == raw(content, "a.jsonl")
    assert records == [
        (line, text.strip()) for line, text in enumerate(texts, start=1) if text.strip(" \t\r\n")
    ]


CELLS = st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.booleans())


@given(st.lists(CELLS, max_size=25), CUTS)
@settings(deadline=None, max_examples=examples(40))
def test_how_csv_is_cut_into_chunks_changes_nothing(cells: list[tuple[str, bool]], cut: dict[str, int]):
    def cell(text: str, quoted: bool) -> str:
        return (
            '"' + text.replace('"', '""') + '"'
            if quoted
            else "".join(c for c in text if c not in ',;\t|"\r\n')
        )

    content = ("first,second\n" + "".join(f"x,{cell(*it)}\n" for it in cells)).encode()
    records, rejected = raw(content, "a.csv", **cut)
    assert rejected == []
    assert [json.loads(text)["second"] or "" for _, text in records] == [
        text if quoted else cell(text, quoted) for text, quoted in cells
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES, max_size=8), CUTS, st.sampled_from([None, 1]), st.booleans())
@settings(deadline=None)
def test_how_a_document_is_cut_into_chunks_changes_nothing(
    values: list[object], cut: dict[str, int], indent: int | None, in_a_list: bool
):
    objects = [{"value": value} for value in values]
    if in_a_list:
        content = json.dumps(objects, indent=indent)
    else:
        content = "".join(json.dumps(held, indent=1) + "\n" for held in objects)
    records, rejected = raw(content.encode(), "a.json", **cut)
    assert rejected == []
    assert [(line, json.loads(text)) for line, text in records] == list(enumerate(objects, start=1))


@given(st.binary(max_size=300), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a"]), CUTS, st.booleans())
@settings(deadline=None)
def test_no_bytes_whatever_raise_an_error(content: bytes, name: str, cut: dict[str, int], packed: bool):
    raw(gz(content) if packed else content, name, **cut)


HEAPS = st.text(alphabet='{}[]",:\\ \n\r\t01ae\0é', max_size=120)


@given(HEAPS, st.sampled_from(["a.jsonl", "a.json", "a.csv", "a"]), st.integers(1, 60))
@settings(deadline=None)
def test_no_heap_of_brackets_quotes_and_line_ends_raises_an_error(text: str, name: str, chunk_bytes: int):
    raw(text.encode(), name, chunk_bytes=chunk_bytes, longest_record=50)


def test_a_file_is_taken_up_again_behind_a_line():
    content = lines([*TEN[:3], "broken", *TEN[3:]])
    found = read(content, start_after_line=4, limits=Limits(chunk_rows=3))
    assert found.ids == IDS[3:]
    assert found.rejected == []
    assert found.digest == read(content).digest
    assert found.parts[0].first_line == 5
