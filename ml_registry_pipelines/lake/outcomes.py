"""What comes of a write: results, and errors whose text is one sentence for a person.

Also how delta-rs's failures are told apart: lost to another writer, refused for what was
given, hopeless for now, or of unknown outcome. The writes themselves are in `lake.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from ml_registry_pipelines.errors import MlregError


class LakeError(MlregError):
    """A table could not be read or written."""


def nearest_tables(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a table that there is not: those whose names are most like its own."""
    near = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f"the nearest: {', '.join(near)}; `mlreg tables` lists all" if near else "`mlreg tables` lists all"


class UnknownTable(LakeError):
    """No table is declared under that name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"there is no table {name!r}; {nearest_tables(name, known)}")


class OutOfSequence(LakeError):
    """A batch does not follow the last one of its source."""

    def __init__(self, table: str, source: str, *, last: int, given: int) -> None:
        super().__init__(
            f"{table}: batch {given} of {source!r} does not follow {last}; "
            f"read the table again and take {last + 1}"
        )


class LostRace(LakeError):
    """Another writer committed first; nothing of this write landed."""


class StaleSlice(LakeError):
    """A slice was already computed from later data; nothing was written."""


class CommitUnknown(LakeError):
    """The store failed and shows no trace of the commit; it is safe to try again."""


class SnapshotGone(LakeError):
    """Files of a snapshot were removed while it was being read; read again."""


class Landed(Enum):
    """Whether this call put the batch into the table, or an earlier one did."""

    NOW = "now"
    BEFORE = "before"


@dataclass(frozen=True)
class Erased:
    """What an erasure removed, and the version that holds none of it.

    `files_pending` are files younger than the erasure that no commit names: a writer of
    another process may be about to commit them. Unless they land, the next full upkeep
    after an hour removes them; 0 means that no file below the table holds a matching row.
    """

    rows: int
    files_rewritten: int
    files_deleted: int
    files_pending: int
    version: int


HOPELESS = {
    "No space left": "the disk is full; free some space",
    "os error 28": "the disk is full; free some space",
    "quota exceeded": "the disk quota is used up; free some space",
    "os error 27": "a file would be larger than this process may write",
    "Permission denied": "permission is denied; check who owns the folder",
    "os error 13": "permission is denied; check who owns the folder",
    "Operation not permitted": "the operation is not permitted; check who owns the folder",
    "Read-only file system": "the file system is read-only",
    "AccessDenied": "the store denies access; check credentials and bucket policy",
    "InvalidAccessKeyId": "the store does not know the access key; check the credentials",
    "SignatureDoesNotMatch": "the store refuses the secret key; check the credentials",
    "http://169.254.169.254/": "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "NoSuchBucket": "the bucket does not exist; make it, or mend the address",
}
"""What a store says when waiting will not help, in words for a person."""

_REFUSED = (
    "Invalid data found",
    "Schema error",
    "Cannot cast schema",
    "sql parser error",
    "Error during planning",
)
_CAUSE = "\u21b3"
_COLOUR = re.compile(r"\x1b\[\d*m")
_WRAPPING = re.compile(
    r"^(Generic DeltaTable error|External error|Generic error|Kernel error|Failed to commit transaction|"
    r"Schema error|Commit failed|IO Error|Arrow error): "
)


class Verdict(Enum):
    """What a failed commit means for the next attempt."""

    LOST = "lost"
    """Another writer was first, or the handle was too old: a new snapshot may do."""
    UNSURE = "unsure"
    """The store failed in some other way."""
    HOPELESS = "hopeless"
    REFUSED = "refused"


def verdict(failure: Exception) -> Verdict:
    """Tell a failed commit's meaning from what delta-rs raised."""
    from deltalake.exceptions import CommitFailedError, SchemaMismatchError

    text = str(failure)
    if any(sign in text for sign in HOPELESS):
        return Verdict.HOPELESS
    if isinstance(failure, SchemaMismatchError) or any(sign in text for sign in _REFUSED):
        return Verdict.REFUSED
    if isinstance(failure, CommitFailedError) or "Invalid table version" in text:
        return Verdict.LOST
    return Verdict.UNSURE


def reason(failure: Exception) -> str:
    """The failure in a few words, without what lies below it."""
    text = str(failure)
    for sign, meaning in HOPELESS.items():
        if sign in text:
            return meaning
    if _CAUSE in text:
        # A chain of causes, the last of which says most: "Connection refused".
        return _COLOUR.sub("", text.rsplit(_CAUSE, 1)[1]).strip(" .\n")
    first = text.splitlines()[0] if text else type(failure).__name__
    while found := _WRAPPING.match(first):
        first = first[found.end() :]
    return first.replace('"?table?".', "").rstrip(".: ")


def store_errors() -> tuple[type[Exception], ...]:
    """What delta-rs raises for a commit that was refused, or whose outcome it does not know."""
    from deltalake.exceptions import DeltaError

    return (DeltaError, OSError)
