"""Checking where events lie: positions gapless over all tenants, and blocks as `tail.py` makes them.

Neither is in the chain, since an import gives others; but readers rely on both, and an event in
a wrong block would be lost to them. Checked in SQL, in portions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry import tail
from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.log_table import TABLE

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

OLD_BLOCK = 512
"""Events of a block from before blocks were recorded."""


@dataclass(frozen=True)
class Misplaced:
    """The first event, by position, that does not lie where it must."""

    tenant: str
    sequence: int
    text: str
    lost: bool
    """Whether what is wrong is that events before it are missing."""


_NOTHING: Mapping[str, Any] = {"position": 0, "block": 0, "known": False, "events": 0, "weight": 0}
"""What stands before the first event."""

_PLACED = f"""
WITH weights AS (
  SELECT position AS bulk_position,
    max(TRY(CAST(json_extract_string(payload, '$.state.entities') AS BIGINT))) AS entities
  FROM {TABLE}
  WHERE entity_type = '{BULK}' AND position >= $low AND position < $upto
  GROUP BY position
), inside AS (
  SELECT tenant, sequence, position, block IS NOT NULL AS known,
    coalesce(block, (position - 1) // {OLD_BLOCK} + 1) AS block, coalesce(entities, 1) AS weight
  FROM {TABLE} LEFT JOIN weights ON position = bulk_position
  WHERE position >= $low AND position < $upto
), counted AS (
  SELECT *,
    row_number() OVER b + if(block = $block, $events, 0) AS events,
    sum(weight) OVER b + if(block = $block, $weight, 0) AS weighs
  FROM inside
  WINDOW b AS (PARTITION BY block ORDER BY position, tenant, sequence ROWS UNBOUNDED PRECEDING)
), linked AS (
  SELECT *,
    lag(position, 1, $position) OVER w AS before_position,
    lag(block, 1, $block) OVER w AS before_block,
    lag(known, 1, $known) OVER w AS before_known,
    lag(block, 1, $block) OVER w
      + if(lag(block, 1, $block) OVER w = 0 OR lag(events, 1, $events) OVER w >= $full_events
           OR lag(weighs, 1, $weight) OVER w >= $full_weight, 1, 0) AS due
  FROM counted
  WINDOW w AS (ORDER BY position, tenant, sequence)
)
SELECT
  arg_min({{
    'tenant': tenant, 'sequence': sequence, 'position': position, 'block': block,
    'before': before_position, 'due': due
  }}, position) FILTER (
    position <> before_position + 1
    OR CASE WHEN known THEN block <> due ELSE before_known OR block NOT IN (before_block, before_block + 1) END
  ) AS bad,
  arg_max({{
    'position': position, 'block': block, 'known': known, 'events': events, 'weight': weighs
  }}, position) AS last
FROM linked
"""


def misplaced(reading: Reading, at_once: int) -> Misplaced | None:
    """The first event that does not lie where it must; None where all do."""
    before, low = _NOTHING, -(2**62)
    while True:
        parameters = {
            **before,
            "low": low,
            "upto": max(low, 1) + at_once,
            "full_events": tail.BLOCK,
            "full_weight": tail.HEAVY,
        }
        row = reading.query("registry.verify_places", _PLACED, parameters).to_pylist()[0]
        if row["bad"] is not None:
            return _said(row["bad"])
        if row["last"] is None:
            following = reading.query(
                "registry.verify_rest",
                f"SELECT min(position) AS n FROM {TABLE} WHERE position >= $upto",
                {"upto": parameters["upto"]},
            )["n"][0].as_py()
            if following is None:
                return None
            low = following
        else:
            before, low = row["last"], parameters["upto"]


def _said(bad: Mapping[str, Any]) -> Misplaced:
    tenant, sequence, position = bad["tenant"], bad["sequence"], bad["position"]
    missing = bad["before"] + 1
    if position > missing:
        text = f"the log has no event at positions {missing} to {position - 1}: a tenant's newest events are missing"
        return Misplaced(tenant, sequence, text, lost=True)
    if position < missing:
        what = (
            f"lies at position {position}, where another event lies"
            if position > 0
            else f"lies at {position}"
        )
        return Misplaced(tenant, sequence, f"event {sequence} {what}: it was moved", lost=False)
    text = f"event {sequence} stands in block {bad['block']} and not in block {bad['due']}: it was moved"
    return Misplaced(tenant, sequence, text, lost=False)
