"""Checking the chain: every hash computed anew, every link followed, the first damage named.

The work is done by DuckDB over the stored columns, as a stream, and spills to disk. What a
chain alone cannot show, loss of its end and a forgery computed through to the end, only an
anchor shows: `Verdict.caveat` says so where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.anchors import LINK, Anchor
from ml_registry_pipelines.registry.bulk import BulkFileDamaged, BulkFiles
from ml_registry_pipelines.registry.canonical import parse
from ml_registry_pipelines.registry.events import BULK, hash_sql
from ml_registry_pipelines.registry.log_table import TABLE

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

CAVEAT = (
    "no anchor covers it: that the newest events were cut off, or that the whole chain was computed anew, "
    "would not be seen"
)


@dataclass(frozen=True)
class Damage:
    """The first event of a tenant that is not as it was written.

    `what` is changed, dropped, inserted or reordered.
    """

    tenant: str
    sequence: int
    what: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What the check of one tenant's chain found. `anchored` is the last event that an anchor covers."""

    tenant: str
    events: int
    head: str
    anchored: int
    damage: Damage | None

    @property
    def caveat(self) -> str | None:
        """What this verdict cannot know."""
        if self.damage is not None or self.anchored >= self.events:
            return None
        if not self.anchored:
            return CAVEAT
        return f"events {self.anchored + 1} to {self.events} are newer than the last anchor; of them {CAVEAT}"


def verify(lake: Lake, *, tenant: str | None = None, anchors: Sequence[Anchor] = ()) -> list[Verdict]:
    """Check the chains of all tenants, or of one, against themselves and against anchors."""
    with lake.read(TABLE) as reading:
        rows = reading.query("registry.verify", _CHECK, {"tenant": tenant}).to_pylist()
        lost = _lost_positions(reading) if tenant is None else []
        verdicts = []
        for row in rows:
            damage = _classify(reading, row) if row["bad"] is not None else None
            by_anchor = _against(reading, row["tenant"], anchors)
            by_file = _bulk_damage(lake, reading, row["tenant"])
            found = [d for d in (damage, by_anchor, by_file) if d is not None]
            verdicts.append(
                Verdict(
                    row["tenant"],
                    row["events"],
                    row["head"],
                    max((a.heads[row["tenant"]][0] for a in anchors if row["tenant"] in a.heads), default=0),
                    min(found, key=lambda d: d.sequence, default=None),
                )
            )
    return _with_lost(verdicts, lost, anchors, tenant)


_CHECK = f"""
WITH computed AS (
  SELECT tenant, sequence, position, recorded_at, previous_hash, hash, {hash_sql()} AS computed
  FROM {TABLE}
  WHERE $tenant IS NULL OR tenant = $tenant
), linked AS (
  SELECT *,
    lag(sequence, 1, 0) OVER w AS before_sequence,
    lag(hash, 1, '') OVER w AS before_hash,
    lag(position, 1, 0) OVER w AS before_position,
    lag(recorded_at) OVER w AS before_recorded
  FROM computed
  WINDOW w AS (PARTITION BY tenant ORDER BY sequence, position)
), judged AS (
  SELECT *,
    hash <> computed OR sequence <> before_sequence + 1 OR previous_hash <> before_hash
      OR position <= before_position OR recorded_at < before_recorded AS is_bad
  FROM linked
)
SELECT tenant, count(*) AS events, arg_max(hash, sequence) AS head,
  min(sequence) FILTER (is_bad) AS bad,
  arg_min({{'before': before_sequence, 'hash': hash, 'computed': computed,
            'linked': previous_hash = before_hash,
            'position': position, 'ordered': position > before_position}},
          sequence) FILTER (is_bad) AS first
FROM judged
GROUP BY tenant
ORDER BY tenant
"""


def _classify(reading: Reading, row: dict[str, Any]) -> Damage:
    tenant, bad, first = row["tenant"], row["bad"], row["first"]
    doubled = reading.query(
        "registry.verify_doubled",
        f"""
        SELECT min(sequence) AS n
        FROM (
          SELECT sequence FROM {TABLE} WHERE tenant = $tenant AND sequence <= $bad + 1
          GROUP BY sequence HAVING count(*) > 1
        )
        """,
        {"tenant": tenant, "bad": bad},
    )["n"][0].as_py()
    if doubled is not None and doubled <= bad:
        return Damage(
            tenant, doubled, "inserted", f"there are two events {doubled}; one of them was inserted"
        )
    if first["before"] + 1 < bad and first["hash"] == first["computed"]:
        missing = first["before"] + 1
        upto = f" to {bad - 1}" if bad - 1 > missing else ""
        return Damage(
            tenant, missing, "dropped", f"event {missing}{upto} is missing; event {bad} is the next"
        )
    if first["hash"] != first["computed"]:
        return _changed(reading, row)
    if not first["linked"]:
        if bad == 1:
            return Damage(
                tenant,
                1,
                "dropped",
                "event 1 follows an event that is not there: events before it were dropped",
            )
        return Damage(
            tenant,
            bad - 1,
            "changed",
            f"event {bad - 1}, or some before it, was replaced: event {bad} was chained to another hash",
        )
    if not first["ordered"]:
        return Damage(tenant, bad, "reordered", f"event {bad} lies before its predecessor in the log")
    return Damage(tenant, bad, "changed", f"event {bad} was recorded before its predecessor, which cannot be")


def _changed(reading: Reading, row: dict[str, Any]) -> Damage:
    tenant, bad, first = row["tenant"], row["bad"], row["first"]
    original = reading.query(
        "registry.verify_reordered",
        f"""
        SELECT min(number) AS n
        FROM {TABLE} e, range(1, $last + 2) AS numbers(number)
        WHERE tenant = $tenant AND position = $position AND hash = $hash
          AND hash = {hash_sql("number")}
        """,
        {"tenant": tenant, "position": first["position"], "hash": first["hash"], "last": row["events"]},
    )["n"][0].as_py()
    if original is not None:
        return Damage(
            tenant,
            min(bad, first["before"] + 1),
            "reordered",
            f"event {original} stands as event {bad}: events were reordered",
        )
    return Damage(
        tenant, bad, "changed", f"event {bad} was changed: its hash is not that of its stored fields"
    )


def _against(reading: Reading, tenant: str, anchors: Sequence[Anchor]) -> Damage | None:
    """The first event that is not the one that an anchor has seen."""
    for anchor in anchors:
        if tenant not in anchor.links:
            continue
        first, links = anchor.links[tenant]
        last = first + len(links) // LINK - 1
        stored = reading.query(
            "registry.verify_anchor",
            f"""
            SELECT sequence, hash FROM {TABLE}
            WHERE tenant = $tenant AND sequence BETWEEN $first AND $last
            """,
            {"tenant": tenant, "first": first, "last": last},
        )
        hashes = dict(zip(stored["sequence"].to_pylist(), stored["hash"].to_pylist(), strict=True))
        for n in range(first, last + 1):
            link = links[(n - first) * LINK : (n - first + 1) * LINK].hex()
            if n not in hashes:
                return Damage(tenant, n, "dropped", f"event {n} is missing, which {anchor.file} has seen")
            if not hashes[n].startswith(link):
                return Damage(tenant, n, "changed", f"event {n} is not the one that {anchor.file} has seen")
        if hashes[last] != anchor.heads[tenant][1]:
            return Damage(tenant, last, "changed", f"event {last} is not the one that {anchor.file} has seen")
    return None


def _bulk_damage(lake: Lake, reading: Reading, tenant: str) -> Damage | None:
    files = BulkFiles(lake)
    rows = reading.query(
        "registry.verify_bulk",
        f"""
        SELECT sequence, payload FROM {TABLE}
        WHERE tenant = $tenant AND entity_type = $bulk
        ORDER BY sequence
        """,
        {"tenant": tenant, "bulk": BULK},
    )
    for sequence, payload in zip(rows["sequence"].to_pylist(), rows["payload"].to_pylist(), strict=True):
        try:
            files.bytes_of(str(parse(payload)["state"]["file"]))
        except BulkFileDamaged as failure:
            return Damage(tenant, sequence, "changed", f"event {sequence}: {failure}")
        except (KeyError, ValueError):
            return Damage(tenant, sequence, "changed", f"event {sequence} does not name its file")
    return None


def _lost_positions(reading: Reading) -> list[tuple[int, int]]:
    """Stretches of positions that no event has, though later ones do."""
    rows = reading.query(
        "registry.verify_positions",
        f"""
        SELECT before + 1 AS first, position - 1 AS last
        FROM (SELECT position, lag(position, 1, 0) OVER (ORDER BY position) AS before FROM {TABLE})
        WHERE position > before + 1
        ORDER BY first
        """,
    )
    return list(zip(rows["first"].to_pylist(), rows["last"].to_pylist(), strict=True))


def _with_lost(
    verdicts: list[Verdict], lost: list[tuple[int, int]], anchors: Sequence[Anchor], tenant: str | None
) -> list[Verdict]:
    """Add tenants that only an anchor knows, and events that only their positions tell of."""
    known = {verdict.tenant for verdict in verdicts}
    for name in sorted({t for anchor in anchors for t in anchor.heads if tenant in {None, t}} - known):
        newest = max(anchor.heads[name][0] for anchor in anchors if name in anchor.heads)
        gone = Damage(name, 1, "dropped", f"all {newest} events are missing, which an anchor has seen")
        verdicts.append(Verdict(name, 0, "", newest, gone))
    if lost and not any(verdict.damage for verdict in verdicts):
        first, last = lost[0]
        text = f"the log has no event at positions {first} to {last}: a tenant's newest events are missing"
        verdicts.append(Verdict("?", 0, "", 0, Damage("?", 0, "dropped", text)))
    return verdicts
