"""Links by which files move between a client and the bucket without passing through the registry.

A download link hands out one stored file for a while. Uploads go by ticket: the client names its
files with digest and size, gets links to put them, and gives the ticket as the content of a new
version. Only then are the bytes read, and only what has the announced digest enters the store.
Who may ask for links is decided where the version is looked up.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from ml_registry_pipelines.lake.files import FilesError, NoSuchFile, error_code, s3_errors
from ml_registry_pipelines.registry.artifacts import ArtifactStore, File, several
from ml_registry_pipelines.registry.blobs import INCOMING, blob_path
from ml_registry_pipelines.registry.bucket import DIGEST, LOST, MAX_PARTS, BucketBlobs
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.content import (
    MAX_FILES,
    ArtifactElsewhere,
    ArtifactError,
    ArtifactRefused,
    Stored,
    checked_paths,
    checked_sha256,
)
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.events import new_id

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LINK_PART = 64 << 20
"""Bytes that go through one upload link; a larger file gets several."""
HOUR = timedelta(hours=1)
MOST = timedelta(days=7)
"""The longest that a signature holds."""


@dataclass(frozen=True)
class DownloadLink:
    """Where one file of an artifact can be fetched until `expires_at`; compare its digest afterwards."""

    path: str
    sha256: str
    size: int
    url: str
    expires_at: datetime


@dataclass(frozen=True)
class UploadLink:
    """Where to PUT bytes `offset` to `offset + size` of a file, with these headers."""

    path: str
    offset: int
    size: int
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Ticket:
    """Leave to upload the files of one artifact until `expires_at`."""

    id: str
    links: tuple[UploadLink, ...]
    expires_at: datetime


class Links:
    """Links into the bucket of one store, for one tenant.

    Raises:
        ArtifactElsewhere: at the first use, where the store is a folder, into which no link leads.
    """

    def __init__(self, store: ArtifactStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    @property
    def _blobs(self) -> BucketBlobs:
        blobs = self._store.blobs
        if not isinstance(blobs, BucketBlobs):
            raise ArtifactElsewhere(
                f"the artifacts lie in the folder {blobs.folder.uri}, and links lead into buckets only; "
                "use `mlreg get`, or a home in a bucket"
            )
        return blobs

    # -- down -----------------------------------------------------------------------------

    def download(self, artifact: str, *, holds: timedelta = HOUR) -> list[DownloadLink]:
        """A link for each file of an artifact, which are looked for first.

        Raises:
            ArtifactChanged: a file is gone from the store.
        """
        seconds, until = _period(holds)
        blobs = self._blobs
        self._store.check_whole(artifact)
        files = self._store.files(artifact)
        if not files:
            raise ArtifactElsewhere(f"artifact {artifact[:12]} has no files in the store")
        sign = _signer(blobs.client)
        links = []
        for file in files:
            name = quote(file.path.rsplit("/", 1)[-1])
            url = sign.generate_presigned_url(
                "get_object",
                Params={
                    **_object(blobs, blob_path(file.sha256)),
                    "ResponseContentDisposition": f"attachment; filename*=UTF-8''{name}",
                },
                ExpiresIn=seconds,
            )
            links.append(DownloadLink(file.path, file.sha256, file.size, url, until))
        return links

    # -- up -------------------------------------------------------------------------------

    def begin(self, files: Sequence[File], *, holds: timedelta = HOUR) -> Ticket:
        """Links to put the files of an artifact.

        Raises:
            ArtifactRefused: a path leads out of the artifact, is there twice, or there are too many.
            InvalidInput: a digest or a size is none.
        """
        seconds, until = _period(holds)
        blobs = self._blobs
        if not 0 < len(files) <= MAX_FILES:
            raise ArtifactRefused(f"an artifact has 1 to {MAX_FILES:,} files, not {len(files):,}")
        checked_paths([file.path for file in files])
        checked = [File(f.path, checked_sha256(f.sha256), _size(f)) for f in files]
        ticket = new_id()
        with s3_errors(blobs.folder.uri, "written"):
            made = [self._prepared(ticket, number, file) for number, file in enumerate(checked)]
            blobs.folder.write(
                _ticket(ticket),
                canonical({"tenant": self._tenant, "files": made, "stored": None}).encode(),
            )
            links = [link for entry in made for link in self._upload_links(entry, seconds)]
        return Ticket(ticket, tuple(links), until)

    def _prepared(self, ticket: str, number: int, file: File) -> dict[str, Any]:
        blobs = self._blobs
        path = f"{INCOMING}/uploads/{ticket}/{number}"
        upload = None
        if file.size > LINK_PART:
            upload = blobs.client.create_multipart_upload(**_object(blobs, path))["UploadId"]
        part = max(LINK_PART, -(-file.size // MAX_PARTS))
        return {**vars(file), "at": path, "upload": upload, "part": part}

    def _upload_links(self, entry: Mapping[str, Any], seconds: int) -> list[UploadLink]:
        blobs, size = self._blobs, entry["size"]
        sign = _signer(blobs.client)
        place = _object(blobs, entry["at"])
        if entry["upload"] is None:
            checksum = base64.b64encode(bytes.fromhex(entry["sha256"])).decode()
            # The store itself refuses other bytes, where it knows how.
            url = sign.generate_presigned_url(
                "put_object", Params={**place, "ChecksumSHA256": checksum}, ExpiresIn=seconds
            )
            return [UploadLink(entry["path"], 0, size, url, {"x-amz-checksum-sha256": checksum})]
        links = []
        for number, offset in enumerate(range(0, size, entry["part"]), start=1):
            url = sign.generate_presigned_url(
                "upload_part",
                Params={**place, "UploadId": entry["upload"], "PartNumber": number},
                ExpiresIn=seconds,
            )
            count = min(entry["part"], size - offset)
            links.append(UploadLink(entry["path"], offset, count, url, {}))
        return links

    def accept(self, ticket: str) -> Stored:
        """Take what was put through the links of a ticket into the store, once all of it is verified.

        Accepting a ticket again gives the same artifact.

        Raises:
            NotFound: the tenant has no such ticket.
            ArtifactRefused: a file is missing, or has other bytes than announced; nothing is taken.
        """
        blobs = self._blobs
        try:
            found = self._read(ticket)
            if (stored := found["stored"]) is not None:
                self._store.claim(stored["digest"])
                return Stored(**stored)
            etags = several(self._verified, found["files"])
            for entry, etag in zip(found["files"], etags, strict=True):
                self._take(entry, etag)
            files = [File(e["path"], e["sha256"], e["size"]) for e in found["files"]]
            alone = len(files) == 1 and "/" not in files[0].path
            made = self._store.keep_files("file" if alone else "folder", sorted(files, key=_by_path), "")
            blobs.folder.write(_ticket(ticket), canonical({**found, "stored": made.recorded()}).encode())
        except FilesError as failure:
            raise ArtifactError(f"upload {ticket} cannot be taken: {failure}") from failure
        for entry in found["files"]:
            # What stays is removed by the next purge.
            with suppress(FilesError):
                blobs.folder.delete(entry["at"])
        return made

    def _read(self, ticket: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if ticket.isalnum():
            with suppress(NoSuchFile):
                found = json.loads(self._blobs.folder.read(_ticket(ticket)))
        if found.get("tenant") != self._tenant:
            raise NotFound("upload", ticket, self._tenant, hint="; begin a new one")
        return found

    def _verified(self, entry: Mapping[str, Any]) -> str:
        """The ETag of an uploaded object whose bytes were read and are the announced ones."""
        blobs, path = self._blobs, entry["path"]
        if entry["upload"] is not None:
            self._complete(entry)
        try:
            there = blobs.folder.entry(entry["at"])
        except NoSuchFile:
            raise ArtifactRefused(f"{path} was not uploaded; put it through its link first") from None
        if there.size != entry["size"]:
            raise ArtifactRefused(
                f"{path} was uploaded with {there.size:,} bytes and announced with {entry['size']:,}; "
                "begin a new upload"
            )
        if blobs.digest_of(entry["at"], there.size, there.etag or "") != entry["sha256"]:
            raise ArtifactRefused(
                f"{path} was uploaded with other bytes than announced: its SHA-256 differs; "
                "begin a new upload"
            )
        return there.etag or ""

    def _complete(self, entry: Mapping[str, Any]) -> None:
        blobs = self._blobs
        upload = {**_object(blobs, entry["at"]), "UploadId": entry["upload"]}
        with s3_errors(f"{blobs.folder.uri}/{entry['at']}", "put together"):
            try:
                pages = blobs.client.get_paginator("list_parts").paginate(**upload)
                parts = [part for page in pages for part in page.get("Parts", [])]
                missing = -(-entry["size"] // entry["part"]) - len(parts)
                if missing > 0:
                    raise ArtifactRefused(
                        f"{missing} parts of {entry['path']} were not uploaded; put them through their links"
                    )
                listed: Any = [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in parts]
                blobs.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": listed})
            except blobs.client.exceptions.ClientError as failure:
                # It may have been put together by an earlier call, whose answer was lost.
                if error_code(failure) not in LOST or not blobs.folder.exists(entry["at"]):
                    raise

    def _take(self, entry: Mapping[str, Any], etag: str) -> None:
        """Copy an upload, as it was verified, to its place within the bucket."""
        blobs = self._blobs
        with s3_errors(f"{blobs.folder.uri}/{entry['at']}", "copied"):
            blobs.client.copy(
                {"Bucket": blobs.folder.bucket, "Key": blobs.key(entry["at"])},
                blobs.folder.bucket,
                blobs.key(blob_path(entry["sha256"])),
                ExtraArgs={
                    "CopySourceIfMatch": f'"{etag}"',
                    "MetadataDirective": "REPLACE",
                    "Metadata": {DIGEST: entry["sha256"]},
                },
            )


def _object(blobs: BucketBlobs, path: str) -> dict[str, Any]:
    return {"Bucket": blobs.folder.bucket, "Key": blobs.key(path)}


def _signer(client: S3Client) -> S3Client:
    """The client, signing links in the way that every region takes; the default is an older one."""
    client.meta.events.register_first(
        "choose-signer.s3", cast("Any", _newest_signature), unique_id="mlreg-links"
    )
    return client


def _newest_signature(**_: object) -> str:
    return "s3v4"


def _ticket(ticket: str) -> str:
    return f"{INCOMING}/tickets/{ticket}.json"


def _period(holds: timedelta) -> tuple[int, datetime]:
    if not timedelta(seconds=1) <= holds <= MOST:
        raise InvalidInput(f"a link holds 1 second to {MOST.days} days, not {holds}")
    return int(holds.total_seconds()), datetime.now(UTC) + holds


def _size(file: File) -> int:
    if type(file.size) is not int or file.size < 0:
        raise InvalidInput(f"the size of {file.path} is {file.size!r}; it is a number of bytes")
    return file.size


def _by_path(file: File) -> str:
    return file.path
