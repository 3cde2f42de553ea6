"""Texts beside the weights: secrets in them, and what frameworks run of them.

Secrets are looked for by detect-secrets' detectors without verification: nothing leaves the machine.
A finding says which kind of secret stands in which line, never the secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from ml_registry_pipelines.compliance.artifact_security.findings import readable
from ml_registry_pipelines.compliance.artifact_security.symbols import IMPORTS

MOST_TEXT = 16 << 20
"""Bytes of a text in which secrets are looked for."""
MOST_SECRETS = 50
LONGEST_LINE = 20_000
_YAML_OBJECT = re.compile(r"!!python/|!<tag:yaml\.org,2002:python/")
_KERAS = re.compile(
    r"keras(\.src)?(\.(layers|models|initializers|regularizers|constraints|optimizers|losses|metrics|activations|"
    r"dtype_policies)(\.[a-z_0-9]+)*)?"
)
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*")
_RUNS_CODE = {"Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"}
_KEYWORD = "Secret Keyword"
_DETECTORS = {
    "artifactory": "ArtifactoryDetector",
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector",
    "cloudant": "CloudantDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "keyword": "KeywordDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "openai": "OpenAIDetector",
    "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}


@cache
def _detectors() -> tuple[Any, ...]:
    from importlib import import_module

    with IMPORTS.around():
        import_module("detect_secrets.filters.heuristic")
        import_module("detect_secrets.plugins.keyword")
    return tuple(
        getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
        for module, name in _DETECTORS.items()
    )


def secrets(text: str, name: str) -> Iterator[tuple[str, int]]:
    """Kind and line of each secret. A comment that asks to overlook one is not heeded.

    The detectors' `analyze_line` may verify what it finds with whom it belongs to; so it is not called.
    """
    detectors = _detectors()
    from detect_secrets.filters.heuristic import is_templated_secret
    from detect_secrets.plugins.keyword import QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP, REGEX_BY_FILETYPE
    from detect_secrets.util.filetype import determine_file_type

    words = REGEX_BY_FILETYPE.get(determine_file_type(name), QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP)
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(text.splitlines(), 1):
        # Long lines are cut into pieces that overlap, since the expressions take more than linear time.
        for start in range(0, max(len(line), 1), LONGEST_LINE - 500):
            piece = line[start : start + LONGEST_LINE]
            for detector in detectors:
                more = {"denylist_regex_to_group": words} if detector.secret_type == _KEYWORD else {}
                for found in detector.analyze_string(piece, **more):
                    if not is_templated_secret(found):
                        seen.add((detector.secret_type, number))
        if len(seen) >= MOST_SECRETS:
            break
    yield from sorted(seen, key=lambda each: (each[1], each[0]))


def builds_objects(text: str) -> bool:
    """Whether a YAML text makes objects of Python."""
    return _YAML_OBJECT.search(text) is not None


def keras_code(config: Any, say: Callable[[str], None]) -> None:
    """Tell of everything in the configuration of a Keras model that runs or imports code of the author's."""
    pending: list[tuple[Any, int]] = [(config, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > 200:
            say("the configuration of the Keras model is nested too deep")
            return
        if isinstance(value, list):
            pending += [(inner, depth + 1) for inner in value]
        if not isinstance(value, dict):
            continue
        pending += [(inner, depth + 1) for inner in value.values()]
        name, module, registered = (value.get(key) for key in ("class_name", "module", "registered_name"))
        if name in _RUNS_CODE:
            say(f"the Keras model has a layer {name}, which runs code of the file")
        elif name is not None and module is not None:
            if not isinstance(module, str) or not _KERAS.fullmatch(module):
                if (module, name) != ("builtins", "dict"):
                    say(f"the Keras model imports {readable(name)} from {readable(module)}")
            elif not isinstance(name, str) or (not _CLASS.fullmatch(name)):
                say(f"the Keras model calls {readable(module)}.{readable(name)}")
        elif name in {"function", "__lambda__", "__tuple__bytecode__"}:
            say("the Keras model holds a function")
        if isinstance(registered, str) and registered not in {"", name}:
            say(f"the Keras model uses {readable(registered)}, an object that is registered elsewhere")
