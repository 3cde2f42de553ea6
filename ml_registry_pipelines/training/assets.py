"""`@tracked_dataset` and `@trained_model`: assets that write a dataset or train a model, and are registered.

Both make ordinary assets of a user's own code location. Their keys are those under which the
registry shows its datasets and models, so that in the UI they are the same nodes.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_registry_pipelines.catalog_checks import result_of
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lineage import keys
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.errors import InvalidInput, NotFound
from ml_registry_pipelines.registry.names import checked_name, checked_owners, checked_tenant
from ml_registry_pipelines.settings import Settings
from ml_registry_pipelines.training.checking import Checks, checked, declared
from ml_registry_pipelines.training.models import TrainedModel
from ml_registry_pipelines.training.recording import How, Recorded, Recorder, code_commit
from ml_registry_pipelines.training.resource import RegistryResource
from ml_registry_pipelines.training.sets import TrainingSet

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.suites.asset_checks import DeclaredCheck
    from ml_registry_pipelines.registry.things import Thing

REGISTRY = "registry"
"""Key of the `RegistryResource` among a location's resources."""
CONTEXT = "context"
LOOK_BACK = 100
"""Materializations among which one of a known dataset version is looked for."""
_TEAM = re.compile(r"team:[A-Za-z0-9_-]+")
DATASET = "mlreg/dataset"
"""Metadata of an asset: name of the dataset that it writes."""

Datasets = Sequence[str | dg.AssetsDefinition] | Mapping[str, str | dg.AssetsDefinition]
"""Datasets by name or by the asset that writes them; a mapping says for which parameter each is."""


def dataset_key(name: str, *, tenant: str = "default") -> dg.AssetKey:
    """The asset key of a dataset, in every location."""
    return dg.AssetKey(keys.dataset_key(checked_tenant(tenant), checked_name(name)))


def model_key(name: str, *, tenant: str = "default") -> dg.AssetKey:
    """The asset key of a model, in every location."""
    return dg.AssetKey(keys.model_key(checked_tenant(tenant), checked_name(name)))


@dataclass(frozen=True)
class _Options:
    """What both decorators hand on to Dagster."""

    name: str
    tenant: str
    key: dg.AssetKey
    description: str
    owners: Sequence[str]
    group_name: str
    kinds: set[str]
    code_version: str | None
    deps: Sequence[dg.AssetKey]
    pool: str | None
    retry_policy: dg.RetryPolicy | None
    automation_condition: Any
    metadata: Mapping[str, Any]
    checks: Checks | None = None
    check_specs: Sequence[DeclaredCheck] = ()


@dataclass(frozen=True)
class _Input:
    """A dataset that fills one parameter of the decorated function."""

    dataset: str
    key: dg.AssetKey


def tracked_dataset(
    name: str,
    *,
    tenant: str = "default",
    derived_from: Datasets = (),
    description: str | None = None,
    owners: Sequence[str] = (),
    group_name: str = "datasets",
    kinds: set[str] | None = None,
    code_version: str | None = None,
    deps: Sequence[dg.CoercibleToAssetKey] = (),
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None,
) -> Callable[[Callable[..., str | Path | Uri]], dg.AssetsDefinition]:
    """An asset that writes a dataset: what the function returns the address of becomes a dataset version.

    The function writes a Delta table or Parquet or CSV files and returns where. Content that is
    as it was makes no new version. It may take the context, configuration, resources, and one
    `TrainingSet` for each dataset of `derived_from`.

    Args:
        name: of the dataset, as the registry knows it.
        derived_from: datasets that this one is made from.
        description: by default the function's docstring.
        owners: teams such as `team:risk`; they become the dataset's, where it is new.
        deps: assets that it depends on and that are no datasets of the registry.

    Example:
        >>> @tracked_dataset("credit")  # doctest: +SKIP
        ... def credit() -> Path:
        ...     return write_credit_table()
    """

    def decorate(function: Callable[..., str | Path | Uri]) -> dg.AssetsDefinition:
        inputs = _inputs(function, derived_from, tenant, "derived_from")
        options = _Options(
            name=name,
            tenant=tenant,
            key=dataset_key(name, tenant=tenant),
            description=_described(function, description),
            owners=owners,
            group_name=group_name,
            kinds=kinds or {"dataset"},
            code_version=code_version or _code_version(function),
            deps=[*(i.key for i in inputs.values()), *map(_key, deps)],
            pool=pool,
            retry_policy=retry_policy,
            automation_condition=automation_condition,
            metadata={DATASET: name},
        )
        return _asset(function, options, inputs, partial(_write, options=options, inputs=inputs))

    return decorate


def trained_model(
    name: str,
    *,
    trained_on: Datasets,
    evaluated_on: Datasets = (),
    checks: Checks | None = None,
    tenant: str = "default",
    description: str | None = None,
    owners: Sequence[str] = (),
    group_name: str = "models",
    kinds: set[str] | None = None,
    code_version: str | None = None,
    deps: Sequence[dg.CoercibleToAssetKey] = (),
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None,
) -> Callable[[Callable[..., object]], dg.AssetsDefinition]:
    """An asset that trains a model: what the function returns becomes a version of it.

    The function takes one `TrainingSet` for each dataset, besides the context, configuration and
    resources if it wants them, and returns an estimator or a `TrainedModel`. A run that is
    carried out again registers nothing twice, and training that comes to the same model on the
    same data is recognised.

    Args:
        name: of the model, as the registry knows it.
        trained_on, evaluated_on: datasets, each read in the version that is the newest when the
            step begins.
        checks: columns of the evaluation that the function returns, and suites of checks. Each
            expectation becomes an asset check of the run, blocking where it is critical; the
            suites' files below MLREG_HOME are read when the location is loaded.
        description: by default the function's docstring.
        owners: teams such as `team:risk`; they become the model's, where it is new.
        code_version: by default a digest of the function's source.

    Example:
        >>> @trained_model("risk", trained_on=["credit"])  # doctest: +SKIP
        ... def risk(credit: TrainingSet) -> TrainedModel:
        ...     rows = credit.to_pandas()
        ...     return TrainedModel(LogisticRegression().fit(rows[["age"]], rows["good"]))
    """

    def decorate(function: Callable[..., object]) -> dg.AssetsDefinition:
        training = _inputs(function, trained_on, tenant, "trained_on")
        evaluation = _inputs(function, evaluated_on, tenant, "evaluated_on")
        if both := sorted(training.keys() & evaluation.keys()):
            raise _misdeclared(function, f"{', '.join(both)} stands in trained_on and in evaluated_on")
        inputs = {**training, **evaluation}
        options = _Options(
            name=name,
            tenant=tenant,
            key=model_key(name, tenant=tenant),
            description=_described(function, description),
            owners=owners,
            group_name=group_name,
            kinds=kinds or {"model"},
            code_version=code_version or _code_version(function),
            deps=[*(i.key for i in inputs.values()), *map(_key, deps)],
            pool=pool,
            retry_policy=retry_policy,
            automation_condition=automation_condition,
            metadata={"mlreg/model": name},
            checks=checks,
            check_specs=() if checks is None else declared(checks, Settings.from_environment().home),
        )
        work = partial(_train, options=options, inputs=inputs, training=list(training))
        return _asset(function, options, inputs, work)

    return decorate


# -- what a step does ---------------------------------------------------------------------------

Call = Callable[[Mapping[str, TrainingSet]], object]
Work = Callable[[dg.AssetExecutionContext, Recorder, Call, Callable[..., object]], dg.MaterializeResult[Any]]


def _write(
    context: dg.AssetExecutionContext,
    recorder: Recorder,
    call: Call,
    function: Callable[..., object],
    *,
    options: _Options,
    inputs: Mapping[str, _Input],
) -> dg.MaterializeResult[Any]:
    """Let the function write, and track what it wrote."""
    sets, tags = _resolved(context.instance, recorder, inputs)
    source = call(sets)
    if not isinstance(source, str | Path | Uri):
        raise InvalidInput(
            f"{function.__name__} returned a {type(source).__name__}; return where the dataset lies: "
            "a path, the address of a Delta table, or a Uri with its digest"
        )
    version = recorder.track(
        options.name,
        source,
        description=options.description,
        owners=options.owners,
        derived_from=list(sets.values()),
    )
    return dg.MaterializeResult(
        data_version=dg.DataVersion(str(version.metadata["digest"])),
        metadata=_dataset_metadata(version),
        tags=tags,
    )


def _train(
    context: dg.AssetExecutionContext,
    recorder: Recorder,
    call: Call,
    function: Callable[..., object],
    *,
    options: _Options,
    inputs: Mapping[str, _Input],
    training: Sequence[str],
) -> dg.MaterializeResult[Any]:
    """Let the function train, and register what it made, unless an earlier attempt of the step has."""
    recorded = recorder.before()
    rows = None
    if recorded is None:
        sets, tags = _resolved(context.instance, recorder, inputs)
        made = call(sets)
        rows = made.evaluation if isinstance(made, TrainedModel) else None
        recorded = recorder.record(
            options.name,
            made if isinstance(made, TrainedModel) else TrainedModel(made),
            trained_on=[sets[parameter] for parameter in training],
            evaluated_on=[each for parameter, each in sets.items() if parameter not in training],
            code_commit=code_commit(_file(function)),
            code_version=options.code_version,
            description=options.description,
            owners=options.owners,
        )
    else:
        learned = recorder.sets_of(recorded.version)
        sets = {p: learned[given.dataset] for p, given in inputs.items() if given.dataset in learned}
        tags = {}
        for parameter, read in sets.items():
            heard = _heard_of(context.instance, inputs[parameter].key, read)
            tags |= _provenance(inputs[parameter].key, read, heard)
    context.log.info("%s %s", recorded.version.reference, recorded.how.value)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(recorded.version.content_digest),
        metadata={**_model_metadata(recorded, sets.values()), **_likeness(recorder, recorded)},
        tags=tags,
        check_results=_checked(context, recorder, recorded, options, rows),
    )


def _likeness(recorder: Recorder, recorded: Recorded) -> dict[str, Any]:
    """The model's nearest relatives, as far as there are vectors, and the page that has more of them."""
    from ml_registry_pipelines.search.relatives import nearest_told, search_address

    registry, model = recorder.registry, recorded.version.model_id
    near = nearest_told(registry.log, model, actor=registry.actor, tenant=registry.tenant)
    return {
        "search": dg.MetadataValue.url(search_address(registry.tenant, model)),
        **({"nearest relatives": near} if near else {}),
    }


def _checked(
    context: dg.AssetExecutionContext, recorder: Recorder, recorded: Recorded, options: _Options, rows: object
) -> list[dg.AssetCheckResult]:
    """What the declared suites say of the version."""
    if options.checks is None:
        return []
    answers, problem = checked(recorder, recorded.version, options.checks, options.check_specs, rows)
    if problem:
        context.log.error("the evaluation of %s is not kept: %s", recorded.version.reference, problem)
    return [result_of(options.key, answer) for answer in answers]


def _resolved(
    instance: dg.DagsterInstance, recorder: Recorder, inputs: Mapping[str, _Input]
) -> tuple[dict[str, TrainingSet], dict[str, str]]:
    """The newest version of each dataset, and the tags that say which it was.

    Dagster's own tags say what Dagster knew when the step began. A dataset that changed without
    it, such as by `mlreg datasets track`, is reported here, or the asset would seem stale for ever.
    """
    sets: dict[str, TrainingSet] = {}
    tags: dict[str, str] = {}
    for parameter, given in inputs.items():
        read = recorder.newest(given.dataset)
        while (heard := _newest_heard_of(instance, given.key, read)) is None:
            # Whoever writes the dataset tracks a version first and tells Dagster then.
            if (again := recorder.newest(given.dataset)).id == read.id:
                _report(instance, given.key, read)
            read = again
        sets[parameter] = read
        tags |= _provenance(given.key, read, heard)
    return sets, tags


def _report(instance: dg.DagsterInstance, key: dg.AssetKey, read: TrainingSet) -> None:
    tags = {"dagster/data_version": read.digest, "dagster/data_version_is_user_provided": "true"}
    rows = {} if read.rows is None else {"dagster/row_count": read.rows}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(key, metadata={"version": read.number, **rows}, tags=tags)
    )


def _newest_heard_of(instance: dg.DagsterInstance, key: dg.AssetKey, read: TrainingSet) -> int | None:
    """Storage id of the newest materialization, if it is of that version."""
    newest = instance.get_latest_data_version_record(key)
    return newest.storage_id if newest is not None and _data_version(newest) == read.digest else None


def _heard_of(instance: dg.DagsterInstance, key: dg.AssetKey, read: TrainingSet) -> int | None:
    """Storage id of the last of the newest materializations that is of that version."""
    records = instance.fetch_materializations(key, limit=LOOK_BACK).records
    return next((record.storage_id for record in records if _data_version(record) == read.digest), None)


def _provenance(key: dg.AssetKey, read: TrainingSet, heard: int | None) -> dict[str, str]:
    name = key.to_user_string()
    return {
        f"dagster/input_data_version/{name}": read.digest,
        f"dagster/input_event_pointer/{name}": "NULL" if heard is None else str(heard),
    }


def _data_version(record: dg.EventLogRecord) -> str | None:
    event = record.asset_materialization
    return None if event is None else (event.tags or {}).get("dagster/data_version")


# -- what a person sees of it --------------------------------------------------------------------


def _dataset_metadata(version: Thing) -> dict[str, Any]:
    facts = version.metadata
    columns = [dg.TableColumn(name=c["name"], type=c["type"]) for c in facts["columns"]]
    return {
        "version": int(facts["number"]),
        "digest": facts["digest"],
        "location": facts["location"],
        "dagster/column_schema": dg.TableSchema(columns=columns),
        **({} if facts["rows"] is None else {"dagster/row_count": int(facts["rows"])}),
    }


def _model_metadata(recorded: Recorded, sets: typing.Iterable[TrainingSet]) -> dict[str, Any]:
    version = recorded.version
    facts: dict[str, Any] = {
        "version": version.number,
        "reference": version.reference,
        "how": recorded.how.value,
        "new": recorded.how is How.NEW,
        "content digest": version.content_digest,
        "datasets": ", ".join(each.reference for each in sets),
        "parameters": dg.MetadataValue.json(dict(version.parameters)),
        "size in bytes": version.size,
        "framework": version.framework,
        "code commit": version.code_commit,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    # Floats, so that the UI plots them over the versions, under names that are theirs alone.
    for name, value in sorted(version.metrics.items()):
        own = name in facts or name.startswith("dagster/")
        known[f"metric {name}" if own else name] = float(value)
    return known


# -- making the asset ----------------------------------------------------------------------------


def _asset(
    function: Callable[..., Any], options: _Options, inputs: Mapping[str, _Input], work: Work
) -> dg.AssetsDefinition:
    passed = _passed_on(function, inputs)

    def compute(context: dg.AssetExecutionContext, **given: Any) -> dg.MaterializeResult[Any]:
        registry: RegistryResource = given[REGISTRY]
        own = {CONTEXT: context, **given}

        def call(sets: Mapping[str, TrainingSet]) -> object:
            return function(**{name: own[name] for name in passed}, **sets)

        with _one_sentence(), registry.open() as log:
            step = options.key.to_user_string()
            recorder = Recorder(
                log, tenant=options.tenant, run_id=context.run.run_id, step=step, tags=context.run.tags
            )
            recorder.registry.warn = context.log.warning
            return work(context, recorder, call, function)

    _sign(compute, function, passed)
    owners = checked_owners(options.owners)
    spec = dg.AssetSpec(
        key=options.key,
        description=options.description,
        # Dagster knows people by e-mail address, which the registry never keeps.
        owners=[owner for owner in owners if _TEAM.fullmatch(owner)],
        group_name=options.group_name,
        kinds=options.kinds,
        code_version=options.code_version,
        metadata={**options.metadata, **({"owners": ", ".join(owners)} if owners else {})},
        automation_condition=options.automation_condition,
    )
    deps = dict.fromkeys(options.deps)
    return dg.multi_asset(
        name=_identifier(options.key),
        # Names of ours: Dagster would make them of the keys, which hold what no name may.
        ins={f"data_{n}": dg.AssetIn(key, dagster_type=dg.Nothing) for n, key in enumerate(deps)},
        outs={"result": dg.AssetOut.from_spec(spec, dagster_type=dg.Nothing)},
        check_specs=[
            dg.AssetCheckSpec(
                each.name, asset=options.key, description=each.description, blocking=each.blocking
            )
            for each in options.check_specs
        ],
        pool=options.pool,
        retry_policy=options.retry_policy,
    )(compute)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What the registry refuses ends the step with the one sentence that says why."""
    try:
        yield
    except MlregError as failure:
        for_good = isinstance(failure, InvalidInput | NotFound)
        raise dg.Failure(str(failure), allow_retries=not for_good) from failure


def _inputs(
    function: Callable[..., object], datasets: Datasets, tenant: str, where: str
) -> dict[str, _Input]:
    """The datasets by the parameters that they fill.

    Raises:
        InvalidInput: a parameter for one of them is missing, or its name can be none.
    """
    if isinstance(datasets, str):
        raise _misdeclared(function, f"{where} is one text; give a list of datasets, [{datasets!r}]")
    found: dict[str, _Input] = {}
    pairs = datasets.items() if isinstance(datasets, Mapping) else [(None, each) for each in datasets]
    parameters = inspect.signature(function).parameters
    for parameter, given in pairs:
        one = _input(function, given, tenant)
        name = one.dataset if parameter is None else parameter
        if name not in parameters:
            raise _misdeclared(
                function,
                f"no parameter is called {name!r}, for dataset {one.dataset!r} of {where}; "
                f"add one, or name another by {where}={{'parameter': {one.dataset!r}}}",
            )
        found[name] = one
    return found


def _input(function: Callable[..., object], given: str | dg.AssetsDefinition, tenant: str) -> _Input:
    if isinstance(given, str):
        return _Input(given, dataset_key(given, tenant=tenant))
    named = [spec.metadata[DATASET] for spec in given.specs if DATASET in spec.metadata]
    if not named:
        raise _misdeclared(
            function, f"{given.op.name} was not made by @tracked_dataset; give the name of a dataset"
        )
    return _Input(str(named[0]), given.key)


def _passed_on(function: Callable[..., object], inputs: Mapping[str, _Input]) -> dict[str, inspect.Parameter]:
    """The parameters that Dagster fills: context, configuration, resources."""
    passed = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY}:
            raise _misdeclared(function, f"parameter {name!r} has no name to be given by; spell each one out")
        if name in inputs:
            continue
        if parameter.annotation is TrainingSet or parameter.annotation == TrainingSet.__name__:
            raise _misdeclared(function, f"parameter {name!r} is a TrainingSet and stands for no dataset")
        passed[name] = parameter
    return passed


def _sign(
    compute: Callable[..., object], function: Callable[..., object], passed: Mapping[str, inspect.Parameter]
) -> None:
    """Let `compute` look as if it took what the function takes from Dagster, and the registry."""

    def holder() -> None: ...

    holder.__annotations__ = {
        name: parameter.annotation
        for name, parameter in passed.items()
        if parameter.annotation is not inspect.Parameter.empty
    }
    # Annotations may be text; only those that Dagster has to understand are resolved.
    hints = typing.get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    wanted = {CONTEXT: dg.AssetExecutionContext, **dict.fromkeys(passed, inspect.Parameter.empty), **hints}
    wanted |= {CONTEXT: dg.AssetExecutionContext, REGISTRY: RegistryResource}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    compute.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in wanted.items()],
        return_annotation=inspect.Signature.empty,
    )
    compute.__annotations__ = {n: a for n, a in wanted.items() if a is not inspect.Parameter.empty}
    compute.__name__, compute.__doc__ = function.__name__, function.__doc__


def _misdeclared(function: Callable[..., object], what: str) -> InvalidInput:
    return InvalidInput(f"{function.__module__}.{function.__qualname__}: {what}")


def _key(given: dg.CoercibleToAssetKey) -> dg.AssetKey:
    return dg.AssetKey.from_coercible(given)


def _described(function: Callable[..., object], description: str | None) -> str:
    return inspect.cleandoc(function.__doc__ or "") if description is None else description


def _code_version(function: Callable[..., object]) -> str | None:
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return None


def _file(function: Callable[..., object]) -> Path | None:
    try:
        found = inspect.getsourcefile(function)
    except TypeError:
        return None
    return Path(found) if found and Path(found).is_file() else None


def _identifier(key: dg.AssetKey) -> str:
    """The key as the name of an op, and of its logs' folder: short, and different for different keys."""
    whole = "__".join(key.path)
    plain = re.sub(r"[^A-Za-z0-9_]", "_", whole)[:100]
    return plain if plain == whole else f"{plain}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
