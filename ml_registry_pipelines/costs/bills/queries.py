"""What people ask about bills: sums by month, lines with their history, and what lies in quarantine."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.bills.intake import NEWEST

if TYPE_CHECKING:
    import pyarrow as pa

    from ml_registry_pipelines.lake.reading import Reading


def billed_by_month(
    reading: Reading, *, since: date | None = None, until: date | None = None, provider: str | None = None
) -> pa.Table:
    """What is billed now, newest month first; `until` is left out. The reading must hold `provider_bills`.

    Returns:
        Rows with `month`, `provider`, `issuer`, `report`, `account`, `currency`, `lines`, `days`, `amount`
        (DECIMAL, credits included), `credits`, `list_amount` (NULL where a line does not say it) and
        `last_taken`. Kinds of bill about the same provider are rows of their own, never to be added.
    """
    return reading.query(
        "bills.by_month",
        f"""
        SELECT date_trunc('month', day)::DATE AS month, provider, issuer, report, account, currency,
            count(*) AS lines, count(DISTINCT day) AS days, sum(amount) AS amount,
            sum(amount) FILTER (amount < 0) AS credits,
            CASE WHEN count(list_amount) = count(*) THEN sum(list_amount) END AS list_amount,
            max(recorded_at) AS last_taken
        FROM ({NEWEST})
        WHERE state = 'stated' AND kind = 'cost' AND day >= $first AND day < $after
            AND ($provider IS NULL OR provider = $provider)
        GROUP BY ALL
        ORDER BY month DESC, provider, report, account, currency
        """,
        {"first": since or date.min, "after": until or date.max, "provider": provider},
    )


def bill_lines(
    reading: Reading,
    *,
    since: date | None = None,
    until: date | None = None,
    provider: str | None = None,
    history: bool = False,
) -> pa.Table:
    """Lines, newest day first; `until` is left out. With `history`: every statement of each, oldest first."""
    source = "provider_bills" if history else f"({NEWEST})"
    return reading.query(
        "bills.lines",
        f"""
        SELECT day, provider, report, sub_account, line_item, model, token_kind, quantity, unit, amount, currency,
            state, recorded_at, source, file, line
        FROM {source}
        WHERE ($history OR state = 'stated') AND kind <> 'nothing' AND day >= $first AND day < $after
            AND ($provider IS NULL OR provider = $provider)
        ORDER BY day DESC, provider, report, line_key, batch
        """,
        {"first": since or date.min, "after": until or date.max, "provider": provider, "history": history},
    )


def quarantined(reading: Reading, *, limit: int) -> pa.Table:
    """Records that could not be taken, newest first. The reading must hold `quarantined_bill_lines`."""
    return reading.query(
        "bills.quarantined",
        """
        SELECT recorded_at, source, file, line, report, reason, message
        FROM quarantined_bill_lines ORDER BY recorded_at DESC, source, file, line LIMIT $limit
        """,
        {"limit": limit},
    )
