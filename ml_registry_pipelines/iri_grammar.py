"""Puts off what jsonschema does on import: the grammar of internationalised addresses, 1.3 s of processor.

Altair and Great Expectations import jsonschema, which imports rfc3987_syntax, which computes that
grammar at once, though only a schema with a value of format `iri` ever asks for it. Call `put_off`
before importing one of them. What is checked stays the same.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

_NAME = "rfc3987_syntax"


@cache
def put_off() -> None:
    """Let the grammar be computed when the first address is checked; nothing if it has been already."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = _Later(_NAME)


class _Later(ModuleType):
    """Stands in for the package until it is asked whether something is an address."""

    @staticmethod
    def is_valid_syntax(term: str, value: str) -> bool:
        return bool(_package().is_valid_syntax(term, value))

    def __getattr__(self, name: str) -> Any:
        # `import` itself asks for names like __path__, which a stand-in does not have.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_package(), name)


@cache
def _package() -> ModuleType:
    if isinstance(sys.modules.get(_NAME), _Later):
        sys.modules.pop(_NAME, None)
    return import_module(_NAME)
