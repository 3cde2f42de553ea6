"""What the asset pages show of likeness: each shown model's nearest relatives, and the map of the catalogue.

Both are made when the vectors have changed, and kept beside them: a code location that is loaded reads
one small file and compares nothing. The file holds ids alone; names, and whether those models are still
there, are the registry's to say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ml_registry_pipelines.errors import MlregError
from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lineage.catalogue import Entry, read_catalogue
from ml_registry_pipelines.registry.states import MODEL
from ml_registry_pipelines.search.vectors.store import VectorStore

if TYPE_CHECKING:
    from ml_registry_pipelines.lake.lake import Lake
    from ml_registry_pipelines.registry.actors import Actor
    from ml_registry_pipelines.registry.log import Log

SEARCH_PAGE = "/mlreg/search"
"""On our web server, beside the asset pages."""
RELATIVES_FILE = "relatives.json"
MAP_FILE = "map.png"
KEPT = 8
"""Relatives that are kept of each model, some of which may be deprecated or gone when they are shown."""
SHOWN = 5
MOST_MODELS = 2_000
"""Models whose relatives are kept; some ms each. What is in use comes first."""
LEAST_ALIKE = 0.3
"""Cosine below which two models are no relatives: of words that anything has in common."""
MOST_MAPPED = 200_000
"""Vectors that are read for a map, of which it draws the same sample every time."""

_logger = logging.getLogger(__name__)

Kept = Mapping[str, list[tuple[str, float]]]


def keep_relatives(log: Log) -> int:
    """Find the nearest relatives of the models that the asset graph shows, and keep them; of how many models.

    Raises:
        VectorsMissing, VectorsDamaged: there are no vectors to compare.
    """
    # Not for a code location, which only reads what is kept.
    from ml_registry_pipelines.search.vectors.nearest import nearest_in

    store = VectorStore.of(log.lake)
    record = store.record()
    nearest = nearest_in(store, record)
    models = [e for e in read_catalogue(log).entries if e.kind == MODEL][:MOST_MODELS]
    found: dict[str, list[list[object]]] = {}
    for entry in models:
        held = nearest.vector_of(entry.tenant, entry.id)
        if held is not None:
            near = nearest.to(entry.tenant, held[0], KEPT, but=[entry.id])
            found[entry.id] = [[n.id, round(n.similarity, 2)] for n in near if n.similarity >= LEAST_ALIKE]
    data = json.dumps({"table": record.table, "relatives": found}, sort_keys=True).encode()
    # An unchanged file keeps its mark, and nothing is loaded again for it.
    if _read(store, RELATIVES_FILE) != data:
        store.folder.write(RELATIVES_FILE, data)
    return len(found)


def relatives_mark(lake: Lake) -> str:
    """What differs when other relatives were kept; empty where none are."""
    try:
        return VectorStore.of(lake).folder.entry(RELATIVES_FILE).mark
    except FilesError:
        return ""


def with_relatives(log: Log, entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, models with their nearest relatives as a fact, as far as any are kept."""
    from dataclasses import replace

    listed = list(entries)
    kept = _kept(log.lake)
    shown = {e.id for e in listed if e.kind == MODEL} & kept.keys()
    names = _names(log, {other for one in shown for other, _ in kept[one]})
    for entry in listed:
        near = (
            [(names[other], alike) for other, alike in kept[entry.id] if other in names]
            if entry.id in shown
            else []
        )
        if near:
            yield replace(entry, facts={"nearest relatives": _listed(near[:SHOWN]), **entry.facts})
        else:
            yield entry


def nearest_told(log: Log, model: str, *, actor: Actor, tenant: str) -> str:
    """The nearest relatives of one model that the actor may read, as they are now; empty where none are known."""
    from ml_registry_pipelines.search.similar import Similarity

    if not relatives_mark(log.lake):
        return ""  # Without vectors nothing is opened to learn that there are none.
    try:
        answer = Similarity(log, actor=actor, tenant=tenant).find_similar(model, k=SHOWN)
    except (MlregError, OSError, sqlite3.Error) as failure:
        _logger.warning("the nearest relatives of %s are not known: %s", model, failure)
        return ""
    return _listed((hit.name, hit.score) for hit in answer.hits if hit.score >= LEAST_ALIKE)


def search_address(tenant: str, model: str) -> str:
    """Where the search page of our web server shows a model."""
    return f"{SEARCH_PAGE}?{urlencode({'tenant': tenant, 'model': model})}"


def _listed(near: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} ({alike:.2f})" for name, alike in near)


def map_picture(log: Log) -> bytes | None:
    """The map of all models that have a vector, as a picture; None where there are not two.

    Drawn again only when one of the vectors that it shows is another.

    Raises:
        VectorsMissing, VectorsDamaged: there are no vectors to draw.
    """
    import numpy as np

    from ml_registry_pipelines.reports.similarity_map import Point, map_png, sample

    store = VectorStore.of(log.lake)
    table = store.table_of(store.record())
    if not 2 <= table.count() <= MOST_MAPPED:
        if store.folder.exists(MAP_FILE):
            store.folder.delete(MAP_FILE)
        return None
    rows = table.columns("key", "id", with_row_id=True).sort_by("key")
    told = _told(log, set(rows["id"].to_pylist()))
    own = [one in told and told[one][2] for one in rows["id"].to_pylist()]
    drawn = rows.take(sample(rows["key"].to_pylist(), own))
    points = [Point(*told.get(one, ("", "", False))) for one in drawn["id"].to_pylist()]
    found = table.vectors_at(drawn["_rowid"].to_pylist())
    places = {key: n for n, key in enumerate(found["key"].to_pylist())}
    vectors = np.stack(found["vector"].to_numpy())[[places[key] for key in drawn["key"].to_pylist()]]
    told_of = json.dumps([[vars(point) for point in points], rows.num_rows]).encode()
    mark = hashlib.sha256(told_of + vectors.tobytes()).hexdigest().encode()
    before = _read(store, MAP_FILE) or b""
    if before[: len(mark)] == mark:
        return before[len(mark) :] or None
    picture = map_png(vectors, points, of=rows.num_rows)
    store.folder.write(MAP_FILE, mark + (picture or b""))
    return picture


def _kept(lake: Lake) -> Kept:
    try:
        held: Any = json.loads(_read(VectorStore.of(lake), RELATIVES_FILE) or b"{}")
        return {
            str(one): [(str(other), float(alike)) for other, alike in near]
            for one, near in held.get("relatives", {}).items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}  # A page without relatives; the next update writes the file anew.


def _read(store: VectorStore, path: str) -> bytes | None:
    try:
        return store.folder.read(path)
    except FilesError:
        return None


def _names(log: Log, ids: Collection[str]) -> dict[str, str]:
    """Names of those models that are in use or could be: neither deleted nor deprecated."""
    if not ids:
        return {}
    rows = log.view("default").of_all_tenants(
        "search.relatives",
        "things",
        """
        SELECT id, name FROM current
        WHERE id IN (SELECT unnest($ids::VARCHAR[])) AND NOT deleted AND status = 'active'
        """,
        {"ids": sorted(ids)},
    )
    return dict(zip(rows["id"].to_pylist(), rows["name"].to_pylist(), strict=True))


def _told(log: Log, ids: Collection[str]) -> dict[str, tuple[str, str, bool]]:
    """Name and family of models, and whether they are somebody's own rather than of an imported catalogue."""
    from ml_registry_pipelines.lineage.catalogue import LISTED

    rows = log.view("default").of_all_tenants(
        "search.map",
        "things",
        f"""
        SELECT id, name, json_extract_string(state, '$.tags.family.value') AS family, NOT ({LISTED}) AS own
        FROM current WHERE id IN (SELECT unnest($ids::VARCHAR[]))
        """,
        {"ids": sorted(ids)},
    )
    return {r["id"]: (r["name"], r["family"] or "", bool(r["own"])) for r in rows.to_pylist()}
