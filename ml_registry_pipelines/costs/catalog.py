"""The price catalogue in the lake: brought up to date, and read.

Rows are only ever added. A price that is no longer offered under its terms is added once
more as withdrawn, so the newest generation of each `price_id` says whether it is in force,
and every price that a cost ever named can still be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml_registry_pipelines.costs.contracts import Contract
from ml_registry_pipelines.costs.list_prices import CATALOG as LIST
from ml_registry_pipelines.costs.list_prices import library_version, list_prices
from ml_registry_pipelines.costs.prices import Price, PriceError, catalog_rows
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.lake.outcomes import Landed, OutOfSequence
from ml_registry_pipelines.lake.reading import Reading

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = "catalog"
_ATTEMPTS = 8


@dataclass(frozen=True)
class CatalogSync:
    """What a sync did, in prices (each has several rows).

    `version` is the library's; `generation` the catalogue change after which all of this holds.
    """

    added: int
    unchanged: int
    withdrawn: int
    version: str
    generation: int


def sync_catalog(lake: Lake, contracts: Sequence[Contract] | None = None) -> CatalogSync:
    """Make the catalogue say what the price lists and the contracts say now; nothing if it does.

    `contracts` are all contracts there are: one that is missing is withdrawn. None leaves
    the contracts in the catalogue as they are.

    Raises:
        PriceError: two contracts have one name, or the lists hold a price that cannot be stored.
    """
    wanted: dict[str, Price] = {price.price_id: price for price in list_prices()}
    names = [contract.name for contract in contracts or ()]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise PriceError(f"two contract files are named {min(doubled)!r}; give each its own name")
    for contract in contracts or ():
        wanted |= {price.price_id: price for price in contract.prices}
    for _ in range(_ATTEMPTS):
        done = _sync(lake, wanted, lists_only=contracts is None)
        if done is not None:
            return done
    raise PriceError("the price catalogue was changed by others each time it was about to be; sync it again")


def _sync(lake: Lake, wanted: dict[str, Price], *, lists_only: bool) -> CatalogSync | None:
    """One attempt; None when another sync came first."""
    import pyarrow as pa

    version = library_version()
    with lake.read("price_catalog") as reading:
        generation = reading.sequence("price_catalog", SOURCE)
        known = _in_force(reading, lists_only=lists_only)
        gone = known - wanted.keys()
        current = current_prices(reading) if gone else None
    added = [price for identity, price in wanted.items() if identity not in known]
    if not added and not gone:
        return CatalogSync(0, len(known), 0, version, generation)
    now = datetime.now(UTC)
    rows = catalog_rows(added, version=version, generation=generation + 1, recorded_at=now)
    if current is not None:
        rows = pa.concat_tables([rows, _withdrawn(current, gone, generation + 1, now)])
    try:
        landed = lake.append_once("price_catalog", rows, source=SOURCE, sequence=generation + 1)
    except OutOfSequence:
        return None
    if landed is not Landed.NOW:
        return None
    return CatalogSync(len(added), len(known) - len(gone), len(gone), version, generation + 1)


def _withdrawn(current: pa.Table, gone: set[str], generation: int, now: datetime) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = current.filter(pc.is_in(current["price_id"], pa.array(sorted(gone))))
    for name, value in (("state", "withdrawn"), ("generation", generation), ("recorded_at", now)):
        field = rows.schema.field(name)
        column = pa.array([value] * rows.num_rows, field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows


def _in_force(reading: Reading, *, lists_only: bool) -> set[str]:
    """The ids of the prices in force."""
    found = reading.query(
        "prices_in_force",
        """
        SELECT price_id FROM price_catalog
        WHERE catalog = $list OR NOT $lists_only
        GROUP BY price_id HAVING arg_max(state, generation) = 'in_force'
        """,
        {"list": LIST, "lists_only": lists_only},
    )
    return set(found["price_id"].to_pylist())


def current_prices(reading: Reading) -> pa.Table:
    """The rows of `price_catalog` in force. The reading must hold that table."""
    from ml_registry_pipelines.lake.tables.costs import PRICE_CATALOG

    rows = reading.query(
        "current_prices",
        """
        SELECT price_catalog.*
        FROM price_catalog
        JOIN (SELECT price_id, max(generation) AS generation FROM price_catalog GROUP BY price_id)
            USING (price_id, generation)
        WHERE state = 'in_force'
        """,
    )
    return rows.cast(PRICE_CATALOG.schema)


def catalog_generation(lake: Lake) -> int:
    """The number of the last catalogue change; 0 when there was none."""
    return lake.sequence("price_catalog", SOURCE)
