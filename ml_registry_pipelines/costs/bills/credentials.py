"""Keys for providers' billing APIs: from the environment, or from AWS Secrets Manager. Never shown, never stored."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.costs.bills.intake import BillsError

if TYPE_CHECKING:
    from ml_registry_pipelines.costs.bills.settings import Pull


class NoCredentials(BillsError):
    """There is no key for an API."""


def key_of(pull: Pull, secrets: Callable[[], Any]) -> str:
    """The key for a pull.

    Args:
        secrets: gives a client of AWS Secrets Manager; called only where a secret is named.

    Raises:
        NoCredentials: the variable is not set, or the secret cannot be read or has no such field.
    """
    if pull.key_secret is not None:
        return _secret(pull, secrets)
    key = os.environ.get(pull.key_env or "", "").strip()
    if not key:
        raise NoCredentials(
            f"pull {pull.name!r} needs a key: set {pull.key_env}, or name a secret by `key_secret` in bills.yaml"
        )
    return key


def secrets_manager() -> Any:
    """A client of AWS Secrets Manager with region and credentials of the environment."""
    import boto3

    return boto3.client("secretsmanager")


def _secret(pull: Pull, secrets: Callable[[], Any]) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"secret {pull.key_secret!r} of pull {pull.name!r}"
    try:
        held = secrets().get_secret_value(SecretId=pull.key_secret)
    except ClientError as refused:
        raise NoCredentials(
            f"{where} cannot be read: {refused.response['Error'].get('Code', 'refused')}"
        ) from None
    except BotoCoreError as failure:
        raise NoCredentials(f"{where} cannot be read: {failure}") from None
    text = str(held.get("SecretString") or "").strip()
    if pull.key_field is None:
        if not text:
            raise NoCredentials(f"{where} holds no text")
        return text
    try:
        fields = json.loads(text)
    except ValueError:
        raise NoCredentials(f"{where} is no JSON object, so it has no field {pull.key_field!r}") from None
    value = fields.get(pull.key_field) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise NoCredentials(f"{where} has no field {pull.key_field!r} with a text")
    return value.strip()
