"""The rows of an evaluation as metrics read them: columns by role, classes as 1 and 0, groups as words.

Where they come from, and what has been declared of them, is in `evaluations.py`. Group attributes end
up in results by name, so a column that looks like one of persons is refused here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.registry.canonical import digest
from ml_registry_pipelines.registry.errors import InvalidInput, shown

if TYPE_CHECKING:
    import pyarrow as pa

LABEL, PREDICTION, SCORE = ROLES = ("label", "prediction", "score")
GROUP = "group_"
"""Begins the column of a group attribute."""
MOST_VALUES = 100
"""Values of one group attribute. Names of groups stand in results: more of them are rather persons."""
LONGEST_VALUE = 100
_ROLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ADDRESS = re.compile(r"\S+@\S+\.\S+")


class EvaluationProblem(MlregError):
    """An evaluation cannot be read as it was declared, or lacks what a metric needs."""


class Task(Enum):
    """What is predicted, and so what `label` and `prediction` hold: classes are 1 or 0, all else a number."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RANKING = "ranking"
    GENERATION = "generation"


class Outcome(Enum):
    POSITIVE = "positive"
    NEGATIVE = "negative"


@dataclass(frozen=True)
class Columns:
    """How the columns of some data are to be read.

    Attributes:
        groups: group attributes, such as `race`, with the column that holds each.
        positive: labels that are the positive class; numbers and truths as text, such as `1`.
        positive_predictions: predictions that are; empty: the same ones.
        favourable: which outcome is the good one for the person. It says nothing about which class is
            the positive one: being taken for a recidivist is positive and not favourable.
        further: other columns that metrics ask for, by role: `query`, `rank`, `pair`, `variant` ...
        subject: column that says whom or what case a row is about; kept as a salted hash alone.
        observed: column with the time of the prediction.
    """

    task: Task = Task.CLASSIFICATION
    label: str | None = None
    prediction: str | None = None
    score: str | None = None
    groups: Mapping[str, str] | None = None
    positive: tuple[str, ...] = ()
    positive_predictions: tuple[str, ...] = ()
    favourable: Outcome = Outcome.POSITIVE
    further: Mapping[str, str] | None = None
    subject: str | None = None
    observed: str | None = None

    def recorded(self) -> dict[str, Any]:
        """As the log keeps it."""
        return {
            "task": self.task.value,
            "label": self.label,
            "prediction": self.prediction,
            "score": self.score,
            "groups": dict(self.groups or {}),
            "positive": list(self.positive),
            "positive_predictions": list(self.positive_predictions),
            "favourable": self.favourable.value,
            "further": dict(self.further or {}),
            "subject": self.subject,
            "observed": self.observed,
        }

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Columns:
        """What `recorded` gave."""
        return cls(
            **{
                **recorded,
                "task": Task(recorded["task"]),
                "favourable": Outcome(recorded["favourable"]),
                "positive": tuple(recorded["positive"]),
                "positive_predictions": tuple(recorded["positive_predictions"]),
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of how the columns are read."""
        return digest(self.recorded())

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns of the data, each once."""
        named = (self.label, self.prediction, self.score, self.subject, self.observed)
        wanted = (*named, *(self.groups or {}).values(), *(self.further or {}).values())
        return tuple(dict.fromkeys(name for name in wanted if name is not None))

    def checked(self) -> Columns:
        """The same.

        Raises:
            InvalidInput: something of it cannot be read, or cannot be meant.
        """
        for role in (*(self.groups or {}), *(self.further or {})):
            if not _ROLE.fullmatch(role):
                raise InvalidInput(
                    f"{shown(role)} is no name for a group attribute or role: lower-case letters, digits "
                    "and _, beginning with a letter; write race=COLUMN to give a column another name"
                )
        if taken := sorted({*ROLES, "row"} & set(self.further or {})):
            raise InvalidInput(f"{', '.join(taken)} is a role of its own; give the column for it as such")
        if confused := sorted(role for role in self.further or {} if role.startswith(GROUP)):
            raise InvalidInput(f"{', '.join(confused)}: names that begin with {GROUP} are those of groups")
        if self.label is None and self.prediction is None and self.score is None:
            raise InvalidInput("an evaluation has a label, a prediction or a score; name the column of one")
        if self.task is Task.CLASSIFICATION and (self.label or self.prediction) and not self.positive:
            raise InvalidInput(
                "say which labels are the positive class, such as --positive 1: nothing is assumed about it"
            )
        if self.task in {Task.REGRESSION, Task.RANKING} and (self.positive or self.positive_predictions):
            raise InvalidInput(f"a {self.task.value} has numbers and no positive class; leave it out")
        if len(set(self.needed)) < len([n for n in self._all() if n is not None]):
            raise InvalidInput("one column cannot be two things; " + ", ".join(sorted(self._twice())))
        return self

    def _all(self) -> list[str | None]:
        named = [self.label, self.prediction, self.score, self.subject, self.observed]
        return [*named, *(self.groups or {}).values(), *(self.further or {}).values()]

    def _twice(self) -> Iterable[str]:
        every = self._all()
        return {
            f"{shown(name)} is named twice" for name in every if name is not None and every.count(name) > 1
        }


@dataclass(frozen=True)
class Evaluation:
    """What a metric measures on.

    Attributes:
        rows: columns `label`, `prediction`, `score` (float64; NULL where missing or not finite; of a
            class 1.0 is positive and 0.0 negative), `group_<attribute>` (string, NULL: not known) for each
            attribute, and one column per further role (float64 or string). A column that was not
            declared is not there.
        attributes: group attributes in declared order; `group_column(attribute)` names their column.
        favourable: the outcome that is good for the person.
        table_versions: of lake tables that were read.
        declared: digest of the declaration.
        facts: of what was read, for whoever reads the evidence.
    """

    rows: pa.Table
    task: Task
    attributes: tuple[str, ...]
    favourable: Outcome
    declared: str
    table_versions: Mapping[str, int]
    origin: str = "evaluation"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def group_column(attribute: str) -> str:
        return GROUP + attribute

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what was measured on: the rows in their order, and which outcome is favourable."""
        return digest(
            {
                "rows": rows_digest(self.rows),
                "task": self.task.value,
                "attributes": list(self.attributes),
                "favourable": self.favourable.value,
            }
        )

    @cached_property
    def missing(self) -> Mapping[str, int]:
        """How many rows lack a value, by column."""
        return {name: int(self.rows[name].null_count) for name in self.rows.column_names}

    def require(self, *columns: str) -> pa.Table:
        """The rows, once it is sure that these columns are there and whole.

        Raises:
            EvaluationProblem: one is not declared, or there are rows without it, or no rows at all.
        """
        if absent := [name for name in columns if name not in self.rows.column_names]:
            raise EvaluationProblem(
                f"the evaluation declares no {', '.join(absent)}; it has {', '.join(self.rows.column_names)}"
            )
        if not self.rows.num_rows:
            raise EvaluationProblem("the evaluation has no row")
        for name in columns:
            if lacking := self.missing[name]:
                raise EvaluationProblem(
                    f"{lacking:,} of {self.rows.num_rows:,} rows have no {name}, or none that is finite"
                )
        return self.rows


def normalised(rows: pa.Table, columns: Columns, *, label: pa.ChunkedArray | None = None) -> pa.Table:
    """The rows under their roles.

    Args:
        label: labels that are numbers, or 1 and 0 of classes, already; in the place of a column.

    Raises:
        EvaluationProblem: a column is missing, or does not hold what it was declared to.
    """
    import pyarrow as pa

    if absent := [name for name in columns.needed if name not in rows.column_names]:
        raise EvaluationProblem(
            f"the data have no column {', '.join(map(shown, absent))}; they have {', '.join(rows.column_names)}"
        )
    found: dict[str, pa.ChunkedArray] = {}
    classes = columns.task is Task.CLASSIFICATION or bool(columns.positive)
    if label is not None:
        found[LABEL] = label
    elif columns.label is not None:
        label = rows[columns.label]
        found[LABEL] = _label(label, columns) if classes else _numbers(label, columns.label)
    prediction = None if columns.prediction is None else rows[columns.prediction]
    if prediction is not None:
        found[PREDICTION] = (
            _prediction(prediction, label, columns) if classes else _numbers(prediction, columns.prediction)
        )
    if columns.score is not None:
        found[SCORE] = _numbers(rows[columns.score], columns.score)
    for attribute, name in (columns.groups or {}).items():
        found[GROUP + attribute] = _group(attribute, rows[name])
    for role, name in (columns.further or {}).items():
        found[role] = _further(rows[name], name)
    return pa.table(found).combine_chunks()


def rows_digest(rows: pa.Table) -> str:
    """SHA-256 over names and values in their order, whatever file or memory layout they came from."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = hashlib.sha256()
    for name in rows.column_names:
        values = rows[name].cast(pa.string())
        # Length-led, so that no two columns share a text; a NULL is no value of any length.
        sized = pc.binary_join_element_wise(
            pc.fill_null(pc.binary_length(values).cast(pa.string()), "-"), pc.fill_null(values, ""), ":"
        )
        whole.update(f"{len(name)}:{name}:{len(sized)}\n".encode())
        for chunk in sized.chunks:
            # Joined by Arrow itself: the chunk's own bytes, without what lies around a slice.
            text = pc.binary_join(pa.ListArray.from_arrays([0, len(chunk)], chunk), "")
            whole.update(text[0].as_buffer())
    return whole.hexdigest()


def _label(values: pa.ChunkedArray, columns: Columns) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    found = _classes(values, columns.positive, columns.label)
    # A misspelt class would make everyone negative, and all groups equal.
    if len(found) > found.null_count and not pc.any(pc.equal(found, 1.0)).as_py():
        raise EvaluationProblem(
            f"no value of label column {shown(str(columns.label))} is one of the positive class, "
            f"{', '.join(map(shown, columns.positive))}"
        )
    return found


def _prediction(values: pa.ChunkedArray, labels: pa.ChunkedArray | None, columns: Columns) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    positive = columns.positive_predictions or columns.positive
    found = _classes(values, positive, columns.prediction)
    if len(found) > found.null_count and not pc.any(pc.equal(found, 1.0)).as_py():
        # A model may predict one class only; a misspelt class is told by words that no label has.
        known = set() if labels is None else set(_texts(labels).unique().to_pylist())
        if columns.positive_predictions or not set(_texts(values).unique().to_pylist()) <= {*known, None}:
            raise EvaluationProblem(
                f"no value of prediction column {shown(str(columns.prediction))} is one of the positive class, "
                f"{', '.join(map(shown, positive))}, and not all are labels"
            )
    return found


def _classes(values: pa.ChunkedArray, positive: tuple[str, ...], column: str | None) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        try:
            wanted = pa.array([float(each) for each in positive], pa.float64())
        except ValueError:
            raise EvaluationProblem(
                f"column {shown(str(column))} holds numbers, and the positive class is "
                f"{', '.join(map(shown, positive))}"
            ) from None
        plain = _numbers(values, column)
    else:
        wanted = pa.array(positive, pa.string())
        plain = _texts(values)
    found = pc.is_in(plain, value_set=wanted).cast(pa.float64())
    return pc.if_else(pc.is_null(plain), pa.scalar(None, pa.float64()), found)


def _numbers(values: pa.ChunkedArray, column: str | None) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (
        pa.types.is_floating(values.type)
        or pa.types.is_integer(values.type)
        or pa.types.is_boolean(values.type)
        or pa.types.is_decimal(values.type)
        or pa.types.is_null(values.type)
    ):
        raise EvaluationProblem(f"column {shown(str(column))} holds {values.type}, and no numbers")
    numbers = values.cast(pa.float64())
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
    texts = plain.cast(pa.string())
    # An empty field is what a CSV file says of a value that is missing.
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _group(attribute: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    found = _texts(values)
    distinct = found.unique().to_pylist()
    if len(distinct) > MOST_VALUES:
        raise EvaluationProblem(
            f"group attribute {shown(attribute)} has {len(distinct):,} values; one has at most {MOST_VALUES}, "
            "since groups are listed in results: give ranges or classes, and never what points at a person"
        )
    for value in distinct:
        if value is not None and (len(value) > LONGEST_VALUE or _ADDRESS.search(value)):
            raise EvaluationProblem(
                f"group attribute {shown(attribute)} holds addresses or long texts, which point at persons; "
                "give ranges or classes"
            )
    return found


def _further(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(values)
    return _numbers(values, column)
