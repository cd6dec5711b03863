"""The one writer of errors: what a client gets in place of a success."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from verl_agent_env.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ContentEncodingNotSupportedError,
    InsufficientScopeError,
    UnauthorizedError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http.types import PROBLEM_JSON, Headers, Response

CLOSE = (b"connection", b"close")


def problem_response(error: VerlAgentEnvError, request_headers: Mapping[bytes, bytes]) -> Response:
    """Write an error as problem details (RFC 9457), with the headers that belong to it.

    Args:
        error: The error.
        request_headers: Of the request that failed.
    """
    headers: Headers = ()
    if isinstance(error, UnauthorizedError):
        headers += ((b"www-authenticate", b"Bearer"),)
    if isinstance(error, InsufficientScopeError):
        shown = b'Bearer error="insufficient_scope", scope="%b"' % error.scope.encode()
        headers += ((b"www-authenticate", shown),)
    if error.status in (429, 503):
        headers += ((b"retry-after", b"%d" % error.retry_after_s),)
    if isinstance(error, ContentEncodingNotSupportedError):
        headers += ((b"accept-encoding", b"identity"),)
    if isinstance(error, BodyTimeoutError | BodyTooLargeError) or b"expect" in request_headers:
        # The rest of the body is not read, or may never be sent: the connection cannot be used again.
        headers += (CLOSE,)
    return Response(orjson.dumps(error.to_problem()), PROBLEM_JSON, error.status, headers)
