"""A long log in portions of bounded size: of one large tenant a stretch of events, of small tenants many at once.

Checking the chain and anchoring go through a log this way, so that they need as much memory
for ten million events as for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.registry.log_table import TABLE

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.reading import Reading

AT_ONCE = 200_000
"""Events of one portion."""
INSIDE = "tenant BETWEEN $first_tenant AND $last_tenant AND sequence BETWEEN $first AND $last"
"""Condition for the events of a portion, with its `parameters`."""
_LEAST, _MOST = -(2**62), 2**62


@dataclass(frozen=True)
class Portion:
    """Tenants and sequences, first and last of each included."""

    first_tenant: str
    last_tenant: str
    first: int
    last: int

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(vars(self))

    @property
    def begins(self) -> bool:
        """Whether no earlier portion has events of the same tenant."""
        return self.first == _LEAST


def portions(
    reading: Reading, sizes: Mapping[str, int], *, after: Mapping[str, int] | None = None
) -> Iterator[Portion]:
    """All events of some tenants, in order.

    Args:
        sizes: how many events each tenant has, in the order of their names.
        after: sequences up to which a tenant's events are left out.
    """
    shared: list[str] = []
    held = 0
    for tenant, size in sizes.items():
        large = size > AT_ONCE or (after is not None and tenant in after)
        if shared and (large or held + size > AT_ONCE):
            yield Portion(shared[0], shared[-1], _LEAST, _MOST)
            shared, held = [], 0
        if large:
            yield from stretches(reading, tenant, after=(after or {}).get(tenant))
        else:
            shared.append(tenant)
            held += size
    if shared:
        yield Portion(shared[0], shared[-1], _LEAST, _MOST)


def stretches(reading: Reading, tenant: str, *, after: int | None = None) -> Iterator[Portion]:
    """The events of one tenant. Numbers that nothing has are passed over, however many they are."""
    low = _LEAST if after is None else after + 1
    while (start := _next(reading, tenant, low)) is not None:
        last = start + AT_ONCE - 1
        yield Portion(tenant, tenant, low, last)
        low = last + 1


def _next(reading: Reading, tenant: str, low: int) -> int | None:
    found: int | None = reading.query(
        "registry.next_stretch",
        f"SELECT min(sequence) AS n FROM {TABLE} WHERE tenant = $tenant AND sequence >= $low",
        {"tenant": tenant, "low": low},
    )["n"][0].as_py()
    return found


def hashes(reading: Reading, tenant: str, sequences: Sequence[int]) -> dict[int, str]:
    """Stored hashes of some events by number."""
    rows = reading.query(
        "registry.hashes",
        f"""
        SELECT sequence, hash FROM {TABLE}
        WHERE tenant = $tenant AND sequence BETWEEN $first AND $last
          AND sequence IN (SELECT unnest($sequences::BIGINT[]))
        """,
        {
            "tenant": tenant,
            "first": min(sequences),
            "last": max(sequences),
            "sequences": list(sequences),
        },
    )
    return dict(zip(rows["sequence"].to_pylist(), rows["hash"].to_pylist(), strict=True))
