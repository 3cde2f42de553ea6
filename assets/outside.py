"""What is copied from outside, and what is left outside for safety: MLflow's models, and anchors of the log."""

import dagster as dg

from assets.tables import DAILY, OWNERS
from resources.outside import AnchorsResource, MlflowResource

ROOM = "registry"
COMPLETE = "everything_was_taken_over"


class MlflowCopy(dg.Config):
    """`without_artifacts` also records versions whose files the server does not hand out."""

    without_artifacts: bool = False


@dg.asset(
    key=[ROOM, "mlflow_models"],
    group_name=ROOM,
    owners=OWNERS,
    kinds={"mlflow"},
    freshness_policy=DAILY,
    pool="mlflow_models",
    check_specs=[
        dg.AssetCheckSpec(
            COMPLETE, asset=[ROOM, "mlflow_models"], description="Nothing that could be copied failed to be."
        )
    ],
    description=(
        "One row is one model of the MLflow server that MLREG_MLFLOW names, with versions, aliases, stages, runs "
        "and artifacts as they are there. What cannot be mapped is listed with each materialization."
    ),
)
def mlflow_models(
    context: dg.AssetExecutionContext, config: MlflowCopy, mlflow: MlflowResource
) -> dg.MaterializeResult:
    done = mlflow.take_over(run_id=context.run.run_id, without_artifacts=config.without_artifacts)
    listed = (
        "\n".join(f"- {sentence}" for sentence in (*done.failed, *done.left_out)) or "Nothing was left out."
    )
    return dg.MaterializeResult(
        metadata={
            "summary": done.sentence(),
            "left_out": dg.MetadataValue.md(listed[:100_000]),
            "models_new": done.models,
            "versions_new": done.versions,
            "changed": done.changed,
            "deleted": done.deleted,
            "not_mapped": len(done.left_out),
            "failed": len(done.failed),
            "bytes": done.bytes,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=COMPLETE,
                passed=not done.failed,
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(done.failed[:5]) or "Nothing failed.",
            )
        ],
    )


@dg.asset(
    key=[ROOM, "log_anchors"],
    group_name=ROOM,
    owners=OWNERS,
    kinds={"ed25519"},
    freshness_policy=DAILY,
    pool="log_anchors",
    description=(
        "One row is one anchor: the heads of all chains of the log, verified and then signed into MLREG_ANCHORS, "
        "outside the root. Whoever changes the log after that is found out, and which event."
    ),
)
def log_anchors(anchors: AnchorsResource) -> dg.MaterializeResult[None]:
    done = anchors.anchor()
    return dg.MaterializeResult(
        metadata={"file": str(done.file), "tenants": done.tenants, "events": done.events}
    )
