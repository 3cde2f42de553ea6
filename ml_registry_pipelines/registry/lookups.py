"""What a process remembers of the projections: answers, and how often a column was asked about.

An answer is kept over the folding of newer blocks, brought up to date by them.
"""

from __future__ import annotations

from collections.abc import Iterable

from ml_registry_pipelines.registry.states import INDEXES, State

REMEMBERED = 5_000
"""Look-ups that are kept; bringing them up to date takes some milliseconds."""
MOST_QUESTIONS = 200
"""Questions about a column after which its places are loaded, however many rows it has."""
ROWS_PER_QUESTION = 5_000
"""Rows whose places are loaded in the time that one question to DuckDB takes."""

Question = tuple[str, str, str, str]
"""Table, tenant, column, value."""


class Lookups:
    """Answers about the newest states, as they are in the projections up to one position."""

    def __init__(self) -> None:
        self._answers: dict[Question, dict[str, State]] = {}
        self._asked: dict[tuple[str, str], int] = {}

    def get(self, question: Question) -> dict[str, State] | None:
        """The remembered answer."""
        return self._answers.get(question)

    def put(self, question: Question, answer: dict[str, State]) -> None:
        if len(self._answers) >= REMEMBERED:
            self._answers = {}
        self._answers[question] = answer

    def worth_loading(self, table: str, column: str, rows: int) -> bool:
        """Count a question to the table; whether the places of the column should be loaded now."""
        asked = self._asked[table, column] = self._asked.get((table, column), 0) + 1
        return asked >= min(MOST_QUESTIONS, 3 + rows // ROWS_PER_QUESTION)

    def after(self, states: Iterable[State] | None) -> Lookups:
        """The same memory once these newer states are in the projections; None: too many to take in."""
        grown = Lookups()
        grown._asked = self._asked
        if states is None or len(self._answers) >= REMEMBERED:
            return grown
        grown._answers = {question: dict(answer) for question, answer in self._answers.items()}
        where: dict[tuple[str, str], list[Question]] = {}
        for question, answer in grown._answers.items():
            for entity in answer:
                where.setdefault((question[1], entity), []).append(question)
        for state in states:
            for question in where.get((state.tenant, state.id), ()):
                grown._answers[question][state.id] = state
            grown._answers[state.table, state.tenant, "id", state.id] = {state.id: state}
            for column in ("id", *INDEXES[state.table]):
                value = state.id if column == "id" else state.data.get(column)
                if value is None:
                    continue
                question = (state.table, state.tenant, column, str(value))
                if column != "id" and question in grown._answers:
                    grown._answers[question][state.id] = state
                    where.setdefault((state.tenant, state.id), []).append(question)
        return grown
