"""The decision table applied to answers: classes, duties with their dates, and what has still to be asked.

Pure: the same answers, table and day give the same evaluation. Unknown facts are explored, so that the
worst class that is left is known together with the facts that lead to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache

from ml_registry_pipelines.compliance.ai_act.answers import Answers
from ml_registry_pipelines.compliance.ai_act.logic import atoms, rest, truth
from ml_registry_pipelines.compliance.ai_act.table import DutyRule, Reading, Step, Table, Tier
from ml_registry_pipelines.registry.canonical import digest


@dataclass(frozen=True)
class Question:
    """A fact that is unknown and could raise the class, at most to `could_be`."""

    name: str
    article: str
    ask: str
    could_be: Tier


@dataclass(frozen=True)
class Outcome:
    """What a rule says. `certain`: known facts alone give it; otherwise unknown ones may."""

    rule: str
    outcome: str
    article: str
    says: str
    certain: bool
    applies_from: date | None
    amended: bool
    text_version: str


@dataclass(frozen=True)
class Duty:
    """One duty. `applies_from` is None while it waits for a significant change of the design (Art. 111(2)).

    `certain`: known facts alone give it. `readings`: where the text is read in more than one way, all of them;
    `applies_from` is then the earliest. `amended`: by a regulation whose official text was not available.
    """

    id: str
    article: str
    role: str
    title: str
    certain: bool
    applies_from: date | None
    in_force: bool
    readings: tuple[Reading, ...]
    amended: bool
    text_version: str


@dataclass(frozen=True)
class Evaluation:
    """What the table says on a day.

    Attributes:
        tier: the class that is shown.
        gate_tier: the worst class that the unknown facts leave; what gates go by.
        floor: the best one.
        gpai: the parallel axis: none, gpai or gpai_systemic, the worst that is left.
        upcoming: days ahead on which the worst class changes by the text alone.
    """

    as_of: date
    tier: Tier
    gate_tier: Tier
    floor: Tier
    outcomes: tuple[Outcome, ...]
    duties: tuple[Duty, ...]
    questions: tuple[Question, ...]
    gpai: str
    gpai_certain: bool
    upcoming: tuple[tuple[date, Tier], ...]
    input_hash: str
    text_version: str
    text_digest: str

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the facts that could raise the class."""
        return tuple(question.name for question in self.questions)

    @property
    def labels(self) -> frozenset[str]:
        """All outcomes that are certain, and `undetermined` where unknown facts leave a worse class."""
        return frozenset(outcome.outcome for outcome in self.outcomes if outcome.certain)

    @property
    def digest(self) -> str:
        """SHA-256 over answers, text, classes and duties; not over the day, which only moves what is in force."""
        return digest(
            {
                "answers": self.input_hash,
                "text": self.text_digest,
                "tier": self.tier.value,
                "gate_tier": self.gate_tier.value,
                "gpai": self.gpai,
                "duties": [
                    [d.id, d.certain, d.applies_from and d.applies_from.isoformat()] for d in self.duties
                ],
            }
        )


def evaluate(table: Table, answers: Answers, as_of: date) -> Evaluation:
    """Apply the table on a day."""

    @cache  # Each atom stands in many conditions.
    def value(atom: str) -> bool | None:
        return answers.value(atom, as_of)

    floor, worst, left = _reach(table, value)
    questions = tuple(_questions(table, answers, left))
    undetermined = worst.rank >= Tier.HIGH_RISK.rank > floor.rank
    systemic = _of(table, "gpai_systemic", value)
    general = _of(table, "gpai", value)
    return Evaluation(
        as_of=as_of,
        # Below high risk nothing is left open by showing the worst that is left: its duties are the greater.
        tier=floor if floor.rank >= Tier.HIGH_RISK.rank else Tier.UNDETERMINED if undetermined else worst,
        gate_tier=worst,
        floor=floor,
        outcomes=tuple(_outcomes(table, answers, value, undetermined=undetermined)),
        duties=tuple(
            made for rule in table.duties if (made := _duty(table, rule, answers, value, as_of)) is not None
        ),
        questions=questions,
        gpai="gpai_systemic" if systemic is not False else "gpai" if general is not False else "none",
        gpai_certain=systemic is not None and general is not None,
        upcoming=tuple(_upcoming(table, answers, as_of, worst)),
        input_hash=answers.digest,
        text_version=table.version,
        text_digest=table.digest,
    )


Value = Callable[[str], bool | None]


def _reach(table: Table, value: Value) -> tuple[Tier, Tier, dict[str, Tier]]:
    """The best and the worst class that are left, and the atoms that lead above the best, with how far."""
    left = {tier: rest(formula, value) for tier, formula in table.tiers.items()}
    order = [*left, Tier.OUT_OF_SCOPE]
    worst = next(tier for tier in order if left.get(tier, True) is not False)
    floor = next(tier for tier in order if left.get(tier, True) is True)
    found: dict[str, Tier] = {}
    for tier, formula in left.items():
        if floor.rank < tier.rank <= worst.rank:
            for atom in atoms(formula):
                found.setdefault(atom, tier)
    return floor, worst, found


def _questions(table: Table, answers: Answers, left: dict[str, Tier]) -> list[Question]:
    """One question for each fact, the worst first; of a set that is known in part, for each member."""
    found = []
    for name, fact in table.facts.items():
        members = {m: left[f"{name}:{m}"] for m in fact.members if f"{name}:{m}" in left}
        if name in left:
            found.append(Question(name, fact.article, fact.ask, left[name]))
        elif members and name not in answers.given:
            found.append(Question(name, fact.article, fact.ask, max(members.values(), key=lambda t: t.rank)))
        else:
            found += [Question(f"{name}.{m}", fact.article, fact.members[m], t) for m, t in members.items()]
    return sorted(found, key=lambda question: -question.could_be.rank)


def _outcomes(table: Table, answers: Answers, value: Value, *, undetermined: bool) -> list[Outcome]:
    found = []
    for rule in table.rules:
        if rule.outcome == Tier.UNDETERMINED.value:
            holds: bool | None = undetermined
        elif rule.outcome == "grandfathered":
            holds = _grandfathered(table, answers, value)
        else:
            assert rule.condition is not None
            holds = truth(rule.condition, value)
        if holds is not False:
            found.append(
                Outcome(
                    rule.id,
                    rule.outcome,
                    rule.article,
                    rule.says,
                    holds is True,
                    rule.applies_from,
                    rule.amended,
                    table.version,
                )
            )
    return found


def _of(table: Table, outcome: str, value: Value) -> bool | None:
    (rule,) = [rule for rule in table.rules if rule.outcome == outcome]
    assert rule.condition is not None
    return truth(rule.condition, value)


def _grandfathered(table: Table, answers: Answers, value: Value) -> bool:
    """Whether every date that high-risk duties could begin on is one that the system lies before."""
    steps = {
        s for duty in table.duties for s in duty.schedule if s.old and truth(s.condition, value) is not False
    }
    return bool(steps) and all(_is_old(answers, step) for step in steps)


def _is_old(answers: Answers, step: Step) -> bool:
    """Article 111(2). What is not known about the system does not free it."""
    begun = answers.given.get("first_unit_date")
    if (
        not isinstance(begun, date)
        or begun >= step.date
        or "significant_design_change_date" not in answers.given
    ):
        return False
    changed = answers.given["significant_design_change_date"]
    return changed is None or (isinstance(changed, date) and changed < step.date)


def _duty(table: Table, rule: DutyRule, answers: Answers, value: Value, as_of: date) -> Duty | None:
    holds = truth(rule.condition, value)
    steps = [step for step in rule.schedule if truth(step.condition, value) is not False]
    if holds is False or not steps:
        return None
    begins = [_begins(table, step, answers) for step in steps]
    since = min((day for day in begins if day is not None), default=None)
    return Duty(
        rule.id,
        rule.article,
        rule.role,
        rule.title,
        holds is True,
        since,
        since is not None and since <= as_of,
        rule.readings,
        rule.amended or any(step.amended for step in steps),
        table.version,
    )


def _begins(table: Table, step: Step, answers: Answers) -> date | None:
    if not step.old or not _is_old(answers, step):
        return step.date
    return None if answers.given.get("public_authority_use") is False else table.public_authorities_by


def _upcoming(table: Table, answers: Answers, as_of: date, worst: Tier) -> list[tuple[date, Tier]]:
    days = {
        date.fromisoformat(atom.partition(":")[2])
        for formula in table.tiers.values()
        for atom in atoms(formula)
        if atom.startswith("since:")
    }
    found, last = [], worst
    for day in sorted(d for d in days if d > as_of):
        _, then, _ = _reach(table, lambda atom, day=day: answers.value(atom, day))  # type: ignore[misc]
        if then is not last:
            found.append((day, then))
            last = then
    return found
