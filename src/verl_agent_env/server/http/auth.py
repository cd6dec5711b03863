"""Decides by its bearer token whose a request is."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

from verl_agent_env.errors import UnauthorizedError
from verl_agent_env.server.http.attempts import FailedAttempts
from verl_agent_env.server.http.headers import PEER_HEADER, PRINCIPAL_HEADER
from verl_agent_env.server.http.tokens import ANYBODY, Principal, digest_of, read_token_file

logger = logging.getLogger(__name__)

current_principal: ContextVar[Principal] = ContextVar("current_principal", default=ANYBODY)
"""Whose the request at work is, for what calls the API on its behalf."""


class TokenGuard:
    """Knows the tokens; without any, everybody may do everything."""

    def __init__(
        self,
        tokens: Sequence[str] = (),
        path: str = "",
        *,
        peer_secret: str = "",
        attempts: FailedAttempts | None = None,
    ) -> None:
        """Know these tokens.

        Args:
            tokens: Those without a name, which may do everything.
            path: File with others; see :mod:`~verl_agent_env.server.http.tokens`.
            peer_secret: What other workers show; none are let in without one.
            attempts: Counts those that are not known.

        Raises:
            ValueError: The file is wrong.
        """
        self._plain = {
            digest_of(token.encode()): Principal(key_scope=digest_of(token.encode())) for token in tokens
        }
        self._path = path
        self._peer_secret = peer_secret.encode()
        self._attempts = attempts or FailedAttempts()
        self.has_tokens = bool(tokens or path)
        """Whether a token is asked for at all."""
        self._by_digest: dict[bytes, Principal] = {}
        self._seen: dict[bytes, Principal] = {}
        """By headers that were looked at before: a token that works goes on working while others are tried."""
        self._read()

    def reload(self) -> None:
        """Read the file again; if it is wrong, what was known holds on."""
        try:
            self._read()
        except ValueError:
            logger.exception("reading the token file failed; the tokens stay as they were")
        else:
            logger.info("token file read", extra={"tokens": len(self._by_digest)})

    def principal_of(self, headers: Mapping[bytes, bytes], address: str) -> Principal:
        """Return the holder of the request's token.

        Args:
            headers: Of the request.
            address: Of the client.

        Raises:
            UnauthorizedError: It shows no token that is known.
            TooManyAttemptsError: Too many that are not known came from the address.
        """
        if not self.has_tokens:
            return ANYBODY
        if PEER_HEADER in headers and self._is_peer(headers[PEER_HEADER]):
            return _named_by_peer(headers.get(PRINCIPAL_HEADER))
        authorization = headers.get(b"authorization", b"")
        principal = self._seen.get(authorization)
        if principal is not None:
            return principal
        given = _bearer_token(authorization)
        if given is None:
            raise UnauthorizedError
        self._attempts.require_allowed(address)
        digest = digest_of(given)
        principal = self._by_digest.get(digest)
        if principal is None:
            self._attempts.count(address)
            raise UnauthorizedError
        if len(authorization) == len(b"Bearer ") + len(given):
            # With spaces around the token, which count for nothing, a header could be written in any number of ways.
            self._seen[authorization] = principal
        return principal

    def _is_peer(self, shown: bytes) -> bool:
        return bool(self._peer_secret) and hmac.compare_digest(shown, self._peer_secret)

    def _read(self) -> None:
        """Read the file.

        Digests are what is compared: the time to find one tells nothing about the tokens.
        """
        named = read_token_file(self._path) if self._path else {}
        for digest in self._plain.keys() & named.keys():
            raise ValueError(f"'{named[digest].name}' has a token that is also given without a name")
        self._by_digest = {**named, **self._plain}
        self._seen = {}


@functools.lru_cache(maxsize=1024)
def peer_secret_of(supervisor: str) -> str:
    """Derive the secret with which workers call each other: only who knows the supervisor's id can."""
    return hashlib.blake2b(supervisor.encode(), key=b"calls between workers", digest_size=32).hexdigest()


def _named_by_peer(named: bytes | None) -> Principal:
    if named is None:
        return ANYBODY
    try:
        return _principal_from(named.decode("latin-1"))
    except ValueError:
        raise UnauthorizedError from None


_principal_from = functools.lru_cache(maxsize=1024)(Principal.from_text)


def _bearer_token(authorization: bytes) -> bytes | None:
    scheme, _, given = authorization.partition(b" ")
    given = given.strip()
    return given if scheme.lower() == b"bearer" and given else None
