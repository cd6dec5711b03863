"""IP addresses, in the spellings that people and URLs have for them, and names of the loopback interface."""

from __future__ import annotations

import functools
import ipaddress

LOOPBACK_NAME = "localhost"


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address; None if the text is something else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def bare_host(host: str) -> str:
    """Return a host as sockets take it: an IPv6 address without brackets."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def url_host(host: str) -> str:
    """Return a host as it stands before a port: an IPv6 address in brackets, whether it has them or not."""
    bare = bare_host(host)
    return f"[{bare}]" if ":" in bare else bare


def without_mapping(address: str) -> str:
    """Return the IPv4 address of a client that a socket for both families shows as ``::ffff:192.0.2.1``; others as they are."""
    mapped = getattr(parse_address(address), "ipv4_mapped", None)
    return address if mapped is None else str(mapped)


@functools.lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Tell whether a text is an IP address of the loopback interface; a name is none."""
    parsed = parse_address(address)
    if parsed is None:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def is_loopback_host(host: str) -> bool:
    """Tell whether a host, a name or an address, is this machine by its loopback interface.

    Names below ``localhost`` are so by definition (RFC 6761): no name server can let them point elsewhere.
    """
    return host == LOOPBACK_NAME or host.endswith(f".{LOOPBACK_NAME}") or is_loopback(host)
