"""The statements of one search over the index: its page, its count, its ids.

Which way a statement goes is chosen here, by counting: along an index of the rarest condition, or
along the names until the page is full.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.search.compiling import Compiler, joined
from ml_registry_pipelines.search.driving import drives
from ml_registry_pipelines.search.index.text import words
from ml_registry_pipelines.search.language.ast import Name, Order, names_in
from ml_registry_pipelines.search.language.fields import OF_MODELS, OF_VERSIONS, Kind
from ml_registry_pipelines.search.language.parsing import RELEVANT

if TYPE_CHECKING:
    from ml_registry_pipelines.search.models import Prepared

SATURATION, LENGTHS = 1.2, 0.75
"""BM25's k1 and b, as Robertson and Zaragoza (2009) give them and most engines have them."""
IN_NAME, IN_DESCRIPTION, IN_CARD = 3.0, 1.0, 0.5
"""How often a word counts, by where it stands; BM25F's weights of fields, by judgement."""
BILLION = 1_000_000_000
"""Parts of a score's unit in which scores are added."""
COUNTED = 5_000
"""Up to how many rows of a condition are counted to choose a way."""
MOST_WORDS = 100
"""Different words of a text that are looked for: the rarest ones."""


@dataclass(frozen=True)
class Weights:
    """What each word of a text weighs, and how long a document is on average."""

    words: Mapping[str, float]
    average: float


@dataclass(frozen=True)
class Row:
    """One hit: numbers in the index, and the keys that it was sorted by."""

    row: int
    model: int
    id: str
    version: int | None
    keys: tuple[Any, ...]
    score: float | None


class Statement:
    """One search, as SQL over one connection."""

    def __init__(self, connection: sqlite3.Connection, tenant: str, asked: Prepared, sequence: int) -> None:
        self._db = connection
        self._asked = asked
        found = connection.execute(
            "SELECT no, docs, length FROM tenants WHERE name = ?", (tenant,)
        ).fetchone()
        known: tuple[int, int, int] = found or (0, 0, 0)
        self._tenant, self._docs, self._length = known
        self.sequence = sequence
        self.figures: Mapping[int, str] = {}
        self.order = _completed(asked)
        self._last: tuple[Any, ...] | None = None
        self._only: str | None = None
        self._words_way: str | None = None
        self.weights = self._weighed() if asked.text is not None else Weights({}, 1.0)

    def go_on(self, sequence: int, last: tuple[Any, ...], weights: Weights) -> None:
        """Read as of an earlier page's event, behind its last hit, by its statistics."""
        self.sequence, self._last = sequence, last
        if self._asked.text is not None:
            self.weights = weights

    def only(self, ids: Iterable[str] | None) -> None:
        """Keep only some models."""
        if ids is not None:
            import json

            self._only = json.dumps(list(ids))

    # -- answers ---------------------------------------------------------------------------

    def page(self, limit: int) -> list[Row]:
        """The first hits, behind the last one of the page before."""
        compiler, where, ways = self._conditions()
        columns, sort, beyond = self._sorting(compiler)
        source, score = self._source(compiler, self._way(compiler, ways, limit))
        compiler.parameters["most"] = limit
        if self._by_name and self._last is not None:
            # The index of names is entered behind the last one, rather than read from its begin.
            where = f"m.name >= :k0 AND {where}"
        statement = f"""
            SELECT * FROM (
              SELECT {self._row} AS row, m.model AS model, m.id AS id,
                {"w.number" if self._versions else "NULL"} AS version, {score} AS score, {columns}
              {source} WHERE {where}
            )
            WHERE {beyond} {"AND score IS NOT NULL" if self._asked.text is not None else ""}
            ORDER BY {sort} LIMIT :most
        """
        relevant = [key.name.field is RELEVANT for key in self.order]
        found = []
        for row, model, identity, version, score, *keys in self._db.execute(statement, compiler.parameters):
            sorted_by = (score if by else key for by, key in zip(relevant, keys, strict=True))
            relevance = None if score is None else score / BILLION
            found.append(Row(row, model, identity, version, tuple(sorted_by), relevance))
        return found

    def count(self) -> int:
        """How many hits there are."""
        compiler, where, ways = self._conditions()
        source, score = self._source(compiler, self._way(compiler, ways, None))
        statement = f"SELECT count(*) {source} WHERE {where}"
        if self._asked.text is not None:
            statement += f" AND {score} IS NOT NULL"
        return int(self._db.execute(statement, compiler.parameters).fetchone()[0])

    def ids(self) -> list[str]:
        """Ids of all models that are hits, in their order."""
        compiler, where, ways = self._conditions()
        source, _ = self._source(compiler, self._way(compiler, ways, None))
        statement = f"SELECT m.id {source} WHERE {where} ORDER BY m.id"
        return [row[0] for row in self._db.execute(statement, compiler.parameters)]

    def living(self) -> int:
        """How many models of the tenant live."""
        return int(
            self._db.execute(
                "SELECT count(*) FROM model_states m WHERE m.tenant = ? AND m.since <= ? AND m.until > ?"
                " AND NOT m.deleted",
                (self._tenant, self.sequence, self.sequence),
            ).fetchone()[0]
        )

    def lives(self, identity: str) -> bool:
        """Whether a model of the tenant lives, by id."""
        found = self._db.execute(
            "SELECT 1 FROM model_states m WHERE m.tenant = ? AND m.id = ? AND m.since <= ? AND m.until > ?"
            " AND NOT m.deleted",
            (self._tenant, identity, self.sequence, self.sequence),
        ).fetchone()
        return found is not None

    def found_in(self, rows: Sequence[Row]) -> dict[int, dict[str, tuple[str, ...]]]:
        """For each model of some rows: which words of the text occur in which of its texts."""
        found: dict[int, dict[str, tuple[str, ...]]] = {}
        for model in {row.model for row in rows} if self.weights.words else ():
            for word in self.weights.words:
                hit = self._db.execute(
                    """
                    SELECT q.name, q.description, q.card FROM terms k
                    CROSS JOIN docs d CROSS JOIN postings q ON q.term = k.no AND q.doc = d.no
                    WHERE k.tenant = ? AND k.term = ? AND d.model = ? AND d.since <= ? AND d.until > ?
                    """,
                    (self._tenant, word, model, self.sequence, self.sequence),
                ).fetchone()
                if hit is not None:
                    places = [p for p, n in zip(("name", "description", "card"), hit, strict=True) if n]
                    found.setdefault(model, {})[word] = tuple(places)
        return found

    # -- pieces ----------------------------------------------------------------------------

    @property
    def _versions(self) -> bool:
        return self._asked.kind is Kind.VERSION

    @property
    def _row(self) -> str:
        return "v.row" if self._versions else "m.row"

    @property
    def _by_name(self) -> bool:
        return not self._versions and [str(key) for key in self.order] == ["name", "id"]

    def _conditions(self) -> tuple[Compiler, str, list[str]]:
        """A compiler, the condition of all hits, and statements of rows that hold all of them."""
        compiler = Compiler(self._asked.kind, self._tenant, self.sequence)
        compiler.snapshots = dict(self.figures)
        tests = [f"+m.tenant = :t AND {compiler.holds('m')} AND NOT m.deleted"]
        if self._versions:
            tests.append(f"{compiler.holds('v')} AND NOT v.deleted")
        named = {name.field.name for name in names_in(self._asked.query)}
        if not self._asked.include_deprecated and "status" not in named:
            tests.append("m.status IS NOT 'deprecated'")
        ways = drives(compiler, self._asked.query)
        if self._asked.ids is not None:
            tests.append(self._given(compiler, sorted(self._asked.ids), ways))
        if self._only is not None:
            tests.append(self._given(compiler, None, ways))
        if self._asked.query is not None:
            tests.append(f"({compiler.condition(self._asked.query, compiler.scope)})")
        if self._asked.text is not None and not self.weights.words:
            tests.append("FALSE")
        elif self._asked.text is not None:
            self._words_way = self._worded(compiler)
            ways.append(self._words_way)
        return compiler, joined("AND", tests), ways

    def _given(self, compiler: Compiler, ids: Sequence[str] | None, ways: list[str]) -> str:
        """That a model is one of a list, which is also a way to find it."""
        import json

        given = compiler.bound(self._only if ids is None else json.dumps(list(ids)))
        listed = f"(SELECT value FROM json_each({given}))"
        rows = f"SELECT row FROM model_states WHERE tenant = :t AND id IN {listed}"
        if self._versions:
            rows = (
                "SELECT row FROM version_states WHERE model IN"
                f" (SELECT no FROM models WHERE tenant = :t AND id IN {listed})"
            )
        ways.append(rows)
        return f"m.id IN {listed}"

    def _source(self, compiler: Compiler, way: str | None) -> tuple[str, str]:
        """The relations of a search, and the score of each row."""
        versions = " CROSS JOIN versions w ON w.no = v.version CROSS JOIN model_states m ON m.model = v.model"
        if not self.weights.words:
            score = "NULL"
        elif way is not None and way == self._words_way:
            table = f"version_states v ON v.model = r.model{versions}" if self._versions else "model_states m"
            on = "" if self._versions else " ON m.model = r.model"
            return f"FROM ({self._by_words(compiler)}) r CROSS JOIN {table}{on}", "r.score"
        else:
            score = self._score(compiler)
        if self._versions:
            start = "version_states v"
            if way is not None:
                start = f"(SELECT DISTINCT row FROM ({way})) r CROSS JOIN version_states v ON v.row = r.row"
            return f"FROM {start}{versions}", score
        if way is None:
            return "FROM (SELECT 1) CROSS JOIN model_states m INDEXED BY model_names ON m.tenant = :t", score
        return f"FROM (SELECT DISTINCT row FROM ({way})) r CROSS JOIN model_states m ON m.row = r.row", score

    def _way(self, compiler: Compiler, ways: Sequence[str], limit: int | None) -> str | None:
        """The statement whose rows to go through; None: all, by name."""
        if not ways:
            return None
        counted = [
            self._db.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM ({way}) LIMIT {COUNTED})", compiler.parameters
            ).fetchone()[0]
            for way in ways
        ]
        fewest = min(counted)
        best = ways[counted.index(fewest)]
        if fewest == COUNTED and self._words_way is not None:
            # Of many and many, those that a text is about: their scores come with them.
            return self._words_way
        if not self._by_name or limit is None or limit < 0 or fewest < COUNTED // 5:
            return best
        total = max(1, self._total())
        share = math.prod(min(1.0, count / total) for count in counted)
        # Rows that are passed by name until the page is full, against those to be sorted.
        passed = min(float(total), limit / max(share, 1e-9))
        rows = fewest if fewest < COUNTED else max(fewest, total // 10)
        return None if passed < rows else best

    def _total(self) -> int:
        found = self._db.execute("SELECT max(row) FROM model_states").fetchone()[0]
        return int(found or 0)

    def _sorting(self, compiler: Compiler) -> tuple[str, str, str]:
        """Columns of the keys, the order, and the condition of what comes behind the last hit."""
        columns: list[str] = []
        sort: list[str] = []
        equal: list[str] = []
        beyond: list[str] = []
        for number, key in enumerate(self.order):
            column = f"k{number}"
            if key.name.field is RELEVANT:
                value = "score"
                columns.append(f"NULL AS {column}")
            else:
                value = column
                expression = compiler.sorted_by(key.name, descending=key.descending, scope=compiler.scope)
                columns.append(f"{expression} AS {column}")
            way = " DESC" if key.descending else ""
            sort.append(f"{value}{way}" if self._by_name else f"{value} IS NULL, {value}{way}")
            if self._last is not None:
                last = self._last[number]
                compiler.parameters[column] = last
                if last is not None:
                    ahead = f"({value} {'<' if key.descending else '>'} :{column} OR {value} IS NULL)"
                    beyond.append(joined("AND", [*equal, ahead]))
                equal.append(f"{value} IS :{column}")
        if self._last is None:
            return ", ".join(columns), ", ".join(sort), "TRUE"
        return ", ".join(columns), ", ".join(sort), f"({' OR '.join(beyond) or 'FALSE'})"

    # -- relevance -------------------------------------------------------------------------

    def _weighed(self) -> Weights:
        """What the words of the text weigh by now: rare ones more. Lucene's form of the IDF, never negative.

        Who may read some models is given the statistics of those: what a word weighs, which scores and cursors
        tell, would else say how often it occurs in the others.
        """
        statement = "SELECT docs FROM terms WHERE tenant = :t AND term = :word"
        parameters: dict[str, object] = {"t": self._tenant}
        if self._asked.ids is not None:
            import json

            parameters["ids"] = json.dumps(sorted(self._asked.ids))
            own = (
                "FROM (SELECT value FROM json_each(:ids)) i CROSS JOIN models m ON m.tenant = :t AND m.id = i.value"
                " CROSS JOIN docs d ON d.model = m.no"
            )
            self._docs, self._length = self._db.execute(
                f"SELECT count(*), coalesce(sum(d.length), 0) {own}", parameters
            ).fetchone()
            statement = (
                f"SELECT count(*) {own} CROSS JOIN terms k ON k.tenant = :t AND k.term = :word"
                " CROSS JOIN postings q ON q.term = k.no AND q.doc = d.no HAVING count(*)"
            )
        found = []
        for word in dict.fromkeys(words(self._asked.text or "")):
            known = self._db.execute(statement, {**parameters, "word": word}).fetchone()
            if known is not None:
                found.append((word, math.log(1 + (self._docs - known[0] + 0.5) / (known[0] + 0.5))))
        found.sort(key=lambda one: -one[1])
        return Weights(dict(found[:MOST_WORDS]), max(1.0, self._length / max(1, self._docs)))

    def _worded(self, compiler: Compiler) -> str:
        """Rows whose models have some of the words."""
        table = "version_states" if self._versions else "model_states"
        listed = ", ".join(compiler.bound(word) for word in self.weights.words)
        return (
            "SELECT x.row AS row FROM terms k CROSS JOIN postings q ON q.term = k.no"
            f" CROSS JOIN docs d ON d.no = q.doc AND {compiler.holds('d')}"
            f" CROSS JOIN {table} x ON x.model = d.model WHERE k.tenant = :t AND k.term IN ({listed})"
        )

    def _by_words(self, compiler: Compiler) -> str:
        """Models that have some of the words, each with its score: every posting is read once."""
        return (
            f"SELECT d.model AS model, {self._summed(compiler)} AS score FROM {self._words(compiler)}"
            f" CROSS JOIN docs d ON d.no = q.doc AND {compiler.holds('d')} GROUP BY d.model"
        )

    def _score(self, compiler: Compiler) -> str:
        """BM25 of one model's document, in billionths; NULL where none of the words occurs."""
        return (
            f"(SELECT {self._summed(compiler)} FROM docs d CROSS JOIN {self._words(compiler)} AND q.doc = d.no"
            f" WHERE d.model = m.model AND {compiler.holds('d')})"
        )

    def _words(self, compiler: Compiler) -> str:
        """The words with their weights, and where they occur."""
        values = ", ".join(
            f"({compiler.bound(word)}, {compiler.bound(weight)})"
            for word, weight in self.weights.words.items()
        )
        return (
            f"(VALUES {values}) g CROSS JOIN terms k ON k.tenant = :t AND k.term = g.column1"
            " CROSS JOIN postings q ON q.term = k.no"
        )

    def _summed(self, compiler: Compiler) -> str:
        """The sum of BM25 over words, as a whole number: it is the same in whichever order they are added."""
        average = compiler.bound(self.weights.average)
        times = f"({IN_NAME} * q.name + {IN_DESCRIPTION} * q.description + {IN_CARD} * q.card)"
        length = f"{SATURATION} * ({1 - LENGTHS} + {LENGTHS} * d.length / {average})"
        score = f"g.column2 * {times} * {SATURATION + 1} / ({times} + {length})"
        return f"sum(CAST({score} * {BILLION} AS INTEGER))"


def _completed(asked: Prepared) -> tuple[Order, ...]:
    """The order with the keys behind it that tell any two hits apart."""
    known = OF_VERSIONS if asked.kind is Kind.VERSION else OF_MODELS
    keys = list(asked.order)
    if not keys and asked.text is not None:
        keys.append(Order(Name(RELEVANT), descending=True))
    last = ["name", "version", "id"] if asked.kind is Kind.VERSION else ["name", "id"]
    have = {str(key.name) for key in keys}
    keys += [Order(Name(known[name])) for name in last if name not in have]
    return tuple(keys)
