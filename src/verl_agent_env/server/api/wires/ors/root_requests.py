"""Entry of ORS' requests at the root: its own client cannot put a path before its calls."""

from __future__ import annotations

from starlette.types import Scope

ORS_PREFIX = "/ors"
_MARKS = frozenset({b"x-session-id", b"x-deployment"})
"""Headers that only its clients send."""


def as_ors(scope: Scope) -> Scope:
    """Give the request as one below ``/ors``, if it is one of ORS; else as it is.

    ORS' clients show their key in a header of its own: it counts as a bearer token, where there is none.
    """
    path: str = scope["path"]
    headers = dict(scope["headers"])
    if not path.startswith(f"{ORS_PREFIX}/"):
        if _MARKS.isdisjoint(headers):
            return scope
        path = f"{ORS_PREFIX}/{path.lstrip('/')}"
    key = headers.get(b"x-api-key")
    if key is None or b"authorization" in headers:
        return {**scope, "path": path}
    return {**scope, "path": path, "headers": [*scope["headers"], (b"authorization", b"Bearer " + key)]}
