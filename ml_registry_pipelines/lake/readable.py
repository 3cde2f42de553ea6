"""Which places a process reads from for somebody else, and how it opens what lies there.

A form of the Launchpad is carried out by the service, which can read what the person who filled it in
cannot: other people's files, credentials, the platform's own tables. So a run reads for a form what lies
below given folders alone. Who works in a shell reads with his own rights, and so anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ml_registry_pipelines.errors import MlregError

SETTING = "MLREG_FORM_FOLDERS"
BELOW_HOME = ("intake", "demo")
"""Folders of a home that are for what people bring; all others are the platform's."""
_VARIABLES = (
    "MLREG_SECRET_FILE",
    "MLREG_PROXY_SECRET_FILE",
    "MLREG_API_KEY_FILE",
    "MLREG_ANCHOR_KEY",
    "DAGSTER_HOME",
)
"""They name secrets, or the folder that holds them, outside the home."""


class NotReadable(MlregError):
    """Something lies where nobody may have the service read."""


class Readable:
    """The places that may be read from: folders and `s3://bucket/prefix` addresses, with all that is below.

    Of the home, only `BELOW_HOME` is ever among them, and is without being named.

    Args:
        root: of the lake.
        folders: None: anywhere, with the rights of the process.
    """

    def __init__(self, root: str, folders: Sequence[str] | None = None) -> None:
        self._root = root.rstrip("/")
        self._given = None if folders is None else tuple(folders)

    @property
    def is_free(self) -> bool:
        """Whether anything may be read that the process can read."""
        return self._given is None

    def check(self, given: str | Path) -> None:
        """Look whether a path or an address of a bucket lies in a place that may be read from; links are followed.

        Other addresses are never read, and so may be given.

        Raises:
            NotReadable: it does not. Nothing at that place was opened.
        """
        address = str(given).removeprefix("file://")
        if self.is_free or ("://" in address and not address.startswith("s3://")):
            return
        if address.startswith("s3://"):
            # No key means another with dots in it, but who reads may make a path of it.
            dotted = any(part in {".", ".."} for part in address.split("/"))
            if dotted or not any(_in_bucket(address, place) for place in self._places()):
                raise self._refusal(given)
        else:
            self._base(Path(os.path.realpath(address)), given)

    @contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """A file under a name by which it can be read, while the block lasts.

        Where reading is limited, that is the name of a descriptor that was opened step by step from an allowed
        folder without following a link: whatever is put into the file's place after the check is not read.

        Raises:
            NotReadable: it lies elsewhere.
            OSError: there is no such file, or it cannot be read.
        """
        if self.is_free:
            yield path
            return
        descriptor = self._open(path)
        try:
            yield Path(f"/dev/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def check_tree(self, folder: Path) -> None:
        """Look whether a folder and all below it may be read, for readers that open files by their own names.

        Raises:
            NotReadable: it lies elsewhere, or a link in it may lead there.
        """
        self.check(folder)
        if self.is_free:
            return
        for above, folders, files in os.walk(folder):
            for name in (*folders, *files):
                if Path(above, name).is_symlink():
                    raise NotReadable(
                        f"{Path(above, name)} is a link; a form reads no table with links in it"
                    )

    def _open(self, path: Path) -> int:
        real = Path(os.path.realpath(path))
        base = self._base(real, path)
        steps = real.relative_to(base).parts
        descriptor = os.open(base, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for number, step in enumerate(steps, start=1):
                kind = os.O_NONBLOCK if number == len(steps) else os.O_DIRECTORY
                below = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotReadable(f"{path} is no plain file")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _base(self, real: Path, given: str | Path) -> Path:
        """The allowed folder that holds a path without links."""
        home = None if self._root.startswith("s3://") else Path(os.path.realpath(self._root))
        closed = _own_files() if home is None else [*_own_files(), home]
        if not any(_within(each, real) for each in closed) and not any(
            _within(real, each) for each in closed if each != home
        ):
            bases = (Path(os.path.realpath(p)) for p in self._places() if not p.startswith("s3://"))
            for base in bases:
                # An allowed folder that the home lies in allows nothing of the home.
                if _within(real, base) and (home is None or not _within(real, home) or _brought(real, home)):
                    return base
        raise self._refusal(given)

    def _places(self) -> Sequence[str]:
        return (*(f"{self._root}/{folder}" for folder in BELOW_HOME), *(self._given or ()))

    def _refusal(self, given: str | Path) -> NotReadable:
        return NotReadable(
            f"{given} leads into no folder that a form may have read: {', '.join(self._places())}; put it there, "
            f"or name its folder in {SETTING}, with commas between several"
        )


ANYWHERE = Readable("")
"""With the rights of the process."""


def _own_files() -> list[Path]:
    return [Path(os.path.realpath(os.environ[name])) for name in _VARIABLES if os.environ.get(name)]


def _brought(real: Path, home: Path) -> bool:
    return any(_within(real, home / folder) for folder in BELOW_HOME)


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _in_bucket(address: str, place: str) -> bool:
    return place.startswith("s3://") and f"{address.rstrip('/')}/".startswith(f"{place.rstrip('/')}/")
