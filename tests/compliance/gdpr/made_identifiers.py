"""Labelled texts with identifiers that were made up, and texts without any."""

from __future__ import annotations

import random
import uuid

from ml_registry_pipelines.compliance.gdpr import pii

_TEXTS = (
    "{}",
    "please write to {} by Friday",
    "id=7 value={} state=open",
    "My new one is {}, thanks.",
    "({})",
    "customer: {}; ticket 4711",
    "Reach me under {} or not at all.",
)


def _luhn(number: str) -> str:
    total = sum(d if i % 2 else d * 2 - 9 * (d > 4) for i, d in enumerate(map(int, reversed(number))))
    return number + str(-total % 10)


def _grouped(number: str, sizes: tuple[int, ...], sign: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return sign.join(part for part in (*parts, number[at:]) if part)


def _digits(dice: random.Random, n: int) -> str:
    return "".join(dice.choice("0123456789") for _ in range(n))


def _iban(dice: random.Random) -> str:
    country = dice.choice(("DE", "NL", "FR", "GB", "ES"))
    body = {
        "DE": lambda: _digits(dice, 18),
        "ES": lambda: _digits(dice, 20),
        "NL": lambda: "ABNA" + _digits(dice, 10),
        "GB": lambda: "BARC" + _digits(dice, 14),
        "FR": lambda: _digits(dice, 23),
    }[country]()
    moved = "".join(str(int(c, 36)) for c in body + country + "00")
    check = f"{98 - int(moved) % 97:02}"
    whole = f"{country}{check}{body}"
    return _grouped(whole, (4,) * 7, " ") if dice.random() < 0.5 else whole


def _card(dice: random.Random) -> str:
    prefix, length, sizes = dice.choice(
        (
            ("4", 16, (4, 4, 4, 4)),
            ("4", 13, (4, 3, 3, 3)),
            ("4", 19, (4, 4, 4, 4, 3)),
            ("51", 16, (4, 4, 4, 4)),
            ("2223", 16, (4, 4, 4, 4)),
            ("34", 15, (4, 6, 5)),
            ("37", 15, (4, 6, 5)),
            ("6011", 16, (4, 4, 4, 4)),
            ("3528", 16, (4, 4, 4, 4)),
            ("36", 14, (4, 6, 4)),
            ("5018", 12, (4, 4, 4)),
            ("6304", 18, (4, 4, 4, 4, 2)),
        )
    )
    number = _luhn(prefix + _digits(dice, length - len(prefix) - 1))
    return _grouped(number, sizes, dice.choice(("", "", " ", "-")))


def _phone(dice: random.Random) -> str:
    def digit(n: int) -> str:
        return _digits(dice, n)

    return dice.choice(
        (
            lambda: f"+1-{dice.randint(201, 989)}-{dice.randint(200, 999)}-{digit(4)}",
            lambda: f"({dice.randint(201, 989)}) {digit(3)}-{digit(4)}",
            lambda: f"{dice.randint(201, 989)}-{digit(3)}-{digit(4)}x{digit(3)}",
            lambda: f"{dice.randint(201, 989)}.{digit(3)}.{digit(4)}",
            lambda: f"001-{dice.randint(201, 989)}-{digit(3)}-{digit(4)}",
            lambda: f"+44 20 7{digit(3)} {digit(4)}",
            lambda: f"+44 7{digit(3)} {digit(6)}",
            lambda: f"+49 30 {digit(3)}{digit(4)}",
            lambda: f"+49 (0) 89 {digit(3)} {digit(4)}",
            lambda: f"0{dice.randint(30, 89)}1 {digit(7)}",
            lambda: f"+33 6 {digit(2)} {digit(2)} {digit(2)} {digit(2)}",
            lambda: f"+91 9{digit(4)} {digit(5)}",
            lambda: f"+55 11 9{digit(4)}-{digit(4)}",
        )
    )()


def _email(dice: random.Random) -> str:
    name = dice.choice(("jan.kowalski", "m_o'neill", "anne+tag", "x7", "first.last", "DEV-ops"))
    host = dice.choice(("example.org", "mail.example.co.uk", "corp.internal", "sub.a-b.de", "uni.museum"))
    return f"{name}{dice.randint(1, 999)}@{host}"


def _ip(dice: random.Random) -> str:
    if dice.random() < 0.7:
        return ".".join(str(dice.randint(1, 254)) for _ in range(4))
    return ":".join(f"{dice.randint(4096, 65535):x}" for _ in range(8))


def _url(dice: random.Random) -> str:
    start = dice.choice(("http://", "https://", "https://www."))
    return f"{start}example{dice.randint(1, 99)}.com/u/{dice.randint(1, 9999)}"


_MAKERS = {
    pii.EMAIL: _email,
    pii.IBAN: _iban,
    pii.SSN: lambda d: f"{d.randint(101, 665)}-{d.randint(11, 99)}-{d.randint(1001, 9999)}",
    pii.IP: _ip,
    pii.URL: _url,
    pii.CARD: _card,
    pii.PHONE: _phone,
}


def labelled(each: int, seed: int) -> list[tuple[str, str, int, int]]:
    """(kind, text, start, end) of made identifiers within texts."""
    dice, made = random.Random(seed), []
    for kind, maker in _MAKERS.items():
        for _ in range(each):
            value, around = maker(dice), dice.choice(_TEXTS)
            start = around.index("{}")
            made.append((kind, around.format(value), start, start + len(value)))
    return made


def harmless(n: int, seed: int) -> list[str]:
    """Texts that machine-learning tables hold, without anybody in them."""
    dice = random.Random(seed)
    makers = (
        lambda: str(uuid.UUID(int=dice.getrandbits(128))),
        lambda: f"{dice.getrandbits(256):064x}",
        lambda: f"2026-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}T{dice.randint(0, 23):02}:15:00Z",
        lambda: f"{dice.randint(1, 28):02}.{dice.randint(1, 12):02}.2026",
        lambda: f"v{dice.randint(0, 9)}.{dice.randint(0, 30)}.{dice.randint(0, 30)}",
        lambda: f"{dice.uniform(-1e6, 1e6):.6f}",
        lambda: str(dice.randint(10**9, 2 * 10**9)),
        lambda: f"{dice.randint(1, 999):,}.{dice.randint(0, 99):02} EUR",
        lambda: f"order {dice.randint(10**6, 10**8)} of {dice.randint(1, 99)} items",
        lambda: dice.choice(("gpt-4o-2024-08-06", "claude-3-5-sonnet-20241022", "llama-3.1-70b-instruct")),
        lambda: f"eu-central-{dice.randint(1, 3)}/endpoint_{dice.randint(1, 99)}",
        lambda: f"step {dice.randint(1, 99999)}: loss={dice.random():.4f} lr={dice.random() / 1e4:.2e}",
        lambda: dice.choice(("A12", "own", "radio/tv", "African-American", "no checking account", "0.5-0.8")),
        lambda: f"[{dice.randint(0, 99)}, {dice.randint(100, 999)}, {dice.randint(1000, 9999)}]",
        lambda: f"req_{dice.getrandbits(96):024x}",
        lambda: (
            f"{dice.randint(100, 999)} ms p50, {dice.randint(1000, 9999)} ms p95, {dice.randint(1, 9)} errors"
        ),
    )
    return [dice.choice(makers)() for _ in range(n)]
