"""Proxies before the server: many clients come from the address of one, and it says which client sent a request."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from verl_agent_env.addresses import is_loopback
from verl_agent_env.config import ROOT_PATH
from verl_agent_env.server.http.peer import Peer

_MAX_NAMED = 16
"""Addresses in one ``X-Forwarded-For`` that are looked at, from the last one on."""


class TrustedProxies:
    """Tells proxies from clients by address; programs of this machine, and those at a Unix socket, are trusted."""

    def __init__(self, networks: Sequence[str] = (), root_path: str = "") -> None:
        """Trust this machine and ``networks``: addresses, or networks such as ``10.0.0.0/8``.

        Args:
            networks: Of the proxies.
            root_path: Path before the server's own, for requests of which no proxy says it.
        """
        self._root_path = root_path
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        self.is_trusted = lru_cache(maxsize=4096)(self._is_trusted)
        """Whether an address is a proxy's; the empty one, of a Unix socket, is."""

    def client_address(self, peer: Peer, headers: Mapping[bytes, bytes]) -> str:
        """Address of the client that sent a request, as far as those say who are trusted.

        Each proxy adds the address that it sees to the end of ``X-Forwarded-For``; what a client writes there itself
        comes before that and counts for nothing.
        """
        named = headers.get(b"x-forwarded-for")
        address = peer.address
        if named is None or not self.is_trusted(address):
            return address
        for part in reversed(named.decode("latin-1").split(",")[-_MAX_NAMED:]):
            # A zone (RFC 4007) is of the proxy's machine, and may be any text.
            text = part.partition("%")[0].strip()
            try:
                ipaddress.ip_address(text)
            except ValueError:
                return address
            address = text
            if not self.is_trusted(address):
                return address
        return address

    def root_path(self, peer: Peer, headers: Mapping[bytes, bytes]) -> str:
        """Path that a proxy took away from a request's: what a trusted one says in ``X-Forwarded-Prefix``, else the configured one."""
        named = headers.get(b"x-forwarded-prefix")
        if named is None or not self.is_trusted(peer.address):
            return self._root_path
        path = named.decode("latin-1").rstrip("/")
        return path if ROOT_PATH.fullmatch(path) else self._root_path

    def _is_trusted(self, address: str) -> bool:
        if not address or is_loopback(address):
            return True
        parsed = ipaddress.ip_address(address.partition("%")[0])
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in network for network in self._networks)
