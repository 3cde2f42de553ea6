"""Projections against the log that they are folded from: compared, and made anew.

Compared is how many states each folded event has; what a state says is not read.
"""

from __future__ import annotations

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.bulk import BulkFiles
from ml_registry_pipelines.registry.events import BULK
from ml_registry_pipelines.registry.log_table import TABLE, LogTable
from ml_registry_pipelines.registry.projections import PROJECTIONS, REBUILD, SOURCE, STATES, fold_blocks

_ALL = " UNION ALL ".join(f"SELECT position FROM {table}" for table in STATES)
_DIFFERENCES = f"""
WITH weights AS (
  SELECT position AS bulk_position,
    max(TRY(CAST(json_extract_string(payload, '$.state.entities') AS BIGINT))) AS entities
  FROM {TABLE} WHERE entity_type = '{BULK}' GROUP BY position
), events AS (
  SELECT tenant, sequence, position, coalesce(block, (position - 1) // 512 + 1) AS block,
    coalesce(entities, 1) AS states,
    if(idempotency_key IS NOT NULL AND part = 1, 1, 0) AS keys
  FROM {TABLE} LEFT JOIN weights ON position = bulk_position
), found AS (
  SELECT position, count(*) AS states FROM ({_ALL}) GROUP BY position
), found_keys AS (
  SELECT position, count(*) AS keys FROM idempotency_keys GROUP BY position
), compared AS (
  SELECT e.tenant, e.sequence, e.block, coalesce(e.states, 0) AS states, coalesce(e.keys, 0) AS keys,
    coalesce(f.states, 0) AS found, coalesce(k.keys, 0) AS found_keys, position
  FROM events e
  FULL JOIN found f USING (position)
  FULL JOIN found_keys k USING (position)
)
SELECT * FROM compared
WHERE (states <> found OR keys <> found_keys) AND (block IS NULL OR block <= $block)
ORDER BY position
LIMIT 1
"""


def difference(lake: Lake) -> str | None:
    """The first event of which the projections hold other states than it began; None where all is well."""
    # The log is looked at last, so that it holds all that was folded.
    with lake.read(*PROJECTIONS, TABLE) as reading:
        block = min(reading.sequence(table, SOURCE) for table in PROJECTIONS)
        found = reading.query("registry.verify_projections", _DIFFERENCES, {"block": block}).to_pylist()
    for row in found:
        if row["block"] is None:
            return f"the projections hold a state of position {row['position']}, which the log has not; {REBUILD}"
        return (
            f"the projections hold {row['found']:,} of {row['states']:,} states and {row['found_keys']} of "
            f"{row['keys']} keys of event {row['sequence']} of tenant {row['tenant']!r}; {REBUILD}"
        )
    return None


def rebuild(lake: Lake) -> int:
    """Remove the projections and fold the log anew, while nobody else uses it; return the number of blocks.

    What breaks off is taken up by the next command.

    Raises:
        LogDamaged: the log is not whole; the projections are left as they are.
    """
    for _ in LogTable(lake).blocks(1):
        pass  # Reading it all says whether it can be folded.
    for table in PROJECTIONS:
        lake.drop(table)
    return fold_blocks(lake, LogTable(lake).blocks(1), BulkFiles(lake))
