"""The one secret of an installation, in a file that its account alone may read; every use has a key of its own.

It makes sure that only our own processes stamp runs, seal sessions and speak as the platform.
Who can read the file, can be anybody: it lies in Dagster's home, never below the lake.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from hashlib import sha256
from pathlib import Path

from ml_registry_pipelines.errors import MlregError

FILE = "mlreg-secret"
FILE_VARIABLE = "MLREG_SECRET_FILE"
"""Names the file where Dagster's processes run on several machines and share it."""


class SecretError(MlregError):
    """The installation's secret cannot be used."""


def secret_file(dagster_home: str | Path | None = None) -> Path | None:
    """Where the secret is; None where there is no Dagster home, and nobody to stamp for."""
    if given := os.environ.get(FILE_VARIABLE, "").strip():
        return Path(given)
    home = str(dagster_home or os.environ.get("DAGSTER_HOME", "").strip())
    return Path(home) / FILE if home else None


def make_secret(dagster_home: Path) -> Path:
    """Make the secret where there is none yet; of two processes, the first one's holds."""
    path = secret_file(dagster_home)
    assert path is not None
    if path.exists():
        return path
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    except OSError as failure:
        raise SecretError(f"the secret {path} cannot be written: {failure.strerror}") from failure
    return path


def key_for(use: str, dagster_home: str | Path | None = None) -> bytes | None:
    """The key for one use; None where no secret was made.

    Raises:
        SecretError: others may read the file, or it is no secret.
    """
    path = secret_file(dagster_home)
    if path is None or not path.exists():
        return None
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise SecretError(f"the secret {path} cannot be read: {failure}") from failure
    if stat.S_IMODE(mode) & 0o077:
        raise SecretError(f"others may read the secret {path}; make it private: chmod 600 {path}")
    if len(text) < 32:
        raise SecretError(f"the file {path} holds no secret; remove it, and the next start makes one")
    return hmac.digest(text.encode(), use.encode(), "sha256")


def sealed(key: bytes, body: str) -> str:
    """The body with its seal, URL-safe."""
    from base64 import urlsafe_b64encode

    text = urlsafe_b64encode(body.encode()).decode().rstrip("=")
    return f"{text}.{hmac.new(key, text.encode(), sha256).hexdigest()}"


def opened(key: bytes, text: str) -> str | None:
    """The body under a seal; None where the seal is not ours."""
    from base64 import urlsafe_b64decode
    from binascii import Error

    body, _, seal = text.partition(".")
    if not hmac.compare_digest(hmac.new(key, body.encode(), sha256).hexdigest().encode(), seal.encode()):
        return None
    try:
        return urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()
    except (Error, UnicodeDecodeError):
        return None
