"""Anchors: the heads of all chains, signed with an offline key and kept outside the root.

Without one, nobody can tell a log whose end was cut off, or whose chain was computed anew,
from a whole one. An anchor also holds eight bytes of every hash since the anchor before, so
that it is known *which* event a forged chain first differs in.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.log_table import TABLE
from ml_registry_pipelines.registry.stretches import INSIDE, portions

_NAME = re.compile(r"anchor-.*\.json")
LINK = 8
"""Bytes of a hash that an anchor keeps."""


class AnchorError(RegistryError):
    """An anchor or a key is missing, forged or unreadable."""


@dataclass(frozen=True)
class Anchor:
    """The heads of all tenants at one moment.

    `links` maps a tenant to the first sequence that its links are for, and the links.
    """

    made_at: datetime
    heads: Mapping[str, tuple[int, str]]
    links: Mapping[str, tuple[int, bytes]]
    file: str


def make_keys(private: Path, public: Path) -> None:
    """Write a new Ed25519 key pair as PEM files; the private one belongs on no machine of the platform.

    Raises:
        AnchorError: a file is there already.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if private.exists() or public.exists():
        raise AnchorError(
            f"{private if private.exists() else public} is there already; keys are not overwritten"
        )
    key = Ed25519PrivateKey.generate()
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )


def write_anchor(lake: Lake, folder: Path | str, key: Path, *, public: Path, now: datetime) -> str:
    """Sign the heads of all tenants into a new file of `folder`, which lies outside the root; return its address.

    The folder may be `s3://bucket/prefix`.

    Raises:
        AnchorError: the folder is inside the root, the key is no Ed25519 key, or an earlier
            anchor there does not verify.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    place = open_folder(str(folder))
    if _lies_below(place.uri, lake.root):
        raise AnchorError(
            f"{folder} is inside {lake.root}: whoever can change the log could change its anchors"
        )
    before = read_anchors(folder, public)
    known = before[-1].heads if before else {}
    heads, links = _heads_and_links(lake, known)
    content = canonical(
        {
            "made_at": now.isoformat(),
            "heads": {tenant: list(head) for tenant, head in heads.items()},
            "links": {t: [first, base64.b64encode(data).decode()] for t, (first, data) in links.items()},
            "previous": before[-1].file if before else None,
        }
    )
    try:
        signing = load_pem_private_key(key.read_bytes(), password=None)
        signature = signing.sign(content.encode())  # type: ignore[union-attr, call-arg]
    except (OSError, ValueError, TypeError, AttributeError) as failure:
        raise AnchorError(f"{key} is no private Ed25519 key in PEM: {failure}") from failure
    name = f"anchor-{len(before) + 1:08d}.json"
    signed = json.dumps({"content": content, "signature": signature.hex()})
    if not place.create(name, signed.encode()):
        raise AnchorError(f"{place.uri}/{name} has just been written by somebody else; sign again")
    return f"{place.uri}/{name}"


def _lies_below(uri: str, root: str) -> bool:
    if uri.startswith("s3://") or root.startswith("s3://"):
        return f"{uri}/".startswith(f"{root}/")
    return Path(uri).resolve().is_relative_to(Path(root).resolve())


def read_anchors(folder: Path | str, public: Path) -> list[Anchor]:
    """All anchors of a folder, oldest first, each verified against the public key.

    Raises:
        AnchorError: one is missing between others, forged or unreadable.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key: Any = load_pem_public_key(public.read_bytes())
    except (OSError, ValueError) as failure:
        raise AnchorError(f"{public} is no public key in PEM: {failure}") from failure
    found: list[Anchor] = []
    place = open_folder(str(folder))
    names = [entry.path for entry in place.entries() if _NAME.fullmatch(entry.path)]
    for number, name in enumerate(names, start=1):
        path = f"{place.uri}/{name}"
        try:
            signed = json.loads(place.read(name))
            key.verify(bytes.fromhex(signed["signature"]), signed["content"].encode())
            content = json.loads(signed["content"])
        except InvalidSignature:
            raise AnchorError(f"{path} is forged: its signature is not by the key {public}") from None
        except (ValueError, KeyError, TypeError) as failure:
            raise AnchorError(f"{path} is no anchor: {failure}") from failure
        previous = found[-1].file if found else None
        if content["previous"] != previous or name != f"anchor-{number:08d}.json":
            raise AnchorError(f"an anchor before {path} is missing")
        found.append(_anchor(content, name))
    return found


def _anchor(content: Mapping[str, Any], name: str) -> Anchor:
    return Anchor(
        datetime.fromisoformat(content["made_at"]),
        {tenant: (head[0], head[1]) for tenant, head in content["heads"].items()},
        {tenant: (first, base64.b64decode(data)) for tenant, (first, data) in content["links"].items()},
        name,
    )


def _heads_and_links(
    lake: Lake, known: Mapping[str, Sequence[object]]
) -> tuple[dict[str, tuple[int, str]], dict[str, tuple[int, bytes]]]:
    heads = {tenant: (int(str(head[0])), str(head[1])) for tenant, head in known.items()}
    links: dict[str, tuple[int, bytes]] = {}
    with lake.read(TABLE) as reading:
        newest = reading.query(
            "registry.anchor_sizes",
            f"SELECT tenant, count(*) AS n, max(sequence) AS last FROM {TABLE} GROUP BY tenant ORDER BY tenant",
        ).to_pylist()
        sizes = {
            row["tenant"]: row["n"] for row in newest if row["last"] > heads.get(row["tenant"], (0, ""))[0]
        }
        after = {tenant: head[0] for tenant, head in heads.items()}
        for portion in portions(reading, sizes, after=after):
            rows = reading.query("registry.anchor", _PORTION, portion.parameters).to_pylist()
            for row in rows:
                tenant = row["tenant"]
                if tenant not in sizes:
                    continue
                first, held = links.get(tenant, (row["first"], b""))
                links[tenant] = (first, held + bytes.fromhex(row["links"]))
                heads[tenant] = (row["last"], row["head"])
    return heads, links


_PORTION = f"""
SELECT tenant, min(sequence) AS first, max(sequence) AS last, arg_max(hash, sequence) AS head,
       string_agg(substr(hash, 1, {2 * LINK}), '' ORDER BY sequence) AS links
FROM {TABLE}
WHERE {INSIDE}
GROUP BY tenant
ORDER BY tenant
"""
