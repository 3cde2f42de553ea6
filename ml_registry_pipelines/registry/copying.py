"""One file filled beside its place, hashed while it grows, and put there only if the digest is right.

A filler writes from the first missing byte on; a reader follows it through the page cache and
hashes what was really written, so that the digest is that of the copy and costs one pass. What a
killed process left is hashed first and then continued. Where bytes come from is the caller's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ml_registry_pipelines.registry.content import ArtifactError

PIECE = 1 << 20
"""Bytes that are held of a file while it is hashed."""
STRETCH = 32 << 20
"""Bytes that the kernel copies per call; so far a hashing reader may lag."""


class WrongBytes(Exception):
    """What was written has another digest than it should."""


class Fill(Protocol):
    """Writes a file from an offset on, and says how far it is."""

    def __call__(self, target: int, start: int, reached: Callable[[int], None], /) -> None: ...


def receive(
    target: Path,
    part: Path,
    *,
    sha256: str,
    size: int,
    fill: Fill,
    room: int | None = None,
    read_only: bool = False,
) -> None:
    """Let `fill` write `part`, and move it to `target` once it has that digest and is on the disk.

    One process fills a part at a time; others wait, and find the target there. What breaks
    leaves nothing behind, but for a process that is killed: its part is continued next time.

    Args:
        room: bytes that it will take on the disk, where holes make them fewer than `size`.
        read_only: nobody is to write to the target.

    Raises:
        WrongBytes: what was written has another digest, also when written anew.
        OSError: the disk is full, permission is denied ...
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _held(part) as (descriptor, path):
        if path != part or not _is_there(target, sha256, size):
            try:
                start = _start(descriptor, size)
                _check_room(target.parent, min(size, size if room is None else room) - start)
                _fill_checked(descriptor, start, sha256, size, fill)
                if read_only:
                    os.fchmod(descriptor, 0o444 & os.fstat(descriptor).st_mode)
                os.fsync(descriptor)
                path.replace(target)
            except (WrongBytes, OSError):
                path.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        else:
            path.unlink(missing_ok=True)


def _is_there(target: Path, sha256: str, size: int) -> bool:
    with suppress(OSError):
        return target.stat().st_size == size and sha256_of(target) == sha256
    return False


def _start(descriptor: int, size: int) -> int:
    """Bytes that an earlier attempt has left and that may be right."""
    left = os.fstat(descriptor).st_size
    if left <= size:
        return left
    os.ftruncate(descriptor, 0)
    return 0


def _check_room(folder: Path, wanted: int) -> None:
    # A disk that fills hurts everybody on it.
    if wanted > STRETCH and shutil.disk_usage(folder).free < wanted:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill_checked(descriptor: int, start: int, sha256: str, size: int, fill: Fill) -> None:
    if _filled(descriptor, start, size, fill) == sha256:
        return
    if start:
        # What was left over was not the beginning of this file after all.
        os.ftruncate(descriptor, 0)
        if _filled(descriptor, 0, size, fill) == sha256:
            return
    raise WrongBytes


class _Progress:
    """How far the filler is, for the reader that follows."""

    def __init__(self, start: int) -> None:
        self._changed = threading.Condition()
        self._offset = start
        self._ended = False
        self._stopped = False

    def reached(self, offset: int) -> None:
        with self._changed:
            if self._stopped:
                raise InterruptedError
            self._offset = offset
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True

    def beyond(self, offset: int) -> int:
        """Wait for more than `offset`; the same offset again when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._offset > offset or self._ended)
            return self._offset


def _filled(descriptor: int, start: int, size: int, fill: Fill) -> str:
    progress = _Progress(start)
    failures: list[Exception] = []

    def work() -> None:
        try:
            if start < size:
                fill(descriptor, start, progress.reached)
        except InterruptedError:
            pass
        except Exception as failure:  # noqa: BLE001 - told to the caller, whose thread is another
            failures.append(failure)
        finally:
            progress.end()

    worker = threading.Thread(target=work, name="mlreg-filling", daemon=True)
    worker.start()
    try:
        hashed = _hash_behind(descriptor, progress)
    finally:
        progress.stop()
        worker.join()
    if failures:
        raise failures[0]
    return hashed


def _hash_behind(descriptor: int, progress: _Progress) -> str:
    hashed, offset, buffer = hashlib.sha256(), 0, memoryview(bytearray(PIECE))
    while (upto := progress.beyond(offset)) > offset:
        while offset < upto:
            count = os.preadv(descriptor, [buffer[: min(PIECE, upto - offset)]], offset)
            if not count:
                return ""  # Somebody has cut the file off.
            hashed.update(buffer[:count])
            offset += count
    return hashed.hexdigest()


@contextmanager
def _held(part: Path) -> Iterator[tuple[int, Path]]:
    """The part, opened, and locked against other processes and threads until the end.

    On a file system without locks it is a file of one's own, which nobody continues.
    """
    while True:
        path = part
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                path = part.with_name(f"{part.stem[:80]}.{uuid.uuid4().hex}.part")
                own = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                os.close(descriptor)
                descriptor = own
            # Whoever held it may have moved or removed it since it was opened.
            if _same(path, descriptor):
                yield descriptor, path
                return
        finally:
            os.close(descriptor)


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- from a file of this machine ----------------------------------------------------------------


def from_file(source: int, size: int) -> Fill:
    """Fill from an open file, in the kernel where it can; holes stay holes."""

    def fill(target: int, start: int, reached: Callable[[int], None]) -> None:
        offset = start
        while offset < size:
            data = _next_data(source, offset, size)
            if data > offset:
                os.ftruncate(target, data)
                offset = data
            else:
                hole = _next_hole(source, offset, size)
                copied = _copy_range(source, target, min(hole - offset, STRETCH), offset)
                if not copied:
                    return  # It is shorter now than it was.
                offset += copied
            reached(offset)

    return fill


def _next_data(source: int, offset: int, size: int) -> int:
    try:
        return min(os.lseek(source, offset, os.SEEK_DATA), size)
    except OSError as failure:
        return size if failure.errno == errno.ENXIO else offset


def _next_hole(source: int, offset: int, size: int) -> int:
    try:
        return min(os.lseek(source, offset, os.SEEK_HOLE), size)
    except OSError:
        return size


_NOT_IN_THE_KERNEL = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


def _copy_range(source: int, target: int, count: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as failure:
        if failure.errno not in _NOT_IN_THE_KERNEL:
            raise
    data = os.pread(source, min(count, PIECE), offset)
    return os.pwrite(target, data, offset) if data else 0


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file's descriptor for reading, which no link in its place leads elsewhere."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def room_of(descriptor: int) -> int:
    """Bytes that an open file takes on its disk, holes not counted."""
    return os.fstat(descriptor).st_blocks * 512


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as failure:
        raise ArtifactError(f"{path} cannot be read: {failure.strerror}") from failure
