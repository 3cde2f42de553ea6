"""A version's content as a stream of bytes, for a browser: one file as it is, a folder as a zip.

What is not what was registered is never served whole: the last bytes of each file are held
back until its digest is known, and then the stream breaks off instead of ending.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_registry_pipelines.lake.files import FilesError, Folder, open_folder
from ml_registry_pipelines.registry.artifacts import ArtifactError, ArtifactStore, checked_path
from ml_registry_pipelines.registry.errors import NotFound, RegistryError
from ml_registry_pipelines.registry.log import Log

PIECE = 1024 * 1024


class NotServed(RegistryError):
    """The content lies elsewhere."""


@dataclass(frozen=True)
class Served:
    """What to send. `size` is None where it is not known beforehand."""

    name: str
    size: int | None
    pieces: Iterator[bytes]


def serve(log: Log, tenant: str, version_id: str) -> Served:
    """The content of a version by its id.

    Raises:
        NotFound: there is no such living version in the tenant.
        NotServed: it is an address or a hosted model.
        ArtifactError: the manifest or a file of it is gone or changed.
    """
    view = log.view(tenant)
    version = view.by_id("model_versions", version_id)
    model = None if version is None else view.by_id("things", str(version.data["model_id"]))
    if version is None or version.deleted or model is None or model.deleted:
        raise NotFound("model version", version_id, tenant)
    reference = f"{model.name}@v{version.data['version']}"
    manifest = ArtifactStore(log.lake).manifest(str(version.data["content_digest"]))
    if manifest["form"] not in {"file", "folder"}:
        raise NotServed(f"{reference} is a {manifest['form']} version; its content is not in this store")
    files: list[Mapping[str, Any]] = list(manifest["files"])
    store = open_folder(f"{log.lake.root}/artifacts", log.lake.storage_options)
    for file in files:
        if not _is_there(store, file):
            raise ArtifactError(f"{file['path']} of {reference} is gone from the store")
    if manifest["form"] == "file":
        name = checked_path(str(files[0]["path"])).rsplit("/", 1)[-1]
        return Served(name, int(files[0]["size"]), _pieces(store, files[0], reference))
    name = f"{model.name.replace('/', '_')}-v{version.data['version']}.zip"
    return Served(name, None, _zipped(store, files, reference))


def _is_there(store: Folder, file: Mapping[str, Any]) -> bool:
    try:
        return bool(store.entry(_blob(file)).size == file["size"])
    except FilesError:
        return False


def _pieces(store: Folder, file: Mapping[str, Any], reference: str) -> Iterator[bytes]:
    hashed, held = hashlib.sha256(), b""
    try:
        with store.open(_blob(file)) as stream:
            while piece := stream.read(PIECE):
                hashed.update(piece)
                if held:
                    yield held
                held = piece
    except (FilesError, OSError) as failure:
        raise ArtifactError(f"{file['path']} of {reference} cannot be read: {failure}") from failure
    if hashed.hexdigest() != file["sha256"]:
        raise ArtifactError(
            f"{file['path']} of {reference} was changed: its digest is not the registered one"
        )
    if held:
        yield held


class _Sink(io.RawIOBase):
    """What a zip is written into, a piece at a time."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        held, self._held = b"".join(self._held), []
        return held


def _zipped(store: Folder, files: list[Mapping[str, Any]], reference: str) -> Iterator[bytes]:
    """Weights hardly shrink, so nothing is compressed: it would be the slowest part."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            # A fixed time, so that the same version always is the same zip.
            entry = zipfile.ZipInfo(checked_path(str(file["path"])), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as target:
                for piece in _pieces(store, file, reference):
                    target.write(piece)
                    if ready := sink.take():
                        yield ready
    if ready := sink.take():
        yield ready


def _blob(file: Mapping[str, Any]) -> str:
    sha256 = str(file["sha256"])
    return f"blobs/{sha256[:2]}/{sha256}"
