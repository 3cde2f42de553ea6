"""Cutting text into records: lines, the values of a JSON document, or rows of CSV.

All three give records that lie one behind the other in one buffer, so that an Arrow
array of them is made without a copy. Searching is NumPy over whole buffers; Python
looks at single records only where something is wrong with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ml_registry_pipelines.telemetry.gunzip import Fault

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Numbers = np.ndarray[Any, Any]

RAW_OF_UNREAD = 64 << 10
"""Bytes that are kept of what is rejected unread."""
LINES_OF_A_CSV_ROW = 1000
"""Lines that a row of CSV may span by quoted line ends; beyond, its quote was never meant to open."""
_BLOCK = 1 << 20


CHUNK_BYTES = 64 << 20
CHUNK_ROWS = 250_000
LONGEST_RECORD = 64 << 20


@dataclass(frozen=True)
class Limits:
    """How much is held in memory at once, and how long a record may be, in bytes and records."""

    chunk_bytes: int = field(default_factory=lambda: CHUNK_BYTES)
    chunk_rows: int = field(default_factory=lambda: CHUNK_ROWS)
    longest_record: int = field(default_factory=lambda: LONGEST_RECORD)


@dataclass
class Reject:
    """Something that could not be read. Line 0 is the file as a whole."""

    line: int
    reason: str
    message: str
    raw: str


@dataclass
class Records:
    """Some consecutive records: a string array over one buffer, and the line that each begins in."""

    raw: pa.Array
    lines: Numbers
    first_line: int
    last_line: int
    rejected: list[Reject] = field(default_factory=list)

    @classmethod
    def none(cls, rejected: list[Reject], line: int = 1) -> Records:
        """No records, and rejects instead."""
        import numpy as np
        import pyarrow as pa

        return cls(pa.array([], pa.string()), np.array([], dtype=np.int64), line, line, rejected)


class Text(Protocol):
    """Unpacked bytes. `fault` is what broke them off, once a read has given nothing."""

    fault: Fault | None

    def peek(self, size: int) -> bytes: ...

    def read(self, size: int) -> bytes: ...


class Numbering(Enum):
    """What the number of a record counts."""

    RECORDS = "records"
    """Records before it that are not blank."""
    ROWS = "rows"
    """All records before it, each of which is one line."""
    LINES = "lines"
    """Line ends before it, of which a record may hold several."""


class Splitter(Protocol):
    """One way to cut a text into records, each up to and with what separates it from the next."""

    numbering: Numbering
    most_lines: int | None
    """Lines that a record may span, where something may open and never close; None: any number."""

    def cut(self, data: bytes, *, final: bool) -> tuple[bytes, Numbers]:
        """The buffer (maybe with separators blanked out) and the end of each whole record in it.

        The buffer begins where a record does. With `final`, what is left over is a record too.
        """
        ...

    def skip(self, data: bytes) -> int | None:
        """Where reading goes on after a record that is given up; None: behind `data`, so go on with that."""
        ...


class Lines:
    """A record per line."""

    numbering = Numbering.ROWS
    most_lines: int | None = None

    def cut(self, data: bytes, *, final: bool) -> tuple[bytes, Numbers]:
        import numpy as np

        ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")) + 1
        return data, _with_rest(ends, data, final)

    def skip(self, data: bytes) -> int | None:
        end = data.find(b"\n")
        return None if end < 0 else end + 1


class CsvRecords(Lines):
    """A record per line, unless quotes hold the line end."""

    numbering = Numbering.LINES
    most_lines: int | None = LINES_OF_A_CSV_ROW

    def cut(self, data: bytes, *, final: bool) -> tuple[bytes, Numbers]:
        import numpy as np

        if b'"' not in data:
            return super().cut(data, final=final)
        buffer = np.frombuffer(data, dtype=np.uint8)
        marks = np.flatnonzero((buffer == ord("\n")) | (buffer == ord('"')))
        quotes = buffer[marks] == ord('"')
        outside = (np.cumsum(quotes) & 1) == 0
        ends = marks[~quotes & outside] + 1
        return data, _with_rest(ends, data, final)


class Documents:
    """The values of a JSON document: elements of lists at its top, and other values one by one.

    Commas and brackets between elements are blanked out, so that each record is JSON and space.
    """

    numbering = Numbering.RECORDS
    most_lines: int | None = None

    def __init__(self) -> None:
        self._in_list = False
        self._skipping: _Structure | None = None

    def cut(self, data: bytes, *, final: bool) -> tuple[bytes, Numbers]:
        import numpy as np

        structure = _Structure(in_list=self._in_list)
        ends, blanks, in_list_after = structure.read(data)
        if len(ends):
            self._in_list = bool(in_list_after[-1])
            blanks = blanks if final else blanks[blanks < ends[-1]]
        elif not final:
            return data, ends
        blanked = np.frombuffer(data, dtype=np.uint8).copy()
        blanked[blanks] = ord(" ")
        return blanked.tobytes(), _with_rest(ends, data, final)

    def skip(self, data: bytes) -> int | None:
        if self._skipping is None:
            self._skipping = _Structure(in_list=self._in_list)
        ends, _, in_list_after = self._skipping.read(data)
        if not len(ends):
            return None
        self._skipping = None
        self._in_list = bool(in_list_after[0])
        return int(ends[0])


class _Structure:
    """Where JSON opens, closes and separates, outside of its strings, over consecutive buffers."""

    def __init__(self, *, in_list: bool) -> None:
        self._depth = 1 if in_list else 0
        self._in_list = in_list
        self._in_string = False
        self._escaping = False

    def read(self, data: bytes) -> tuple[Numbers, Numbers, Numbers]:
        """Ends of records, places to blank out, and for each end whether a list is open behind it."""
        import numpy as np

        # A backslash that ended the buffer before is put in front again.
        shift = int(self._escaping)
        data = b"\\" + data if shift else data
        places = np.flatnonzero(_table(b'"\\{}[],')[np.frombuffer(data, dtype=np.uint8)])
        marks = np.frombuffer(data, dtype=np.uint8)[places]
        quotes = (marks == ord('"')) & ~self._escaped(places, marks, len(data))
        quoted = (np.cumsum(quotes) + self._in_string) & 1 == 1
        if len(quoted):
            self._in_string = bool(quoted[-1])
        outside = ~quoted & ~quotes
        places, marks = places[outside] - shift, marks[outside]
        opens, closes = _table(b"{[")[marks], _table(b"}]")[marks]
        depth = self._depth + np.cumsum(opens.astype(np.int64) - closes)
        if len(depth):
            depth -= np.minimum.accumulate(np.minimum(depth, 0))  # a bracket too many closes nothing
        # What the outermost value is shows where depth goes from 0 to 1 for the last time.
        begins = np.where(opens & (depth == 1), np.arange(1, len(places) + 1), 0)
        outermost = np.maximum.accumulate(begins) if len(begins) else begins
        in_list = np.concatenate([[ord("[") if self._in_list else ord("{")], marks])[outermost] == ord("[")
        separators = (marks == ord(",")) & (depth == 1) & in_list
        brackets = in_list & ((opens & (depth == 1)) | (closes & (depth == 0)))
        done = separators | (closes & (depth == 0))
        if len(depth):
            self._depth, self._in_list = int(depth[-1]), bool(in_list[-1])
        return places[done] + 1, places[separators | brackets], separators[done]

    def _escaped(self, places: Numbers, marks: Numbers, size: int) -> Numbers:
        """Which marks follow an odd number of backslashes."""
        import numpy as np

        slashes = places[marks == ord("\\")]
        first = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)
        lengths = np.diff(first, append=len(slashes))
        after = (slashes[first] + lengths)[lengths % 2 == 1]
        self._escaping = bool(len(after) and after[-1] == size)
        return np.isin(places, after)


def _table(marks: bytes) -> Numbers:
    """Which of the 256 bytes are marks."""
    import numpy as np

    table = np.zeros(256, dtype=bool)
    table[list(marks)] = True
    return table


def _with_rest(ends: Numbers, data: bytes, final: bool) -> Numbers:
    """With `final`, what lies behind the last end is a record too."""
    import numpy as np

    if final and data and (not len(ends) or ends[-1] < len(data)):
        return np.append(ends, len(data))
    return ends


def records_of(text: Text, splitter: Splitter, limits: Limits) -> Iterator[Records]:
    """The records of a text, in chunks of about `limits.chunk_bytes` and never more rows than `chunk_rows`.

    Blank records are dropped; those that are too long or not UTF-8 come as rejects, and so does what
    broke the text off.
    """
    line, rest, ended = 1, b"", False
    wanted = limits.chunk_bytes
    while not ended:
        data, ended = _filled(text, rest, wanted)
        data, ends = splitter.cut(data, final=ended and text.fault is None)
        if len(ends):
            records, line = _records(data, ends, splitter, limits, line)
            yield from _sliced(records, limits.chunk_rows)
            rest = data[int(ends[-1]) :]
            wanted = max(limits.chunk_bytes, 2 * len(rest))
            continue
        rest = data
        if not ended and (len(data) > limits.longest_record or _lost(splitter, data)):
            reject, rest = _give_up(text, splitter, data, line, limits)
            yield Records.none([reject], line)
            line += 1
        wanted = max(limits.chunk_bytes, min(2 * len(rest), limits.longest_record + 1))
    if text.fault is not None:
        message = (
            f"line {line}: {text.fault.says}; everything before it was read, land the rest in a new file"
        )
        yield Records.none([Reject(line, text.fault.reason, message, _shown(rest))], line)


def _filled(text: Text, rest: bytes, wanted: int) -> tuple[bytes, bool]:
    """`rest` and more of the text, up to `wanted` bytes; and whether the text ended."""
    parts, held = [rest], len(rest)
    while held < wanted:
        block = text.read(min(_BLOCK, wanted - held))
        if not block:
            return b"".join(parts), True
        parts.append(block)
        held += len(block)
    return b"".join(parts), False


def _lost(splitter: Splitter, data: bytes) -> bool:
    """Whether `data`, which should be one record, spans more lines than any may."""
    return splitter.most_lines is not None and data.count(b"\n") > splitter.most_lines


def _give_up(text: Text, splitter: Splitter, data: bytes, line: int, limits: Limits) -> tuple[Reject, bytes]:
    """A reject for the record that fills `data`, and the bytes behind it."""
    lost, beginning = _lost(splitter, data), data
    while (end := splitter.skip(data)) is None:
        data = text.read(_BLOCK)
        if not data:
            end = 0
            break
    if lost:
        message = f"line {line}: a quote that it opens is not closed within {splitter.most_lines} lines"
        return Reject(line, "bad_csv_row", message, _shown(beginning[:end].rstrip(b"\r\n"))), data[end:]
    return Reject(line, "record_too_large", _too_large(line, limits), _shown(beginning)), data[end:]


def _too_large(line: int, limits: Limits) -> str:
    return f"line {line}: the record is longer than {limits.longest_record} bytes; its beginning is kept"


def _records(
    data: bytes, ends: Numbers, splitter: Splitter, limits: Limits, line: int
) -> tuple[Records, int]:
    """The records of one buffer, and the number of the line behind them."""
    import numpy as np
    import pyarrow as pa

    # What lies behind the last end is not yet a record: no search may look into it.
    buffer = np.frombuffer(data, dtype=np.uint8)[: int(ends[-1])]
    starts = np.concatenate([[0], ends[:-1]])
    blank = _blank(buffer, starts)
    widths = _widths(buffer, ends, blank, splitter.numbering)
    lines = line + np.cumsum(widths) - widths
    after = line + int(widths.sum())
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    raw = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))
    rejected = []
    keep = ~blank
    for number in np.flatnonzero(ends - starts > limits.longest_record + 1).tolist():
        shown = _shown(data[starts[number] : ends[number]])
        at = int(lines[number])
        rejected.append(Reject(at, "record_too_large", _too_large(at, limits), shown))
        keep[number] = False
    for number in _not_utf8(raw, buffer, starts, keep):
        message = (
            f"line {lines[number]}: the text is not UTF-8; its raw text has \\x before each foreign byte"
        )
        text = data[starts[number] : ends[number]].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
        rejected.append(Reject(int(lines[number]), "not_utf8", message, text))
        keep[number] = False
    if not keep.all():
        raw, lines = raw.filter(pa.array(keep)), lines[keep]
    rejected.sort(key=lambda reject: reject.line)
    return Records(raw, lines, line, after - 1, rejected), after


def _widths(buffer: Numbers, ends: Numbers, blank: Numbers, numbering: Numbering) -> Numbers:
    """By how much each record moves the line number on."""
    import numpy as np

    match numbering:
        case Numbering.ROWS:
            return np.ones(len(ends), dtype=np.int64)
        case Numbering.RECORDS:
            return (~blank).astype(np.int64)
        case Numbering.LINES:
            newlines = np.flatnonzero(buffer == ord("\n"))
            widths = np.diff(np.searchsorted(newlines, ends, side="left"), prepend=0)
            # A last record without a line end still is a line.
            widths[-1] += ends[-1] > (newlines[-1] + 1 if len(newlines) else 0)
            return widths


def _blank(buffer: Numbers, starts: Numbers) -> Numbers:
    """Which records are nothing but white space."""
    import numpy as np

    space = _table(b" \t\r\n")
    if not space[buffer[starts]].any():
        return np.zeros(len(starts), dtype=bool)
    return np.asarray(~np.logical_or.reduceat(~space[buffer], starts))


def _not_utf8(raw: pa.Array, buffer: Numbers, starts: Numbers, keep: Numbers) -> list[int]:
    """Which records to keep are not UTF-8; bytes are looked at one by one only where some record is not."""
    import numpy as np
    import pyarrow as pa

    try:
        raw.validate(full=True)
    except pa.ArrowInvalid:
        suspects = np.flatnonzero(np.logical_or.reduceat(buffer >= 0x80, starts) & keep)
        as_bytes = raw.view(pa.binary())
        return [int(number) for number in suspects if not _is_utf8(as_bytes[int(number)].as_py())]
    return []


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _sliced(records: Records, rows: int) -> Iterator[Records]:
    """The same records, at most `rows` at a time, each reject with the lines around it."""
    import numpy as np

    first, rejected = records.first_line, records.rejected
    for start in range(0, max(len(records.lines), 1), rows):
        end = min(start + rows, len(records.lines))
        last = records.last_line if end == len(records.lines) else int(records.lines[end]) - 1
        here = [reject for reject in rejected if reject.line <= last]
        rejected = rejected[len(here) :]
        if end > start or here:
            yield Records(
                records.raw.slice(start, end - start), np.asarray(records.lines[start:end]), first, last, here
            )
        first = last + 1


def _shown(data: bytes) -> str:
    return data[:RAW_OF_UNREAD].decode("utf-8", "backslashreplace")
