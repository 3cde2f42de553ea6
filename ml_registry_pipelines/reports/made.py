"""A report as it was made: page, figures as a table, a short form, and what all of it rests on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from ml_registry_pipelines.costs.periods import Period

Value = str | int | float | Decimal | bool | datetime | None
SIGNIFICANT = 6
"""Digits of a figure that is no exact count or amount, such as a percentile."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")


@dataclass(frozen=True)
class Sheet:
    """Figures as rows. The first `keys` columns name a row, the others are its figures; texts throughout.

    An amount has all its digits; what is not known is empty, which is not 0.
    """

    columns: tuple[str, ...]
    keys: int
    rows: tuple[tuple[str, ...], ...]

    def csv(self) -> str:
        """The rows as CSV with a head. A text that a spreadsheet would take for a formula gets an apostrophe."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_inert(cell) for cell in row] for row in self.rows)
        return out.getvalue()

    @classmethod
    def parse(cls, text: str, keys: int) -> Sheet:
        """What `csv` wrote."""
        head, *rows = csv.reader(io.StringIO(text, newline=""))
        return cls(tuple(head), keys, tuple(tuple(row) for row in rows))


def sheet(columns: Sequence[str], keys: int, rows: Iterable[Sequence[Value]]) -> Sheet:
    """A sheet of plain values."""
    return Sheet(tuple(columns), keys, tuple(tuple(plain(cell) for cell in row) for row in rows))


def plain(value: Value) -> str:
    """A value as CSV and JSON hold it."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            # Without trailing zeros: an amount that was only rescaled is no other one.
            text = f"{value:f}"
            return text.rstrip("0").rstrip(".") if "." in text else text
        case float():
            return f"{value:.{SIGNIFICANT}g}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _inert(text: str) -> str:
    dangerous = text[:1] in _FORMULA and _NUMBER.fullmatch(text) is None
    return f"'{text}" if dangerous else text


@dataclass(frozen=True)
class Made:
    """One report of one period, about one tenant or (None) all.

    `markdown` is its short form, without the title. `mark` differs whenever a figure could.
    `coverage` and `assumptions` are JSON values; `made_of` has versions of tables. `final`: nothing
    that was logged by then is still missing. `notes` say what a reader has to know first.
    """

    report: str
    scope: str | None
    period: Period
    title: str
    page: str
    sheet: Sheet
    markdown: str
    mark: str
    made_of: Mapping[str, int | str | None]
    coverage: Mapping[str, object] = field(default_factory=dict)
    assumptions: Mapping[str, object] = field(default_factory=dict)
    final: bool = True
    draw: Callable[[], bytes | None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Digest over what it is about, its figures and its assumptions; not over what they were computed from."""
        content = [
            self.report,
            self.scope,
            self.period.label,
            self.period.zone.key,
            self.sheet.csv(),
            self.assumptions,
        ]
        return hashlib.sha256(json_text(content).encode("utf-8", "replace")).hexdigest()

    @property
    def about(self) -> str:
        """Title, scope and period in a line."""
        whom = "all tenants" if self.scope is None else self.scope
        return f"{self.title}, {self.period.label}, {whom}"


def json_text(value: object) -> str:
    """JSON of plain values, the same for the same content."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_json, allow_nan=False)


def _json(value: object) -> object:
    if isinstance(value, Decimal | datetime):
        return plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no part of a report")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int) -> str:
    """A table in Markdown; the last `numbers` columns stand right. Names can't break out of their cell."""
    rule = [":--"] * (len(heads) - numbers) + ["--:"] * numbers
    lines = [_line(heads), _line(rule), *(_line([escaped(cell) for cell in row]) for row in rows)]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Text that means nothing in Markdown or HTML but itself."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|!#~" else c for c in " ".join(safe.split()))
