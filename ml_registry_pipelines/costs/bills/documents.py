"""Reading a file of bills: JSON answers of provider APIs, and FOCUS rows as CSV or Parquet; gzip is unpacked.

A file gives records in their order. What a record says is in `formats/`; a pull's answers are kept
in an envelope that also says for which days they are complete.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ml_registry_pipelines.costs.bills.formats import anthropic, cloudflare, focus, openai
from ml_registry_pipelines.costs.bills.lines import Given, Line, LineError, Record, raw_of, text
from ml_registry_pipelines.telemetry.dialects.bills import BillFormat, bill_format

if TYPE_CHECKING:
    from types import ModuleType

ENVELOPE = "mlreg_pull"
LARGEST_JSON = 512 << 20
LARGEST_FILE = 2 << 30
"""Bytes after unpacking; provider reports of a month have a few million."""
RAW = 64 << 10
_PARQUET_ROWS = 10_000

CompleteDay: TypeAlias = "tuple[str, str, str | None, date]"
"""Report, issuer, account and day that a file states as a whole."""


@dataclass
class Document:
    """What a file holds. The sets fill while `records` is read."""

    records: Iterator[Record]
    complete: bool = False
    days: set[CompleteDay] = field(default_factory=set)
    """Days that were stated, each with what stated them."""
    broken: set[tuple[str, date]] = field(default_factory=set)
    """Report and day of records that could not be taken: lines missing there may be among them."""


def read_document(name: str, data: bytes, given: Given, *, complete: bool = False) -> Document:
    """The records of a file.

    Args:
        name: the file's name; only its end counts.
        complete: whether the file states all lines of its days.
    """
    found = Document(iter(()), complete=complete)
    try:
        unpacked = _unpacked(data)
        if unpacked[:4] == b"PAR1":
            rows = _parquet_rows(unpacked)
            found.records = _noted(_focus(rows, given), found)
        elif name.lower().removesuffix(".gz").endswith(".csv"):
            found.records = _noted(_focus(_csv_rows(unpacked), given), found)
        else:
            found.records = _noted(_json(unpacked, given, found), found)
    except LineError as wrong:
        found.records = iter([Record(0, None, reason=wrong.reason, message=str(wrong))])
    return found


def envelope(pull: Mapping[str, Any], pages: list[bytes]) -> bytes:
    """The bytes in which a pull's answers are kept: `report`, `issuer`, `account`, `days`, and the pages as given.

    A page is kept byte for byte: written anew, a number could become a text, or lose digits.
    """
    head = json.dumps(dict(pull), ensure_ascii=False).encode()
    return b'{"%s": %s, "pages": [\n%s\n]}' % (ENVELOPE.encode(), head, b",\n".join(pages))


def parse_json(data: bytes) -> Any:
    """JSON with exact numbers.

    Raises:
        LineError: it is none.
    """
    try:
        return json.loads(data, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError) as wrong:
        raise LineError("not_json", f"it is no JSON: {str(wrong)[:200]}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _unpacked(data: bytes) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            unpacked = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as failure:
        raise LineError("damaged", f"the gzip file is damaged or cut off: {failure}") from None
    if len(unpacked) > LARGEST_FILE:
        raise LineError("too_large", f"the file unpacks to more than {LARGEST_FILE >> 20} MiB; divide it")
    return unpacked


def _noted(records: Iterator[Record], found: Document) -> Iterator[Record]:
    """The records, with equal lines told apart, and their days noted."""
    seen: dict[tuple[object, ...], int] = {}
    for record in records:
        if record.reason is not None:
            if record.report is not None and record.bucket is not None:
                found.broken.add((record.report, record.bucket[0].date()))
            yield record
            continue
        lines = []
        for line in record.lines:
            occurrence = seen.get(line.dimensions, 0)
            seen[line.dimensions] = occurrence + 1
            lines.append(line.nth(occurrence))
            found.days.add((line.report, line.issuer, line.account, line.day))
        yield Record(record.number, record.report, tuple(lines), ignored=record.ignored, raw=record.raw)


# -- FOCUS -------------------------------------------------------------------------------


def _focus(rows: Iterator[tuple[int, Mapping[str, Any] | LineError]], given: Given) -> Iterator[Record]:
    for number, row in rows:
        if isinstance(row, LineError):
            yield Record(number, focus.REPORT, reason=row.reason, message=str(row))
            continue
        try:
            line = focus.line(row, given)
        except LineError as wrong:
            yield Record(
                number, focus.REPORT, reason=wrong.reason, message=str(wrong), raw=raw_of(row)[:RAW],
                bucket=_focus_bucket(row),
            )  # fmt: skip
            continue
        yield Record(number, focus.REPORT, () if line is None else (line,), ignored=line is None)


def _focus_bucket(row: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    from ml_registry_pipelines.costs.bills.lines import instant

    try:
        start = instant(row.get("ChargePeriodStart"), "ChargePeriodStart")
    except LineError:
        return None
    return start, start


def _csv_rows(data: bytes) -> Iterator[tuple[int, Mapping[str, Any] | LineError]]:
    try:
        stream = io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as wrong:
        raise LineError(
            "not_utf8", f"the file is not UTF-8 text: {wrong.reason} at byte {wrong.start}"
        ) from None
    reader = csv.reader(stream, strict=True)
    try:
        columns = next(reader, [])
    except csv.Error as wrong:
        raise LineError("not_csv", f"the file is no CSV: {wrong}") from None
    columns = [column.strip() for column in columns]
    if not focus.is_focus(columns):
        raise LineError(
            "unknown_format",
            f"the file is CSV without the columns {', '.join(focus.REQUIRED)} of FOCUS; export it in that format",
        )
    return _csv_body(reader, columns)


def _csv_body(reader: Any, columns: list[str]) -> Iterator[tuple[int, Mapping[str, Any] | LineError]]:
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as wrong:
            yield (
                first,
                LineError("not_csv", f"line {first} is no CSV: {wrong}; what follows it was not read"),
            )
            return
        if values is None:
            return
        if not values:
            continue
        if len(values) != len(columns):
            yield (
                first,
                LineError("not_csv", f"line {first} has {len(values)} values, the head has {len(columns)}"),
            )
            continue
        yield first, {name: _null(value) for name, value in zip(columns, values, strict=True)}


def _null(value: str) -> str | None:
    """FOCUS writes null as nothing; exporters write the word."""
    return None if value in _NULLS or value.strip() in _NULLS else value


_NULLS = frozenset({"", "null", "NULL"})


def _parquet_rows(data: bytes) -> Iterator[tuple[int, Mapping[str, Any] | LineError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as failure:
        raise LineError("damaged", f"the Parquet file cannot be read: {failure}") from None
    if not focus.is_focus(file.schema_arrow.names):
        raise LineError(
            "unknown_format", f"the file is Parquet without the columns {', '.join(focus.REQUIRED)} of FOCUS"
        )
    return _parquet_body(file)


def _parquet_body(file: Any) -> Iterator[tuple[int, Mapping[str, Any] | LineError]]:
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as failure:
        yield number + 1, LineError("damaged", f"the Parquet file breaks off after row {number}: {failure}")


# -- JSON --------------------------------------------------------------------------------


def _json(data: bytes, given: Given, found: Document) -> Iterator[Record]:
    if len(data) > LARGEST_JSON:
        raise LineError("too_large", f"the file has more than {LARGEST_JSON >> 20} MiB of JSON; divide it")
    if not data.strip():
        raise LineError("empty", "the file is empty; take it out, or put the bill into it")
    documents: list[tuple[int, Any]]
    try:
        documents = [(1, parse_json(data))]
    except LineError as wrong:
        documents = _json_lines(data, wrong)
    first = documents[0][1]
    if isinstance(first, dict) and isinstance(first.get(ENVELOPE), dict):
        return _pulled(first, given, found)
    held: list[tuple[int, Any]] = []
    for number, document in documents:
        held += [(number, each) for each in (document if isinstance(document, list) else [document])]
    return _pages(held, given, by_line=len(documents) > 1)


def _json_lines(data: bytes, wrong: LineError) -> list[tuple[int, Any]]:
    """A document per line, where the first one is one; otherwise the file is broken as a whole."""
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append((number, parse_json(line)))
        except LineError as here:
            if not found:
                raise wrong from None
            found.append((number, here))
    return found


def _pulled(document: Mapping[str, Any], given: Given, found: Document) -> Iterator[Record]:
    """A pull's pages. Its account and what it is complete for are in the envelope."""
    found.complete = True
    pull = document[ENVELOPE]
    report, issuer, account = str(pull.get("report")), str(pull.get("issuer")), text(pull.get("account"))
    for day in pull.get("days") or ():
        found.days.add((report, issuer, account, date.fromisoformat(str(day))))
    pages = document.get("pages")
    if not isinstance(pages, list):
        raise LineError("unknown_format", f"a kept pull has a list of pages beside {ENVELOPE}")
    return _pages([(1, page) for page in pages], given, by_line=False, report=report)


@dataclass
class _Numbers:
    """Numbers of records: lines of JSON lines, else the count within the document."""

    by_line: bool
    last: int = 0

    def next(self, line: int) -> int:
        self.last = line if self.by_line else self.last + 1
        return self.last


def _pages(
    documents: list[tuple[int, Any]], given: Given, *, by_line: bool, report: str | None = None
) -> Iterator[Record]:
    """The records of pages, buckets or answers, one after the other."""
    results: list[tuple[int, Mapping[str, Any], Any, ModuleType]] = []
    numbers = _Numbers(by_line)
    problems: list[Record] = []
    groups: list[tuple[int, str | None, Any]] = []
    rows: list[tuple[int, Mapping[str, Any] | LineError]] = []
    for line, document in documents:
        if isinstance(document, LineError):
            problems.append(Record(numbers.next(line), None, reason=document.reason, message=str(document)))
            continue
        answered = cloudflare.groups(document) if isinstance(document, dict) else None
        if answered is not None:
            groups += [(numbers.next(line), account, group) for account, group in answered]
            continue
        if isinstance(document, dict) and focus.is_focus(list(document)):
            rows.append((numbers.next(line), document))
            continue
        for bucket in _buckets(document):
            module = _module(bucket)
            if module is None:
                problems.append(_unknown(numbers.next(line), document))
                break
            held = bucket.get("results")
            results += [
                (numbers.next(line), bucket, result, module)
                for result in (held if isinstance(held, list) and held else [None])
            ]
    yield from problems
    for number, account, group in groups:
        yield _cloudflare(number, group, given, account)
    yield from _focus(iter(rows), given)
    yield from _bucketed(results, given, report)


def _buckets(document: Any) -> list[Any]:
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        return list(document["data"])
    return [document]


def _module(bucket: Any) -> ModuleType | None:
    if isinstance(bucket, dict):
        for module in (openai, anthropic):
            if module.is_bucket(bucket):
                return module
    return None


def _unknown(number: int, document: Any) -> Record:
    return Record(
        number,
        None,
        reason="unknown_format",
        message=_unlike(bill_format(document) if isinstance(document, dict) else None),
        raw=raw_of(document)[:RAW],
    )


def _unlike(kind: BillFormat | None) -> str:
    if kind is None:
        return (
            "it is neither a page of costs or usage of OpenAI or Anthropic, nor an answer of Cloudflare's "
            "analytics, nor FOCUS; take the answer as the API gave it"
        )
    return (
        f"it looks like {kind.describes} ({kind.name}), but lacks what tells its period; take the answer as the "
        "API gave it"
    )


def _cloudflare(number: int, group: Any, given: Given, account: str | None) -> Record:
    try:
        if not isinstance(group, dict):
            raise LineError("unknown_result", "the group is no object")
        return Record(number, cloudflare.COSTS, tuple(cloudflare.lines(group, given, account)))
    except LineError as wrong:
        return Record(
            number, cloudflare.COSTS, reason=wrong.reason, message=str(wrong), raw=raw_of(group)[:RAW],
            bucket=_hour(group),
        )  # fmt: skip


def _hour(group: Any) -> tuple[datetime, datetime] | None:
    from ml_registry_pipelines.costs.bills.lines import instant

    dimensions = group.get("dimensions") if isinstance(group, dict) else None
    try:
        start = instant((dimensions or {}).get("datetimeHour") or (dimensions or {}).get("date"), "time")
    except (LineError, AttributeError):
        return None
    return start, start


def _bucketed(
    results: list[tuple[int, Mapping[str, Any], Any, ModuleType]], given: Given, report: str | None
) -> Iterator[Record]:
    stated: dict[ModuleType, str | None] = {}
    dimensions: dict[tuple[ModuleType, str | None], set[str]] = {}
    for _, _, result, module in results:
        if isinstance(result, dict):
            kind = module.report_of(result)
            stated.setdefault(module, kind)
            named = {name for name in module.DIMENSIONS.get(kind, ()) if result.get(name) is not None}
            dimensions.setdefault((module, kind), set()).update(named)
    for number, bucket, result, module in results:
        kind = module.report_of(result) if isinstance(result, dict) else report or stated.get(module)
        bounds: tuple[datetime, datetime] | None = None
        try:
            bounds = module.bounds(bucket)
            if result is None:
                yield _nothing(number, kind, module, bounds, given)
                continue
            if not isinstance(result, dict):
                raise LineError("unknown_result", "the result is no object")
            grouping = ",".join(sorted(dimensions[module, kind])) or None
            yield Record(number, kind, tuple(module.lines(result, *bounds, given, grouping)))
        except LineError as wrong:
            yield Record(
                number, kind, reason=wrong.reason, message=str(wrong), raw=raw_of(result)[:RAW], bucket=bounds
            )


def _nothing(
    number: int, report: str | None, module: ModuleType, bounds: tuple[datetime, datetime], given: Given
) -> Record:
    """An empty bucket: the provider bills nothing for it. Of usage, or of an unknown report, it says nothing."""
    if report not in (openai.COSTS, anthropic.COSTS):
        return Record(number, report, ignored=True)
    line = Line(
        report=report,
        kind="nothing",
        provider=given.provider or module.PROVIDER,
        issuer=module.PROVIDER,
        period_start=bounds[0],
        period_end=bounds[1],
        tenant=given.tenant,
        account=given.account,
    )
    return Record(number, report, (line,))
