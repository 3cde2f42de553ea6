"""A statement as a value: its lines, their sums, its digest, and what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from ml_registry_pipelines.costs.bills.lines import EXACT

_ZERO = Decimal(0)


@dataclass(frozen=True)
class StatementLine:
    """One line. `amount` None: no attempt of it could be priced, which is not 0."""

    number: int
    kind: str
    description: str
    provider: str | None = None
    model: str | None = None
    rule: str | None = None
    corrects: date | None = None
    requests: int | None = None
    billable_requests: int | None = None
    priced_requests: int | None = None
    assumed_requests: int | None = None
    tokens: int | None = None
    currency: str | None = None
    amount: Decimal | None = None

    def content(self) -> dict[str, object]:
        """What the digest is over; an amount with all its twelve decimals."""
        return {
            **vars(self),
            "corrects": None if self.corrects is None else self.corrects.isoformat(),
            "amount": None
            if self.amount is None
            else f"{self.amount.quantize(Decimal(1).scaleb(-12), context=EXACT):f}",
        }


@dataclass(frozen=True)
class Statement:
    """What one tenant is charged for one month.

    `made_of` are versions of the tables, and the event of the log up to which rules were known.
    `issued_at` None: a draft, which changes with what it is made of.
    """

    tenant: str
    month: date
    lines: tuple[StatementLine, ...]
    made_of: Mapping[str, int] = field(default_factory=dict)
    issued_at: datetime | None = None
    actor: str | None = None

    @property
    def id(self) -> str:
        """Digest over tenant, month and lines."""
        content = [self.tenant, self.month.isoformat(), [line.content() for line in self.lines]]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    @property
    def totals(self) -> dict[str, Decimal]:
        """The sum of all amounts, by currency; never across currencies."""
        return sums(self.lines)

    @property
    def billable(self) -> int:
        return sum(line.billable_requests or 0 for line in self.lines)

    @property
    def priced(self) -> int:
        return sum(line.priced_requests or 0 for line in self.lines)

    @property
    def assumed(self) -> int:
        return sum(line.assumed_requests or 0 for line in self.lines)


def sums(lines: Sequence[StatementLine]) -> dict[str, Decimal]:
    """Sums of the amounts by currency."""
    found: dict[str, Decimal] = {}
    for line in lines:
        if line.currency is not None and line.amount is not None:
            found[line.currency] = EXACT.add(found.get(line.currency, _ZERO), line.amount)
    return dict(sorted(found.items()))
