"""Models that changed since their vectors were made become runs of `embed_models`."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from resources import RegistryResource
from resources.instigators import SENSOR_SECONDS
from sensors.requests import in_flight, last_failed, next_attempt

JOB = "embed_models"
TAG = "mlreg/embeddings"
ASSET = dg.AssetKey(["search", "model_embeddings"])
CHECKED = 5_000
"""Vectors up to which each run also compares every model; with more, the daily run does."""


@dg.sensor(
    name="changed_models",
    job_name=JOB,
    minimum_interval_seconds=SENSOR_SECONDS["changed_models"],
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def changed_models(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.RunRequest | dg.SkipReason:
    """Requests a run when events about models are newer than the vectors, or another embedder is set."""
    from ml_registry_pipelines.search.vectors.updating import late

    if registry.is_empty():
        return dg.SkipReason("nothing is registered yet")
    log = registry.log()
    mark = str(log.last_position())
    if mark == context.cursor and not last_failed(context.instance, JOB):
        return dg.SkipReason("the registry's log is what it was")
    if in_flight(context.instance, JOB):
        return dg.SkipReason("a run is in flight")
    standing = late(log)
    if not standing.is_late:
        context.update_cursor(mark)
        return dg.SkipReason("no event is about what vectors are made of")
    attempt = next_attempt(context.instance, TAG, mark)
    if (reason := attempt.waits(datetime.now(UTC))) is not None:
        return dg.SkipReason(reason)
    context.update_cursor(mark)
    return dg.RunRequest(
        run_key=f"{mark}/{attempt.number}",
        tags={TAG: mark, "dagster/max_retries": "0"},
        asset_selection=[ASSET],
        asset_check_keys=None if standing.vectors <= CHECKED else [],
    )
