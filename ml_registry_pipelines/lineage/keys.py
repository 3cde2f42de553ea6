"""Under which asset key a dataset, model, version or deployment is found: names as parts of a path.

A name may be any text; a part of a key is letters, digits and `_ . -`, at most `LONGEST` of
them. Every other character is written `_x2F_`, with its code point. Not `%2F`: Dagster's UI
decodes addresses twice, so the page of an asset with a `%` in its key is not found, and what
depends on such an asset cannot be an op, whose inputs are named after keys.
"""

from __future__ import annotations

import hashlib
import re

from ml_registry_pipelines.registry.states import DATASET, DEPLOYMENT, MODEL, MODEL_VERSION

LONGEST = 120
"""Characters of a part: keys stand in addresses and in a column of Dagster's event log."""
_DIGEST = 24
_CUT_MARK = "_x_"
# An underscore that would look like the begin of an escape or of the mark is escaped itself;
# what comes after `_x` may begin with an underscore once it is escaped.
_ESCAPED = re.compile(r"[^A-Za-z0-9_.-]|_(?=x(?:[0-9A-F_]|[^A-Za-z0-9_.-]))")
_TOKEN = re.compile(r"_x([0-9A-F]*)_|.")

Key = tuple[str, ...]


def slug(name: str) -> str:
    """The name as one part of an asset key; different names give different parts.

    A part that gets too long is cut, and ends in `_x_` and a piece of the name's SHA-256.

    Example:
        >>> slug("credit/2026 é")
        'credit_x2F_2026_x20__xE9_'
    """
    part = _ESCAPED.sub(_escape, name)
    if not part.strip("."):
        # In an address, `..` would climb.
        part = part.replace(".", "_x2E_")
    if len(part) <= LONGEST:
        return part
    kept, room = "", LONGEST - _DIGEST - len(_CUT_MARK)
    for token in _TOKEN.finditer(part):
        if token.end() > room:
            break
        kept = part[: token.end()]
    return f"{kept}{_CUT_MARK}{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"


def name_of(part: str) -> str | None:
    """The name that `slug` made this part of; None where it was cut."""
    tokens = list(_TOKEN.finditer(part))
    if any(token[0] == _CUT_MARK for token in tokens):
        return None
    return "".join(chr(int(token[1], 16)) if token[1] else token[0] for token in tokens)


def _escape(match: re.Match[str]) -> str:
    return f"_x{ord(match[0]):X}_"


def dataset_key(tenant: str, name: str) -> Key:
    """Key of a dataset, whose versions are its materializations."""
    return ("datasets", tenant, slug(name))


def model_key(tenant: str, name: str) -> Key:
    """Key of a model."""
    return ("models", tenant, slug(name))


def version_key(tenant: str, model: str, number: int) -> Key:
    """Key of a model's version."""
    return (*model_key(tenant, model), f"v{number}")


def deployment_key(tenant: str, environment: str, name: str) -> Key:
    """Key of a deployment."""
    return ("deployments", tenant, slug(environment), slug(name))


def key_of(kind: str, tenant: str, name: str, *, number: int | None = None, place: str = "") -> Key:
    """Key of an entry of the catalogue."""
    match kind, number:
        case "dataset", _:
            return dataset_key(tenant, name)
        case "model", _:
            return model_key(tenant, name)
        case "model_version", int():
            return version_key(tenant, name, number)
        case "deployment", _:
            return deployment_key(tenant, place, name)
        case _:
            raise ValueError(
                f"a {kind} has no asset key; {DATASET}, {MODEL}, {MODEL_VERSION}, {DEPLOYMENT} have"
            )
