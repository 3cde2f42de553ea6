"""What a dossier and its documents are made of: fields, where their content comes from, sections and blocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Status(Enum):
    """Where the content of a field comes from."""

    DERIVED = "derived"
    ATTESTED = "attested"
    MISSING = "missing"


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Grid:
    """A table; its last `numbers` columns are figures."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: int = 0


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


Block = Facts | Grid | Words


@dataclass(frozen=True)
class Source:
    """What content was read from, and which version of it."""

    name: str
    version: str


@dataclass(frozen=True)
class Attestation:
    """What a person has stated: who, when, and about which version or model.

    `authenticated_by`: how the door made sure who it was, as the event says; such as `api_key`.
    """

    field: str
    text: str
    actor: str
    recorded_at: datetime
    sequence: int
    about: str
    authenticated_by: str


@dataclass(frozen=True)
class Derived:
    """Content that the registry knows. `beyond`: what is asked for as well and that no table can say."""

    blocks: tuple[Block, ...]
    sources: tuple[Source, ...]
    beyond: str = ""


@dataclass(frozen=True)
class Asked:
    """One leaf field of Annex IV. `of_model`: what holds for all versions, so that it is attested once."""

    id: str
    title: str
    asks: str
    of_model: bool = False


@dataclass(frozen=True)
class Field:
    """One field as it is filled. Derived content and a statement beside it may both be there."""

    asked: Asked
    derived: Derived | None = None
    attestation: Attestation | None = None
    why_missing: str = ""

    @property
    def status(self) -> Status:
        if self.derived is not None:
            return Status.DERIVED
        return Status.ATTESTED if self.attestation is not None else Status.MISSING


@dataclass(frozen=True)
class Section:
    """A part of a document. `missing`: what has to be supplied, in sentences; then `blocks` may be empty."""

    title: str
    article: str = ""
    blocks: tuple[Block, ...] = ()
    missing: tuple[str, ...] = ()
    status: Status | None = None
    note: str = ""
    sources: tuple[Source, ...] = ()
    attestation: Attestation | None = None


@dataclass(frozen=True)
class Document:
    """A document about a version. `made_of` is what it rests on, as facts on its last lines."""

    kind: str
    title: str
    subtitle: str
    about: str
    sections: tuple[Section, ...]
    headlines: tuple[tuple[str, str, str], ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """All that has to be supplied before it is complete."""
        return tuple(sentence for section in self.sections for sentence in section.missing)
