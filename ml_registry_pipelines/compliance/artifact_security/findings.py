"""What a scan says about a file: clean, flagged or refused, and why.

A finding holds kinds, names of globals and places, never a secret and never bytes of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Any

LONGEST = 200
"""Characters of a text from a file that a finding shows: it was written by whoever made the file."""


class FileVerdict(Enum):
    """`REFUSED`: the scan cannot say that the file is harmless. Neither it nor `FLAGGED` opens a gate."""

    CLEAN = "clean"
    FLAGGED = "flagged"
    REFUSED = "refused"


class Check(Enum):
    """The checks of a file by their number in the list of fourteen."""

    FORMAT = "S2"
    PICKLE = "S3"
    ARCHIVE = "S4"
    CODE = "S5"
    SECRETS = "S9"
    EXTERNAL = "S11"
    TEMPLATE = "S12"
    GGUF = "S13"


@dataclass(frozen=True)
class Finding:
    """One reason why a file is not clean; `where` is a place inside it, such as `archive/data.pkl`."""

    check: Check
    verdict: FileVerdict
    what: str
    where: str = ""

    @property
    def text(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass(frozen=True)
class FileScan:
    """What was found in one file.

    Attributes:
        formats: what it was recognised as, with what is inside it: `zip`, `pickle`, `safetensors`.
        notes: what is worth knowing and no finding, such as a limit that could not be set.
        scanned_at: None as long as it has not been kept.
    """

    name: str
    sha256: str
    size: int
    formats: tuple[str, ...]
    findings: tuple[Finding, ...]
    scanner: str
    notes: tuple[str, ...] = ()
    scanned_at: datetime | None = None

    @property
    def verdict(self) -> FileVerdict:
        return worst_verdict(finding.verdict for finding in self.findings)

    def of(self, *checks: Check) -> tuple[Finding, ...]:
        """The findings of some checks alone."""
        return tuple(finding for finding in self.findings if finding.check in checks)


def worst_verdict(verdicts: Iterable[FileVerdict]) -> FileVerdict:
    """Flagged before refused before clean."""
    found = set(verdicts)
    for verdict in (FileVerdict.FLAGGED, FileVerdict.REFUSED):
        if verdict in found:
            return verdict
    return FileVerdict.CLEAN


def readable(text: object) -> str:
    """A text from a file, bounded and without characters that do something to a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def as_json(findings: Iterable[Finding]) -> str:
    """Findings as they are kept and as the child hands them over."""
    return json.dumps(
        [{**asdict(f), "check": f.check.value, "verdict": f.verdict.value} for f in findings],
        ensure_ascii=False,
        sort_keys=True,
    )


def from_json(given: Iterable[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """What `as_json` wrote, once parsed."""
    return tuple(
        Finding(Check(f["check"]), FileVerdict(f["verdict"]), str(f["what"]), str(f["where"])) for f in given
    )
