"""Suites: which metrics are checked against which thresholds, as a compliance officer writes them in YAML.

A suite is read strictly: what is not understood is a problem with its line and the nearest name that
is known. Where the files lie is in `files.py`, how they are run in `running.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ml_registry_pipelines.compliance.metrics import Bound, Metric, Parameters, catalogue
from ml_registry_pipelines.compliance.results import Severity
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.strict_yaml import strict_loader

if TYPE_CHECKING:
    import yaml

OF_SUITE = ("suite", "description", "expectations")
OF_EXPECTATION = ("metric", "name", "severity", "article", "at_most", "at_least", "parameters")
MOST_EXPECTATIONS = 200
LONGEST = 300
_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a suite, and on which line."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


class SuiteInvalid(MlregError):
    """A suite cannot be run as it stands."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        super().__init__(f"{where}: " + "; ".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Expectation:
    """One metric against one threshold. `name` is unique within the suite."""

    name: str
    metric: Metric
    severity: Severity
    article: str
    at_least: float | None
    at_most: float | None
    parameters: Parameters

    def recorded(self) -> dict[str, Any]:
        """What of it decides about a verdict, as JSON."""
        return {
            "name": self.name,
            "metric": self.metric.name,
            "severity": self.severity.value,
            "article": self.article,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "parameters": self.parameters.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Suite:
    """A suite as it was read.

    Attributes:
        expectations: those that are understood.
        problems: none, in a suite that is valid.
        place: where it was read from, for a person.
    """

    name: str
    description: str
    expectations: tuple[Expectation, ...]
    problems: tuple[Problem, ...] = ()
    place: str = ""
    text_digest: str = field(default="", repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides about verdicts: comments and layout do not; of a suite with problems, of its text."""
        if self.problems:
            return self.text_digest
        return digest(
            {
                "suite": self.name,
                "expectations": [expectation.recorded() for expectation in self.expectations],
            }
        )

    def valid(self) -> Suite:
        """The same.

        Raises:
            SuiteInvalid: it has problems.
        """
        if self.problems:
            raise SuiteInvalid(self.place or f"suite {self.name}", self.problems)
        return self


def parse(text: str, name: str, *, place: str = "") -> Suite:
    """A suite of its text. What is wrong with it stands in `problems`; what is sound is kept.

    Args:
        name: that its file has, without `.yaml`.
    """
    return _Reader(text, name, place).suite()


class _Reader:
    def __init__(self, text: str, name: str, place: str) -> None:
        self.text, self.name, self.place = text, name, place
        self.problems: list[Problem] = []
        self.lines: dict[_Path, int] = {}

    def suite(self) -> Suite:
        data = self._data()
        expectations: list[Expectation] = []
        description = ""
        if data is not None:
            self._known((), data, OF_SUITE)
            if data.get("suite") != self.name:
                self._wrong(
                    ("suite",), f"suite is {data.get('suite')!r}; it is named as its file is, {self.name}"
                )
            description = self._text(data, "description")
            expectations = list(self._expectations(data.get("expectations")))
        return Suite(
            self.name,
            description,
            tuple(expectations),
            tuple(sorted(self.problems, key=lambda problem: problem.line)),
            self.place,
            sha256(self.text.encode("utf-8", "replace")).hexdigest(),
        )

    def _data(self) -> dict[Any, Any] | None:
        import yaml

        loader = strict_loader(texts=False)
        try:
            data = yaml.load(self.text, loader)  # noqa: S506 - it is safe, and stricter
            root = yaml.compose(self.text, loader)
        except yaml.YAMLError as failure:
            mark = getattr(failure, "problem_mark", None)
            said = getattr(failure, "problem", None) or "it cannot be read"
            self.problems.append(Problem(mark.line + 1 if mark else 1, f"this is no YAML: {said}"))
            return None
        if root is not None:
            self._note((), root)
        if not isinstance(data, dict):
            self.problems.append(Problem(1, "a suite is a mapping with suite and expectations"))
            return None
        return data

    def _note(self, path: _Path, node: yaml.Node) -> None:
        import yaml

        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*path, str(key.value))
                self.lines[inner] = key.start_mark.line + 1
                self._note(inner, value)
        elif isinstance(node, yaml.SequenceNode):
            for n, value in enumerate(node.value):
                self._note((*path, n), value)

    def _wrong(self, path: _Path, text: str) -> None:
        while path and path not in self.lines:
            path = path[:-1]
        self.problems.append(Problem(self.lines.get(path, 1), text))

    def _known(self, path: _Path, given: Mapping[Any, Any], known: Sequence[str]) -> None:
        for key in given:
            if key not in known:
                self._wrong((*path, str(key)), f"{_short(key)} is not known{_nearest(str(key), known)}")

    def _text(self, given: Mapping[Any, Any], key: str, path: _Path = ()) -> str:
        value = given.get(key, "")
        if not isinstance(value, str):
            self._wrong((*path, key), f"{key} is text, not {_short(value)}")
            return ""
        return value.strip()

    def _expectations(self, given: object) -> Iterator[Expectation]:
        if not isinstance(given, list) or not 1 <= len(given) <= MOST_EXPECTATIONS:
            self._wrong(("expectations",), f"expectations is a list of 1 to {MOST_EXPECTATIONS} entries")
            return
        names: set[str] = set()
        for n, entry in enumerate(given):
            before = len(self.problems)
            found = self._expectation(("expectations", n), entry)
            if found is not None and found.name in names:
                self._wrong(
                    ("expectations", n, "name"),
                    f"{_short(found.name)} stands twice; give each expectation a name of its own",
                )
            if found is not None and len(self.problems) == before:
                names.add(found.name)
                yield found

    def _expectation(self, path: _Path, entry: object) -> Expectation | None:
        if not isinstance(entry, dict):
            self._wrong(
                path,
                f"an expectation is a mapping with metric, severity and a threshold, not {_short(entry)}",
            )
            return None
        self._known(path, entry, OF_EXPECTATION)
        known = catalogue()
        named = entry.get("metric")
        metric = known.get(named) if isinstance(named, str) else None
        if metric is None:
            said = "has no metric" if named is None else f"metric {_short(named)} is not known"
            self._wrong((*path, "metric"), f"{said}{_nearest(str(named), known)}")
            return None
        severity = self._severity(path, entry)
        low, high = self._bounds(path, entry, metric)
        name = self._text(entry, "name", path) or metric.name
        if len(name) > LONGEST or not name.isprintable():
            self._wrong((*path, "name"), f"a name has at most {LONGEST} characters that can be shown")
        article = self._text(entry, "article", path) or "; ".join(metric.articles)
        parameters = self._parameters(path, entry, metric)
        if severity is None or parameters is None:
            return None
        return Expectation(name, metric, severity, article, low, high, parameters)

    def _severity(self, path: _Path, entry: Mapping[Any, Any]) -> Severity | None:
        given = entry.get("severity")
        names = [severity.value for severity in Severity]
        if given not in names:
            said = "has no severity" if given is None else f"severity {_short(given)} is not known"
            self._wrong((*path, "severity"), f"{said}; it is {', '.join(names[:-1])} or {names[-1]}")
            return None
        return Severity(given)

    def _bounds(
        self, path: _Path, entry: Mapping[Any, Any], metric: Metric
    ) -> tuple[float | None, float | None]:
        wanted = {
            Bound.AT_MOST: ("at_most",),
            Bound.AT_LEAST: ("at_least",),
            Bound.BETWEEN: ("at_least", "at_most"),
        }[metric.bound]
        found: dict[str, float] = {}
        for key in ("at_least", "at_most"):
            if key not in entry:
                if key in wanted:
                    self._wrong(
                        path, f"{metric.name} has no {key}: a threshold is required, there is no default"
                    )
                continue
            value = entry[key]
            if key not in wanted:
                self._wrong((*path, key), f"{metric.name} is judged by {' and '.join(wanted)}, not by {key}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                self._wrong((*path, key), f"{key} is a number, not {_short(value)}")
            else:
                found[key] = float(value)
        low, high = found.get("at_least"), found.get("at_most")
        if low is not None and high is not None and low > high:
            self._wrong((*path, "at_least"), f"at_least {low:g} is above at_most {high:g}")
        return low, high

    def _parameters(self, path: _Path, entry: Mapping[Any, Any], metric: Metric) -> Parameters | None:
        given = entry.get("parameters", {})
        here = (*path, "parameters")
        if not isinstance(given, dict):
            self._wrong(here, f"parameters is a mapping, not {_short(given)}")
            return None
        try:
            # As JSON, in which a list may fill a tuple and a text a choice, and nothing else is bent.
            return metric.parameters.model_validate_json(json.dumps(given))
        except (TypeError, ValueError) as failure:
            if not isinstance(failure, ValidationError):
                self._wrong(here, "parameters hold something that JSON cannot say")
                return None
            for one in failure.errors(include_url=False, include_input=False):
                self._parameter(here, metric, one["type"], tuple(one["loc"]), one["msg"])
            return None

    def _parameter(self, path: _Path, metric: Metric, kind: str, loc: _Path, said: str) -> None:
        name = ".".join(map(str, loc))
        match kind:
            case "extra_forbidden":
                nearest = _nearest(name, list(metric.parameters.model_fields))
                self._wrong((*path, *loc), f"{metric.name} has no parameter {_short(name)}{nearest}")
            case "missing":
                self._wrong(
                    path, f"{metric.name} has no value for parameter {_short(name)}, which is required"
                )
            case _:
                what = f"parameter {_short(name)}" if name else "parameters"
                self._wrong((*path, *loc), f"{what} of {metric.name}: {said[:1].lower()}{said[1:]}")


def _nearest(given: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """What may have been meant; with few names, all of them."""
    names = sorted(known)
    if near := get_close_matches(given, names, n=1, cutoff=0.5):
        return f"; did you mean {near[0]}?"
    if 0 < len(names) <= 10:
        return f"; known: {', '.join(names)}"
    return "; `mlreg suites metrics` lists what there is"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
