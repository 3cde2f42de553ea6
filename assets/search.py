"""The vectors of models as an asset, and whether they are what the models are now. How, is in the search room."""

import base64

import dagster as dg

from assets.tables import DAILY, OWNERS
from resources import RegistryResource

ROOM = "search"
KEY = dg.AssetKey([ROOM, "model_embeddings"])
LISTED = 20
"""Models that a check names."""


class Embedding(dg.Config):
    """`whole` compares all models, not only those that changed; `rebuild` makes every vector anew."""

    whole: bool = False
    rebuild: bool = False


@dg.asset(
    key=KEY,
    group_name=ROOM,
    owners=OWNERS,
    kinds={"lancedb"},
    freshness_policy=DAILY,
    pool="model_embeddings_writer",
    description="One row is the vector of one living model: of its name, description, tags and card, and of its "
    "newest version's framework, signature, metrics, datasets and base model. Follows the registry; a model whose "
    "text is as it was keeps its vector. With another embedder (MLREG_EMBEDDER) everything goes into a table of "
    "its own, which holds when it is whole.",
)
def model_embeddings(config: Embedding, registry: RegistryResource) -> dg.MaterializeResult[None]:
    from ml_registry_pipelines.search.relatives import SEARCH_PAGE, keep_relatives, map_picture
    from ml_registry_pipelines.search.vectors import updating

    log = registry.log()
    done = updating.rebuild(log) if config.rebuild else updating.update(log, whole=config.whole)
    related, picture = keep_relatives(log), map_picture(log)
    return dg.MaterializeResult(
        metadata={
            **({} if picture is None else {"map": _shown(picture)}),
            "search": dg.MetadataValue.url(SEARCH_PAGE),
            "dagster/row_count": done.vectors,
            "dagster/uri": f"{registry.root}/vectors/{done.table}.lance",
            "embedder": done.embedder,
            "dimension": done.dimension,
            "embedded": done.embedded,
            "unchanged": done.unchanged,
            "removed": done.removed,
            "all models compared": done.whole,
            "made anew": done.backfilled,
            "indexed": done.indexed,
            "position": done.position,
            "seconds": round(done.seconds, 3),
            "models per second": round(done.embedded / done.seconds, 1),
            "models with relatives on their pages": related,
        }
    )


def _shown(picture: bytes) -> dg.MarkdownMetadataValue:
    encoded = base64.b64encode(picture).decode()
    return dg.MetadataValue.md(f"![models by likeness](data:image/png;base64,{encoded})")


@dg.asset_check(
    asset=KEY,
    name="vectors_are_current",
    description="Every living model has a vector of what it is now, by the embedder that is set, and no other has.",
)
def vectors_are_current(registry: RegistryResource) -> dg.AssetCheckResult:
    from ml_registry_pipelines.search.vectors.updating import status

    found = status(registry.log())
    return dg.AssetCheckResult(
        passed=found.is_current,
        severity=dg.AssetCheckSeverity.WARN,
        description=found.sentence,
        metadata={
            "models": found.models,
            "vectors": found.vectors,
            "missing": len(found.missing),
            "stale": len(found.stale),
            "surplus": len(found.surplus),
            "events behind": found.behind,
            "embedder": found.embedder or "none",
            "for example": ", ".join((*found.missing, *found.stale, *found.surplus)[:LISTED]) or "none",
        },
    )
