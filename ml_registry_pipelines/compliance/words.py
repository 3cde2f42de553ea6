"""What people write into the log in words of their own: checked, since the log cannot forget."""

from __future__ import annotations

import re

from ml_registry_pipelines.registry.errors import InvalidInput
from ml_registry_pipelines.registry.names import checked_text

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")


def impersonal(text: str, what: str) -> str:
    """The text, without space around it.

    Raises:
        InvalidInput: it is too long, or holds an e-mail address.
    """
    checked = checked_text(text, what).strip()
    if _EMAIL.search(checked):
        raise InvalidInput(
            f"the {what} holds an e-mail address; name a team or a role instead, since the log cannot forget"
        )
    return checked
