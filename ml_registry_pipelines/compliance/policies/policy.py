"""The policy of approvals: what a version needs before it goes live, read from a file that people edit.

`compliance-policy.yaml` below the home replaces the shipped `default.yaml` as a whole, so that what holds
stands in one file. What is not understood is an error with its line, and while there is one nothing that is
gated goes live. Whether a policy is in force at all is decided in `compliance/gate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.strict_yaml import strict_loader

if TYPE_CHECKING:
    import yaml

FILE = "compliance-policy.yaml"
DECLARED = "*"
"""Every suite that a version declares, at least one."""
WORST = "worst"
MOST_APPROVALS = 10
OF_MLFLOW = "mlflow-"
"""Begins an alias of an MLflow server whose own name means a stage here (`exchange/mlflow_facts.py`)."""


class PolicyError(MlregError):
    """The policy's file does not say what it has to."""


class RiskClass(Enum):
    """Classes of the EU AI Act, the worst first."""

    PROHIBITED = "prohibited"
    HIGH_RISK = "high_risk"
    UNDETERMINED = "undetermined"
    DEROGATED = "not_high_risk_derogated"
    TRANSPARENCY = "transparency"
    MINIMAL = "minimal"
    OUT_OF_SCOPE = "out_of_scope"


ROLES = ("reviewer", "compliance", "admin", "engineer")
"""Roles whose approval a policy can ask for; a viewer only looks."""
Role = Literal["reviewer", "compliance", "admin", "engineer"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _some_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text.strip()


Text = Annotated[str, AfterValidator(_some_text)]


class Gates(_Strict):
    """Which doors are gated."""

    production: bool
    aliases: tuple[Text, ...] = ()
    protected_aliases: bool = True
    environments: tuple[Text, ...]

    def gates_environment(self, name: str) -> bool:
        return _fits(name, self.environments)

    def gates_alias(self, name: str) -> bool:
        """Whether pointing an alias at a version needs approval: also one that was renamed on its way in."""
        meant = name.strip().casefold().removeprefix(OF_MLFLOW)
        return (
            _fits(name, self.aliases)
            or _fits(meant, self.aliases)
            or (self.production and meant == "production")
        )


class BreakGlass(_Strict):
    """Who may open a gate without approval."""

    roles: tuple[Role, ...] = ("admin", "compliance")
    valid_hours: int = Field(default=4, ge=1, le=72)
    review_within_hours: int = Field(default=72, ge=1, le=24 * 31)


class Requirement(_Strict):
    """What versions of models of one risk class need."""

    forbidden: bool = False
    suites: tuple[Text, ...] = ()
    approvals: dict[Role, Annotated[int, Field(ge=1, le=MOST_APPROVALS)]] = Field(default_factory=dict)
    valid_days: int = Field(default=30, ge=1, le=366)
    dossier: Literal["complete", "not_required"] = "not_required"
    signature: Literal["required", "not_required"] = "not_required"

    @property
    def roles(self) -> dict[str, int]:
        """How many people of each role have to approve."""
        return {str(role): count for role, count in self.approvals.items()}

    @property
    def people(self) -> int:
        """How many people have to approve."""
        return sum(self.approvals.values())

    @property
    def demands(self) -> bool:
        """Whether anything at all is demanded."""
        return bool(
            self.forbidden
            or self.suites
            or self.approvals
            or self.dossier == "complete"
            or self.signature == "required"
        )

    @property
    def strictness(self) -> tuple[bool, int, bool, bool, int]:
        """Of two, the greater one is the stricter."""
        return (
            self.forbidden,
            self.people,
            self.dossier == "complete",
            self.signature == "required",
            len(self.suites),
        )


class PickleException(_Strict):
    """A model whose raw pickles are excused until the end of a day (UTC)."""

    model: Text
    until: date
    reason: Text

    @field_validator("until", mode="before")
    @classmethod
    def _day(cls, given: object) -> object:
        if not isinstance(given, str):
            raise ValueError("write a day, such as 2027-01-31")
        return given


class Policy(_Strict):
    """The whole policy. Every risk class has its entry: what is not said cannot be guessed."""

    version: Literal[1]
    gates: Gates
    unclassified: str = WORST
    break_glass: BreakGlass = BreakGlass()
    classes: dict[RiskClass, Requirement]
    pickle_exceptions: tuple[PickleException, ...] = ()

    @field_validator("unclassified")
    @classmethod
    def _known_class(cls, given: str) -> str:
        known = [WORST, *(c.value for c in RiskClass)]
        if given not in known:
            raise ValueError(f"{given!r} is no class{_nearest(given, known)}")
        return given

    @field_validator("classes")
    @classmethod
    def _all_classes(cls, given: dict[RiskClass, Requirement]) -> dict[RiskClass, Requirement]:
        if missing := [c.value for c in RiskClass if c not in given]:
            raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        if not given[RiskClass.PROHIBITED].forbidden:
            raise ValueError("prohibited: the law leaves no choice; write `forbidden: true`")
        return given

    @property
    def digest(self) -> str:
        """SHA-256 over what it says: comments and the order of keys do not count."""
        return digest(self.model_dump(mode="json"))

    @property
    def worst(self) -> RiskClass:
        """The strictest class that can be approved at all."""
        open_ones = [c for c in RiskClass if not self.classes[c].forbidden]
        if not open_ones:
            return RiskClass.PROHIBITED
        return max(open_ones, key=lambda c: self.classes[c].strictness)

    def class_for(self, risk_class: str | None) -> RiskClass:
        """The class that counts for a model of that class, None where nobody has classified it."""
        if risk_class is not None:
            try:
                return RiskClass(risk_class)
            except ValueError:
                # A class that this policy has never heard of is no reason to be lenient.
                return self.worst
        return self.worst if self.unclassified == WORST else RiskClass(self.unclassified)

    def excused(self, model: str, day: date) -> PickleException | None:
        """The exception that lets a model's raw pickles pass on a day."""
        return next((e for e in self.pickle_exceptions if e.model == model and day <= e.until), None)


@dataclass(frozen=True)
class PolicyInForce:
    """A policy with where it comes from. `shipped`: the home has no file of its own."""

    policy: Policy
    source: str
    shipped: bool


def policy_of(home: str, storage_options: Mapping[str, str] | None = None) -> PolicyInForce:
    """The policy of a home: its file, or the shipped one where it has none.

    Raises:
        PolicyError: the file does not say what it has to.
    """
    folder = open_folder(home, storage_options)
    if not folder.exists(FILE):
        return PolicyInForce(shipped(), "shipped default", shipped=True)
    name = f"{home}/{FILE}"
    try:
        text = folder.read(FILE).decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise PolicyError(f"{name} is no text in UTF-8: {wrong.reason} at byte {wrong.start}") from None
    return PolicyInForce(_read_once(text, name), FILE, shipped=False)


def shipped_text() -> str:
    """The shipped policy as it is written."""
    return Path(__file__).with_name("default.yaml").read_text(encoding="utf-8")


@cache
def shipped() -> Policy:
    """The policy that holds where a home has none."""
    return read_policy(shipped_text(), file="default.yaml")


def read_policy(text: str, *, file: str) -> Policy:
    """Read a policy; `file` is what errors call it.

    Raises:
        PolicyError: with the file, the line, what is wrong, and the nearest name that there is.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=strict_loader(texts=False))
        given = yaml.load(text, Loader=strict_loader(texts=False))  # noqa: S506 - builds plain values alone
    except yaml.YAMLError as wrong:
        raise PolicyError(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(given, dict):
        raise PolicyError(f"{file} has to be a mapping with {', '.join(Policy.model_fields)}")
    try:
        return Policy.model_validate(given)
    except ValidationError as wrong:
        # A name that is misspelled is missing as well, and the one that is there tells more.
        first = min(wrong.errors(include_url=False), key=lambda error: error["type"] == "missing")
        raise PolicyError(f"{file}, line {_line(node, first['loc'])}: {_said(first)}") from None


@cache
def _read_once(text: str, file: str) -> Policy:
    return read_policy(text, file=file)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    plain = name.strip().casefold()
    return any(fnmatchcase(plain, pattern.casefold()) for pattern in patterns)


def _line(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """The line of what an error speaks of, or of the nearest thing above it that is written down."""
    line = 1
    for number, (key, inner) in _walk(node, place):
        line = key.start_mark.line + 1 if number == len(place) or inner is None else inner.start_mark.line + 1
    return line


def _walk(
    node: yaml.Node | None, place: tuple[int | str, ...]
) -> Iterator[tuple[int, tuple[yaml.Node, yaml.Node | None]]]:
    import yaml

    for number, part in enumerate((p for p in place if p != "[key]"), start=1):
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return
            yield number, pair
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            yield number, (node, None)
        else:
            return


def _said(error: Any) -> str:
    place = [str(part) for part in error["loc"] if part != "[key]"]
    where = ".".join(place)
    match error["type"]:
        case "extra_forbidden":
            known = _settings(place[:-1])
            return f"there is no setting {where!r}{_nearest(place[-1], known)}; there are {', '.join(known)}"
        case "missing":
            return f"the setting {where!r} is missing"
        case "value_error":
            return f"{where}: {error['ctx']['error']}"
        case "enum" | "literal_error":
            known = [str(v) for v in _choices(place)]
            return f"{where}: {error['input']!r} is none of {', '.join(known)}{_nearest(str(error['input']), known)}"
        case _:
            return f"{where}: {error['msg']}, not {error['input']!r:.80}"


def _settings(place: list[str]) -> list[str]:
    of: dict[str, type[BaseModel]] = {
        "": Policy,
        "gates": Gates,
        "break_glass": BreakGlass,
        "classes": Requirement,
        "pickle_exceptions": PickleException,
    }
    return list(of[place[0] if place else ""].model_fields)


def _choices(place: list[str]) -> list[object]:
    match place:
        case ["classes", _]:
            return [c.value for c in RiskClass]
        case [*_, "dossier"]:
            return ["complete", "not_required"]
        case [*_, "signature"]:
            return ["required", "not_required"]
        case ["version"]:
            return [1]
        case _:
            return list(ROLES)


def _nearest(given: str, known: list[str]) -> str:
    near = get_close_matches(given, known, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""
