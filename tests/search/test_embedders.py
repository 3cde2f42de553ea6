"""Embedders: the one that needs no network, and those of others behind the same seam."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.search.embedding import words
from ml_registry_pipelines.search.embedding.embedder import EmbedderUnusable, make_embedder, of_unit_length

TEXTS = ["finds fraud in card payments", "Fraud in card payments is found", "rain and wind in the mountains"]


@pytest.fixture(scope="module")
def ours():
    return make_embedder("wordllama")


@pytest.fixture
def tiny() -> Iterator[str]:
    """An embedding function of LanceDB's registry, with 768 numbers."""
    from lancedb.embeddings import TextEmbeddingFunction, get_registry

    @get_registry().register("tiny-for-tests")
    class Tiny(TextEmbeddingFunction):
        shift: int = 0
        size: int = 768

        def ndims(self) -> int:
            return 768

        def generate_embeddings(self, texts):
            found = np.zeros((len(texts), self.size))
            for row, text in enumerate(texts):
                for word in text.lower().split():
                    found[row, (sum(word.encode()) + self.shift) % 768] += 1.0
            return list(found)

    yield "lancedb:tiny-for-tests"
    del get_registry()._functions["tiny-for-tests"]


def test_the_default_embedder_loads_without_network_and_without_a_home(monkeypatch, tmp_path):
    def refuse(*_args, **_more):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    words.shipped.cache_clear()
    found = make_embedder("wordllama").embed(TEXTS)
    assert found.shape == (3, 256)
    assert list(tmp_path.iterdir()) == []
    assert "wordllama" not in sys.modules


def test_what_means_the_same_lies_near_and_what_does_not_lies_far(ours):
    one, same, other = ours.embed(TEXTS)
    assert one @ same > 0.8
    assert abs(one @ other) < 0.3


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=60).filter(lambda t: t.split()),
        max_size=5,
    )
)
def test_a_vector_is_the_mean_of_the_vectors_of_the_texts_tokens(texts):
    ours = make_embedder("wordllama")
    folder = Path(importlib.util.find_spec("wordllama").submodule_search_locations[0])
    weights, tokenizer = _shipped(folder)
    found = ours.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        told = " ".join(word[: words.WORD_LENGTH] for word in text.lower().split())
        mean = weights[tokenizer.encode(told, add_special_tokens=False).ids].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-5)


def _shipped(folder: Path, known: dict = {}):  # noqa: B006 - read once
    if not known:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        with safe_open(str(folder / words.WEIGHTS), framework="np") as held:
            known["weights"] = held.get_tensor("embedding.weight").astype(np.float32)
        known["tokenizer"] = Tokenizer.from_file(str(folder / words.TOKENS))
    return known["weights"], known["tokenizer"]


def test_words_that_were_forgotten_have_the_vectors_that_they_had(monkeypatch):
    weights, tokenizer = _shipped(Path(importlib.util.find_spec("wordllama").submodule_search_locations[0]))
    embedder = words.WordEmbedder(weights, tokenizer, "x")
    before = embedder.embed(TEXTS)
    monkeypatch.setattr(words, "KEPT", 3)
    embedder.embed(["a b c d e f g", "h i j k"])
    np.testing.assert_array_equal(embedder.embed(TEXTS), before)


def test_no_text_gives_no_vector_and_one_without_words_is_like_nothing(ours):
    assert ours.embed([]).shape == (0, 256)
    assert not ours.embed_query("  \n ").any()


def test_an_embedding_function_of_lancedb_embeds_with_768_numbers(tiny):
    embedder = make_embedder(f"{tiny}?shift=3")
    assert (embedder.dimension, embedder.spec) == (768, "lancedb:tiny-for-tests?shift=3")
    one, same, other = embedder.embed(["card fraud", "fraud card", "rain"])
    assert one @ same == pytest.approx(1.0)
    assert one @ other == pytest.approx(0.0)
    np.testing.assert_allclose(embedder.embed_query("card fraud"), one)
    assert embedder.fingerprint != make_embedder(tiny).fingerprint


def test_what_gives_vectors_of_another_length_than_it_says_is_refused(tiny):
    with pytest.raises(
        EmbedderUnusable, match=r"shape \(1, 5\) for 1 texts and says that its vectors have 768"
    ):
        make_embedder(f"{tiny}?size=5").embed(["a"])


def test_an_embedding_function_that_lancedb_does_not_have_is_named_with_those_it_has():
    with pytest.raises(EmbedderUnusable, match="no embedding function 'nope'; it has .*openai"):
        make_embedder("lancedb:nope")


def test_a_package_that_is_missing_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EmbedderUnusable, match="`pip install sentence-transformers`"):
        make_embedder("sentence-transformers:all-mpnet-base-v2")


def test_a_model_of_sentence_transformers_is_asked_for_documents_and_questions(monkeypatch):
    class Model:
        def __init__(self, name: str) -> None:
            assert name == "all-mpnet-base-v2"

        def get_sentence_embedding_dimension(self) -> int:
            return 768

        def encode(self, texts, *, show_progress_bar):
            return np.array([[float(len(text))] * 768 for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    embedder = make_embedder("sentence-transformers:all-mpnet-base-v2")
    assert embedder.embed(["a", "bb"]).shape == (2, 768)
    assert np.linalg.norm(embedder.embed_query("a")) == pytest.approx(1.0)


@pytest.mark.parametrize("spec", ["", "gpt", "wordllama:big", "lancedb:", "sentence-transformers"])
def test_a_setting_that_is_no_embedder_says_which_there_are(spec):
    with pytest.raises(InvalidInput, match="is no embedder; MLREG_EMBEDDER is one of wordllama, "):
        make_embedder(spec)


@pytest.mark.parametrize("wrong", [[[1.0, float("nan")]], [[1.0], [2.0]], "text", [["a"]]])
def test_what_is_no_list_of_finite_vectors_is_refused(wrong):
    with pytest.raises(EmbedderUnusable, match="embedder x gave"):
        of_unit_length(wrong, count=1, spec="x")
