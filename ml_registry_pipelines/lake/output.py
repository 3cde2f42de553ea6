"""Rows for people and programs: an aligned table, CSV, JSON or a Parquet file.

Nothing is lost on the way out except in the table, which cuts wide values and long
results: decimals keep their digits, timestamps are ISO 8601 in UTC, NULL is not empty.
"""

from __future__ import annotations

import base64
import json
import math
import sys
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "parquet")
WIDEST = 60
"""Columns of a terminal that one value takes in the table."""
LONGEST = 1000
"""Rows that the table shows."""
_BATCH = 10_000


class OutputError(MlregError):
    """A result could not be written."""


def write_result(
    rows: pa.Table, *, form: str, output: Path | None = None, longest: int | None = LONGEST
) -> None:
    """Write rows to a file, or to standard output.

    Args:
        form: `table`, `csv`, `json` (one array of objects) or `parquet`, which needs `output`.
        longest: rows that the form `table` shows at most; None: all.

    Raises:
        OutputError: the file cannot be written, or a column has no place in this form.
    """
    if form not in FORMATS:
        raise OutputError(f"there is no format {form!r}; the formats are {', '.join(FORMATS)}")
    if output is None:
        if form == "parquet":
            raise OutputError("a Parquet file cannot be printed; name a file with --output")
        write_text(rows, form, sys.stdout, longest)
        sys.stdout.flush()
        return
    aside = output.with_name(f".{output.name}.{uuid.uuid4().hex}.tmp")
    try:
        if form == "parquet":
            _write_parquet(rows, aside)
        else:
            with aside.open("w", encoding="utf-8", newline="") as stream:
                write_text(rows, form, stream, longest)
        aside.replace(output)
    except OSError as failure:
        raise OutputError(f"{output} cannot be written: {failure.strerror or failure}") from failure
    finally:
        aside.unlink(missing_ok=True)


def _write_parquet(rows: pa.Table, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.write_table(rows, path, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as failure:
        raise OutputError(f"Parquet cannot hold this result: {failure}; cast the column to text") from failure


def write_text(rows: pa.Table, form: str, stream: TextIO, longest: int | None = LONGEST) -> None:
    """Write rows to an open text stream, in any form but `parquet`."""
    lines = {"csv": _csv, "json": _json}[form](rows) if form != "table" else as_table(rows, longest=longest)
    stream.writelines(line + "\n" for line in lines)


# -- the table ----------------------------------------------------------------------------


def as_table(rows: pa.Table, *, widest: int = WIDEST, longest: int | None = LONGEST) -> Iterator[str]:
    """Lines of an aligned table: numbers to the right, wide values cut, NULL shown as such."""
    shown = rows if longest is None else rows.slice(0, longest)
    cells = [[_cell(value, widest) for value in column.to_pylist()] for column in shown.columns]
    names = [_cut(_printable(name), widest) for name in rows.schema.names]
    right = [_is_number(field.type) for field in rows.schema]
    widths = [max([_width(name), *map(_width, column)]) for name, column in zip(names, cells, strict=True)]
    yield _line(names, widths, right)
    yield "  ".join("-" * width for width in widths)
    for row in zip(*cells, strict=True):
        yield _line(row, widths, right)
    hidden = rows.num_rows - shown.num_rows
    count = f"{rows.num_rows:,} row{'' if rows.num_rows == 1 else 's'}"
    yield f"({count}, {hidden:,} of them not shown)" if hidden else f"({count})"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        " " * (width - _width(cell)) + cell if numeric else cell + " " * (width - _width(cell))
        for cell, width, numeric in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def _cell(value: object, widest: int) -> str:
    return "NULL" if value is None else _cut(_printable(_text(value)), widest)


def _printable(text: str) -> str:
    """Without what would break the line or steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, widest: int) -> str:
    if _width(text) <= widest:
        return text
    kept, width = [], 0
    for character in text:
        width += _width(character)
        if width > widest - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


# -- CSV and JSON ---------------------------------------------------------------------------


def _csv(rows: pa.Table) -> Iterator[str]:
    yield ",".join(_quoted(name) for name in rows.schema.names)
    for batch in rows.to_batches(max_chunksize=_BATCH):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield ",".join("" if value is None else _quoted(_text(value)) for value in row)


def _quoted(text: str) -> str:
    """A field of RFC 4180; an empty text is quoted, so that it differs from NULL."""
    if text and not any(character in text for character in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json(rows: pa.Table) -> Iterator[str]:
    names = [json.dumps(name, ensure_ascii=False) for name in _distinct(rows.schema.names)]
    yield "["
    last = rows.num_rows - 1
    number = 0
    for batch in rows.to_batches(max_chunksize=_BATCH):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            fields = ", ".join(
                f"{name}: {json.dumps(_json_value(value), ensure_ascii=False)}"
                for name, value in zip(names, row, strict=True)
            )
            yield f"  {{{fields}}}{',' if number < last else ''}"
            number += 1
    yield "]"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of an object's fields, of which no two may be equal."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _json_value(value: object) -> object:
    """A value for JSON. A decimal is a string, because most readers would round a number."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case tuple() if hasattr(value, "nanoseconds"):
            return _text(value)
        case dict():
            return {str(key): _json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_value(inner) for inner in value]
        case Decimal() if value.as_tuple().exponent == 0:
            return int(value)
        case _:
            return _text(value)


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case datetime():
            if value.tzinfo is None:
                return value.isoformat()
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():g} s"
        case Decimal():
            return f"{value:f}"
        case bytes():
            return base64.b64encode(value).decode()
        case tuple() if hasattr(value, "nanoseconds"):
            # Arrow's interval: months, days and nanoseconds, none of which the others make up.
            months, days, nanoseconds = value
            return f"P{months}M{days}DT{Decimal(nanoseconds).scaleb(-9).normalize():f}S"
        case dict() | list() | tuple():
            return json.dumps(_json_value(value), ensure_ascii=False)
        case _:
            return str(value)
