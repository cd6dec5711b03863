"""Proxies of the environment: one rule for the client and for the command line."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit, urlunsplit

from verl_agent_env.addresses import is_loopback_host

_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - not listened on
"""Addresses that lead to this machine when they are connected to."""


def proxy_for(url: str) -> str:
    """Choose the proxy for requests to ``url``, as ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say.

    This machine is never asked through a proxy, which would ask its own.

    Returns:
        URL of the proxy; empty for a direct connection.
    """
    target = urlsplit(url)
    host = (target.hostname or "").rstrip(".")
    if is_loopback_host(host) or host in _UNSPECIFIED:
        return ""
    named = urllib.request.getproxies_environment()
    place = f"{host}:{target.port}" if target.port else host
    if urllib.request.proxy_bypass(place) or _is_exempt(host, named.get("no", "")):
        return ""
    proxy = named.get(target.scheme) or named.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _is_exempt(host: str, exempt: str) -> bool:
    """Tell whether ``NO_PROXY`` names a host in a way that Python does not read: by a network, in brackets, by ``*`` among others or before a domain."""
    for name in re.split(r"[\s,]+", exempt.lower()):
        if name.startswith("*.") and host.endswith(name[1:]):
            return True
        with contextlib.suppress(ValueError):
            if name == "*" or ip_address(host) in ip_network(name.strip("[]"), strict=False):
                return True
    return False


def shown(proxy: str) -> str:
    """Write a proxy's URL without its user and password."""
    parts = urlsplit(proxy)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
