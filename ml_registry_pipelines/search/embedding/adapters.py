"""Embedders of others: sentence-transformers, and whatever LanceDB's registry of embedding functions has.

Neither is a dependency of ours. What they need (models, keys, a network) is theirs to say; where a package
is missing, the error names it. Their fingerprint is of name and parameters; that what is behind the name has
changed, shows in the vector of a probe that is kept beside a table (see `vectors/place.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from ml_registry_pipelines.lake.lean import with_pandas
from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable, of_unit_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

AT_ONCE = 256
"""Texts that are handed over in one call."""


class _Foreign:
    """What the adapters share."""

    spec: str
    dimension: int
    fingerprint: str
    learns_from = None

    def __init__(self, spec: str, dimension: int) -> None:
        self.spec, self.dimension = spec, dimension
        self.fingerprint = hashlib.sha256(f"{spec} {dimension}".encode()).hexdigest()[:32]

    @property
    def state(self) -> None:
        return None

    def fitted(self, texts: Iterable[str]) -> Self:  # noqa: ARG002 - they learn nothing from a catalogue
        return self

    def with_state(self, state: bytes) -> Self:  # noqa: ARG002
        return self

    def _checked(self, call: Callable[[list[str]], Any], texts: Sequence[str]) -> Vectors:
        import numpy as np

        found = [np.zeros((0, self.dimension), np.float32)]
        for first in range(0, len(texts), AT_ONCE):
            some = list(texts[first : first + AT_ONCE])
            with _errors(self.spec, "failed"):
                given = call(some)
            found.append(of_unit_length(given, count=len(some), spec=self.spec, dimension=self.dimension))
        return np.concatenate(found)


class SentenceTransformersEmbedder(_Foreign):
    """A model of sentence-transformers by its name or folder."""

    def __init__(self, model: str) -> None:
        spec = f"sentence-transformers:{model}"
        with_pandas()
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as failure:
            raise EmbedderUnusable(
                f"embedder {spec} wants package sentence-transformers, which is not installed: "
                "`pip install sentence-transformers`"
            ) from failure
        with _errors(spec, "cannot be loaded"):
            self._model = SentenceTransformer(model)
            dimension = int(self._model.get_sentence_embedding_dimension())
        super().__init__(spec, dimension)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._checked(lambda some: self._model.encode(some, show_progress_bar=False), texts)

    def embed_query(self, text: str) -> Vectors:
        row: Vectors = self.embed([text])[0]
        return row


class LanceRegistryEmbedder(_Foreign):
    """An embedding function of LanceDB's registry, by its alias and parameters."""

    def __init__(self, name: str, parameters: Mapping[str, str] | None = None) -> None:
        with_pandas()
        from lancedb.embeddings import get_registry

        given = dict(sorted((parameters or {}).items()))
        written = "&".join(f"{key}={value}" for key, value in given.items())
        spec = f"lancedb:{name}?{written}" if written else f"lancedb:{name}"
        try:
            make: Callable[..., Any] = get_registry().get(name).create
        except KeyError:
            raise EmbedderUnusable(
                f"LanceDB's registry has no embedding function {name!r}; it has "
                f"{', '.join(sorted(get_registry()._functions))}"
            ) from None
        with _errors(spec, "cannot be loaded"):
            self._function: Any = make(**{key: _read(value) for key, value in given.items()})
            dimension = int(self._function.ndims())
        super().__init__(spec, dimension)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._checked(self._function.compute_source_embeddings, texts)

    def embed_query(self, text: str) -> Vectors:
        row: Vectors = self._checked(lambda some: self._function.compute_query_embeddings(some[0]), [text])[0]
        return row


def _read(value: str) -> Any:
    """A parameter of the setting: JSON where it is some, such as a number, else the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


@contextmanager
def _errors(spec: str, verb: str) -> Iterator[None]:
    """Whatever code of others raises, as one sentence: there is no one class of such errors."""
    try:
        yield
    except ImportError as failure:
        missing = failure.name or str(failure)
        raise EmbedderUnusable(
            f"embedder {spec} wants package {missing}, which is not installed: `pip install {missing}`"
        ) from failure
    except Exception as failure:
        raise EmbedderUnusable(f"embedder {spec} {verb}: {type(failure).__name__}: {failure}") from failure
