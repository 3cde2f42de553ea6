"""The gate: what goes live, by which door, and by whose word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ml_registry_pipelines.compliance.approvals.approval import Status, enough
from ml_registry_pipelines.compliance.evidence import record
from ml_registry_pipelines.compliance.evidence_log import KIND as EVIDENCE
from ml_registry_pipelines.compliance.evidence_log import state_of_evidence
from ml_registry_pipelines.compliance.gate.deciding import REFUSAL, on_behalf_of
from ml_registry_pipelines.compliance.policies.policy import FILE
from ml_registry_pipelines.compliance.results import Verdict
from ml_registry_pipelines.registry.actors import UNAUTHENTICATED, Actor
from ml_registry_pipelines.registry.canonical import canonical
from ml_registry_pipelines.registry.commands import Change
from ml_registry_pipelines.registry.errors import InvalidInput, NotAllowed
from ml_registry_pipelines.registry.events import new_id
from ml_registry_pipelines.registry.gate import GateRefused
from ml_registry_pipelines.registry.states import APPROVAL
from ml_registry_pipelines.registry.things import bulk_change
from ml_registry_pipelines.registry.versions import Version
from tests.compliance.office import POLICY, Office, result


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = Office(tmp_path_factory.mktemp("office"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _as_it_was(office: Office) -> Iterator[None]:
    yield
    office.write_policy(POLICY)
    office.clock.ahead = timedelta(0)


def stage(office: Office, version: Version) -> str:
    return office.models(office.author).get_version(version.id).stage.value


def test_what_two_people_approved_goes_to_production_once(office: Office) -> None:
    version = office.version("once")
    approval = office.granted(version)
    assert office.models(office.author).promote_to_production("once@v1").stage.value == "production"
    assert office.approvals(office.author).get(approval).status is Status.USED
    other = office.version("once", snapshot="y")
    office.granted(other)
    office.models(office.author).promote_to_production("once@v2")
    office.models(office.author).set_stage("once@v1", "staging")
    with pytest.raises(GateRefused, match=r"once@v1 may not go to production: .* was used already"):
        office.models(office.author).promote_to_production("once@v1")
    # What was approved, used and is unchanged is the way back.
    assert office.models(office.author).rollback("once").number == 1


def serving(office: Office, model: str) -> dict[str, object]:
    version = office.models(office.author).get_version(f"{model}@v1").id
    metadata = {"environment": "production", "version_id": version}
    return {"name": f"{model}-{new_id()[:8]}", "status": "live", "deleted": False, "metadata": metadata}


def listed(office: Office, model: str) -> Change:
    file = office.log.bulk.write([("deployment", new_id(), canonical(serving(office, model)))])
    return bulk_change("feature", 1, file)


DOORS: dict[str, Callable[[Office, str], object]] = {
    "promotion": lambda o, m: o.models(o.author).promote_to_production(f"{m}@v1"),
    "an alias": lambda o, m: o.models(o.author).set_alias(f"{m}@v1", "Champion"),
    "a deployment": lambda o, m: o.tracker(o.author).track_deployment(m, f"{m}@v1", environment="Prod-EU"),
    "a command of another name": lambda o, m: o.models(o.users.actor).do(
        "tag_model", "model", {}, lambda _: [Change("deployment", new_id(), serving(o, m))]
    ),
    "many at once": lambda o, m: o.models(o.users.actor).do(
        "register_many_feature", "feature", {}, lambda _: [listed(o, m)]
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_goes_live_without_approval_by_any_door_and_each_attempt_is_recorded(
    office: Office, door: str
) -> None:
    model = f"door-{door.replace(' ', '-')}"
    version = office.version(model)
    with pytest.raises(GateRefused, match="nobody has asked for any; request one"):
        DOORS[door](office, model)
    assert stage(office, version) == "registered"
    (told,) = [
        s
        for s in office.log.view("default").select("t", "things", f"type = '{REFUSAL}'")
        if s.data["metadata"]["version"] == version.id
    ]
    assert told.actor in {office.author.id, office.users.actor.id}
    office.granted(version)
    DOORS[door](office, model)


def test_a_protected_alias_is_gated_even_after_its_protection_was_taken_back(office: Office) -> None:
    office.version("guarded")
    models = office.models(office.author)
    models.protect_alias("guarded", "main")
    models.unprotect_alias("guarded", "main")
    with pytest.raises(GateRefused, match="may not go to alias main"):
        models.set_alias("guarded@v1", "main")
    models.set_alias("guarded@v1", "experiment")
    office.tracker(office.author).track_deployment("guarded-test", "guarded@v1", environment="test")


def test_nobody_approves_his_own_version_or_request_and_nobody_twice(office: Office) -> None:
    version = office.version("eyes")
    asked = office.approvals(office.requester).request("eyes@v1")
    digest = asked.bound.digest
    for who, why in [
        (office.requester, "who asked for it does not decide"),
        (office.author, "may not review_approval"),
        (Actor("somebody"), "nobody has made sure who that is"),
        (Actor(office.reviewer.id), "nobody has made sure who that is"),
        (Actor(office.reviewer.id, authenticated_by="my word"), "nobody has made sure who that is"),
    ]:
        with pytest.raises(NotAllowed, match=why):
            office.approvals(who).review(asked.id, "approve", digest=digest)
    office.approvals(office.reviewer).review(asked.id, "approve", digest=digest)
    with pytest.raises(GateRefused, match="one vote, and yours is there already"):
        office.approvals(office.reviewer).review(asked.id, "approve", digest=digest)
    # A second reviewer does not fill the place of a compliance officer.
    second = office.approvals(office.second).review(asked.id, "approve", digest=digest)
    assert second.status is Status.REQUESTED
    with pytest.raises(GateRefused, match="is still open"):
        office.models(office.author).promote_to_production(version.id)
    granted = office.approvals(office.officer).review(asked.id, "approve", digest=digest)
    assert granted.status is Status.APPROVED


def test_a_version_of_nobody_knows_who_takes_one_person_more(tmp_path: Path) -> None:
    office = Office(tmp_path, policy=None)
    try:
        version = office.version("unknown")
        office.write_policy(POLICY)
        first = office.log.view("default").history("model_versions", version.id)[0]
        assert first.actor == office.author.id
        asked = office.approvals(office.requester).request("unknown@v1")
        assert asked.people == 2
    finally:
        office.close()
    assert not enough({"reviewer": 1}, {"a": frozenset({"reviewer"})}, extra=1)
    assert enough({"reviewer": 1}, {"a": frozenset({"reviewer"}), "b": frozenset({"reviewer"})}, extra=1)


def test_people_with_two_roles_fill_one_place(office: Office) -> None:
    both, one = frozenset({"reviewer", "compliance"}), frozenset({"reviewer"})
    needed = {"reviewer": 1, "compliance": 1}
    assert not enough(needed, {"a": both})
    assert enough(needed, {"a": both, "b": one})
    assert enough(needed, {"b": one, "a": both})
    assert not enough(needed, {"b": one, "c": one})


def test_an_author_who_reviews_does_not_approve_his_own(office: Office) -> None:
    author = office.person("engineer", "reviewer", "compliance")
    office.version("own", author)
    asked = office.approvals(office.requester).request("own@v1")
    with pytest.raises(GateRefused, match="who registered the version, or added to it, does not decide"):
        office.approvals(author).review(asked.id, "approve", digest=asked.bound.digest)


def test_a_review_is_of_the_digest_that_was_looked_at(office: Office) -> None:
    office.version("digest")
    asked = office.approvals(office.requester).request("digest@v1")
    other = office.version("other")
    wrong = office.approvals(office.requester).request(other.id).bound.digest
    for given in (wrong, "", asked.bound.digest[:8]):
        with pytest.raises(GateRefused, match="is not that of what it is for"):
            office.approvals(office.reviewer).review(asked.id, "approve", digest=given)
    office.approvals(office.reviewer).review(asked.id, "approve", digest=asked.bound.digest[:12])


def test_two_reviewers_at_one_moment_the_second_sees_the_first(office: Office) -> None:
    office.version("race")
    asked = office.approvals(office.requester).request("race@v1")
    outcomes: list[str] = []

    def vote(who: Actor, decision: str) -> None:
        try:
            found = office.approvals(who).review(
                asked.id, decision, digest=asked.bound.digest, comment="because"
            )
            outcomes.append(found.status.value)
        except GateRefused as refused:
            outcomes.append(str(refused))

    threads = [
        threading.Thread(target=vote, args=(who, "reject"))
        for who in (office.reviewer, office.second, office.officer)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("rejected") == 1
    assert sum("it is rejected since" in said for said in outcomes) == 2


def test_a_reviewer_who_lost_the_role_no_longer_counts(office: Office) -> None:
    version = office.version("lost")
    leaving = office.person("reviewer")
    asked = office.approvals(office.requester).request("lost@v1")
    for who in (leaving, office.officer):
        office.approvals(who).review(asked.id, "approve", digest=asked.bound.digest)
    assert office.approvals(office.author).get(asked.id).status is Status.APPROVED
    office.users.set_roles(leaving.id, ["viewer"])
    with pytest.raises(GateRefused, match=f"{leaving.id} no longer may approve"):
        office.models(office.author).promote_to_production(version.id)
    office.users.set_roles(leaving.id, ["reviewer"])
    office.users.deactivate(leaving.id)
    with pytest.raises(GateRefused, match="no longer may approve"):
        office.models(office.author).promote_to_production(version.id)


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (lambda o, v: o.measure(v, high=0.2), "the thresholds of fairness changed"),
        (lambda o, v: o.measure(v, Verdict.FAIL), "check demographic_parity_difference of sex .* failed"),
        (lambda o, v: o.measure(v, Verdict.INCONCLUSIVE), "is inconclusive"),
        (lambda o, v: o.measure(v, Verdict.COULD_NOT_RUN), "could not run"),
        (lambda o, v: o.declare(v, "fairness", "privacy"), "suite privacy has not been run on it"),
        (lambda o, v: o.write_policy(POLICY + "break_glass: {valid_hours: 2}\n"), "the policy changed"),
        (lambda o, v: o.write_policy(POLICY + "brake_glass: {}\n"), "the policy cannot be read: .*line 16"),
        (lambda o, v: setattr(o.clock, "ahead", timedelta(days=31)), "expired on"),
        (
            lambda o, v: o.approvals(o.requester).withdraw(o.approvals(o.author).list(version=v.id)[0].id),
            "was withdrawn",
        ),
    ],
)
def test_an_approval_ends_when_what_it_is_for_changes(office: Office, happens, says: str) -> None:
    version = office.version("change", snapshot=str(hash(says)))
    office.granted(version)
    happens(office, version)
    with pytest.raises(GateRefused, match=says):
        office.models(office.author).promote_to_production(version.id)
    assert stage(office, version) == "registered"


def test_a_part_of_the_suites_does_not_replace_the_evidence_of_the_others(office: Office) -> None:
    version = office.version("parts")
    office.measure(version, Verdict.FAIL)
    office.measure(version, suite="easy")
    with pytest.raises(GateRefused, match="failed"):
        office.models(office.author).promote_to_production(version.id)


def test_results_of_another_content_are_none(office: Office) -> None:
    one, two = office.version("content"), office.version("content", snapshot="z")
    forged = result(two, Verdict.PASS)
    assert forged.subject is not None
    forged = replace(forged, subject=replace(forged.subject, content_digest=one.content_digest))
    forged = replace(forged, suite_digest=office.suite_digest("fairness"))
    made = record(office.lake, [forged], tenant="default", actor=office.author)
    changes = [Change(EVIDENCE, made.evidence_id, state_of_evidence(made))]
    office.models(office.users.actor).do("run_compliance_checks", EVIDENCE, {}, lambda _: changes)
    with pytest.raises(GateRefused, match="was run on another content"):
        office.models(office.author).promote_to_production(two.id)


def test_results_that_the_log_knows_nothing_of_are_none(office: Office) -> None:
    version = office.version("smuggled")
    office.measure(version, Verdict.FAIL)
    passes = result(version, Verdict.PASS, digest=office.suite_digest("fairness"))
    record(office.lake, [passes], tenant="default", actor=office.author)
    with pytest.raises(GateRefused, match="of sex of suite fairness failed"):
        office.models(office.author).promote_to_production(version.id)


def test_a_suite_that_was_edited_since_it_was_run_has_to_be_run_again(office: Office) -> None:
    version = office.version("edited")
    office.granted(version)
    office.write_suite("fairness", 0.4)
    with pytest.raises(GateRefused, match="the thresholds of suite fairness were edited since it was run"):
        office.models(office.author).promote_to_production(version.id)
    office.write_suite("fairness")
    office.models(office.author).promote_to_production(version.id)


def test_deleting_the_policy_leaves_the_shipped_one(office: Office) -> None:
    version = office.version("deleted-policy")
    office.granted(version)
    (office.root / FILE).unlink()
    with pytest.raises(GateRefused, match="dossier"):
        office.models(office.author).promote_to_production(version.id)


def test_a_rejection_and_a_wish_for_changes_say_why_without_addresses(office: Office) -> None:
    office.version("words")
    asked = office.approvals(office.requester).request("words@v1")
    review = office.approvals(office.reviewer).review
    with pytest.raises(InvalidInput, match="say why"):
        review(asked.id, "reject", digest=asked.bound.digest)
    with pytest.raises(InvalidInput, match="e-mail address"):
        review(asked.id, "approve", digest=asked.bound.digest, comment="ask ada@example.org")
    with pytest.raises(InvalidInput, match="is no decision"):
        review(asked.id, "aprove", digest=asked.bound.digest)
    done = review(asked.id, "changes_requested", digest=asked.bound.digest, comment="document the threshold")
    assert done.status is Status.CHANGES_REQUESTED
    again = office.approvals(office.requester).request("words@v1")
    assert again.status is Status.REQUESTED
    assert office.approvals(office.author).get(asked.id).status is Status.STALE


def test_breaking_the_glass_takes_a_role_and_a_reason_and_stays_open_until_another_looks(
    office: Office,
) -> None:
    version = office.version("glass")
    office.measure(version, Verdict.FAIL)
    with pytest.raises(NotAllowed, match="may not break_glass"):
        office.approvals(office.reviewer).break_glass("glass@v1", "the old version fails everywhere")
    with pytest.raises(InvalidInput, match="takes a reason"):
        office.approvals(office.officer).break_glass("glass@v1", " ")
    glass = office.approvals(office.officer).break_glass("glass@v1", "the old version fails everywhere")
    office.models(office.author).promote_to_production("glass@v1")
    office.tracker(office.author).track_deployment("glass", "glass@v1", environment="prod")
    used = office.approvals(office.officer).get(glass.id)
    assert used.status is Status.USED
    assert used.awaits_review
    with pytest.raises(GateRefused, match="another person"):
        office.approvals(office.officer).review_break_glass(glass.id, "I was right")
    office.approvals(office.reviewer).review_break_glass(glass.id, "the outage was real")
    assert not office.approvals(office.officer).get(glass.id).awaits_review
    office.models(office.author).set_stage("glass@v1", "staging")
    with pytest.raises(GateRefused, match="failed"):
        office.models(office.author).promote_to_production("glass@v1")


def test_what_never_goes_live_does_not_by_broken_glass_either(office: Office) -> None:
    office.write_policy(POLICY.replace("unclassified: high_risk", "unclassified: prohibited"))
    office.version("never")
    with pytest.raises(GateRefused, match="never go live"):
        office.approvals(office.officer).break_glass("never@v1", "it would be so very useful")
    with pytest.raises(GateRefused, match="never go live"):
        office.models(office.author).promote_to_production("never@v1")


def test_approvals_change_by_their_own_commands_alone(office: Office) -> None:
    office.version("forged")
    asked = office.approvals(office.requester).request("forged@v1")
    kept = office.log.view("default").by_id("approvals", asked.id)
    assert kept is not None
    state = {**kept.data, "status": "approved"}
    desk = office.models(office.users.actor)
    with pytest.raises(GateRefused, match="may not change an approval"):
        desk.do("tag_model", "model", {}, lambda _: [Change(APPROVAL, asked.id, state)])
    # Even one that is written under the name of a review has no votes that count.
    vote = {"by": office.reviewer.id, "decision": "approve", "at": "2026-11-01T00:00:00+00:00"}
    votes = [
        {**vote, "comment": "", "roles": []},
        {**vote, "by": office.officer.id, "comment": "", "roles": []},
    ]
    forged = {**state, "votes": votes}
    office.models(office.users.actor).do(
        "review_approval", APPROVAL, {}, lambda _: [Change(APPROVAL, asked.id, forged)]
    )
    with pytest.raises(GateRefused, match="has not the approvals"):
        office.models(office.author).promote_to_production("forged@v1")


def test_the_platform_promotes_on_behalf_of_a_granted_approval_alone(office: Office) -> None:
    version, other = office.version("behalf"), office.version("behalf-too")
    granted = office.granted(version)
    asked = office.approvals(office.requester).request(other.id)
    for actor, reference in [
        (on_behalf_of(asked.id), other.id),
        (on_behalf_of(granted), other.id),
        (on_behalf_of("0" * 32), version.id),
    ]:
        with pytest.raises(GateRefused):
            office.models(actor).promote_to_production(reference)
    assert office.models(on_behalf_of(granted)).promote_to_production(version.id).stage.value == "production"


def test_in_dev_without_users_policy_or_approvals_nobody_is_asked(tmp_path: Path, monkeypatch) -> None:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.artifacts import HostedModel
    from ml_registry_pipelines.registry.log import Log
    from ml_registry_pipelines.registry.models import ModelRegistry

    with Lake(str(tmp_path)) as lake, Log(lake) as log:
        models = ModelRegistry(log, actor=Actor("shell"))
        models.register_model("free")
        models.create_model_version("free", HostedModel("o", "x"))
        models.create_model_version("free", HostedModel("o", "y"))
        models.promote_to_production("free@v1")
        assert log.events("default", [4])[0].authenticated_by == UNAUTHENTICATED
        (tmp_path / FILE).write_text(POLICY.replace('suites: ["*"], ', ""))
        with pytest.raises(GateRefused, match="nobody knows who asks, and the policy demands approvals"):
            models.promote_to_production("free@v2")
        (tmp_path / FILE).write_text(POLICY.replace("unclassified: high_risk", "unclassified: out_of_scope"))
        models.promote_to_production("free@v2")


def test_an_edited_threshold_makes_an_approval_stale_before_anybody_runs_the_checks_again(
    office: Office,
) -> None:
    version = office.version("edited")
    granted = office.granted(version)
    office.write_suite("fairness", 0.4)
    system = office.approvals(office.users.actor)
    found = {a.id: a for a in system.settle()}[granted]
    assert found.status is Status.STALE
    assert "thresholds of suite fairness were edited" in found.reasons[0]
    office.write_suite("fairness")
    with pytest.raises(GateRefused, match="is stale"):
        office.models(office.author).promote_to_production(version.id)


def test_sweeping_notes_what_went_stale_and_what_expired(office: Office) -> None:
    stale, late = office.version("sweep-stale"), office.version("sweep-late")
    ids = [office.granted(stale), office.approvals(office.requester).request(late.id).id]
    office.measure(stale, high=0.3)
    office.write_suite("fairness")
    system = office.approvals(office.users.actor)
    found = {a.id: a for a in system.settle()}
    assert found[ids[0]].status is Status.STALE
    assert found[ids[0]].reasons[0] == "the results of fairness changed"
    assert ids[1] not in found
    office.clock.ahead = timedelta(days=31)
    assert {a.id: a.status for a in system.settle()}[ids[1]] is Status.EXPIRED
