"""Any commands in any order, by two writers: what is read is what the log says, now, as of any time, and after
upkeep, new starts, lost projections and a move to another root."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lineage.tracker import LineageTracker
from ml_registry_pipelines.registry import lookups, projections, tail
from ml_registry_pipelines.registry.artifacts import HostedModel, Uri
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.relationships import NewEdge, Relationships
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.transfer import export_tenant, import_tenant
from ml_registry_pipelines.registry.versions import Stage, VersionFacts
from tests.examples import examples
from tests.registry.conftest import ACTOR
from tests.registry.test_log_machine import check_projections

TENANTS = ("a", "b")
NAMES = ("x", "y", "ü/1")


class Desk:
    """Everything that one actor can do in one tenant."""

    def __init__(self, log: Log, tenant: str) -> None:
        self.registry = ModelRegistry(log, actor=ACTOR, tenant=tenant)
        self.things = self.registry.things
        self.relationships = Relationships(log, actor=ACTOR, tenant=tenant)
        self.tracker = LineageTracker(log, actor=ACTOR, tenant=tenant)

    def seen(self, as_of: datetime | None = None) -> dict[str, Any]:
        """All that can be read."""
        things = [*self.things.find(as_of=as_of), *self.things.find(deleted=True, as_of=as_of)]
        found: dict[str, Any] = {"things": things}
        for thing in things:
            if not thing.deleted:
                assert self.things.get(thing.kind, thing.name, as_of=as_of) == thing
                found[f"edges of {thing.id}"] = self.relationships.list(thing.kind, thing.id, as_of=as_of)
                if thing.kind == "model":
                    found[f"versions of {thing.id}"] = self.registry.list_versions(
                        thing.name, deleted=True, as_of=as_of
                    )
        return found


VERBS: dict[str, Callable[[Desk, str, str, int], object]] = {
    "register": lambda d, x, _, n: d.registry.register_model(x, tags={"n": n}),
    "register another kind": lambda d, x, _, n: d.things.register("prompt", x, idempotency_key=f"k{n}"),
    "register many": lambda d, x, y, n: d.registry.register_many([NewThing(x), NewThing(f"{y} {n}")]),
    "register very many": lambda d, x, _, n: d.things.register_many(
        "feature", [NewThing(f"{x} {n} {i}") for i in range(14)], idempotency_key=f"k{n}"
    ),
    "relate many": lambda d, x, y, n: d.relationships.relate_many(
        "feeds", [NewEdge(("feature", f"{x} {n} 0"), ("feature", f"{x} {n} {i}")) for i in range(1, 5)]
    ),
    "rename": lambda d, x, y, _: d.registry.rename_model(x, y),
    "describe": lambda d, x, _, n: d.registry.describe_model(x, f"{n}", idempotency_key=f"{x} {n}"),
    "tag": lambda d, x, _, n: d.registry.tag_model(x, {f"t{n}": n}, remove=["n"]),
    "deprecate": lambda d, x, y, _: d.registry.deprecate_model(x, reason="old", replacement=y),
    "reinstate": lambda d, x, _, __: d.registry.reinstate_model(x),
    "delete": lambda d, x, _, __: d.registry.delete_model(x),
    "restore": lambda d, x, _, __: d.registry.restore_model(x),
    "version": lambda d, x, _, n: d.registry.create_model_version(x, HostedModel("p", f"{n}")),
    "version on data": lambda d, x, y, n: d.registry.create_model_version(
        x, HostedModel("p", f"{n}"), VersionFacts(trained_on=[f"{y}@latest"])
    ),
    "promote": lambda d, x, _, n: d.registry.promote_to_production(f"{x}@v{n}"),
    "rollback": lambda d, x, _, __: d.registry.rollback(x),
    "stage": lambda d, x, _, n: d.registry.set_stage(f"{x}@v{n}", Stage.ARCHIVED),
    "alias": lambda d, x, _, n: d.registry.set_alias(f"{x}@v{n}", "champion"),
    "protect": lambda d, x, _, __: d.registry.protect_alias(x, "champion"),
    "remove alias": lambda d, x, _, __: d.registry.remove_alias(x, "champion"),
    "delete version": lambda d, x, _, n: d.registry.delete_version(f"{x}@v{n}"),
    "restore version": lambda d, x, _, n: d.registry.restore_version(f"{x}@v{n}"),
    "dataset": lambda d, x, _, n: d.tracker.track_dataset(x, Uri("s3://b/k", f"{n}" * 64)),
    "deploy": lambda d, x, y, n: d.tracker.track_deployment(y, f"{x}@v{n}", environment="production"),
    "end deployment": lambda d, x, y, _: d.tracker.end_deployment(y),
    "relate": lambda d, x, y, n: d.relationships.relate(
        "used_by", ("model", x), ("prompt", y), properties={"n": n}
    ),
    "unrelate": lambda d, x, y, _: d.relationships.unrelate("used_by", ("model", x), ("prompt", y)),
    "backdate": lambda d, x, _, n: d.registry.describe_model(
        x, "then", valid_from=datetime(2026, 1, n, tzinfo=UTC)
    ),
}


class Everything(RuleBasedStateMachine):
    """Two logs over one root, and what was seen at some moments."""

    @initialize()
    def open(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.lakes = [Lake(str(self.root / "home")) for _ in range(2)]
        self.logs = [Log(lake) for lake in self.lakes]
        self.moments: list[tuple[datetime, str, dict[str, Any]]] = []
        # So that most commands find what they want to change.
        desk = Desk(self.logs[0], "a")
        for name in ("x", "y"):
            desk.registry.register_model(name)
            desk.things.register("prompt", name)
            desk.tracker.track_dataset(name, Uri("s3://b/k", "0" * 64))
            for n in (1, 2):
                desk.registry.create_model_version(name, HostedModel("p", f"{n}"))

    @rule(
        writer=st.integers(0, 1),
        tenant=st.sampled_from(TENANTS),
        verbs=st.lists(
            st.tuples(
                st.sampled_from(sorted(VERBS)),
                st.sampled_from(NAMES),
                st.sampled_from(NAMES),
                st.integers(1, 3),
            ),
            min_size=4,
            max_size=12,
        ),
    )
    def act(self, writer: int, tenant: str, verbs: list[tuple[str, str, str, int]]) -> None:
        desk = Desk(self.logs[writer], tenant)
        for verb, x, y, n in verbs:
            with suppress(RegistryError):
                VERBS[verb](desk, x, y, n)
        self.look(1 - writer, tenant)

    def look(self, writer: int, tenant: str) -> None:
        seen = Desk(self.logs[writer], tenant).seen()
        self.moments.append((datetime.now(UTC), tenant, seen))

    @rule(writer=st.integers(0, 1), table=st.sampled_from(["governance_events", *projections.PROJECTIONS]))
    def maintain(self, writer: int, table: str) -> None:
        self.lakes[writer].maintain(table)

    @rule(writer=st.integers(0, 1))
    def start_again(self, writer: int) -> None:
        self.logs[writer].close()
        self.logs[writer] = Log(self.lakes[writer])

    @rule(table=st.sampled_from(projections.PROJECTIONS))
    def lose_a_projection(self, table: str) -> None:
        for log, lake in zip(self.logs, self.lakes, strict=True):
            log.close()
            lake.close()
        shutil.rmtree(self.root / "home" / "tables" / table, ignore_errors=True)
        self.lakes = [Lake(str(self.root / "home")) for _ in range(2)]
        self.logs = [Log(lake) for lake in self.lakes]

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        try:
            self.check()
        finally:
            for log, lake in zip(self.logs, self.lakes, strict=True):
                log.close()
                lake.close()
            shutil.rmtree(self.root)

    def check(self) -> None:
        for moment, tenant, seen in self.moments[-6:]:
            assert Desk(self.logs[0], tenant).seen(moment) == seen
        for log in self.logs:
            log.settle()
        assert [v.damage for v in verify(self.lakes[0]) if v.damage] == []
        check_projections(self.lakes[0], self.logs[0])
        with Lake(str(self.root / "other")) as lake, Log(lake) as other:
            for tenant in TENANTS:
                if not self.logs[0].head(tenant)[0]:
                    continue
                export_tenant(self.logs[0], tenant, self.root / tenant, actor=ACTOR)
                import_tenant(other, self.root / tenant, actor=ACTOR)
                assert Desk(other, tenant).seen() == Desk(self.logs[1], tenant).seen()


@pytest.mark.properties
def test_what_is_read_is_what_the_log_says_whatever_was_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tail, "BLOCK", 5)
    monkeypatch.setattr(tail, "HEAVY", 12)
    monkeypatch.setattr(lookups, "MOST_QUESTIONS", 2)
    machine = Everything.TestCase
    machine.settings = settings(
        max_examples=examples(3, least=2),
        stateful_step_count=8,
        deadline=None,
        derandomize=False,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    machine("runTest").debug()
