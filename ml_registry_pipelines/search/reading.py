"""Rows of a page as hits: what a person sees of each."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import date

from ml_registry_pipelines.registry.names import TagValue
from ml_registry_pipelines.search.results import Hit
from ml_registry_pipelines.search.statements import Row, Statement


def hits_of(connection: sqlite3.Connection, statement: Statement, rows: Sequence[Row]) -> list[Hit]:
    """The hits of some rows, in their order."""
    found = statement.found_in(rows)
    return [_hit(connection, statement.sequence, row, found.get(row.model, {})) for row in rows]


def _hit(db: sqlite3.Connection, sequence: int, row: Row, found: dict[str, tuple[str, ...]]) -> Hit:
    state, name, description, status = db.execute(
        "SELECT row, name, description, status FROM model_states WHERE model = ? AND since <= ? AND until > ?",
        (row.model, sequence, sequence),
    ).fetchone()
    latest = db.execute(
        "SELECT number FROM latest WHERE model = ? AND since <= ? AND until > ?",
        (row.model, sequence, sequence),
    ).fetchone()
    aliases = dict(
        db.execute("SELECT value, number FROM model_aliases WHERE row = ? ORDER BY value", (state,))
    )
    owners = tuple(
        v for (v,) in db.execute("SELECT value FROM model_owners WHERE row = ? ORDER BY value", (state,))
    )
    identity, version, stage, tags = row.id, None, None, _tags(db, "model_tags", state)
    if row.version is not None:
        identity, version, stage, description = db.execute(
            "SELECT w.id, w.number, v.stage, v.description FROM version_states v JOIN versions w ON w.no = v.version"
            " WHERE v.row = ?",
            (row.row,),
        ).fetchone()
        tags = _tags(db, "version_tags", row.row)
        aliases = {alias: number for alias, number in aliases.items() if number == version}
    return Hit(
        id=identity,
        name=name,
        kind="model" if version is None else "version",
        description=description,
        status=status,
        tags=tags,
        aliases=aliases,
        owners=owners,
        latest_version=None if latest is None else latest[0],
        model_id=row.id,
        version=version,
        stage=stage,
        score=row.score,
        matched=tuple(f"{word!r} in {' and '.join(places)}" for word, places in found.items()),
    )


def _tags(db: sqlite3.Connection, table: str, row: int) -> dict[str, TagValue]:
    return {
        key: date.fromisoformat(value) if kind == "d" else bool(value) if kind == "b" else value
        for key, kind, value in db.execute(
            f"SELECT key, kind, value FROM {table} WHERE row = ? ORDER BY key", (row,)
        )
    }
