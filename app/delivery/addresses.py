"""Which addresses messages may go to: a user chooses the address, and must not reach what only this machine reaches."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parse_networks(text: str | None) -> tuple[Network, ...]:
    """The networks that `text` names with commas between them, e.g. `10.1.0.0/16,fd00::/8`; None names none.

    Raises:
        ValueError: a name is not that of a network.
    """
    if text is None:
        return ()
    return tuple(ipaddress.ip_network(name.strip()) for name in text.split(","))


def checked_url(text: str) -> httpx.URL:
    """The URL `text`, as one that a message may be sent to; where its name leads to is another question.

    Raises:
        ValueError: says what is wrong with it.
    """
    example = "e.g. https://ci.example.com/bitbudget"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"it is not a URL ({error}); {example}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"expected http:// or https:// and a host, {example}")
    if url.userinfo:
        raise ValueError("a user or a password is not taken here: the signature says who sends")
    if url.fragment:
        raise ValueError("a fragment (#...) is not taken: no server is ever sent it")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise ValueError(f"a port lies in 1 to 65535, got {url.port}")
    return url


@dataclass(frozen=True, slots=True)
class Reach:
    """What may be reached: every public address, and of the others those of `networks`."""

    networks: tuple[Network, ...] = ()

    def __contains__(self, address: str) -> bool:
        """Whether a message may go to this address, written as numbers; a zone (`%eth0`) is never public.

        Raises:
            ValueError: it is not an IP address.
        """
        host = ipaddress.ip_address(address)
        # An IPv4 address inside of an IPv6 one is where the packets end up: both have to be allowed.
        return all(_public(part) or any(part in network for network in self.networks) for part in _parts(host))


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id is not None or address.is_site_local):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _parts(address: Address) -> Iterator[Address]:
    """The address whose rules hold, and the IPv4 addresses that it leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped  # another spelling of it, and nothing else
        return
    if address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
