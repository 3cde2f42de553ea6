"""Rows of CSV and Parquet as JSON texts, one per record, so that every format goes on alike.

A dot in a column's name stands for a level: `usage.out_text` becomes `{"usage": {"out_text": …}}`.
An empty field of CSV that is not quoted is null; times of Parquet that know their zone
are written in UTC.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from ml_registry_pipelines.lake.interrupts import is_interrupt
from ml_registry_pipelines.lake.reading import answer, in_batches, open_duckdb
from ml_registry_pipelines.telemetry.splitting import (
    LINES_OF_A_CSV_ROW,
    LONGEST_RECORD,
    Limits,
    Records,
    Reject,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_DELIMITERS = ",;\t|"
_ROWS_AT_ONCE = 16_384


class _Objects:
    """Turns columns into JSON objects of the given names, by one SQL statement."""

    def __init__(self, names: Sequence[str]) -> None:
        self._connection: duckdb.DuckDBPyConnection = open_duckdb(ordered=True)
        keys: list[str] = []
        self._sql = f"SELECT CAST({_object(_tree(names), keys)} AS VARCHAR) AS raw FROM columns_of_file"
        self._keys = {f"key{number}": key for number, key in enumerate(keys)}

    def texts(self, columns: Sequence[pa.ChunkedArray | pa.Array]) -> pa.Array:
        """One JSON object per row."""
        import pyarrow as pa

        table = pa.table({f"c{number}": column for number, column in enumerate(columns)})
        self._connection.register("columns_of_file", in_batches(table))
        texts = answer(self._connection, self._sql, self._keys, over=table.num_rows)["raw"]
        found = texts.combine_chunks()
        return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found

    def close(self) -> None:
        self._connection.close()


_Tree = Mapping[str, "int | _Tree"]


def _tree(names: Sequence[str]) -> _Tree:
    """Columns by the levels of their names; a name that is also the beginning of others stays whole."""
    tree: dict[str, Any] = {}
    plain = set(names)
    for number, name in enumerate(names):
        levels = name.split(".")
        starts = {".".join(levels[:depth]) for depth in range(1, len(levels))}
        if "" in levels or starts & plain:
            levels = [name]
        place = tree
        for level in levels[:-1]:
            place = place.setdefault(level, {})
        place[levels[-1]] = number
    return tree


def _object(tree: _Tree, keys: list[str]) -> str:
    """SQL of one JSON object; its keys are parameters, because a file may name its columns as it likes."""
    parts = []
    for key, held in tree.items():
        parts.append(f"$key{len(keys)}")
        keys.append(key)
        parts.append(f"c{held}" if isinstance(held, int) else _object(held, keys))
    return f"json_object({', '.join(parts)})"


# -- CSV -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """The names of the columns, and what stands between them."""

    names: tuple[str, ...]
    delimiter: str

    @cached_property
    def objects(self) -> _Objects:
        """What makes the rows into objects."""
        return _Objects(self.names)


def _fault(header: str, names: Sequence[str], kind: str) -> str | None:
    """Why a file with these columns cannot be read at all."""
    if "\r" in header:
        return "its lines end with CR alone; write them with LF"
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    return f"its {kind} has two columns {name!r}; give each its own name" if times > 1 else None


def csv_records(pieces: Iterator[Records], name: str) -> Iterator[Records]:
    """The same records with each row as a JSON object. The first row names the columns."""
    header: _Header | None = None
    for piece in pieces:
        if header is not None:
            yield _rows(piece, header)
        elif not len(piece.raw):
            yield piece
        else:
            first, below = piece.raw[0].as_py(), replace(piece, raw=piece.raw[1:], lines=piece.lines[1:])
            header = _header(first)
            if fault := _fault(first.rstrip("\r\n"), header.names, "header"):
                rejected = [*piece.rejected, Reject(0, "unreadable_file", f"{name}: {fault}", first)]
                yield replace(Records.none(rejected), last_line=piece.last_line)
                return
            yield _rows(below, header)
    if header is not None:
        header.objects.close()


def _header(text: str) -> _Header:
    line = text.rstrip("\r\n")
    delimiter = max(_DELIMITERS, key=line.count)
    return _Header(tuple(cell.strip() for cell in _fields(line, delimiter) or [line]), delimiter)


def _fields(text: str, delimiter: str) -> list[str] | None:
    """The fields of one row; None where it is no row."""
    csv.field_size_limit(LONGEST_RECORD)  # of the whole process, 128 KiB unless told
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None


def _rows(piece: Records, header: _Header) -> Records:
    """Rows as JSON objects; those with another number of fields than the header as rejects."""
    import numpy as np
    import pyarrow as pa

    parsed = _parsed(piece, header)
    if parsed is None:
        return _mended(piece, header)
    table, wrong = parsed
    keep = np.ones(len(piece.lines), dtype=bool)
    rejected = list(piece.rejected)
    for number, fields in wrong:
        keep[number] = False
        line = int(piece.lines[number])
        message = f"line {line}: it has {fields} fields, the header has {len(header.names)}"
        rejected.append(Reject(line, "bad_csv_row", message, piece.raw[number].as_py().rstrip("\r\n")))
    raw = header.objects.texts(table.columns) if table.num_rows else pa.array([], pa.string())
    return replace(piece, raw=raw, lines=piece.lines[keep], rejected=sorted(rejected, key=lambda r: r.line))


def _parsed(piece: Records, header: _Header) -> tuple[pa.Table, list[tuple[int, int]]] | None:
    """The fields as text, and number and field count of faulty rows; None where rows were cut wrongly."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names = [f"c{number}" for number in range(len(header.names))]
    if not len(piece.raw):
        return pa.table({name: pa.array([], pa.string()) for name in names}), []
    wrong: list[tuple[int, int]] = []

    def note(row: Any) -> str:
        wrong.append((row.number - 1, row.actual_columns))
        return "skip"

    start, end = piece.raw.offset, piece.raw.offset + len(piece.raw)
    offsets = memoryview(piece.raw.buffers()[1]).cast("i")
    text = piece.raw.buffers()[2].slice(offsets[start], offsets[end] - offsets[start])
    if len(text) and text[len(text) - 1] != ord("\n"):
        text = pa.py_buffer(text.to_pybytes() + b"\n")
    try:
        table = pacsv.read_csv(
            pa.BufferReader(text),
            # One block: the number of a wrong row is known within a block only.
            read_options=pacsv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            parse_options=pacsv.ParseOptions(
                delimiter=header.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid:
        return None
    left_open = piece.raw[-1].as_py().count('"') % 2 == 1
    if left_open or table.num_rows + len(wrong) != len(piece.raw):
        return None
    # Arrow goes on with a field behind its closing quote: a stray quote draws rows into one of the right width.
    held = piece.raw.filter(_spans_lines(piece.raw))
    strict = (_fields(row, header.delimiter) for row in held.to_pylist())
    whole = all(fields is not None and len(fields) == len(header.names) for fields in strict)
    return (table, wrong) if whole else None


def _spans_lines(raw: pa.Array) -> pa.Array:
    """Which records hold a line end."""
    import pyarrow.compute as pc

    inner = pc.subtract(pc.count_substring(raw, "\n"), pc.ends_with(raw, "\n").cast("int32"))
    return pc.greater(inner, 0)


def _mended(piece: Records, header: _Header) -> Records:
    """Rows as JSON objects, cut anew line by line, where a stray quote has drawn lines together.

    Only what cannot be a row on its own, nor with the lines after it, is rejected.
    """
    import numpy as np
    import pyarrow as pa

    rows: list[list[str]] = []
    lines: list[int] = []
    rejected = list(piece.rejected)
    for start, record in zip(piece.lines.tolist(), piece.raw.to_pylist(), strict=True):
        parts = re.findall("[^\n]*\n|[^\n]+", record)
        at = 0
        while at < len(parts):
            line, (row, taken) = start + at, _row_at(parts, at, header)
            if row is not None:
                rows.append(row)
                lines.append(line)
            else:
                message = f"line {line}: it is no row of {len(header.names)} fields"
                rejected.append(Reject(line, "bad_csv_row", message, parts[at].rstrip("\r\n")))
            at += taken
    columns = [pa.array([cell or None for cell in column], pa.string()) for column in zip(*rows, strict=True)]
    raw = header.objects.texts(columns) if rows else pa.array([], pa.string())
    return replace(piece, raw=raw, lines=np.array(lines, dtype=np.int64), rejected=rejected)


def _row_at(parts: Sequence[str], at: int, header: _Header) -> tuple[list[str] | None, int]:
    """The row that begins with line `at` and its number of lines; None where it is no row."""
    text, quotes = "", 0
    for count, part in enumerate(parts[at : at + LINES_OF_A_CSV_ROW], start=1):
        text += part
        quotes += part.count('"')
        if quotes % 2 == 0 or count == 1:
            fields = _fields(text, header.delimiter)
            if fields is not None and len(fields) == len(header.names):
                return fields, count
    return None, 1


# -- Parquet ---------------------------------------------------------------------------


def parquet_records(file: IO[bytes], name: str, limits: Limits) -> Iterator[Records]:
    """The rows of a Parquet file, a row group at a time, as JSON objects."""
    import duckdb
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        if fault := _fault("", names, "schema"):
            yield Records.none([Reject(0, "unreadable_file", f"{name}: {fault}", "")])
            return
        objects = _Objects(names)
        for batch in parquet.iter_batches(batch_size=min(limits.chunk_rows, _ROWS_AT_ONCE)):
            lines = np.arange(done + 1, done + 1 + batch.num_rows, dtype=np.int64)
            foreign = _not_utf8(batch)
            rejected = [
                Reject(done + 1 + row, "not_utf8", *_shown(batch, row, done + 1 + row)) for row in foreign
            ]
            kept = np.delete(np.arange(batch.num_rows), foreign)
            good = batch.take(pa.array(kept)) if foreign else batch
            raw = objects.texts([_exact(column) for column in good.columns])
            yield Records(raw, lines[kept], done + 1, done + len(lines), rejected)
            done += len(lines)
        objects.close()
    except (pa.ArrowException, duckdb.Error, OSError) as failure:
        if is_interrupt(failure):
            raise KeyboardInterrupt from None
        yield _unreadable(name, done, failure)


def _exact(column: pa.Array) -> pa.Array:
    """Decimals as text, which JSON numbers would round, and half floats, which DuckDB does not know, as floats."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def exact(of: pa.DataType) -> pa.DataType:
        if pa.types.is_decimal(of):
            return pa.string()
        return pa.float32() if pa.types.is_float16(of) else of

    given, wanted = column.type, _retyped(column.type, exact)
    if wanted == given:
        return column
    text = column.cast(wanted)
    # A whole number is one whatever the scale of its column: 1.000 in a text may as well be a thousand.
    return pc.replace_substring_regex(text, r"\.0+$", "") if pa.types.is_decimal(given) else text


def _retyped(of: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The same type with other types at its leaves."""
    import pyarrow as pa

    def below(field: pa.Field) -> pa.Field:
        return field.with_type(_retyped(field.type, leaf))

    types = pa.types
    if types.is_struct(of):
        return pa.struct([below(of.field(number)) for number in range(of.num_fields)])
    if types.is_map(of):
        return pa.map_(below(of.key_field), below(of.item_field))
    if types.is_fixed_size_list(of):
        return pa.list_(below(of.value_field), of.list_size)
    if types.is_list(of):
        return pa.list_(below(of.value_field))
    if types.is_large_list(of):
        return pa.large_list(below(of.value_field))
    if types.is_dictionary(of):
        plain = _retyped(of.value_type, leaf)
        return of if plain == of.value_type else plain
    return leaf(of)


def _not_utf8(batch: pa.RecordBatch) -> list[int]:
    """Rows with text that is not UTF-8; they are looked at one by one only where there are some."""
    import pyarrow as pa

    def is_utf8(rows: pa.RecordBatch) -> bool:
        try:
            rows.validate(full=True)
        except pa.ArrowInvalid as failure:
            if "UTF8" not in str(failure):
                raise
            return False
        return True

    return [] if is_utf8(batch) else [n for n in range(batch.num_rows) if not is_utf8(batch.slice(n, 1))]


def _shown(batch: pa.RecordBatch, row: int, line: int) -> tuple[str, str]:
    """Message and raw text of a row that is not UTF-8."""
    import pyarrow as pa

    def as_bytes(of: pa.DataType) -> pa.DataType:
        return pa.large_binary() if pa.types.is_string(of) or pa.types.is_large_string(of) else of

    def as_text(value: object) -> str:
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)

    columns = [column.cast(_retyped(column.type, as_bytes)) for column in batch.slice(row, 1).columns]
    values = {name: column[0].as_py() for name, column in zip(batch.schema.names, columns, strict=True)}
    message = f"line {line}: the text is not UTF-8; its raw text has \\x before each foreign byte"
    return message, json.dumps(values, default=as_text, ensure_ascii=False)


def _unreadable(name: str, done: int, failure: Exception) -> Records:
    line = done + 1 if done else 0
    where = f" from row {line}" if done else ""
    message = f"{name}: the Parquet file cannot be read{where} ({failure}); write it anew"
    return Records.none([Reject(line, "unreadable_file", message, "")], done + 1)
