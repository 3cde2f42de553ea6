"""`ModelSearch`: models and versions of a tenant by a query, by words, or both.

The language is in `language/`, the index that answers in `index/`. Who may read what is asked of the one
policy: a grant for some models becomes a condition of the statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from ml_registry_pipelines.access.policy import granted_models
from ml_registry_pipelines.registry.actors import ANY, READ, Actor, Request
from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.log import Log
from ml_registry_pipelines.registry.names import checked_instant, checked_tenant
from ml_registry_pipelines.registry.states import MODEL
from ml_registry_pipelines.registry.things import place_of
from ml_registry_pipelines.registry.view import View
from ml_registry_pipelines.search import cursors
from ml_registry_pipelines.search.compiling import days_in
from ml_registry_pipelines.search.index.figures import figures_for
from ml_registry_pipelines.search.index.file import IndexStale, SearchIndex, Standing, index_of
from ml_registry_pipelines.search.index.text import words
from ml_registry_pipelines.search.language.ast import Name, Order, Query, names_in
from ml_registry_pipelines.search.language.errors import CursorError, QueryError
from ml_registry_pipelines.search.language.fields import Kind
from ml_registry_pipelines.search.language.parsing import MAX_LENGTH, RELEVANT, parse, parse_order
from ml_registry_pipelines.search.reading import hits_of
from ml_registry_pipelines.search.results import Hit, Matches, Page, TextHit
from ml_registry_pipelines.search.statements import Statement, Weights

__all__ = ["Hit", "Kind", "Matches", "ModelSearch", "Page", "QueryError", "TextHit"]

MOST_HITS = 1_000
"""Hits of one page."""
MOST_WORDS = 200
"""Different words of a text that are looked for; the rarest ones of a longer text."""

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """A search as it was asked, read and checked."""

    query: Query
    text: str | None
    order: tuple[Order, ...]
    kind: Kind
    include_deprecated: bool
    ids: frozenset[str] | None
    """The models that the actor may read; None: all."""


class ModelSearch:
    """Searches of one actor in one tenant. Cheap to make: the log and its index are what is shared.

    Args:
        log: the log of the lake, one per process.
        actor: who asks, as the door has stamped it.
        tenant: the organisation.
    """

    def __init__(self, log: Log, *, actor: Actor, tenant: str = "default") -> None:
        self.log = log
        self.actor = actor
        self.tenant = checked_tenant(tenant)

    @property
    def index(self) -> SearchIndex:
        return index_of(self.log)

    def search(
        self,
        query: str | Query = "",
        *,
        text: str | None = None,
        order_by: str | Sequence[str] = (),
        limit: int = 50,
        cursor: str | None = None,
        include_deprecated: bool = False,
        as_of: datetime | None = None,
        kind: Kind | str = Kind.MODEL,
    ) -> Page:
        """The hits of a query, a page at a time.

        Args:
            query: a condition, such as `tags.team = 'fraud' AND any(metrics.auc > 0.9)`; empty: all.
            text: words of which some occur in name, description or card; the most relevant come first.
            order_by: keys such as `metrics.auc DESC`; what has no value comes last.
            limit: hits of the page, up to `MOST_HITS`.
            cursor: of the page before. Later pages read as of the same event as the first.
            include_deprecated: also deprecated models, which are left out unless the query names `status`.
            as_of: as had been recorded at this instant.
            kind: find models or versions.

        Raises:
            QueryError: the query or the order cannot be read.
            CursorError: the cursor is none, or belongs to another search.
            NotAllowed: the policy does not let the actor read.
        """
        if type(limit) is not int or not 1 <= limit <= MOST_HITS:
            raise InvalidInput(f"a limit is a whole number from 1 to {MOST_HITS:,}, not {limit!r}")
        asked, view, sequence = self._asked(query, text, order_by, kind, include_deprecated, as_of)

        def answer(connection: sqlite3.Connection) -> Page:
            statement = Statement(connection, self.tenant, asked, sequence)
            order = statement.order
            digest = cursors.search_digest(
                self.tenant,
                asked.kind.value,
                str(asked.query),
                asked.text,
                [str(key) for key in asked.order],
                asked.include_deprecated,
                None if as_of is None else as_of.isoformat(),
            )
            before = None if cursor is None else cursors.read(cursor, digest, len(order))
            if before is not None:
                if before.sequence > sequence:
                    raise CursorError(
                        "that cursor is of a later state of the registry; begin anew without it"
                    )
                statement.go_on(before.sequence, before.last, Weights(before.weights, before.average))
            statement.figures = self._figures(connection, asked, as_of, before)
            rows = statement.page(limit + 1)
            hits = hits_of(connection, statement, rows[:limit])
            following = None
            if len(rows) > limit:
                following = cursors.Cursor(
                    digest,
                    statement.sequence,
                    rows[limit - 1].keys,
                    statement.weights.words,
                    statement.weights.average,
                    statement.figures,
                ).spelled()
            return Page(tuple(hits), following, statement.sequence)

        return self._answered(view, answer)

    def count(
        self,
        query: str | Query = "",
        *,
        text: str | None = None,
        include_deprecated: bool = False,
        as_of: datetime | None = None,
        kind: Kind | str = Kind.MODEL,
    ) -> int:
        """How many hits a search has."""
        asked, view, sequence = self._asked(query, text, (), kind, include_deprecated, as_of)

        def answer(connection: sqlite3.Connection) -> int:
            statement = Statement(connection, self.tenant, asked, sequence)
            statement.figures = self._figures(connection, asked, as_of, None)
            return statement.count()

        return self._answered(view, answer)

    def matching(
        self,
        query: str | Query = "",
        *,
        include_deprecated: bool = False,
        as_of: datetime | None = None,
    ) -> Matches:
        """The ids of the models that a filter keeps and the actor may read."""
        asked, view, sequence = self._asked(query, None, (), Kind.MODEL, include_deprecated, as_of)

        def answer(connection: sqlite3.Connection) -> Matches:
            statement = Statement(connection, self.tenant, asked, sequence)
            statement.figures = self._figures(connection, asked, as_of, None)
            ids = statement.ids()
            whole = asked.query is None and asked.ids is None and len(ids) == statement.living()

            def known(identity: str) -> bool:
                return self._answered(
                    view, lambda c: Statement(c, self.tenant, asked, sequence).lives(identity)
                )

            return Matches(self.tenant, sequence, None if whole else ids, known, len(ids))

        return self._answered(view, answer)

    def listed(
        self,
        query: str | Query = "",
        *,
        order_by: str | Sequence[str] = (),
        after: str | None = None,
        limit: int | None = None,
        include_deprecated: bool = False,
        as_of: datetime | None = None,
    ) -> tuple[list[str], int]:
        """The ids of all models that are found, or of the first ones, in order, and the event that was read as of.

        Args:
            after: the `cursor` of a model, by name; where the page before ended.
        """
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidInput(f"a limit is a whole number from 1 on, not {limit!r}")
        asked, view, sequence = self._asked(query, None, order_by, Kind.MODEL, include_deprecated, as_of)
        if after is not None and asked.order:
            raise InvalidInput("`after` is for models by name; leave out the order")
        last = None if after is None else place_of(after)

        def answer(connection: sqlite3.Connection) -> list[str]:
            statement = Statement(connection, self.tenant, asked, sequence)
            statement.figures = self._figures(connection, asked, as_of, None)
            if last is not None:
                statement.go_on(sequence, (last[0], last[2]), statement.weights)
            return [row.id for row in statement.page(-1 if limit is None else limit)]

        return self._answered(view, answer), sequence

    def full_text(self, text: str, matches: Matches, k: int = 50) -> list[TextHit]:
        """The models among `matches` that fit a text best: some of its words occur in them."""
        if type(k) is not int or k < 1:
            raise InvalidInput(f"the number of hits is a whole number from 1 on, not {k!r}")
        if matches.tenant != self.tenant:
            raise InvalidInput(
                f"those matches are of tenant {matches.tenant!r}, and this search is in {self.tenant!r}"
            )
        asked, view, _ = self._asked(None, text, (), Kind.MODEL, True, None)

        def answer(connection: sqlite3.Connection) -> list[TextHit]:
            statement = Statement(connection, self.tenant, asked, matches.sequence)
            statement.only(matches.ids)
            rows = statement.page(k)
            found = statement.found_in(rows)
            return [TextHit(row.id, float(row.score or 0.0), found.get(row.model, {})) for row in rows]

        return self._answered(view, answer)

    def rebuild(self) -> Standing:
        """Make the index anew from the log. It holds all tenants, and everybody may ask for it."""
        with self.log.steady():
            self.log.ask(Request(self.actor, self.tenant, READ, ANY))
            view = self.log.view(self.tenant)
        return self.index.rebuild(view)

    # -- pieces ----------------------------------------------------------------------------

    def _asked(
        self,
        query: str | Query,
        text: str | None,
        order_by: str | Sequence[str],
        kind: Kind | str,
        include_deprecated: bool,
        as_of: datetime | None,
    ) -> tuple[Prepared, View, int]:
        """The search as it was read, the state of the log that it is about, and the event to read as of."""
        try:
            of = Kind(kind)
        except ValueError:
            raise InvalidInput(f"a search finds model or version, not {kind!r}") from None
        # A tree is checked as what it says would be.
        tree = parse("" if query is None else str(query), of)
        if text is not None:
            if not isinstance(text, str):
                raise QueryError(f"a text is text, not a {type(text).__name__}")
            if len(text) > MAX_LENGTH:
                raise QueryError(f"the text has {len(text):,} characters; at most {MAX_LENGTH:,} are read")
            text = text if words(text) else None if not text.strip() else text
        given = order_by if isinstance(order_by, str) else ", ".join(order_by)
        order = parse_order(given, of) if given.strip() else ()
        if any(key.name.field is RELEVANT for key in order) and text is None:
            raise QueryError("relevance is an order for a text; give one")
        if as_of is not None:
            checked_instant(as_of, "time")
        with self.log.steady():
            ids = self._readable()
            view = self.log.view(self.tenant, as_of=as_of)
            sequence = self.log.head(self.tenant)[0] if view.at is None else view.at
        return Prepared(tree, text, order, of, include_deprecated, ids), view, sequence

    def _readable(self) -> frozenset[str] | None:
        """Ids of the models that the actor may read; None: all of the tenant.

        Raises:
            NotAllowed: none.
        """
        whole = Request(self.actor, self.tenant, READ, ANY)
        if self.log.decision(whole).allowed:
            return None
        found = frozenset(
            identity
            for identity in granted_models(self.log, self.actor, self.tenant)
            if self.log.decision(Request(self.actor, self.tenant, READ, MODEL, {"of": identity})).allowed
        )
        if not found:
            self.log.ask(whole)
        return found

    def _figures(
        self,
        connection: sqlite3.Connection,
        asked: Prepared,
        as_of: datetime | None,
        before: cursors.Cursor | None,
    ) -> Mapping[int, str]:
        """Snapshots of the costs and latencies that a search speaks of."""
        names: list[Name] = [*names_in(asked.query), *(key.name for key in asked.order)]
        given = {} if before is None else before.figures
        last = (as_of or self.log.clock()).astimezone(UTC).date()
        return figures_for(connection, self.log.lake, self.tenant, days_in(names), last, given)

    def _answered(self, view: View, answer: Callable[[sqlite3.Connection], T]) -> T:
        """An answer of the index, which is made anew once where it turns out to be damaged."""
        try:
            return answer(self.index.reading(view))
        except (sqlite3.DatabaseError, IndexStale) as failure:
            self.index.replace(failure)
        return answer(self.index.reading(view))
