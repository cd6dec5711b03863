"""The two ends of a connection, as far as they decide what a request may do."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from verl_agent_env.addresses import is_loopback, parse_address, without_mapping


@dataclass(frozen=True, slots=True)
class Peer:
    """Addresses of a connection: the client's, and the server's own at which it arrived."""

    address: str = ""
    """IP address of the other end; empty for a Unix socket and for a call in this process."""
    own_address: str = ""
    """IP address at which the connection arrived; empty as above."""

    @classmethod
    def of(cls, client: Sequence[Any] | None, server: Sequence[Any] | None) -> Peer:
        """Make one from the ``client`` and ``server`` of an ASGI scope, or of uvicorn's protocol."""
        return _peer(str(client[0]) if client else "", str(server[0]) if server else "")

    @classmethod
    def of_scope(cls, scope: Scope) -> Peer:
        """Make one from an ASGI scope."""
        return cls.of(scope.get("client"), scope.get("server"))

    @property
    def arrived_on_loopback(self) -> bool:
        """True if the connection was made to a loopback address: a browser of this machine can make one."""
        return is_loopback(self.own_address)


@functools.lru_cache(maxsize=4096)
def _peer(client: str, server: str) -> Peer:
    client, server = (without_mapping(end) if parse_address(end) else "" for end in (client, server))
    return Peer(client, server)
