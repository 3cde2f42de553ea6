"""Where suites lie: `suites/NAME.yaml` below the home, else the one that is shipped under that name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.suites.suite import Problem, Suite, parse
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import NoSuchFile, open_folder
from ml_registry_pipelines.registry.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

FOLDER = "suites"
SUFFIX = ".yaml"
LARGEST = 1 << 20


class NoSuchSuite(MlregError):
    """There is no suite of that name."""


class SuiteFiles:
    """The suites of one home, a folder or `s3://bucket/prefix`."""

    def __init__(self, home: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.place = f"{home.rstrip('/')}/{FOLDER}"
        self._folder = open_folder(self.place, storage_options)

    def names(self) -> list[str]:
        """Names of all suites, those that are shipped included."""
        own = [entry.path for entry in self._folder.entries()]
        found = {path.removesuffix(SUFFIX) for path in own if path.endswith(SUFFIX) and "/" not in path}
        return sorted({*found, *shipped()})

    def own(self, name: str) -> bool:
        """Whether the home has a file of its own for it."""
        return self._folder.exists(name + SUFFIX)

    def read(self, name: str) -> Suite:
        """A suite, whatever is wrong with it.

        Raises:
            NoSuchSuite: there is none.
        """
        text, place = self.text(name)
        return parse(text, name, place=place)

    def text(self, name: str) -> tuple[str, str]:
        """The text of a suite, and where it stands.

        Raises:
            NoSuchSuite: there is none.
        """
        try:
            # A file in the home counts even where it is broken: what is shipped is no way around it.
            data = self._folder.read(name + SUFFIX)
            place = f"{self.place}/{name}{SUFFIX}"
        except NoSuchFile:
            if name not in (known := shipped()):
                raise NoSuchSuite(
                    f"there is no suite {shown(name)}: no file {self.place}/{name}{SUFFIX}, and none is shipped "
                    f"under that name; there are {', '.join(self.names()) or 'none'}"
                ) from None
            data, place = known[name].read_bytes(), f"{name}{SUFFIX} (shipped)"
        if len(data) > LARGEST:
            raise NoSuchSuite(f"{place} has {len(data):,} bytes; a suite has at most {LARGEST:,}")
        return data.decode("utf-8", "replace"), place

    def init(self, names: list[str] | None = None) -> list[str]:
        """Copy shipped suites into the home, to be edited; those that are there stay. Returns what was written.

        Raises:
            NoSuchSuite: one of the names is not shipped.
        """
        known = shipped()
        if unknown := sorted(set(names or ()) - set(known)):
            raise NoSuchSuite(
                f"no suite {', '.join(unknown)} is shipped; there are {', '.join(sorted(known))}"
            )
        return [
            f"{self.place}/{name}{SUFFIX}"
            for name in sorted(names or known)
            if self._folder.create(name + SUFFIX, known[name].read_bytes())
        ]


def shipped() -> dict[str, Traversable]:
    """Files of the suites that come with the package, by name."""
    folder = resources.files("ml_registry_pipelines.compliance.suites") / "shipped"
    return {file.name.removesuffix(SUFFIX): file for file in folder.iterdir() if file.name.endswith(SUFFIX)}


def read_file(path: Path) -> Suite:
    """A suite of any file, to be validated.

    Raises:
        NoSuchSuite: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as failure:
        raise NoSuchSuite(f"{path} cannot be read: {failure.strerror}") from failure
    suite = parse(text, path.stem, place=str(path))
    if path.suffix != SUFFIX:
        from dataclasses import replace

        problem = Problem(
            1, f"the file is called {path.name}; suites are read from files that end with {SUFFIX}"
        )
        return replace(suite, problems=(problem, *suite.problems))
    return suite
