"""Under which asset key a dataset, model, version or deployment is found: names as parts of a path.

A name may be any text; a part of a key is letters, digits and `_ . - %`, at most `LONGEST` of
them. Names that fit are their own part, the others are percent-encoded, which `name_of` undoes.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote

from ml_registry_pipelines.registry.states import DATASET, DEPLOYMENT, MODEL, MODEL_VERSION

LONGEST = 120
"""Characters of a part: keys stand in addresses and in a column of Dagster's event log."""
_DIGEST = 24
_CUT = re.compile(r"%[0-9A-F]?$")

Key = tuple[str, ...]


def slug(name: str) -> str:
    """The name as one part of an asset key; different names give different parts.

    A name that gets too long is cut and ends in `~` and a part of its SHA-256: `~` occurs in no other.
    """
    # What quote leaves alone is [A-Za-z0-9_.-] and `~`. A part of dots alone would climb in an address.
    part = quote(name, safe="").replace("~", "%7E")
    if not part.strip("."):
        part = part.replace(".", "%2E")
    if len(part) <= LONGEST:
        return part
    kept = _CUT.sub("", part[: LONGEST - _DIGEST - 1])
    return f"{kept}~{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"


def name_of(part: str) -> str | None:
    """The name that `slug` made this part of; None where it was cut."""
    return None if "~" in part else unquote(part)


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
