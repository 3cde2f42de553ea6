"""Plain files below a folder or an `s3://bucket/prefix`: listed, read whole or as a stream, put whole.

For what is not a table: log files that producers land, reports, staged batches. Paths
are relative to the root, with forward slashes, and compare byte by byte in both kinds.
"""

from __future__ import annotations

import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import urlsplit

from ml_registry_pipelines.errors import MlregError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TEMPORARY_PREFIXES = (".", "_")
TEMPORARY_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload", "~")


class FilesError(MlregError):
    """A folder or bucket could not be listed, read or written."""


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
        """Files whose path starts with `prefix`, a folder's path or empty, and sorts after `after`; in order."""

    @abstractmethod
    def subfolders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, in order."""

    @abstractmethod
    def entry(self, path: str) -> Entry:
        """One file. Raises `FilesError` when there is none."""

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

    def read(self, path: str) -> bytes:
        """The whole file."""
        with self.open(path) as stream:
            return stream.read()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        try:
            self.entry(path)
        except FilesError:
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
        yield from self._walk(base, after)

    def _walk(self, base: str, after: str) -> Iterator[Entry]:
        try:
            with os.scandir(self.root / base) as found:
                # A folder sorts as its files do: by its name and a slash.
                children = sorted((e.name + "/" if e.is_dir() else e.name, e) for e in found)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise FilesError(f"{self.root / base} cannot be listed: {failure.strerror}; check its permissions") from failure
        for name, child in children:
            path = f"{base}/{name}" if base else name
            if path.endswith("/"):
                if after < path or after.startswith(path):
                    yield from self._walk(path.rstrip("/"), after)
            elif path > after:
                try:
                    yield _local_entry(path, child.stat())
                except FileNotFoundError:
                    continue

    def subfolders(self, prefix: str = "") -> list[str]:
        try:
            with os.scandir(self.root / prefix.strip("/")) as found:
                return sorted(e.name for e in found if e.is_dir())
        except FileNotFoundError:
            return []

    def entry(self, path: str) -> Entry:
        try:
            return _local_entry(path, (self.root / path).stat())
        except OSError as failure:
            raise FilesError(f"{self.root / path}: {failure.strerror}") from failure

    def open(self, path: str) -> IO[bytes]:
        try:
            return (self.root / path).open("rb")
        except OSError as failure:
            raise FilesError(f"{self.root / path} cannot be read: {failure.strerror}") from failure

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._put_aside(target, data)
        try:
            temporary.replace(target)
        except OSError as failure:
            temporary.unlink(missing_ok=True)
            raise FilesError(f"{target} cannot be written: {failure.strerror}") from failure

    def create(self, path: str, data: bytes) -> bool:
        target = self.root / path
        temporary = self._put_aside(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as failure:
            raise FilesError(f"{target} cannot be written: {failure.strerror}") from failure
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _put_aside(self, target: Path, data: bytes) -> Path:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as failure:
            temporary.unlink(missing_ok=True)
            raise FilesError(f"{target} cannot be written: {failure.strerror}") from failure
        return temporary

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)


def _local_entry(path: str, stat: os.stat_result) -> Entry:
    # Microseconds are all that a table holds: a mark must survive the way there and back.
    return Entry(path, stat.st_size, datetime.fromtimestamp(stat.st_mtime_ns // 1000 / 1_000_000, UTC))


_S3_CLIENT = {
    "endpoint_url": "AWS_ENDPOINT_URL",
    "region_name": "AWS_REGION",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}
"""Arguments of the client by the setting that they come from; None leaves it to the environment."""


class S3Folder(Folder):
    """Objects below a prefix of a bucket."""

    settles = False

    def __init__(self, bucket: str, prefix: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._options = {key.upper(): value for key, value in (storage_options or {}).items()}
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        if self._client is None:
            import boto3

            given = {argument: self._options.get(name) for argument, name in _S3_CLIENT.items()}
            self._client = cast("S3Client", boto3.client("s3", **given))
        return self._client

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        base = self.prefix + (prefix.strip("/") + "/" if prefix.strip("/") else "")
        start = {"StartAfter": self.prefix + after} if after else {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base, **start)
        with _s3_errors(f"{self.uri}/{prefix}", "listed"):
            for page in pages:
                for found in page.get("Contents", []):
                    if not found["Key"].endswith("/"):
                        yield self._entry(found["Key"], found["Size"], found["LastModified"], found["ETag"])

    def subfolders(self, prefix: str = "") -> list[str]:
        base = self.prefix + (prefix.strip("/") + "/" if prefix.strip("/") else "")
        with _s3_errors(f"{self.uri}/{prefix}", "listed"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=base, Delimiter="/"
            )
            found = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
        return sorted(name[len(base) :].rstrip("/") for name in found)

    def entry(self, path: str) -> Entry:
        with _s3_errors(f"{self.uri}/{path}", "read"):
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)
        return self._entry(self.prefix + path, head["ContentLength"], head["LastModified"], head["ETag"])

    def _entry(self, key: str, size: int, modified_at: datetime, etag: str) -> Entry:
        return Entry(key[len(self.prefix) :], size, modified_at.astimezone(UTC), etag.strip('"'))

    def open(self, path: str) -> IO[bytes]:
        with _s3_errors(f"{self.uri}/{path}", "read"):
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)["Body"]
        return cast("IO[bytes]", io.BufferedReader(cast("io.RawIOBase", body), 1 << 20))

    def write(self, path: str, data: bytes) -> None:
        with _s3_errors(f"{self.uri}/{path}", "written"):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data, IfNoneMatch="*")
        except ClientError as failure:
            if failure.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict"}:
                return False
            raise FilesError(f"{self.uri}/{path} cannot be written: {failure}") from failure
        return True

    def delete(self, path: str) -> None:
        with _s3_errors(f"{self.uri}/{path}", "deleted"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)


class _s3_errors:  # noqa: N801 - reads as a verb at the call
    """Turn the client's errors into one sentence that says what and where."""

    def __init__(self, what: str, verb: str) -> None:
        self.what, self.verb = what, verb

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, _: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(failure, BotoCoreError | ClientError):
            raise FilesError(f"{self.what} cannot be {self.verb}: {failure}; check bucket and credentials") from failure
