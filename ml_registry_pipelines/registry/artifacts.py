"""What versions are made of: files kept by the SHA-256 of their bytes, and lists of them.

A manifest lists the files of one artifact with digest and size; its own digest is the identity
of the content. Bytes are checked against their digest whenever they are read. Where they lie is
in `blobs.py` and `bucket.py`; what may be called an artifact, in `content.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ml_registry_pipelines.lake.files import FilesError, NoSuchFile, open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.readable import Readable
from ml_registry_pipelines.registry.blobs import (
    Blobs,
    blob_path,
    changed,
    keep_bytes,
    manifest_path,
    open_blobs,
    write_out,
)
from ml_registry_pipelines.registry.cache import Cache
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.content import (
    MAX_FILES,
    ArtifactChanged,
    ArtifactElsewhere,
    ArtifactError,
    ArtifactRefused,
    Content,
    HostedModel,
    Stored,
    Uploaded,
    Uri,
    check_no_secret,
    checked_path,
    checked_paths,
    checked_sha256,
    described_model,
    described_uri,
    uri_name,
)
from ml_registry_pipelines.registry.copying import PIECE, sha256_of
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.own_files import refuse_own

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "MAX_FILES",
    "ArtifactChanged",
    "ArtifactElsewhere",
    "ArtifactError",
    "ArtifactRefused",
    "ArtifactStore",
    "Content",
    "Fetched",
    "File",
    "HostedModel",
    "Stored",
    "Uploaded",
    "Uri",
    "checked_path",
    "checked_sha256",
    "checked_uri",
]

FILES_AT_ONCE = 4
"""Files that are hashed, stored, read or written at a time."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class File:
    """One file of an artifact."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Fetched:
    """A file that was asked for, where it is now, and where it came from: store, cache, or it was there."""

    path: Path
    origin: str


class ArtifactStore:
    """The content-addressed files of one lake.

    Args:
        lake: whose artifacts.
        client: reaches its bucket; by default one made from the lake's settings.
    """

    def __init__(self, lake: Lake, *, client: S3Client | None = None) -> None:
        self._lake = lake
        self._client = client
        self._opened: Blobs | None = None

    @property
    def blobs(self) -> Blobs:
        """Where the bytes lie."""
        if self._opened is None:
            self._opened = open_blobs(self._lake.root, self._lake.storage_options, client=self._client)
        return self._opened

    # -- storing -------------------------------------------------------------------------

    def store(self, content: Content) -> Stored:
        """Keep the content, or what identifies it. Storing the same again stores nothing.

        Files are stored several at a time. What a killed call has stored is not stored again,
        and a large file goes on where it broke off.

        Raises:
            ArtifactRefused: a path leads nowhere, or to something that is no plain file.
            InvalidInput: an address or a hosted model is described wrongly.
        """
        match content:
            case Uri():
                refuse_own(self._lake.root, content.uri)
                described = described_uri(checked_uri(content, self._lake.readable))
                return self._store_description("uri", described, content.size)
            case HostedModel():
                return self._store_description("hosted", described_model(content), None)
            case Uploaded():
                raise ArtifactRefused(
                    f"upload {content.ticket!r} belongs to a tenant; give it to its registry"
                )
            case _:
                return self._store_path(Path(content))

    def _store_description(self, form: str, described: dict[str, Any], size: int | None) -> Stored:
        manifest = canonical({"form": form, **described})
        return Stored(form, self._keep_manifest(manifest), size, 0)

    def _store_path(self, path: Path) -> Stored:
        self._lake.readable.check(path)
        if path.is_symlink():
            raise ArtifactRefused(f"{path} is a link; give what it leads to")
        refuse_own(self._lake.root, path)
        if path.is_dir():
            found = sorted(islice(_walk(path), MAX_FILES + 1))
            form = "folder"
        elif path.is_file():
            found = [(path.name, path)]
            form = "file"
        else:
            raise ArtifactRefused(f"{path} is no file and no folder")
        if not found:
            raise ArtifactRefused(f"{path} holds no file")
        if len(found) > MAX_FILES:
            raise ArtifactRefused(
                f"{path} holds more than {MAX_FILES:,} files; at most so many make an artifact, pack them"
            )
        checked_paths([name for name, _ in found])
        return self.keep_files(form, several(self._keep_file, found), path.resolve().name)

    def keep_files(self, form: str, files: Sequence[File], name: str) -> Stored:
        """Make an artifact of files that are in the store."""
        listed = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files]
        manifest = canonical({"form": form, "files": listed})
        return Stored(form, self._keep_manifest(manifest), sum(f.size for f in files), len(files), name)

    def _keep_file(self, found: tuple[str, Path]) -> File:
        name, path = found
        before = _state_of(path)
        # What is kept has this digest: bytes that are put into its place later are not stored.
        sha256, size = _digest_of(path, self._lake.readable), before[0]
        self.blobs.keep(path, sha256, size)
        if _state_of(path) != before:
            raise ArtifactRefused(f"{path} changed while it was stored; store it when it is whole")
        return File(name, sha256, size)

    def claim(self, name: str) -> None:
        """Keep any purge off an artifact that is about to be used, and see that all of it is there.

        Raises:
            ArtifactChanged: it is not.
        """
        self.blobs.claim(manifest_path(name))
        for file in self.files(name):
            self.blobs.claim(blob_path(file.sha256))
        self.check_whole(name)

    def _keep_manifest(self, manifest: str) -> str:
        data = manifest.encode()
        name = hashlib.sha256(data).hexdigest()
        try:
            keep_bytes(self.blobs.folder, manifest_path(name), data)
        except FilesError as failure:
            raise ArtifactError(f"an artifact cannot be stored: {failure}") from failure
        return name

    # -- reading -------------------------------------------------------------------------

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest with that digest, verified.

        Raises:
            ArtifactChanged: it is gone, or other bytes lie in its place.
        """
        try:
            data = self.blobs.folder.read(manifest_path(name))
        except NoSuchFile as failure:
            raise ArtifactChanged(f"manifest {name} is gone from {self.blobs.folder.uri}") from failure
        except FilesError as failure:
            raise ArtifactError(str(failure)) from failure
        if hashlib.sha256(data).hexdigest() != name:
            raise ArtifactChanged(
                f"manifest {self.blobs.folder.uri}/{manifest_path(name)} was changed: its digest differs"
            )
        # The right digest says that nobody changed it, not that it was made here: it may be imported.
        try:
            found: dict[str, Any] = json.loads(data)
            if found["form"] in {"file", "folder"}:
                checked_paths([checked_path(file["path"]) for file in found["files"]])
                for file in found["files"]:
                    checked_sha256(file["sha256"])
                    int(file["size"])
            elif found["form"] == "uri":
                described_uri(Uri(found["uri"], found["sha256"], found["size"]))
            else:
                described_model(HostedModel(found["provider"], found["snapshot"]))
        except (ValueError, KeyError, TypeError, AttributeError, RegistryError) as failure:
            raise ArtifactChanged(
                f"manifest {self.blobs.folder.uri}/{manifest_path(name)} is none: {failure}"
            ) from failure
        return found

    def files(self, name: str) -> list[File]:
        """The files of an artifact that are in the store, by path; none where it lies elsewhere."""
        return [File(f["path"], f["sha256"], f["size"]) for f in self.manifest(name).get("files", ())]

    def paths(self, name: str) -> list[str]:
        """Where `download` writes its files below a folder."""
        manifest = self.manifest(name)
        if "uri" in manifest:
            return [uri_name(manifest["uri"])]
        return [str(file["path"]) for file in manifest.get("files", ())]

    def check_whole(self, name: str) -> None:
        """Look whether the manifest and all files that it lists are in the store.

        Raises:
            ArtifactChanged: names the first one that is not.
        """

        def check(file: File) -> None:
            if not self.blobs.has(file.sha256, file.size):
                raise ArtifactChanged(f"{_what(file, name)} is gone from the store")

        several(check, self.files(name))

    def verify(self, name: str) -> None:
        """Read all files of an artifact and compare their digests.

        Raises:
            ArtifactChanged: names the first file that is gone or differs.
            ArtifactElsewhere: the content cannot be read from here.
        """
        manifest = self.manifest(name)
        if manifest["form"] in {"file", "folder"}:
            several(lambda f: self.blobs.verify(f.sha256, f.size, _what(f, name)), self.files(name))
            return
        with _open_elsewhere(manifest, self._lake) as (stream, _):
            hashed = hashlib.sha256()
            while piece := stream.read(PIECE):
                hashed.update(piece)
            if hashed.hexdigest() != manifest["sha256"]:
                raise changed(f"{manifest['uri']} of artifact {name[:12]}")

    def download(
        self, name: str, target: Path, *, inside: str = "", cache: Cache | None = None
    ) -> list[Fetched]:
        """Write the files of an artifact below `target`, or its folder `inside`, verified.

        A file that is there with the right bytes is left alone. With a cache, what it has is
        verified and copied from there, and what it has not, it has afterwards.

        Raises:
            ArtifactChanged: stored bytes differ; nothing of that file is written.
            ArtifactElsewhere: the content cannot be read from here.
            ArtifactRefused: a folder on the way is a link, which may lead anywhere.
        """
        manifest = self.manifest(name)
        files = self.files(name)
        checked_paths([file.path for file in files])
        _refuse_links(target, [PurePosixPath(inside, file.path) for file in files])
        target = target / inside
        if manifest["form"] not in {"file", "folder"}:
            return [self._fetch_elsewhere(manifest, target, name)]
        fetched = several(lambda file: self._fetch(file, target / file.path, name, cache), files)
        if cache is not None:
            cache.shrink(keep=(file.sha256 for file in files))
        return fetched

    def _fetch(self, file: File, target: Path, name: str, cache: Cache | None) -> Fetched:
        what = _what(file, name)
        if _is_right(target, file.sha256):
            return Fetched(target, "there")
        if cache is None:
            self.blobs.fetch(file.sha256, file.size, target, what)
            return Fetched(target, "store")
        if cache.copy(file.sha256, file.size, target, what):
            return Fetched(target, "cache")
        cache.take(file.sha256, lambda place: self.blobs.fetch(file.sha256, file.size, place, what))
        if not cache.copy(file.sha256, file.size, target, what):
            # Somebody has emptied the cache in between.
            self.blobs.fetch(file.sha256, file.size, target, what)
        return Fetched(target, "store")

    def _fetch_elsewhere(self, manifest: Mapping[str, Any], target: Path, name: str) -> Fetched:
        with _open_elsewhere(manifest, self._lake) as (stream, size):
            file = target / uri_name(manifest["uri"])
            if _is_right(file, manifest["sha256"]):
                return Fetched(file, "there")

            def fill(out: int, _: int, reached: Callable[[int], None]) -> None:
                offset = 0  # There is no way into the middle of every stream.
                while piece := stream.read(PIECE):
                    os.pwrite(out, piece, offset)
                    offset += len(piece)
                    reached(offset)

            what = f"{manifest['uri']} of artifact {name[:12]}"
            write_out(file, sha256=manifest["sha256"], size=size, fill=fill, what=what)
        return Fetched(file, "store")

    # -- moving ---------------------------------------------------------------------------

    def export(self, name: str, target: Path) -> None:
        """Copy a manifest and its blobs into a store below the folder `target`, verified."""
        manifest = self.manifest(name)

        def export(file: File) -> None:
            out = target / blob_path(file.sha256)
            if not out.exists():
                self.blobs.fetch(file.sha256, file.size, out, _what(file, name))

        several(export, self.files(name))
        out = target / manifest_path(name)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(canonical(manifest), encoding="utf-8")

    def take_in(self, source: Path) -> None:
        """Store what `export` wrote, verified."""

        def take(file: Path) -> None:
            if file.is_symlink() or sha256_of(file) != file.name:
                raise ArtifactChanged(f"{file} is not what its name says")
            self.blobs.keep(file, file.name, file.stat().st_size)

        several(take, sorted(source.glob("blobs/*/*")))
        for file in sorted(source.glob("manifests/*/*.json")):
            data = file.read_text(encoding="utf-8")
            if self._keep_manifest(data) != file.stem:
                raise ArtifactChanged(f"{file} is not what its name says")


def several(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do something for each, a few at a time; the first failure ends it."""
    given = list(items)
    if len(given) < 2:
        return [work(item) for item in given]
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="mlreg-files") as pool:
        futures = [pool.submit(work, item) for item in given]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _what(file: File, artifact: str) -> str:
    return f"{file.path} of artifact {artifact[:12]}"


def _refuse_links(target: Path, paths: Iterable[PurePosixPath]) -> None:
    for folder in sorted({above for path in paths for above in path.parents if above.name}):
        if (target / folder).is_symlink():
            raise ArtifactRefused(f"{target / folder} is a link; nothing is written through it: remove it")


def _is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _state_of(path: Path) -> tuple[int, ...]:
    """Size, and what else changes when somebody writes."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError as failure:
        raise ArtifactError(f"{path} cannot be read: {failure.strerror}") from failure
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Plain files below a folder with their paths in it, in no order; anything else is refused."""
    folders = [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        # Before the next level, so that no depth and no circle of mounts is walked for ever.
        if prefix:
            checked_path(prefix.rstrip("/"))
        try:
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError as failure:
            raise ArtifactError(f"{folder} cannot be listed: {failure.strerror}") from failure
        for entry in listed:
            path = Path(entry.path)
            if entry.is_symlink():
                raise ArtifactRefused(f"{path} is a link; links are not stored, put the file in its place")
            if entry.is_dir():
                folders.append((path, f"{prefix}{entry.name}/"))
            elif entry.is_file():
                yield f"{prefix}{entry.name}", path
            else:
                raise ArtifactRefused(f"{path} is neither file nor folder")


def _digest_of(path: Path, readable: Readable) -> str:
    try:
        with readable.opened(path) as place:
            return sha256_of(place)
    except OSError as failure:
        raise ArtifactError(f"{path} cannot be read: {failure.strerror}") from failure


def checked_uri(content: Uri, readable: Readable) -> Uri:
    """An address that may be recorded.

    Raises:
        InvalidInput: it holds a secret.
        NotReadable: it leads to where nothing may be read from, whatever lies there.
        ArtifactRefused: it leads to a file of this machine that has another digest.
    """
    check_no_secret(content.uri)
    sha256 = checked_sha256(content.sha256)
    path = Path(content.uri.removeprefix("file://"))
    if not path.is_absolute():
        return content
    readable.check(path)
    if path.is_file() and (found := _digest_of(path, readable)) != sha256:
        raise ArtifactRefused(f"{content.uri} has SHA-256 {found}, not {sha256}; say what it is now")
    return content


@contextmanager
def _open_elsewhere(manifest: Mapping[str, Any], lake: Lake) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes behind an address, and how many there are."""
    if manifest["form"] == "hosted":
        raise ArtifactElsewhere(
            f"{manifest['provider']} {manifest['snapshot']} is a hosted model, without files here"
        )
    uri = str(manifest["uri"])
    folder, _, name = uri.removeprefix("file://").rpartition("/")
    if not uri.startswith(("s3://", "file:///", "/")):
        raise ArtifactElsewhere(
            f"{uri} is not read from here; fetch it and compare its SHA-256 with the registered one"
        )
    lake.readable.check(uri)
    refuse_own(lake.root, uri)
    with ExitStack() as opened:
        try:
            if not uri.startswith("s3://"):
                file = opened.enter_context(lake.readable.opened(Path(folder or "/", name)))
                folder, name = str(file.parent), file.name
            place = open_folder(folder or "/")
            size = place.entry(name).size
            stream = opened.enter_context(place.open(name))
        except FilesError as failure:
            raise ArtifactChanged(f"{uri} cannot be read any more: {failure}") from failure
        except OSError as failure:
            raise ArtifactChanged(f"{uri} cannot be read any more: {failure.strerror}") from failure
        yield stream, size
