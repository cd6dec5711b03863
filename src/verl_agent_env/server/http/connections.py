"""Count of a worker's connections, in all and by address, with a limit for each."""

from __future__ import annotations

import ipaddress
import logging
import resource
from collections import Counter

from verl_agent_env.config import ConnectionLimits
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.server.http.logs import SHORTAGE
from verl_agent_env.server.http.proxies import TrustedProxies

logger = logging.getLogger(__name__)

_OTHER_FILES = 128
"""Files that a worker opens beside its clients' connections: to other workers, to Redis, to programs."""
_MAX_TOLD = 32
"""Refused connections at one time, above the most that there may be, whose clients are told why."""
_IPV6_NETWORK_BITS = 64


class Connections:
    """Counts the connections of one worker, and says which one is too many."""

    def __init__(
        self, limits: ConnectionLimits, proxies: TrustedProxies, open_files: int | None = None
    ) -> None:
        """Begin without any.

        Args:
            limits: How many there may be.
            proxies: Whose connections are many clients' and have no limit of their own.
            open_files: How many files the process may have open; as the system says, if not given.
        """
        if open_files is None:
            open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limits = limits
        self._proxies = proxies
        self.open = 0
        """Connections that are open, refused ones included until they are closed."""
        self.closed: Counter[str] = Counter()
        """Connections that the worker closed against their clients' will, by reason."""
        self.most = limits.max_connections
        if open_files != resource.RLIM_INFINITY:
            # A refusal needs a file as well, and a client that is refused should get an answer.
            self.most = min(self.most, open_files - min(_OTHER_FILES, open_files // 2))
            if self.most < limits.max_connections:
                logger.info(
                    "fewer connections than max_connections fit into the limit of open files: raise it (ulimit -n)",
                    extra={"max_connections": self.most, "open_files": open_files},
                )
        # As large a part of the connections as was meant.
        self._most_per_address = max(
            1,
            min(
                limits.max_connections_per_address,
                limits.max_connections_per_address * self.most // limits.max_connections,
            ),
        )
        self._by_network: Counter[str] = Counter()

    @property
    def is_flooded(self) -> bool:
        """True if there are so many connections that a further one is closed without a response."""
        return self.open > self.most + _MAX_TOLD

    def enter(self, address: str) -> AtCapacityError | None:
        """Count a new connection; gives the reason why it must be refused, if there is one.

        Args:
            address: IP address of the other end; empty for a Unix socket.
        """
        self.open += 1
        network = network_of(address)
        self._by_network[network] += 1
        if self.open > self.most:
            return self._refused("connections", self.most)
        if self._by_network[network] > self._most_per_address and not self._proxies.is_trusted(address):
            return self._refused("connections from one address", self._most_per_address)
        return None

    def leave(self, address: str) -> None:
        """Count a connection no more."""
        self.open -= 1
        network = network_of(address)
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def _refused(self, resource_name: str, limit: int) -> AtCapacityError:
        logger.warning("connection refused: too many %s", resource_name, extra={"limit": limit, **SHORTAGE})
        self.closed["too_many"] += 1
        return AtCapacityError(resource_name, limit)


def network_of(address: str) -> str:
    """Return the key of a client: its IPv4 address, or the /64 network of its IPv6 address."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _IPV6_NETWORK_BITS), strict=False))
