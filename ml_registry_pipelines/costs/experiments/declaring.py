"""What is said of an experiment before it starts, as a value that has been checked.

A declaration is written as a mapping (YAML, JSON, keyword arguments) and recorded as one. What
becomes of it over time is in `experiments.py`; what the words mean for figures is in `deciding.py`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from ml_registry_pipelines.costs.experiments.statistics import planned_units
from ml_registry_pipelines.registry.errors import InvalidInput, shown
from ml_registry_pipelines.registry.names import checked_name, checked_text

E = TypeVar("E", bound=Enum)

MOST_ARMS = 10
MOST_GUARDRAILS = 20
FEWEST_UNITS = 100
"""Labelled units of an arm below which no interval is believed: their coverage is asymptotic."""
ERROR_RATE = "error_rate"
SLOW_SHARE = "slow_share"
REQUEST_METRICS = (ERROR_RATE, SLOW_SHARE)
"""Guardrails that requests answer; every other one is a metric of the outcomes."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_CURRENCY = re.compile(r"[A-Z]{3}")


class Mode(Enum):
    """What a candidate has to show to win."""

    CHEAPER = "cheaper"
    """It costs less, and its quality is worse by less than the margin."""
    BETTER = "better"
    """Its quality is better, and it costs no more than so much more."""
    VALUE = "value"
    """What its quality is worth, less what it costs, is more than the control's."""


class Unit(Enum):
    """What is assigned to an arm. Never a request: those of one person are not independent."""

    USER = "user"
    CONVERSATION = "conversation"
    TRACE = "trace"


class Per(Enum):
    """What a metric is divided by."""

    UNIT = "unit"
    """Every unit counts once."""
    LABEL = "label"
    """Every label counts once: a ratio of sums."""
    REQUEST = "request"
    SUCCESS = "success"
    """The sum of the quality metric: dollars per resolved conversation."""


@dataclass(frozen=True)
class Arm:
    """One arm: its share of the units, and the models (as logs name them) or the version that it runs."""

    name: str
    models: tuple[str, ...] = ()
    version: str | None = None
    """Reference to a version in the registry, such as `support-bot@v3`: what a promotion is proposed of."""
    share: float = 1.0


@dataclass(frozen=True)
class Quality:
    """The primary metric: a metric of the outcomes."""

    metric: str
    per: Per = Per.UNIT
    lower_is_better: bool = False


@dataclass(frozen=True)
class Cost:
    """The cost metric, per unit, request or success."""

    per: Per = Per.UNIT
    currency: str = "USD"


@dataclass(frozen=True)
class Guardrail:
    """What must not get worse by `margin` or more: `error_rate`, `slow_share`, or a metric of the outcomes.

    `slow_share` is the share of requests that take longer than `threshold_ms`: that it stays below
    0.05 says that the 95th percentile of the latency stays below the threshold.
    """

    metric: str
    margin: float
    threshold_ms: float | None = None
    lower_is_better: bool = True


@dataclass(frozen=True)
class Scope:
    """Which requests of a unit count; None: all."""

    application: str | None = None
    environment: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Declaration:
    """An experiment as it is declared. The first arm is the control.

    Exactly one of `planned_sample` and `deviation` is given: labelled units per arm, or the standard
    deviation of a unit's quality, from which they are computed.
    """

    name: str
    arms: tuple[Arm, ...]
    quality: Quality
    mode: Mode
    unit: Unit = Unit.USER
    margin: float | None = None
    """CHEAPER: by how much less quality is as good, in points of the metric."""
    effect: float | None = None
    """BETTER and VALUE: the difference that the sample is planned for; in CHEAPER that is the margin."""
    min_saving: float = 0.0
    """CHEAPER: the least share of the control's cost that has to be saved."""
    max_extra_cost: float | None = None
    """BETTER: how much more it may cost, in the currency, per what the cost is divided by."""
    value_per_point: float | None = None
    """VALUE: what a point of quality of one unit is worth, in the currency."""
    cost: Cost = Cost()
    guardrails: tuple[Guardrail, ...] = ()
    scope: Scope = Scope()
    alpha: float = 0.05
    power: float = 0.8
    min_days: float = 7.0
    min_sample: int = 1000
    """Labelled units that every arm needs before anybody wins."""
    planned_sample: int | None = None
    deviation: float | None = None
    pre_period_days: float = 0.0
    """Days before a unit's assignment whose quality and cost explain some of what follows (CUPED); 0: none."""
    window_days: float | None = None
    """Days from its assignment in which a unit is observed; None: until the look."""
    label_days: float = 7.0
    """Days after the stop in which labels that name a unit, and no request, still count."""
    different_catalogues: bool = False
    """Whether arms may be priced from different catalogues, such as a contract and a price list."""
    description: str = ""

    @property
    def control(self) -> Arm:
        return self.arms[0]

    @property
    def candidates(self) -> tuple[Arm, ...]:
        return self.arms[1:]

    @property
    def sample(self) -> int:
        """Labelled units per arm that the experiment is planned for; the largest of the candidates'."""
        if self.planned_sample is not None:
            return self.planned_sample
        effect = self.margin if self.mode is Mode.CHEAPER else self.effect
        assert effect is not None
        assert self.deviation is not None
        pairs = [
            planned_units(
                self.deviation,
                effect,
                alpha=self.alpha / len(self.candidates),
                power=self.power,
                shares=(self.control.share, arm.share),
            )
            for arm in self.candidates
        ]
        return math.ceil(max(pairs) / 2)

    def recorded(self) -> dict[str, Any]:
        """The declaration as the log keeps it, and as `parse` reads it."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def _plain(value: object) -> Any:
    match value:
        case Enum():
            return value.value
        case Arm() | Quality() | Cost() | Guardrail() | Scope():
            return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value


def parse(given: object) -> Declaration:
    """A declaration from plain values.

    Raises:
        InvalidInput: one sentence that says which part of it cannot be used, and why.
    """
    held = _mapping(given, "an experiment")
    _known(held, Declaration, "an experiment")
    if missing := [name for name in ("name", "arms", "quality", "mode") if held.get(name) is None]:
        raise InvalidInput(f"an experiment needs `{missing[0]}`")
    plain = {
        f.name: held[f.name]
        for f in fields(Declaration)
        if f.name in held and f.name not in _PARTS and held[f.name] is not None
    }
    made = Declaration(
        **{
            **plain,
            "name": checked_name(_text(held["name"], "name")),
            "mode": _choice(Mode, held["mode"], "mode"),
            "unit": _choice(Unit, held.get("unit") or Unit.USER.value, "unit"),
            "arms": tuple(_arm(each) for each in _list(held["arms"], "arms")),
            "quality": _quality(held["quality"]),
            "cost": _cost(held.get("cost") or {}),
            "guardrails": tuple(
                _guardrail(each) for each in _list(held.get("guardrails") or [], "guardrails")
            ),
            "scope": Scope(**_texts(held.get("scope") or {}, Scope, "scope")),
            "description": checked_text(held.get("description") or "", "description"),
        }
    )
    _check_arms(made)
    _check_numbers(made)
    _check_mode(made)
    _check_guardrails(made)
    if made.sample > 10**9:
        raise InvalidInput(
            f"the planned sample comes to {made.sample:,} units per arm; widen the margin or the effect"
        )
    return made


_PARTS = ("name", "mode", "unit", "arms", "quality", "cost", "guardrails", "scope", "description")


def _arm(given: object) -> Arm:
    held = _mapping(given, "an arm")
    _known(held, Arm, "an arm")
    name = _word(held.get("name"), "an arm's `name`")
    models = [
        _text(each, f"a model of arm {shown(name)}") for each in _list(held.get("models") or [], "models")
    ]
    version = held.get("version")
    if not models and version is None:
        raise InvalidInput(f"arm {shown(name)} says neither `models` nor `version`: what it runs")
    share = _number(held.get("share", 1.0), f"the share of arm {shown(name)}", above=0)
    return Arm(name, tuple(models), None if version is None else _text(version, "version"), share)


def _quality(given: object) -> Quality:
    held = {"metric": given} if isinstance(given, str) else _mapping(given, "`quality`")
    _known(held, Quality, "`quality`")
    per = _choice(Per, held.get("per", "unit"), "per")
    if per not in {Per.UNIT, Per.LABEL}:
        raise InvalidInput("quality is measured per unit or per label")
    lower = _truth(held.get("lower_is_better", False), "lower_is_better")
    return Quality(_word(held.get("metric"), "the metric of `quality`"), per, lower)


def _cost(given: object) -> Cost:
    held = _mapping(given, "`cost`")
    _known(held, Cost, "`cost`")
    per = _choice(Per, held.get("per", "unit"), "per")
    if per is Per.LABEL:
        raise InvalidInput("cost is measured per unit, request or success")
    currency = held.get("currency", "USD")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise InvalidInput(f"the currency {shown(str(currency))} is no ISO 4217 code such as USD")
    return Cost(per, currency)


def _guardrail(given: object) -> Guardrail:
    held = _mapping(given, "a guardrail")
    _known(held, Guardrail, "a guardrail")
    metric = _word(held.get("metric"), "a guardrail's `metric`")
    margin = _number(held.get("margin"), f"the margin of guardrail {shown(metric)}", above=0)
    threshold = held.get("threshold_ms")
    if threshold is not None:
        threshold = _number(threshold, f"the threshold of guardrail {shown(metric)}", above=0)
    lower = _truth(held.get("lower_is_better", True), "lower_is_better")
    return Guardrail(metric, margin, threshold, lower)


def _check_arms(made: Declaration) -> None:
    names = [arm.name for arm in made.arms]
    if not 2 <= len(names) <= MOST_ARMS:
        raise InvalidInput(
            f"an experiment has 2 to {MOST_ARMS} arms, the control first; {len(names)} are given"
        )
    if len(set(names)) < len(names):
        raise InvalidInput("two arms have one name; give each its own")
    if all(arm.models for arm in made.arms) and len({frozenset(arm.models) for arm in made.arms}) == 1:
        versions = {arm.version for arm in made.arms}
        if len(versions) < len(made.arms):
            raise InvalidInput("all arms run the same; give each its own models or version")


def _check_numbers(made: Declaration) -> None:
    _number(made.alpha, "alpha", above=0, below=0.5)
    _number(made.power, "power", above=0.5, below=1)
    _number(made.min_days, "min_days", least=0)
    _number(made.min_saving, "min_saving", least=0, below=1)
    _number(made.pre_period_days, "pre_period_days", least=0)
    _number(made.label_days, "label_days", least=0)
    for name in ("margin", "effect", "value_per_point", "deviation", "window_days"):
        if (value := getattr(made, name)) is not None:
            _number(value, name, above=0)
    if made.max_extra_cost is not None:
        _number(made.max_extra_cost, "max_extra_cost", least=0)
    for name in ("min_sample", "planned_sample"):
        value = getattr(made, name)
        if value is not None and (type(value) is not int or value < FEWEST_UNITS):
            raise InvalidInput(
                f"{name} is {shown(str(value))}; it is a whole number from {FEWEST_UNITS} on, "
                "below which no interval is believed"
            )
    _truth(made.different_catalogues, "different_catalogues")
    if (made.planned_sample is None) == (made.deviation is None):
        raise InvalidInput(
            "an experiment is planned by one of `planned_sample` (labelled units per arm) and `deviation` "
            "(standard deviation of a unit's quality, 0.4 where 80 % succeed)"
        )


def _check_mode(made: Declaration) -> None:
    wanted = {
        Mode.CHEAPER: ("margin",),
        Mode.BETTER: ("max_extra_cost",),
        Mode.VALUE: ("value_per_point",),
    }
    owner = {name: mode for mode, names in wanted.items() for name in names}
    for name, mode in owner.items():
        if (getattr(made, name) is None) == (mode is made.mode):
            verb = "needs" if mode is made.mode else "has no"
            raise InvalidInput(f"an experiment of mode {made.mode.value} {verb} `{name}`")
    if made.min_saving and made.mode is not Mode.CHEAPER:
        raise InvalidInput(f"an experiment of mode {made.mode.value} has no `min_saving`")
    if made.deviation is not None and made.mode is not Mode.CHEAPER and made.effect is None:
        raise InvalidInput("to plan the sample from `deviation`, say the `effect` that is to be seen")
    if made.mode is Mode.VALUE and (made.quality.per is not Per.UNIT or made.cost.per is not Per.UNIT):
        raise InvalidInput(
            "in mode value, quality and cost are both per unit: their difference is a unit's value"
        )
    if made.mode is Mode.VALUE and made.quality.lower_is_better:
        raise InvalidInput(
            "in mode value, a point of quality is worth something: take a metric of which more is better"
        )


def _check_guardrails(made: Declaration) -> None:
    names = [guardrail.metric for guardrail in made.guardrails]
    if len(names) > MOST_GUARDRAILS or len(set(names)) < len(names):
        raise InvalidInput(f"there are at most {MOST_GUARDRAILS} guardrails, one per metric")
    for guardrail in made.guardrails:
        if (guardrail.metric == SLOW_SHARE) == (guardrail.threshold_ms is None):
            raise InvalidInput(
                "`threshold_ms` belongs to the guardrail slow_share, which needs it, and to no other"
            )
        if guardrail.metric in REQUEST_METRICS and not guardrail.lower_is_better:
            raise InvalidInput(f"of {guardrail.metric}, less is better")


# -- values ---------------------------------------------------------------------------------------


def _mapping(given: object, what: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidInput(f"{what} is a mapping of names to values, not {shown(str(given), 60)}")
    return given


def _list(given: object, what: str) -> Sequence[Any]:
    if not isinstance(given, list | tuple):
        raise InvalidInput(f"`{what}` is a list, not {shown(str(given), 60)}")
    return given


def _known(held: Mapping[str, Any], form: type, what: str) -> None:
    names = [f.name for f in fields(form)]
    for name in held:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise InvalidInput(f"{what} has no {shown(str(name))}; {hint}")


def _texts(given: object, form: type, what: str) -> dict[str, str]:
    held = _mapping(given, f"`{what}`")
    _known(held, form, f"`{what}`")
    return {name: _text(value, name) for name, value in held.items() if value is not None}


def _text(given: object, what: str) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > 500 or not given.isprintable():
        raise InvalidInput(f"{what} is {shown(str(given), 60)}; it is a text of 1 to 500 characters")
    return given


def _word(given: object, what: str) -> str:
    if not isinstance(given, str) or not _WORD.fullmatch(given):
        raise InvalidInput(
            f"{what} is {shown(str(given), 60)}; it is letters, digits, dot, dash, colon and underscore, at most 100"
        )
    return given


def _truth(given: object, what: str) -> bool:
    if not isinstance(given, bool):
        raise InvalidInput(f"`{what}` is {shown(str(given), 60)}; it is true or false")
    return given


def _number(
    given: object,
    what: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> float:
    good = isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
    if not good or not (given > above and given >= least and given < below):  # type: ignore[operator]
        bounds = [f"above {above:g}"] if above > -math.inf else []
        bounds += [f"from {least:g} on"] if least > -math.inf else []
        bounds += [f"below {below:g}"] if below < math.inf else []
        raise InvalidInput(
            f"{what} is {shown(str(given), 60)}; it is a number {' and '.join(bounds)}".rstrip()
        )
    return float(given)  # type: ignore[arg-type]


def _choice(choices: type[E], given: object, what: str) -> E:
    try:
        return choices(given.value if isinstance(given, Enum) else given)
    except ValueError:
        raise InvalidInput(
            f"`{what}` is {shown(str(given), 60)}; it is one of {', '.join(str(c.value) for c in choices)}"
        ) from None


__all__ = ["Arm", "Cost", "Declaration", "Guardrail", "Mode", "Per", "Quality", "Scope", "Unit", "parse"]
