"""What a process remembers of the projections: look-ups that hit, and which values exist at all.

A question to DuckDB takes milliseconds, and most questions of a command are whether a name
is free. So the values of a column are kept as 64-bit digests once they are asked for often
enough; and an answer is kept over the folding of newer blocks, brought up to date by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ml_registry_pipelines.registry.states import INDEXES, State

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

REMEMBERED = 50_000
"""Look-ups that are kept."""
WORTH_LOADING = 20
"""Questions about a column after which its digests are loaded."""

Question = tuple[str, str, str, str]
"""Table, tenant, column, value."""


class Lookups:
    """Answers about the newest states, as they are in the projections up to one position."""

    def __init__(self) -> None:
        self._answers: dict[Question, dict[str, State]] = {}
        self._asked: dict[tuple[str, str], int] = {}
        self._digests: dict[tuple[str, str], np.ndarray] = {}
        self._newer: dict[tuple[str, str], set[int]] = {}

    def get(self, question: Question) -> dict[str, State] | None:
        """The remembered answer, the empty one where the value is known not to exist; else None."""
        found = self._answers.get(question)
        if found is not None:
            return found
        table, tenant, column, value = question
        if (table, column) in self._digests and not self._exists(table, column, digest64(tenant, value)):
            return {}
        return None

    def put(self, question: Question, answer: dict[str, State]) -> None:
        if len(self._answers) >= REMEMBERED:
            self._answers = {}
        self._answers[question] = answer

    def worth_loading(self, table: str, column: str) -> bool:
        """Count a question to the table; whether the digests of the column should be loaded now."""
        asked = self._asked[table, column] = self._asked.get((table, column), 0) + 1
        return asked >= WORTH_LOADING and (table, column) not in self._digests

    def load(self, table: str, column: str, digests: pa.Table) -> None:
        """Keep the digests of all values that the column has ever had."""
        import numpy as np

        self._newer[table, column] = set()
        self._digests[table, column] = np.sort(digests["digest"].to_numpy())

    def _exists(self, table: str, column: str, digest: int) -> bool:
        import numpy as np

        if digest in self._newer[table, column]:
            return True
        known = self._digests[table, column]
        place = int(np.searchsorted(known, np.uint64(digest)))
        return place < len(known) and int(known[place]) == digest

    def after(self, states: Iterable[State] | None) -> Lookups:
        """The same memory once these newer states are in the projections; None: too many to take in."""
        grown = Lookups()
        grown._asked = self._asked
        if states is None:
            # Asked for as often as before, the digests are loaded with the next question.
            return grown
        grown._digests = self._digests
        grown._newer = {column: set(digests) for column, digests in self._newer.items()}
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
                if (state.table, column) in grown._newer:
                    grown._newer[state.table, column].add(digest64(state.tenant, str(value)))
                question = (state.table, state.tenant, column, str(value))
                if column != "id" and question in grown._answers:
                    grown._answers[question][state.id] = state
                    where.setdefault((state.tenant, state.id), []).append(question)
        return grown


def digest64(tenant: str, value: str) -> int:
    """64 bits of MD5, as DuckDB's `md5_number_lower` gives them; no secret depends on it."""
    data = hashlib.md5(f"{tenant}\x1f{value}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(data[8:], "little")
