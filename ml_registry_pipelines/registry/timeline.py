"""What held when, told act by act: a later act overrides the earlier ones where it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Span(Generic[Value]):
    """A value from `start` up to, not including, `end`; None: it still holds."""

    start: datetime
    end: datetime | None
    value: Value


class Timeline(Generic[Value]):
    """Spans that do not overlap, in order of time."""

    def __init__(self) -> None:
        self._spans: list[Span[Value]] = []

    def tell(self, value: Value, start: datetime, end: datetime | None = None) -> None:
        """Say that `value` held, or holds, from `start` on, whatever was said before."""
        kept = []
        for span in self._spans:
            if span.start < start:
                kept.append(Span(span.start, start if _later(span.end, start) else span.end, span.value))
            if end is not None and _later(span.end, end):
                kept.append(Span(max(span.start, end), span.end, span.value))
        self._spans = sorted([*kept, Span(start, end, value)], key=lambda s: s.start)

    def at(self, instant: datetime) -> Span[Value] | None:
        return next((s for s in self._spans if s.start <= instant and _later(s.end, instant)), None)

    def __iter__(self) -> Iterator[Span[Value]]:
        return iter(self._spans)


def _later(end: datetime | None, instant: datetime) -> bool:
    return end is None or end > instant
