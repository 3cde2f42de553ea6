"""Tables of the telemetry room: what was taken from log files, and what was made of it.

Token counts are disjoint buckets: no token is in two of them, so any total is a plain sum.
"""

from ml_registry_pipelines.lake.declarations import MONEY, Column, Table
from ml_registry_pipelines.lake.tables.attribution import ATTRIBUTED, ATTRIBUTED_COLUMNS, ATTRIBUTION_VERSION

INPUT_BUCKETS: tuple[str, ...] = (
    "in_uncached",
    "in_cache_read",
    "in_cache_read_audio",
    "in_cache_read_image",
    "in_cache_write_5m",
    "in_cache_write_30m",
    "in_cache_write_1h",
    "in_cache_write_12h",
    "in_audio",
    "in_image",
    "in_video",
)
OUTPUT_BUCKETS: tuple[str, ...] = ("out_text", "out_reasoning", "out_audio", "out_image")
TOKEN_BUCKETS: tuple[str, ...] = INPUT_BUCKETS + OUTPUT_BUCKETS
"""The disjoint token buckets; their sum is every token of the request."""
COUNTERS: tuple[str, ...] = ("n_search", "n_tool", "pages")
"""Billable things beside tokens, counted per request."""

STATUSES: tuple[str, ...] = (
    "success",
    "error_billed",
    "error_unbilled",
    "cancelled_billed",
    "cache_hit",
)
"""What became of a request. `cache_hit`: answered by a gateway's own cache, which no provider bills."""
SPAN_KINDS: tuple[str, ...] = ("leaf", "aggregate", "tool")
"""Only a `leaf` is a model call that costs; an `aggregate` repeats the usage of its children."""
USAGE_QUALITIES: tuple[str, ...] = ("exact", "missing", "inconsistent")
"""`inconsistent`: the buckets do not add up to the provider's total, so the row is not priced."""

_MEANINGS = {
    "in_uncached": "text input tokens that no cache served",
    "in_cache_read": "input tokens read from the provider's prompt cache",
    "in_cache_read_audio": "audio input tokens read from the provider's prompt cache",
    "in_cache_read_image": "image input tokens read from the provider's prompt cache",
    "in_cache_write_5m": "input tokens written to the prompt cache for 5 minutes, or for a time nobody stated",
    "in_cache_write_30m": "input tokens written to the prompt cache for 30 minutes",
    "in_cache_write_1h": "input tokens written to the prompt cache for 1 hour",
    "in_cache_write_12h": "input tokens written to the prompt cache for 12 hours",
    "in_audio": "audio input tokens",
    "in_image": "image input tokens",
    "in_video": "video input tokens",
    "out_text": "output tokens that the caller sees as text",
    "out_reasoning": "output tokens spent on reasoning",
    "out_audio": "audio output tokens",
    "out_image": "image output tokens",
    "n_search": "web searches run for the request",
    "n_tool": "server-side tool calls run for the request",
    "pages": "document pages processed",
}


def _counts(unit_of_counters: str = "count") -> tuple[Column, ...]:
    return tuple(
        Column(name, "int64", _MEANINGS[name], "tokens" if name in TOKEN_BUCKETS else unit_of_counters)
        for name in TOKEN_BUCKETS + COUNTERS
    )


COUNT_COLUMNS = _counts()

INFERENCE_EVENTS = Table(
    name="inference_events",
    row="one attempt of one inference request, with its tokens in disjoint buckets",
    columns=(
        Column("tenant", "string", "organisation that owns the request", required=True),
        Column("day", "date", "UTC day on which the request started", required=True),
        Column("event_ts", "timestamp", "start of the request", "UTC", required=True),
        Column("recorded_at", "timestamp", "when this row was taken", "UTC", required=True),
        Column("batch", "int64", "number of the commit that took the row", required=True),
        Column("event_key", "int64", "first 64 bits of SHA-256 over the identity", required=True),
        Column("source_system", "string", "system that minted the event id", required=True),
        Column("event_id", "string", "id of the request in that system", required=True),
        Column("attempt", "int32", "number of the attempt, from 1", required=True),
        Column("source", "string", "configured source that the file came from", required=True),
        Column("file", "string", "path of the file below its source", required=True),
        Column("line", "int64", "line in that file, from 1", required=True),
        Column("part", "int32", "record within the line, from 0", required=True),
        Column("dialect", "string", "log format that the row was decoded from", required=True),
        Column("time_quality", "string", "`recorded` in the log, or `assumed` from the file", required=True),
        Column("application", "string", "application that made the request"),
        Column("environment", "string", "environment that the application ran in"),
        Column("endpoint", "string", "host or deployment that answered"),
        Column(
            "provider", "string", "who answered, in the spelling of the price catalogue where it is known"
        ),
        Column("model", "string", "model that answered: the response's name, else the requested one"),
        Column("requested_model", "string", "model that was asked for"),
        Column("operation", "string", "chat, embeddings, text_completion ..."),
        Column("span_kind", "string", "leaf, aggregate or tool", required=True),
        Column(
            "status",
            "string",
            "success, error_billed, error_unbilled, cancelled_billed or cache_hit",
            required=True,
        ),
        Column("error_type", "string", "class or code of the error"),
        Column("latency_ms", "float64", "start to end of the request", "ms"),
        Column("ttft_ms", "float64", "start of the request to the first token", "ms"),
        Column("stream", "bool", "whether the answer was streamed"),
        Column("trace_id", "string", "trace that the request belongs to"),
        Column("parent_id", "string", "span or request that caused this one"),
        Column("user_hash", "string", "salted hash of the end user's id", personal=True),
        Column("session_hash", "string", "salted hash of the conversation's id", personal=True),
        *COUNT_COLUMNS,
        Column("audio_seconds", "float64", "audio processed", "s"),
        Column("provider_total_tokens", "int64", "the log's own total, where it states one", "tokens"),
        Column("usage_quality", "string", "exact, missing or inconsistent", required=True),
        Column(
            "logged_cost", MONEY, "cost that the log itself states; never used as ours", "logged_currency"
        ),
        Column("logged_currency", "string", "ISO 4217 code of logged_cost"),
        Column("service_tier", "string", "standard, batch, flex, priority ..."),
        Column("region", "string", "region or data residency that prices depend on"),
        Column("tags", "string", "further labels of the producer, as a JSON object"),
    ),
    key=("tenant", "source_system", "event_id", "attempt"),
    statistics=("tenant", "day", "event_ts", "recorded_at", "batch", "event_key"),
    partition_by=("day",),
    sort_by=("tenant", "event_ts"),
    retention_days=1095,
    plain=(
        "event_key",
        "event_id",
        "trace_id",
        "parent_id",
        "event_ts",
        "line",
        "latency_ms",
        "ttft_ms",
    ),
)

INGESTED_FILES = Table(
    name="ingested_files",
    row="one file that was taken, or one part of it where a file is too long for one batch",
    columns=(
        Column("source", "string", "configured source", required=True),
        Column("path", "string", "path below the source", required=True),
        Column("part", "int32", "number of the part within the file, from 0", required=True),
        Column("first_line", "int64", "first line of the part, from 1", required=True),
        Column("last_line", "int64", "last line of the part", required=True),
        Column("complete", "bool", "whether this part ends the file", required=True),
        Column("size", "int64", "size of the file when it was taken", "bytes", required=True),
        Column("modified_at", "timestamp", "modification time when it was taken", "UTC", required=True),
        Column("etag", "string", "entity tag of the object store; NULL in a folder"),
        Column("digest", "string", "SHA-256 of the stored bytes; NULL until the file is complete"),
        Column("dialect", "string", "log format; NULL where none was recognised"),
        Column("batch", "int64", "number of the batch", required=True),
        Column("rows_in", "int64", "records read from the part", "rows", required=True),
        Column("taken", "int64", "records that became rows of inference_events", "rows", required=True),
        Column("duplicates", "int64", "records that were there already", "rows", required=True),
        Column("quarantined", "int64", "records that could not be taken", "rows", required=True),
        Column(
            "ignored", "int64", "records of other kinds, such as spans of a web server", "rows", required=True
        ),
        Column("recorded_at", "timestamp", "when the batch was taken", "UTC", required=True),
        Column(
            "suppressed", "int64", "records of erased people, which are not taken again; NULL: none", "rows"
        ),
    ),
    key=("source", "path", "part"),
    statistics=("source", "path", "batch", "recorded_at"),
    sort_by=("source", "path"),
    tenant_column=None,
)

QUARANTINED_ROWS = Table(
    name="quarantined_rows",
    row="one state of one input row that could not be taken, with the reason",
    columns=(
        Column(
            "quarantine_id", "string", "stable id: digest over source, file, line and part", required=True
        ),
        Column("tenant", "string", "organisation, where the row or its source says; else NULL"),
        Column("source", "string", "configured source", required=True),
        Column("file", "string", "path below the source", required=True),
        Column(
            "line",
            "int64",
            "line in the file, from 1; 0 where the file as a whole is at fault",
            required=True,
        ),
        Column("part", "int32", "record within the line, from 0", required=True),
        Column("dialect", "string", "log format; NULL where none was recognised"),
        Column("reason", "string", "machine-readable reason", required=True),
        Column("message", "string", "what was wrong, where, and what to do", required=True),
        Column("raw", "string", "the row as it stood, cut at 1 MiB", personal=True),
        Column("state", "string", "quarantined, or replayed", required=True),
        Column("batch", "int64", "number of the batch, from 1; replays count on", required=True),
        Column("recorded_at", "timestamp", "when the state was reached", "UTC", required=True),
    ),
    key=("quarantine_id", "state"),
    statistics=("source", "batch", "recorded_at"),
    sort_by=("source", "file", "line"),
    retention_days=365,
)

MODEL_METRICS = Table(
    name="model_metrics",
    row="one recorded point of one metric",
    columns=(
        Column("tenant", "string", "organisation", required=True),
        Column("day", "date", "UTC day of the point", required=True),
        Column("model", "string", "model or version that was measured", required=True),
        Column("metric", "string", "name of the metric", required=True),
        Column(
            "value", "float64", "the measured value; a truth is 1 or 0, a category no number", required=True
        ),
        Column("step", "int64", "training step, where there is one"),
        Column("event_ts", "timestamp", "when it was measured", "UTC", required=True),
        Column("recorded_at", "timestamp", "when it was recorded", "UTC", required=True),
        Column("tags", "string", "further labels, as a JSON object"),
        Column("kind", "string", "number, boolean or category; NULL: number"),
        Column("label", "string", "the category"),
        Column("model_version", "int64", "number of the registered version that was measured"),
        Column("judge", "string", "who gave the score: a model with its version, or a pseudonym"),
        Column("judge_cost", MONEY, "what giving it cost; NULL where that is not known", "judge_currency"),
        Column("judge_currency", "string", "ISO 4217 code of judge_cost"),
        Column("request_id", "string", "event id of the request that was judged"),
        Column("point_id", "string", "id of the point; of several tellings the newest counts"),
    ),
    key=("tenant", "model", "metric", "event_ts", "step"),
    statistics=("tenant", "day", "event_ts", "recorded_at"),
    partition_by=("day",),
    sort_by=("tenant", "model", "metric", "event_ts"),
)

PERFORMANCE_ROLLUP = Table(
    name="performance_rollup",
    row="one period of one provider, model, status and version: counts and mergeable percentile sketches",
    columns=(
        Column(
            "grain",
            "string",
            "hour or whole_day (all tenants together), or day (by tenant): all requests are in each",
            required=True,
        ),
        Column("period_start", "timestamp", "start of the period", "UTC", required=True),
        Column("day", "date", "UTC day of the period", required=True),
        Column("tenant", "string", "organisation; NULL where the grain holds all together"),
        Column("provider", "string", "who answered"),
        Column("model", "string", "model that answered"),
        Column("status", "string", "status of the requests", required=True),
        Column("requests", "int64", "attempts", "requests", required=True),
        Column("errors", "int64", "attempts whose status is an error", "requests", required=True),
        Column("input_tokens", "int64", "sum of the input buckets", "tokens", required=True),
        Column("output_tokens", "int64", "sum of the output buckets", "tokens", required=True),
        Column("timed_requests", "int64", "successful attempts with a latency", "requests", required=True),
        Column("latency_sum_ms", "float64", "sum of their latencies, each rounded to a microsecond", "ms"),
        Column("timed_output_tokens", "int64", "output tokens of the timed attempts", "tokens"),
        Column(
            "output_latency_sum_ms",
            "float64",
            "sum of the latencies of those timed attempts whose output tokens are known",
            "ms",
        ),
        Column("latency_max_ms", "float64", "the longest latency", "ms"),
        Column(
            "latency_sketch",
            "list<struct<bucket:int32,count:int64>>",
            "DDSketch buckets of the latency; NULL under 200 timed requests, which raw rows answer",
        ),
        Column(
            "first_token_requests",
            "int64",
            "successful attempts with a time to first token",
            "requests",
            required=True,
        ),
        Column("ttft_sum_ms", "float64", "sum of the times to first token", "ms"),
        Column(
            "ttft_sketch",
            "list<struct<bucket:int32,count:int64>>",
            "DDSketch buckets of the time to first token; NULL under 200 of them",
        ),
        Column(
            "assumed_requests",
            "int64",
            "attempts of which the log says that a part is assumed",
            "requests",
            required=True,
        ),
        Column("assumed_parts", "string", "those parts, as sorted words: time, tenant, latency ..."),
        Column(
            "sequence", "int64", "batch of inference_events that the row was computed from", required=True
        ),
        *ATTRIBUTED_COLUMNS,
        ATTRIBUTION_VERSION,
    ),
    key=("grain", "period_start", "tenant", "provider", "model", "status", *ATTRIBUTED),
    statistics=("grain", "day", "period_start", "sequence", "attribution_version"),
    partition_by=("day",),
    sort_by=("grain", "period_start"),
    row_group=512,  # the hours of a day are twenty times its other rows, with the sketches that take long to read
)

PERFORMANCE_MONTHS = Table(
    name="performance_months",
    row="one month of one provider, model, status and version, merged from the days of performance_rollup",
    columns=(
        Column("month", "date", "first day of the month, UTC", required=True),
        Column(
            "grain",
            "string",
            "month (by tenant) or whole_month (all tenants together): all requests are in each",
            required=True,
        ),
        Column("tenant", "string", "organisation; NULL where the grain holds all together"),
        Column("provider", "string", "who answered"),
        Column("model", "string", "model that answered"),
        *(column for column in ATTRIBUTED_COLUMNS if column.name != "attribution"),
        Column("status", "string", "status of the requests", required=True),
        Column("requests", "int64", "attempts", "requests", required=True),
        Column("errors", "int64", "attempts whose status is an error", "requests", required=True),
        Column("input_tokens", "int64", "sum of the input buckets", "tokens", required=True),
        Column("output_tokens", "int64", "sum of the output buckets", "tokens", required=True),
        Column("timed_output_tokens", "int64", "output tokens of the timed attempts", "tokens"),
        Column("output_latency_us", "int64", "sum of latencies of those whose output tokens are known", "us"),
        Column(
            "assumed_requests",
            "int64",
            "attempts of which the log says that a part is assumed",
            "requests",
            required=True,
        ),
        Column("assumed_parts", "string", "those parts, as sorted words: time, tenant, latency ..."),
        Column(
            "latency_sketch",
            "list<struct<bucket:int32,count:int64>>",
            "DDSketch buckets of the latency, of small groups as well; NULL without any",
        ),
        Column(
            "ttft_sketch",
            "list<struct<bucket:int32,count:int64>>",
            "DDSketch buckets of the time to first token, of small groups as well; NULL without any",
        ),
        Column(
            "digest", "string", "of the files of performance_rollup that it was merged from", required=True
        ),
    ),
    key=(
        "month",
        "grain",
        "tenant",
        "provider",
        "model",
        "status",
        "deployment_id",
        "model_id",
        "model_version",
    ),
    statistics=("month", "grain", "digest"),
    partition_by=("month",),
    sort_by=("grain", "tenant"),
    row_group=512,
)

TABLES = (
    INFERENCE_EVENTS,
    INGESTED_FILES,
    QUARANTINED_ROWS,
    MODEL_METRICS,
    PERFORMANCE_ROLLUP,
    PERFORMANCE_MONTHS,
)
