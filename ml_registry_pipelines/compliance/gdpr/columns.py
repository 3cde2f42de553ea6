"""The catalogue of columns: which columns of which tables and datasets are personal, and what they tell.

Of a table its declaration says so, of a dataset the register of columns. A column of a dataset that
nobody has declared is *unclassified*: never taken for one without personal data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.gdpr.entries import Category, PersonalColumn, Purpose
from ml_registry_pipelines.compliance.gdpr.registers import entries_of
from ml_registry_pipelines.lake.tables import TABLES
from ml_registry_pipelines.registry.states import DATASET, DATASET_VERSION, State, from_rows

if TYPE_CHECKING:
    from ml_registry_pipelines.registry.view import View


class Holds(Enum):
    PERSONAL = "personal"
    NOT_PERSONAL = "not personal"
    UNCLASSIFIED = "unclassified"


@dataclass(frozen=True)
class CataloguedColumn:
    """One column. `of`: name of the table or dataset. `category`: what its name or declaration says it tells."""

    of: str
    column: str
    holds: Holds
    category: Category = Category.ORDINARY
    table: bool = True
    text: bool = True

    @property
    def name(self) -> str:
        return f"{self.of}.{self.column}"


_SPECIAL: tuple[tuple[Category, str], ...] = (
    (Category.RACE, r"race|racial|ethnic(ity)?|skin_colou?r|tribe|caste"),
    (Category.POLITICS, r"politic(s|al)?|party_member(ship)?|voted_for"),
    (Category.RELIGION, r"religio(n|us)|faith|church|denomination"),
    (Category.UNION, r"(trade_)?union(_member(ship)?)?"),
    (Category.GENETIC, r"genetic|genome|dna|genotype"),
    (Category.BIOMETRIC, r"biometric|fingerprint_template|face_(embedding|template)|iris|voiceprint"),
    (
        Category.HEALTH,
        r"health|diagnos[ie]s|disabilit(y|ies)|disease|illness|medication|icd10?|pregnan(t|cy)",
    ),
    (Category.ORIENTATION, r"sexual(ity)?|(sexual_)?orientation"),
)
_PATTERNS = tuple(
    (category, re.compile(rf"(?:^|_)(?:{words})(?:_|$)", re.IGNORECASE)) for category, words in _SPECIAL
)


def special_by_name(column: str) -> Category:
    """The special category of Art. 9(1) that a column's name says it tells; `ORDINARY` where it says none."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", column)
    return next((category for category, words in _PATTERNS if words.search(plain)), Category.ORDINARY)


def column_catalogue(view: View) -> list[CataloguedColumn]:
    """Every column of every declared table, and of the newest version of every dataset, by name."""
    found = [
        CataloguedColumn(
            table.name,
            column.name,
            Holds.PERSONAL if column.personal else Holds.NOT_PERSONAL,
            text=column.type == "string",
        )
        for table in TABLES.values()
        for column in table.columns
    ]
    declared = declared_columns(view)
    for name, version in newest_versions(view).items():
        found += columns_of_version(name, version, declared)
    return sorted(found, key=lambda column: (column.of, column.column))


def columns_of_version(
    dataset: str, version: State, declared: Sequence[PersonalColumn]
) -> list[CataloguedColumn]:
    """The columns of one version of a dataset, as they are declared."""
    said = {entry.column: entry for entry in declared if entry.dataset == dataset}
    listed: list[dict[str, Any]] = version.data["metadata"].get("columns") or []
    return [_catalogued(dataset, column, said.get(str(column["name"]))) for column in listed]


def declared_columns(view: View) -> list[PersonalColumn]:
    """The register of columns."""
    return entries_of(view, PersonalColumn)


def newest_versions(view: View) -> dict[str, State]:
    """The newest version of each living dataset that has one, by the dataset's name."""
    rows = view.query(
        "gdpr.newest_datasets",
        "things",
        """
        SELECT current.*
        FROM current JOIN (SELECT id AS dataset FROM current WHERE type = $dataset AND NOT deleted) AS living
            ON current.parent_id = living.dataset
        WHERE current.type = $version AND NOT current.deleted
        QUALIFY row_number() OVER (PARTITION BY current.parent_id ORDER BY current.from_sequence DESC) = 1
        """,
        {"dataset": DATASET, "version": DATASET_VERSION},
    )
    versions = from_rows("things", rows)
    parents = {s.id: s for s in view.by_any("things", "id", [str(v.data["parent_id"]) for v in versions])}
    return {parents[str(v.data["parent_id"])].name: v for v in versions if v.data["parent_id"] in parents}


def covers(purpose: Purpose, of: str, column: str | None = None) -> bool:
    """Whether a purpose lists a column; without one, whether it lists any of the table or dataset."""
    return any(_fits(pattern, of, column) for pattern in purpose.columns)


def covering(purposes: Iterable[Purpose], of: str, column: str | None = None) -> list[Purpose]:
    """The purposes that list a column, or any of a table or dataset."""
    return [purpose for purpose in purposes if covers(purpose, of, column)]


def _fits(pattern: str, of: str, column: str | None) -> bool:
    if pattern.endswith("*"):
        start = pattern[:-1]
        if column is None:
            return f"{of}.".startswith(start) or start.startswith(f"{of}.")
        return f"{of}.{column}".startswith(start)
    return pattern.startswith(f"{of}.") if column is None else pattern == f"{of}.{column}"


def _catalogued(dataset: str, column: dict[str, Any], declared: PersonalColumn | None) -> CataloguedColumn:
    name = str(column["name"])
    text = "string" in str(column.get("type", "string")).lower()
    by_name = special_by_name(name)
    if declared is None:
        return CataloguedColumn(dataset, name, Holds.UNCLASSIFIED, by_name, table=False, text=text)
    if not declared.personal:
        return CataloguedColumn(dataset, name, Holds.NOT_PERSONAL, table=False, text=text)
    # That a column called race tells nothing special is not declared away.
    category = declared.category if declared.category is not Category.ORDINARY else by_name
    return CataloguedColumn(dataset, name, Holds.PERSONAL, category, table=False, text=text)
