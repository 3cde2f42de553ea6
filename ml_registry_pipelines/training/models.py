"""What training code returns, and how it becomes files, a signature and a list of parameters.

Nothing here loads a model. Estimators are written with joblib, that is as pickles, because
scikit-learn has no other format of its own: whoever loads one runs the code that is in it.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.registry.versions import Artifact

JOBLIB = "joblib"
FILE = "model.joblib"
ENVIRONMENT = "environment"
"""Kind of the artifact that lists the packages with which the model was trained and can be loaded."""
LONGEST_PARAMETER = 1000
"""Characters of a parameter that is not plain JSON, as its text."""


@dataclass(frozen=True)
class TrainedModel:
    """What a training asset returns: the model, and what is to be recorded of it.

    Args:
        model: an estimator that follows scikit-learn's conventions, which is stored with joblib;
            or a file or folder in any format that the training code has written itself.
        metrics: finite numbers by name.
        parameters: hyperparameters, as JSON; by default those that an estimator names itself.
        inputs, outputs: examples of what goes in and comes out (data frames, Arrow tables, arrays),
            of which names and types are kept, and no values.
        signature: input and output schema as JSON, instead of the examples.
        framework: by default the distribution that the estimator's class comes from.
        artifacts: more to be stored with the version: an evaluation, a model card ...
        base_model: the version that it was made from, `base@v3`.
        licence: licence id, such as Apache-2.0.
        evaluation: predictions with labels and groups, as an Arrow table or a data frame, with the columns
            that the asset's `checks` declare; nothing else of it is kept.
    """

    model: object
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    inputs: object = None
    outputs: object = None
    signature: Mapping[str, Any] | None = None
    framework: str | None = None
    artifacts: Sequence[Artifact] = ()
    description: str = ""
    tags: Mapping[str, TagValue] = field(default_factory=dict)
    base_model: str | None = None
    licence: str | None = None
    evaluation: object = None


@dataclass(frozen=True)
class Prepared:
    """A trained model as the registry takes it."""

    content: Path
    artifacts: tuple[Artifact, ...]
    signature: Mapping[str, Any] | None
    parameters: Mapping[str, Any]
    framework: str | None
    metrics: Mapping[str, float]
    tags: Mapping[str, TagValue]


def prepared(trained: TrainedModel, folder: Path) -> Prepared:
    """Write what has to be written into `folder`.

    Raises:
        InvalidInput: the model is neither an estimator nor a file.
    """
    if isinstance(trained.model, str | Path):
        content, framework, estimator = Path(trained.model), trained.framework, None
        added: list[Artifact] = []
        tags = dict(trained.tags)
    else:
        estimator = trained.model
        content = _dump(estimator, folder / FILE)
        framework = trained.framework or framework_of(estimator)
        added = _environment(framework, folder)
        tags = {"format": JOBLIB, **trained.tags}
    own = _parameters(estimator) if trained.parameters is None else trained.parameters
    return Prepared(
        content=content,
        artifacts=(*trained.artifacts, *added),
        signature=_signature(trained),
        parameters={str(name): recordable(value) for name, value in own.items()},
        framework=framework,
        metrics={name: _plain_number(value) for name, value in trained.metrics.items()},
        tags=tags,
    )


def _dump(estimator: object, file: Path) -> Path:
    if not callable(getattr(estimator, "get_params", None)):
        raise InvalidInput(
            f"a {type(estimator).__name__} is no scikit-learn estimator; write the model to a file or folder "
            "in its framework's own format and return TrainedModel(path, ...)"
        )
    import joblib

    joblib.dump(estimator, file)
    return file


def _parameters(estimator: object) -> Mapping[str, Any]:
    """What a scikit-learn estimator says of itself, nested ones included but not as objects."""
    if estimator is None:
        return {}
    params: Mapping[str, Any] = estimator.get_params(deep=True)  # type: ignore[attr-defined]
    nested = {name.rpartition("__")[0] for name in params} - {""}
    return {name: value for name, value in sorted(params.items()) if name not in nested and name != "steps"}


def recordable(value: object) -> Any:
    """The value as JSON; what JSON cannot say, as text."""
    if callable(item := getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        value = item()
    match value:
        case None | bool() | str():
            return value
        case float() if not math.isfinite(value):
            return str(value)
        case int() | float():
            return value
        case list() | tuple():
            return [recordable(each) for each in value]
        case Mapping():
            return {str(key): recordable(each) for key, each in value.items()}
        case _:
            # An address in memory would make each run look different.
            text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
            return text if len(text) <= LONGEST_PARAMETER else f"{text[:LONGEST_PARAMETER]}..."


def _plain_number(value: Any) -> float:
    """The value; a number of NumPy's or another library's as one of Python's."""
    plain: float = value.item() if callable(getattr(value, "item", None)) else value
    return plain


# -- schema ------------------------------------------------------------------------------------


def _signature(trained: TrainedModel) -> Mapping[str, Any] | None:
    if trained.signature is not None:
        return trained.signature
    if trained.inputs is None and trained.outputs is None:
        return None
    return {"inputs": schema_of(trained.inputs), "outputs": schema_of(trained.outputs)}


def schema_of(example: object) -> list[dict[str, Any]]:
    """Names and types of what an example holds: one entry per column, or one for an array.

    Raises:
        InvalidInput: it is no data frame, series, Arrow table or array.
    """
    if example is None:
        return []
    if (schema := getattr(example, "schema", None)) is not None and hasattr(schema, "names"):
        return [{"name": str(column.name), "type": str(column.type)} for column in schema]
    types = getattr(example, "dtypes", None)
    if types is not None and hasattr(types, "items"):
        return [{"name": str(name), "type": str(type_)} for name, type_ in types.items()]
    shape, type_ = getattr(example, "shape", None), getattr(example, "dtype", None)
    if shape is None or type_ is None:
        raise InvalidInput(
            f"a {type(example).__name__} shows no schema; give a data frame, an Arrow table, an array, "
            "or the signature itself"
        )
    name = getattr(example, "name", None)
    entry = {} if name is None else {"name": str(name)}
    # The first dimension counts the examples.
    return [{**entry, "type": str(type_), "shape": [None, *map(int, shape[1:])]}]


# -- where it comes from -------------------------------------------------------------------------


def framework_of(estimator: object) -> str | None:
    """The distribution that the class, or the first of its bases that has one, was installed by."""
    for base in type(estimator).__mro__:
        if found := _installed().get(base.__module__.partition(".")[0]):
            return found[0]
    return None


@cache
def _installed() -> Mapping[str, Sequence[str]]:
    """The distributions that installed each top-level module: half a second for some hundred of them."""
    return importlib.metadata.packages_distributions()


def _environment(framework: str | None, folder: Path) -> list[Artifact]:
    """The exact versions of the framework and all that it needs, as a requirements file."""
    if framework is None:
        return []
    pins = sorted(f"{name}=={version}" for name, version in _needed(framework).items())
    file = folder / "requirements.txt"
    file.write_text("\n".join([*pins, ""]), encoding="utf-8")
    return [Artifact(ENVIRONMENT, file)]


def _needed(distribution: str) -> dict[str, str]:
    """The distribution and everything installed that it requires, with versions."""
    found: dict[str, str] = {}
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += _required(name)
    return found


def _required(distribution: str) -> Iterator[str]:
    for requirement in importlib.metadata.requires(distribution) or ():
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and "extra ==" not in requirement:
            yield name[0]
