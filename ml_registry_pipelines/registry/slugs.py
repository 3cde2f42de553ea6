"""Names as parts of an asset key: whatever a name holds, letters, digits and `_ . - %` are left of it."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote

MAX_SLUG = 200
"""Characters; a name may have 500, of up to four bytes that become three characters each."""
_CUT = re.compile(r"%~[0-9a-f]{16}$")


def slug(name: str) -> str:
    """The name with everything outside `A-Z a-z 0-9 _ . -` percent-encoded as UTF-8.

    Two names never share a slug: one that would be longer than `MAX_SLUG` is cut, and ends
    with a digest of the whole.

    Example:
        >>> slug("Kredit/Österreich")
        'Kredit%2F%C3%96sterreich'
    """
    whole = quote(name, safe="").replace("~", "%7E")
    if len(whole) <= MAX_SLUG:
        return whole
    end = f"%~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return re.sub(r"%[0-9A-F]?$", "", whole[: MAX_SLUG - len(end)]) + end


def unslug(text: str) -> str | None:
    """The name that a slug stands for; None where it was cut."""
    return None if _CUT.search(text) else unquote(text, errors="strict")
