"""Where the bytes of artifacts lie: each file once, under its SHA-256, in a folder or a bucket.

What all of it has in common, and the folder; the bucket is in `bucket.py`. Below `artifacts/`:
`blobs/`, `manifests/` and `bulk/` by digest, `incoming/` for what is not whole yet, `claims/` for
what was found there already and is about to be used, `removed/` for what a purge is removing
(see `purging.py`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.lake.files import (
    FilesError,
    Folder,
    LocalFolder,
    NoSuchFile,
    S3Folder,
    open_folder,
)
from ml_registry_pipelines.lake.outcomes import reason
from ml_registry_pipelines.registry.content import ArtifactChanged, ArtifactError, ArtifactRefused
from ml_registry_pipelines.registry.copying import (
    Fill,
    WrongBytes,
    from_file,
    opened,
    receive,
    room_of,
    sha256_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BLOBS = "blobs"
MANIFESTS = "manifests"
BULK_FILES = "bulk"
INCOMING = "incoming"
CLAIMS = "claims"
REMOVED = "removed"
CLAIM_AFTER = timedelta(hours=1)
"""Age from which a file that is used again needs a claim; a younger one is safe from any purge by itself."""


class Blobs(ABC):
    """Files by their digest. All methods may be called by several threads."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def has(self, sha256: str, size: int) -> bool:
        """Whether a file of that size lies there."""
        try:
            return self.folder.entry(blob_path(sha256)).size == size
        except NoSuchFile:
            return False
        except FilesError as failure:
            raise ArtifactError(str(failure)) from failure

    def keep(self, path: Path, sha256: str, size: int) -> None:
        """Store a file of this machine, unless its content is there already.

        Raises:
            ArtifactRefused: the file is not what it was when its digest was taken.
            ArtifactError: the store failed; what has arrived is continued next time.
        """
        self.claim(blob_path(sha256))
        if not self._has_sound(sha256, size):
            self._put(path, sha256, size)

    def claim(self, path: str) -> None:
        """Say that a file is about to be used, so that no purge takes it; look only then whether it is there."""
        try:
            claim(self.folder, path)
        except FilesError as failure:
            raise ArtifactError(str(failure)) from failure

    @abstractmethod
    def _has_sound(self, sha256: str, size: int) -> bool:
        """Whether the content is there, and not only something of its size."""

    @abstractmethod
    def _put(self, path: Path, sha256: str, size: int) -> None:
        """Store a file, resuming what an earlier attempt has left."""

    @abstractmethod
    def fetch(self, sha256: str, size: int, target: Path, what: str) -> None:
        """Write the content to `target`, verified; resumes what a killed process has left.

        Raises:
            ArtifactChanged: it is gone, or other bytes lie there; the target is as it was.
        """

    @abstractmethod
    def verify(self, sha256: str, size: int, what: str) -> None:
        """Read it all and compare the digest.

        Raises:
            ArtifactChanged: it is gone, or other bytes lie there.
        """


class FolderBlobs(Blobs):
    """Blobs below a folder of this machine."""

    def __init__(self, folder: LocalFolder) -> None:
        super().__init__(folder)
        self._root = folder.root

    def _has_sound(self, sha256: str, size: int) -> bool:
        # A version must not be born on a file that was changed behind the registry's back.
        return self.has(sha256, size) and sha256_of(self._root / blob_path(sha256)) == sha256

    def _put(self, path: Path, sha256: str, size: int) -> None:
        target = self._root / blob_path(sha256)
        try:
            with opened(path) as source:
                receive(
                    target,
                    self._root / INCOMING / f"{sha256}.part",
                    sha256=sha256,
                    size=size,
                    fill=from_file(source, size),
                    room=room_of(source),
                    read_only=True,
                )
        except WrongBytes:
            raise ArtifactRefused(f"{path} changed while it was stored; store it when it is whole") from None
        except OSError as failure:
            raise ArtifactError(
                f"{path} cannot be stored in {self.folder.uri}: {reason(failure)}"
            ) from failure

    def fetch(self, sha256: str, size: int, target: Path, what: str) -> None:
        copy_file(self._root / blob_path(sha256), target, sha256=sha256, size=size, what=what)

    def verify(self, sha256: str, size: int, what: str) -> None:
        if not self.folder.exists(blob_path(sha256)):
            raise gone(what)
        if not self.has(sha256, size) or sha256_of(self._root / blob_path(sha256)) != sha256:
            raise changed(what)


def copy_file(source: Path, target: Path, *, sha256: str, size: int, what: str) -> None:
    """Copy a stored file to a place of the user's, verified.

    Raises:
        ArtifactChanged: it is gone, or has other bytes; the target is as it was.
    """
    try:
        with opened(source) as descriptor:
            if os.fstat(descriptor).st_size != size:
                raise changed(what)
            room = room_of(descriptor)
            fill = from_file(descriptor, size)
            write_out(target, sha256=sha256, size=size, fill=fill, what=what, room=room)
    except FileNotFoundError:
        raise gone(what) from None
    except OSError as failure:
        raise ArtifactError(f"{source} cannot be read: {reason(failure)}") from failure


def write_out(
    target: Path, *, sha256: str, size: int, fill: Fill, what: str, room: int | None = None
) -> None:
    """Fill a file of the user's, verified.

    Raises:
        ArtifactChanged: the filled bytes have another digest; the target is as it was.
    """
    part = target.with_name(f".{sha256[:32]}.part")
    try:
        receive(target, part, sha256=sha256, size=size, fill=fill, room=room)
    except WrongBytes:
        raise changed(what) from None
    except OSError as failure:
        raise ArtifactError(f"{target} cannot be written: {reason(failure)}") from failure


def changed(what: str) -> ArtifactChanged:
    """Stored bytes are others."""
    return ArtifactChanged(f"{what} was changed: its digest is not the registered one")


def gone(what: str) -> ArtifactChanged:
    """Nothing is stored there."""
    return ArtifactChanged(f"{what} is gone from the store")


def claim(folder: Folder, path: str) -> None:
    """What `Blobs.claim` does, in any folder."""
    with suppress(NoSuchFile):
        if datetime.now(UTC) - folder.entry(path).modified_at > CLAIM_AFTER:
            folder.write(claim_path(path), b"")


def keep_bytes(folder: Folder, path: str, data: bytes) -> None:
    """Have a small file there with those bytes, safe from any purge."""
    if folder.create(path, data):
        return
    claim(folder, path)
    with suppress(NoSuchFile):
        if folder.read(path) == data:
            return
    folder.write(path, data)


def blob_path(sha256: str) -> str:
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def manifest_path(name: str) -> str:
    return f"{MANIFESTS}/{name[:2]}/{name}.json"


def claim_path(path: str) -> str:
    """The claim on a blob or manifest."""
    return f"{CLAIMS}/{path}"


def open_blobs(
    root: str, storage_options: Mapping[str, str] | None = None, *, client: S3Client | None = None
) -> Blobs:
    """The blobs of the lake at `root`; `client` reaches its bucket, by default one made from the settings."""
    folder = open_folder(f"{root}/artifacts", storage_options)
    match folder:
        case LocalFolder():
            return FolderBlobs(folder)
        case S3Folder():
            from ml_registry_pipelines.registry.bucket import BucketBlobs

            return BucketBlobs(folder, client)
        case other:
            raise AssertionError(f"no way to store into {type(other).__name__}")
