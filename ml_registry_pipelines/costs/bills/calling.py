"""One request to a billing API, tried again while that may help; answers are bytes of JSON as they came."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ml_registry_pipelines.costs.bills.documents import parse_json
from ml_registry_pipelines.costs.bills.intake import BillsError
from ml_registry_pipelines.costs.bills.lines import LineError

TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds; the pause doubles from one try to the next, unless the API says how long to wait."""
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
LARGEST_ANSWER = 64 << 20
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""
REFUSED = frozenset({401, 403})


class PullError(BillsError):
    """A billing API did not give what was asked for; nothing of its answer was taken."""


class CredentialsRefused(PullError):
    """The API does not accept the key."""


class ApiUnavailable(PullError):
    """The API does not answer, or keeps failing."""


class BadAnswer(PullError):
    """The API answered with something else than it should."""


@dataclass(frozen=True)
class Answer:
    """One answer: the bytes, and what they mean."""

    raw: bytes
    value: Mapping[str, Any]


class Caller:
    """Asks one API.

    Args:
        sleep, clock: for tests about time.
    """

    def __init__(
        self, base: str, headers: Mapping[str, str], *, what: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._base = base
        self._headers = {"Accept": "application/json", "User-Agent": "mlreg", **headers}
        self._what = what
        self._sleep = sleep

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        """The answer to a GET.

        Raises:
            CredentialsRefused, ApiUnavailable, BadAnswer: each in a sentence without the key.
        """
        return self._ask("GET", path, params=list(parameters))

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The answer to a POST of JSON; errors as for `get`."""
        return self._ask("POST", path, json=dict(body))

    def _ask(self, method: str, path: str, **given: Any) -> Answer:
        import requests

        said = ""
        for number in range(1, TRIES + 1):
            wait: float | None = None
            try:
                answer = requests.request(
                    method,
                    f"{self._base}{path}",
                    headers=self._headers,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    # Another host must not be handed the key.
                    allow_redirects=False,
                    **given,
                )
            except requests.RequestException as failure:
                said = f"does not answer ({type(failure).__name__})"
            else:
                if answer.status_code == 200:
                    return self._read(path, answer.content)
                said = f"answered {path} with status {answer.status_code}{_reason(answer.content)}"
                if answer.status_code in REFUSED:
                    raise CredentialsRefused(
                        f"{self._what} does not accept the key: {self._host} {said}; renew it, and give it the right "
                        "to read costs"
                    )
                if answer.status_code not in PASSING:
                    raise BadAnswer(f"{self._what}: {self._host} {said}")
                wait = _seconds(answer.headers.get("Retry-After"))
            if number < TRIES:
                pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
                self._sleep(min(max(wait or 0.0, pause), LONGEST_PAUSE * 2))
        raise ApiUnavailable(
            f"{self._what}: {self._host} {said}, {TRIES} times; the next pull reads these days again"
        )

    def _read(self, path: str, content: bytes) -> Answer:
        if len(content) > LARGEST_ANSWER:
            raise BadAnswer(f"{self._what}: the answer of {path} has more than {LARGEST_ANSWER >> 20} MiB")
        try:
            value = parse_json(content)
        except LineError as wrong:
            raise BadAnswer(f"{self._what}: the answer of {path} cannot be read: {wrong}") from None
        if not isinstance(value, dict):
            raise BadAnswer(f"{self._what}: the answer of {path} is no JSON object")
        return Answer(content, value)

    @property
    def _host(self) -> str:
        return urlsplit(self._base).netloc


def _seconds(text: str | None) -> float | None:
    """Seconds of a `Retry-After`; a date in it is not waited for."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 6 else None


def _reason(content: bytes) -> str:
    """What the API says about an error, in a few words."""
    try:
        value = parse_json(content[:10_000])
    except LineError:
        return ""
    error = value.get("error") if isinstance(value, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f" ({' '.join(message.split())[:200]})" if isinstance(message, str) and message else ""
