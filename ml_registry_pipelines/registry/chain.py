"""Checking the chain: every hash computed anew, every link followed, the first damage named.

The work is done by DuckDB over the stored columns, as a stream and in portions. What a
chain alone cannot show, loss of its end and a forgery computed through to the end, only an
anchor shows: `Verdict.caveat` says so where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.lake.lake import Lake, LakeError
from ml_registry_pipelines.registry.anchors import LINK, Anchor
from ml_registry_pipelines.registry.bulk import BulkFileDamaged, BulkFiles
from ml_registry_pipelines.registry.canonical import parse
from ml_registry_pipelines.registry.errors import LogDamaged
from ml_registry_pipelines.registry.events import BULK, hash_sql
from ml_registry_pipelines.registry.log_table import TABLE, lost_file
from ml_registry_pipelines.registry.placing import Misplaced, misplaced
from ml_registry_pipelines.registry.stretches import AT_ONCE, INSIDE, hashes, portions

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
    """Check the chains of all tenants, or of one, against themselves and against anchors.

    One pass computes every hash; the links between events, and their places over all tenants,
    are followed in portions, which read short columns only.

    Raises:
        LogDamaged: a file of the log is gone or damaged; the text says which events it held.
    """
    try:
        return _verified(lake, tenant, anchors)
    except LakeError as failure:
        if (lost := lost_file(lake)) is not None:
            raise LogDamaged(f"{lost}; restore the file") from failure
        raise


def _verified(lake: Lake, tenant: str | None, anchors: Sequence[Anchor]) -> list[Verdict]:
    with lake.read(TABLE) as reading:
        chains = check_chains(reading, tenant)
        rows, damages = chains.rows, chains.damages
        for damage in _bulk_damage(lake, reading, tenant):
            damages[damage.tenant].append(damage)
        for name, found in damages.items():
            if (by_anchor := _against(reading, name, anchors)) is not None:
                found.append(by_anchor)
        place = misplaced(reading, AT_ONCE)
        if place is not None and not place.lost and place.tenant in damages:
            damages[place.tenant].append(Damage(place.tenant, place.sequence, "reordered", place.text))
        verdicts = [
            Verdict(
                name,
                int(row["events"]),
                row["head"],
                max((a.heads[name][0] for a in anchors if name in a.heads), default=0),
                min(damages[name], key=lambda d: d.sequence, default=None),
            )
            for name, row in rows.items()
        ]
    told = _with_lost(verdicts, place, anchors, tenant)
    if not told and tenant is None and _was_written(lake):
        text = "the log has no event at all, and it had some: what was written to it is gone"
        told.append(Verdict("?", 0, "", 0, Damage("?", 0, "dropped", text)))
    return told


def _was_written(lake: Lake) -> bool:
    """Whether something was written to the log after it was made; nothing of ours ever takes an event away."""
    table = lake.find(TABLE)
    return table is not None and table.version() > 0


@dataclass(frozen=True)
class Chains:
    """What a relation of events holds, by tenant: number of events and head, and what is wrong with its chain."""

    rows: Mapping[str, Mapping[str, Any]]
    damages: dict[str, list[Damage]]


def check_chains(reading: Reading, tenant: str | None = None) -> Chains:
    """Check hashes and links of the events that are called `governance_events` in a reading."""
    rows = {
        row["tenant"]: row
        for row in reading.query("registry.verify", _HASHES, {"tenant": tenant}).to_pylist()
    }
    sizes = {name: int(row["events"]) for name, row in rows.items()}
    bad = {name: row["bad"] for name, row in rows.items() if row["bad"] is not None}
    _follow_links(reading, sizes, bad)
    damages: dict[str, list[Damage]] = {name: [] for name in rows}
    for name, sequence in bad.items():
        damages[name].append(_classify(reading, name, sequence, sizes[name]))
    for name, row in rows.items():
        if (sequence := row["unreadable"]) is not None:
            text = f"event {sequence} cannot be read: its payload has no `change` and `state`"
            damages[name].append(Damage(name, sequence, "changed", text))
    return Chains(rows, damages)


_HASHES = f"""
SELECT tenant, count(*) AS events, arg_max(hash, sequence) AS head,
  min(sequence) FILTER (hash IS DISTINCT FROM {hash_sql()}) AS bad,
  min(sequence) FILTER (
    TRY(json_type(payload, ['$.change', '$.state'])) IS DISTINCT FROM ['OBJECT', 'OBJECT']
  ) AS unreadable
FROM {TABLE}
WHERE $tenant IS NULL OR tenant = $tenant
GROUP BY tenant
ORDER BY tenant
"""
_LINKS = f"""
WITH linked AS (
  SELECT tenant, sequence, position, recorded_at, previous_hash, hash,
    lag(sequence, 1, $before_sequence) OVER w AS before_sequence,
    lag(hash, 1, $before_hash) OVER w AS before_hash,
    lag(position, 1, $before_position) OVER w AS before_position,
    lag(recorded_at, 1, $before_recorded) OVER w AS before_recorded
  FROM {TABLE}
  WHERE {INSIDE}
  WINDOW w AS (PARTITION BY tenant ORDER BY sequence, position)
)
SELECT tenant,
  min(sequence) FILTER (
    sequence <> before_sequence + 1 OR previous_hash IS DISTINCT FROM before_hash
    OR position <= before_position OR recorded_at < before_recorded
  ) AS bad,
  arg_max({{'sequence': sequence, 'hash': hash, 'position': position, 'recorded': recorded_at}}, sequence) AS last
FROM linked
GROUP BY tenant
"""
_NOTHING: Mapping[str, Any] = {
    "sequence": 0,
    "hash": "",
    "position": 0,
    "recorded": datetime(1, 1, 1, tzinfo=UTC),
}
"""What stands before the first event."""


def _follow_links(reading: Reading, sizes: Mapping[str, int], bad: dict[str, int]) -> None:
    """Put into `bad` the first event of each tenant that does not follow its predecessor, if it is an earlier one."""
    before = _NOTHING
    broken: set[str] = set()
    for portion in portions(reading, sizes):
        if portion.begins:
            before = _NOTHING
        if portion.first_tenant in broken and not portion.begins:
            continue
        parameters = {**portion.parameters, **{f"before_{name}": value for name, value in before.items()}}
        for row in reading.query("registry.verify_links", _LINKS, parameters).to_pylist():
            before = row["last"]
            if row["bad"] is not None:
                broken.add(row["tenant"])
                bad[row["tenant"]] = min(row["bad"], bad.get(row["tenant"], row["bad"]))


def _classify(reading: Reading, tenant: str, bad: int, events: int) -> Damage:
    """What happened to the first event that is not as it should be."""
    found = reading.query(
        "registry.verify_first",
        f"""
        WITH around AS (
          SELECT *, {hash_sql()} AS computed FROM {TABLE}
          WHERE tenant = $tenant AND sequence <= $bad
            AND sequence >= coalesce(
              (SELECT max(sequence) FROM {TABLE} WHERE tenant = $tenant AND sequence < $bad), $bad)
        )
        SELECT sequence, position, hash, computed,
          lag(sequence, 1, 0) OVER w AS before,
          previous_hash = lag(hash, 1, '') OVER w AS linked,
          position > lag(position, 1, 0) OVER w AS ordered,
          count(*) OVER (PARTITION BY sequence) AS times
        FROM around
        WINDOW w AS (ORDER BY sequence, position)
        ORDER BY sequence DESC, position
        LIMIT 1
        """,
        {"tenant": tenant, "bad": bad},
    ).to_pylist()
    if not found:
        text = f"event {bad} is there, and is not found by its number: statistics of its file were changed"
        return Damage(tenant, bad, "changed", text)
    first = found[0]
    if first["times"] > 1:
        return Damage(tenant, bad, "inserted", f"there are two events {bad}; one of them was inserted")
    if first["before"] + 1 < bad and first["hash"] == first["computed"]:
        missing = first["before"] + 1
        upto = f" to {bad - 1}" if bad - 1 > missing else ""
        return Damage(
            tenant, missing, "dropped", f"event {missing}{upto} is missing; event {bad} is the next"
        )
    if first["hash"] != first["computed"]:
        return _changed(reading, tenant, bad, first, events)
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


def _changed(reading: Reading, tenant: str, bad: int, first: Mapping[str, Any], events: int) -> Damage:
    original = reading.query(
        "registry.verify_reordered",
        f"""
        SELECT min(number) AS n
        FROM {TABLE} e, range(1, $last + 2) AS numbers(number)
        WHERE tenant = $tenant AND position = $position AND hash = $hash
          AND hash = {hash_sql("number")}
        """,
        {"tenant": tenant, "position": first["position"], "hash": first["hash"], "last": events},
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
    known = [anchor for anchor in anchors if tenant in anchor.links]
    for anchor in known:
        first, links = anchor.links[tenant]
        last = first + len(links) // LINK - 1
        for start in range(first, last + 1, AT_ONCE):
            end = min(start + AT_ONCE - 1, last)
            part = links[(start - first) * LINK : (end - first + 1) * LINK]
            if (damage := _against_links(reading, tenant, anchor, start, part)) is not None:
                return damage
    if known:
        ends = {anchor.heads[tenant][0]: anchor for anchor in known}
        stored = hashes(reading, tenant, list(ends))
        for last, anchor in sorted(ends.items()):
            if stored.get(last) != anchor.heads[tenant][1]:
                return Damage(
                    tenant, last, "changed", f"event {last} is not the one that {anchor.file} has seen"
                )
    return None


def _against_links(reading: Reading, tenant: str, anchor: Anchor, first: int, links: bytes) -> Damage | None:
    last = first + len(links) // LINK - 1
    bounds = {"tenant": tenant, "first": first, "last": last}
    found = reading.query(
        "registry.verify_anchor",
        f"""
        SELECT string_agg(substr(hash, 1, {2 * LINK}), '' ORDER BY sequence) AS links
        FROM {TABLE}
        WHERE tenant = $tenant AND sequence BETWEEN $first AND $last
        """,
        bounds,
    )["links"][0].as_py()
    if found == links.hex():
        return None
    stored = hashes(reading, tenant, range(first, last + 1))
    for n in range(first, last + 1):
        link = links[(n - first) * LINK : (n - first + 1) * LINK].hex()
        if n not in stored:
            return Damage(tenant, n, "dropped", f"event {n} is missing, which {anchor.file} has seen")
        if not stored[n].startswith(link):
            return Damage(tenant, n, "changed", f"event {n} is not the one that {anchor.file} has seen")
    return None  # An event that is there twice is found by the chain itself.


def _bulk_damage(lake: Lake, reading: Reading, tenant: str | None) -> Iterator[Damage]:
    """The first event of each tenant whose file is gone or changed."""
    files = BulkFiles(lake)
    rows = reading.query(
        "registry.verify_bulk",
        f"""
        SELECT tenant, sequence, payload FROM {TABLE}
        WHERE ($tenant IS NULL OR tenant = $tenant) AND entity_type = $bulk
        ORDER BY tenant, sequence
        """,
        {"tenant": tenant, "bulk": BULK},
    ).to_pylist()
    found: set[str] = set()
    for row in rows:
        name, sequence = row["tenant"], row["sequence"]
        if name in found:
            continue
        try:
            files.bytes_of(str(parse(row["payload"])["state"]["file"]))
        except BulkFileDamaged as failure:
            yield Damage(name, sequence, "changed", f"event {sequence}: {failure}")
            found.add(name)
        except (KeyError, ValueError):
            yield Damage(name, sequence, "changed", f"event {sequence} does not name its file")
            found.add(name)


def _with_lost(
    verdicts: list[Verdict], place: Misplaced | None, anchors: Sequence[Anchor], tenant: str | None
) -> list[Verdict]:
    """Add tenants that only an anchor knows, and events that only their positions tell of."""
    known = {verdict.tenant for verdict in verdicts}
    for name in sorted({t for anchor in anchors for t in anchor.heads if tenant in {None, t}} - known):
        newest = max(anchor.heads[name][0] for anchor in anchors if name in anchor.heads)
        gone = Damage(name, 1, "dropped", f"all {newest} events are missing, which an anchor has seen")
        verdicts.append(Verdict(name, 0, "", newest, gone))
    if tenant is None and place is not None and place.lost and not any(v.damage for v in verdicts):
        verdicts.append(Verdict("?", 0, "", 0, Damage("?", 0, "dropped", place.text)))
    return verdicts
