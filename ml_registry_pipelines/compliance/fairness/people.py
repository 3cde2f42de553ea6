"""People by group, label and prediction: the counts that fairness metrics are computed from.

Rows are counted once per set of group attributes, in DuckDB; every metric of a run works on the counts.
What a column holds never leaves this room, but for the names of groups, which are few.
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from ml_registry_pipelines.compliance.evaluation_rows import LABEL, PREDICTION, Evaluation, Outcome, Task
from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.reading import FEW_ROWS, answer

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Key: TypeAlias = tuple[str | None, ...]
"""One value per group attribute; None where a row does not state it."""

DEEPEST = 3
"""Group attributes that may be crossed."""
NOT_STATED = "(not stated)"
MOST_GROUPS = 1_000
"""Groups of crossed attributes above which they name persons rather than groups."""

_OPENING = threading.Lock()


class NotMeasurable(MlregError):
    """A metric has no value on these data, and why. Never holds a value of a row."""


@dataclass(frozen=True)
class Data:
    """An evaluation, and what has been counted of it: give the metrics of one run the same object."""

    evaluation: Evaluation
    _cells: dict[tuple[str, ...], list[People]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    memo: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What metrics of one kind share, such as an order that was sorted once."""

    @property
    def rows(self) -> pa.Table:
        return self.evaluation.rows

    def column(self, name: str) -> str:
        """A column of the rows, quoted for SQL: `label`, `prediction`, `score` or a further role.

        Raises:
            NotMeasurable: none is declared, or there are no rows.
        """
        if name not in self.rows.column_names:
            raise NotMeasurable(
                f"the evaluation declares no {name}, which this metric reads; "
                f"it has {', '.join(self.rows.column_names)}"
            )
        if not self.rows.num_rows:
            raise NotMeasurable("the evaluation has no row")
        return quoted(name)

    def numbers(self, name: str) -> str:
        """A column that holds numbers, quoted for SQL.

        Raises:
            NotMeasurable: it is not there, or holds text.
        """
        import pyarrow as pa

        column = self.column(name)
        if not pa.types.is_floating(self.rows.schema.field(name).type):
            raise NotMeasurable(f"column {name!r} holds text; this metric reads numbers from it")
        return column

    def classes(self, name: str) -> str:
        """SQL for a class as text, such as a prompt's id: 1.0 is `1`.

        Raises:
            NotMeasurable: it is not there.
        """
        import pyarrow as pa

        column = self.column(name)
        if not pa.types.is_floating(self.rows.schema.field(name).type):
            return f"CAST({column} AS VARCHAR)"
        return (
            f"CASE WHEN abs({column}) < 1e15 AND {column} = floor({column}) "
            f"THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
        )

    def attributes(self, names: Sequence[str]) -> tuple[str, ...]:
        """Group attributes to be crossed.

        Raises:
            NotMeasurable: none or too many are named, one twice, or one that is not declared.
        """
        if not 1 <= len(names) <= DEEPEST or len(set(names)) < len(names):
            raise NotMeasurable(f"name 1 to {DEEPEST} different group attributes, not {', '.join(names)}")
        if absent := [name for name in names if name not in self.evaluation.attributes]:
            known = ", ".join(self.evaluation.attributes) or "none"
            raise NotMeasurable(
                f"{', '.join(absent)} is not declared as a group attribute; declared: {known}"
            )
        return tuple(names)

    def group_columns(self, names: Sequence[str]) -> str:
        """SQL for the group attributes, as columns g0, g1, g2."""
        each = (quoted(self.evaluation.group_column(name)) for name in self.attributes(names))
        return ", ".join(f"{column} AS g{i}" for i, column in enumerate(each))

    def groups(self, names: Sequence[str]) -> tuple[list[Key], NDArray[np.int64]]:
        """The groups that rows are in, and of each row the index of its group.

        Raises:
            NotMeasurable: there are too many.
        """
        import numpy as np

        crossed = np.zeros(self.rows.num_rows, dtype=np.int64)
        parts = [self._codes(self.evaluation.group_column(name)) for name in self.attributes(names)]
        for values, codes in parts:
            crossed = crossed * len(values) + codes
        # At most as many as there are crossed values: counted, not sorted.
        present = np.flatnonzero(np.bincount(crossed))
        if len(present) > MOST_GROUPS:
            raise too_many(names)
        index = np.zeros(max(1, math.prod(len(values) for values, _ in parts)), dtype=np.int64)
        index[present] = np.arange(len(present))
        keys: list[Key] = []
        for cross in present.tolist():
            key, rest = list[str | None](), cross
            for values, _ in reversed(parts):
                rest, place = divmod(rest, len(values))
                key.append(values[place])
            keys.append(tuple(reversed(key)))
        return keys, index[crossed]

    def _codes(self, column: str) -> tuple[list[str | None], NDArray[np.int64]]:
        """The values of a group attribute, and of each row the index of its own."""
        import numpy as np
        import pyarrow as pa

        if (key := ("codes", column)) not in self.memo:
            encoded = pa.chunked_array(self.rows[column].chunks, self.rows[column].type)
            found = encoded.combine_chunks().dictionary_encode(null_encoding="encode")
            values = found.dictionary.to_pylist()
            self.memo[key] = values, found.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        made: tuple[list[str | None], NDArray[np.int64]] = self.memo[key]
        return made

    def ask(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        beside: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> pa.Table:
        """The answer of one statement over `evaluation`, in a connection that reads no file.

        Args:
            beside: further columns of the rows.
        """
        import pyarrow as pa

        rows = self.rows
        for name, values in (beside or {}).items():
            rows = rows.append_column(name, pa.array(values))
        with _OPENING:
            connection = _database(os.getpid(), rows.num_rows < FEW_ROWS).cursor()
        with connection:
            connection.register("evaluation", rows)
            return answer(connection, sql, parameters, over=rows.num_rows)

    def people(self, attributes: Sequence[str], *needed: str) -> list[People]:
        """Counts by group, largest group first.

        Args:
            needed: `label`, `prediction`: columns that have to be declared.

        Raises:
            NotMeasurable: one is not, holds no classes, or there are too many groups.
        """
        names = self.attributes(attributes)
        for name in needed:
            self.column(name)
        if names not in self._cells:
            self._cells[names] = self._count(names)
        return self._cells[names]

    def _count(self, names: tuple[str, ...]) -> list[People]:
        if self.evaluation.task in (Task.REGRESSION, Task.RANKING):
            raise NotMeasurable(f"the evaluation is one of a {self.evaluation.task.value}, without classes")
        label, prediction = (
            self.numbers(name) if name in self.rows.column_names else "CAST(NULL AS DOUBLE)"
            for name in (LABEL, PREDICTION)
        )
        rows = self.ask(
            f"""
            SELECT {self.group_columns(names)}, {label} AS label, {prediction} AS prediction, count(*) AS n
            FROM evaluation GROUP BY ALL LIMIT {9 * MOST_GROUPS + 1}
            """
        )
        values = set(rows["label"].to_pylist()) | set(rows["prediction"].to_pylist())
        if values - {0.0, 1.0, None}:
            raise NotMeasurable("labels or predictions are no classes, but other numbers than 1 and 0")
        found: dict[Key, Counter[tuple[bool | None, bool | None]]] = {}
        for key, row in zip(keys_of(rows, names), rows.to_pylist(), strict=True):
            found.setdefault(key, Counter())[_truth(row["label"]), _truth(row["prediction"])] += row["n"]
        every = [People(group_name(names, key), key, dict(by)) for key, by in found.items()]
        return sorted(every, key=lambda p: (-p.n, p.name))


def _truth(value: float | None) -> bool | None:
    return None if value is None else value == 1.0


def keys_of(rows: pa.Table, names: Sequence[str]) -> list[Key]:
    """The groups of an answer with `group_columns`.

    Raises:
        NotMeasurable: there are too many.
    """
    keys: list[Key] = list(zip(*(rows[f"g{i}"].to_pylist() for i in range(len(names))), strict=True))
    if len(set(keys)) > MOST_GROUPS:
        raise too_many(names)
    return keys


def too_many(names: Sequence[str]) -> NotMeasurable:
    return NotMeasurable(f"{', '.join(names)} make more than {MOST_GROUPS:,} groups; cross fewer attributes")


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def group_name(names: Sequence[str], key: Key) -> str:
    """Such as `race=Caucasian, sex=Male`."""
    return ", ".join(
        f"{name}={NOT_STATED if value is None else value}" for name, value in zip(names, key, strict=True)
    )


@dataclass(frozen=True)
class People:
    """The rows of one group, by label and prediction (True: the positive class); each may be unknown (None)."""

    name: str
    key: Key
    by: Mapping[tuple[bool | None, bool | None], int]

    def count(self, label: bool | None, prediction: bool | None) -> int:
        return self.by.get((label, prediction), 0)

    @property
    def n(self) -> int:
        return sum(self.by.values())

    @property
    def tp(self) -> int:
        return self.count(True, True)

    @property
    def fp(self) -> int:
        return self.count(False, True)

    @property
    def fn(self) -> int:
        return self.count(True, False)

    @property
    def tn(self) -> int:
        return self.count(False, False)

    @property
    def predicted(self) -> int:
        """Rows with a prediction."""
        return self.predicted_as(True) + self.predicted_as(False)

    def predicted_as(self, outcome: bool) -> int:
        return sum(n for (_, prediction), n in self.by.items() if prediction is outcome)

    @property
    def known(self) -> int:
        """Rows with label and prediction."""
        return self.tp + self.fp + self.fn + self.tn

    def labelled_as(self, outcome: bool) -> int:
        """Rows with that label, whatever was predicted."""
        return sum(n for (label, _), n in self.by.items() if label is outcome)


def together(name: str, parts: Iterable[People]) -> People:
    """Several groups as one."""
    total: Counter[tuple[bool | None, bool | None]] = Counter()
    for part in parts:
        total.update(part.by)
    return People(name, (), dict(total))


def is_positive(data: Data, stated: str, word: str) -> bool:
    """Whether the outcome that a suite states is the positive class.

    Raises:
        NotMeasurable: the version declares the other outcome as favourable.
    """
    if word == "favourable" and stated != data.evaluation.favourable.value:
        raise NotMeasurable(
            f"the suite takes the {stated} class as favourable, and the evaluation declares "
            f"the {data.evaluation.favourable.value} one"
        )
    return Outcome(stated) is Outcome.POSITIVE


@cache
def _database(
    process: int,  # noqa: ARG001 - a fork needs its own
    few: bool,
) -> duckdb.DuckDBPyConnection:
    """A database that reads no file, opened once: to open one takes longer than to count a small evaluation."""
    import duckdb

    one = {"threads": "1"} if few else {}
    return duckdb.connect(
        config={"enable_external_access": "false", "python_enable_replacements": "false", **one}
    )
