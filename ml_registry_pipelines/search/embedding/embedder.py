"""The embedder: what makes a vector of a text. Which one, is a setting; vectors of two are never compared.

`MLREG_EMBEDDER` names it: `wordllama` (the default: its weights come with the package, and no network is
touched), `sentence-transformers:<model>`, or `lancedb:<name>?parameter=value` from LanceDB's own registry
of embedding functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

from ml_registry_pipelines.registry.errors import InvalidInput, RegistryError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

SETTING = "MLREG_EMBEDDER"
DEFAULT = "wordllama"
KINDS = ("wordllama", "sentence-transformers:MODEL", "lancedb:NAME?parameter=value")


class EmbedderUnusable(RegistryError):
    """The embedder cannot be loaded, or gave what is no vector; the text says what to do."""


class Embedder(Protocol):
    """Texts to vectors."""

    @property
    def spec(self) -> str:
        """The setting that names it."""

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: of what else it would be another embedder."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row of unit length per text: shape (texts, dimension)."""

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question: shape (dimension,). Some embedders put questions elsewhere than documents."""

    @property
    def learns_from(self) -> int | None:
        """Texts from which on `fitted` learns something; None: it never does."""

    def fitted(self, texts: Iterable[str]) -> Embedder:
        """The embedder as it is best for a catalogue of these texts; itself, where it learns nothing from them."""

    @property
    def state(self) -> bytes | None:
        """What it has learnt, for `with_state`; holds no words. None: nothing."""

    def with_state(self, state: bytes) -> Embedder:
        """The embedder that has learnt this before.

        Raises:
            EmbedderUnusable: that is no such state.
        """


def configured() -> str:
    """The setting, or the default."""
    return os.environ.get(SETTING, "").strip() or DEFAULT


def make_embedder(spec: str | None = None) -> Embedder:
    """The embedder that a setting names; without one, the configured one.

    Raises:
        InvalidInput: no embedder is written like that.
        EmbedderUnusable: it cannot be loaded here.
    """
    spec = configured() if spec is None else spec
    kind, _, rest = spec.partition(":")
    match kind:
        case "wordllama" if not rest:
            from ml_registry_pipelines.search.embedding.words import shipped

            return shipped()
        case "sentence-transformers" if rest:
            from ml_registry_pipelines.search.embedding.adapters import SentenceTransformersEmbedder

            return SentenceTransformersEmbedder(rest)
        case "lancedb" if rest:
            from ml_registry_pipelines.search.embedding.adapters import LanceRegistryEmbedder

            name, _, parameters = rest.partition("?")
            return LanceRegistryEmbedder(name, dict(parse_qsl(parameters, keep_blank_values=True)))
    raise InvalidInput(str(refused(spec)))


def refused(spec: str) -> str | None:
    """Why a setting names no embedder; None where it is written like one, whether or not that can be loaded."""
    kind, _, rest = spec.partition(":")
    if spec == "wordllama" or (rest and kind in {"sentence-transformers", "lancedb"}):
        return None
    return f"{spec!r} is no embedder; {SETTING} is one of {', '.join(KINDS)}"


def of_unit_length(vectors: object, *, count: int, spec: str, dimension: int | None = None) -> Vectors:
    """What an embedder gave, checked: shape (count, dimension), finite, and scaled to length one.

    A text of which nothing is known has a vector of zeros, which is like no other.

    Raises:
        EmbedderUnusable: it is no such array.
    """
    import numpy as np

    try:
        given = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as failure:
        raise EmbedderUnusable(
            f"embedder {spec} gave something that is no list of vectors: {failure}"
        ) from failure
    if given.ndim != 2 or given.shape[0] != count or dimension not in (None, given.shape[1]):
        raise EmbedderUnusable(
            f"embedder {spec} gave an array of shape {given.shape} for {count} texts"
            + (f" and says that its vectors have {dimension} numbers" if dimension else "")
        )
    if not np.isfinite(given).all():
        raise EmbedderUnusable(f"embedder {spec} gave a vector with a number that is not finite")
    lengths = np.linalg.norm(given, axis=1, keepdims=True)
    return (given / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
