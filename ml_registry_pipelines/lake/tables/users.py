"""Tables about the people who use the platform, beside the log: what may be changed and erased.

Who is a user, with which roles, is in the log under a random pseudonym. Whom the pseudonym
stands for is here, and goes when the person does.
"""

from ml_registry_pipelines.lake.declarations import Column, Table

USER_DIRECTORY = Table(
    name="user_directory",
    row="one user: the person behind the pseudonym",
    columns=(
        Column("user_id", "string", "pseudonym, as the log has it", required=True),
        Column("name", "string", "name of the person", personal=True),
        Column("email", "string", "address for messages", personal=True),
        Column("recorded_at", "timestamp", "when this was entered", "UTC", required=True),
    ),
    key=("user_id",),
    statistics=("recorded_at",),
    sort_by=("user_id",),
    tenant_column=None,
)

API_KEY_USES = Table(
    name="api_key_uses",
    row="one use of one API key, at most one a minute and process",
    columns=(
        Column("key_id", "string", "public part of the key", required=True),
        Column("used_at", "timestamp", "when", "UTC", required=True),
        Column("door", "string", "cli, python or web", required=True),
    ),
    key=("key_id", "used_at", "door"),
    statistics=("used_at",),
    sort_by=("used_at",),
    retention_days=400,
    tenant_column=None,
)

TABLES = (USER_DIRECTORY, API_KEY_USES)
