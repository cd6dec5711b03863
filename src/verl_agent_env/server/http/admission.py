"""The one point at which requests are let in, whatever answers them: a call, a page, MCP or a WebSocket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verl_agent_env.config import ServerSettings
from verl_agent_env.errors import ContentEncodingNotSupportedError, InsufficientScopeError, MalformedHeadError
from verl_agent_env.server.http.auth import TokenGuard
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.proxies import TrustedProxies
from verl_agent_env.server.http.same_origin import SameOriginPolicy
from verl_agent_env.server.http.tokens import ANYBODY, Principal

Headers = Iterable[tuple[bytes, bytes]]

_MAX_SHOWN = 64
_UNCOMPRESSED = (b"", b"identity")
_SINGLE = frozenset({b"authorization", b"content-type", b"host", b"origin"})
"""Headers that decide about a request: of two of them somebody else might read the other one."""


class Admission:
    """Decides about a request by its head alone; costs next to nothing where no browser sent it."""

    def __init__(self, policy: SameOriginPolicy, guard: TokenGuard, proxies: TrustedProxies) -> None:
        self.policy = policy
        self.guard = guard
        self._proxies = proxies
        self._is_guarded = guard.has_tokens

    @classmethod
    def by_settings(
        cls, settings: ServerSettings, proxies: TrustedProxies | None = None, *, peer_secret: str = ""
    ) -> Admission:
        """Make one as the operator wants it.

        Args:
            settings: Of the server.
            proxies: That may say whom they speak for; this machine's alone if not given.
            peer_secret: What other workers show.

        Raises:
            ValueError: The file with the tokens is wrong.
        """
        guard = TokenGuard(settings.auth_tokens, settings.auth_file, peer_secret=peer_secret)
        own_names = (settings.host, settings.cluster.node, settings.cluster.advertise)
        policy = SameOriginPolicy(
            settings.allowed_hosts, settings.allowed_origins, own_names, has_tokens=guard.has_tokens
        )
        return cls(policy, guard, proxies or TrustedProxies())

    def admit(self, method: str, headers: Mapping[bytes, bytes], peer: Peer, scope: str) -> Principal:
        """Identify the holder of the request's token, and admit the request.

        Args:
            method: Of the request.
            headers: Of the request.
            peer: The other end of the connection.
            scope: What the token must allow; empty for a request that needs none.

        Raises:
            HostNotAllowedError, OriginNotAllowedError, ContentTypeNotAllowedError: As
                :meth:`~verl_agent_env.server.http.same_origin.SameOriginPolicy.check`.
            UnauthorizedError, TooManyAttemptsError: It needs a token, and has none that is known, or is looked at.
            InsufficientScopeError: Its token does not allow it.
        """
        self.policy.check(method, headers, peer)
        if not (self._is_guarded and scope):
            return ANYBODY
        principal = self.guard.principal_of(headers, self._proxies.client_address(peer, headers))
        if scope not in principal.scopes:
            raise InsufficientScopeError(scope)
        return principal


def has_ambiguous_headers(headers: Headers) -> bool:
    """Tell whether a header that decides about the request is there more than once."""
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
        ContentEncodingNotSupportedError: The body is compressed.
    """
    if b"host" not in found and http_version == "1.1":
        raise MalformedHeadError("there is no Host header")
    if has_ambiguous_headers(headers):
        raise MalformedHeadError("a header that may be there once is there more than once")
    if b"content-encoding" in found and found[b"content-encoding"].strip().lower() not in _UNCOMPRESSED:
        # What it grows to is bounded by nothing that is known of it, and the event loop would be blocked meanwhile.
        raise ContentEncodingNotSupportedError(found[b"content-encoding"][:_MAX_SHOWN].decode("latin-1"))
