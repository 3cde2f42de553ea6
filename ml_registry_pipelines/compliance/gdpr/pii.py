"""Finding personal identifiers in text, by Presidio's patterns alone, offline.

What has a form is found: e-mail addresses, IBANs, US social security numbers, IP addresses, URLs,
payment cards, telephone numbers. **Names, postal addresses, employers and whatever else has no form
are not**: that needs named entity recognition, whose models are not part of this system. So a
column without a finding is not a column without personal data. A finding has a kind and a place, and
never the text itself.

Presidio's own patterns miss cards of rarer lengths and grouping, and telephone numbers that
no numbering plan has; those two have patterns of ours beside Presidio's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

EMAIL, IBAN, SSN, IP, URL, CARD, PHONE = (
    "EMAIL_ADDRESS",
    "IBAN_CODE",
    "US_SSN",
    "IP_ADDRESS",
    "URL",
    "CREDIT_CARD",
    "PHONE_NUMBER",
)
KINDS = (EMAIL, IBAN, SSN, IP, URL, CARD, PHONE)
LEAST_SCORE = 0.35
"""Presidio's scores below that are of patterns that any number of so many digits has."""
LONGEST = 20_000
"""Characters of one text that are looked at."""
REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "IN", "BR", "AU")

_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){11,18}\d(?![\d-]|\.\d)")
_PHONE = re.compile(
    r"""(?<![\w.@/-])
    (?: (?:\+|00)\d{1,3}[ .-]?(?:\(0?\)[ .-]?)?\(?\d{1,5}\)?(?:[ .-]?\d{2,5}){2,4}
      | (?:1[ .-])?\(\d{2,4}\)[ .-]?\d{3,4}[ .-]\d{3,4}
      | (?:1[ .-]|001[ .-])?[2-9]\d{2}(?P<s>[ .-])\d{3}(?P=s)\d{4}
      | 0\d{2,4}(?P<t>[ /-])\d{3,8}(?:[ -]\d{2,6})?
    ) (?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})? (?![\w@/-]|\.\d)""",
    re.VERBOSE,
)
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}")
_DIGITS = re.compile(r"\d")


@dataclass(frozen=True)
class Finding:
    """A personal identifier of a kind between two characters of a text."""

    kind: str
    start: int
    end: int


def find(text: str, *, kinds: Iterable[str] = KINDS) -> list[Finding]:
    """Personal identifiers in a text, in order; of overlapping ones the longest.

    Args:
        kinds: of `KINDS`.
    """
    text, wanted = text[:LONGEST], frozenset(kinds)
    digits = len(_DIGITS.findall(text))
    found = [
        finding
        for kind, hint, search in _searches()
        if kind in wanted and hint(text, digits)
        for finding in search(text)
    ]
    found.sort(key=lambda f: (f.start - f.end, KINDS.index(f.kind)))
    kept: list[Finding] = []
    for finding in found:
        if all(finding.end <= other.start or finding.start >= other.end for other in kept):
            kept.append(finding)
    return sorted(kept, key=lambda f: f.start)


def holds_any(text: str, *, kinds: Iterable[str] = KINDS) -> str | None:
    """The kind of the first identifier in a text; None where there is none."""
    found = find(text, kinds=kinds)
    return found[0].kind if found else None


_Search = tuple[str, Callable[[str, int], bool], Callable[[str], Iterator[Finding]]]


@cache
def _searches() -> tuple[_Search, ...]:
    import tldextract
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UrlRecognizer,
        UsSsnRecognizer,
    )

    # Otherwise its first use asks the network for a list of suffixes, twice.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class AnyDomain(EmailRecognizer):
        """Also of a domain inside an organisation, which no list of suffixes has."""

        def validate_result(self, pattern_text: str) -> bool | None:  # noqa: ARG002
            return None

    return (
        (EMAIL, lambda text, _: "@" in text, _of(AnyDomain(), EMAIL)),
        (IBAN, lambda _, digits: digits >= 10, _of(IbanRecognizer(), IBAN)),
        (SSN, lambda _, digits: digits >= 9, _of(UsSsnRecognizer(), SSN)),
        (IP, lambda text, digits: digits >= 1 and ("." in text or ":" in text), _of(IpRecognizer(), IP)),
        (URL, lambda text, _: "." in text, _of(UrlRecognizer(), URL)),
        (CARD, lambda _, digits: digits >= 12, _cards(_of(CreditCardRecognizer(), CARD))),
        (
            PHONE,
            lambda _, digits: digits >= 7,
            _phones(_of(PhoneRecognizer(supported_regions=REGIONS), PHONE)),
        ),
    )


def _of(recognizer: Any, kind: str) -> Callable[[str], Iterator[Finding]]:
    def search(text: str) -> Iterator[Finding]:
        for hit in recognizer.analyze(text, [kind], None) or ():
            # A telephone number without any sign in it is told from no other number.
            if hit.score >= LEAST_SCORE and (kind != PHONE or _grouped(text[hit.start : hit.end])):
                yield Finding(kind, hit.start, hit.end)

    return search


def _phones(phones: Callable[[str], Iterator[Finding]]) -> Callable[[str], Iterator[Finding]]:
    def phones_too(text: str) -> Iterator[Finding]:
        dated = [match.span() for match in _DATE.finditer(text)]
        for finding in (*phones(text), *(Finding(PHONE, *m.span()) for m in _PHONE.finditer(text))):
            if not any(start < finding.end and finding.start < end for start, end in dated):
                yield finding

    return phones_too


def _cards(cards: Callable[[str], Iterator[Finding]]) -> Callable[[str], Iterator[Finding]]:
    def cards_too(text: str) -> Iterator[Finding]:
        for finding in cards(text):
            if _is_card(text[finding.start : finding.end]) and not _is_fraction(text, finding.start):
                yield finding
        for match in _CARD.finditer(text):
            if _is_card(match[0]) and not _is_fraction(text, match.start()):
                yield Finding(CARD, *match.span())

    return cards_too


def _grouped(text: str) -> bool:
    return bool(re.search(r"[+ ()/-]", text.strip()))


def _is_fraction(text: str, start: int) -> bool:
    """Whether the digits are those behind a decimal point: one number in ten has a right check digit."""
    return start >= 2 and text[start - 1] == "." and text[start - 2].isdecimal()


def _is_card(text: str) -> bool:
    """Whether length and first digits are of a network of payment cards, and the check digit is right.

    ISO/IEC 7812-1, annex B for the check digit.
    """
    digits = [int(d) for d in text if d.isdecimal()]
    number = "".join(map(str, digits))
    two, three, four = int(number[:2]), int(number[:3]), int(number[:4])
    match len(number):
        case 13 | 19 if number[0] == "4":
            pass
        case 14 if two in (36, 38, 39) or 300 <= three <= 305:
            pass
        case 15 if two in (34, 37) or four in (1800, 2131):
            pass
        case 16 if (
            number[0] == "4"
            or 51 <= two <= 55
            or 2221 <= four <= 2720
            or two in (35, 36, 38, 39, 60, 62, 64, 65, 67)
            or 300 <= three <= 305
            or three in (637, 638, 639)
        ):
            pass
        case 12 | 13 | 14 | 15 | 17 | 18 | 19 if four in (5018, 5020, 5038, 5893, 6304, 6759) or two == 67:
            pass
        case _:
            return False
    doubled = [d if index % 2 == 0 else d * 2 - 9 * (d > 4) for index, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
