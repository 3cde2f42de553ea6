"""The intake form: a YAML file per model, with every question, its article and the answers it takes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from ml_registry_pipelines.compliance.ai_act.answers import NONE, UNKNOWN, Answers, answer
from ml_registry_pipelines.compliance.ai_act.table import Fact, FactKind, Table
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.strict_yaml import strict_loader

_WIDTH = 110
_KINDS = {
    FactKind.FLAG: "true, false or unknown",
    FactKind.SET: "a list, [] for none of them, or unknown; `unknown` in a list leaves the others open",
    FactKind.NUMBER: "a number or unknown",
    FactKind.DATE: "a day, none (has not come) or unknown",
}
_SECTIONS = (
    ("is_ai_system", "Scope and roles"),
    ("a5_a", "Prohibited practices (Article 5)"),
    ("annex_i_act", "High-risk: products (Annex I)"),
    ("annex_iii", "High-risk: uses (Annex III)"),
    ("interacts_with_persons", "Transparency (Article 50)"),
    ("is_gpai", "General-purpose models"),
    ("first_unit_date", "Dates, and who uses it"),
)


def form(table: Table, model: str, answers: Answers | None = None) -> str:
    """The form of a model, filled in with what has been answered."""
    known = (answers or Answers()).recorded()
    lines = [
        f"# EU AI Act: questions about {model}",
        *_comment(f"Text {table.version}: {table.base}."),
        *(line for a in table.amended_by for line in _comment(f"Amended by {a.regulation}. {a.note}")),
        *_comment(
            "What you do not know, leave `unknown`: it never counts as no, and the class says which of these "
            "facts could raise it. Answer about the intended purpose, not about one version."
        ),
    ]
    titles = dict(_SECTIONS)
    for name, fact in table.facts.items():
        if name in titles:
            lines += ["", f"# ---- {titles[name]} " + "-" * 30]
        lines += ["", *_question(fact), f"{name}: {_written(known.get(name, UNKNOWN))}"]
    return "\n".join(lines) + "\n"


def read_form(table: Table, text: str, *, file: str) -> Answers:
    """Read a form that was filled in; a question that was taken out is unknown.

    Raises:
        InvalidInput: with the file, the line, and what to write instead.
    """
    import yaml

    loader = strict_loader(texts=True)
    try:
        top = yaml.load(text, Loader=loader)  # noqa: S506 - builds texts and containers alone
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as wrong:
        raise InvalidInput(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(top, dict) or not isinstance(node, yaml.MappingNode):
        raise InvalidInput(f"{file} holds no questions; `mlreg ai-act form MODEL` writes a form")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    found: dict[str, Any] = {}
    for name, said in top.items():
        given = answer(table, str(name), said, f"{file}, line {lines.get(str(name), 1)}")
        if given != UNKNOWN:
            found[str(name)] = given
    return Answers(found)


def _question(fact: Fact) -> list[str]:
    amended = "; as amended, official text not available" if fact.amended else ""
    return [
        *_comment(f"{fact.ask} (Art. {fact.article}{amended})"),
        *(f"#   {member}: {text}" for member, text in fact.members.items()),
        f"#   {_KINDS[fact.kind]}",
    ]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _written(said: object) -> str:
    match said:
        case bool():
            return "true" if said else "false"
        case list():
            return f"[{', '.join(_member(str(member)) for member in said)}]"
        case _:
            return NONE if said is None else str(said)


def _member(name: str) -> str:
    return f'"{name}"' if name.isdigit() else name


def given_of(form_values: Mapping[str, object]) -> dict[str, object]:
    """Values of a form that has fields instead of a file: an empty one is unknown."""
    return {name: said for name, said in form_values.items() if said not in (None, "", UNKNOWN)}
