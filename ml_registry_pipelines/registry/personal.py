"""What must not get into the log in the clear: addresses of people, in whichever field they stand.

The log cannot forget. A person's address is refused at the one door that all commands take, with a
sentence that says where a value of that kind belongs; `shredding.py` keeps those that have to be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_registry_pipelines.registry.errors import InvalidInput

_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._%+@/:-])(?!git@)[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9@/])"
)
"""An e-mail address. `git@host` is a repository, and what stands behind `://` or before a path is no address."""


def holds_address(text: str) -> bool:
    """Whether an e-mail address stands in a text."""
    return "@" in text and _ADDRESS.search(text) is not None


def refuse_addresses(payload: str, action: str) -> None:
    """Raises `InvalidInput` where the payload of an event holds an e-mail address; it says in which field."""
    if not holds_address(payload):
        return
    fields = sorted(set(_fields_with_address(json.loads(payload), "")))
    where = f" in {fields[0]}" if fields else ""
    raise InvalidInput(
        f"{action} would record an e-mail address{where}, and the log cannot forget; give a pseudonym or a team, "
        "or record it as a personal field (`mlreg gdpr contact`), which can be erased"
    )


def _fields_with_address(value: Any, path: str) -> Iterator[str]:
    match value:
        case str():
            if holds_address(value):
                yield path.removeprefix("change.").removeprefix("state.")
        case Mapping():
            for name, held in value.items():
                if holds_address(name):
                    yield f"a name in {path.removeprefix('change.').removeprefix('state.')}"
                yield from _fields_with_address(held, f"{path}.{name}" if path else name)
        case list():
            for held in value:
                yield from _fields_with_address(held, path)
