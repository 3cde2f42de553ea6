"""The default embedder: the mean of static token vectors, from the weights that package wordllama ships.

Its tokens never reach over a blank, so a text's vector is the sum of its words' vectors, and a word is
taken apart once. Package wordllama itself is not imported: it configures logging of the whole process and
loads clustering code; its two files of weights and tokens are all that is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable, of_unit_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

PACKAGE = "wordllama"
WEIGHTS, TOKENS = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
WORDS = 512
"""Words of a text that count: what is said first says what it is about."""
WORD_LENGTH = 64
"""Characters of a word that count: longer ones are data."""
KEPT = 60_000
"""Words whose vectors are kept, 60 MB; then all are forgotten, and learnt anew."""
AT_ONCE = 1024
"""Texts in one go."""


class WordEmbedder:
    """Mean of token vectors; 256 numbers. Thread-safe."""

    spec = "wordllama"

    def __init__(self, weights: Any, tokenizer: Any, fingerprint: str) -> None:
        import numpy as np

        self._weights = weights.astype(np.float32)
        self._tokenizer = tokenizer
        self.dimension = int(weights.shape[1])
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._forget()

    def embed(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        found = [self._some(texts[n : n + AT_ONCE]) for n in range(0, len(texts), AT_ONCE)]
        if not found:
            return np.zeros((0, self.dimension), np.float32)
        return of_unit_length(np.concatenate(found), count=len(texts), spec=self.spec)

    def embed_query(self, text: str) -> Vectors:
        row: Vectors = self.embed([text])[0]
        return row

    def _some(self, texts: Sequence[str]) -> Vectors:
        """The sums over the words of each text; their direction is that of the mean."""
        import numpy as np
        from scipy.sparse import csr_array

        words = [[word[:WORD_LENGTH] for word in text.lower().split()[:WORDS]] for text in texts]
        with self._lock:
            if len(self._places) > KEPT:
                self._forget()
            self._learn({word for some in words for word in some if word not in self._places})
            places = [self._places[word] for some in words for word in some]
            ends = np.cumsum([0, *map(len, words)])
            counts = csr_array(
                (np.ones(len(places), np.float32), np.array(places, np.int32), ends),
                shape=(len(texts), self._used),
            )
            return np.asarray(counts @ self._sums[: self._used], dtype=np.float32)

    def _forget(self) -> None:
        import numpy as np

        self._places: dict[str, int] = {}
        self._used = 0
        self._sums = np.zeros((1024, self.dimension), np.float32)

    def _learn(self, words: Iterable[str]) -> None:
        """Add the sum of its tokens' vectors for each new word."""
        import numpy as np

        new = sorted(words)
        if not new:
            return
        tokens = [taken.ids or [0] for taken in self._tokenizer.encode_batch(new, add_special_tokens=False)]
        starts = np.cumsum([0, *map(len, tokens[:-1])])
        sums = np.add.reduceat(self._weights[np.concatenate([np.array(t) for t in tokens])], starts, axis=0)
        while self._used + len(new) > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._sums[self._used : self._used + len(new)] = sums
        self._places.update((word, self._used + n) for n, word in enumerate(new))
        self._used += len(new)


@cache
def shipped() -> WordEmbedder:
    """The embedder with the weights of the installed package, loaded once per process.

    Raises:
        EmbedderUnusable: they are not there.
    """
    from safetensors import safe_open
    from tokenizers import Tokenizer

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise EmbedderUnusable(f"package {PACKAGE} is not installed; install the project's requirements")
    folder = Path(found.submodule_search_locations[0])
    digest = hashlib.sha256(f"words 1 {WORDS} {WORD_LENGTH}".encode())
    try:
        for name in (WEIGHTS, TOKENS):
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        with safe_open(str(folder / WEIGHTS), framework="np") as held:
            weights = held.get_tensor("embedding.weight")
        tokenizer = Tokenizer.from_file(str(folder / TOKENS))
    except Exception as failure:
        raise EmbedderUnusable(
            f"the weights that package {PACKAGE} ships cannot be read ({failure}); install it again"
        ) from failure
    return WordEmbedder(weights, tokenizer, digest.hexdigest()[:32])
