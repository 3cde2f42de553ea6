"""Embedders: the one that needs no network, and those of others behind the same seam."""

from __future__ import annotations

import socket
import sys
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
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
                for word in text.lower().split() if self.size == 768 else ():
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
    assert one @ same > 0.7
    assert abs(one @ other) < 0.3
    # Not a word is shared, and yet:
    question, fraud, weather = ours.embed(["stolen credit cards", "payment fraud", "snow and hail"])
    assert question @ fraud > question @ weather + 0.1


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=5))
def test_a_vector_is_the_same_alone_or_among_others_and_minds_no_case_order_or_separators(ours, texts):
    found = ours.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(ours.embed_query(text), vector, atol=1e-5)
        again = " - ".join(reversed(words.words_in(text)))
        np.testing.assert_allclose(ours.embed_query(again), vector, atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1.0 if words.words_in(text) else 0.0, abs=1e-5)


def test_what_every_text_of_a_catalogue_says_weighs_less_once_that_is_learnt(ours):
    texts = [f"a model hosted by us, list price in dollars, number {n}" for n in range(60)]
    fitted = ours.fitted(texts)
    pair = [
        "a model hosted by us, list price in dollars, llama 70b",
        "a model hosted by us, list price in dollars, rain",
    ]
    (plain, other), (learnt, others) = ours.embed(pair), fitted.embed(pair)
    assert plain @ other > 0.7 > learnt @ others + 0.1
    assert fitted.fingerprint != ours.fingerprint
    same = ours.with_state(fitted.state)
    assert same.fingerprint == fitted.fingerprint
    np.testing.assert_array_equal(same.embed(pair), fitted.embed(pair))
    assert b"dollars" not in fitted.state


def test_of_a_few_texts_nothing_is_learnt(ours):
    assert ours.fitted(["a", "b"]).fingerprint == ours.fingerprint
    assert ours.fitted([]).state is None


@pytest.mark.parametrize("state", [b"", b"12345678nonsense", bytes(8) + zlib.compress(b"1234")])
def test_what_is_no_learnt_state_is_refused(ours, state):
    with pytest.raises(EmbedderUnusable, match="make the vectors anew"):
        ours.with_state(state)


def test_words_that_were_forgotten_have_the_vectors_that_they_had(ours, monkeypatch):
    before = ours.embed(TEXTS)
    monkeypatch.setattr(words, "KEPT", 3)
    ours.embed(["a b c d e f g", "h i j k"])
    np.testing.assert_array_equal(ours.embed(TEXTS), before)


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
    with pytest.raises(EmbedderUnusable, match=r"no embedding function 'nope'; it has .*openai"):
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
