"""Rows of evaluations in the table `evaluation_data`: how they are kept, and read back under their roles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.evaluation_rows import (
    GROUP,
    LABEL,
    PREDICTION,
    ROLES,
    SCORE,
    Columns,
    EvaluationProblem,
    normalised,
)
from ml_registry_pipelines.lake.tables.evaluations import EVALUATION_DATA
from ml_registry_pipelines.registry.errors import shown

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.compliance.evaluations import DeclaredEvaluation
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.telemetry.suppression import Suppression

TABLE = EVALUATION_DATA.name
_WORDS = "$words"


def recorded_rows(
    lake: Lake, given: DeclaredEvaluation, production: tuple[datetime, datetime] | None
) -> tuple[pa.Table, dict[str, int]]:
    """Rows of `evaluation_data` under their roles, and the version of the table."""
    start, end = production or (None, None)
    with lake.read(TABLE) as reading:
        version = reading.version(TABLE)
        parameters = {
            "tenant": given.tenant,
            "version": given.version_id,
            "declared": given.columns.digest,
            "origin": "evaluation" if production is None else "production",
            "start": start,
            "end": end,
        }
        found = reading.query(
            "compliance.evaluation_data",
            f"""
            WITH matching AS (
                SELECT * FROM evaluation_data
                WHERE tenant = $tenant AND version_id = $version AND declared = $declared
                    AND origin = $origin
                    AND ($start IS NULL OR observed_at >= $start) AND ($end IS NULL OR observed_at < $end)
            ), newest AS (
                SELECT evaluation_id FROM matching
                GROUP BY evaluation_id ORDER BY max(recorded_at) DESC, evaluation_id DESC
                LIMIT {1 if production is None else 2**62}
            )
            SELECT {_selected(given.columns)}
            FROM matching JOIN newest USING (evaluation_id)
            ORDER BY recorded_at, evaluation_id, "row"
            """,
            parameters,
        )
        others = 0
        if not found.num_rows:
            others = reading.query(
                "compliance.evaluation_data_of_others",
                """
                SELECT count(*) AS n FROM evaluation_data
                WHERE tenant = $tenant AND version_id = $version AND declared <> $declared AND origin = $origin
                """,
                {name: parameters[name] for name in ("tenant", "version", "declared", "origin")},
            )["n"][0].as_py()
    if not found.num_rows:
        old = f"; {others:,} were, under columns that were declared otherwise: record them again"
        raise EvaluationProblem(
            f"no prediction is recorded for {'evaluation' if production is None else 'this time in production'}"
            + (old if others else "")
        )
    return _typed(found, given.columns), {TABLE: version}


def _selected(columns: Columns) -> str:
    named = (columns.label, columns.prediction, columns.score)
    parts = [role for role, given in zip(ROLES, named, strict=True) if given is not None]
    # Names were checked when they were declared: lower-case letters, digits and _.
    parts += [f"json_extract_string(groups, '$.{a}') AS {GROUP}{a}" for a in columns.groups or {}]
    for role in columns.further or {}:
        parts.append(f"json_extract_string(further, '$.{role}') AS {role}")
        parts.append(f"json_type(further, '$.{role}') = 'VARCHAR' AS \"{role}{_WORDS}\"")
    return ", ".join(parts)


def _typed(rows: pa.Table, columns: Columns) -> pa.Table:
    """Further columns as numbers, unless one of their values is a word."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = {name: rows[name] for name in rows.column_names if not name.endswith(_WORDS)}
    for role in columns.further or {}:
        if not pc.any(rows[role + _WORDS]).as_py():
            found[role] = rows[role].cast(pa.float64())
    return pa.table(found).combine_chunks()


def kept_rows(
    rows: pa.Table,
    given: DeclaredEvaluation,
    *,
    origin: str,
    identity: str,
    salt: str,
    run_id: str | None,
) -> pa.Table:
    """Rows as `evaluation_data` keeps them.

    Raises:
        EvaluationProblem: a column is missing or does not hold what was declared.
    """
    import pyarrow as pa

    from ml_registry_pipelines.telemetry.identity import salted_hash

    columns = given.columns
    found = normalised(rows, columns)
    n = found.num_rows
    now = datetime.now(UTC)
    observed: pa.ChunkedArray | pa.Array = pa.nulls(n, pa.timestamp("us", "UTC"))
    if columns.observed is not None:
        observed = _instants(rows[columns.observed], columns.observed)
    elif origin == "production":
        raise EvaluationProblem("predictions in production need their time; declare the column that has it")
    hashes: list[str | None] = [None] * n
    if columns.subject is not None:
        hashes = [
            None if each is None else salted_hash(salt, given.tenant, str(each))
            for each in rows[columns.subject].to_pylist()
        ]
    same = {
        "tenant": given.tenant,
        "version_id": given.version_id,
        "evaluation_id": identity,
        "origin": origin,
        "declared": columns.digest,
        "recorded_at": now,
        "run_id": run_id,
    }
    schema = EVALUATION_DATA.schema
    made: dict[str, Any] = {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), n) for name, value in same.items()
    }
    for role in (LABEL, PREDICTION, SCORE):
        made[role] = found[role] if role in found.column_names else pa.nulls(n, pa.float64())
    made |= {
        "row": pa.array(range(n), pa.int64()),
        "observed_at": observed,
        "groups": _objects(found, {a: GROUP + a for a in columns.groups or {}}),
        "further": _objects(found, {r: r for r in columns.further or {}}),
        "subject_hash": pa.array(hashes, pa.string()),
    }
    return pa.table({name: made[name] for name in EVALUATION_DATA.column_names}, schema=schema)


def not_erased(lake: Lake, rows: pa.Table) -> pa.Table:
    """The rows without those of people who were erased: recorded anew, their data would be back."""
    from ml_registry_pipelines.telemetry.suppression import Suppression

    gone = _erased(Suppression(lake), rows)
    if not gone:
        return rows
    import pyarrow as pa

    kept = [hashed not in gone for hashed in rows["subject_hash"].to_pylist()]
    return rows.filter(pa.array(kept))


def forget_newly_erased(lake: Lake, rows: pa.Table) -> None:
    """Erase those of some rows whose person was put on the list while they were written."""
    from ml_registry_pipelines.telemetry.suppression import Suppression

    if gone := _erased(Suppression(lake), rows):
        listed = ", ".join(f"'{hashed}'" for hashed in sorted(gone))
        identity = rows["evaluation_id"][0].as_py()
        lake.erase(TABLE, f"evaluation_id = '{identity}' AND subject_hash IN ({listed})")


def _erased(listed: Suppression, rows: pa.Table) -> set[str]:
    """Salted hashes of the subjects that are on the list."""
    if not listed or not rows.num_rows:
        return set()
    tenant = rows["tenant"][0].as_py()
    return {
        hashed
        for hashed in rows["subject_hash"].unique().to_pylist()
        if hashed is not None and listed.holds(tenant, hashed)
    }


def _instants(values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    import pyarrow as pa

    if not pa.types.is_timestamp(values.type) or values.type.tz is None:
        raise EvaluationProblem(f"column {shown(column)} holds {values.type}, and no times with a zone")
    if values.null_count:
        raise EvaluationProblem(f"{values.null_count:,} rows have no time in column {shown(column)}")
    return values.cast(pa.timestamp("us", "UTC"))


def _objects(rows: pa.Table, columns: Mapping[str, str]) -> pa.Array:
    """A JSON object per row; each of few texts is made once."""
    import pyarrow as pa

    if not columns:
        return pa.repeat(pa.scalar("{}"), rows.num_rows)
    parts = [rows[column].to_pylist() for column in columns.values()]
    made: dict[tuple[object, ...], str] = {}
    texts = []
    for values in zip(*parts, strict=True):
        if (text := made.get(values)) is None:
            text = made[values] = json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False)
        texts.append(text)
    return pa.array(texts, pa.string())
