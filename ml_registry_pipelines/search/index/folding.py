"""From states of the log to rows of the index, in the order of the log and in one transaction each time."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from ml_registry_pipelines.registry.states import (
    AI_ACT_CLASSIFICATION,
    DEPLOYMENT,
    MODEL,
    MODEL_VERSION,
    State,
)
from ml_registry_pipelines.search.index.schema import NOW
from ml_registry_pipelines.search.index.text import counted, folded

CARD = "model_card"
"""Kind of the artifacts that are read for full text."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KINDS = {"text": "t", "number": "n", "boolean": "b", "date": "d"}
_LARGEST = 2**63

CardReader = Callable[[str], str]
"""Gives the text of a stored artifact by its digest; empty where it is none, or cannot be read."""


class Folder:
    """Takes states into the tables of one connection, within a transaction that the caller begins and ends."""

    def __init__(self, connection: sqlite3.Connection, read_card: CardReader) -> None:
        self._db = connection
        self._card = read_card
        self._tenants: dict[str, int] = {}
        self._models: dict[tuple[int, str], int] = {}
        self._versions: dict[tuple[int, str], int] = {}
        self._changed: dict[int, tuple[int, int]] = {}
        """Models whose words may be others now: tenant and event."""

    def fold(self, states: Iterable[State]) -> int:
        """Take states in the order of their events; return how many of them are searched for."""
        taken = 0
        for state in states:
            match state.entity_type:
                case "model":
                    self._model(state)
                case "model_version":
                    self._version(state)
                case "deployment":
                    self._deployment(state)
                case "ai_act_classification":
                    self._risk(state)
                case _:
                    continue
            taken += 1
        for model, (tenant, since) in self._changed.items():
            self._document(model, tenant, since)
        self._changed.clear()
        return taken

    def tenant(self, name: str) -> int:
        if name not in self._tenants:
            self._db.execute("INSERT OR IGNORE INTO tenants (name, sequence) VALUES (?, 0)", (name,))
            (self._tenants[name],) = self._db.execute(
                "SELECT no FROM tenants WHERE name = ?", (name,)
            ).fetchone()
        return self._tenants[name]

    def reached(self, tenant: str, sequence: int) -> None:
        """Note the newest event of a tenant."""
        self._db.execute(
            "UPDATE tenants SET sequence = max(sequence, ?) WHERE no = ?", (sequence, self.tenant(tenant))
        )

    # -- models ----------------------------------------------------------------------------

    def _model(self, state: State) -> None:
        db, data, since = self._db, state.data, state.sequence
        tenant = self.tenant(state.tenant)
        model, known = self._number(tenant, state.id)
        if not known:
            db.execute("UPDATE models SET created = ? WHERE no = ?", (_micros(state.recorded_at), model))
        else:
            self._closed("model_states", "model", model, since)
        row = db.execute(
            "INSERT INTO model_states (model, tenant, since, until, deleted, id, name, folded, description, status,"
            " updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                model,
                tenant,
                since,
                NOW,
                state.deleted,
                state.id,
                state.name,
                folded(state.name),
                str(data.get("description") or ""),
                data.get("status"),
                _micros(state.recorded_at),
            ),
        ).lastrowid
        db.execute("INSERT INTO names (rowid, folded) VALUES (?, ?)", (row, folded(state.name)))
        self._tags("model_tags", row, tenant, data.get("tags") or {})
        if owners := data.get("owners"):
            db.executemany(
                "INSERT INTO model_owners VALUES (?, ?, ?)", [(row, o, tenant) for o in dict.fromkeys(owners)]
            )
        if aliases := data.get("aliases"):
            db.executemany(
                "INSERT INTO model_aliases VALUES (?, ?, ?, ?)",
                [(row, alias, tenant, number) for alias, number in aliases.items()],
            )
        self._changed[model] = (tenant, since)

    def _number(self, tenant: int, identity: str) -> tuple[int, bool]:
        """Number of a model by id, and whether it was known."""
        key = (tenant, identity)
        if (known := self._models.get(key)) is not None:
            return known, True
        found = self._db.execute("SELECT no FROM models WHERE tenant = ? AND id = ?", key).fetchone()
        if found is None:
            cursor = self._db.execute("INSERT INTO models (tenant, id) VALUES (?, ?)", key)
            number, before = int(cursor.lastrowid or 0), False
        else:
            number, before = int(found[0]), True
        self._models[key] = number
        return number, before

    def _closed(self, table: str, column: str, number: int, since: int) -> None:
        """End the newest state of an entity, or take it back where it began with the same event."""
        self._db.execute(
            f"UPDATE {table} SET until = ? WHERE {column} = ? AND until = {NOW}", (since, number)
        )

    def _tags(self, table: str, row: int | None, tenant: int, tags: Mapping[str, Any]) -> None:
        if tags:
            self._db.executemany(
                f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)",
                [
                    (row, key, tenant, _KINDS[tag["type"]], _value(tag["value"]))
                    for key, tag in tags.items()
                    if tag.get("type") in _KINDS
                ],
            )

    # -- versions --------------------------------------------------------------------------

    def _version(self, state: State) -> None:
        db, data, since = self._db, state.data, state.sequence
        tenant = self.tenant(state.tenant)
        model, _ = self._number(tenant, str(data["model_id"]))
        version = self._versions.get((tenant, state.id)) or self._known_version(tenant, state.id)
        number = int(data["version"])
        if version is None:
            version = self._new_version(state, tenant, model, number)
        else:
            self._closed("version_states", "version", version, since)
        card = next(
            (a["digest"] for a in reversed(data.get("artifacts") or ()) if a.get("kind") == CARD), None
        )
        row = db.execute(
            "INSERT INTO version_states (version, model, tenant, since, until, deleted, stage, description, card,"
            " updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                version,
                model,
                tenant,
                since,
                NOW,
                state.deleted,
                data["stage"],
                str(data.get("description") or ""),
                card,
                _micros(state.recorded_at),
            ),
        ).lastrowid
        self._tags("version_tags", row, tenant, data.get("tags") or {})
        self._latest(model, version, number, state)
        if card is not None:
            self._changed[model] = (tenant, since)

    def _known_version(self, tenant: int, identity: str) -> int | None:
        found = self._db.execute(
            "SELECT no FROM versions WHERE tenant = ? AND id = ?", (tenant, identity)
        ).fetchone()
        return None if found is None else int(found[0])

    def _new_version(self, state: State, tenant: int, model: int, number: int) -> int:
        data = state.data
        content = data.get("content") or {}
        cursor = self._db.execute(
            "INSERT INTO versions (tenant, model, id, number, created, framework, licence, size, digest, form)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                tenant,
                model,
                state.id,
                number,
                _micros(state.recorded_at),
                data.get("framework"),
                data.get("licence"),
                _value(data.get("size")),
                data.get("content_digest"),
                content.get("form") if isinstance(content, Mapping) else None,
            ),
        )
        version = int(cursor.lastrowid or 0)
        self._versions[tenant, state.id] = version
        if metrics := data.get("metrics"):
            self._db.executemany(
                "INSERT INTO version_metrics VALUES (?, ?, ?, ?)",
                [(version, key, tenant, _value(value)) for key, value in metrics.items()],
            )
        if parameters := data.get("parameters"):
            self._db.executemany(
                "INSERT INTO version_params VALUES (?, ?, ?, ?)",
                [(version, key, *typed) for key, value in parameters.items() if (typed := _typed(value))],
            )
        return version

    def _latest(self, model: int, version: int, number: int, state: State) -> None:
        """Keep which living version of a model is the newest."""
        db, since = self._db, state.sequence
        before = db.execute(
            f"SELECT version, number FROM latest WHERE model = ? AND until = {NOW}", (model,)
        ).fetchone()
        if before is not None and before[0] == version and not state.deleted:
            return
        if before is not None and before[0] != version and (state.deleted or before[1] > number):
            return
        if state.deleted and before is None:
            return
        now: tuple[int, int] | None = (version, number)
        if state.deleted:
            now = db.execute(
                f"""
                SELECT v.no, v.number FROM versions v
                JOIN version_states s ON s.version = v.no AND s.until = {NOW} AND NOT s.deleted
                WHERE v.model = ? ORDER BY v.number DESC LIMIT 1
                """,
                (model,),
            ).fetchone()
        db.execute("DELETE FROM latest WHERE model = ? AND since = ?", (model, since))
        db.execute(f"UPDATE latest SET until = ? WHERE model = ? AND until = {NOW}", (since, model))
        if now is not None:
            db.execute("INSERT INTO latest VALUES (?, ?, ?, ?, ?)", (model, since, NOW, *now))

    # -- what others say of models -----------------------------------------------------------

    def _risk(self, state: State) -> None:
        data = state.data.get("metadata") or {}
        if "model_id" not in data:
            return
        model, _ = self._number(self.tenant(state.tenant), str(data["model_id"]))
        tier = None if state.deleted else data.get("tier")
        self._db.execute("DELETE FROM risks WHERE model = ? AND since = ?", (model, state.sequence))
        self._closed("risks", "model", model, state.sequence)
        self._db.execute("INSERT INTO risks VALUES (?, ?, ?, ?)", (model, state.sequence, NOW, tier))

    def _deployment(self, state: State) -> None:
        data = state.data
        metadata = data.get("metadata") or {}
        tenant = self.tenant(state.tenant)
        lives = data.get("status") == "live" and not state.deleted
        where = (metadata.get("environment"), metadata.get("version_id")) if lives else (None, None)
        key = (tenant, state.id)
        self._db.execute(
            "DELETE FROM deployments WHERE tenant = ? AND id = ? AND since = ?", (*key, state.sequence)
        )
        self._db.execute(
            f"UPDATE deployments SET until = ? WHERE tenant = ? AND id = ? AND until = {NOW}",
            (state.sequence, *key),
        )
        self._db.execute(
            "INSERT INTO deployments VALUES (?, ?, ?, ?, ?, ?)", (*key, state.sequence, NOW, *where)
        )

    # -- words -----------------------------------------------------------------------------

    def _document(self, model: int, tenant: int, since: int) -> None:
        """Take the words of a model anew where they are others."""
        db = self._db
        found = db.execute(
            f"SELECT name, description, deleted FROM model_states WHERE model = ? AND until = {NOW}", (model,)
        ).fetchone()
        if found is None:
            return  # A version of a model that the log has not told of: it cannot be found either.
        name, description, deleted = found
        card = db.execute(
            f"""
            SELECT s.card FROM version_states s JOIN versions v ON v.no = s.version
            WHERE s.model = ? AND s.until = {NOW} AND NOT s.deleted AND s.card IS NOT NULL
            ORDER BY v.number DESC LIMIT 1
            """,
            (model,),
        ).fetchone()
        digest = sha256(f"{len(name)}:{name}{description}\0{card and card[0]}".encode()).hexdigest()[:32]
        before = db.execute(f"SELECT digest FROM docs WHERE model = ? AND until = {NOW}", (model,)).fetchone()
        if before is not None and before[0] == digest:
            return
        if deleted:
            return
        db.execute(f"UPDATE docs SET until = ? WHERE model = ? AND until = {NOW}", (since, model))
        counts = [counted(name), counted(description), counted(self._card(card[0])) if card else Counter()]
        length = sum(sum(count.values()) for count in counts)
        doc = db.execute(
            "INSERT INTO docs (model, since, until, length, digest) VALUES (?, ?, ?, ?, ?)",
            (model, since, NOW, length, digest),
        ).lastrowid
        words = list(dict.fromkeys(word for count in counts for word in count))
        db.executemany(
            "INSERT INTO terms (tenant, term, docs) VALUES (?, ?, 1)"
            " ON CONFLICT (tenant, term) DO UPDATE SET docs = docs + 1",
            [(tenant, word) for word in words],
        )
        db.executemany(
            "INSERT INTO postings SELECT no, ?, ?, ?, ? FROM terms WHERE tenant = ? AND term = ?",
            [(doc, *(count[word] for count in counts), tenant, word) for word in words],
        )
        db.execute("UPDATE tenants SET docs = docs + 1, length = length + ? WHERE no = ?", (length, tenant))


def searched(entity_type: str) -> bool:
    """Whether states of that type say anything that a query asks about."""
    return entity_type in {MODEL, MODEL_VERSION, DEPLOYMENT, AI_ACT_CLASSIFICATION}


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _value(value: Any) -> Any:
    """What SQLite can keep: a whole number beyond 64 bits becomes the nearest other one."""
    if isinstance(value, int) and not isinstance(value, bool) and not -_LARGEST <= value < _LARGEST:
        return float(value)
    return value


def _typed(value: Any) -> tuple[str, Any] | None:
    """Kind and value of a parameter; None for what is no single value."""
    match value:
        case bool():
            return "b", value
        case int() | float():
            return "n", _value(value)
        case str():
            return "t", value
    return None
