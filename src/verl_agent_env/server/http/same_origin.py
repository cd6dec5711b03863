"""Keeps web pages of other sites away from a server that the visitor's browser can reach.

A page can send requests to any address that the browser reaches. It cannot choose the headers ``Host``, ``Origin`` and
``Sec-Fetch-Site``, which the browser sets itself: they tell whether the page is one of this server's own. ``Host`` has to
be known because a page may let its own name point to this server's address (DNS rebinding), and is then the same origin.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from verl_agent_env.addresses import is_loopback_host
from verl_agent_env.errors import ContentTypeNotAllowedError, HostNotAllowedError, OriginNotAllowedError
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.types import Headers

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,254}?)\.?)(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - as the host of a URL it means this machine
_MAX_CACHED_HOSTS = 1024
_MAX_SHOWN = 256
_BROWSER_HEADERS = frozenset({b"cookie", b"origin", b"sec-fetch-site"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_ANY = "*"

_EXPOSED = b"X-Request-ID, Retry-After"
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, X-Request-ID, Mcp-Protocol-Version, Mcp-Session-Id",
    ),
    (b"access-control-max-age", b"600"),
)


class HostPort(NamedTuple):
    """The host of a URL, in lower case and without the final dot of a name, and its port if it names one."""

    host: str
    port: int | None


class SameOriginPolicy:
    """Decides whether a request may come from where it says that it comes from.

    A request without ``Origin``, ``Sec-Fetch-Site`` and ``Cookie``, as other programs than browsers send it, needs no
    more than a known ``Host``, and that only on a loopback address or where the operator listed the hosts.
    """

    def __init__(
        self,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        own_names: Iterable[str] = (),
        *,
        has_tokens: bool = False,
    ) -> None:
        """A policy of one server.

        Args:
            allowed_hosts: Names and addresses that clients may call the server by, beside those of this machine;
                ``*.example.org`` means all names below it, ``*`` all names.
            allowed_origins: Origins of other sites whose pages may use the server, ``https://app.example.org``.
            own_names: Names and addresses of this machine.
            has_tokens: Whether calls need a bearer token, which no page of another site has.
        """
        hosts = {host.lower().rstrip(".") for host in allowed_hosts}
        self._allows_any_host = _ANY in hosts
        self._is_strict = bool(hosts) and not self._allows_any_host
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._hosts = {normalized_host(host) for host in (*hosts, *own_names, socket.gethostname())} - {""}
        self._origins = frozenset(map(normalized_origin, allowed_origins))
        self._has_tokens = has_tokens
        self._known: set[tuple[bytes, str]] = set()
        """``Host`` headers that were accepted before, as they were sent, each with the address at which they arrived."""

    def check(self, method: str, headers: Mapping[bytes, bytes], peer: Peer) -> None:
        """Raise unless the request may be served.

        Raises:
            HostNotAllowedError: The server is not known by this ``Host``.
            OriginNotAllowedError: A page of another site sent it, or made the browser send it.
            ContentTypeNotAllowedError: A browser sent it with a body that a plain form could have sent.
        """
        host = headers.get(b"host")
        # Nearly always it was accepted before.
        if (
            (host, peer.own_address) not in self._known
            and host is not None
            and (self._is_strict or peer.arrived_on_loopback)
        ):
            self._require_known(host, peer)
        if not _BROWSER_HEADERS.isdisjoint(headers):
            self._check_browser(method, headers, peer)

    def grants(self, method: str, headers: Mapping[bytes, bytes]) -> Headers:
        """Headers that let a page of a listed origin read the answer (CORS); none for any other."""
        origin = headers.get(b"origin")
        if origin is None or not self._is_listed(origin):
            return ()
        granted = (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )
        return (*granted, *_PREFLIGHT) if method == "OPTIONS" else granted

    def _check_browser(self, method: str, headers: Mapping[bytes, bytes], peer: Peer) -> None:
        origin = headers.get(b"origin")
        if origin is not None:
            if not self._is_listed(origin):
                self._require_own(origin, headers.get(b"host", b""), peer)
        elif headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not _is_link(
            method, headers
        ):
            raise OriginNotAllowedError("another site")
        if method not in _READING and _JSON_TYPE.fullmatch(headers.get(b"content-type", b"")) is None:
            raise ContentTypeNotAllowedError(_shown(headers.get(b"content-type", b"")))

    def _is_listed(self, origin: bytes) -> bool:
        return bool(self._origins) and normalized_origin(origin.decode("latin-1")) in self._origins

    def _require_own(self, origin: bytes, host: bytes, peer: Peer) -> None:
        """Raise unless the page came from the server that it calls."""
        called, found = parse_host(host), _ORIGIN.fullmatch(origin.decode("latin-1"))
        page = parse_host(found[2].encode("latin-1")) if found is not None else None
        if called is None or found is None or page is None or called.host != page.host:
            raise OriginNotAllowedError(_shown(origin))
        default = _DEFAULT_PORTS[found[1].lower()]
        if (called.port or default) != (page.port or default):
            raise OriginNotAllowedError(_shown(origin))
        # Whoever can be called by any name could be called by the name of a page that has it point here. With tokens
        # that page still has none; anywhere else the name must be known.
        if not self._has_tokens and not self._allows_any_host:
            self._require_known(host, peer)

    def _require_known(self, host: bytes, peer: Peer) -> None:
        if self._allows_any_host:
            return
        parsed = parse_host(host)
        if parsed is None or not self._is_known(parsed.host, peer):
            raise HostNotAllowedError(_shown(host))
        if len(self._known) < _MAX_CACHED_HOSTS:
            self._known.add((host, peer.own_address))

    def _is_known(self, host: str, peer: Peer) -> bool:
        return (
            host in self._hosts
            or _is_local(host)
            or host == normalized_host(peer.own_address)
            or host.endswith(self._suffixes)
        )


def parse_host(raw: bytes) -> HostPort | None:
    """The parts of a ``Host`` header, ``None`` if it is malformed.

    ``EXAMPLE.org.:80`` is ``("example.org", 80)``, ``[::1]`` is ``("::1", None)``.
    """
    found = _HOST.fullmatch(raw.decode("latin-1"))
    if found is None:
        return None
    port = int(found[3]) if found[3] else None
    if port is not None and not 0 < port <= 65_535:
        return None
    if found[1] is None:
        return HostPort(found[2].lower(), port)
    try:
        return HostPort(str(ipaddress.IPv6Address(found[1])), port)
    except ValueError:
        return None


def normalized_host(host: str) -> str:
    """A name or address as :func:`parse_host` gives it: an IPv6 address without brackets, in its short form."""
    text = host.strip("[]").lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def normalized_origin(origin: str) -> str:
    """An origin in the form in which two of them are compared; empty if it is none of a web page's."""
    found = _ORIGIN.fullmatch(origin.strip())
    page = parse_host(found[2].encode("latin-1", "replace")) if found is not None else None
    if found is None or page is None:
        return ""
    scheme = found[1].lower()
    return f"{scheme}://{page.host}:{page.port or _DEFAULT_PORTS[scheme]}"


def is_local_host(host: str) -> bool:
    """Tell whether a text names the loopback interface, as an address or as ``Host`` of a request."""
    parsed = parse_host(host.encode("latin-1", "replace"))
    return _is_local(normalized_host(host) if parsed is None else parsed.host)


def _is_local(host: str) -> bool:
    return is_loopback_host(host) or host in _UNSPECIFIED


def _is_link(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether a request is a navigation: the browser shows the response, and no page reads it."""
    return (
        method in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest", b"document") == b"document"
    )


def _shown(header: bytes) -> str:
    return header[:_MAX_SHOWN].decode("latin-1")
