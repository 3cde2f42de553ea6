"""Files that were downloaded once, kept on this machine by their digest, and verified at every use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ml_registry_pipelines.registry.blobs import copy_file
from ml_registry_pipelines.registry.content import ArtifactChanged
from ml_registry_pipelines.settings import SettingsError

DEFAULT_GB = 50.0


@dataclass(frozen=True)
class Cache:
    """A folder of files by digest. It is shared by processes, and may be deleted at any time.

    Args:
        root: made when something is kept.
        limit: bytes; what was used longest ago goes first.
    """

    root: Path
    limit: int = int(DEFAULT_GB * 1e9)

    @classmethod
    def from_environment(cls, home: str) -> Cache | None:
        """The cache that `MLREG_CACHE` names, up to `MLREG_CACHE_GB`.

        Where the home is a bucket, there is one by default, below the user's cache folder. A home
        in a folder is as near as a cache would be, and gets one only where `MLREG_CACHE` is set.
        """
        given = os.environ.get("MLREG_CACHE", "").strip()
        if not given and not home.startswith("s3://"):
            return None
        size = os.environ.get("MLREG_CACHE_GB", "").strip() or str(DEFAULT_GB)
        try:
            limit = int(float(size) * 1e9)
            if limit < 0:
                raise ValueError
        except (ValueError, OverflowError):
            raise SettingsError(f"MLREG_CACHE_GB is {size!r}; it must be a number of gigabytes") from None
        caches = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
        return cls(Path(given or f"{caches}/mlreg").expanduser().absolute(), limit)

    def _place(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def copy(self, sha256: str, size: int, target: Path, what: str) -> bool:
        """Copy a file from the cache, verified; whether it was there. A spoilt one is thrown away."""
        place = self._place(sha256)
        try:
            copy_file(place, target, sha256=sha256, size=size, what=what)
        except ArtifactChanged:
            place.unlink(missing_ok=True)
            return False
        with suppress(OSError):
            os.utime(place)
        return True

    def take(self, sha256: str, fetch: Callable[[Path], None]) -> None:
        """Have a file fetched into the cache."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as failure:
            raise SettingsError(
                f"the cache {self.root} cannot be made: {failure.strerror}; set MLREG_CACHE to a folder that can"
            ) from failure
        fetch(self._place(sha256))

    def files(self) -> list[tuple[Path, os.stat_result]]:
        """What is there, what was used longest ago first."""
        found = []
        for path in self.root.glob("*/*"):
            with suppress(OSError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda each: each[1].st_mtime)

    def shrink(self, *, keep: Iterable[str] = ()) -> int:
        """Throw away what is over the limit, but nothing of `keep`; return the bytes."""
        kept, files = set(keep), self.files()
        over = sum(found.st_size for _, found in files) - self.limit
        gone = 0
        for path, found in files:
            if gone >= over:
                break
            if path.name not in kept:
                path.unlink(missing_ok=True)
                gone += found.st_size
        return gone
