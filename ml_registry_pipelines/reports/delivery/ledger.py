"""The ledger of deliveries: what was claimed, delivered, failed and given up, each step one row.

Every step is the commit right after the table that it was decided on, so of two couriers that
want one delivery the first has it, and the other sees that. A claim holds for a while; whoever
died with it left it open, and the delivery is made again: at least once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.outcomes import LostRace
from ml_registry_pipelines.lake.tables.reports import REPORT_DELIVERIES

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.periods import Period
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.reports.delivery.recipients import Recipient
    from ml_registry_pipelines.reports.delivery.subscriptions import Subscription

TABLE = REPORT_DELIVERIES.name
RACES = 50
LEASE = timedelta(minutes=10)
"""How long a claim holds: longer than any one message takes."""
CLAIMED, DELIVERED, FAILED, GIVEN_UP = "claimed", "delivered", "failed", "given_up"


class LedgerBusy(MlregError):
    """Other couriers kept writing; try again."""


@dataclass(frozen=True)
class Delivery:
    """One delivery in its newest state. `number` 0: the report; from 1: a correction of it."""

    delivery_id: str
    step: int
    state: str
    subscription_id: str
    epoch: int
    tenant: str
    report: str
    scope: str | None
    period: str
    period_start: datetime
    time_zone: str
    number: int
    recipient: str
    channel: str
    edition_id: str
    mark: str
    message_id: str
    attempt: int
    courier: str
    lease_until: datetime | None
    next_attempt_at: datetime | None
    message: str | None
    recorded_at: datetime

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state in {DELIVERED, GIVEN_UP}

    def free_at(self) -> datetime | None:
        """From when on a courier may take it; None: at once."""
        return {CLAIMED: self.lease_until, FAILED: self.next_attempt_at}.get(self.state)

    def may_be_taken(self, now: datetime) -> bool:
        """Whether a courier may take it now."""
        free = self.free_at()
        return not self.is_over and (free is None or free <= now)


def planned(
    subscription: Subscription, recipient: Recipient | None, period: Period, number: int, *, now: datetime
) -> Delivery:
    """A delivery that nobody has taken yet."""
    about = "\0".join([subscription.id, str(subscription.epoch), period.label, str(number)])
    identity = hashlib.sha256(about.encode()).hexdigest()[:32]
    return Delivery(
        identity,
        0,
        "",
        subscription.id,
        subscription.epoch,
        subscription.tenant,
        subscription.report,
        subscription.scope,
        period.label,
        period.start,
        period.zone.key,
        number,
        subscription.recipient,
        recipient.channel.value if recipient else "",
        "",
        "",
        identity,
        0,
        "",
        None,
        None,
        None,
        now,
    )


class Ledger:
    """The deliveries of one lake.

    Args:
        courier: random id of who takes deliveries here.
        now: the clock, for tests about time.
    """

    def __init__(
        self, lake: Lake, courier: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._lake = lake
        self._courier = courier
        self._now = now

    def newest(self) -> dict[str, Delivery]:
        """Every delivery in its newest state, by id."""
        if not self._lake.exists(TABLE):
            return {}
        return self._read()[0]

    def claim(self, wanted: Sequence[Delivery]) -> list[Delivery]:
        """Take deliveries, all that are free; the others are somebody else's, or done.

        What is wanted says edition and mark; of one that was tried before, tries and number go on.

        Raises:
            LedgerBusy: others kept writing.
        """
        for _ in range(RACES):
            known, version = self._read()
            now = self._now()
            rows = []
            for each in wanted:
                held = known.get(each.delivery_id)
                if held is not None and not held.may_be_taken(now):
                    continue
                rows.append(
                    replace(
                        each,
                        step=held.step + 1 if held else 1,
                        state=CLAIMED,
                        attempt=held.attempt + 1 if held else 1,
                        courier=self._courier,
                        lease_until=now + LEASE,
                        next_attempt_at=None,
                        message=None,
                        recorded_at=now,
                    )
                )
            if not rows or self._write(rows, version):
                return rows
        raise LedgerBusy(f"other couriers wrote {RACES} times meanwhile; deliveries are tried again")

    def settle(self, claimed: Sequence[Delivery], change: Callable[[Delivery], Delivery]) -> list[Delivery]:
        """Record what became of claimed deliveries. Where another courier took one over, success counts all the same.

        Raises:
            LedgerBusy: others kept writing; the claims run out, and what was sent may be sent again.
        """
        for _ in range(RACES):
            known, version = self._read()
            rows = []
            for each in claimed:
                held = known[each.delivery_id]
                after = replace(change(each), step=held.step + 1, lease_until=None, recorded_at=self._now())
                taken_over = held.step != each.step
                if held.state == DELIVERED or (taken_over and after.state != DELIVERED):
                    continue
                rows.append(after)
            if not rows or self._write(rows, version):
                return rows
        raise LedgerBusy(f"other couriers wrote {RACES} times meanwhile; deliveries are tried again")

    def _read(self) -> tuple[dict[str, Delivery], int]:
        with self._lake.read(TABLE) as reading:
            rows = reading.query(
                "reports.deliveries",
                """
                SELECT * FROM report_deliveries
                QUALIFY row_number() OVER (PARTITION BY delivery_id ORDER BY step DESC) = 1
                """,
            ).to_pylist()
            version = reading.version(TABLE)
        return {row["delivery_id"]: Delivery(**row) for row in rows}, version

    def _write(self, rows: Sequence[Delivery], version: int) -> bool:
        import pyarrow as pa

        table = pa.Table.from_pylist([vars(row) for row in rows], schema=REPORT_DELIVERIES.schema)
        try:
            self._lake.append_expecting(TABLE, table, version=version)
        except LostRace:
            return False
        return True
