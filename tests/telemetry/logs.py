"""Log files for the tests: written in memory, decoded, and shown as plain values."""

from __future__ import annotations

import functools
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml_registry_pipelines.telemetry.decoding import Decoded, LogFile, Origin, Workspace
from ml_registry_pipelines.telemetry.dialects import DIALECTS
from ml_registry_pipelines.telemetry.splitting import Limits

WRITTEN = datetime(2026, 10, 31, 13, 0, tzinfo=UTC)
"""When the files of the tests were written."""


@functools.cache
def workspace() -> Workspace:
    """Where all files are decoded, one after the other."""
    return Workspace(about=1)


@dataclass(frozen=True)
class Read:
    """All that came out of one file."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    ignored: int
    dialect: str | None
    digest: str
    parts: Sequence[Decoded]

    @property
    def rows_in(self) -> int:
        return len(self.rows) + len(self.rejected) + self.ignored

    @property
    def row(self) -> dict[str, Any]:
        """The only row."""
        assert len(self.rows) == 1, self.rejected
        return self.rows[0]

    @property
    def reject(self) -> dict[str, Any]:
        """The only reject."""
        assert len(self.rejected) == 1, self.rejected
        return self.rejected[0]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(reject["line"], reject["reason"]) for reject in self.rejected]

    @property
    def ids(self) -> list[str]:
        return [row["event_id"] for row in self.rows]


def read(
    content: bytes | str | Iterable[dict[str, Any] | str],
    name: str = "a.jsonl",
    *,
    dialect: str | None = None,
    limits: Limits | None = None,
    start_after_line: int = 0,
    stream: io.IOBase | None = None,
    **said: Any,
) -> Read:
    """Decode a file: its bytes, its text, or its records as lines."""
    if not isinstance(content, bytes | str):
        content = lines(content)
    if isinstance(content, str):
        content = content.encode()
    moments = {"modified_at": WRITTEN, "recorded_at": WRITTEN, "base_time": WRITTEN}
    log = LogFile(
        stream or io.BytesIO(content),  # type: ignore[arg-type]
        Origin(**{"source": "tests", "file": name, "salt": "salt", **moments, **said}),
        dialect=None if dialect is None else DIALECTS[dialect],
        limits=limits,
        start_after_line=start_after_line,
        workspace=workspace(),
    )
    parts = list(log)
    return Read(
        rows=[row for part in parts for row in part.rows.to_pylist()],
        rejected=[reject for part in parts for reject in part.rejected.to_pylist()],
        ignored=sum(part.ignored for part in parts),
        dialect=log.dialect.name if log.dialect else None,
        digest=log.digest,
        parts=parts,
    )


def lines(records: Iterable[dict[str, Any] | str]) -> str:
    """JSON lines; a text among the records is a line as it stands."""
    texts = (record if isinstance(record, str) else json.dumps(record) for record in records)
    return "".join(text + "\n" for text in texts)


def native(number: int = 1, /, **fields: Any) -> dict[str, Any]:
    """A native record that can be taken."""
    return {
        "event_id": f"r{number}",
        "ts": "2026-10-31T12:00:00Z",
        "provider": "openai",
        "model": "gpt-4o",
        "usage": {"in_uncached": 100, "out_text": 20},
        **fields,
    }


def gz(content: bytes | str) -> bytes:
    return gzip.compress(content.encode() if isinstance(content, str) else content, mtime=0)


def some(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that have a value."""
    return {name: value for name, value in row.items() if value is not None}


ALWAYS = {
    "tenant": "default",
    "recorded_at": WRITTEN,
    "attempt": 1,
    "source": "tests",
    "line": 1,
    "part": 0,
    "time_quality": "recorded",
    "span_kind": "leaf",
    "status": "success",
    "usage_quality": "exact",
}


def expected(**values: Any) -> dict[str, Any]:
    """A whole row without its keys, from what differs from the usual."""
    row = {**ALWAYS, **values}
    return {**row, "day": row["event_ts"].date()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in some(row).items() if name != "event_key"}
