"""The log formats that the platform reads. A new one is a module here and a line below."""

from ml_registry_pipelines.telemetry.dialects.anthropic import ANTHROPIC
from ml_registry_pipelines.telemetry.dialects.azure_trace import AZURE_TRACE
from ml_registry_pipelines.telemetry.dialects.bedrock import BEDROCK
from ml_registry_pipelines.telemetry.dialects.cloudflare import CLOUDFLARE
from ml_registry_pipelines.telemetry.dialects.dialect import Dialect
from ml_registry_pipelines.telemetry.dialects.gemini import GEMINI
from ml_registry_pipelines.telemetry.dialects.helicone import HELICONE
from ml_registry_pipelines.telemetry.dialects.langfuse import LANGFUSE
from ml_registry_pipelines.telemetry.dialects.litellm import LITELLM
from ml_registry_pipelines.telemetry.dialects.llmperf import LLMPERF
from ml_registry_pipelines.telemetry.dialects.mooncake import MOONCAKE
from ml_registry_pipelines.telemetry.dialects.native import NATIVE
from ml_registry_pipelines.telemetry.dialects.openai import OPENAI
from ml_registry_pipelines.telemetry.dialects.otel_genai import OTEL_GENAI
from ml_registry_pipelines.telemetry.dialects.portkey import PORTKEY

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        NATIVE,
        AZURE_TRACE,
        LLMPERF,
        MOONCAKE,
        OTEL_GENAI,
        LITELLM,
        CLOUDFLARE,
        BEDROCK,
        OPENAI,
        ANTHROPIC,
        GEMINI,
        LANGFUSE,
        HELICONE,
        PORTKEY,
    )
}
"""All known dialects by name."""
