"""Bearer tokens."""

from __future__ import annotations

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
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        given = given.strip()
        # All tokens are compared, in constant time each: how long it takes says nothing of which one is near.
        return sum(hmac.compare_digest(given, token) for token in self._tokens) > 0
