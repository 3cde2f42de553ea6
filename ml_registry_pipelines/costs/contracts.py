"""Contract prices: a YAML file of prices that no list has, or that were agreed to differ.

A file is one contract. Its prices go into the same catalogue as the list prices, under the
contract's name, and win over them for the models that they name::

    contract: acme-2026             # recorded with every price, and with every cost by way of it
    currency: USD
    assumed: false                  # true: illustrative; every figure made of it is marked so
    prices:
      - provider: anyscale
        model: meta-llama/*         # a name, or a pattern with * ; the longer pattern wins
        valid_from: 2026-01-01      # UTC, inclusive; left out: since ever
        valid_to: 2027-01-01        # UTC, exclusive; left out: until further notice
        per_million_tokens:
          input: "0.15"             # every input token that nothing narrower below prices
          cached_input: "0.03"      # read from the prompt cache
          cache_write: "0.19"       # written to it
          output: "0.60"            # reasoning included
          in_audio: "1.00"          # or any single bucket by its name in the tables
        per_unit:                   # requests, n_search, n_tool, pages, audio_seconds
          n_search: "0.01"
        steps:                      # for the whole request, above so many input tokens; what they do not name stays
          - over: 200000
            per_million_tokens: {input: "0.30", output: "0.90"}
        service_tier: batch         # only requests of this tier; likewise region
        note: order form 2026-118, page 2

`currency`, `assumed`, `valid_from`, `valid_to` and `note` may stand at the top, for every
entry that does not say otherwise. A price of `requests` alone is flat: it holds whatever the
request used. Anything else that a request used and the price does not name leaves its cost
unknown, so what is free has to be priced 0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from ml_registry_pipelines.costs.prices import COMPONENTS, Component, Price, PriceError, per_unit
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.lake.tables.telemetry import INPUT_BUCKETS, OUTPUT_BUCKETS, TOKEN_BUCKETS
from ml_registry_pipelines.strict_yaml import strict_loader

CONTRACT_PRECEDENCE = 1_000
"""Contract prices start here, above every list price."""

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "input": INPUT_BUCKETS,
    "cached_input": tuple(b for b in INPUT_BUCKETS if b.startswith("in_cache_read")),
    "cache_write": tuple(b for b in INPUT_BUCKETS if b.startswith("in_cache_write")),
    "output": OUTPUT_BUCKETS,
}
"""Wider before narrower: a later group, and then a single bucket, replaces what an earlier one set."""

_PER_UNIT = tuple(name for name in COMPONENTS if name not in TOKEN_BUCKETS)
_SHARED = ("currency", "assumed", "valid_from", "valid_to", "note")
_ENTRY = (*_SHARED, "provider", "model", "service_tier", "region", "per_million_tokens", "per_unit", "steps")
_TOP = (*_SHARED, "contract", "prices")
_UNPAIRED = re.compile(r"\[[^\]]*$|^[^\[]*\]")
"""A bracket without its other half. Pairs stay: `claude-opus-4[1m]` is a model's name."""
_OVER_DIGITS = 12
_SHOWN = 60
"""Digits of a price, and of a wrong one those that are shown."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class ContractError(PriceError):
    """A contract file does not say what it has to."""


@dataclass(frozen=True)
class Contract:
    """The prices of one contract file."""

    name: str
    prices: tuple[Price, ...]


def read_contract(text: str, *, file: str) -> Contract:
    """Read a contract file; `file` is what errors call it.

    Raises:
        ContractError: with the file, the entry and what to write instead.
    """
    top = _Fields(_parse(text, file), file)
    top.only(_TOP)
    name = top.required("contract")
    if not _NAME.fullmatch(name) or name == "genai-prices":
        top.fail(
            f"contract {name!r} has to be lower-case letters, digits, '.', '_' and '-', and no list's name"
        )
    entries = top.raw("prices")
    if not isinstance(entries, list) or not entries:
        top.fail("prices has to be a list of at least one entry; to end a contract, give valid_to")
    shared = {key: value for key in _SHARED if (value := top.raw(key)) is not None}
    prices: list[Price] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, price {number}"
        if not isinstance(entry, dict):
            raise ContractError(f"{where}: has to be a mapping with provider, model and prices")
        label = "/".join(str(entry[key]) for key in ("provider", "model") if key in entry)
        fields = _Fields({**shared, **entry}, f"{where} ({label})" if label else where)
        price = _price(name, fields)
        for earlier, other in enumerate(prices, start=1):
            if _clash(price, other):
                fields.fail(
                    f"is valid at the same time as price {earlier}, for the same model; end one of the two"
                )
        prices.append(price)
    return Contract(name, tuple(prices))


CONTRACT_FILE = "contract-prices.yaml"
"""Name of the file below the home that is read where none is named."""


def contract_place(home: str, contract_file: str | None) -> tuple[str, str]:
    """Folder and name of the contract-price file: the one that is named, or the usual one below the home."""
    if contract_file is None:
        return home, CONTRACT_FILE
    path = Path(contract_file).expanduser().absolute()
    return str(path.parent), path.name


def configured_contracts(home: str, contract_file: str | None) -> list[Contract]:
    """The contracts there are: none where no file is named and the usual one is not there.

    Raises:
        ContractError: the file does not say what it has to.
        FilesError: the file that is named is not there.
    """
    folder, name = contract_place(home, contract_file)
    if contract_file is None and not open_folder(folder).exists(name):
        return []
    text = open_folder(folder).read(name).decode("utf-8", "replace")
    return [read_contract(text, file=f"{folder}/{name}")]


class _Fields:
    """The fields of one mapping of the file, read strictly; every error names the place."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def fail(self, why: str) -> NoReturn:
        raise ContractError(f"{self._where}: {why}")

    def only(self, known: Sequence[str]) -> None:
        for key in self._values:
            if key not in known:
                self.fail(f"unknown field {key!r}; the fields are {', '.join(known)}")

    def raw(self, key: str) -> Any:
        return self._values.get(key)

    def text(self, key: str) -> str | None:
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{key} has to be a text")
        return value.strip()

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.fail(f"{key} is missing")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(f"{key} has to be a mapping of names to prices")
        return value

    def moment(self, key: str) -> datetime | None:
        value = self.text(key)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{key} {value!r} is no date; write 2026-01-31 or 2026-01-31T12:00:00Z")
        if moment.tzinfo is None and len(value) > len("2026-01-31"):
            self.fail(f"{key} {value!r} has no time zone; write 2026-01-31T12:00:00Z")
        try:
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except OverflowError:
            self.fail(f"{key} {value!r} is outside the years 1 to 9999 in UTC; leave it out for no limit")

    def flag(self, key: str) -> bool:
        value = self.text(key)
        if value not in (None, "true", "false"):
            self.fail(f"{key} is {value!r}; it has to be true or false")
        return value == "true"


def _price(contract: str, fields: _Fields) -> Price:
    fields.only(_ENTRY)
    currency = fields.required("currency")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        fields.fail(f"currency {currency!r} is no ISO 4217 code, such as USD")
    since, until = fields.moment("valid_from"), fields.moment("valid_to")
    if since is not None and until is not None and since >= until:
        fields.fail(f"valid_to {until:%Y-%m-%d} is not after valid_from {since:%Y-%m-%d}")
    model = fields.required("model")
    if _UNPAIRED.search(model):
        fields.fail(f"model {model!r} has half a pair of brackets, and no model has; only * is a pattern")
    tier, region = fields.text("service_tier"), fields.text("region")
    components = _components(fields, 0)
    if not components:
        fields.fail("names no price; give per_million_tokens or per_unit")
    named = set(fields.mapping("per_million_tokens"))
    for over, step in _steps(fields):
        changed = _components(step, over, named)
        if not changed:
            step.fail("changes no price, since narrower names below it price all that it names; name those")
        components += changed
        named |= set(step.mapping("per_million_tokens"))
    return Price(
        catalog=contract,
        provider=fields.required("provider"),
        model=model,
        components=tuple(components),
        currency=currency,
        valid_from=since,
        valid_to=until,
        service_tier=tier.lower() if tier else None,
        region=region.lower() if region else None,
        precedence=_precedence(model, tier, region),
        assumed=fields.flag("assumed"),
        note=fields.text("note"),
    )


def _steps(fields: _Fields) -> list[tuple[int, _Fields]]:
    """The steps by the number of input tokens over which they hold, lowest first."""
    given = fields.raw("steps") or []
    if not isinstance(given, list) or not all(isinstance(step, dict) for step in given):
        fields.fail("steps has to be a list of mappings with over and per_million_tokens")
    steps: dict[int, _Fields] = {}
    for step in given:
        inner = _Fields(step, fields._where + ", step")
        inner.only(("over", "per_million_tokens", "per_unit"))
        over = inner.required("over")
        if not over.isdecimal() or not 0 < len(over.lstrip("0")) <= _OVER_DIGITS:
            inner.fail(
                f"over is {over[:_SHOWN]!r}; it has to be a whole number of input tokens above 0, "
                f"of at most {_OVER_DIGITS} digits"
            )
        if int(over) in steps:
            fields.fail("two steps start over the same number of tokens")
        if not (inner.mapping("per_million_tokens") or inner.mapping("per_unit")):
            inner.fail("names no price; give per_million_tokens or per_unit")
        steps[int(over)] = inner
    return sorted(steps.items(), key=lambda step: step[0])


def _components(fields: _Fields, over: int, below: Collection[str] = ()) -> list[Component]:
    """The prices of one step, widest group first, so that the narrowest name decides.

    `below` are the names that have a price below the step. As in price lists, a step changes the
    prices that it names: a narrower one that it does not name stays what it was.
    """
    chosen: dict[str, Decimal] = {}
    tokens = fields.mapping("per_million_tokens")
    units = fields.mapping("per_unit")
    known = (*_GROUPS, *TOKEN_BUCKETS)
    for name in tokens:
        if name not in known:
            fields.fail(f"per_million_tokens has no {name!r}; it has {', '.join(known)}")
    for name in units:
        if name not in _PER_UNIT:
            fields.fail(f"per_unit has no {name!r}; it has {', '.join(_PER_UNIT)}")
    for name in known:
        buckets = _GROUPS.get(name, (name,))
        if name in tokens:
            chosen |= dict.fromkeys(buckets, _amount(fields, name, tokens[name], 1_000_000))
        elif name in below:
            chosen = {bucket: amount for bucket, amount in chosen.items() if bucket not in buckets}
    chosen |= {name: _amount(fields, name, value, 1) for name, value in units.items()}
    return [Component(name, over, amount) for name, amount in chosen.items()]


def _amount(fields: _Fields, name: str, value: object, units: int) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        fields.fail(f"{name} {str(value)[:_SHOWN]!r} is no number")
    if len(str(value)) > _SHOWN:
        fields.fail(f"{name} {str(value)[:_SHOWN]}... has more than {_SHOWN} digits; round it")
    if not amount.is_finite() or amount < 0:
        fields.fail(f"{name} {value} is no price; it has to be 0 or more")
    try:
        return per_unit(amount, units, name)
    except PriceError as fault:
        fields.fail(str(fault))


def _precedence(model: str, tier: str | None, region: str | None) -> int:
    """A full name before a pattern, a longer pattern before a shorter one, a condition before none."""
    named = 500 if "*" not in model else min(len(model.replace("*", "")), 499)
    return CONTRACT_PRECEDENCE + 4 * named + 2 * (tier is not None) + (region is not None)


def _clash(one: Price, other: Price) -> bool:
    same = all(
        (getattr(one, name) or "").lower() == (getattr(other, name) or "").lower()
        for name in ("provider", "model", "service_tier", "region")
    )
    begins = [price.valid_from for price in (one, other) if price.valid_from is not None]
    ends = [price.valid_to for price in (one, other) if price.valid_to is not None]
    return same and not (begins and ends and max(begins) >= min(ends))


def _parse(text: str, file: str) -> Mapping[str, Any]:
    """The file as mappings, lists and strings: a price must not pass through a binary fraction."""
    import yaml

    try:
        parsed = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - a BaseLoader, which builds texts only
    except yaml.MarkedYAMLError as fault:
        line = fault.problem_mark.line + 1 if fault.problem_mark else 1
        raise ContractError(f"{file}, line {line}: is no valid YAML: {fault.problem}") from None
    except yaml.YAMLError as fault:
        raise ContractError(f"{file}: is no valid YAML: {fault}") from None
    if not isinstance(parsed, dict):
        raise ContractError(f"{file}: has to be a mapping with contract and prices")
    return parsed
