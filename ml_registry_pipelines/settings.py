"""Where things are: the few settings that come from the environment, read when asked for.

`MLREG_HOME` is the root of everything durable, a folder or `s3://bucket/prefix`; `MLREG_ENV`
is dev, staging or production; `MLREG_SOURCES` is the file that configures the log sources,
`MLREG_CONTRACT_PRICES` the one with prices agreed by contract, `MLREG_BILLS` the one about providers'
bills, `MLREG_WORKSPACE` the one with code
locations of the user's own. `MLREG_FORM_FOLDERS` are the folders from which a form of the Launchpad has
files read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.readable import SETTING


class Environment(Enum):
    DEV = "dev"
    STAGING = "staging"
    PRODUCTION = "production"


class SettingsError(MlregError):
    """The environment says something that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """`home` is absolute. `sources_file` may not exist: then the landing folder is the one source."""

    home: str
    environment: Environment
    sources_file: str | None
    tenant: str | None
    contract_file: str | None = None
    """A file that must be there; None: `contract-prices.yaml` below the home, where there is one."""
    workspace_file: str | None = None
    bills_file: str | None = None
    """A file that must be there; None: `bills.yaml` below the home, where there is one."""
    form_folders: tuple[str, ...] = ()
    """Beside those of `lake/readable.py`."""

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings; a relative home is below the current folder.

        Raises:
            SettingsError: `MLREG_ENV` is none of dev, staging, production, or the home is no place to write to.
        """
        given = os.environ.get("MLREG_ENV", "dev").strip().lower() or "dev"
        try:
            environment = Environment(given)
        except ValueError:
            raise SettingsError(
                f"MLREG_ENV is {given!r}; it must be one of {', '.join(e.value for e in Environment)}"
            ) from None
        home = os.environ.get("MLREG_HOME", "").strip() or ".mlreg"
        if not home.startswith("s3://"):
            if "://" in home:
                raise SettingsError(f"MLREG_HOME is {home!r}; it must be a folder or s3://bucket/prefix")
            home = str(Path(home).expanduser().absolute())
        return cls(
            home=home.rstrip("/"),
            environment=environment,
            sources_file=os.environ.get("MLREG_SOURCES", "").strip() or None,
            tenant=os.environ.get("MLREG_TENANT", "").strip() or None,
            contract_file=os.environ.get("MLREG_CONTRACT_PRICES", "").strip() or None,
            bills_file=os.environ.get("MLREG_BILLS", "").strip() or None,
            workspace_file=os.environ.get("MLREG_WORKSPACE", "").strip() or None,
            form_folders=_form_folders(environment),
        )

    def below(self, *parts: str) -> str:
        """An address below the home."""
        return "/".join([self.home, *parts])


def _form_folders(environment: Environment) -> tuple[str, ...]:
    """Those of the setting; without it, in dev, the folder in which the platform was started.

    Not a person's whole home nor the whole machine, which hold keys and passwords.
    """
    given = os.environ.get(SETTING)
    if given is not None:
        each = (one.strip() for one in given.split(","))
        return tuple(e if e.startswith("s3://") else _absolute(e) for e in each if e)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # Somebody has removed it.
        return ()
    if environment is Environment.DEV and here not in {Path.home(), *Path.home().parents, Path("/")}:
        return (str(here),)
    return ()


def _absolute(folder: str) -> str:
    return str(Path(folder).expanduser().absolute())
