"""Dated rates of exchange: how they get into the lake, and which one holds on a day.

A rate is stated for a day, and holds from then until the next one is, seven days at most: rates are
not published on weekends and holidays. A pair that is stated the other way round is inverted; nothing
is chained over a third currency. Where no rate holds there is none: amounts stay unconverted, and who
asks is told which.

A rates file says what `mlreg costs rates add` says one by one::

    source: ECB reference rates     # recorded with every rate
    rates:
      - {day: 2026-10-01, base: EUR, quote: USD, rate: "1.0842"}
      - {day: 2026-10-02, base: EUR, quote: USD, rate: "1.0857", source: treasury desk}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.declarations import arrow_type
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import Landed, OutOfSequence
from ml_registry_pipelines.lake.reading import Reading
from ml_registry_pipelines.lake.tables.costs import CURRENCY_RATES, RATE
from ml_registry_pipelines.strict_yaml import strict_loader

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "currency_rates"
SOURCE = "rates"
RATES_FILE = "currency-rates.yaml"
"""Name of the file below the home from which rates are taken where none is named."""
HOLDS_DAYS = 7
"""Days that a rate holds at most: over Easter and New Year markets are closed for up to five."""
MOST = Decimal(1_000_000)
DECIMALS = 12
_ATTEMPTS = 8
_CODE = re.compile(r"[A-Z]{3}")
_SHOWN = 60


class RateError(MlregError):
    """A rate of exchange cannot be used as it stands."""


@dataclass(frozen=True)
class Rate:
    """One unit of `base` costs `rate` units of `quote` from `day` on; None: that is withdrawn."""

    day: date
    base: str
    quote: str
    rate: Decimal | None
    source: str

    def __post_init__(self) -> None:
        for code in (self.base, self.quote):
            checked_currency(code)
        if self.base == self.quote:
            raise RateError(f"a rate from {self.base} to itself says nothing; name two currencies")
        if not self.source.strip() or not self.source.isprintable() or len(self.source) > 200:
            raise RateError("a rate needs a source of 1 to 200 characters that can be shown")
        if self.rate is None:
            return
        if not self.rate.is_finite() or not 0 < self.rate < MOST:
            raise RateError(
                f"{self.base}/{self.quote} of {self.day}: {self.rate} is no rate; it is above 0 and below {MOST:,}"
            )
        if self.rate != round(self.rate, DECIMALS):
            raise RateError(
                f"{self.base}/{self.quote} of {self.day}: {self.rate} has more than {DECIMALS} decimals; "
                "round it, or state the pair the other way round"
            )


@dataclass(frozen=True)
class RatesTaken:
    """How many rates are new or other than before, and how many were there as they are."""

    added: int
    unchanged: int


def checked_currency(code: str) -> str:
    """The code itself.

    Raises:
        RateError: it is not written as ISO 4217 codes are.
    """
    if not _CODE.fullmatch(code):
        raise RateError(f"currency {code[:_SHOWN]!r} is no ISO 4217 code, such as USD")
    return code


def add_rates(lake: Lake, rates: Iterable[Rate]) -> RatesTaken:
    """Record rates; one that stands already as it is adds nothing, another of the same day and pair wins.

    Raises:
        RateError: one day and pair is given two rates, one of them perhaps the other way round.
    """
    wanted: dict[tuple[date, frozenset[str]], Rate] = {}
    for rate in rates:
        key = (rate.day, frozenset((rate.base, rate.quote)))
        if wanted.setdefault(key, rate) != rate:
            raise RateError(f"{rate.base}/{rate.quote} of {rate.day} is given twice; keep one of both")
    for _ in range(_ATTEMPTS):
        done = _add(lake, list(wanted.values()))
        if done is not None:
            return done
    raise RateError("the rates were changed by others each time they were about to be; add them again")


def _add(lake: Lake, rates: Sequence[Rate]) -> RatesTaken | None:
    import pyarrow as pa

    with lake.read(TABLE) as reading:
        generation = reading.sequence(TABLE, SOURCE)
        known = {(r.day, r.base, r.quote): r for r in rates_known(reading)}
    new = [rate for rate in rates if known.get((rate.day, rate.base, rate.quote)) != rate]
    # A pair that is now stated the other way round is not to hold both ways.
    turned = [
        Rate(rate.day, rate.quote, rate.base, None, rate.source)
        for rate in new
        if rate.rate is not None and (rate.day, rate.quote, rate.base) in known
    ]
    new = [rate for rate in new if rate.rate is not None or (rate.day, rate.base, rate.quote) in known]
    if not new:
        return RatesTaken(0, len(rates))
    same = {"generation": generation + 1, "recorded_at": datetime.now(UTC)}
    rows = [{**vars(rate), **same} for rate in (*new, *turned)]
    try:
        landed = lake.append_once(
            TABLE,
            pa.Table.from_pylist(rows, schema=CURRENCY_RATES.schema),
            source=SOURCE,
            sequence=generation + 1,
        )
    except OutOfSequence:
        return None
    return RatesTaken(len(new), len(rates) - len(new)) if landed is Landed.NOW else None


def rates_known(reading: Reading, *, since: date | None = None, until: date | None = None) -> list[Rate]:
    """The rates that are in force, in order of day and pair. The reading must hold `currency_rates`."""
    rows = reading.query(
        "currency_rates",
        """
        SELECT day, base, quote, rate, source FROM currency_rates
        WHERE day >= $since AND day < $until
        QUALIFY row_number() OVER (PARTITION BY day, base, quote ORDER BY generation DESC) = 1
        ORDER BY day, base, quote
        """,
        {"since": since or date.min, "until": until or date.max},
    ).to_pylist()
    return [Rate(**row) for row in rows if row["rate"] is not None]


def rates_into(reading: Reading, currency: str) -> pa.Table:
    """The stretches in which a rate into one currency holds: `base`, `since`, `until` (exclusive), `rate`.

    Stretches of one base do not overlap. The currency itself has the rate 1 for all time.
    """
    import pyarrow as pa

    checked_currency(currency)
    by_base: dict[str, dict[date, Decimal]] = {}
    for found in rates_known(reading):
        assert found.rate is not None
        if found.quote == currency:
            by_base.setdefault(found.base, {})[found.day] = found.rate
        elif found.base == currency:
            by_base.setdefault(found.quote, {}).setdefault(found.day, _inverse(found.rate))
    rows: list[tuple[str, date, date, Decimal]] = [(currency, date.min, date.max, Decimal(1))]
    for base, stated in sorted(by_base.items()):
        for day, following in pairwise([*sorted(stated), date.max]):
            rows.append((base, day, min(following, day + timedelta(days=HOLDS_DAYS)), stated[day]))
    kinds = (pa.string(), pa.date32(), pa.date32(), arrow_type(RATE))
    columns = zip(("base", "since", "until", "rate"), zip(*rows, strict=True), kinds, strict=True)
    return pa.table({name: pa.array(values, kind) for name, values, kind in columns})


class DatedRates:
    """What one unit of a currency was worth in another one on a day; pairs are read when they are asked for."""

    def __init__(self, reading: Reading) -> None:
        """Take the rates that a reading holds, which must hold `currency_rates`."""
        self._reading = reading
        self._into: dict[str, dict[str, list[tuple[date, date, Decimal]]]] = {}

    def rate(self, day: date, *, of: str, into: str) -> Decimal | None:
        """How much of `into` one unit of `of` was on a UTC day; None where no rate holds, which is never 1."""
        if of == into:
            return Decimal(1)
        if not _CODE.fullmatch(into):
            return None
        if into not in self._into:
            held = self._into[into] = {}
            for row in rates_into(self._reading, into).to_pylist():
                held.setdefault(row["base"], []).append((row["since"], row["until"], row["rate"]))
        stretches = self._into[into].get(of, ())
        return next((rate for since, until, rate in stretches if since <= day < until), None)


def _inverse(rate: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return (1 / rate).quantize(Decimal(1).scaleb(-DECIMALS), rounding=ROUND_HALF_EVEN)


# -- the file ---------------------------------------------------------------------------------


def configured_rates(home: str, rates_file: str | None = None) -> list[Rate]:
    """The rates of the file that is named, or of the usual one below the home; none where that is not there.

    Raises:
        RateError: the file does not say what it has to.
        FilesError: the file that is named is not there.
    """
    from pathlib import Path

    if rates_file is None:
        if not open_folder(home).exists(RATES_FILE):
            return []
        return read_rates(open_folder(home).read(RATES_FILE).decode("utf-8", "replace"), file=RATES_FILE)
    path = Path(rates_file).expanduser().absolute()
    text = open_folder(str(path.parent)).read(path.name).decode("utf-8", "replace")
    return read_rates(text, file=str(path))


def read_rates(text: str, *, file: str) -> list[Rate]:
    """Read a rates file; `file` is what errors call it.

    Raises:
        RateError: with the file, the entry and what to write instead.
    """
    import yaml

    try:
        # Texts only: a rate must not pass through a binary fraction.
        parsed = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - a BaseLoader, which builds texts only
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise RateError(f"{file}, line {line}: is no valid YAML: {fault.problem}") from None
    except yaml.YAMLError as fault:
        raise RateError(f"{file}: is no valid YAML: {fault}") from None
    entries = parsed.get("rates") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or (unknown := sorted(parsed.keys() - {"source", "rates"})):
        named = f"; unknown field {unknown[0]!r}" if isinstance(entries, list) else ""
        raise RateError(f"{file}: has to be a mapping with source and a list rates{named}")
    return [
        _entry(entry, parsed.get("source"), f"{file}, rate {number}")
        for number, entry in enumerate(entries, start=1)
    ]


def _entry(entry: Any, source: Any, where: str) -> Rate:
    if not isinstance(entry, Mapping):
        raise RateError(f"{where}: has to be a mapping with day, base, quote and rate")
    if unknown := sorted(map(str, entry.keys() - {"day", "base", "quote", "rate", "source"})):
        raise RateError(
            f"{where}: unknown field {unknown[0]!r}; the fields are day, base, quote, rate, source"
        )
    given = {name: str(entry.get(name) or "").strip() for name in ("day", "base", "quote", "rate")}
    for name, value in given.items():
        if not value:
            raise RateError(f"{where}: {name} is missing")
    said = entry.get("source") or source
    if not isinstance(said, str):
        raise RateError(f"{where}: source is missing; say who states the rate, here or at the top")
    try:
        return Rate(
            parsed_day(given["day"]), given["base"], given["quote"], parsed_rate(given["rate"]), said.strip()
        )
    except RateError as fault:
        raise RateError(f"{where}: {fault}") from None


def parsed_day(text: str) -> date:
    """A day that is written 2026-10-01.

    Raises:
        RateError: it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RateError(f"day {text[:_SHOWN]!r} is none; write 2026-10-01") from None


def parsed_rate(text: str) -> Decimal:
    """A rate as it is written, exactly.

    Raises:
        RateError: it is no number.
    """
    if len(text) > _SHOWN:
        raise RateError(f"rate {text[:_SHOWN]}... has more than {_SHOWN} digits; round it")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise RateError(f"rate {text!r} is no number; write 1.0842") from None
