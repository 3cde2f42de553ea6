"""Asset keys of entries: any name gives one part of a path, and no two give the same."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_registry_pipelines.lineage.keys import LONGEST, deployment_key, key_of, name_of, slug, version_key

NAMES = st.one_of(
    st.text(min_size=1, max_size=500),
    st.text("_x2F0.A-/ é", min_size=1, max_size=60),
    st.text("_x_5F20", min_size=1, max_size=20),
)


@given(NAMES)
@example("_x20_")
@example("_x2 ")
@example("_x:")
@example("..")
@example("a" * 500)
def test_a_part_is_short_plain_and_gives_the_name_back(name):
    part = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", part)
    assert len(part) <= LONGEST
    assert part.strip(".")
    assert name_of(part) in {name, None}
    if len(name) < 10:
        assert name_of(part) == name


@given(NAMES, NAMES)
def test_different_names_have_different_parts(one, two):
    assert (slug(one) == slug(two)) == (one == two)


@given(NAMES)
def test_a_part_survives_an_address_that_is_decoded_twice(name):
    assert unquote(unquote(quote(slug(name), safe=""))) == slug(name)


@pytest.mark.parametrize("name", ["fraud", "fraud_xgboost", "gpt-4.1-mini", "credit_2026.01"])
def test_a_plain_name_stays_as_it_is(name):
    assert slug(name) == name


def test_keys_say_what_they_are_keys_of():
    assert version_key("default", "a/b", 3) == ("models", "default", "a_x2F_b", "v3")
    assert deployment_key("acme", "eu west", "api") == ("deployments", "acme", "eu_x20_west", "api")
    with pytest.raises(ValueError, match="no asset key"):
        key_of("model_version", "default", "fraud")
