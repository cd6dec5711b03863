"""The one point at which requests are let in, whatever answers them: a call, a page, MCP or a WebSocket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verl_agent_env.config import ServerSettings
from verl_agent_env.errors import MalformedHeadError, UnauthorizedError
from verl_agent_env.server.auth import TokenGuard
from verl_agent_env.server.peer import Peer
from verl_agent_env.server.same_origin import SameOriginPolicy

Headers = Iterable[tuple[bytes, bytes]]

_SINGLE = frozenset({b"authorization", b"content-type", b"host", b"origin"})
"""Headers that decide about a request: of two of them somebody else might read the other one."""


class Admission:
    """Decides about a request by its head alone; costs next to nothing where no browser sent it."""

    def __init__(self, policy: SameOriginPolicy, guard: TokenGuard) -> None:
        self.policy = policy
        self._guard = guard
        self._is_guarded = guard.has_tokens

    @classmethod
    def by_settings(cls, settings: ServerSettings) -> Admission:
        """Make one as the operator wants it."""
        guard = TokenGuard(settings.auth_tokens)
        own_names = (settings.host, settings.cluster.node, settings.cluster.advertise)
        policy = SameOriginPolicy(
            settings.allowed_hosts, settings.allowed_origins, own_names, has_tokens=guard.has_tokens
        )
        return cls(policy, guard)

    def admit(
        self, method: str, headers: Mapping[bytes, bytes], peer: Peer, *, is_open: bool = False
    ) -> None:
        """Raise unless the request may be served; an ``is_open`` one needs no token.

        Raises:
            HostNotAllowedError, OriginNotAllowedError, ContentTypeNotAllowedError: As
                :meth:`~verl_agent_env.server.same_origin.SameOriginPolicy.check`.
            UnauthorizedError: It needs a token, and has none that is known.
        """
        self.policy.check(method, headers, peer)
        if self._is_guarded and not is_open and not self._guard.admits(headers.get(b"authorization")):
            raise UnauthorizedError


def has_ambiguous_headers(headers: Headers) -> bool:
    """Whether a header that decides about the request is there more than once."""
    deciding = [name for name, _ in headers if name in _SINGLE]
    return len(deciding) != len(set(deciding))


def require_well_formed(headers: Headers, found: Mapping[bytes, bytes], http_version: str) -> None:
    """Raise unless the head says one thing only.

    Args:
        headers: As they came.
        found: The same by name.
        http_version: Of the request; empty where no connection carried it.

    Raises:
        MalformedHeadError: A deciding header is there twice, or ``Host`` is missing in HTTP/1.1.
    """
    if b"host" not in found and http_version == "1.1":
        raise MalformedHeadError("there is no Host header")
    if has_ambiguous_headers(headers):
        raise MalformedHeadError("a header that may be there once is there more than once")
