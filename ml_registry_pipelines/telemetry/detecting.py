"""What a file is: the dialect of its first records, or why the file as a whole is refused.

Reading the records is in `reading.py`, decoding them in `decoding.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.dialects.bills import bill_format_of
from ml_registry_pipelines.telemetry.dialects.dialect import Dialect

SAMPLE_RECORDS = 256
"""Records that detection looks at, unless fewer make up `SAMPLE_BYTES`."""
SAMPLE_BYTES = 1 << 20
SAMPLE_LEAST = 3
"""Records that detection looks at even where each is longer than that."""


@dataclass(frozen=True)
class Refusal:
    """Why nothing of a file is taken: a machine-readable reason, and a sentence."""

    reason: str
    message: str


def recognise(
    texts: Sequence[str], file: str, known: Sequence[Dialect], forced: Dialect | None = None
) -> Dialect | Refusal:
    """The dialect of a file by its first records, or why it is refused: a bill is, whatever is forced.

    Args:
        texts: JSON texts of the first records.
        file: what messages call it.
    """
    bill = bill_format_of(texts)
    if bill is not None:
        return Refusal(
            "bill",
            f"{file}: it holds {bill.describes} ({bill.name}): a bill, whose lines sum up requests and are none; "
            "put it into a bills source, where it is compared with what the logged requests cost",
        )
    return (
        forced
        or detect(texts, known)
        or Refusal(
            "unknown_dialect",
            f"{file}: its records are of no known dialect (known are {', '.join(d.name for d in known)}); "
            "set the source's dialect, or write one",
        )
    )


def detect(texts: Iterable[str], known: Iterable[Dialect] = tuple(DIALECTS.values())) -> Dialect | None:
    """The dialect that most of these records are of; None where none is, or two are equally likely."""
    votes: Counter[str] = Counter()
    named = {dialect.name: dialect for dialect in known}
    for text in texts:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            votes.update(name for name, dialect in named.items() if dialect.recognises(record))
    match votes.most_common(2):
        case [(name, _)]:
            return named[name]
        case [(name, most), (_, next_most)] if most > next_most:
            return named[name]
    return None
