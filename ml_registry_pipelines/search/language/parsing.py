"""From text to tree: a parser by recursive descent, of some ten rules.

Written by hand because each rule knows what it expects at which character and says so, and because
a grammar library costs more time to import than a whole search takes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

from ml_registry_pipelines.search.language.ast import (
    ORDERED,
    PATTERNS,
    And,
    Between,
    Compare,
    In,
    IsNull,
    Literal,
    Name,
    Node,
    Not,
    OfVersion,
    Or,
    Order,
    Query,
    Words,
)
from ml_registry_pipelines.search.language.errors import QueryError
from ml_registry_pipelines.search.language.fields import (
    ALIASES,
    IGNORED_PREFIXES,
    MODELS_OWN,
    OF_MODELS,
    OF_VERSIONS,
    SCOPES,
    VERSIONS_OWN,
    Field,
    Kind,
    Type,
    measured,
    nearest,
)
from ml_registry_pipelines.search.language.tokens import Sort, Token, tokens

MAX_LENGTH = 50_000
"""Characters of a query."""
MAX_CONDITIONS = 500
MAX_VALUES = 5_000
"""Values of all IN lists together."""
MAX_DEPTH = 50
"""Parentheses and NOTs within each other."""
MAX_ORDER = 10
RELEVANCE = "relevance"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MAX_NUMBER = 400
"""Characters of a number: Python's own conversion is quadratic."""


def parse(query: str, kind: Kind = Kind.MODEL) -> Query:
    """The tree of a query; None for an empty one.

    Raises:
        QueryError: it is none; the text says where and what was expected there.
    """
    checked = _checked(query, "query")
    parser = _Parser(checked, kind)
    if parser.next.sort is Sort.END:
        return None
    found = parser.either(0)
    parser.at_end("AND, OR or the end of the query")
    return found


def parse_order(order: str, kind: Kind = Kind.MODEL) -> tuple[Order, ...]:
    """The keys of an order such as `metrics.auc DESC, name`.

    Raises:
        QueryError: it is none.
    """
    parser = _Parser(_checked(order, "order"), kind)
    keys = [parser.order_key()]
    while parser.take_sign(","):
        keys.append(parser.order_key())
    parser.at_end("ASC, DESC, a comma or the end of the order")
    if len(keys) > MAX_ORDER:
        raise QueryError(f"an order has at most {MAX_ORDER} keys, not {len(keys)}")
    return tuple(keys)


RELEVANT = Field(
    RELEVANCE, MODELS_OWN["name"].of, Type.NUMBER, "how well the text fits, best first with DESC"
)
"""What only an order can name, and only beside a text."""


def _checked(text: str, what: str) -> str:
    if not isinstance(text, str):
        raise QueryError(f"a {what} is text, not a {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise QueryError(
            f"the {what} has {len(text):,} characters; at most {MAX_LENGTH:,} are read. Put long lists of names into "
            "several queries"
        )
    try:
        text.encode()
    except UnicodeEncodeError as wrong:
        raise QueryError(f"the {what} holds a lone surrogate", text, wrong.start) from None
    if "\0" in text:
        raise QueryError(f"the {what} holds a NUL character", text, text.index("\0"))
    return text


class _Parser:
    def __init__(self, query: str, kind: Kind) -> None:
        self.query = query
        self.kind = kind
        self.tokens = list(tokens(query))
        self.at = 0
        self.conditions = 0
        self.values = 0
        self.inside = ""
        """`any` or `latest`, within their parentheses."""

    # -- tokens ----------------------------------------------------------------------------

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.next
        self.at += token.sort is not Sort.END
        return token

    def take_word(self, *words: str) -> bool:
        """Take the keywords if they come next, all of them."""
        if all(self.tokens[min(self.at + n, len(self.tokens) - 1)].upper == w for n, w in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def take_sign(self, sign: str) -> bool:
        found = self.next.sort is Sort.SIGN and self.next.text == sign
        self.at += found
        return found

    def wrong(self, message: str, token: Token | None = None) -> QueryError:
        return QueryError(message, self.query, (token or self.next).position)

    def expected(self, what: str) -> QueryError:
        found = "the query ends" if self.next.sort is Sort.END else f"found {_short(self.next.raw)}"
        return self.wrong(f"expected {what}; {found}")

    def at_end(self, what: str) -> None:
        if self.next.sort is not Sort.END:
            raise self.expected(what)

    # -- conditions ------------------------------------------------------------------------

    def either(self, depth: int) -> Node:
        items = [self.all_of(depth)]
        while self.take_word("OR"):
            items.append(self.all_of(depth))
        return items[0] if len(items) == 1 else Or(tuple(items))

    def all_of(self, depth: int) -> Node:
        items = [self.one(depth)]
        while self.take_word("AND"):
            items.append(self.one(depth))
        return items[0] if len(items) == 1 else And(tuple(items))

    def one(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            raise self.wrong(f"this is nested more than {MAX_DEPTH} deep; write it flatter")
        if self.next.upper == "NOT":
            self.take()
            return Not(self.one(depth + 1))
        if self.take_sign("("):
            found = self.either(depth + 1)
            self.close()
            return found
        word = self.next.text.lower() if self.next.sort is Sort.WORD else ""
        follows = self.tokens[min(self.at + 1, len(self.tokens) - 1)]
        if word in {"any", "latest"} and follows.text == "(" and follows.sort is Sort.SIGN:
            return self.of_version(word, depth)
        return self.condition()

    def close(self) -> None:
        if not self.take_sign(")"):
            raise self.expected("AND, OR or a closing parenthesis")

    def of_version(self, which: str, depth: int) -> Node:
        if self.inside or self.kind is Kind.VERSION:
            raise self.wrong(
                f"{which}(…) chooses among a model's versions, and here it is one version already"
            )
        self.at += 2
        self.inside = which
        found = self.either(depth + 1)
        self.inside = ""
        self.close()
        return OfVersion(which, found)

    def condition(self) -> Node:
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            raise self.wrong(
                f"a query has at most {MAX_CONDITIONS} conditions; use IN for many values of one field"
            )
        name = self.name()
        operator = self.next
        if self.take_word("IS"):
            return self.is_null(name, operator)
        if self.take_word("MATCHES"):
            if name.field.type is not Type.WORDS:
                raise self.wrong(
                    f"MATCHES is for full text, as in text MATCHES 'words'; {name} takes = or ILIKE", operator
                )
            return Words(name, self.words())
        negated = self.next.upper == "NOT"
        self.at += negated
        if self.next.upper in {"IN", "BETWEEN", "LIKE", "ILIKE"}:
            return self.by_word(name, operator, negated)
        if negated:
            raise self.expected("IN, LIKE, ILIKE or BETWEEN behind NOT")
        sign = self.next
        if sign.sort is not Sort.SIGN or sign.text not in {"=", "!=", *ORDERED}:
            raise self.expected(f"an operator behind {name}: = != < <= > >= IN LIKE ILIKE BETWEEN IS")
        self.fits(name, sign.text, sign)
        self.take()
        return Compare(name, sign.text, self.literal(name, ordered=sign.text in ORDERED))

    def is_null(self, name: Name, operator: Token) -> Node:
        negated = self.take_word("NOT")
        if not self.take_word("NULL"):
            raise self.expected("NULL or NOT NULL")
        if name.field.type is Type.WORDS:
            raise self.wrong("text is asked with MATCHES alone", operator)
        return IsNull(name, negated)

    def by_word(self, name: Name, begin: Token, negated: bool) -> Node:
        """What comes behind IN, BETWEEN, LIKE and ILIKE, which come next."""
        operator = self.take().upper
        self.fits(name, operator, begin)
        if operator == "IN":
            return In(name, self.listed(name), negated)
        if operator == "BETWEEN":
            low = self.literal(name, ordered=True)
            if not self.take_word("AND"):
                raise self.expected("AND and the upper end")
            return Between(name, low, self.literal(name, ordered=True), negated)
        return Compare(name, "NOT " * negated + operator, self.literal(name, pattern=True))

    def fits(self, name: Name, operator: str, token: Token) -> None:
        """See that the field takes the operator."""
        type_ = name.field.type
        if type_ is Type.WORDS:
            raise self.wrong("text is asked with MATCHES, as in text MATCHES 'fraud card'", token)
        if operator in PATTERNS and type_ in {Type.NUMBER, Type.TIME}:
            raise self.wrong(f"{name} is a {type_.value}, and {operator} is for texts", token)

    def words(self) -> str:
        token = self.take()
        if token.sort not in {Sort.TEXT, Sort.QUOTED}:
            self.at -= token.sort is not Sort.END
            raise self.expected("words in quotes")
        return token.text

    # -- names -----------------------------------------------------------------------------

    def name(self) -> Name:
        scope = ""
        first = self.next
        if first.sort is not Sort.WORD:
            raise self.expected("a field")
        word = self.take().text
        if word.lower() in IGNORED_PREFIXES and self.next.sort is Sort.DOT:
            first, word = self.behind_dot(f"a field behind {word}")
        if word.lower() in SCOPES and self.next.sort is Sort.DOT:
            scope = word.lower()
            if self.inside and scope != "model":
                raise self.wrong(
                    f"{scope}. chooses a version, and within {self.inside}(…) there is one already", first
                )
            if self.kind is Kind.VERSION and scope != "model":
                raise self.wrong(
                    f"{scope}. is for searches of models; in one of versions each stands for itself", first
                )
            first, word = self.behind_dot(f"a field behind {scope}")
        known = self.known(scope)
        # Behind a dot, a word may hold the key already: `any.metrics.auc` is any, dot, metrics.auc.
        head, dot, rest = word.partition(".")
        field = self.field(known, head, scope)
        if field is None:
            raise QueryError(
                f"there is no field {_short(head)}{nearest(head, known)}", self.query, first.position
            )
        key: str | None = rest if dot else None
        if key is None and self.next.sort is Sort.DOT:
            if not field.keyed:
                raise self.wrong(f"{field.name} has no parts; tags, metrics and params have")
            _, key = self.behind_dot(f"a name behind {field.name}")
        if field.keyed and key is None:
            raise self.wrong(
                f'{field.name} needs a name, such as {field.name}.x or {field.name}."my name"', first
            )
        if key is not None and not field.keyed:
            raise self.wrong(f"{field.name} has no parts; tags, metrics and params have", first)
        # Keys are kept in Unicode's composed form, and found in it.
        return Name(field, None if key is None else unicodedata.normalize("NFC", key), scope)

    def behind_dot(self, what: str) -> tuple[Token, str]:
        self.take()
        token = self.next
        if token.sort not in {Sort.WORD, Sort.QUOTED}:
            raise self.expected(what)
        self.take()
        return token, token.text

    def known(self, scope: str) -> Mapping[str, Field]:
        if scope == "model":
            return MODELS_OWN
        if scope or self.inside:
            return {**MODELS_OWN, **VERSIONS_OWN} if self.inside else VERSIONS_OWN
        return OF_VERSIONS if self.kind is Kind.VERSION else OF_MODELS

    def field(self, known: Mapping[str, Field], word: str, scope: str) -> Field | None:
        lowered = word.lower()
        found = known.get(lowered) or known.get(ALIASES.get(lowered, lowered))
        return found or (None if scope in {"any", "latest"} else measured(lowered))

    # -- values ----------------------------------------------------------------------------

    def listed(self, name: Name) -> tuple[Literal, ...]:
        if not self.take_sign("("):
            raise self.expected("a list in parentheses")
        found = [self.literal(name)]
        while self.take_sign(","):
            found.append(self.literal(name))
        self.values += len(found)
        if self.values > MAX_VALUES:
            raise self.wrong(f"the lists of a query have at most {MAX_VALUES:,} values together")
        if not self.take_sign(")"):
            raise self.expected("a comma or a closing parenthesis")
        return tuple(found)

    def literal(self, name: Name, *, pattern: bool = False, ordered: bool = False) -> Literal:
        """A value that the field can have."""
        begin = self.next
        value = self.value()
        type_ = name.field.type
        if pattern or type_ is Type.TEXT:
            if not isinstance(value, str):
                raise self.wrong(
                    f"{name} wants a text in quotes" if not pattern else "a pattern is a text in quotes",
                    begin,
                )
        elif type_ is Type.NUMBER:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.wrong(f"{name} wants a number", begin)
        elif type_ is Type.TIME:
            self.time(name, value, begin)
        elif ordered and isinstance(value, bool):
            raise self.wrong("true and false have no order", begin)
        if name.field.values and not pattern and not ordered and value not in name.field.values:
            raise self.wrong(
                f"{name.field.name} is never {_short(str(value))}; there are {', '.join(name.field.values)}",
                begin,
            )
        return value

    def value(self) -> Literal:
        token = self.next
        match token.sort:
            case Sort.TEXT | Sort.QUOTED:
                self.take()
                return token.text
            case Sort.NUMBER:
                self.take()
                return self.number(token)
            case Sort.WORD if token.upper in {"TRUE", "FALSE"}:
                self.take()
                return token.upper == "TRUE"
            case Sort.WORD if token.upper == "DATE":
                self.take()
                given = self.take()
                if given.sort not in {Sort.TEXT, Sort.QUOTED} or not _DAY.fullmatch(given.text):
                    raise self.wrong("DATE wants a day, such as DATE '2026-01-31'", given)
                return self.day(given)
            case Sort.WORD if token.upper == "NULL":
                raise self.wrong("nothing equals NULL; write IS NULL or IS NOT NULL")
            case Sort.WORD:
                raise self.wrong(f"a text stands in quotes: '{_plain(token.text)}'")
        raise self.expected("a value")

    def number(self, token: Token) -> int | float:
        if len(token.raw) > _MAX_NUMBER:
            raise self.wrong(f"a number has at most {_MAX_NUMBER} characters", token)
        if re.fullmatch(r"[+-]?\d+", token.raw):
            whole = int(token.raw)
            if -(2**63) <= whole < 2**63:
                return whole
        found = float(token.raw)
        if found in {float("inf"), float("-inf")}:
            raise self.wrong("this number is too large", token)
        return found

    def day(self, token: Token) -> date:
        try:
            return date.fromisoformat(token.text)
        except ValueError:
            raise self.wrong(f"there is no day {_short(token.text)}", token) from None

    def time(self, name: Name, value: Literal, token: Token) -> None:
        try:
            stretch(value)
        except (ValueError, OverflowError):
            raise self.wrong(
                f"{name} wants a day or a time, such as '2026-01-31' or '2026-01-31T12:00:00Z', or milliseconds "
                "since 1970",
                token,
            ) from None

    # -- order -----------------------------------------------------------------------------

    def order_key(self) -> Order:
        if self.next.text.lower() == RELEVANCE and self.next.sort is Sort.WORD:
            self.take()
            name = Name(RELEVANT)
        else:
            begin = self.next
            name = self.name()
            if name.field.type is Type.WORDS:
                raise self.wrong(f"a text gives no order; order by {RELEVANCE}", begin)
        descending = self.take_word("DESC")
        if not descending:
            self.take_word("ASC")
        return Order(name, descending)


def stretch(value: Literal) -> tuple[int, int]:
    """The time that a literal means: its first microsecond since 1970, and the first one after.

    A day is the whole UTC day, a time one microsecond, a number MLflow's milliseconds.

    Raises:
        ValueError, OverflowError: it is no time.
    """
    match value:
        case bool():
            raise ValueError(value)
        case datetime():
            return _instant(value), _instant(value) + 1
        case date():
            begin = _instant(datetime.combine(value, time(), UTC))
            return begin, begin + int(timedelta(days=1) / timedelta(microseconds=1))
        case int() | float():
            begin = int(value) * 1000
            if abs(begin) >= 2**62:
                raise OverflowError
            return begin, begin + 1000
        case str() if _DAY.fullmatch(value):
            return stretch(date.fromisoformat(value))
        case _:
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return _instant(moment), _instant(moment) + 1


def _instant(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _plain(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _short(text: str) -> str:
    return repr(_plain(text))
