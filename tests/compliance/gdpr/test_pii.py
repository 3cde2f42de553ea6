"""What has a form is found, harmless text is left alone, and the network is not asked.

The texts are made up from formats, so these shares say how well formats are known, and not how much of
what people type is found. Names and postal addresses are not looked for at all.
"""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from ml_registry_pipelines.compliance.gdpr import pii
from tests.compliance.gdpr.made_identifiers import harmless, labelled

pytestmark = pytest.mark.xdist_group("presidio")  # see test_metrics.py

GOALS = {
    pii.EMAIL: 1.0,
    pii.IBAN: 1.0,
    pii.SSN: 1.0,
    pii.IP: 1.0,
    pii.URL: 1.0,
    pii.CARD: 0.95,
    pii.PHONE: 0.85,
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_identifiers_with_a_form_are_found_as_often_as_promised() -> None:
    found: Counter[str] = Counter()
    made = labelled(40, seed=7)
    for kind, text, start, end in made:
        overlap = (min(end, hit.end) - max(start, hit.start) for hit in pii.find(text) if hit.kind == kind)
        found[kind] += max(overlap, default=0) >= 0.8 * (end - start)
    assert all(found[kind] / 40 >= goal for kind, goal in GOALS.items())


def test_harmless_text_is_left_alone_in_more_than_99_of_100_cases() -> None:
    texts = harmless(600, seed=8)
    assert sum(bool(pii.find(text)) for text in texts) / len(texts) < 0.01


def test_names_and_addresses_are_not_found_and_that_is_said() -> None:
    assert pii.find("Jane Doe, 12 Elm Street, Springfield, works for Acme") == []
    assert "Names" in str(pii.__doc__)


def test_a_number_that_is_no_card_by_its_check_digit_is_none() -> None:
    assert pii.holds_any("4111 1111 1111 1111") == pii.CARD
    assert pii.holds_any("4111111111111112") is None


def test_only_the_kinds_that_are_asked_for_are_looked_for() -> None:
    text = "see https://example.org or a@example.org from 10.0.0.1"
    assert {hit.kind for hit in pii.find(text, kinds=[pii.IP])} == {pii.IP}
    assert {hit.kind for hit in pii.find(text)} == {pii.URL, pii.EMAIL, pii.IP}


def test_the_digits_of_a_measured_value_are_no_card() -> None:
    assert pii.find("4111111111111111")
    assert not pii.find('{"auc":0.4111111111111111}')
