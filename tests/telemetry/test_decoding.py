"""What a record must be to be taken, why one is not, and what no input whatever can do."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.lake.tables.telemetry import COUNTERS, INFERENCE_EVENTS, TOKEN_BUCKETS
from ml_registry_pipelines.telemetry.decoding import DialectError, LogFile, Origin
from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.dialects.native import NATIVE, schema
from ml_registry_pipelines.telemetry.identity import event_key, salted_hash
from ml_registry_pipelines.telemetry.normalising import rows_schema
from ml_registry_pipelines.telemetry.splitting import Limits
from tests.examples import examples
from tests.telemetry.logs import WRITTEN, native, read

jsonschema = import_module("jsonschema")  # it ships no types
SCHEMA = jsonschema.Draft202012Validator(schema())


def with_usage(**counts: Any) -> dict[str, Any]:
    return native(usage=counts)


# -- the schema that is shipped, and what is taken -------------------------------------


def test_the_schema_is_one_and_names_every_bucket_and_counter():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert set(schema()["properties"]["usage"]["properties"]) == {
        *TOKEN_BUCKETS,
        *COUNTERS,
        "audio_seconds",
        "total",
    }
    for example in schema()["examples"]:
        SCHEMA.validate(example)
        assert read([example]).rejected == []


NO_COUNT: tuple[Any, ...] = (
    -1, 12.7, "12.7", "12abc", "1e3", "0x10", "1_000", " 12", "+12", "-3", True, {}, [], 10**9 + 1, 1e300, "9" * 40,
    "nan", float("nan"),
)  # fmt: skip
NO_DURATION: tuple[Any, ...] = (-1, "-0.5", "soon", "1_0", "inf", True, {}, 10**12, float("inf"))
NO_TIME: tuple[Any, ...] = (
    None, "", "yesterday", "2026-10-31", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-10-31T25:00:00Z",
    "infinity", "epoch", "0026-10-31T12:00:00Z", "2014-12-31T23:59:59Z", "2026-11-01T13:00:01Z", 0, -1, 1e-7, 1e300,
    True, {}, [],
)  # fmt: skip


def each(name: str, reason: str, *values: Any) -> list[tuple[str, Any, str]]:
    """A field with values that it may not have, and the reason; none where it depends on the value."""
    return [(name, value, reason) for value in values]


REFUSED: list[tuple[str, Any, str]] = [
    *each("event_id", "missing_field", None, ""),
    *each("provider", "missing_field", None, "", "  "),
    *each("model", "missing_field", None, "", "  "),
    *[
        refused
        for name in ("event_id", "provider", "model")
        for refused in each(name, "wrong_type", {"a": 1}, [1])
    ],
    *[refused for name in ("tenant", "source_system") for refused in each(name, "wrong_type", {"a": 1}, [1])],
    *each("ts", "", *NO_TIME),
    *each("attempt", "bad_attempt", 0, -1, 1.5, "two", 10**6 + 1, 10**30, True, {}),
    *each("latency_ms", "", *NO_DURATION),
    *each("ttft_ms", "", *NO_DURATION),
    *each("status", "unknown_status", "ok", "SUCCESS", 1, True, {}),
    *each("kind", "unknown_kind", "span", "LEAF", 0),
    *each("stream", "wrong_type", "maybe", 2, "yes", [], 0.5),
    *each("cost", "wrong_type", "free", "1,50", "$1", True, {}, 1e30, "1_0"),
    *each("currency", "wrong_type", "euro", "€", 978),
    *each("tags", "wrong_type", "team=a", ["a"], 5, "{oops"),
    *each("usage", "wrong_type", "lots", 5, [1], True),
    *each("tenant", "bad_tenant", "x" * 129, "a\nb", "a\u0000b", "\u007f"),
]
TAKEN: list[tuple[str, Any]] = [
    *[("event_id", value) for value in (5, "5", 1.5, True, "{", "[x", "é" * 300, "a\u0000b")],
    *[("model", value) for value in (" gpt-4o ", "{not an object", 4)],
    *[("ts", value) for value in ("2026-10-31T12:00Z", "2026-10-31 12:00:00.123456789", "2026-10-31t12:00:00,5z",
      "2026-10-31T12:00:00+0230", "2026-10-31T12:00:00 UTC", 1793448000, 1793448000.25, "1793448000", 1793448000250,
      "1793448000250000", 1793448000250000000, "2015-01-01T00:00:00Z", "2026-11-01T13:00:00Z")],
    *[("attempt", value) for value in (1, 2.0, "3", 10**6, None, "")],
    *[(name, value) for name in ("latency_ms", "ttft_ms") for value in (0, 0.5, "12.5", "1e3", ".5", "5.", None, "")],
    *[("status", value) for value in ("success", "cache_hit", None, "")],
    *[("stream", value) for value in (True, False, "true", "FALSE", 0, 1, "1", None, "")],
    *[("cost", value) for value in (0.0021, "0.002100000001", 0, -1, "5", ".5", None, "")],
    *[("currency", value) for value in ("USD", "eur", None, "")],
    *[("tags", value) for value in ({}, {"a": {"b": [1]}}, '{"a": 1}', None, "")],
    *[("usage", value) for value in (None, {}, {"unknown": "x"})],
    *[("tenant", value) for value in ("x" * 128, "Käse & Co", 7, None, "", "  ")],
    *[("application", value) for value in ("x", 5, {"a": 1}, [1], None, "")],
    *[("user_id", value) for value in ('{"account": "a"}', 7, {"a": 1})],
    ("anything", {"else": [1]}),
]  # fmt: skip
COUNTS_TAKEN: tuple[Any, ...] = (0, 12, 12.0, "1200", "12.0", "0012", 10**9, None, "")


def as_refused(value: object) -> bool:
    """JSON as Python writes it has values that JSON Schema knows nothing of."""
    return isinstance(value, float) and (value != value or value in (float("inf"), float("-inf")))


def test_what_is_refused_has_its_reason_and_is_no_record_by_the_schema():
    found = read([native(0), *[native(number, **{name: value}) if name != "event_id" else {**native(), name: value}
                               for number, (name, value, _) in enumerate(REFUSED, start=1)]])  # fmt: skip
    assert [row["event_id"] for row in found.rows] == ["r0"]
    for (name, value, reason), reject in zip(REFUSED, found.rejected, strict=True):
        assert reject["reason"] == reason or not reason, (name, value, reject)
        assert name in reject["message"] or name == "tenant", (name, value, reject)
        calendar = name == "ts" and isinstance(value, str) and value[:4].isdigit()
        if not calendar and not as_refused(value):
            assert not SCHEMA.is_valid({**native(), name: value}), (name, value)


def test_what_is_taken_is_a_record_by_the_schema():
    records = [{**native(number), name: value} for number, (name, value) in enumerate(TAKEN)]
    found = read(records)
    assert found.rejected == []
    assert len(found.rows) == len(TAKEN)
    for name, value in TAKEN:
        record = {**native(), name: value}
        assert SCHEMA.is_valid(record), (name, value, next(SCHEMA.iter_errors(record)).message)


def test_counts_are_whole_numbers_and_nothing_is_rounded():
    names = [*TOKEN_BUCKETS, *COUNTERS, "total"]
    asked = [(name, value) for name in names for value in (*NO_COUNT, *COUNTS_TAKEN)]
    found = read([{**native(number), "usage": {name: value}} for number, (name, value) in enumerate(asked)])
    each = len(NO_COUNT) + len(COUNTS_TAKEN)
    for place, name in enumerate(names):
        lines_of = range(place * each + 1, (place + 1) * each + 1)
        rejected = [reject for reject in found.rejected if reject["line"] in lines_of]
        assert [reject["line"] for reject in rejected] == list(lines_of[: len(NO_COUNT)]), name
        reasons = {reject["reason"] for reject in rejected}
        assert reasons == {"negative_count", "wrong_type", "absurd_count"}, name
        assert all(f"`usage.{name}` is " in reject["message"] for reject in rejected), name
        column = "provider_total_tokens" if name == "total" else name
        taken = [row[column] for row in found.rows if row["line"] in lines_of]
        assert taken == [0, 12, 12, 1200, 12, 12, 10**9, None, None], name
        for value in NO_COUNT:
            assert as_refused(value) or not SCHEMA.is_valid(with_usage(**{name: value})), value
        for value in COUNTS_TAKEN:
            assert SCHEMA.is_valid(with_usage(**{name: value})), value


def test_audio_is_counted_in_seconds():
    found = read([with_usage(audio_seconds=value) for value in (1.25, "2", None, -1, "long")])
    assert [row["audio_seconds"] for row in found.rows] == [1.25, 2.0, None]
    assert [reject["reason"] for reject in found.rejected] == ["negative_count", "wrong_type"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["2026-10-31T12:00:00Z", "success", "leaf", "12", "1e5", "{}", "USD"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(schema()["properties"])), JSON)
        | st.dictionaries(st.sampled_from(["in_uncached", "total", "pages"]), JSON).map(
            lambda u: {"usage": u}
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(deadline=None, max_examples=examples(30))
def test_whatever_stands_in_a_field_the_record_is_taken_or_rejected_and_valid_ones_are_taken(
    changes: list[dict[str, Any]],
):
    records = [{**native(number), **change} for number, change in enumerate(changes)]
    found = read(records, dialect="native")
    assert found.rows_in == len(records)
    taken = {row["line"] for row in found.rows}
    for line, record in enumerate(records, start=1):
        plain = "NaN" not in json.dumps(record) and "Infinity" not in json.dumps(record)
        # The calendar, and what only the file's age tells, is beyond the schema.
        if line not in taken and plain and record["ts"] in (native()["ts"], None):
            assert not SCHEMA.is_valid(record), found.rejected


# -- times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ts", "instant"),
    [
        ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00.000000"),
        ("2026-10-31T12:00:00.1234567Z", "2026-10-31T12:00:00.123456"),
        ("2026-10-31T14:00:00+02:00", "2026-10-31T12:00:00.000000"),
        ("2026-10-31T05:30:00-0630", "2026-10-31T12:00:00.000000"),
        ("2026-10-31 12:00:00", "2026-10-31T11:00:00.000000"),
        ("2026-07-31 12:00", "2026-07-31T10:00:00.000000"),
        ("2026-10-25 02:30:00", "2026-10-25T01:30:00.000000"),  # twice that night: the later one
        (1793448000, "2026-10-31T12:00:00.000000"),
        (1793448000.123456, "2026-10-31T12:00:00.123456"),
        (1793448000123, "2026-10-31T12:00:00.123000"),
        (1793448000123456, "2026-10-31T12:00:00.123456"),
        ("1793448000123456789", "2026-10-31T12:00:00.123456"),
        (1793448000123456789, "2026-10-31T12:00:00.123456"),
    ],
)
def test_a_time_is_read_in_every_unit_and_zone(ts: object, instant: str):
    row = read([native(ts=ts)], time_zone="Europe/Berlin").row
    assert row["event_ts"].isoformat(timespec="microseconds") == instant + "+00:00"
    assert row["day"] == row["event_ts"].date()


@given(st.integers(1420156800_000000, 1793448000_000000))
@settings(deadline=None, max_examples=examples(30))
def test_every_way_to_write_an_instant_gives_that_instant(us: int):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    ways = [moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S.%fZ}", us, us * 1000 + 999, str(us), us / 1e6]
    found = read([native(number, ts=way) for number, way in enumerate(ways)])
    assert [row["event_ts"] for row in found.rows] == [moment] * len(ways)


def test_days_are_days_in_utc_whatever_the_zone_of_the_source():
    row = read([native(ts="2026-10-31 00:30:00")], time_zone="Asia/Tokyo").row
    assert row["day"].isoformat() == "2026-10-30"


def test_a_row_is_judged_by_the_age_of_its_file_and_never_by_the_clock():
    late = native(ts="2016-06-01T12:00:00Z")
    written = datetime(2016, 5, 31, 13, tzinfo=UTC)
    assert read([late], modified_at=written).rejected == []
    assert read([late], modified_at=written - timedelta(hours=2)).reject["reason"] == "absurd_timestamp"


# -- tenants and people ----------------------------------------------------------------


def test_the_tenant_is_the_sources_or_the_fields_or_the_records_or_default():
    records = [native(1, tenant="acme", org={"id": " globex "}), native(2)]
    assert [row["tenant"] for row in read(records).rows] == ["acme", "default"]
    assert [row["tenant"] for row in read(records, tenant="initech").rows] == ["initech", "initech"]
    found = read(records, tenant_field="org.id")
    assert [row["tenant"] for row in found.rows] == ["globex"]
    assert found.reject["reason"] == "missing_tenant"
    assert found.reject["message"] == "line 2: the field org.id, which the source names as tenant, is missing"


@pytest.mark.parametrize("field", ["org.id", "a/b", "m~n", '"', "'); DROP TABLE x; --", "tenant"])
def test_the_tenants_field_may_be_called_anything(field: str):
    assert read([native(**{field: "acme"})], tenant_field=field).row["tenant"] == "acme"


def test_a_reject_says_whose_it_is_where_that_is_known():
    assert read([native(ts="never", tenant="acme")]).reject["tenant"] == "acme"
    assert read(["oops"], dialect="native", tenant="acme").reject["tenant"] == "acme"
    assert read(["oops"], dialect="native").reject["tenant"] is None


def test_people_are_salted_hashes_that_differ_by_tenant_and_salt():
    records = [
        native(1, user_id="u1", tenant="a"),
        native(2, user_id="u1", tenant="b"),
        native(3, user_id="u1", tenant="a"),
    ]
    first, second, third = (row["user_hash"] for row in read(records).rows)
    assert first == third == salted_hash("salt", "a", "u1") != second
    assert read(records, salt="other").rows[0]["user_hash"] == salted_hash("other", "a", "u1") != first
    assert "u1" not in str([value for value in read(records).rows[0].values() if value != "r1"])


# -- usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "quality"),
    [
        ({}, "missing"),
        (None, "missing"),
        ({"in_uncached": 10, "out_text": 2}, "exact"),
        ({"in_uncached": 10, "out_text": 2, "total": 12}, "exact"),
        ({"in_uncached": 10, "out_text": 2, "total": 11}, "inconsistent"),
        ({"total": 500}, "inconsistent"),
        ({"total": 0}, "exact"),
        ({"pages": 3}, "exact"),
        ({"audio_seconds": 3.5}, "exact"),
        ({**dict.fromkeys(TOKEN_BUCKETS, 1), "total": len(TOKEN_BUCKETS)}, "exact"),
        ({**dict.fromkeys(TOKEN_BUCKETS, 10**9), "total": 10**9}, "inconsistent"),
    ],
)
def test_buckets_and_total_must_agree_or_the_row_says_so_and_is_kept(usage: object, quality: str):
    assert read([native(usage=usage)]).row["usage_quality"] == quality


def test_amounts_keep_twelve_decimals_as_text():
    found = read(
        [
            native(1, cost="0.000000000001"),
            native(2, cost=1.2345e-7, currency="eur"),
            native(3, currency="USD"),
        ]
    )
    assert [(row["logged_cost"], row["logged_currency"]) for row in found.rows] == [
        (Decimal("0.000000000001"), "USD"),
        (Decimal("0.000000123450"), "EUR"),
        (None, None),
    ]


# -- identity --------------------------------------------------------------------------


@given(
    st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)] * 3),
    st.integers(1, 10**6),
)
@settings(deadline=None, max_examples=examples(40))
def test_the_key_in_sql_is_the_key_in_python(names: tuple[str, str, str], attempt: int):
    tenant, system, identifier = names
    record = native(source_system=system, event_id=identifier, attempt=attempt)
    found = read([record], tenant=tenant, dialect="native")
    for row in found.rows:
        assert row["event_key"] == event_key(tenant, system, identifier, attempt)


def test_keys_are_what_the_tables_hold_for_ever():
    row = read(
        [native(1, tenant="acme", usage={"in_uncached": 176, "out_text": 38}, service_tier="flex")]
    ).row
    assert event_key("acme", "native", "req-1") == -9130886748007357226
    assert row["event_key"] == 1307428674723585748


def test_parts_of_an_identity_do_not_run_into_each_other():
    ids = [("a", "b"), ("ab", ""), ("", "ab"), ("a1", "b"), ("a", "1b")]
    keys = {event_key("t", system, identifier) for system, identifier in ids}
    assert len(keys) == len(ids)


# -- what holds for every file ---------------------------------------------------------


def test_rows_have_the_declared_columns_and_types():
    (part,) = read([native(1, tags={"a": 1}, cost=1), native(2)]).parts
    assert part.rows.schema == rows_schema()
    assert [field.name for field in rows_schema()] == [
        n for n in INFERENCE_EVENTS.column_names if n != "batch"
    ]
    part.rows.validate(full=True)
    part.rejected.validate(full=True)


LINES = st.one_of(
    st.integers(1, 99).map(lambda number: json.dumps(native(number, tenant=f"t{number}"))),
    st.sampled_from(
        [
            "{", "null", "[]", "{}", "\u0000", '{"event_id": "x"}', json.dumps(native(1, ts="never")),
            json.dumps(native(1, usage={"in_uncached": -1, "out_text": "x"}, status="?", latency_ms=-1)),
            json.dumps(native(1, tags={"a": 1}, cost="1", user_id="u", attempt=3)),
            '{"a": 1, "a": 2}', '{"event_id": NaN}', "[" * 2000 + "]" * 2000, '{"ts": 1e400}',
        ]
    ),
)  # fmt: skip


@given(st.lists(LINES, max_size=16), st.sampled_from(sorted(DIALECTS)), st.integers(1, 8))
@settings(deadline=None, max_examples=examples(25))
def test_every_record_comes_out_once_and_chunks_change_nothing(texts: list[str], dialect: str, rows: int):
    at_once = read(texts, dialect=dialect)
    assert at_once.rows_in == len(texts)
    in_chunks = read(texts, dialect=dialect, limits=Limits(chunk_rows=rows))
    assert in_chunks.rows == at_once.rows
    assert in_chunks.rejected == at_once.rejected
    assert in_chunks.ignored == at_once.ignored


@given(st.lists(LINES, min_size=2, max_size=16), st.sampled_from(sorted(DIALECTS)), st.data())
@settings(deadline=None, max_examples=examples(15))
def test_a_file_taken_in_two_goes_gives_what_it_gives_at_once(
    texts: list[str], dialect: str, data: st.DataObject
):
    line = data.draw(st.integers(1, len(texts) - 1))
    whole, later = read(texts, dialect=dialect), read(texts, dialect=dialect, start_after_line=line)
    assert later.rows == [row for row in whole.rows if row["line"] > line]
    assert later.rejected == [reject for reject in whole.rejected if reject["line"] > line]


@given(st.permutations(range(8)))
@settings(deadline=None, max_examples=examples(10))
def test_the_order_of_records_changes_no_row_but_its_line(order: list[int]):
    records = [native(number, tags={"n": number}, cost=number) for number in range(8)]
    found = read([records[number] for number in order])
    by_id = {row.pop("event_id"): {**row, "line": None} for row in found.rows}
    straight = {row.pop("event_id"): {**row, "line": None} for row in read(records).rows}
    assert by_id == straight


def test_all_that_is_wrong_with_a_record_is_said_in_one_sentence():
    wrong = {"ts": "never", "status": "?", "latency_ms": -1, "usage": {"in_uncached": -5, "pages": "x" * 500}}
    message = read([native(1, **wrong)]).reject["message"]
    assert message == (
        "line 1: `ts` is never: neither an ISO 8601 time nor a number since 1970; `latency_ms` is -1, which makes a"
        " negative time; `usage.in_uncached` is -5: negative; `usage.pages` is "
        + "x"
        * 80
        + ": not a whole number;"
        " `status` is ?: not one of success, error_billed, error_unbilled, cancelled_billed, cache_hit"
    )


def test_a_first_record_of_many_levels_does_not_hide_the_dialect():
    deep = '{"x":' * 300_000 + "1" + "}" * 300_000
    found = read([deep, native(1)])
    assert found.ids == ["r1"]
    assert found.reasons == [(1, "missing_field")]


def test_a_dialect_that_gives_an_unknown_candidate_is_refused_by_name():
    odd = dataclasses.replace(
        NATIVE, name="odd", select="SELECT line, 0 AS part, raw, raw AS evnt_id FROM records"
    )
    origin = Origin("tests", "a", modified_at=WRITTEN, recorded_at=WRITTEN, base_time=WRITTEN)
    with pytest.raises(
        DialectError, match="'odd' gives evnt_id, which is no candidate; candidates are event_id"
    ):
        list(LogFile(io.BytesIO(b"{}"), origin, dialect=odd))
