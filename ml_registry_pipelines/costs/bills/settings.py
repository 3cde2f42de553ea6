"""What `bills.yaml` says: where files of bills come from, which APIs are asked, and what is tolerated.

tolerance: "0.02"        # share by which our cost may differ from the bill
settle_days: "1"         # whole days after which a day's bill may be taken as complete
look_back_days: "7"      # days that a pull reads again, because providers restate them
alert_days: "7"          # newest days that alerts are about
sources:                 # left out: the folder `bills` below the home
  - name: finance
    folder: s3://finance/focus
    pattern: "*.parquet"
    restates: days       # each file holds all lines of its days; `lines`: it may hold some
    providers: {"Acme AI": acme}
pulls:
  - api: openai          # openai, anthropic or cloudflare
    key_env: OPENAI_ADMIN_KEY
  - api: anthropic
    key_secret: billing/anthropic    # AWS Secrets Manager
    key_field: api_key
  - api: cloudflare
    account: 0123abcd
    key_env: CLOUDFLARE_API_TOKEN
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ml_registry_pipelines.costs.bills.intake import BillsError
from ml_registry_pipelines.costs.bills.lines import Given
from ml_registry_pipelines.lake.files import open_folder
from ml_registry_pipelines.strict_yaml import strict_loader
from ml_registry_pipelines.telemetry.sources import Source

BILLS_FILE = "bills.yaml"
"""Name of the file below the home that is read where `MLREG_BILLS` names none."""
FOLDER, PULLED = "bills", "bills-pulled"
"""Folders below the home: where files of bills are put, and where answers of pulls are kept."""
URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "cloudflare": "https://api.cloudflare.com",
}
KEYS: Mapping[str, str] = {
    "openai": "OPENAI_ADMIN_KEY",
    "anthropic": "ANTHROPIC_ADMIN_KEY",
    "cloudflare": "CLOUDFLARE_API_TOKEN",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TOP = ("tolerance", "settle_days", "look_back_days", "alert_days", "least_difference", "sources", "pulls")
_SHARED = ("name", "account", "tenant", "providers")
_SOURCE = (*_SHARED, "folder", "prefix", "pattern", "provider", "currency", "categories", "restates")
_PULL = (*_SHARED, "api", "url", "key_env", "key_secret", "key_field")


class BillSettingsError(BillsError):
    """The file `bills.yaml` does not say what it has to."""


@dataclass(frozen=True)
class BillSource(Source):
    """A place that files of bills come from, and what holds for all their lines (`lines.Given`)."""

    account: str | None = None
    provider: str | None = None
    currency: str | None = None
    providers: Mapping[str, str] = field(default_factory=dict)
    categories: tuple[str, ...] = ("AI and Machine Learning",)
    restates_days: bool = False

    def given(self, known: frozenset[str]) -> Given:
        """What the source says about its lines; `known` are provider ids that need no translation."""
        return Given(
            account=self.account,
            tenant=self.tenant,
            currency=self.currency,
            provider=self.provider,
            providers=self.providers,
            known=known | frozenset(self.providers.values()),
            categories=self.categories,
        )


@dataclass(frozen=True)
class Pull:
    """One API that is asked for bills. The key is in an environment variable, or in AWS Secrets Manager."""

    name: str
    api: str
    url: str
    account: str | None = None
    tenant: str | None = None
    key_env: str | None = None
    key_secret: str | None = None
    key_field: str | None = None
    providers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BillSettings:
    """All of it. `pulled` are the places where answers of pulls are kept."""

    sources: tuple[BillSource, ...]
    pulls: tuple[Pull, ...] = ()
    pulled: tuple[BillSource, ...] = ()
    tolerance: Decimal = Decimal("0.02")
    settle_days: int = 1
    look_back_days: int = 7
    alert_days: int = 7
    least_difference: Decimal = Decimal("0.01")

    @property
    def all_sources(self) -> tuple[BillSource, ...]:
        return (*self.sources, *self.pulled)


def load_settings(home: str, bills_file: str | None = None) -> BillSettings:
    """The settings: of the file that is named, else of `bills.yaml` below the home, else the usual ones.

    Raises:
        BillSettingsError: the file says something else than it may.
        FilesError: the file that is named is not there.
    """
    if bills_file is None:
        folder, name = home, BILLS_FILE
        if not open_folder(folder).exists(name):
            return BillSettings(sources=(_usual(home),))
    else:
        path = Path(bills_file).expanduser().absolute()
        folder, name = str(path.parent), path.name
    text = open_folder(folder).read(name).decode("utf-8", "replace")
    return parse_settings(text, file=f"{folder}/{name}", home=home)


def parse_settings(text: str, *, file: str, home: str) -> BillSettings:
    """Read the text of such a file; `file` is what errors call it.

    Raises:
        BillSettingsError: with the place and what to write instead.
    """
    import yaml

    try:
        held = yaml.load(text, Loader=strict_loader(texts=True))  # noqa: S506 - a BaseLoader, which builds texts only
    except yaml.MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else 1
        raise BillSettingsError(f"{file}, line {line}: is no valid YAML: {wrong.problem}") from None
    except yaml.YAMLError as wrong:
        raise BillSettingsError(f"{file}: is no valid YAML: {wrong}") from None
    top = _Fields({} if held in (None, "") else held, file, _TOP)
    sources = tuple(
        _source(_Fields(entry, f"{file}, source {n}", _SOURCE), home, Path(file).parent)
        for n, entry in enumerate(top.list("sources"), start=1)
    )
    pulls = tuple(
        _pull(_Fields(entry, f"{file}, pull {n}", _PULL))
        for n, entry in enumerate(top.list("pulls"), start=1)
    )
    pulled = tuple(_kept(pull, home) for pull in pulls)
    sources = sources or (_usual(home),)
    names = [source.name for source in (*sources, *pulled)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        top.fail(
            f"two sources or pulls are called {twice[0].removeprefix('pull-')!r}; give each its own `name`"
        )
    return BillSettings(
        sources=sources,
        pulls=pulls,
        pulled=pulled,
        tolerance=top.share("tolerance", BillSettings.tolerance),
        settle_days=top.whole("settle_days", BillSettings.settle_days, least=0, most=60),
        look_back_days=top.whole("look_back_days", BillSettings.look_back_days, least=1, most=180),
        alert_days=top.whole("alert_days", BillSettings.alert_days, least=1, most=366),
        least_difference=top.number("least_difference", BillSettings.least_difference),
    )


def _usual(home: str) -> BillSource:
    return BillSource(name="bills", folder=f"{home}/{FOLDER}", made_by_use=True)


def _kept(pull: Pull, home: str) -> BillSource:
    return BillSource(
        name=f"pull-{pull.name}",
        folder=f"{home}/{PULLED}/{pull.name}",
        account=pull.account,
        tenant=pull.tenant,
        providers=pull.providers,
        made_by_use=True,
    )


class _Fields:
    """The fields of one mapping, read strictly; every error names the place."""

    def __init__(self, values: Any, where: str, known: tuple[str, ...]) -> None:
        self._where = where
        if not isinstance(values, dict):
            self.fail(f"has to be a mapping with {', '.join(known)}")
        self._values: dict[str, Any] = values
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
                self.fail(f"unknown key {key!r}; {hint}")

    def fail(self, why: str) -> NoReturn:
        raise BillSettingsError(f"{self._where}: {why}")

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            self.fail(f"{key} has to be a text")
        return value.strip()

    def list(self, key: str) -> list[Any]:
        value = self._values.get(key, [])
        if not isinstance(value, list):
            self.fail(f"{key} has to be a list")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.list(key)
        if not all(isinstance(value, str) and value for value in values):
            self.fail(f"{key} has to be a list of texts")
        return tuple(values)

    def mapping(self, key: str) -> dict[str, str]:
        value = self._values.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(v, str) and v for v in value.values()):
            self.fail(f"{key} has to be a mapping of names in the bill to provider ids of the logs")
        return value

    def whole(self, key: str, usual: int, *, least: int, most: int) -> int:
        value = self.text(key)
        if value is None:
            return usual
        if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
            self.fail(f"{key} is {value!r}; it has to be a whole number from {least} to {most}")
        return int(value)

    def number(self, key: str, usual: Decimal) -> Decimal:
        value = self.text(key)
        if value is None:
            return usual
        try:
            found = Decimal(value)
        except InvalidOperation:
            found = Decimal("NaN")
        if not found.is_finite() or found < 0:
            self.fail(f"{key} is {value!r}; it has to be a number from 0 on")
        return found

    def share(self, key: str, usual: Decimal) -> Decimal:
        found = self.number(key, usual)
        if found >= 1:
            self.fail(f"{key} is {found}; it has to be a share from 0 to below 1, such as 0.02 for 2 %")
        return found


def _source(fields: _Fields, home: str, base: Path) -> BillSource:
    name, folder = fields.text("name"), fields.text("folder")
    if name is None or not _NAME.fullmatch(name) or name.startswith("pull-"):
        fields.fail("name has to be letters, digits, dot, dash and underscore, and not to begin with pull-")
    if folder is None:
        fields.fail("folder is missing")
    folder = folder.replace("{home}", home)
    if not folder.startswith("s3://"):
        folder = str(base / Path(folder).expanduser())
    restates = fields.text("restates") or "lines"
    if restates not in ("lines", "days"):
        fields.fail(f"restates is {restates!r}; it has to be lines or days")
    currency = fields.text("currency")
    if currency is not None and not re.fullmatch("[A-Z]{3}", currency):
        fields.fail(f"currency {currency!r} is no ISO 4217 code, such as USD")
    return BillSource(
        name=name,
        folder=folder,
        prefix=(fields.text("prefix") or "").strip("/"),
        pattern=fields.text("pattern") or "*",
        tenant=fields.text("tenant"),
        made_by_use=folder.startswith(home),
        account=fields.text("account"),
        provider=fields.text("provider"),
        currency=currency,
        providers=fields.mapping("providers"),
        categories=fields.texts("categories") or BillSource.categories,
        restates_days=restates == "days",
    )


def _pull(fields: _Fields) -> Pull:
    api = fields.text("api")
    if api is None or api not in URLS:
        fields.fail(f"api is {api!r}; it has to be one of {', '.join(URLS)}")
    name = fields.text("name") or api
    if not _NAME.fullmatch(name):
        fields.fail("name has to be letters, digits, dot, dash and underscore")
    url = fields.text("url") or URLS[api]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        fields.fail("url has to be an address such as https://api.example.org, without a password")
    account = fields.text("account")
    if api == "cloudflare" and account is None:
        fields.fail("account is missing: the id of the Cloudflare account")
    env, secret, part = fields.text("key_env"), fields.text("key_secret"), fields.text("key_field")
    if env and secret:
        fields.fail("key_env and key_secret exclude each other; keep one")
    if part and not secret:
        fields.fail("key_field is a field of a secret; name it by key_secret")
    return Pull(
        name=name,
        api=api,
        url=url.rstrip("/"),
        account=account,
        tenant=fields.text("tenant"),
        key_env=None if secret else env or KEYS[api],
        key_secret=secret,
        key_field=part,
        providers=fields.mapping("providers"),
    )
