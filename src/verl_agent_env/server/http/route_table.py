"""Finds the routes of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable

from verl_agent_env.server.http.types import Route

_ENVIRONMENT_PREFIX = "/api/environment/"
_OF_ENVIRONMENT = re.compile(
    rf"{_ENVIRONMENT_PREFIX}(?!initialize(?:/|\Z))([^/]{{1,128}})(.*)", re.DOTALL
).fullmatch
_NAME = re.compile(r"\{(?:env_name|run_id)\}")


class RouteTable:
    """Routes by path: of one environment by the part after its id, of a name by the parts around it, or as a whole."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Hold these routes."""
        self._by_verb: dict[str, dict[str, Route]] = {}
        self._by_name_verb: dict[str, dict[str, dict[str, Route]]] = {}
        self._by_prefix: dict[str, dict[str, Route]] = {}
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            parts = _NAME.split(route.path)
            if route.path.endswith("{episode_id}"):
                table = self._by_prefix.setdefault(route.path.removesuffix("{episode_id}"), {})
            elif len(parts) == 2:
                prefix, verb = parts
                table = self._by_name_verb.setdefault(prefix, {}).setdefault(verb, {})
            elif route.path.startswith(_ENVIRONMENT_PREFIX + "{env_id}"):
                table = self._by_verb.setdefault(route.path.partition("{env_id}")[2], {})
            else:
                table = self._by_path.setdefault(route.path, {})
            table[route.method] = route

    def match(self, path: str) -> tuple[dict[str, Route], str] | None:
        """Give the routes of a path by method, and the environment's id in it; ``None`` if there is no such path."""
        found = _OF_ENVIRONMENT(path)
        if found is not None:
            env_id, verb = found.groups()
            routes = self._by_verb.get(verb)
            if routes is not None:
                return routes, env_id
        routes = self._by_path.get(path)
        if routes is None:
            for prefix, by_verb in self._by_name_verb.items():
                if path.startswith(prefix):
                    # Names may have slashes of their own.
                    routes = by_verb.get(path[path.rfind("/") :])
                    if routes is None and len(path) > len(prefix):
                        # A path that ends with the name.
                        routes = by_verb.get("")
        if routes is None:
            cut = path.rfind("/") + 1
            routes = self._by_prefix.get(path[:cut]) if cut < len(path) else None
        return None if routes is None else (routes, "")
