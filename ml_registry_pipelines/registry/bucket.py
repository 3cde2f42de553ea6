"""Artifacts in a bucket: in parts, several at a time, in bounded memory, continued where they broke off.

A file goes up in pieces that are read once and in order: the piece's SHA-256 is sent with it for
the store to check, and the file's is compared before the parts become an object. An object is
trusted to be there only when it carries the digest as metadata, which an overwriting one lacks.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.files import (
    FilesError,
    NoSuchFile,
    S3Folder,
    error_code,
    s3_client,
    s3_errors,
)
from ml_registry_pipelines.registry.blobs import Blobs, blob_path, changed, gone, write_out
from ml_registry_pipelines.registry.content import ArtifactError, ArtifactRefused
from ml_registry_pipelines.registry.copying import Fill, opened

if TYPE_CHECKING:
    from botocore.config import Config
    from mypy_boto3_s3 import S3Client

PIECE = 8 << 20
"""Bytes of a part; more only where a file, of over 84 GB, would have more than `MAX_PARTS` of them."""
MAX_PARTS = 10_000
BUDGET = 96 << 20
"""Bytes of all pieces that one process holds at once. One piece may be larger: of a file over 1 TB."""
REQUESTS = 8
"""Requests at a time."""
ATTEMPTS = 10
"""Tries per request: with one call in five failing, one in ten million still fails."""
DIGEST = "mlreg-sha256"
"""Metadata of an object: the digest that its bytes were stored under."""
LOST = {"NoSuchUpload", "404", "500"}
"""What a part or its completion is answered when the upload has ended meanwhile."""


def piece_size(size: int) -> int:
    """Bytes of each part of a file but the last; the same for every attempt."""
    return max(PIECE, -(-size // MAX_PARTS))


def client_config() -> Config:
    """How the bucket is reached: patiently, by signatures that every region takes."""
    from botocore.config import Config

    return Config(
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=2 * REQUESTS,
        signature_version="s3v4",
    )


class Budget:
    """Bytes that may be held at once, by whoever takes them first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._changed = threading.Condition()

    def _fits(self, count: int) -> bool:
        # More than there ever is waits until it can have all of it.
        return self._held == 0 or self._held + count <= self._limit

    def take(self, count: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(count))
            self._held += count

    def try_take(self, count: int) -> bool:
        """Take without waiting; whether there was room."""
        with self._changed:
            if fits := self._fits(count):
                self._held += count
            return fits

    def give_back(self, count: int) -> None:
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    @contextmanager
    def taken(self, count: int) -> Iterator[Taken]:
        """Room for a while, or, once `by_another` was called, until that other is done."""
        self.take(count)
        held = Taken(self, count)
        try:
            yield held
        finally:
            if not held.passed_on:
                self.give_back(count)


class Taken:
    """Room in a budget."""

    def __init__(self, budget: Budget, count: int) -> None:
        self._budget, self._count = budget, count
        self.passed_on = False

    def by_another(self) -> Callable[[object], None]:
        """Pass the room on; the result is to be called, once, when it is not needed any more."""
        self.passed_on = True
        return lambda _: self._budget.give_back(self._count)


class UploadEnded(ArtifactError):
    """The parts were put together or thrown away by somebody else."""


class BucketBlobs(Blobs):
    """Blobs below a prefix of a bucket."""

    folder: S3Folder

    def __init__(self, folder: S3Folder, client: S3Client | None = None) -> None:
        self._client = client or s3_client(folder.options, config=client_config())
        super().__init__(S3Folder(folder.bucket, folder.prefix.rstrip("/"), client=self._client))
        self._budget = Budget(BUDGET)

    @property
    def client(self) -> S3Client:
        return self._client

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(REQUESTS, thread_name_prefix="mlreg-parts")

    def key(self, path: str) -> str:
        """The object's name in the bucket."""
        return self.folder.prefix + path

    def _has_sound(self, sha256: str, size: int) -> bool:
        try:
            with s3_errors(f"{self.folder.uri}/{blob_path(sha256)}", "read"):
                head = self._client.head_object(Bucket=self.folder.bucket, Key=self.key(blob_path(sha256)))
        except NoSuchFile:
            return False
        except FilesError as failure:
            raise ArtifactError(str(failure)) from failure
        return head["ContentLength"] == size and head.get("Metadata", {}).get(DIGEST) == sha256

    # -- up -------------------------------------------------------------------------------

    def _put(self, path: Path, sha256: str, size: int) -> None:
        try:
            with s3_errors(f"{path} to {self.folder.uri}", "stored"):
                if size <= PIECE:
                    self._put_whole(path, sha256)
                else:
                    self._put_in_parts(path, sha256, size)
        except FilesError as failure:
            raise ArtifactError(f"{failure}; what has arrived is continued next time") from failure
        except OSError as failure:
            raise ArtifactError(f"{path} cannot be read: {failure.strerror}") from failure

    def _put_whole(self, path: Path, sha256: str) -> None:
        with opened(path) as source, open(source, "rb", closefd=False) as stream:
            data = stream.read(PIECE + 1)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _changed_meanwhile(path)
        self._client.put_object(
            Bucket=self.folder.bucket,
            Key=self.key(blob_path(sha256)),
            Body=data,
            ChecksumSHA256=_checksum(data),
            Metadata={DIGEST: sha256},
        )

    def _put_in_parts(self, path: Path, sha256: str, size: int) -> None:
        for last in (False, False, True):
            upload, there = self._upload(sha256)
            try:
                parts = self._parts(path, sha256, size, upload, there)
                self._client.complete_multipart_upload(
                    **self._of(sha256, upload),
                    MultipartUpload={"Parts": [parts[n] for n in sorted(parts)]},
                )
            except (UploadEnded, self._client.exceptions.ClientError) as failure:
                # An answer may have been lost, or another process was faster with the same content.
                if self._has_sound(sha256, size):
                    return
                if last or not (isinstance(failure, UploadEnded) or error_code(failure) in LOST):
                    raise
            else:
                return

    def _of(self, sha256: str, upload: str) -> dict[str, Any]:
        return {"Bucket": self.folder.bucket, "Key": self.key(blob_path(sha256)), "UploadId": upload}

    def _upload(self, sha256: str) -> tuple[str, dict[int, Any]]:
        """The upload of this content that got furthest, with its parts by number, or a new one."""
        key = self.key(blob_path(sha256))
        best: tuple[str, dict[int, Any]] | None = None
        for page in self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.folder.bucket, Prefix=key
        ):
            for found in page.get("Uploads", []):
                parts = self._listed(sha256, found["UploadId"]) if found["Key"] == key else None
                if parts is not None and (best is None or len(parts) > len(best[1])):
                    best = found["UploadId"], parts
        if best is not None:
            return best
        made = self._client.create_multipart_upload(
            Bucket=self.folder.bucket, Key=key, ChecksumAlgorithm="SHA256", Metadata={DIGEST: sha256}
        )
        return made["UploadId"], {}

    def _listed(self, sha256: str, upload: str) -> dict[int, Any] | None:
        try:
            pages = self._client.get_paginator("list_parts").paginate(**self._of(sha256, upload))
            return {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}
        except self._client.exceptions.ClientError as failure:
            if error_code(failure) in LOST:
                return None
            raise

    def _parts(
        self, path: Path, sha256: str, size: int, upload: str, there: dict[int, Any]
    ) -> dict[int, Any]:
        """Put all parts that are not there yet; what `complete` wants to know about each."""
        piece, hashed = piece_size(size), hashlib.sha256()
        done: dict[int, Any] = {}
        failed = threading.Event()
        under_way: list[Future[Any]] = []
        try:
            with opened(path) as source, open(source, "rb", buffering=0, closefd=False) as stream:
                for number in range(1, -(-size // piece) + 1):
                    with self._budget.taken(piece) as taken:
                        data = _read(stream, piece)
                        hashed.update(data)
                        if (part := _kept(there.get(number), data)) is not None:
                            done[number] = part
                            continue
                        future = self._pool.submit(self._put_part, sha256, upload, number, data, failed)
                        future.add_done_callback(taken.by_another())
                        under_way.append(future)
                    del data
                    if failed.is_set():
                        break
        except BaseException:
            failed.set()
            raise
        finally:
            if failed.is_set():
                for future in under_way:
                    future.cancel()
            wait(under_way)
        done.update(future.result() for future in under_way if not future.cancelled())
        if hashed.hexdigest() != sha256:
            # Nobody wants these parts any more: a later attempt has another digest, and so another key.
            self._client.abort_multipart_upload(**self._of(sha256, upload))
            raise _changed_meanwhile(path)
        return {number: {"PartNumber": number, **part} for number, part in done.items()}

    def _put_part(
        self, sha256: str, upload: str, number: int, data: Any, failed: threading.Event
    ) -> tuple[int, dict[str, Any]]:
        checksum = _checksum(data)
        try:
            put = self._client.upload_part(
                **self._of(sha256, upload), PartNumber=number, Body=data, ChecksumSHA256=checksum
            )
        except Exception as failure:
            failed.set()
            if error_code(failure) in LOST and self._listed(sha256, upload) is None:
                raise UploadEnded(f"{self.folder.uri} ended an upload before it was whole") from failure
            raise
        return number, {"ETag": put["ETag"], "ChecksumSHA256": checksum}

    def broken_off(self, before: datetime) -> Iterator[tuple[str, str]]:
        """Key and id of uploads in parts that nothing has been put to since `before`."""
        with s3_errors(self.folder.uri, "listed"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.folder.bucket, Prefix=self.folder.prefix
            ):
                for found in page.get("Uploads", []):
                    of: Any = {
                        "Bucket": self.folder.bucket,
                        "Key": found["Key"],
                        "UploadId": found["UploadId"],
                    }
                    parts = self._client.get_paginator("list_parts").paginate(**of)
                    times = [part["LastModified"] for page in parts for part in page.get("Parts", [])]
                    newest = max(times, default=found["Initiated"])
                    if newest < before:
                        yield found["Key"], found["UploadId"]

    def abort(self, key: str, upload: str) -> None:
        """Throw the parts of an upload away."""
        with s3_errors(f"{self.folder.bucket}/{key}", "deleted"):
            self._client.abort_multipart_upload(Bucket=self.folder.bucket, Key=key, UploadId=upload)

    # -- down -----------------------------------------------------------------------------

    def fetch(self, sha256: str, size: int, target: Path, what: str) -> None:
        with self._readable(sha256, size, what) as etag:
            write_out(target, sha256=sha256, size=size, fill=self._filling(sha256, size, etag), what=what)

    def _filling(self, sha256: str, size: int, etag: str) -> Fill:
        def fill(target: int, start: int, reached: Callable[[int], None]) -> None:
            offset = start
            for data in self.pieces(blob_path(sha256), start, size, etag):
                written = 0
                while written < len(data):
                    written += os.pwrite(target, memoryview(data)[written:], offset + written)
                offset += written
                reached(offset)

        return fill

    def verify(self, sha256: str, size: int, what: str) -> None:
        with self._readable(sha256, size, what) as etag:
            if self.digest_of(blob_path(sha256), size, etag) != sha256:
                raise changed(what)

    def digest_of(self, path: str, size: int, etag: str) -> str:
        """SHA-256 of an object, read in parts."""
        hashed = hashlib.sha256()
        for data in self.pieces(path, 0, size, etag):
            hashed.update(data)
        return hashed.hexdigest()

    @contextmanager
    def _readable(self, sha256: str, size: int, what: str) -> Iterator[str]:
        """The object's ETag, where it is as large as it should be; errors of the store in our words."""
        try:
            entry = self.folder.entry(blob_path(sha256))
            if entry.size != size:
                raise changed(what)
            yield entry.etag or ""
        except NoSuchFile:
            raise gone(what) from None
        except FilesError as failure:
            raise ArtifactError(str(failure)) from failure

    def pieces(self, path: str, start: int, size: int, etag: str) -> Iterator[bytes]:
        """An object from an offset on, in order, some pieces fetched ahead; all of one and the same object."""
        ahead: deque[tuple[Future[bytes], int]] = deque()
        offset = start
        try:
            while offset < size or ahead:
                while offset < size and len(ahead) < REQUESTS:
                    count = min(PIECE, size - offset)
                    # Whoever holds a piece can go on without another; so only the first is waited for.
                    if not ahead:
                        self._budget.take(count)
                    elif not self._budget.try_take(count):
                        break
                    ahead.append((self._pool.submit(self._range, path, offset, count, etag), count))
                    offset += count
                future, count = ahead[0]
                yield future.result()
                ahead.popleft()
                self._budget.give_back(count)
        finally:
            for future, count in ahead:
                future.cancel()
                self._budget.give_back(count)

    def _range(self, path: str, offset: int, count: int, etag: str) -> bytes:
        from botocore.exceptions import BotoCoreError, HTTPClientError

        address = f"{self.folder.uri}/{path}"
        for left in reversed(range(ATTEMPTS)):
            try:
                with s3_errors(address, "read"):
                    answer = self._client.get_object(
                        Bucket=self.folder.bucket,
                        Key=self.key(path),
                        Range=f"bytes={offset}-{offset + count - 1}",
                        IfMatch=f'"{etag}"',
                    )
                data = answer["Body"].read()
            except (BotoCoreError, HTTPClientError) as failure:
                # A connection that breaks while the body comes is nothing that the client tries again.
                if not left:
                    raise FilesError(f"{address} cannot be read: {failure}") from failure
                continue
            if len(data) == count:
                return data
        raise FilesError(f"{address} cannot be read: its answers break off")


def _read(stream: Any, count: int) -> Any:
    """That many bytes, or fewer at the end of the file."""
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count and (got := stream.readinto(view[filled:])):
        filled += got
    view.release()
    if filled < count:
        del data[filled:]
    return data


def _kept(part: Any, data: Any) -> dict[str, Any] | None:
    """What names a part that is in the store already with exactly these bytes."""
    if part is None or part["Size"] != len(data):
        return None
    checksum = _checksum(data)
    if "ChecksumSHA256" in part:
        same = part["ChecksumSHA256"] == checksum
    else:
        same = part["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"ETag": part["ETag"], "ChecksumSHA256": checksum} if same else None


def _checksum(data: Any) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _changed_meanwhile(path: Path) -> ArtifactRefused:
    return ArtifactRefused(f"{path} changed while it was stored; store it when it is whole")
