"""Any commands, by several writers in any order: the log stays whole, and tables say what it says."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry import projections, tail
from ml_registry_pipelines.registry.artifacts import HostedModel
from ml_registry_pipelines.registry.chain import verify
from ml_registry_pipelines.registry.errors import RegistryError
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.states import fold, row_of
from ml_registry_pipelines.registry.things import NewThing
from ml_registry_pipelines.registry.versions import Stage
from tests.examples import examples
from tests.registry.conftest import ACTOR

WRITERS = 2
TENANTS = ("a", "b")
NAMES = st.sampled_from(["x", "y", "z", "ü/1"])
WHO = st.tuples(st.integers(0, WRITERS - 1), st.sampled_from(TENANTS))


def check_projections(lake: Lake, log: Log, tenants: Sequence[str] = TENANTS) -> None:
    """Every row of every projection is a state of the log, and none is missing up to its last block."""
    events = {t: log.events(t, range(1, log.head(t)[0] + 1)) for t in tenants}
    ordered = sorted((e for found in events.values() for e in found), key=lambda e: e.position)
    assert [e.position for e in ordered] == list(range(1, len(ordered) + 1))
    states = list(fold(ordered, log.bulk.read))
    with lake.read(*projections.STATES) as reading:
        for table in projections.STATES:
            last = reading.sequence(table, "governance_events")
            upto = max((e.position for e in ordered if e.block <= last), default=0)
            expected = [row_of(s) for s in states if s.table == table and s.position <= upto]
            stored = reading.query("t", f"SELECT * FROM {table}").to_pylist()

            def key(row: dict[str, Any]) -> tuple[str, str, int]:
                return (row["tenant"], row["id"], row["from_sequence"])

            assert sorted(stored, key=key) == sorted(expected, key=key)


class Commands(RuleBasedStateMachine):
    """Two writers with a lake of their own, two tenants, four names. What should hold stands beside."""

    keys: Bundle[tuple[str, str, str]] = Bundle("keys")

    @initialize()
    def open(self) -> None:
        self.root = tempfile.mkdtemp()
        self.lakes = [Lake(self.root) for _ in range(WRITERS)]
        self.logs = [Log(lake) for lake in self.lakes]
        self.expected: dict[str, dict[str, int]] = {t: {} for t in TENANTS}
        self.production: dict[tuple[str, str], int] = {}
        self.first: dict[tuple[str, str], tuple[str, str]] = {}

    def registry(self, who: tuple[int, str]) -> ModelRegistry:
        return ModelRegistry(self.logs[who[0]], actor=ACTOR, tenant=who[1])

    @rule(who=WHO, name=NAMES)
    def register(self, who: tuple[int, str], name: str) -> None:
        known = self.expected[who[1]]
        with suppress(RegistryError):
            self.registry(who).register_model(name)
            assert name not in known
            known[name] = 0
        assert name in known

    @rule(target=keys, who=WHO, name=NAMES, key=st.sampled_from(["k1", "k2"]))
    def describe_under_a_key(self, who: tuple[int, str], name: str, key: str):
        tenant = who[1]
        wanted = self.first.get((tenant, key))
        try:
            done = self.registry(who).describe_model(name, f"by {key}", idempotency_key=key)
        except RegistryError:
            assert name not in self.expected[tenant] or (wanted is not None and wanted[0] != name)
            return multiple()
        if wanted is None:
            self.first[tenant, key] = (name, f"{done.sequence}")
            return (tenant, key, name)
        assert wanted == (name, f"{done.sequence}")
        return multiple()

    @rule(known=consumes(keys), writer=st.integers(0, WRITERS - 1))
    def repeat_under_the_key(self, known: tuple[str, str, str], writer: int) -> None:
        tenant, key, name = known
        done = self.registry((writer, tenant)).describe_model(name, f"by {key}", idempotency_key=key)
        assert f"{done.sequence}" == self.first[tenant, key][1]

    @rule(who=WHO, name=NAMES)
    def add_version(self, who: tuple[int, str], name: str) -> None:
        known = self.expected[who[1]]
        with suppress(RegistryError):
            version = self.registry(who).create_model_version(name, HostedModel("p", "s"))
            known[name] += 1
            assert version.number == known[name]

    @rule(who=WHO, name=NAMES)
    def promote_the_latest(self, who: tuple[int, str], name: str) -> None:
        with suppress(RegistryError):
            version = self.registry(who).promote_to_production(f"{name}@latest")
            self.production[who[1], name] = version.number

    @rule(who=WHO, name=NAMES, to=NAMES)
    def rename(self, who: tuple[int, str], name: str, to: str) -> None:
        known = self.expected[who[1]]
        with suppress(RegistryError):
            self.registry(who).rename_model(name, to)
            known[to] = known.pop(name)
            moved = self.production.pop((who[1], name), None)
            if moved is not None:
                self.production[who[1], to] = moved

    @rule(who=WHO)
    def register_many(self, who: tuple[int, str]) -> None:
        known = self.expected[who[1]]
        names = [f"many{len(known)}", f"more{len(known)}"]
        with suppress(RegistryError):
            self.registry(who).register_many([NewThing(n) for n in names])
            known.update(dict.fromkeys(names, 0))

    @rule(writer=st.integers(0, WRITERS - 1))
    def start_again(self, writer: int) -> None:
        self.logs[writer].close()
        self.logs[writer] = Log(self.lakes[writer])

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        try:
            for log in self.logs:
                log.settle()
                for tenant in TENANTS:
                    registry = ModelRegistry(log, actor=ACTOR, tenant=tenant)
                    assert {m.name for m in registry.list_models()} == self.expected[tenant].keys()
                    for name, count in self.expected[tenant].items():
                        versions = registry.list_versions(name)
                        assert [v.number for v in versions] == list(range(1, count + 1))
                        live = [v.number for v in versions if v.stage is Stage.PRODUCTION]
                        wanted = self.production.get((tenant, name))
                        assert live == ([] if wanted is None else [wanted])
            assert [v.damage for v in verify(self.lakes[0]) if v.damage] == []
            check_projections(self.lakes[0], self.logs[0])
        finally:
            for log, lake in zip(self.logs, self.lakes, strict=True):
                log.close()
                lake.close()
            shutil.rmtree(self.root)


@pytest.mark.properties
def test_any_commands_by_several_writers_leave_a_whole_log_and_true_projections(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tail, "BLOCK", 4)
    machine = Commands.TestCase
    machine.settings = settings(
        max_examples=examples(6, least=3),
        stateful_step_count=18,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    machine("runTest").debug()
