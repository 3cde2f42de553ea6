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
from ml_registry_pipelines.search.index.erased import Told
from ml_registry_pipelines.search.index.schema import NOW
from ml_registry_pipelines.search.index.text import counted, folded

CARD = "model_card"
"""Kind of the artifacts that are read for full text."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KINDS = {"text": "t", "number": "n", "boolean": "b", "date": "d"}
_LARGEST = 2**63
_NUMBERED = (
    ("models", "no"),
    ("model_states", "row"),
    ("versions", "no"),
    ("version_states", "row"),
    ("docs", "no"),
    ("terms", "no"),
)
_SORTED = frozenset({"postings", "version_metrics", "model_tags"})
"""Tables whose rows are written in the order of their keys."""

CardReader = Callable[[str], str]
"""Gives the text of a stored artifact by its digest; empty where it is none, or cannot be read."""


class Folder:
    """Takes states into the tables of one connection, within a transaction that the caller begins and ends.

    Rows wait in memory and are written many at a time, sorted by their keys: that is three times as
    fast as one by one. What reads or changes a row that may still be waiting writes them first.
    """

    def __init__(self, connection: sqlite3.Connection, read_card: CardReader, told: Told) -> None:
        self._db = connection
        self._card = read_card
        self._told = told
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}
        self._waiting_models: set[int] = set()
        self._waiting_versions: set[int] = set()
        self._next = {table: self._first(table, column) for table, column in _NUMBERED}
        self._tenants: dict[str, int] = {}
        self._models: dict[tuple[int, str], int] = {}
        self._versions: dict[tuple[int, str], int] = {}
        self._latest_rows: dict[int, tuple[int, int, int, int, int]] = {}
        self._occurs: Counter[int] = Counter()
        self._totals: dict[int, list[int]] = {}
        self._terms: dict[tuple[int, str], int] = {}
        self._newest: dict[int, tuple[int, int, int] | None] = {}
        """Version, number and beginning of what is the newest living version of a model."""
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
        self._flush()
        for model, (tenant, since) in self._changed.items():
            self._document(model, tenant, since)
        self._changed.clear()
        self._end()
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

    # -- rows ------------------------------------------------------------------------------

    def _first(self, table: str, column: str) -> int:
        return int(self._db.execute(f"SELECT coalesce(max({column}), 0) + 1 FROM {table}").fetchone()[0])

    def _numbered(self, table: str) -> int:
        """The next number of a table's rows: nobody else writes during the transaction."""
        self._next[table] += 1
        return self._next[table] - 1

    def _add(self, table: str, *values: Any) -> None:
        self._waiting.setdefault(table, []).append(values)

    def _flush(self) -> None:
        """Write what waits."""
        for table, rows in self._waiting.items():
            if table in _SORTED:
                rows.sort(key=lambda row: row[:2])
            columns = "(rowid, folded)" if table == "names" else ""
            marks = ", ".join("?" * len(rows[0]))
            self._db.executemany(f"INSERT INTO {table} {columns} VALUES ({marks})", rows)
        self._waiting.clear()
        self._waiting_models.clear()
        self._waiting_versions.clear()

    def _closed(self, table: str, column: str, number: int, since: int) -> None:
        """End the newest state of an entity."""
        self._db.execute(
            f"UPDATE {table} SET until = ? WHERE {column} = ? AND until = {NOW}", (since, number)
        )

    # -- models ----------------------------------------------------------------------------

    def _model(self, state: State) -> None:
        data, since = state.data, state.sequence
        tenant = self.tenant(state.tenant)
        model, known = self._number(tenant, state.id)
        moment = _micros(state.recorded_at)
        if model in self._waiting_models:
            self._flush()
        if known:
            self._db.execute(
                "UPDATE models SET created = ? WHERE no = ? AND created IS NULL", (moment, model)
            )
            self._closed("model_states", "model", model, since)
        else:
            self._add("models", model, tenant, state.id, moment)
        name = self._told(state.tenant, state.name)
        row, plain = self._numbered("model_states"), folded(name)
        self._add(
            "model_states",
            row,
            model,
            tenant,
            since,
            NOW,
            state.deleted,
            state.id,
            name,
            plain,
            self._told(state.tenant, str(data.get("description") or "")),
            data.get("status"),
            moment,
        )
        self._waiting_models.add(model)
        self._add("names", row, plain)
        self._tags("model_tags", row, state)
        for owner in dict.fromkeys(self._told(state.tenant, owner) for owner in data.get("owners") or ()):
            self._add("model_owners", row, owner, tenant)
        aliases = (data.get("aliases") or {}).items()
        for alias, number in {self._told(state.tenant, alias): number for alias, number in aliases}.items():
            self._add("model_aliases", row, alias, tenant, number)
        self._changed[model] = (tenant, since)

    def _number(self, tenant: int, identity: str) -> tuple[int, bool]:
        """Number of a model by id, and whether the index knows it."""
        key = (tenant, identity)
        if (known := self._models.get(key)) is not None:
            return known, True
        found = self._db.execute("SELECT no FROM models WHERE tenant = ? AND id = ?", key).fetchone()
        number = self._models[key] = int(found[0]) if found else self._numbered("models")
        return number, found is not None

    def _known(self, tenant: int, identity: str) -> int:
        """Number of a model that something else speaks of."""
        model, known = self._number(tenant, identity)
        if not known:
            self._add("models", model, tenant, identity, None)
            self._waiting_models.add(model)
        return model

    def _tags(self, table: str, row: int, state: State) -> None:
        tenant = self.tenant(state.tenant)
        for key, tag in (state.data.get("tags") or {}).items():
            if tag.get("type") in _KINDS:
                value = self._plain(state.tenant, _value(tag["value"]))
                self._add(table, row, key, tenant, _KINDS[tag["type"]], value)

    def _plain(self, tenant: str, value: Any) -> Any:
        return self._told(tenant, value) if isinstance(value, str) else value

    # -- versions --------------------------------------------------------------------------

    def _version(self, state: State) -> None:
        data, since = state.data, state.sequence
        tenant = self.tenant(state.tenant)
        model = self._known(tenant, str(data["model_id"]))
        version = self._version_number(tenant, state.id)
        number = int(data["version"])
        if version is None:
            version = self._new_version(state, tenant, model, number)
        else:
            if version in self._waiting_versions:
                self._flush()
            self._closed("version_states", "version", version, since)
        card = next(
            (a["digest"] for a in reversed(data.get("artifacts") or ()) if a.get("kind") == CARD), None
        )
        row = self._numbered("version_states")
        self._add(
            "version_states",
            row,
            version,
            model,
            tenant,
            since,
            NOW,
            state.deleted,
            data["stage"],
            self._told(state.tenant, str(data.get("description") or "")),
            card,
            _micros(state.recorded_at),
        )
        self._tags("version_tags", row, state)
        self._latest(model, version, number, state)
        if card is not None:
            self._changed[model] = (tenant, since)

    def _version_number(self, tenant: int, identity: str) -> int | None:
        key = (tenant, identity)
        if (known := self._versions.get(key)) is not None:
            return known
        found = self._db.execute("SELECT no FROM versions WHERE tenant = ? AND id = ?", key).fetchone()
        return None if found is None else int(found[0])

    def _new_version(self, state: State, tenant: int, model: int, number: int) -> int:
        data = state.data
        content = data.get("content") or {}
        version = self._versions[tenant, state.id] = self._numbered("versions")
        self._waiting_versions.add(version)
        self._add(
            "versions",
            version,
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
        )
        for key, value in (data.get("metrics") or {}).items():
            self._add("version_metrics", version, key, tenant, _value(value))
        for key, value in (data.get("parameters") or {}).items():
            if (typed := _typed(value)) is not None:
                self._add("version_params", version, key, typed[0], self._plain(state.tenant, typed[1]))
        return version

    def _latest(self, model: int, version: int, number: int, state: State) -> None:
        """Keep which living version of a model is the newest."""
        if model not in self._newest:
            self._newest[model] = self._db.execute(
                f"SELECT version, number, since FROM latest WHERE model = ? AND until = {NOW}", (model,)
            ).fetchone()
        before, since = self._newest[model], state.sequence
        if state.deleted:
            if before is None or before[0] != version:
                return
            self._flush()
            now = self._db.execute(
                f"""
                SELECT v.no, v.number FROM versions v
                JOIN version_states s ON s.version = v.no AND s.until = {NOW} AND NOT s.deleted
                WHERE v.model = ? ORDER BY v.number DESC LIMIT 1
                """,
                (model,),
            ).fetchone()
        elif before is not None and before[1] >= number:
            return
        else:
            now = (version, number)
        if before is not None and before[2] == since:
            # Of several versions of one event, the last one is the newest from that event on.
            self._db.execute("DELETE FROM latest WHERE model = ? AND since = ?", (model, since))
            self._latest_rows.pop(model, None)
        elif before is not None:
            self._write_latest(model)
            self._db.execute(f"UPDATE latest SET until = ? WHERE model = ? AND until = {NOW}", (since, model))
        self._newest[model] = None if now is None else (now[0], now[1], since)
        if now is not None:
            self._latest_rows[model] = (model, since, NOW, now[0], now[1])

    def _write_latest(self, model: int) -> None:
        if (row := self._latest_rows.pop(model, None)) is not None:
            self._db.execute("INSERT INTO latest VALUES (?, ?, ?, ?, ?)", row)

    # -- what others say of models -----------------------------------------------------------

    def _risk(self, state: State) -> None:
        data = state.data.get("metadata") or {}
        if "model_id" not in data:
            return
        model = self._known(self.tenant(state.tenant), str(data["model_id"]))
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
        counts = [
            counted(name),
            counted(description),
            self._words_of_card(tenant, card[0]) if card else Counter(),
        ]
        length = sum(sum(count.values()) for count in counts)
        doc = self._numbered("docs")
        self._add("docs", doc, model, since, NOW, length, digest)
        for word in dict.fromkeys(word for count in counts for word in count):
            self._add("postings", self._term(tenant, word), doc, *(count[word] for count in counts))
        totals = self._totals.setdefault(tenant, [0, 0])
        totals[0] += 1
        totals[1] += length

    def _words_of_card(self, tenant: int, digest: str) -> Counter[str]:
        (name,) = self._db.execute("SELECT name FROM tenants WHERE no = ?", (tenant,)).fetchone()
        return counted(self._told(name, self._card(digest)))

    def _term(self, tenant: int, word: str) -> int:
        """Number of a word, which occurs in one more document."""
        key = (tenant, word)
        term = self._terms.get(key)
        if term is None:
            found = self._db.execute("SELECT no FROM terms WHERE tenant = ? AND term = ?", key).fetchone()
            term = self._terms[key] = int(found[0]) if found else self._numbered("terms")
            if found is None:
                self._add("terms", term, tenant, word, 0)
        self._occurs[term] += 1
        return term

    def _end(self) -> None:
        """Write what waits, and how often words occur."""
        for model in list(self._latest_rows):
            self._write_latest(model)
        self._flush()
        self._db.executemany(
            "UPDATE terms SET docs = docs + ? WHERE no = ?", [(n, term) for term, n in self._occurs.items()]
        )
        self._db.executemany(
            "UPDATE tenants SET docs = docs + ?, length = length + ? WHERE no = ?",
            [(docs, length, tenant) for tenant, (docs, length) in self._totals.items()],
        )
        self._occurs.clear()
        self._totals.clear()


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
