"""The fields that a query may name: a closed table. What is not in it is refused, and never becomes SQL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a query finds."""

    MODEL = "model"
    VERSION = "version"


class Type(Enum):
    """What a field's values are."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    ANY = "text, number, boolean or date"
    WORDS = "full text"


class Of(Enum):
    """What a field says something about."""

    MODEL = "model"
    VERSION = "version"


@dataclass(frozen=True)
class Field:
    """One field, or one family of fields with a key each.

    `many`: an entity may have several values at once. `keyed`: a key follows, such as `tags.team`.
    """

    name: str
    of: Of
    type: Type
    meaning: str
    many: bool = False
    keyed: bool = False
    values: tuple[str, ...] = ()
    """All the values there are; a comparison with another is refused rather than always false."""


STATUSES = ("active", "deprecated")
STAGES = ("registered", "staging", "shadow", "production", "archived")
TIERS = (
    "prohibited",
    "high_risk",
    "undetermined",
    "not_high_risk_derogated",
    "transparency",
    "minimal",
    "out_of_scope",
)

_MODEL = (
    Field("name", Of.MODEL, Type.TEXT, "name of the model"),
    Field("description", Of.MODEL, Type.TEXT, "description of the model"),
    Field("id", Of.MODEL, Type.TEXT, "id of the model"),
    Field("status", Of.MODEL, Type.TEXT, "active or deprecated", values=STATUSES),
    Field("owner", Of.MODEL, Type.TEXT, "one of the owners", many=True),
    Field("alias", Of.MODEL, Type.TEXT, "one of the aliases", many=True),
    Field("tags", Of.MODEL, Type.ANY, "a tag by its name", keyed=True),
    Field("created", Of.MODEL, Type.TIME, "when the model was registered"),
    Field(
        "updated",
        Of.MODEL,
        Type.TIME,
        "when the model itself last changed, such as its tags; not its versions",
    ),
    Field("versions", Of.MODEL, Type.NUMBER, "how many living versions the model has"),
    Field("risk_class", Of.MODEL, Type.TEXT, "class of the AI Act, as it was recorded", values=TIERS),
    Field("environment", Of.MODEL, Type.TEXT, "where a version is deployed now", many=True),
    Field("text", Of.MODEL, Type.WORDS, "words in name, description and card"),
)
_VERSION = (
    Field("version", Of.VERSION, Type.NUMBER, "number of the version"),
    Field("stage", Of.VERSION, Type.TEXT, "stage of the version", values=STAGES),
    Field("framework", Of.VERSION, Type.TEXT, "library that it was made with"),
    Field("licence", Of.VERSION, Type.TEXT, "licence id"),
    Field("size", Of.VERSION, Type.NUMBER, "bytes of its files"),
    Field("digest", Of.VERSION, Type.TEXT, "SHA-256 of its content"),
    Field("form", Of.VERSION, Type.TEXT, "file, folder, uri or hosted"),
    Field("metrics", Of.VERSION, Type.NUMBER, "a metric by its name", keyed=True),
    Field("params", Of.VERSION, Type.ANY, "a parameter by its name", keyed=True),
)
_OF_EACH_VERSION = (
    Field("description", Of.VERSION, Type.TEXT, "description of the version"),
    Field("id", Of.VERSION, Type.TEXT, "id of the version"),
    Field("alias", Of.VERSION, Type.TEXT, "one of the aliases that mean the version", many=True),
    Field("tags", Of.VERSION, Type.ANY, "a tag of the version by its name", keyed=True),
    Field("created", Of.VERSION, Type.TIME, "when the version was recorded"),
    Field("updated", Of.VERSION, Type.TIME, "when the version last changed"),
    Field("environment", Of.VERSION, Type.TEXT, "where the version is deployed now", many=True),
)
"""What versions have as well as models: in `any(…)`, in `latest(…)`, and in a search of versions."""

MEASURES = {
    "cost": "cost of the last days, in the reporting currency of the rollups",
    "requests": "requests of the last days",
    "errors": "failed requests of the last days",
    "error_rate": "share of failed requests of the last days",
    "latency_p50": "median latency of the last days, in ms",
    "latency_p95": "95th percentile of the latency of the last days, in ms",
    "latency_p99": "99th percentile of the latency of the last days, in ms",
}
"""What is measured over the last N days, as `cost_30d`."""
MOST_DAYS = 400
_MEASURED = re.compile(rf"({'|'.join(MEASURES)})_(\d{{1,3}})d")

OF_MODELS: Mapping[str, Field] = {f.name: f for f in (*_VERSION, *_MODEL)}
"""Without a prefix, in a search of models; what a version has is that of the latest one, but for `stage`."""
OF_VERSIONS: Mapping[str, Field] = {f.name: f for f in (*_MODEL, *_VERSION, *_OF_EACH_VERSION)}
"""Without a prefix, in a search of versions, in `any(…)` and in `latest(…)`."""
MODELS_OWN: Mapping[str, Field] = {f.name: f for f in _MODEL}
"""Behind `model.`"""
VERSIONS_OWN: Mapping[str, Field] = {f.name: f for f in (*_VERSION, *_OF_EACH_VERSION)}
"""Behind `any.` and `latest.`"""

ALIASES: Mapping[str, str] = {
    "tag": "tags",
    "metric": "metrics",
    "param": "params",
    "parameter": "params",
    "parameters": "params",
    "owners": "owner",
    "aliases": "alias",
    "license": "licence",
    "risk": "risk_class",
    "environments": "environment",
    "version_number": "version",
    "created_at": "created",
    "creation_timestamp": "created",
    "creation_time": "created",
    "updated_at": "updated",
    "last_updated_timestamp": "updated",
    "last_updated_time": "updated",
    "timestamp": "updated",
    "current_stage": "stage",
}
"""Other spellings, of MLflow among them."""
SCOPES = ("any", "latest", "model")
IGNORED_PREFIXES = ("attributes", "attribute", "attr")
"""MLflow writes these before fields of its own."""


def measured(name: str, of: Of = Of.MODEL) -> Field | None:
    """The field of a measure over the last days, such as `cost_30d`; None where it is none."""
    match = _MEASURED.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= MOST_DAYS:
        return None
    return Field(f"{match[1]}_{int(match[2])}d", of, Type.NUMBER, MEASURES[match[1]])


def measure_of(name: str) -> tuple[str, int]:
    """Measure and days of such a field's name."""
    match = _MEASURED.fullmatch(name)
    assert match is not None
    return match[1], int(match[2])


def nearest(name: str, known: Mapping[str, Field]) -> str:
    """The known names that a wrong one may have meant, as the end of a sentence."""
    spelled = [*known, *ALIASES, *(f"{measure}_30d" for measure in MEASURES)]
    found = difflib.get_close_matches(name[:60].lower(), spelled, n=1, cutoff=0.5)
    if found:
        field = known.get(ALIASES.get(found[0], found[0]))
        meant = found[0] + (".<name>" if field is not None and field.keyed else "")
        return f"; did you mean {meant}?"
    return (
        f"; there are {', '.join(sorted(f'{f.name}.<name>' if f.keyed else f.name for f in known.values()))} "
        f"and {', '.join(f'{measure}_<N>d' for measure in MEASURES)}"
    )
