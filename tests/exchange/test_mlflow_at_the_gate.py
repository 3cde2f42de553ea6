"""An import meets the gate as everybody does: what is in production on the server is not so here for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_registry_pipelines.access.policy import platform
from ml_registry_pipelines.compliance.gate.deciding import REFUSAL
from ml_registry_pipelines.exchange.mlflow_import import Imported, MlflowImport
from ml_registry_pipelines.exchange.mlflow_server import TrackingServer
from ml_registry_pipelines.registry.actors import Actor
from tests.compliance.office import POLICY, Office
from tests.exchange.conftest import Mlflow

PLATFORM = platform("mlflow-import")


@dataclass
class Gated:
    """An office that imports from the server."""

    office: Office
    uri: str

    def take(self, actor: Actor) -> Imported:
        return MlflowImport(self.office.log, TrackingServer(self.uri), actor=actor, name="mlflow").run()

    def stages(self, model: str = "fraud") -> dict[int, str]:
        found = self.office.models(self.office.author).list_versions(model)
        return {version.number: version.stage.value for version in found}

    def aliases(self, model: str = "fraud") -> dict[str, int]:
        return dict(self.office.models(self.office.author).get_model(model).aliases)

    def refusals(self) -> set[str]:
        found = self.office.log.view("default").select("t", "things", f"type = '{REFUSAL}'")
        return {str(state.data["metadata"]["place"]) for state in found}


@pytest.fixture
def gated(mlflow: Mlflow, tmp_path: Path) -> Iterator[Gated]:
    office = Office(tmp_path, POLICY.replace("unclassified: high_risk", "unclassified: minimal"))
    yield Gated(office, mlflow.uri)
    office.close()


def test_stages_and_aliases_of_the_server_put_nothing_live_here_without_approval(
    mlflow: Mlflow, gated: Gated
) -> None:
    for data in (b"one", b"two"):
        mlflow.simple("fraud", data)
    mlflow.stage("fraud", 1, "Staging")
    mlflow.stage("fraud", 2, "Production")
    for alias in ("champion", "production", "candidate"):
        mlflow.ask("POST", "registered-models/alias", name="fraud", alias=alias, version="2")
    office = gated.office
    for actor in (PLATFORM, office.author, office.users.actor):
        done = gated.take(actor)
        assert len(done.failed) == 3, done.failed
        assert "fraud version 2 is not production here, as it is there" in " ".join(done.failed)
        # What needs no approval arrived, and the rest is tried again the next time.
        assert gated.stages()[1] == "staging"
        assert "production" not in gated.stages().values()
        assert gated.aliases() == {"candidate": 2}
    assert gated.refusals() == {"production", "alias champion", "alias mlflow-production"}
    asked = office.approvals(office.requester).request("fraud@v2")
    digest = asked.bound.digest
    for who in (office.reviewer, office.second):
        office.approvals(who).review(asked.id, "approve", digest=digest)
    # The service follows aliases of what is approved, and does not promote by itself.
    done = gated.take(PLATFORM)
    assert len(done.failed) == 1
    assert "on behalf of an approval alone" in done.failed[0]
    assert "production" not in gated.stages().values()
    assert gated.aliases() == {"candidate": 2, "champion": 2, "mlflow-production": 2}
    assert not gated.take(office.author).failed
    assert gated.stages()[2] == "production"
    # Another version on the server takes neither place, and what is live here stays so.
    mlflow.simple("fraud", b"three")
    mlflow.stage("fraud", 3, "Production", archive=True)
    for alias in ("champion", "production"):
        mlflow.ask("POST", "registered-models/alias", name="fraud", alias=alias, version="3")
    for actor in (PLATFORM, office.author):
        assert gated.take(actor).failed
        assert gated.stages()[3] != "production"
        assert set(gated.aliases().values()) == {2}
