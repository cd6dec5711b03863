"""IP addresses and names of the loopback interface."""

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
