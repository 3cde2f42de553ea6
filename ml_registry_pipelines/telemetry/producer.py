"""Writing landing files as this platform likes them: whole, in order, taken as soon as they appear.

For services that log their own inference calls. A file is written under a temporary name,
flushed to disk and renamed; in a bucket it is put whole. Names ascend with time, also
among writers of several processes, and no file is ever written twice.
"""

from __future__ import annotations

import gzip
import io
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import open_folder

REQUIRED = ("event_id", "ts", "provider", "model")
"""What a native record must have."""


class ProducerError(MlregError):
    """A record cannot be written to a landing file."""


class Form(Enum):
    """Format of a landing file, by its suffix."""

    JSONL = "jsonl"
    JSONL_GZ = "jsonl.gz"
    PARQUET = "parquet"


class LandingWriter:
    """Writes files below a landing zone, a folder or `s3://bucket/prefix`. Thread-safe.

    Examples:
        >>> writer = LandingWriter("landing")  # doctest: +SKIP
        >>> writer.write("native", [{"event_id": "r1", "ts": "2026-10-31T12:00:00Z",
        ...                          "provider": "openai", "model": "gpt-4o"}])  # doctest: +SKIP
        'native/dt=2026-10-31/hh=12/01K8WQ4X3N7G5T2B9ZC6D1E8F0.jsonl.gz'
    """

    def __init__(self, landing: str, *, form: Form = Form.JSONL_GZ) -> None:
        self._folder = open_folder(landing)
        self._form = form
        self._names = _Names()

    def write(self, kind: str, records: Sequence[Mapping[str, Any]], *, now: datetime | None = None) -> str:
        """Write the records as one file, in their order; return its path below the landing zone.

        Args:
            kind: folder of the log format, such as `native` or `litellm`.
            now: which hour's folder it goes into; by default this hour's.

        Raises:
            ProducerError: there are no records, or one is not JSON or lacks a required field.
            FilesError: the landing zone cannot be written; nothing was.
        """
        if not records:
            raise ProducerError(f"no records for a landing file of {kind!r}; write at least one")
        moment = (now or datetime.now(UTC)).astimezone(UTC)
        if kind == "native":
            _check(records)
        data = _encoded(records, self._form)
        path = f"{kind}/dt={moment:%Y-%m-%d}/hh={moment:%H}/{self._names.next()}.{self._form.value}"
        if not self._folder.create(path, data):
            raise ProducerError(f"{path} is there already; nothing was written")
        return path


def _check(records: Sequence[Mapping[str, Any]]) -> None:
    """The cheap part of what ingestion will check, so that a mistake shows where it is made."""
    for number, record in enumerate(records, start=1):
        missing = [name for name in REQUIRED if record.get(name) in (None, "")]
        if missing:
            raise ProducerError(f"record {number} lacks {', '.join(missing)}; a native record needs it")


def _encoded(records: Sequence[Mapping[str, Any]], form: Form) -> bytes:
    if form is Form.PARQUET:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        try:
            pq.write_table(
                pa.Table.from_pylist([dict(record) for record in records]), buffer, compression="zstd"
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError) as failure:
            raise ProducerError(f"the records do not fit one Parquet schema: {failure}") from failure
        return buffer.getvalue()
    lines = []
    for number, record in enumerate(records, start=1):
        try:
            lines.append(json.dumps(record, allow_nan=False, default=_plain, separators=(",", ":")))
        except (TypeError, ValueError) as failure:
            raise ProducerError(f"record {number} is not JSON: {failure}") from failure
    text = ("\n".join(lines) + "\n").encode()
    return gzip.compress(text, 6) if form is Form.JSONL_GZ else text


def _plain(value: object) -> object:
    """Times as ISO 8601 and exact amounts as text, which ingestion reads exactly."""
    from decimal import Decimal

    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written")


_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class _Names:
    """Names that ascend: 48 bits of milliseconds, then 80 random bits that count on within one
    millisecond, in the alphabet and order of ULID."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = (0, 0)

    def next(self) -> str:
        with self._lock:
            now = max(time.time_ns() // 1_000_000, self._last[0])
            chance = self._last[1] + 1 if now == self._last[0] else secrets.randbits(79)
            self._last = (now, chance)
        number = now << 80 | chance
        return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
