"""Ctrl-C while DuckDB works, as what it is: the wish of a person to end, not a query or a file that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def is_interrupt(failure: BaseException) -> bool:
    """Whether an error, or what it arose from, says that a person has interrupted.

    DuckDB looks for signals while it works. It swallows the KeyboardInterrupt that it finds, and raises one of
    two errors of its own.
    """
    if isinstance(failure, KeyboardInterrupt):
        return True
    kind = type(failure)
    if kind.__name__ == "InterruptException" and kind.__module__.lstrip("_").startswith("duckdb"):
        return True
    if kind is RuntimeError and str(failure) == "Query interrupted":
        return True
    before = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    return before is not None and is_interrupt(before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interrupted query end as anything else does that is interrupted.

    Raises:
        KeyboardInterrupt: somebody has interrupted.
    """
    try:
        yield
    except Exception as failure:
        if is_interrupt(failure):
            raise KeyboardInterrupt from None
        raise
