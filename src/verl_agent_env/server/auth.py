"""Bearer tokens."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence


class TokenGuard:
    """Lets a request pass that carries one of the tokens; any request when there are none."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    @property
    def has_tokens(self) -> bool:
        """Whether a token is asked for at all."""
        return bool(self._tokens)

    def admits(self, authorization: bytes | None) -> bool:
        """Whether the ``Authorization`` header holds a known token."""
        if not self._tokens:
            return True
        given = _bearer_token(authorization)
        if given is None:
            return False
        # All tokens are compared, in constant time each: how long it takes says nothing of which one is near.
        return sum(hmac.compare_digest(given, token) for token in self._tokens) > 0

    def scope_of(self, authorization: bytes | None) -> bytes:
        """Whose a request is, told from all other holders of tokens; nobody's in particular where none is asked for.

        A digest of the token: only who has the token can know it.
        """
        given = _bearer_token(authorization) if self._tokens else None
        return b"" if given is None else hashlib.sha256(given).digest()


def _bearer_token(authorization: bytes | None) -> bytes | None:
    scheme, _, given = (authorization or b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else None
