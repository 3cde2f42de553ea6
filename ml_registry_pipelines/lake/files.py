"""Plain files below a folder or an `s3://bucket/prefix`: listed, read whole or as a stream, put whole.

For what is not a table: log files that producers land, reports, staged batches. Paths
are relative to the root, with forward slashes, and compare byte by byte in both kinds.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    from botocore.config import Config
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from typing_extensions import Buffer

TEMPORARY_PREFIXES = (".", "_")
TEMPORARY_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload", "~")


class FilesError(MlregError):
    """A folder or bucket could not be listed, read or written."""


class NoSuchFile(FilesError):
    """There is no file under that path."""


class NotRegular(FilesError):
    """What is there is a folder, a pipe or a device: nothing with an end that can be read twice."""


@dataclass(frozen=True)
class Entry:
    """One file as a listing shows it. `etag` is None in a folder."""

    path: str
    size: int
    modified_at: datetime
    etag: str | None = None

    @property
    def mark(self) -> str:
        """What changes when the content does, as far as a listing can tell."""
        return self.etag or f"{self.size}-{self.modified_at.timestamp():.6f}"


def is_temporary(path: str) -> bool:
    """Whether a producer is still writing under this name, by its first or last characters."""
    return any(
        part.startswith(TEMPORARY_PREFIXES) or part.endswith(TEMPORARY_SUFFIXES) for part in path.split("/")
    )


class Folder(ABC):
    """Files below one root."""

    uri: str
    settles: bool
    """Whether a listed file may still be growing: true in a folder, false in an object store."""

    @abstractmethod
    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        """Files below the folder `prefix` whose path sorts after `after`, in order."""

    @abstractmethod
    def subfolders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, in order."""

    @abstractmethod
    def entry(self, path: str) -> Entry:
        """One file. Raises `NoSuchFile` when there is none."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """The file as a stream of bytes."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Put the file whole: readers see it all or not at all."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Put the file whole unless there is one already; whether it was put."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the file; nothing happens when there is none."""

    @abstractmethod
    def move(self, path: str, to: str) -> None:
        """Give the file another path. One that is there already stays, and this one goes.

        Raises:
            NoSuchFile: there is none.
        """

    def read(self, path: str) -> bytes:
        """The whole file."""
        with self.open(path) as stream:
            return stream.read()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            self.entry(path)
        except NoSuchFile:
            return False
        return True


def open_folder(uri: str, storage_options: Mapping[str, str] | None = None) -> Folder:
    """The folder behind a path or an `s3://bucket/prefix` address.

    `storage_options` are `AWS_*` settings that differ from the environment's.
    """
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        return S3Folder(parts.netloc, parts.path.strip("/"), storage_options)
    return LocalFolder(Path(uri))


class LocalFolder(Folder):
    """Files below a folder of this machine."""

    settles = True

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = str(self.root)

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        base = prefix.strip("/")
        start = self.root / base
        if start.is_file():
            yield from (e for e in [self.entry(base)] if e.path > after)
            return
        above = [self.root, *(self.root / folder for folder in Path(base).parents)] if base else []
        yield from self._walk(base, after, frozenset(_identity(folder) for folder in above))

    def _walk(self, base: str, after: str, above: frozenset[_Identity]) -> Iterator[Entry]:
        """Regular files, links to them included; a link to a folder that it lies in is not followed."""
        try:
            here = _identity(self.root / base)
            if here is None or here in above:
                return
            with os.scandir(self.root / base) as found:
                # A folder sorts as its files do: by its name and a slash.
                children = sorted((e.name + "/" if _is_folder(e) else e.name, e) for e in found)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise FilesError(
                f"{self.root / base} cannot be listed: {failure.strerror}; check its permissions"
            ) from failure
        for name, child in children:
            path = f"{base}/{name}" if base else name
            if path.endswith("/"):
                if after < path or after.startswith(path):
                    yield from self._walk(path.rstrip("/"), after, above | {here})
            elif path > after and (found_there := _stat(child)) and stat.S_ISREG(found_there.st_mode):
                yield _local_entry(path, found_there)

    def _place(self, path: str) -> Path:
        """Where a file lies; none lies outside the folder."""
        if path.startswith("/") or ".." in path.split("/"):
            raise NoSuchFile(f"{path!r} is no file below {self.root}")
        return self.root / path

    def subfolders(self, prefix: str = "") -> list[str]:
        folder = self.root / prefix.strip("/")
        try:
            with _local_errors(folder, "listed"), os.scandir(folder) as found:
                return sorted(e.name for e in found if _is_folder(e))
        except NoSuchFile:
            return []

    def entry(self, path: str) -> Entry:
        place = self._place(path)
        with _local_errors(place, "read"):
            found = place.stat()
        _refuse_irregular(place, found)
        return _local_entry(path, found)

    def open(self, path: str) -> IO[bytes]:
        place = self._place(path)
        with _local_errors(place, "read"):
            # A pipe is opened without waiting for its writer, and then refused.
            stream = open(place, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
        try:
            _refuse_irregular(place, os.fstat(stream.fileno()))
        except NotRegular:
            stream.close()
            raise
        return stream

    def write(self, path: str, data: bytes) -> None:
        target = self._place(path)
        with _local_errors(target, "written"), _put_aside(target, data) as temporary:
            temporary.replace(target)

    def create(self, path: str, data: bytes) -> bool:
        target = self._place(path)
        with _local_errors(target, "written"), _put_aside(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def delete(self, path: str) -> None:
        place = self._place(path)
        with _local_errors(place, "deleted"):
            place.unlink(missing_ok=True)

    def move(self, path: str, to: str) -> None:
        source, target = self._place(path), self._place(to)
        with _local_errors(source, "moved"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.link(source, target)
            source.unlink(missing_ok=True)


@contextmanager
def _put_aside(target: Path, data: bytes) -> Iterator[Path]:
    """The data in a file beside the target, which is gone afterwards."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _local_errors(path: Path, verb: str) -> Iterator[None]:
    """Turn the system's errors into one sentence that says what and where."""
    try:
        yield
    except FileNotFoundError as failure:
        raise NoSuchFile(f"{path} cannot be {verb}: there is no such file") from failure
    except OSError as failure:
        raise FilesError(f"{path} cannot be {verb}: {failure.strerror or failure}") from failure


_Identity = tuple[int, int] | None
"""Device and number of a folder, by whatever name; None: it is not there."""


def _identity(folder: Path) -> _Identity:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the name leads to; None for what has just gone, and for links that lead nowhere or in a circle."""
    try:
        return entry.stat()
    except OSError as failure:
        if failure.errno in {errno.ENOENT, errno.ELOOP}:
            return None
        raise FilesError(
            f"{entry.path} cannot be read: {failure.strerror}; check its permissions"
        ) from failure


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_irregular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotRegular(f"{path} cannot be read: it is no regular file")


def _local_entry(path: str, found: os.stat_result) -> Entry:
    # Microseconds are all that a table holds: a mark must survive the way there and back.
    return Entry(path, found.st_size, datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1_000_000, UTC))


_S3_CLIENT = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region_name": "AWS_REGION",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}
"""Arguments of the client by the setting that they come from; None leaves it to the environment."""


def s3_client(storage_options: Mapping[str, str], *, config: Config | None = None) -> S3Client:
    """A client for buckets; settings that are not given come from the environment."""
    import boto3

    options = {key.upper(): value for key, value in storage_options.items()}
    given: dict[str, Any] = {argument: options.get(name) for argument, name in _S3_CLIENT.items()}
    return boto3.client("s3", config=config, **given)


class S3Folder(Folder):
    """Objects below a prefix of a bucket."""

    settles = False

    def __init__(
        self,
        bucket: str,
        prefix: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        client: S3Client | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.options = dict(storage_options or {})
        self._client = client

    @property
    def client(self) -> S3Client:
        if self._client is None:
            self._client = s3_client(self.options)
        return self._client

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        base = self.prefix + (prefix.strip("/") + "/" if prefix.strip("/") else "")
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=base, StartAfter=self.prefix + after if after else ""
        )
        with s3_errors(f"{self.uri}/{prefix}", "listed"):
            for page in pages:
                for found in page.get("Contents", []):
                    if not found["Key"].endswith("/"):
                        yield self._entry(found["Key"], found["Size"], found["LastModified"], found["ETag"])

    def subfolders(self, prefix: str = "") -> list[str]:
        base = self.prefix + (prefix.strip("/") + "/" if prefix.strip("/") else "")
        with s3_errors(f"{self.uri}/{prefix}", "listed"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=base, Delimiter="/"
            )
            found = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
        return sorted(name[len(base) :].rstrip("/") for name in found)

    def entry(self, path: str) -> Entry:
        with s3_errors(f"{self.uri}/{path}", "read"):
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)
        return self._entry(self.prefix + path, head["ContentLength"], head["LastModified"], head["ETag"])

    def _entry(self, key: str, size: int, modified_at: datetime, etag: str) -> Entry:
        return Entry(key[len(self.prefix) :], size, modified_at.astimezone(UTC), etag.strip('"'))

    def open(self, path: str) -> IO[bytes]:
        address = f"{self.uri}/{path}"
        with s3_errors(address, "read"):
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)["Body"]
        return io.BufferedReader(_S3Stream(body, address), 1 << 20)

    def write(self, path: str, data: bytes) -> None:
        with s3_errors(f"{self.uri}/{path}", "written"):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        # A request that landed and was not answered is sent again, and then refused by itself.
        token = uuid.uuid4().hex
        with s3_errors(f"{self.uri}/{path}", "written"):
            try:
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=self.prefix + path,
                    Body=data,
                    IfNoneMatch="*",
                    Metadata={_CREATOR: token},
                )
            except self.client.exceptions.ClientError as failure:
                if error_code(failure) not in {"PreconditionFailed", "ConditionalRequestConflict"}:
                    raise
                there = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)
                return bool(there.get("Metadata", {}).get(_CREATOR) == token)
        return True

    def delete(self, path: str) -> None:
        with s3_errors(f"{self.uri}/{path}", "deleted"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def move(self, path: str, to: str) -> None:
        if not self.exists(to):
            with s3_errors(f"{self.uri}/{path}", "moved"):
                kept = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path).get("Metadata", {})
                self.client.copy(
                    {"Bucket": self.bucket, "Key": self.prefix + path},
                    self.bucket,
                    self.prefix + to,
                    ExtraArgs={"MetadataDirective": "REPLACE", "Metadata": kept},
                )
        self.delete(path)


_CREATOR = "mlreg-creator"
"""Metadata of an object by which its creator knows it again."""


class _S3Stream(io.RawIOBase):
    """The body of an object, whose errors while it is read are told like all others."""

    def __init__(self, body: StreamingBody, address: str) -> None:
        self._body = body
        self._address = address

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        with s3_errors(self._address, "read"):
            part = self._body.read(len(view))
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._body.close()
        super().close()


@contextmanager
def s3_errors(address: str, verb: str) -> Iterator[None]:
    """Turn the client's errors into one sentence that says what and where."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except ClientError as failure:
        said = failure.response.get("Error", {}).get("Message") or str(failure)
        if error_code(failure) in {"NoSuchKey", "404", "NotFound"}:
            raise NoSuchFile(f"{address} cannot be {verb}: there is no such file") from failure
        raise FilesError(
            f"{address} cannot be {verb}: {said.rstrip('.')}; check bucket and credentials"
        ) from failure
    except (BotoCoreError, HTTPClientError) as failure:
        raise FilesError(f"{address} cannot be {verb}: {failure}; check bucket and credentials") from failure


def error_code(failure: Exception) -> str:
    """The code by which the store names an error; empty where it did not answer."""
    response: Mapping[str, Mapping[str, str]] = getattr(failure, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
