"""The tables of the index: every state of models and versions, as a query asks about them.

A state holds for a tenant from event `since` on, up to, not including, event `until`; what holds
now has `until` = `NOW`. Facts of a version that never change stand once, beside its states.
"""

FORMAT = 3
"""Of the file; one of another format is made anew."""
META = {"position": 0, "hash": "", "unread": 0, "begun": 0}
"""What an index says of itself: position and hash of the newest event in it, an event that could not be read, and
where the log was when it was begun."""
NOW = 2**62
"""End of a state that has not ended."""

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """
    CREATE TABLE tenants (
      no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, sequence INTEGER NOT NULL,
      docs INTEGER NOT NULL DEFAULT 0, length INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE TABLE models (no INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, id TEXT NOT NULL, created INTEGER)",
    """
    CREATE TABLE model_states (
      row INTEGER PRIMARY KEY, model INTEGER NOT NULL, tenant INTEGER NOT NULL,
      since INTEGER NOT NULL, until INTEGER NOT NULL, deleted INTEGER NOT NULL,
      id TEXT NOT NULL, name TEXT NOT NULL, folded TEXT NOT NULL, description TEXT NOT NULL,
      status TEXT, updated INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE model_tags (
      row INTEGER NOT NULL, key TEXT NOT NULL, tenant INTEGER NOT NULL, kind TEXT NOT NULL, value,
      PRIMARY KEY (row, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE model_owners (
      row INTEGER NOT NULL, value TEXT NOT NULL, tenant INTEGER NOT NULL, PRIMARY KEY (row, value)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE model_aliases (
      row INTEGER NOT NULL, value TEXT NOT NULL, tenant INTEGER NOT NULL, number INTEGER NOT NULL,
      PRIMARY KEY (row, value)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE versions (
      no INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, model INTEGER NOT NULL, id TEXT NOT NULL,
      number INTEGER NOT NULL, created INTEGER, framework TEXT, licence TEXT, size INTEGER, digest TEXT,
      form TEXT
    )
    """,
    """
    CREATE TABLE version_states (
      row INTEGER PRIMARY KEY, version INTEGER NOT NULL, model INTEGER NOT NULL, tenant INTEGER NOT NULL,
      since INTEGER NOT NULL, until INTEGER NOT NULL, deleted INTEGER NOT NULL,
      stage TEXT NOT NULL, description TEXT NOT NULL, card TEXT, updated INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE version_tags (
      row INTEGER NOT NULL, key TEXT NOT NULL, tenant INTEGER NOT NULL, kind TEXT NOT NULL, value,
      PRIMARY KEY (row, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE version_metrics (
      version INTEGER NOT NULL, key TEXT NOT NULL, tenant INTEGER NOT NULL, value NOT NULL,
      PRIMARY KEY (version, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE version_params (
      version INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, value,
      PRIMARY KEY (version, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE latest (
      model INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, version INTEGER NOT NULL,
      number INTEGER NOT NULL, PRIMARY KEY (model, since)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE risks (
      model INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, tier TEXT,
      PRIMARY KEY (model, since)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE deployments (
      tenant INTEGER NOT NULL, id TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
      environment TEXT, version TEXT, PRIMARY KEY (tenant, id, since)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE docs (
      no INTEGER PRIMARY KEY, model INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
      length INTEGER NOT NULL, digest TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE terms (
      no INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, term TEXT NOT NULL, docs INTEGER NOT NULL,
      UNIQUE (tenant, term)
    )
    """,
    """
    CREATE TABLE postings (
      term INTEGER NOT NULL, doc INTEGER NOT NULL, name INTEGER NOT NULL, description INTEGER NOT NULL,
      card INTEGER NOT NULL, PRIMARY KEY (term, doc)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE figures (
      snapshot TEXT NOT NULL, model TEXT NOT NULL, cost, requests, errors, error_rate,
      latency_p50, latency_p95, latency_p99, PRIMARY KEY (snapshot, model)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE snapshots (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, made_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE VIRTUAL TABLE names USING fts5(folded, content='', tokenize='trigram case_sensitive 1')",
)

INDEXES = (
    "CREATE UNIQUE INDEX models_by_id ON models (tenant, id)",
    "CREATE UNIQUE INDEX versions_by_id ON versions (tenant, id)",
    "CREATE INDEX versions_of ON versions (model, number)",
    "CREATE INDEX model_history ON model_states (model, since)",
    "CREATE INDEX model_names ON model_states (tenant, name, id)",
    "CREATE INDEX model_ids ON model_states (tenant, id)",
    "CREATE INDEX tagged_models ON model_tags (tenant, key, kind, value, row)",
    "CREATE INDEX owned_models ON model_owners (tenant, value, row)",
    "CREATE INDEX aliased_models ON model_aliases (tenant, value, row)",
    "CREATE INDEX version_history ON version_states (version, since)",
    "CREATE INDEX version_states_of ON version_states (model, until)",
    "CREATE INDEX versions_in ON version_states (tenant, stage, model)",
    "CREATE INDEX tagged_versions ON version_tags (tenant, key, kind, value, row)",
    "CREATE INDEX measured_versions ON version_metrics (tenant, key, value, version)",
    "CREATE INDEX deployed ON deployments (tenant, version)",
    "CREATE INDEX docs_of ON docs (model, since)",
)
