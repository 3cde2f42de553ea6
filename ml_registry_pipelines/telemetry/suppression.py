"""Who must not be taken again: the list that every door of ingestion asks.

An entry is the HMAC-SHA-256, under a key of the list's own, of the salted hash that the tables would
hold. So neither the list nor the salt alone tells who is on it, and whoever is sends no row back:
rows are matched by the hashes of their user, session or unit, and text that could not be decoded by
each of its words.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError, open_folder
from ml_registry_pipelines.telemetry.identity import salted_hash

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.lake import Lake

TABLE = "suppression_list"
ERASED_ID = "erased-"
"""Begins the event id of a request whose person was erased; its `event_key` follows."""
PERSONAL_HASHES = ("user_hash", "session_hash", "unit_hash")
"""Columns that say by a salted hash who a row is about."""
_WORDS = re.compile(r"[^\s\"'<>(){}\[\],;|=\\]+")
_TRIMMED = ".:!?/"


class SuppressionError(MlregError):
    """The key of the suppression list cannot be kept."""


def keys_folder(root: str) -> str:
    """Where the secrets of a root lie: the folder that `MLREG_KEYS` names, which all workers share, or below it.

    Apart from the root they are in none of its backups. What is hashed with a salt that is moved
    matches only if the salt is moved along.
    """
    return os.environ.get("MLREG_KEYS", "").strip() or f"{root}/keys"


def suppression_key(root: str) -> bytes:
    """The secret of this root that entries of the list are made with; made once, for all workers.

    Raises:
        SuppressionError: the root cannot be written.
    """
    keys = open_folder(keys_folder(root))
    try:
        keys.create("suppression_key", secrets.token_hex(32).encode())
        return bytes.fromhex(keys.read("suppression_key").decode())
    except (FilesError, ValueError) as failure:
        raise SuppressionError(f"the key of the suppression list cannot be kept: {failure}") from failure


def entry_of(key: bytes, tenant: str, hashed: str) -> str:
    """The entry for the salted hash of an identifier."""
    return hmac.new(key, f"{len(tenant)}:{tenant}{hashed}".encode(), "sha256").hexdigest()


class Suppression:
    """The list of one lake as it is now."""

    def __init__(self, lake: Lake) -> None:
        self._entries: dict[str, set[str]] = {}
        if not lake.exists(TABLE):
            return
        with lake.read(TABLE) as reading:
            rows = reading.query(
                "suppression.list", f"SELECT DISTINCT tenant, entry FROM {TABLE}"
            ).to_pylist()
        for row in rows:
            self._entries.setdefault(row["tenant"], set()).add(row["entry"])
        if self._entries:
            self._key = suppression_key(lake.root)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def holds(self, tenant: str, hashed: str) -> bool:
        """Whether a salted hash belongs to somebody who was erased."""
        entries = self._entries.get(tenant)
        return entries is not None and entry_of(self._key, tenant, hashed) in entries

    def named_in(self, text: str, tenant: str | None, salt: str) -> bool:
        """Whether a text holds an identifier, or its salted hash, as a word or as a value of its JSON."""
        tenants = [tenant] if tenant else list(self._entries)
        words = set(words_of(text))
        return any(
            self.holds(one, word) or self.holds(one, salted_hash(salt, one, word))
            for one in tenants
            if one in self._entries
            for word in words
        )


def without_erased(
    lake: Lake, rows: pa.Table, rejected: pa.Table | None = None, *, salt: str = ""
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Rows and rejects that may be kept, and `source` and `file` of the others."""
    import pyarrow as pa

    listed = Suppression(lake)
    empty = rows.slice(0, 0)
    kept_rejects = empty if rejected is None else rejected
    nobody = rows.slice(0, 0).select(["source", "file"])
    if not listed:
        return rows, kept_rejects, nobody
    gone = [nobody]
    mask = _erased_rows(listed, rows)
    if any(mask):
        gone.append(rows.filter(pa.array(mask)).select(["source", "file"]))
        rows = rows.filter(pa.array([not erased for erased in mask]))
    if rejected is not None and len(rejected):
        named = [
            listed.named_in(raw or "", tenant, salt)
            for raw, tenant in zip(rejected["raw"].to_pylist(), rejected["tenant"].to_pylist(), strict=True)
        ]
        gone.append(rejected.filter(pa.array(named)).select(["source", "file"]).cast(nobody.schema))
        kept_rejects = rejected.filter(pa.array([not erased for erased in named]))
    return rows, kept_rejects, pa.concat_tables(gone)


def _erased_rows(listed: Suppression, rows: pa.Table) -> list[bool]:
    """Whether each row is about somebody on the list; each pair of tenant and hash is looked up once."""
    columns = [name for name in PERSONAL_HASHES if name in rows.schema.names]
    tenants = rows["tenant"].to_pylist()
    known: dict[tuple[str, str], bool] = {}
    mask = [False] * len(tenants)
    for name in columns:
        for number, hashed in enumerate(rows[name].to_pylist()):
            if hashed is None or mask[number]:
                continue
            pair = (tenants[number], hashed)
            if pair not in known:
                known[pair] = listed.holds(*pair)
            mask[number] = known[pair]
    return mask


def words_of(text: str) -> Iterator[str]:
    """What in a text may be an identifier: values of its JSON, and words, with and without marks around them."""
    with contextlib.suppress(ValueError, RecursionError):
        yield from _values(json.loads(text))
    for word in _WORDS.findall(text):
        yield word
        yield word.strip(_TRIMMED)
        if ":" in word:
            yield from word.split(":")


def _values(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
            yield value.strip()
        case bool() | None:
            return
        case int() | float():
            yield str(value)
        case Mapping():
            for name, held in value.items():
                yield str(name)
                yield from _values(held)
        case list():
            for held in value:
                yield from _values(held)


def entries_of(key: bytes, tenant: str, hashes: Iterable[str]) -> Collection[str]:
    """The entries for some salted hashes, in order."""
    return sorted({entry_of(key, tenant, hashed) for hashed in hashes})
