"""Where a webhook may lead, so that nobody reaches through it what only this machine should reach.

Allowed is https to a public address. `MLREG_WEBHOOK_HOSTS` names hosts, addresses and networks
(`hooks.internal, 10.1.0.0/16, localhost`) that may be private, and be spoken to by http.
Every address that a name resolves to is looked at, at each delivery, and the connection goes
to the very address that was looked at.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from ml_registry_pipelines.registry.errors import InvalidInput, shown

VARIABLE = "MLREG_WEBHOOK_HOSTS"
MAX_URL = 2_000
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_TUNNELS = tuple(
    ipaddress.IPv6Network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)
"""Networks whose addresses stand for IPv4 addresses, which may be any."""


class Forbidden(InvalidInput):
    """A webhook may not lead there."""


@dataclass(frozen=True)
class Allowed:
    """What the operator allows beside https to public addresses."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def from_environment(cls) -> Allowed:
        """What `MLREG_WEBHOOK_HOSTS` says."""
        names, networks = set(), []
        for given in os.environ.get(VARIABLE, "").split(","):
            entry = given.strip().lower().strip("[]")
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                names.add(entry)
        return cls(frozenset(names - {""}), tuple(networks))

    def host(self, host: str) -> bool:
        return host.lower() in self.names or (
            (address := _address(host)) is not None and self.address(address)
        )

    def address(self, address: Address) -> bool:
        plain = _plain(address)
        return any(plain in network for network in self.networks if network.version == plain.version)


def checked_url(url: str, allowed: Allowed, *, shown: str | None = None) -> str:
    """The address of a webhook, as far as can be told without asking the network.

    Raises:
        InvalidInput: it is none, or holds a user or password, which the log could not forget.
        Forbidden: it may not be spoken to.
    """
    what = _named(shown or url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode(
            "idna"
        )  # A name that no resolver would be asked about: `a..b`, a part of 64 letters.
    except ValueError:
        host, parts = None, urlsplit("")
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or len(url) > MAX_URL
        or not url.isascii()
        or " " in url
    ):
        raise InvalidInput(
            f"{what} is no address of a webhook; give one such as https://hooks.example.org/mlreg"
        )
    if any(ord(character) < 33 for character in url):
        raise InvalidInput("the address of a webhook holds a control character")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            "the address of a webhook holds a user or password; give env:NAME to keep it out of the log"
        )
    if allowed.host(host):
        return url
    if parts.scheme != "https":
        raise Forbidden(f"{what} is not https; the operator may allow its host in {VARIABLE}")
    if (literal := _address(host)) is not None:
        _check(literal, what, allowed)
    return url


def _named(url: str) -> str:
    return shown(url.split("?")[0].rpartition("@")[2])


def resolved(host: str, port: int, allowed: Allowed) -> list[str]:
    """The addresses of a host, all of them allowed.

    Raises:
        Forbidden: one of them is not.
        OSError: the name does not resolve.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not allowed.host(host):
        for text in found:
            _check(ipaddress.ip_address(text.split("%")[0]), host, allowed)
    return list(dict.fromkeys(found))


def _check(address: Address, what: str, allowed: Allowed) -> None:
    plain = _plain(address)
    tunnelled = isinstance(plain, ipaddress.IPv6Address) and any(plain in network for network in _TUNNELS)
    if (plain.is_global and not plain.is_multicast and not tunnelled) or allowed.address(plain):
        return
    raise Forbidden(
        f"{what} leads to {address}, which is no public address; the operator may allow it in {VARIABLE}"
    )


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0])
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """An IPv4 address in IPv6 clothes as what it is."""
    return getattr(address, "ipv4_mapped", None) or address
