"""Every table of the platform, declared once, by room.

A table belongs to the module of the room that writes it. Readers find it by name here.
"""

from ml_registry_pipelines.lake.declarations import Table
from ml_registry_pipelines.lake.tables import (
    access,
    attribution,
    bills,
    compliance,
    costs,
    erasure,
    evaluations,
    experiments,
    gdpr,
    lineage,
    operations,
    registry,
    reports,
    security,
    telemetry,
    users,
    webhooks,
)

TABLES: dict[str, Table] = {
    table.name: table
    for room in (
        access,
        telemetry,
        costs,
        bills,
        compliance,
        erasure,
        evaluations,
        experiments,
        gdpr,
        attribution,
        lineage,
        operations,
        registry,
        reports,
        security,
        users,
        webhooks,
    )
    for table in room.TABLES
}
"""All declared tables by name."""
