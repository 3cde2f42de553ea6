"""How alerts leave the table: a file of JSON lines per day, and a webhook where one is configured.

Both are fed from the rows of `alerts` and keep a mark of the last row that they have, in
`alerts/told.json` below the root. A receiver that fails keeps its mark, so the next call
tells it the rest: a webhook may hear the same state twice, never not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import Folder, open_folder
from ml_registry_pipelines.lake.tables.operations import ALERTS
from ml_registry_pipelines.operations.alerts import Alert, Alerts, Severity

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake

MARKS = "told.json"
GIVE_UP = timedelta(hours=24)
"""A webhook that is down for longer hears only of the last day when it is back."""
MOST_AT_ONCE = 20
"""Messages that one call posts; the next one posts the rest."""
TIMEOUT_SECONDS = 2.0
REFUSALS = (400, 413, 415, 422)
"""What a receiver answers when it will never take this message."""
WEBHOOK_FAILING = "webhook_failing"


class MessagesError(MlregError):
    """The webhook's address cannot be used."""


class _NotTold(Exception):
    """The receiver did not take a message now; it may later."""


class _Refused(Exception):
    """The receiver will never take this message; the next one may do."""


@dataclass(frozen=True)
class Webhook:
    """An HTTP address that takes one JSON object per POST.

    The address may hold a secret, so only its host is ever shown.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise MessagesError(
                "MLREG_ALERT_WEBHOOK must be an address such as https://hooks.example.org/alerts"
            )

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def tell(self, row: Mapping[str, Any]) -> None:
        """Post one state of one alert; `text` is what chat systems show.

        Raises:
            _NotTold: the receiver is away, or refused for a reason that may pass.
            _Refused: it refused this message.
        """
        import requests

        body = _plain(row)
        over = "resolved: " if row["state"] == "resolved" else ""
        body["text"] = f"[{row['severity']}] {over}{row['title']}\n{row['message']}"
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{row['alert_id']}-{row['state']}"}
        try:
            answer = requests.post(
                self.url,
                data=json.dumps(body).encode(),
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as failure:
            raise _NotTold(f"{type(failure).__name__} from {self.host}") from None
        if answer.status_code in REFUSALS:
            raise _Refused(f"{self.host} refused a message with status {answer.status_code}")
        if not 200 <= answer.status_code < 300:
            raise _NotTold(f"{self.host} answered with status {answer.status_code}")


@dataclass(frozen=True)
class Told:
    """How many rows a call of `tell` passed on. `failure` is the webhook's, in words."""

    to_files: int = 0
    to_webhook: int = 0
    failure: str | None = None


class Messages:
    """Passes rows of `alerts` on.

    Args:
        now: the clock, for tests about time.
    """

    def __init__(
        self,
        lake: Lake,
        webhook: Webhook | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lake = lake
        self._webhook = webhook
        self._now = now

    def tell(self) -> Told:
        """Pass on what has not been passed on yet.

        A webhook that fails is itself an alert, in table and file.

        Raises:
            FilesError: the file cannot be written; the rows are safe and told the next time.
        """
        if not self._lake.exists(ALERTS.name):
            return Told()
        folder = open_folder(f"{self._lake.root}/alerts")
        marks = _marks(folder)
        to_files = self._write_files(folder, marks)
        if self._webhook is None:
            return Told(to_files)
        to_webhook, failure = self._post(folder, marks, self._webhook)
        if self._note(self._webhook, failure):
            to_files += self._write_files(folder, marks)
        return Told(to_files, to_webhook, failure)

    def _write_files(self, folder: Folder, marks: dict[str, datetime]) -> int:
        """Write the file of every day that has new rows, whole: a file never holds half a line."""
        new = self._rows_after(marks.get("files"))
        if not new:
            return 0
        for day in sorted({row["recorded_at"].astimezone(UTC).date() for row in new}):
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            rows = self._rows_after(start - timedelta(microseconds=1), until=start + timedelta(days=1))
            lines = "".join(json.dumps(_plain(row), ensure_ascii=False) + "\n" for row in rows)
            folder.write(f"{day.isoformat()}.jsonl", lines.encode())
        _mark(folder, marks, "files", new[-1])
        return len(new)

    def _post(self, folder: Folder, marks: dict[str, datetime], webhook: Webhook) -> tuple[int, str | None]:
        """How many rows the webhook took, and what went wrong last."""
        since = self._now() - GIVE_UP
        last = None
        taken = 0
        failure = None
        for row in self._rows_after(max(marks.get("webhook", since), since))[:MOST_AT_ONCE]:
            try:
                webhook.tell(row)
                taken += 1
            except _Refused as reason:
                failure = str(reason)
            except _NotTold as reason:
                failure = str(reason)
                break
            last = row
        if last is not None:
            _mark(folder, marks, "webhook", last)
        return taken, failure

    def _note(self, webhook: Webhook, failure: str | None) -> bool:
        """Open or resolve the alert about the webhook itself."""
        current = []
        if failure is not None:
            current.append(
                Alert(
                    WEBHOOK_FAILING,
                    webhook.host,
                    Severity.WARNING,
                    f"The webhook at {webhook.host} does not take alerts",
                    f"{failure}. Alerts are kept and posted once it answers, those of the last 24 hours at most; "
                    "check the address in MLREG_ALERT_WEBHOOK and the receiver.",
                )
            )
        alerts = Alerts(self._lake, now=self._now)
        return bool(alerts.settle({WEBHOOK_FAILING}, current, because="The webhook takes alerts again."))

    def _rows_after(
        self, mark: datetime | None, *, until: datetime | None = None
    ) -> Sequence[Mapping[str, Any]]:
        with self._lake.read(ALERTS.name) as reading:
            found: list[Mapping[str, Any]] = reading.query(
                "alerts.after",
                """
                SELECT * FROM alerts
                WHERE recorded_at > $after AND recorded_at < $until
                ORDER BY recorded_at
                """,
                {
                    "after": mark or datetime(1970, 1, 1, tzinfo=UTC),
                    "until": until or datetime(9999, 1, 1, tzinfo=UTC),
                },
            ).to_pylist()
        return found


def _marks(folder: Folder) -> dict[str, datetime]:
    """Marks by receiver. A file that someone damaged costs messages told twice, no more."""
    if not folder.exists(MARKS):
        return {}
    try:
        held = json.loads(folder.read(MARKS))
        return {name: datetime.fromisoformat(at).astimezone(UTC) for name, at in held.items()}
    except (ValueError, AttributeError, TypeError):
        return {}


def _mark(folder: Folder, marks: dict[str, datetime], receiver: str, row: Mapping[str, Any]) -> None:
    marks[receiver] = row["recorded_at"].astimezone(UTC)
    folder.write(MARKS, json.dumps({name: at.isoformat() for name, at in marks.items()}).encode())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as JSON holds it."""
    values = {name: row[name] for name in ALERTS.column_names}
    return {**values, "recorded_at": row["recorded_at"].astimezone(UTC).isoformat()}
