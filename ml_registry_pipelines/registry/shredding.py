"""Personal fields of the log: encrypted under a key per person, so that destroying the key erases them.

A field is AES-256-GCM under the person's key, with tenant, person and field as associated data, so a
ciphertext says nothing anywhere else. The key is wrapped by a key-encryption key that is outside the
storage root (`MLREG_KEK`: 64 hexadecimal digits; or `MLREG_KEK_FILE`) and lies in the table
`subject_keys`, which is no part of the log. The hash chain covers the ciphertext as it stands; when the
key is gone the field reads `erased`, in every `as_of`, export and projection.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.tables.erasure import SUBJECT_KEYS
from ml_registry_pipelines.registry.errors import InvalidInput

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

TABLE = "subject_keys"
ERASED = "erased"
KEK, KEK_FILE = "MLREG_KEK", "MLREG_KEK_FILE"
SEALED = "sealed"
"""Name of the member by which a sealed field is known: `{"sealed": {"key", "field", "nonce", "text"}}`."""
_DIGITS = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class KeyEncryptionKey:
    """The key that wraps keys of people, and from which the names are made that they go by."""

    secret: bytes

    @classmethod
    def from_environment(cls, root: str) -> KeyEncryptionKey:
        """The key that `MLREG_KEK` or `MLREG_KEK_FILE` gives.

        Raises:
            InvalidInput: there is none, it is no key, or its file lies below the storage root, where a
                backup would hold lock and key together.
        """
        given = os.environ.get(KEK, "").strip()
        file = os.environ.get(KEK_FILE, "").strip()
        if file and not given:
            path = Path(file).expanduser().resolve()
            if not root.startswith("s3://") and path.is_relative_to(Path(root).resolve()):
                raise InvalidInput(
                    f"{KEK_FILE} lies below the storage root; keep the key where its backups are not"
                )
            try:
                given = path.read_text().strip()
            except (OSError, UnicodeDecodeError) as failure:
                raise InvalidInput(f"the file that {KEK_FILE} names cannot be read") from failure
        if not given:
            raise InvalidInput(
                f"a personal value is to be recorded and there is no key to encrypt it under; set {KEK} to 64 "
                f"hexadecimal digits, or {KEK_FILE} to a file with them, outside the storage root"
            )
        if not _DIGITS.fullmatch(given):
            raise InvalidInput(
                f"{KEK} is no key: it is 64 hexadecimal digits, such as `openssl rand -hex 32` gives"
            )
        return cls(bytes.fromhex(given))

    def named(self, tenant: str, identifier: str) -> str:
        """What a person goes by in the table of keys."""
        text = f"{len(tenant)}:{tenant}{identifier}".encode()
        return hmac.new(self.secret, b"subject" + text, "sha256").hexdigest()[:32]


class SubjectKeys:
    """The keys of people in one lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def seal(self, tenant: str, identifier: str, field: str, value: str) -> dict[str, Any]:
        """The value as the log may hold it. The person's key is made with their first field.

        Raises:
            InvalidInput: there is no key-encryption key.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        kek = KeyEncryptionKey.from_environment(self._lake.root)
        subject = kek.named(tenant, identifier)
        key_id, key = self._key_of(kek, tenant, subject)
        nonce = secrets.token_bytes(12)
        text = AESGCM(key).encrypt(nonce, value.encode(), _about(tenant, key_id, field))
        return {
            SEALED: {
                "key": key_id,
                "field": field,
                "nonce": base64.b64encode(nonce).decode(),
                "text": base64.b64encode(text).decode(),
            }
        }

    def opened(self, tenant: str, value: Any) -> Any:
        """The value with every sealed field in it in the clear, or `erased` where its key is destroyed.

        Raises:
            InvalidInput: a field was tampered with, or the key-encryption key is missing or another one.
        """
        return _opened(value, tenant, _Keys(self._lake, tenant))

    def ids_of(self, tenant: str, identifiers: Iterable[str]) -> list[str]:
        """Ids of the keys of a person."""
        if not self._lake.exists(TABLE):
            return []
        kek = KeyEncryptionKey.from_environment(self._lake.root)
        names = [kek.named(tenant, one) for one in identifiers]
        return [row["key_id"] for name in names for row in _rows(self._lake, tenant, "subject", name)]

    def destroy(self, tenant: str, identifiers: Iterable[str]) -> int:
        """Destroy the keys of a person, from every file of the table; how many there were."""
        if not self._lake.exists(TABLE):
            return 0
        kek = KeyEncryptionKey.from_environment(self._lake.root)
        named = ", ".join(sorted(f"'{kek.named(tenant, one)}'" for one in identifiers))
        mine = tenant.replace("'", "''")
        return self._lake.erase(TABLE, f"tenant = '{mine}' AND subject IN ({named})").rows

    def _key_of(self, kek: KeyEncryptionKey, tenant: str, subject: str) -> tuple[str, bytes]:
        import pyarrow as pa

        found = _rows(self._lake, tenant, "subject", subject)
        if not found:
            key_id, key = secrets.token_hex(16), secrets.token_bytes(32)
            row = {
                "tenant": tenant,
                "key_id": key_id,
                "subject": subject,
                "wrapped": _wrapped(kek, tenant, key_id, key),
                "recorded_at": datetime.now(UTC),
            }
            self._lake.append_next(
                TABLE, pa.Table.from_pylist([row], schema=SUBJECT_KEYS.schema), source="keys"
            )
            return key_id, key
        first = found[0]
        return first["key_id"], _unwrapped(kek, tenant, first["key_id"], first["wrapped"])


class _Keys:
    """Keys by id, each read and unwrapped once."""

    def __init__(self, lake: Lake, tenant: str) -> None:
        self._lake, self._tenant = lake, tenant
        self._known: dict[str, bytes | None] = {}

    def get(self, key_id: str) -> bytes | None:
        if key_id not in self._known:
            rows = _rows(self._lake, self._tenant, "key_id", key_id)
            self._known[key_id] = None
            if rows:
                kek = KeyEncryptionKey.from_environment(self._lake.root)
                self._known[key_id] = _unwrapped(kek, self._tenant, key_id, rows[0]["wrapped"])
        return self._known[key_id]


def _rows(lake: Lake, tenant: str, column: str, value: str) -> list[dict[str, Any]]:
    if not lake.exists(TABLE):
        return []
    with lake.read(TABLE) as reading:
        found: list[dict[str, Any]] = reading.query(
            "shredding.keys",
            f"""
            SELECT key_id, wrapped FROM {TABLE} WHERE tenant = $tenant AND {column} = $value
            ORDER BY recorded_at, key_id
            """,
            {"tenant": tenant, "value": value},
        ).to_pylist()
    return found


def _opened(value: Any, tenant: str, keys: _Keys) -> Any:
    match value:
        case Mapping():
            sealed = value.get(SEALED)
            if (
                len(value) == 1
                and isinstance(sealed, Mapping)
                and {"key", "field", "nonce", "text"} <= set(sealed)
            ):
                return _decrypted(sealed, tenant, keys)
            return {name: _opened(held, tenant, keys) for name, held in value.items()}
        case list() | tuple():
            return [_opened(held, tenant, keys) for held in value]
        case _:
            return value


def _decrypted(sealed: Mapping[str, Any], tenant: str, keys: _Keys) -> str:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = keys.get(str(sealed["key"]))
    if key is None:
        return ERASED
    about = _about(tenant, str(sealed["key"]), str(sealed["field"]))
    try:
        nonce, text = base64.b64decode(sealed["nonce"]), base64.b64decode(sealed["text"])
        return AESGCM(key).decrypt(nonce, text, about).decode()
    except (InvalidTag, binascii.Error, ValueError) as failure:
        raise InvalidInput(
            f"the personal field {sealed['field']!r} was changed, or belongs elsewhere; check `mlreg audit verify`"
        ) from failure


def _about(tenant: str, key_id: str, field: str) -> bytes:
    return "".join(f"{len(part)}:{part}" for part in (tenant, key_id, field)).encode()


def _wrapped(kek: KeyEncryptionKey, tenant: str, key_id: str, key: bytes) -> str:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(12)
    return base64.b64encode(
        nonce + AESGCM(kek.secret).encrypt(nonce, key, _about(tenant, key_id, "key"))
    ).decode()


def _unwrapped(kek: KeyEncryptionKey, tenant: str, key_id: str, wrapped: str) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = base64.b64decode(wrapped)
    try:
        return AESGCM(kek.secret).decrypt(data[:12], data[12:], _about(tenant, key_id, "key"))
    except InvalidTag as failure:
        raise InvalidInput(
            f"the key of a person cannot be unwrapped: {KEK} is another than it was made under"
        ) from failure
