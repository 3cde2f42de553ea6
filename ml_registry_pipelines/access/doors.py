"""What doors share: the key that a process was given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ml_registry_pipelines.settings import SettingsError

KEY = "MLREG_API_KEY"
KEY_FILE = "MLREG_API_KEY_FILE"


def given_key() -> str | None:
    """The API key of this process, from the environment or from the file that it names.

    Raises:
        SettingsError: the file is not there, or others may read it.
    """
    if key := os.environ.get(KEY, "").strip():
        return key
    given = os.environ.get(KEY_FILE, "").strip()
    if not given:
        return None
    path = Path(given).expanduser()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"others may read the key in {path}; make it private: chmod 600 {path}")
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise SettingsError(f"the file {path} of {KEY_FILE} cannot be read: {failure}") from failure
