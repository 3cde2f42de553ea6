"""The default embedder: static vectors of words, from the weights that package wordllama ships, and how rare they are.

A word's vector is that of its tokens, of length one, and beside it a vector of length one that the word's
digest gives: the first says what the word means, the second which word it is, so that `70b` and `8b` differ. A
text is the sum over its words, each weighed by how often the text has it (1 + ln n) and how rare it is in the
catalogue (1 + ln((N + 1) / (n + 1)), Spärck Jones 1972), without which what every card says would outweigh what
one says. Measured in `benchmarks/retrieval.py`.

How rare words are is learnt when a table of vectors is filled, and kept as counts by digest: no word is
written down. Package wordllama itself is not imported: it configures logging of the whole process and loads
clustering code; its two files of weights and tokens are all that is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable, of_unit_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]
    Counts = npt.NDArray[np.uint32]

PACKAGE = "wordllama"
WEIGHTS, TOKENS = "weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json"
FORM = 2
"""Number of the rule by which words become a vector: another one is another embedder."""
WORDS = 512
"""Words of a text that count: what is said first says what it is about."""
WORD_LENGTH = 64
"""Characters of a word that count: longer ones are data."""
KEPT = 60_000
"""Words whose vectors are kept, 60 MB; then all are forgotten, and made again."""
AT_ONCE = 1024
"""Texts in one go."""
BUCKETS = 1 << 18
"""Of the counts: words that fall into one, by digest, are as rare as both together."""
LEAST_TEXTS = 32
"""Texts from which on it is said how rare words are; among fewer all weigh the same."""
_WORD = re.compile(r"\w+(?:\.\w+)*")


class WordEmbedder:
    """Weighed sum of word vectors; 256 numbers. Thread-safe.

    Args:
        weights: a vector per token, of shape (tokens, 256).
        texts, counts: of how many texts each bucket of words is in how many; no texts: all words weigh the same.
    """

    spec = "wordllama"
    learns_from = LEAST_TEXTS

    def __init__(
        self, weights: Vectors, tokenizer: Any, digest: str, texts: int = 0, counts: Counts | None = None
    ) -> None:
        self._weights, self._tokenizer, self._digest = weights, tokenizer, digest
        self._texts, self._counts = texts, counts
        self.dimension = int(weights.shape[1])
        learnt = hashlib.sha256(self.state or b"").hexdigest()
        self.fingerprint = hashlib.sha256(f"{digest} {learnt}".encode()).hexdigest()[:32]
        self._lock = threading.Lock()
        self._forget()

    # -- embedding ------------------------------------------------------------------------------

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
        import numpy as np
        from scipy.sparse import csr_array

        counted = [Counter(words_in(text)) for text in texts]
        with self._lock:
            if len(self._places) > KEPT:
                self._forget()
            self._learn(set(chain.from_iterable(counted)).difference(self._places))
            places = self._places
            indices = np.fromiter((places[word] for some in counted for word in some), np.int32)
            times = np.fromiter((n for some in counted for n in some.values()), np.float32)
            ends = np.cumsum([0, *map(len, counted)])
            often = csr_array((1 + np.log(times), indices, ends), shape=(len(texts), self._used))
            return np.asarray(often @ self._vectors[: self._used], dtype=np.float32)

    def _forget(self) -> None:
        import numpy as np

        self._places: dict[str, int] = {}
        self._used = 0
        self._vectors = np.zeros((1024, self.dimension), np.float32)

    def _learn(self, words: Iterable[str]) -> None:
        """Add the weighed vector of each new word."""
        import numpy as np

        new = sorted(words)
        if not new:
            return
        tokens = [
            taken.ids or [0] for taken in self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        ]
        starts = np.cumsum([0, *map(len, tokens[:-1])])
        flat = np.fromiter(chain.from_iterable(tokens), np.int64)
        meant = np.add.reduceat(self._weights[flat], starts, axis=0)
        meant /= np.maximum(np.linalg.norm(meant, axis=1, keepdims=True), 1e-9)
        digests = [_digest(word) for word in new]
        bits = np.unpackbits(np.frombuffer(b"".join(digests), np.uint8).reshape(len(new), -1), axis=1)
        named = (bits[:, : self.dimension].astype(np.float32) * 2 - 1) / np.float32(self.dimension**0.5)
        while self._used + len(new) > len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        weighed = (meant + named) * self._rarity(digests)[:, None]
        self._vectors[self._used : self._used + len(new)] = weighed
        self._places.update((word, self._used + n) for n, word in enumerate(new))
        self._used += len(new)

    # -- rarity ---------------------------------------------------------------------------------

    def _rarity(self, digests: Sequence[bytes]) -> Vectors:
        import numpy as np

        if self._counts is None:
            return np.ones(len(digests), np.float32)
        known = self._counts[[_bucket(digest) for digest in digests]]
        found: Vectors = (1 + np.log((self._texts + 1) / (known + 1.0))).astype(np.float32)
        return found

    def fitted(self, texts: Iterable[str]) -> WordEmbedder:
        import numpy as np

        counts, seen, number = np.zeros(BUCKETS, np.uint32), dict[str, int](), 0
        for text in texts:
            number += 1
            found = set()
            for word in set(words_in(text)):
                if word not in seen:
                    if len(seen) > KEPT:
                        seen.clear()
                    seen[word] = _bucket(_digest(word))
                found.add(seen[word])
            counts[list(found)] += 1
        if number < LEAST_TEXTS:
            return WordEmbedder(self._weights, self._tokenizer, self._digest)
        return WordEmbedder(self._weights, self._tokenizer, self._digest, number, counts)

    @property
    def state(self) -> bytes | None:
        if self._counts is None:
            return None
        return self._texts.to_bytes(8, "little") + zlib.compress(self._counts.astype("<u4").tobytes(), 6)

    def with_state(self, state: bytes) -> WordEmbedder:
        import numpy as np

        try:
            counts = np.frombuffer(zlib.decompress(state[8:]), "<u4").astype(np.uint32)
        except (zlib.error, ValueError) as failure:
            raise EmbedderUnusable(
                "what the embedder has learnt cannot be read; make the vectors anew"
            ) from failure
        if len(counts) != BUCKETS:
            raise EmbedderUnusable("what the embedder has learnt is of another form; make the vectors anew")
        texts = int.from_bytes(state[:8], "little")
        return WordEmbedder(self._weights, self._tokenizer, self._digest, texts, counts)


def words_in(text: str) -> list[str]:
    """The words of a text that count, lower-case, in their order."""
    return [word[:WORD_LENGTH] for word in _WORD.findall(text.lower())[:WORDS]]


def _digest(word: str) -> bytes:
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _bucket(digest: bytes) -> int:
    return int.from_bytes(digest[:4], "little") % BUCKETS


@cache
def shipped() -> WordEmbedder:
    """The embedder with the weights of the installed package, loaded once per process.

    Raises:
        EmbedderUnusable: they are not there.
    """
    import numpy as np
    from safetensors import safe_open
    from tokenizers import Tokenizer

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise EmbedderUnusable(f"package {PACKAGE} is not installed; install the project's requirements")
    folder = Path(found.submodule_search_locations[0])
    digest = hashlib.sha256(f"words {FORM} {WORDS} {WORD_LENGTH} {LEAST_TEXTS} {BUCKETS}".encode())
    try:
        for name in (WEIGHTS, TOKENS):
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        with safe_open(str(folder / WEIGHTS), framework="np") as held:
            weights = held.get_tensor("embedding.weight").astype(np.float32)
        tokenizer = Tokenizer.from_file(str(folder / TOKENS))
    except Exception as failure:
        raise EmbedderUnusable(
            f"the weights that package {PACKAGE} ships cannot be read ({failure}); install it again"
        ) from failure
    return WordEmbedder(weights, tokenizer, digest.hexdigest()[:32])
