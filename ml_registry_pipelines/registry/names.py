"""What may be recorded under a name: checks of names, tags, owners, aliases and keys.

Names may be any text that a person can read. What is refused is refused here, with the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from ml_registry_pipelines.registry.canonical import SAFE_INTEGER
from ml_registry_pipelines.registry.errors import InvalidInput, shown

MAX_NAME = 500
MAX_TEXT = 100_000
MAX_TAGS = 200
MAX_TAG = 5_000
TagValue = str | int | float | bool | date
"""A tag is text, a number, a boolean or a date."""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PSEUDONYM = re.compile(r"[^\s@\x00-\x1f]{1,200}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NUMBERED = re.compile(r"v?\d+")
_JOINERS = frozenset("\u200c\u200d")
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u034f\u180e")
"""Letters and marks that Unicode lists as such and that nobody sees."""
_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that are seen: signs of numbers and verses."""
RESERVED_ALIASES = frozenset({"latest", "registered", "staging", "shadow", "production", "archived"})
RESERVED_KINDS = frozenset(
    {
        "bulk",
        "gate_refusal",
        "governance_note",
        "relationship",
        "model_version",
        "approval",
        "attribution_rule",
        "experiment",
        "budget",
        "alert_acknowledgement",
        "tenant_settings",
        "report_subscription",
        "allocation_rule",
        "tenant_statement",
        "erasure_request",
        "personal_field",
        "subject_export",
        "ai_act_classification",
        "dossier_field",
        "evaluation_declaration",
        "access_user",
        "access_key",
        "compliance_evidence",
    }
)


def checked_name(name: str, what: str = "name") -> str:
    """The name in Unicode's composed form.

    Raises:
        InvalidInput: it is empty, too long, or has characters that nobody can see.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"a {what} is text, not a {type(name).__name__}")
    if len(name) > MAX_NAME:
        raise InvalidInput(
            f"the {what} {shown(name, 60)} is too long; a {what} has at most {MAX_NAME} characters"
        )
    name = unicodedata.normalize("NFC", name)
    if not name or name != name.strip():
        raise InvalidInput(f"the {what} {shown(name)} is empty, or has spaces at an end")
    for at, character in enumerate(name):
        if unicodedata.category(character) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} or _hidden(name, at):
            raise InvalidInput(f"the {what} {shown(name)} holds {character!a}, which cannot be shown")
    return name


def _hidden(name: str, at: int) -> bool:
    """Whether a character takes no place, or turns others round, so that two names would look like one.

    Scripts and emoji that join need their joiners, between two characters of their own.
    """
    character = name[at]
    if character in _JOINERS:
        return name[at - 1 : at].isascii() or name[at + 1 : at + 2].isascii()
    return character in _FILLERS or (unicodedata.category(character) == "Cf" and character not in _SIGNS)


def sought(name: str) -> str | None:
    """A name that is looked for, in the form that names are kept in; None for what no name can be."""
    if not isinstance(name, str):
        raise InvalidInput(f"a name or id is text, not a {type(name).__name__}")
    if len(name) > MAX_NAME:
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return unicodedata.normalize("NFC", name)


def checked_tenant(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant):
        raise InvalidInput(
            f"{shown(tenant)} is no tenant: letters, digits and _ . - only, at most 100 of them"
        )
    return tenant


def checked_kind(kind: str) -> str:
    """The name of a kind of thing or relationship."""
    if not _KIND.fullmatch(kind) or kind in RESERVED_KINDS:
        raise InvalidInput(
            f"{shown(kind)} is no kind: lower-case letters, digits and _, and none of "
            f"{', '.join(sorted(RESERVED_KINDS))}"
        )
    return kind


def checked_text(text: str, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"a {what} is text, not a {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise InvalidInput(f"the {what} has {len(text):,} characters; at most {MAX_TEXT:,} are kept")
    return text


def checked_instant(moment: datetime, what: str) -> datetime:
    """A time with a zone, so that it means one instant."""
    if not isinstance(moment, datetime):
        raise InvalidInput(f"the {what} {shown(str(moment))} is a {type(moment).__name__}; give a datetime")
    if moment.tzinfo is None:
        raise InvalidInput(f"the {what} {moment.isoformat()} has no zone; add one, such as +00:00")
    return moment


def checked_share(share: Any) -> float:
    """A part of a whole."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InvalidInput(f"a traffic share is a number between 0 and 1, not {share!r}")
    return share


def checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"an idempotency key is text, not a {type(key).__name__}")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"the idempotency key {shown(key)} holds a lone surrogate") from None
    if not key or len(key) > MAX_NAME:
        raise InvalidInput(f"an idempotency key has 1 to {MAX_NAME} characters")
    return key


def checked_pseudonym(given: str, what: str) -> str:
    """The id of a person or team, which must not be a name or an address that points at a person."""
    if not isinstance(given, str):
        raise InvalidInput(f"{given!r} cannot be recorded as {what}: it is no text")
    if not _PSEUDONYM.fullmatch(given):
        raise InvalidInput(
            f"{shown(given)} cannot be recorded as {what}: give a pseudonym or a team such as team:fraud, "
            "without spaces and never an e-mail address, since the log cannot forget"
        )
    return given


def checked_owners(owners: Iterable[str]) -> list[str]:
    """Owners in order, each once."""
    if isinstance(owners, str):
        raise InvalidInput(f"owners are a list of texts, not the text {shown(owners)}")
    return sorted({checked_pseudonym(owner, "owner") for owner in owners})


def checked_alias(alias: str) -> str:
    if not _ALIAS.fullmatch(alias) or alias in RESERVED_ALIASES or _NUMBERED.fullmatch(alias):
        raise InvalidInput(
            f"{shown(alias)} is no alias: letters, digits and _ . - only, no version number, and none of "
            f"{', '.join(sorted(RESERVED_ALIASES))}"
        )
    return alias


def tag_names(names: Iterable[str]) -> list[str]:
    """Names of tags that are to go, each once, in order and in the form that they are kept in."""
    if isinstance(names, str):
        raise InvalidInput(f"tags to remove are a list of names, not the text {shown(names)}")
    return sorted({name for given in names if (name := sought(given)) is not None})


def typed_tags(tags: Mapping[str, TagValue]) -> dict[str, dict[str, Any]]:
    """Tags as they are recorded: the type beside the value."""
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"{len(tags)} tags are too many; at most {MAX_TAGS} are kept")
    return {checked_name(name, "tag"): _typed(name, value) for name, value in tags.items()}


def _typed(name: str, value: TagValue) -> dict[str, Any]:
    match value:
        case bool():
            return {"type": "boolean", "value": value}
        case int() | float():
            # One spelling per number, so that a search for 1 finds 1.0, as far as whole numbers go.
            whole = isinstance(value, float) and value.is_integer() and abs(value) < SAFE_INTEGER
            return {"type": "number", "value": int(value) if whole else value}
        case str():
            if len(value) > MAX_TAG:
                raise InvalidInput(
                    f"tag {shown(name)} has {len(value):,} characters; at most {MAX_TAG:,} are kept"
                )
            return {"type": "text", "value": value}
        case datetime():
            raise InvalidInput(f"tag {shown(name)} is a time; a tag holds a date at most")
        case date():
            return {"type": "date", "value": value.isoformat()}
        case _:
            raise InvalidInput(
                f"tag {shown(name)} is a {type(value).__name__}; a tag is text, number, boolean or date"
            )


def tag_values(tags: Mapping[str, Mapping[str, Any]]) -> dict[str, TagValue]:
    """Recorded tags as Python values."""
    return {
        name: date.fromisoformat(tag["value"]) if tag["type"] == "date" else tag["value"]
        for name, tag in tags.items()
    }
