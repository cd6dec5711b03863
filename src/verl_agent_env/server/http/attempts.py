"""Counts tokens that were not known, by address: who tries many has to wait."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from verl_agent_env.errors import TooManyAttemptsError
from verl_agent_env.server.http.connections import network_of

logger = logging.getLogger(__name__)

_FREE_ATTEMPTS = 10
"""That nobody has to wait for: a wrong setting is soon noticed."""
_ATTEMPTS_PER_S = 0.2
_MAX_ADDRESSES = 8192


class FailedAttempts:
    """Slows down who guesses: ten wrong tokens at once, then one in five seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Attempts counted, and when: they are forgotten at ``_ATTEMPTS_PER_S``. The address that failed last comes
        last."""

    def require_allowed(self, address: str) -> None:
        """Raise if a token from this address must not be looked at now.

        Raises:
            TooManyAttemptsError: Too many were wrong.
        """
        known = self._addresses.get(network_of(address))
        if known is not None and self._left(known) > _FREE_ATTEMPTS - 1:
            raise TooManyAttemptsError

    def count(self, address: str) -> None:
        """Count a wrong token."""
        network = network_of(address)
        known = self._addresses.pop(network, (0.0, 0.0))
        failed = self._left(known) + 1
        self._addresses[network] = (failed, self._clock())
        if len(self._addresses) > _MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        if failed > _FREE_ATTEMPTS - 1:
            logger.warning(
                "too many unknown tokens from one address: slowed down", extra={"address": address}
            )

    def _left(self, known: tuple[float, float]) -> float:
        count, at = known
        return max(0.0, count - (self._clock() - at) * _ATTEMPTS_PER_S)
