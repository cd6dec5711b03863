"""Handler of the call that lists what environments there are: those of this project in full, all of them in pages."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from verl_agent_env.engine import inspection
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import Registry
from verl_agent_env.envs.search import find, row, rows
from verl_agent_env.errors import EnvironmentFailedError, VerlAgentEnvError
from verl_agent_env.server.api.queries import MAX_DIGITS, positive_number, query_of, whole_number
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import encode

logger = logging.getLogger(__name__)

MAX_ROWS = 1000
"""Of a page."""
DEFAULT_ROWS = 100
_PREFIX = "/api/environments/"
_PAGING = ("search", "tag", "max_ms", "offset", "limit")


class CatalogueHandlers:
    """Answers what environments there are."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._described: tuple[list[str], bytes] | None = None

    async def environments(self, request: Request) -> Response:
        """List the environments of this project and of entry points in full, or, with a query, a page of all that are known."""
        query = query_of(request)
        if not any(name in query for name in _PAGING):
            return Response(await self._all_described())
        offset = whole_number(query, "offset", 0, 0, 10**MAX_DIGITS)
        limit = whole_number(query, "limit", DEFAULT_ROWS, 1, MAX_ROWS)
        max_ms = positive_number(query, "max_ms")
        words = [word for text in query.get("search", ()) for word in text.split()]
        found = find(self._registry.all_specs(), words, query.get("tag", ()), max_ms)
        page = found[offset : offset + limit]
        following = offset + len(page)
        # In a thread: environments of this project say of themselves what they are.
        shown = await asyncio.to_thread(rows, page, self._registry)
        next_offset = following if following < len(found) else None
        return Response(encode({"environments": shown, "total": len(found), "next_offset": next_offset}))

    async def environment(self, request: Request) -> Response:
        """Describe one environment in full, also one of the catalogue's packages."""
        name = request.path.removeprefix(_PREFIX)
        try:
            # In a thread: it imports the environment's package.
            return Response(encode(await asyncio.to_thread(_describe, name, self._registry)))
        except VerlAgentEnvError:
            raise
        except Exception as fault:
            logger.warning("describing an environment kind failed", exc_info=True, extra={"env_name": name})
            raise EnvironmentFailedError("", type(fault).__name__) from fault

    async def _all_described(self) -> bytes:
        names = self._registry.names()
        if self._described is None or self._described[0] != names:
            # In a thread: it imports them all.
            described = await asyncio.to_thread(_describe_all, self._registry)
            self._described = names, encode({"environments": described})
        return self._described[1]


def _describe_all(registry: Registry) -> list[dict[str, Any]]:
    described = []
    for spec in registry.specs():
        if spec.family is not None:
            # Its package would be imported; a page has its row.
            continue
        try:
            described.append(_describe(spec.name, registry))
        except Exception:
            # Another package's environment is broken, in whatever way: the others are still there.
            logger.warning(
                "describing an environment kind failed; the catalogue leaves it out",
                exc_info=True,
                extra={"env_name": spec.name},
            )
    return described


def _describe(name: str, registry: Registry) -> dict[str, Any]:
    """Describe an environment in full, whose code is imported for it."""
    kind = registry.kind(name)
    return {
        **row(registry.spec(name), registry),
        "installed": True,
        "description": kind.description,
        "execution": kind.execution,
        "deterministic": kind.deterministic,
        "kwargs_schema": kind.arguments_schema(),
        "argument_groups": [{"title": title, "arguments": names} for title, names in kind.argument_groups()],
        "task_prompt": _task_prompt(kind),
        "tools": [tool.openai() for tool in getattr(kind.env_class, "tools", ())],
        "render_modes": inspection.render_modes(kind.env_class),
    }


def _task_prompt(kind: EnvKind) -> str | None:
    try:
        return kind.default_task_prompt()
    except Exception:
        logger.debug("reading a task prompt failed", exc_info=True, extra={"env_name": kind.name})
        return None
