"""The demo's models: trained by real runs of a code location beside the platform, judged, promoted and outdated.

The location is `demo/training.py`. Who acts is in `demo_people.py`, what is checked and decided in
`demo_governance.py`. Every step is found in the log when it is done, so that an interrupted demo goes on where
it ended and a second one does nothing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.access.roles import Role
from ml_registry_pipelines.access.stamps import stamped
from ml_registry_pipelines.demo_governance import READER, TENANT, DemoGovernance
from ml_registry_pipelines.demo_people import ROLES, DemoPeople, users_made
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.errors import Deleted
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.models import ModelRegistry
from ml_registry_pipelines.registry.references import dataset_versions_of, named, versions_of
from ml_registry_pipelines.registry.states import DATASET, MODEL
from ml_registry_pipelines.registry.versions import Stage, Version, VersionFacts
from ml_registry_pipelines.services import DEMO_DATA, dagster_home, demo_data, process_exists
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.workspace import DEMO_LOCATION

if TYPE_CHECKING:
    import dagster as dg

    from ml_registry_pipelines.lineage.staleness import Standing
    from ml_registry_pipelines.lineage.tracker import LineageTracker

PROCESS = "mlreg/demo_process"
"""Tag of the demo's own runs: the process that carries them out, and with which they end."""
OWNERS = ("team:risk-models",)

RECIDIVISM, CREDIT, RULE = "recidivism", "credit-risk", "recidivism-rule"
COMPAS, GERMAN = "compas", "german-credit"
MODELS = {
    RECIDIVISM: "Whether somebody is charged again within two years: logistic regression.",
    CREDIT: "Whether an applicant's risk is bad: gradient boosting.",
    RULE: "COMPAS' own score as a rule, to compare with: high from 5 of 10 on. Not trained by Dagster.",
}
DATASETS = {
    COMPAS: "People screened with COMPAS in Broward County, 2013 and 2014, by ProPublica.",
    GERMAN: "Statlog German credit data, UCI.",
}
WHY_REJECTED = (
    "Of those who were not charged again, far more African-Americans than Caucasians were scored medium or high. "
    "That the score is calibrated does not make up for it."
)
WHY_APPROVED = (
    "Error rates and selection rates of women and men keep the thresholds. For people of 25 or younger the data are "
    "too few to say, which is a warning and stands on the page; for a demonstration that is enough (assumed)."
)
HOSTED_KEY = "demo/hosted-models"
RULE_FILE = '{"rule": "high if decile_score >= 5"}\n'


class TrainingError(MlregError):
    """The demo's models cannot be trained here, or a run of theirs failed."""


def taken_names(log: Log) -> Iterator[str]:
    """Names that the demo uses and that stand for something else in this registry."""
    view = log.view(TENANT)
    for kind, names in ((MODEL, MODELS), (DATASET, DATASETS)):
        for name in names:
            ours = {event.entity_id for event in log.done_under(TENANT, f"register_{kind}", _key(name))}
            if any(not state.deleted and state.id not in ours for state in named(view, kind, name)):
                yield f"{kind} {name!r}"


def close_broken_off(instance: dg.DagsterInstance) -> None:
    """End, in Dagster's books, the runs whose process died with a demo that was killed."""
    import dagster as dg

    from resources.workers import free_slots

    unfinished = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    )
    for run in instance.get_runs(unfinished):
        process = run.tags.get(PROCESS)
        if process is not None and not process_exists(int(process)):
            instance.report_run_canceled(run, "the demo that carried it out was broken off")
            free_slots(instance, run.run_id)


def _was_interrupted(event: dg.DagsterEvent) -> bool:
    if not event.is_job_failure:
        return False
    error = event.job_failure_data.error
    return error is not None and error.cls_name == "DagsterExecutionInterruptedError"


@dataclass(frozen=True)
class _Step:
    """One step of the story, and whether it has been taken."""

    title: str
    done: Callable[[], bool]
    take: Callable[[], object]


class DemoModels:
    """The story of the demo's models in one registry.

    Args:
        log: the log of the demo's home.
        settings: where that is.
    """

    def __init__(self, log: Log, settings: Settings) -> None:
        self._log = log
        self._settings = settings
        self.people = DemoPeople(log, settings)
        self._governance = DemoGovernance(log, self.people)

    @cached_property
    def _registry(self) -> ModelRegistry:
        """The registry, for the engineer: there is one from the first steps on."""
        return ModelRegistry(self._log, actor=self.people.actor(Role.ENGINEER), tenant=TENANT)

    @cached_property
    def _tracker(self) -> LineageTracker:
        from ml_registry_pipelines.lineage.tracker import LineageTracker

        return LineageTracker(self._log, actor=self.people.actor(Role.ENGINEER), tenant=TENANT)

    def left(self) -> list[str]:
        """Titles of the steps that are still to be taken."""
        return [step.title for step in self._steps(None) if not step.done()]

    def has_strangers(self) -> bool:
        """Whether there are users that the demo has not made, and the demo would have to act beside them."""
        return self.people.strangers() and bool(self.left())

    def work(self, instance: dg.DagsterInstance, show: Callable[[str], None]) -> None:
        """Take the steps that are left.

        Raises:
            TrainingError: a run failed.
        """
        for step in self._steps(instance):
            if not step.done():
                show(step.title)
                step.take()

    def _steps(self, instance: dg.DagsterInstance | None) -> list[_Step]:
        governance = self._governance
        return [
            *(
                _Step("making users", partial(self._is_there, role), partial(self.people.make, role))
                for role in ROLES
            ),
            *(
                self._keyed("naming", f"register_{kind}", name, partial(self._name, kind, name, text))
                for kind, things in ((MODEL, MODELS), (DATASET, DATASETS))
                for name, text in things.items()
            ),
            *(
                self._keyed("classifying", "classify_ai_act", name, partial(governance.classify, name))
                for name in MODELS
            ),
            _Step(
                "training a logistic regression and a gradient boosting, and checking it",
                lambda: self._versions(RECIDIVISM) >= 1 and self._versions(CREDIT) >= 1,
                partial(self._run, instance, "train_models", "AS_PUBLISHED"),
            ),
            self._keyed("registering a rule", "create_model_version", RULE, self._register_rule),
            self._keyed(
                "declaring its checks",
                "declare_evaluation",
                RULE,
                partial(governance.declare, f"{RULE}@v1", f"{COMPAS}@v1"),
            ),
            *(
                self._keyed("staging", "set_stage", name, partial(self._stage, f"{name}@v1", Stage.SHADOW))
                for name in (RECIDIVISM, RULE)
            ),
            *self._decisions(),
            self._keyed(
                "deploying", "track_deployment", RECIDIVISM, partial(self._deploy, RECIDIVISM, "shadow")
            ),
            self._keyed("deploying", "track_deployment", CREDIT, partial(self._deploy, CREDIT, "production")),
            _Step(
                "changing a dataset and training on it again",
                lambda: self._versions(RECIDIVISM) >= 2,
                partial(self._run, instance, "retrain_recidivism", "SCREENED"),
            ),
            self._keyed(
                "staging",
                "set_stage",
                f"{RECIDIVISM}@v2",
                partial(self._stage, f"{RECIDIVISM}@v2", Stage.STAGING),
            ),
            _Step(
                "importing the models that providers host",
                lambda: bool(self._log.done_under(TENANT, "import_hosted_models", HOSTED_KEY)),
                self._import_hosted,
            ),
            _Step("writing the pages of governance", governance.pages_written, governance.write_pages),
        ]

    def _decisions(self) -> list[_Step]:
        """What is asked for, refused and approved."""
        governance, rule, credit = self._governance, f"{RULE}@v1", f"{CREDIT}@v1"
        return [
            self._keyed(
                "asking for the approval of the rule",
                "request_approval",
                RULE,
                partial(governance.request, rule, "the score as it is, to see what the checks say"),
            ),
            self._keyed("rejecting it", "review_approval", RULE, partial(governance.reject, WHY_REJECTED)),
            _Step(
                "promoting it all the same",
                lambda: bool(governance.refusals(self._rule_id())),
                partial(governance.attempt, rule),
            ),
            self._keyed(
                "asking for the approval of the credit model",
                "request_approval",
                CREDIT,
                partial(governance.request, credit, "the first version"),
            ),
            _Step(
                "approving and promoting it",
                lambda: governance.settled(CREDIT),
                partial(governance.approve_and_promote, WHY_APPROVED, _key(CREDIT)),
            ),
        ]

    def _is_there(self, role: Role) -> bool:
        """Whether the user of a role and the key are there, or were before the story went on."""
        if self._log.done_under(TENANT, f"register_{MODEL}", _key(RECIDIVISM)):
            return True
        return self.people.has_key(role) and (role is Role.ADMIN or users_made(self._log, role))

    def _rule_id(self) -> str:
        registered = self._log.done_under(TENANT, "create_model_version", _key(RULE))
        return registered[0].entity_id if registered else ""

    def _keyed(self, title: str, action: str, name: str, take: Callable[[str], object]) -> _Step:
        """A command that is known by its idempotency key."""
        done = partial(self._log.done_under, TENANT, action, _key(name))
        return _Step(title, lambda: bool(done()), partial(take, _key(name)))

    def _name(self, kind: str, name: str, description: str, key: str) -> object:
        things = self._registry.things
        return things.register(kind, name, description=description, owners=OWNERS, idempotency_key=key)

    def _stage(self, version: str, stage: Stage, key: str) -> object:
        return self._registry.set_stage(version, stage, idempotency_key=key)

    def _import_hosted(self) -> object:
        from ml_registry_pipelines.exchange.hosted_import import HostedImport

        engineer = self.people.actor(Role.ENGINEER)
        return HostedImport(self._log, actor=engineer, tenant=TENANT).run(idempotency_key=HOSTED_KEY)

    def _deploy(self, model: str, environment: str, key: str) -> object:
        return self._tracker.track_deployment(
            f"{model}-api",
            f"{model}@v1",
            environment=environment,
            endpoint=f"https://models.example/{model}",
            owners=OWNERS,
            idempotency_key=key,
        )

    def _versions(self, model: str) -> int:
        """How many versions the demo's model has, deleted ones included."""
        registered = self._log.done_under(TENANT, f"register_{MODEL}", _key(model))
        if not registered:
            return 0
        return len(versions_of(self._log.view(TENANT), registered[0].entity_id, deleted=True))

    def _living(self, model: str) -> list[Version]:
        """Versions of a model of the demo's, which may have been renamed or deleted since."""
        registered = self._log.done_under(TENANT, f"register_{MODEL}", _key(model))
        try:
            reading = ModelRegistry(self._log, actor=READER, tenant=TENANT)
            return reading.list_versions(registered[0].entity_id) if registered else []
        except Deleted:
            return []

    def _run(self, instance: dg.DagsterInstance | None, job: str, edition: str) -> None:
        """Carry out a job of the location in this process, as a run of the home's Dagster."""
        assert instance is not None
        os.environ["MLREG_HOME"] = self._settings.home
        os.environ[DEMO_DATA] = str(demo_data(self._settings))
        location: dg.Definitions = _module(self._settings.home).defs
        run_id, home = str(uuid.uuid4()), dagster_home(self._settings)
        done = (
            location.get_repository_def()
            .get_job(job)
            .execute_in_process(
                instance=instance,
                run_id=run_id,
                run_config={
                    "ops": {"datasets__default__compas": {"config": {"edition": edition}}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags={
                    PROCESS: str(os.getpid()),
                    # No queue carries it out, which would say who has launched it.
                    **stamped(self.people.actor(Role.ENGINEER), run_id, home),
                },
                raise_on_error=False,
            )
        )
        if not done.success:
            if any(map(_was_interrupted, done.all_events)):
                # Dagster handles Ctrl-C while it works, and makes a failed run of it.
                raise KeyboardInterrupt
            raise TrainingError(f"run {done.run_id} of {job} failed; `make ui` shows why under Runs")

    def _register_rule(self, key: str) -> Version:
        """What somebody does at a shell: no training code, no run, but the dataset that it was measured on."""
        first = dataset_versions_of(self._log.view(TENANT), self._dataset(COMPAS))[0]
        with TemporaryDirectory(prefix="mlreg-demo-") as folder:
            file = Path(folder) / "rule.json"
            file.write_text(RULE_FILE, encoding="utf-8")
            facts = VersionFacts(
                metrics={"accuracy": _rule_accuracy(str(first.data["metadata"]["location"]))},
                parameters={"threshold": 5},
                trained_on={first.id: ["decile_score", "two_year_recid"]},
            )
            return self._registry.create_model_version(RULE, file, facts, idempotency_key=key)

    def _dataset(self, name: str) -> str:
        return self._log.done_under(TENANT, f"register_{DATASET}", _key(name))[0].entity_id

    # -- what came of it ---------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The versions that are in use, with their data and whether those have moved on."""
        from ml_registry_pipelines.lineage.staleness import Staleness

        standings: dict[str, Standing] = {
            s.name: s for s in Staleness(self._log, actor=READER, tenant=TENANT).of_models()
        }
        versions = [version for model in MODELS for version in self._living(model)]
        if not versions:
            return [f"{'training':<10}no model of the demo's is left"]
        rows = [
            (
                version.reference,
                version.stage.value,
                f"accuracy {version.metrics['accuracy']:.3f}" if "accuracy" in version.metrics else "",
                _sentence(standings.get(version.reference)),
            )
            for version in versions
        ]
        widths = [max(len(row[n]) for row in rows) for n in range(3)]
        return [
            f"{'training' if n == 0 else '':<10}"
            + "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]])
            for n, row in enumerate(rows)
        ]

    def hosted_line(self) -> str:
        """How many models of the catalogue of hosted models there are."""
        from ml_registry_pipelines.exchange.hosted_import import imported_models

        reading = ModelRegistry(self._log, actor=READER, tenant=TENANT)
        providers = imported_models(reading)
        models = f"{sum(providers.values()):,} models of {len(providers)} providers"
        return f"{'hosted':<10}{models} to search, by family, context window and list price"

    def governance_lines(self) -> list[str]:
        """What was checked, refused and approved, by whom, and how to act as one of them."""
        return self._governance.lines()


def _sentence(standing: Standing | None) -> str:
    if standing is None:
        return "not in use"
    return f"{'stale' if standing.stale else 'current'}: {standing.sentence}"


def _rule_accuracy(location: str) -> float:
    """Part of the people for whom the rule says what came to pass."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.read_table(location, columns=["decile_score", "two_year_recid"])
    high = pc.greater_equal(rows["decile_score"], 5)
    right = pc.equal(high, pc.equal(rows["two_year_recid"], 1))
    return float(pc.mean(right.cast("int8")).as_py())


def _key(name: str) -> str:
    return f"demo/{name}"


def _module(home: str) -> Any:
    """The location's module; not imported by name, which another `demo` on the path may bear.

    One for each home: the suites that lie there are its asset checks.
    """
    name = f"mlreg_demo_training_{sha256(home.encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DEMO_LOCATION)
        if spec is None or spec.loader is None or not DEMO_LOCATION.exists():
            raise TrainingError(
                f"{DEMO_LOCATION} is missing: the demo runs from the repository, not from a wheel"
            )
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
