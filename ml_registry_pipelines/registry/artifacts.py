"""What versions are made of: files kept by the SHA-256 of their bytes, and lists of them.

A manifest lists the files of one artifact with digest and size; its own digest is the
identity of the content. Blobs and manifests lie below `artifacts/`, each once. Bytes move
as streams, and are checked against their digest whenever they are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ml_registry_pipelines.lake.files import FilesError, LocalFolder, S3Folder, open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.canonical import canonical, digest
from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError, shown

PIECE = 1 << 20
"""Bytes that are held of a file while it is streamed."""
MAX_FILES = 100_000


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
    """Content that stays where it is. Its digest is given, and checked where the registry can read it."""

    uri: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class HostedModel:
    """A model behind somebody's endpoint: which snapshot, with which parameters and prompt."""

    provider: str
    snapshot: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prompt_digest: str | None = None


Content = str | Path | Uri | HostedModel
"""A file or folder of this machine, an address, or a hosted model."""


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


class ArtifactStore:
    """The content-addressed files of one lake."""

    def __init__(self, lake: Lake) -> None:
        self._folder = open_folder(f"{lake.root}/artifacts", lake.storage_options)

    # -- storing -------------------------------------------------------------------------

    def store(self, content: Content) -> Stored:
        """Keep the content, or what identifies it. Storing the same again stores nothing.

        Raises:
            ArtifactRefused: a path leads nowhere, or to something that is no plain file.
            InvalidInput: an address or a hosted model is described wrongly.
        """
        match content:
            case Uri():
                return self._store_description("uri", _described_uri(content), content.size)
            case HostedModel():
                return self._store_description("hosted", _described_model(content), None)
            case _:
                return self._store_path(Path(content))

    def _store_description(self, form: str, described: dict[str, Any], size: int | None) -> Stored:
        manifest = canonical({"form": form, **described})
        return Stored(form, self._keep_manifest(manifest), size, 0)

    def _store_path(self, path: Path) -> Stored:
        if path.is_symlink():
            raise ArtifactRefused(f"{path} is a link; give what it leads to")
        if path.is_dir():
            found = sorted(_walk(path))
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
                f"{path} holds {len(found):,} files; at most {MAX_FILES:,} make an artifact, pack them"
            )
        files = [self._keep_file(checked_path(name), file) for name, file in found]
        manifest = canonical({"form": form, "files": files})
        return Stored(
            form, self._keep_manifest(manifest), sum(f["size"] for f in files), len(files), path.name
        )

    def _keep_file(self, name: str, path: Path) -> dict[str, Any]:
        before = path.stat()
        sha256 = _sha256(path)
        if not self._has(sha256, before.st_size):
            self._upload(path, sha256)
        if path.stat().st_size != before.st_size:
            raise ArtifactRefused(f"{path} grew or shrank while it was stored; store it when it is whole")
        return {"path": name, "sha256": sha256, "size": before.st_size}

    def _has(self, sha256: str, size: int) -> bool:
        try:
            return self._folder.entry(_blob(sha256)).size == size
        except FilesError:
            return False

    def _upload(self, path: Path, sha256: str) -> None:
        match self._folder:
            case LocalFolder():
                self._copy_in(self._folder.root / _blob(sha256), path, sha256)
            case S3Folder():
                self._upload_parts(self._folder, path, sha256)
            case other:
                raise AssertionError(f"no way to store into {type(other).__name__}")

    def _copy_in(self, target: Path, path: Path, sha256: str) -> None:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, temporary.open("wb") as stream:
                copied = _copy(source, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if copied != sha256:
                raise ArtifactRefused(f"{path} changed while it was stored; store it when it is whole")
            temporary.replace(target)
        except OSError as failure:
            raise ArtifactError(
                f"{path} cannot be stored in {target.parent}: {failure.strerror}"
            ) from failure
        finally:
            temporary.unlink(missing_ok=True)

    def _upload_parts(self, folder: S3Folder, path: Path, sha256: str) -> None:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            # In parts of 8 MB, several at a time.
            folder.client.upload_file(str(path), folder.bucket, folder.prefix + _blob(sha256))
        except (S3UploadFailedError, BotoCoreError, ClientError) as failure:
            raise ArtifactError(f"{path} cannot be stored in {folder.uri}: {failure}") from failure

    def _keep_manifest(self, manifest: str) -> str:
        data = manifest.encode()
        name = hashlib.sha256(data).hexdigest()
        self._folder.create(_manifest(name), data)
        return name

    # -- reading -------------------------------------------------------------------------

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest with that digest, verified.

        Raises:
            ArtifactChanged: it is gone, or other bytes lie in its place.
        """
        try:
            data = self._folder.read(_manifest(name))
        except FilesError as failure:
            raise ArtifactChanged(f"manifest {name} is gone from {self._folder.uri}") from failure
        if hashlib.sha256(data).hexdigest() != name:
            raise ArtifactChanged(
                f"manifest {self._folder.uri}/{_manifest(name)} was changed: its digest differs"
            )
        found: dict[str, Any] = json.loads(data)
        return found

    def check_whole(self, name: str) -> None:
        """Look whether the manifest and all files that it lists are in the store.

        Raises:
            ArtifactChanged: names the first one that is not.
        """
        for file in self.manifest(name).get("files", ()):
            if not self._has(file["sha256"], file["size"]):
                raise ArtifactChanged(f"{file['path']} of artifact {name[:12]} is gone from the store")

    def verify(self, name: str) -> None:
        """Read all files of an artifact and compare their digests.

        Raises:
            ArtifactChanged: names the first file that is gone or differs.
            ArtifactElsewhere: the content cannot be read from here.
        """
        for path, sha256, stream in self._streams(name):
            with stream:
                if _copy(stream, None) != sha256:
                    raise ArtifactChanged(
                        f"{path} of artifact {name[:12]} was changed: its digest is not the registered one"
                    )

    def download(self, name: str, target: Path) -> list[Path]:
        """Write the files of an artifact below `target`, verified; return their paths.

        A file that is there with the right bytes is left alone.

        Raises:
            ArtifactChanged: stored bytes differ; nothing of that file is written.
            ArtifactElsewhere: the content cannot be read from here.
        """
        written = []
        for path, sha256, stream in self._streams(name):
            with stream:
                file = target / checked_path(path)
                if not (file.is_file() and _sha256(file) == sha256):
                    self._write_out(stream, file, sha256, f"{path} of artifact {name[:12]}")
                written.append(file)
        return written

    def _write_out(self, stream: IO[bytes], file: Path, sha256: str, what: str) -> None:
        temporary = file.with_name(f".{file.name[:100]}.{uuid.uuid4().hex}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                if _copy(stream, out) != sha256:
                    raise ArtifactChanged(f"{what} was changed: its digest is not the registered one")
            temporary.replace(file)
        except OSError as failure:
            raise ArtifactError(f"{file} cannot be written: {failure.strerror}") from failure
        finally:
            temporary.unlink(missing_ok=True)

    def _streams(self, name: str) -> Iterator[tuple[str, str, IO[bytes]]]:
        manifest = self.manifest(name)
        match manifest["form"]:
            case "file" | "folder":
                for file in manifest["files"]:
                    try:
                        stream = self._folder.open(_blob(file["sha256"]))
                    except FilesError as failure:
                        raise ArtifactChanged(
                            f"{file['path']} of artifact {name[:12]} is gone from the store"
                        ) from failure
                    yield file["path"], file["sha256"], stream
            case "uri":
                yield _uri_name(manifest["uri"]), manifest["sha256"], _open_uri(manifest["uri"])
            case _:
                raise ArtifactElsewhere(
                    f"{manifest['provider']} {manifest['snapshot']} is a hosted model, without files here"
                )

    def export(self, name: str, target: Path) -> None:
        """Copy a manifest and its blobs into a store below the folder `target`, verified."""
        manifest = self.manifest(name)
        for file in manifest.get("files", ()):
            out = target / _blob(file["sha256"])
            if not out.exists():
                with self._folder.open(_blob(file["sha256"])) as stream:
                    self._write_out(stream, out, file["sha256"], f"{file['path']} of artifact {name[:12]}")
        out = target / _manifest(name)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(canonical(manifest), encoding="utf-8")

    def take_in(self, source: Path) -> None:
        """Store what `export` wrote, verified."""
        for file in sorted(source.glob("blobs/*/*")):
            if file.is_symlink() or _sha256(file) != file.name:
                raise ArtifactChanged(f"{file} is not what its name says")
            if not self._has(file.name, file.stat().st_size):
                self._upload(file, file.name)
        for file in sorted(source.glob("manifests/*/*.json")):
            data = file.read_text(encoding="utf-8")
            if self._keep_manifest(data) != file.stem:
                raise ArtifactChanged(f"{file} is not what its name says")


def checked_path(path: str) -> str:
    """A path inside an artifact.

    Raises:
        ArtifactRefused: it leads out of the artifact, or nowhere.
    """
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or "\\" in path
        or any(p in {"..", "."} or "\x00" in p for p in parts)
    ):
        raise ArtifactRefused(f"{shown(path)} is no path inside an artifact")
    return path


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for entry in os.scandir(root):
        path = Path(entry.path)
        if entry.is_symlink():
            raise ArtifactRefused(f"{path} is a link; links are not stored, put the file in its place")
        if entry.is_dir():
            yield from ((f"{entry.name}/{name}", file) for name, file in _walk(path))
        elif entry.is_file():
            yield entry.name, path
        else:
            raise ArtifactRefused(f"{path} is neither file nor folder")


def _described_uri(content: Uri) -> dict[str, Any]:
    if "://" not in content.uri and not content.uri.startswith("/"):
        raise InvalidInput(f"{shown(content.uri)} is no address; give one with a scheme, or an absolute path")
    checked_sha256(content.sha256)
    return {"uri": content.uri, "sha256": content.sha256.lower(), "size": content.size}


def _described_model(content: HostedModel) -> dict[str, Any]:
    if not content.provider or not content.snapshot:
        raise InvalidInput("a hosted model needs a provider and a snapshot")
    return {
        "provider": content.provider,
        "snapshot": content.snapshot,
        "parameters": dict(content.parameters),
        "parameters_digest": digest(dict(content.parameters)),
        "prompt_digest": content.prompt_digest,
    }


def checked_sha256(text: str) -> str:
    """A SHA-256 in hex, as given."""
    if len(text) != 64 or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise InvalidInput(f"{shown(text)} is no SHA-256: 64 hexadecimal digits are")
    return text.lower()


def _uri_name(uri: str) -> str:
    return checked_path(uri.rstrip("/").rsplit("/", 1)[-1] or "content")


def _open_uri(uri: str) -> IO[bytes]:
    try:
        if uri.startswith("s3://"):
            folder, _, name = uri.rpartition("/")
            return open_folder(folder).open(name)
        path = uri.removeprefix("file://")
        if path.startswith("/"):
            return Path(path).open("rb")
    except (OSError, FilesError) as failure:
        raise ArtifactChanged(f"{uri} cannot be read any more: {failure}") from failure
    raise ArtifactElsewhere(
        f"{uri} is not read from here; fetch it and compare its SHA-256 with the registered one"
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise ArtifactError(f"{path} cannot be read: {failure.strerror}") from failure


def _copy(source: IO[bytes], target: IO[bytes] | None) -> str:
    hashed = hashlib.sha256()
    while piece := source.read(PIECE):
        hashed.update(piece)
        if target is not None:
            target.write(piece)
    return hashed.hexdigest()


def _blob(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _manifest(name: str) -> str:
    return f"manifests/{name[:2]}/{name}.json"
