"""Budgets as a YAML file, for those who keep them under version control.

A file lists budgets of one tenant; setting it leaves others as they are::

    currency: USD                   # for every budget that does not say otherwise
    period: month                   # likewise: day, week or month
    budgets:
      - name: everything
        amount: 20000
      - name: search
        amount: "1500.50"
        model: gpt-4*               # or provider, application, registered_model
        tag: team=search
        alert_at: [0.5, 0.8, 1]
        note: agreed on 2026-09-01
"""

from __future__ import annotations

from typing import Any

from ml_registry_pipelines.costs.budgets import CONDITIONS, NewBudget
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.strict_yaml import strict_loader

_SHARED = ("currency", "period")
_FIELDS = ("name", "amount", *_SHARED, *CONDITIONS, "alert_at", "note")
MOST = 10_000


def read_budgets(text: str, *, file: str) -> list[NewBudget]:
    """Read a file of budgets; `file` is what errors call it.

    Raises:
        InvalidInput: with the file, the budget, and what to write instead.
    """
    import yaml

    try:
        top = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - builds texts and containers alone
    except yaml.YAMLError as wrong:
        raise InvalidInput(f"{file} is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(top, dict) or not isinstance(top.get("budgets"), list):
        raise InvalidInput(f"{file} has to hold `budgets`, a list")
    if unknown := [key for key in top if key not in (*_SHARED, "budgets")]:
        raise InvalidInput(f"{file}: unknown field {unknown[0]!r}; there are budgets, {', '.join(_SHARED)}")
    if not 0 < len(top["budgets"]) <= MOST:
        raise InvalidInput(f"{file} has {len(top['budgets'])} budgets; give 1 to {MOST:,}")
    shared = {key: top[key] for key in _SHARED if key in top}
    return [
        _budget(entry, shared, f"{file}, budget {number}")
        for number, entry in enumerate(top["budgets"], start=1)
    ]


def _budget(entry: object, shared: dict[str, Any], where: str) -> NewBudget:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: has to be a mapping with name and amount")
    if unknown := [key for key in entry if key not in _FIELDS]:
        raise InvalidInput(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    given = {"period": "month", **shared, **entry}
    for field in ("name", "amount", "currency"):
        if field not in given:
            raise InvalidInput(f"{where}: {field} is missing")
    shares = given.get("alert_at", [])
    texts = {key: value for key, value in given.items() if key != "alert_at"}
    if wrong := next((key for key, value in texts.items() if not isinstance(value, str)), None):
        raise InvalidInput(f"{where}: {wrong} has to be a text")
    if not isinstance(shares, list) or not all(isinstance(share, str) for share in shares):
        raise InvalidInput(f"{where}: alert_at has to be a list of shares such as [0.8, 1]")
    made = NewBudget(
        texts["name"],
        texts["amount"],
        texts["currency"],
        texts["period"],
        {name: texts[name] for name in CONDITIONS if name in texts},
        shares,
        texts.get("note", ""),
    )
    try:
        return made.checked()
    except InvalidInput as wrong:
        raise InvalidInput(f"{where}: {wrong}") from None
