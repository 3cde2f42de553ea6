"""Whatever people do in whatever order, nothing is in production without the approvals that the policy demands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.actors import Actor
from tests.compliance.office import POLICY, Office
from tests.examples import examples

PEOPLE = ("author", "requester", "reviewer", "second", "officer", "nobody")
STEP = st.one_of(
    st.tuples(st.just("request"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("approve"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("approve"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("approve"), st.sampled_from(("reviewer", "officer"))),
    st.tuples(st.just("reject"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("withdraw"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("measure"), st.sampled_from(("pass", "fail", "edited"))),
    st.tuples(st.just("roles"), st.sampled_from(("reviewer", "second", "officer"))),
    st.tuples(st.just("policy"), st.sampled_from(("other", "same"))),
    st.tuples(st.just("later"), st.just("")),
    st.tuples(st.just("promote"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("promote"), st.sampled_from(PEOPLE)),
)


class World:
    """What really happened, kept beside the registry in the plainest way."""

    def __init__(self, office: Office, number: int) -> None:
        self.office = office
        self.version = office.version(f"model-{number}")
        self.asked: dict[str, tuple[str, object]] = {}
        self.approval: str | None = None
        self.approvers: set[str] = set()
        self.world: tuple[object, ...] = ("pass", "same", 0)
        self.bound: tuple[object, ...] | None = None
        self.lost: set[str] = set()
        self.ended = False

    def actor(self, who: str) -> Actor:
        return Actor("nobody") if who == "nobody" else getattr(self.office, who)

    def do(self, what: str, who: str) -> None:
        office, approvals = self.office, self.office.approvals
        if what == "request":
            made = approvals(self.actor(who)).request(self.version.id)
            self.asked["now"] = (who, made.bound.digest)
            self.approval, self.approvers, self.bound, self.ended = made.id, set(), self.world, False
        elif what in {"approve", "reject"} and self.approval:
            digest = str(self.asked["now"][1])
            approvals(self.actor(who)).review(self.approval, what, digest=digest, comment="because")
            if what == "approve":
                self.approvers.add(who)
            else:
                self.ended = True
        elif what == "withdraw" and self.approval:
            approvals(self.actor(who)).withdraw(self.approval)
            self.ended = True
        elif what == "measure":
            office.measure(
                self.version,
                Verdict.FAIL if who == "fail" else Verdict.PASS,
                high=0.2 if who == "edited" else 0.1,
            )
            self.world = (who, *self.world[1:])
        elif what == "roles":
            roles = {"reviewer": ["reviewer"], "second": ["reviewer"], "officer": ["compliance"]}[who]
            office.users.set_roles(getattr(office, who).id, roles if who in self.lost else ["viewer"])
            self.lost ^= {who}
        elif what == "policy":
            office.write_policy(POLICY + ("break_glass: {valid_hours: 3}\n" if who == "other" else ""))
            self.world = (self.world[0], who, self.world[2])
        elif what == "later":
            office.clock.ahead += timedelta(days=31)
            self.ended = True
        elif what == "promote":
            office.models(self.actor(who)).promote_to_production(self.version.id)
            self.check(who)

    def check(self, who: str) -> None:
        """It went live: was it what people who may have approved, and nothing else?"""
        assert who != "nobody"
        assert self.approval
        assert not self.ended
        assert self.bound == self.world
        assert self.world[0] != "fail"
        asker = self.asked["now"][0]
        counted = self.approvers - self.lost - {"author", "nobody", asker}
        assert "officer" in counted
        assert counted & {"reviewer", "second", "requester"}

    def restore(self) -> None:
        for who in list(self.lost):
            self.do("roles", who)
        self.office.write_policy(POLICY)
        self.office.clock.ahead = timedelta(0)


_number = count(1)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = Office(tmp_path_factory.mktemp("machine"))
    yield opened
    opened.close()


@given(steps=st.lists(STEP, min_size=4, max_size=14))
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_no_order_of_decisions_promotes_without_the_demanded_approvals(
    office: Office, steps: list[tuple[str, str]]
) -> None:
    world = World(office, next(_number))
    try:
        for what, who in steps:
            try:
                world.do(what, who)
            except MlregError:
                continue  # refused, which is always safe
    finally:
        world.restore()


def test_the_world_of_that_test_does_let_a_rightful_promotion_through(tmp_path: Path) -> None:
    office = Office(tmp_path)
    try:
        world = World(office, 0)
        for what, who in [
            ("request", "requester"),
            ("approve", "reviewer"),
            ("approve", "officer"),
            ("promote", "author"),
        ]:
            world.do(what, who)
        assert office.models(office.author).get_version(world.version.id).stage.value == "production"
    finally:
        office.close()
