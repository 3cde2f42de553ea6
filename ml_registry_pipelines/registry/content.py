"""What a version can be made of, what its files may be called, and what can be wrong with them.

Where bytes lie and how they move is in `blobs.py`, `bucket.py` and `copying.py`; the verbs are
in `artifacts.py`, which is where callers find these names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError, shown

MAX_FILES = 100_000
MAX_PART = 255
"""Bytes of a file's or folder's name: what Linux, macOS and Windows can all hold."""
MAX_PATH = 1_000
"""Bytes of a path inside an artifact; an object store's key has 1,024."""


class ArtifactError(RegistryError):
    """An artifact could not be stored or read."""


class ArtifactRefused(ArtifactError):
    """A file or folder that is not stored: a link, a device, nothing at all."""


class ArtifactChanged(ArtifactError):
    """Stored bytes are not those that were registered."""


class ArtifactElsewhere(ArtifactError):
    """The content is only referred to, and lies where the registry does not read."""


@dataclass(frozen=True)
class Uri:
    """Content that stays where it is. Its digest is given, and checked where the registry can read it.

    What lies on this machine is checked at once, what lies in a bucket when it is verified or fetched.
    """

    uri: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class HostedModel:
    """A model behind somebody's endpoint: which snapshot, with which parameters and SHA-256 of the prompt."""

    provider: str
    snapshot: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prompt_digest: str | None = None


@dataclass(frozen=True)
class Uploaded:
    """Files that were put through the links of a ticket (`links.py`)."""

    ticket: str


Content = str | Path | Uri | HostedModel | Uploaded
"""A file or folder of this machine, an address, a hosted model, or what was put through upload links."""


@dataclass(frozen=True)
class Stored:
    """An artifact in the store. `form` is file, folder, uri or hosted."""

    form: str
    digest: str
    size: int | None
    files: int
    name: str = ""

    def recorded(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "digest": self.digest,
            "size": self.size,
            "files": self.files,
            "name": self.name,
        }


def checked_path(path: str) -> str:
    """A path inside an artifact.

    Raises:
        ArtifactRefused: it leads out of the artifact or nowhere, is too long, or cannot be shown.
    """
    parts = PurePosixPath(path).parts
    if not parts or "\\" in path or "/".join(parts) != path or ".." in parts or path.startswith("/"):
        raise ArtifactRefused(f"{shown(path)} is no path inside an artifact")
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in path):
        raise ArtifactRefused(
            f"{shown(path)} holds a character that cannot be shown or is no UTF-8; rename it"
        )
    longest = max(len(part.encode()) for part in parts)
    if longest > MAX_PART or len(path.encode()) > MAX_PATH:
        raise ArtifactRefused(
            f"{shown(path)} is too long: a name has at most {MAX_PART} bytes and a path {MAX_PATH:,}"
        )
    return path


def checked_paths(paths: list[str]) -> list[str]:
    """Paths that can lie in one folder together.

    Raises:
        ArtifactRefused: one is refused, is there twice, or is a file and a folder at once.
    """
    seen = {checked_path(path) for path in paths}
    if len(seen) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ArtifactRefused(f"{shown(twice)} is given twice")
    for path in paths:
        for above in PurePosixPath(path).parents:
            if str(above) in seen:
                raise ArtifactRefused(f"{shown(str(above))} cannot be a file and a folder at once")
    return paths


def checked_sha256(text: str) -> str:
    """A SHA-256 in hex, in small letters."""
    if type(text) is not str or len(text) != 64 or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise InvalidInput(f"{shown(str(text))} is no SHA-256: 64 hexadecimal digits are")
    return text.lower()


def check_no_secret(uri: str) -> None:
    """Raises `InvalidInput` for an address that lets in whoever reads it, since the log cannot forget.

    The text before an `@` names a container in some stores, but a user on the web.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InvalidInput(f"{shown(uri)} is no address") from None
    if parts.password is not None or (parts.username is not None and parts.scheme in {"http", "https"}):
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        raise InvalidInput(
            f"the address {shown(bare)} holds a user or password, which would be kept; leave it out"
        )


def described_uri(content: Uri) -> dict[str, Any]:
    """What the manifest says of an address."""
    if "://" not in content.uri and not content.uri.startswith("/"):
        raise InvalidInput(f"{shown(content.uri)} is no address; give one with a scheme, or an absolute path")
    return {"uri": content.uri, "sha256": checked_sha256(content.sha256), "size": content.size}


def described_model(content: HostedModel) -> dict[str, Any]:
    """What the manifest says of a hosted model."""
    if not content.provider or not content.snapshot:
        raise InvalidInput("a hosted model needs a provider and a snapshot")
    prompt = None if content.prompt_digest is None else checked_sha256(content.prompt_digest)
    return {
        "provider": content.provider,
        "snapshot": content.snapshot,
        "parameters": dict(content.parameters),
        "parameters_digest": digest(dict(content.parameters)),
        "prompt_digest": prompt,
    }


def uri_name(uri: str) -> str:
    """What a file from an address is called."""
    return checked_path(uri.rstrip("/").rsplit("/", 1)[-1] or "content")
