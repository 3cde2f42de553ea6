"""AWS Bedrock's model invocation logs, as they lie in S3 and CloudWatch (schema version 1.0).

`inputTokenCount` leaves out what was read from or written to the prompt cache, while `totalTokens`
of Converse counts it. The numbers stand in the log and, for most operations, in the answer as well;
where the two differ, the usage is inconsistent. `modelId` may be the ARN of an inference profile:
a profile of the system names its model, one of the account's own does not, and then the model that
the answer names counts, if it names one. A request is priced in the region that it was sent to
(`region`), wherever it ran (`inferenceRegion`, kept as a tag). There is a latency only where the
answer holds one. Bodies are never stored.
"""

from __future__ import annotations

from ml_registry_pipelines.telemetry.dialects.dialect import Dialect, differing, structure_of
from ml_registry_pipelines.telemetry.dialects.sql import (
    PERSONS,
    exceeded,
    less,
    numbers,
    object_or_null,
    session_of,
    tags_of,
    used,
    user_of,
)

_FIELDS = {
    "event_id": "requestId",
    "ts": "timestamp",
    "model": "modelId",
    "input_tokens": "inputTokenCount",
    "output_tokens": "outputTokenCount",
    "in_cache_read": "cacheReadInputTokenCount",
    "in_cache_write_5m": "cacheWriteInputTokenCount",
    "total": "totalTokens",
    "latency_ms": "latencyMs",
    "ttft_ms": "firstByteLatency",
    "error_type": "errorCode",
}
_COUNTS = ("inputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount", "outputTokenCount")
_STRUCTURE = structure_of(
    {
        **dict.fromkeys(
            (
                "timestamp",
                "accountId",
                "region",
                "inferenceRegion",
                "requestId",
                "operation",
                "modelId",
                "errorCode",
                "requestMetadata",
            ),
            "VARCHAR",
        ),
        "identity": {"arn": "VARCHAR"},
        "input": dict.fromkeys(_COUNTS[:3], "VARCHAR"),
        "output": {"outputTokenCount": "VARCHAR", "outputBodyJson": "JSON"},
    }
)
_METRICS = dict.fromkeys((*_COUNTS, "invocationLatency", "firstByteLatency"), "VARCHAR")
# The answer of Converse, of Claude's own operations, or the pieces of a stream, of which the last ones count.
_ANSWER = structure_of(
    {
        "model": "VARCHAR",
        "metrics": {"latencyMs": "VARCHAR"},
        "amazon-bedrock-invocationMetrics": _METRICS,
        "usage": {
            **dict.fromkeys(
                (
                    "inputTokens",
                    "outputTokens",
                    "totalTokens",
                    "cacheReadInputTokens",
                    "cacheWriteInputTokens",
                    "input_tokens",
                    "output_tokens",
                    "cache_read_input_tokens",
                    "cache_creation_input_tokens",
                ),
                "VARCHAR",
            ),
            "cacheDetails": [{"ttl": "VARCHAR", "inputTokens": "VARCHAR"}],
            "cache_creation": {"ephemeral_1h_input_tokens": "VARCHAR"},
        },
    }
)
_INPUT = ("r.input.inputTokenCount", "u.inputTokens", "u.input_tokens", "m.inputTokenCount")
_OUTPUT = ("r.output.outputTokenCount", "u.outputTokens", "m.outputTokenCount", "u.output_tokens")
_READ = (
    "r.input.cacheReadInputTokenCount",
    "u.cacheReadInputTokens",
    "u.cache_read_input_tokens",
    "m.cacheReadInputTokenCount",
)
_WRITE = (
    "r.input.cacheWriteInputTokenCount",
    "u.cacheWriteInputTokens",
    "u.cache_creation_input_tokens",
    "m.cacheWriteInputTokenCount",
)

BEDROCK = Dialect(
    name="bedrock_invocations",
    describes="model invocation logs of AWS Bedrock",
    recognises=lambda record: (
        record.get("schemaType") == "ModelInvocationLog"
        or {"requestId", "modelId", "operation"} <= set(record)
    ),
    time_zone="UTC",
    input_includes_cached=False,
    output_includes_reasoning=True,
    fields=_FIELDS,
    select=f"""
        WITH logs AS (
            SELECT line, raw, r, r.output.outputBodyJson AS body
            FROM (SELECT line, raw, json_transform(raw, {_STRUCTURE}) AS r FROM records)
        ),
        -- A stream is a list of its pieces: metadata is the last of Converse, metrics the last of the others,
        -- which do not tell cache writes apart: Claude's first piece does, and names the model.
        answers AS (
            SELECT line, raw, r,
                json_extract_string(body, '$[*].message.model')[1] AS began_model,
                json_extract_string(body, '$[*].message.usage.cache_creation.ephemeral_1h_input_tokens')[1]
                    AS began_1h,
                json_transform(CASE json_type(body)
                WHEN 'OBJECT' THEN body
                WHEN 'ARRAY' THEN coalesce(
                    json_extract(body, '$[*].metadata')[-1],
                    list_filter(json_extract(body, '$[*]'),
                        lambda piece: json_exists(piece, '$."amazon-bedrock-invocationMetrics"'))[-1])
            END, {_ANSWER}) AS a
            FROM logs
        ),
        counted AS (
            SELECT line, raw, r, a, began_model, labels, a.usage AS u, a."amazon-bedrock-invocationMetrics" AS m,
                CASE WHEN len(a.usage.cacheDetails) > 0 THEN CAST(list_sum(list_transform(
                    list_filter(a.usage.cacheDetails, lambda d: d.ttl = '1h'),
                    lambda d: try_cast(d.inputTokens AS BIGINT))) AS VARCHAR)
                ELSE coalesce(a.usage.cache_creation.ephemeral_1h_input_tokens, began_1h) END AS for_1h,
                json_transform(labels, {PERSONS}) AS persons
            FROM (SELECT *, {object_or_null("r.requestMetadata")} AS labels FROM answers)
        ),
        named AS (
            SELECT *,
                coalesce({", ".join(_INPUT)}) AS input_tokens,
                coalesce({", ".join(_OUTPUT)}) AS output_tokens,
                coalesce({", ".join(_READ)}) AS read,
                coalesce({", ".join(_WRITE)}) AS written,
                regexp_extract(r.modelId, ':(?:foundation-model|inference-profile)/(.+)$', 1) AS named
            FROM counted
        ),
        numbered AS (
            SELECT *, {numbers("input_tokens", "output_tokens", "read", "written", "for_1h")} FROM named
        )
        SELECT
            line, 0 AS part,
            CAST(json_merge_patch(
                json_merge_patch(raw, '{{"input":{{"inputBodyJson":null}},"output":{{"outputBodyJson":null}}}}'),
                json_object('output', CASE WHEN a.usage IS NOT NULL OR a.metrics IS NOT NULL
                    THEN json_object('outputBodyJson', a) END)) AS VARCHAR) AS raw,
            r.requestId AS event_id,
            r.timestamp AS ts,
            'aws' AS provider,
            CASE WHEN r.modelId IS NULL OR named <> '' THEN nullif(named, '')
                WHEN contains(r.modelId, 'inference-profile/') THEN coalesce(a.model, began_model, r.modelId)
                ELSE r.modelId END AS model,
            r.modelId AS requested_model,
            CASE WHEN r.modelId ILIKE '%embed%' THEN 'embeddings' ELSE 'chat' END AS operation,
            CAST(r.operation IN ('ConverseStream', 'InvokeModelWithResponseStream') AS VARCHAR) AS stream,
            coalesce(a.metrics.latencyMs, m.invocationLatency) AS latency_ms,
            m.firstByteLatency AS ttft_ms,
            CASE WHEN r.errorCode <> '' THEN
                CASE WHEN {used("input_tokens", "output_tokens", "read", "written")} THEN 'error_billed'
                    ELSE 'error_unbilled' END
            END AS status,
            r.errorCode AS error_type,
            r.region,
            input_tokens, output_tokens,
            u.totalTokens AS total,
            read AS in_cache_read,
            {less("written", "for_1h")} AS in_cache_write_5m,
            for_1h AS in_cache_write_1h,
            CASE WHEN {differing(_INPUT, _OUTPUT, _READ, _WRITE)} OR {exceeded("written", "for_1h")}
                THEN 'true' END AS contradictory,
            coalesce({user_of("persons")}, r.identity.arn) AS user_id,
            {session_of("persons")} AS session_id,
            {
        tags_of(
            "labels",
            "persons",
            {"account": "r.accountId", "inference_region": "nullif(r.inferenceRegion, '')"},
        )
    } AS tags
        FROM numbered
    """,
)
