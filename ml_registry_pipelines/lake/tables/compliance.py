"""Tables of compliance: what was checked and what came of it. Never a personal value."""

from ml_registry_pipelines.lake.declarations import Column, Precedence, Table

COMPLIANCE_RESULTS = Table(
    name="compliance_results",
    row="one measured value against one threshold",
    columns=(
        Column("result_id", "string", "random id", required=True),
        Column("tenant", "string", "organisation that owns what was checked", required=True),
        Column("evidence_id", "string", "random id of the run of suites that it belongs to", required=True),
        Column("recorded_at", "timestamp", "when it was recorded", "UTC", required=True),
        Column("measured_at", "timestamp", "when it was measured", "UTC", required=True),
        Column("model_id", "string", "model that was checked; NULL: the tenant as a whole"),
        Column("version_id", "string", "version that was checked"),
        Column("content_digest", "string", "SHA-256 of that version's content"),
        Column("area", "string", "fairness, gdpr, ai_act or security", required=True),
        Column("suite", "string", "name of the suite", required=True),
        Column("suite_digest", "string", "SHA-256 of the suite's canonical content", required=True),
        Column("check_name", "string", "name of the expectation in its suite", required=True),
        Column("metric", "string", "what was measured", required=True),
        Column("about", "string", "what it was measured on, where a metric gives several", required=True),
        Column("verdict", "string", "pass, fail, inconclusive or could_not_run", required=True),
        Column("severity", "string", "critical, warning or info", required=True),
        Column("message", "string", "the judgement in words", required=True),
        Column("article", "string", "article of the law that it is evidence for", required=True),
        Column("observed", "float64", "the value; NULL: not measured"),
        Column("interval_low", "float64", "lower end of its confidence interval"),
        Column("interval_high", "float64", "upper end"),
        Column("confidence", "float64", "confidence of the interval", "share"),
        Column("interval_method", "string", "how the interval was computed"),
        Column("bound_low", "float64", "the least that was allowed"),
        Column("bound_high", "float64", "the most that was allowed"),
        Column("unit", "string", "unit of the value", required=True),
        Column("reference", "string", "what groups were compared with", required=True),
        Column("n", "int64", "rows that were looked at", "rows"),
        Column(
            "groups", "string", "groups with sizes, values and why one was left out, as JSON", required=True
        ),
        Column("parameters", "string", "parameters of the expectation, as JSON", required=True),
        Column("detail", "string", "what else belongs to the evidence, as JSON", required=True),
        Column(
            "table_versions", "string", "Delta versions of the tables that were read, as JSON", required=True
        ),
        Column(
            "data_digest", "string", "SHA-256 of what was measured on, where that is no table of the lake"
        ),
        Column("law", "string", "legal text and version that was applied"),
        Column("code_version", "string", "version of the package that measured", required=True),
        Column("actor", "string", "pseudonym of who asked", required=True),
        Column("run_id", "string", "Dagster run that it came from"),
    ),
    key=("result_id",),
    statistics=("tenant", "recorded_at", "version_id"),
    sort_by=("tenant", "version_id", "recorded_at"),
    precedence=Precedence.RETENTION,
)

TABLES = (COMPLIANCE_RESULTS,)
