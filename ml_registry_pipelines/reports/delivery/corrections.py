"""What changed between two editions of a report, figure by figure, and how a recipient is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ml_registry_pipelines.reports import formats
from ml_registry_pipelines.reports.delivery.editions import Edition
from ml_registry_pipelines.reports.made import Sheet, markdown_table, sheet
from ml_registry_pipelines.reports.page import Cell, Column, Content, document, el, table

SHOWN = 40
"""Changes of one period on the page, and a quarter of them in the short form; the CSV has all."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
COLUMNS = ("report", "tenant", "period", "row", "figure", "before", "after", "difference")


@dataclass(frozen=True)
class Change:
    """One figure that came out otherwise. Empty: it was not there, or is no longer."""

    row: str
    figure: str
    before: str
    after: str

    @property
    def difference(self) -> Decimal | None:
        """After less before, where both are numbers."""
        if _NUMBER.fullmatch(self.before) and _NUMBER.fullmatch(self.after):
            return Decimal(self.after) - Decimal(self.before)
        return None


@dataclass(frozen=True)
class Corrected:
    """One period whose report came out otherwise than it was delivered."""

    before: Edition
    after: Edition
    changes: tuple[Change, ...]


def changes(before: Sheet, after: Sheet) -> tuple[Change, ...]:
    """Every figure that differs, amounts first. Rows are told apart by their keys."""
    old, new = _figures(before), _figures(after)
    found = [
        Change(row, figure, old.get((row, figure), ""), new.get((row, figure), ""))
        for row, figure in dict.fromkeys([*old, *new])
        if old.get((row, figure), "") != new.get((row, figure), "")
    ]
    return tuple(sorted(found, key=lambda change: not change.figure.startswith(("cost", "amount", "net"))))


def _figures(of: Sheet) -> dict[tuple[str, str], str]:
    names = of.columns[: of.keys]
    return {
        (", ".join(f"{n}={v}" for n, v in zip(names, row, strict=False) if v) or "all", column): value
        for row in of.rows
        for column, value in zip(of.columns[of.keys :], row[of.keys :], strict=True)
    }


def correction_sheet(corrected: Sequence[Corrected]) -> Sheet:
    """All changes as rows."""
    return sheet(
        COLUMNS,
        5,
        [
            [
                each.after.report,
                each.after.tenant,
                each.after.period,
                change.row,
                change.figure,
                change.before,
                change.after,
                change.difference,
            ]
            for each in corrected
            for change in each.changes
        ],
    )


def correction_title(corrected: Sequence[Corrected]) -> str:
    """A line that names report, period or how many, and scope."""
    last = corrected[-1].after
    when = last.period if len(corrected) == 1 else f"{len(corrected)} periods"
    return f"Correction: {last.title}, {when}, {last.whom}"


def correction_page(corrected: Sequence[Corrected]) -> str:
    """A page of what changed; the delivered reports stay as they are."""
    periods = [each.after.period for each in corrected]
    return document(
        correction_title(corrected),
        periods[0] if len(periods) == 1 else f"{periods[0]} to {periods[-1]}",
        el(
            "p",
            "Figures of reports that were delivered came out otherwise since: logs arrived late, or costs were priced "
            "or attributed anew. Delivered reports stay as they are; these are the differences.",
        ),
        [_section(each) for each in corrected],
    )


def _section(each: Corrected) -> str:
    shown, more = each.changes[:SHOWN], len(each.changes) - SHOWN
    rows: list[list[Content | Cell]] = [
        [
            change.row,
            change.figure.replace("_", " "),
            Cell(_grouped(change.before)),
            Cell(_grouped(change.after)),
            Cell(_signed(change)),
        ]
        for change in shown
    ]
    zone = each.after.time_zone
    return el(
        "section",
        el("h2", f"{each.after.period} ({zone})"),
        table(
            f"{len(each.changes)} figures of {each.after.about}",
            [
                Column("Of", number=False),
                Column("Figure", number=False),
                Column("Delivered"),
                Column("Now"),
                Column("Difference"),
            ],
            rows,
            note="Amounts in the currency of their row.",
        )
        if rows
        else el("p", "Its assumptions changed, and no figure: " + ", ".join(_assumed_otherwise(each)) + "."),
        el("p", f"And {more} more, which the CSV has.") if more > 0 else None,
    )


def _assumed_otherwise(each: Corrected) -> Iterator[str]:
    for name in sorted({*each.before.assumptions, *each.after.assumptions}):
        old, new = (edition.assumptions.get(name) for edition in (each.before, each.after))
        if old != new:
            yield f"{name.replace('_', ' ')} {old} to {new}"


def correction_markdown(corrected: Sequence[Corrected]) -> str:
    """The first changes of each period in Markdown."""
    said = []
    for each in corrected:
        shown = each.changes[: SHOWN // 4]
        said.append(f"**{each.after.about}**: {len(each.changes)} figures changed.")
        if shown:
            rows = [
                [
                    change.row,
                    change.figure,
                    change.before or formats.NOTHING,
                    change.after or formats.NOTHING,
                    _signed(change),
                ]
                for change in shown
            ]
            said.append(markdown_table(("Of", "Figure", "Delivered", "Now", "Difference"), rows, numbers=3))
        else:
            said.append("; ".join(_assumed_otherwise(each)))
    return "\n\n".join(said)


def _signed(change: Change) -> str:
    found = change.difference
    return formats.NOTHING if found is None else f"{found:+,f}"


def _grouped(value: str) -> str:
    """A number with its thousands apart, a text as it is."""
    if not value:
        return formats.NOTHING
    return f"{Decimal(value):,f}" if _NUMBER.fullmatch(value) else value
