"""URLs of a Redis: one server, or the primary that a group of Sentinels agrees on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

SENTINEL_PORT = 26379
_DEFAULT_PORT = 6379
_SENTINEL = "+sentinel"
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?")
_OWN_OPTIONS = ("wait", "sentinel_username", "sentinel_password")

FORMS = (
    "the Redis URL cannot be read: write redis://[user:password@]host:port/0, rediss://…, unix:///path or "
    "redis+sentinel://[user:password@]host:port,host:port/service/0"
)


@dataclass(frozen=True)
class SentinelGroup:
    """The Sentinels that know the address of a primary."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    """Name under which they watch the primary."""
    username: str = ""
    """For the Sentinels themselves; the primary's is in the URL."""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class RedisUrl:
    """A URL, read."""

    plain: str = field(repr=False)
    """As redis-py takes it; with Sentinels, its host is one of theirs, and no Redis."""
    where: str
    """The URL without its secrets, for messages."""
    sentinels: SentinelGroup | None = None
    replicas: int = 0
    """How many replicas must have a write before it is acknowledged."""

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL.

        Options are those of redis-py (``db``, ``ssl_…``), ``wait=N``, and for Sentinels with a password of their own
        ``sentinel_username`` and ``sentinel_password``.

        Raises:
            ValueError: It is malformed; the message shows the forms, and never a password.
        """
        try:
            parts = urlsplit(url)
            given = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise ValueError(FORMS) from None
        options = dict(given)
        if len(options) != len(given) or not all(map(_is_known, options)):
            raise ValueError(FORMS)
        own = {name: options.pop(name) for name in _OWN_OPTIONS if name in options}
        wait = own.pop("wait", "0")
        if not wait.isdecimal() or int(wait) > 64:
            raise ValueError(FORMS)
        if parts.scheme.endswith(_SENTINEL):
            return _behind_sentinels(parts.scheme, parts.netloc, parts.path, options, own, int(wait))
        if own:
            raise ValueError(FORMS)
        query = f"?{urlencode(options)}" if options else ""
        plain = f"{url.partition('?')[0]}{query}"
        return cls(plain, _where(plain), replicas=int(wait))


def _is_known(option: str) -> bool:
    return option == "db" or option.startswith("ssl_") or option in _OWN_OPTIONS


def _where(plain: str) -> str:
    """Return the URL of one server without its secrets.

    Raises:
        ValueError: It is not the URL of a Redis.
    """
    try:
        parts = urlsplit(plain)
        port = parts.port
    except ValueError:
        raise ValueError(FORMS) from None
    if parts.scheme == "unix" and parts.path:
        return f"unix://{parts.path}"
    database = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not (database or "0").isdecimal():
        raise ValueError(FORMS)
    return f"{parts.scheme}://{parts.hostname}:{port or _DEFAULT_PORT}/{database or 0}"


def _behind_sentinels(
    scheme: str, netloc: str, path: str, options: Mapping[str, str], own: Mapping[str, str], replicas: int
) -> RedisUrl:
    credentials, at, hosts = netloc.rpartition("@")
    found = [_ADDRESS.fullmatch(host) for host in hosts.split(",")]
    service, _, database = path.strip("/").partition("/")
    addresses = tuple(
        (address[1] or address[2], int(address[3] or SENTINEL_PORT))
        for address in found
        if address is not None
    )
    if (
        len(addresses) != len(found)
        or not all(0 < port < 65_536 for _, port in addresses)
        or not re.fullmatch(r"[A-Za-z0-9_.-]+", service)
        or not (database or "0").isdecimal()
    ):
        raise ValueError(FORMS)
    host, port = addresses[0]
    shown = f"[{host}]" if ":" in host else host
    plain_scheme = scheme.removesuffix(_SENTINEL)
    query = f"?{urlencode(options)}" if options else ""
    plain = f"{plain_scheme}://{credentials}{at}{shown}:{port}/{database or 0}{query}"
    # For its errors, and for whatever else is wrong with it.
    _where(plain)
    names = ",".join(
        f"[{name}]:{number}" if ":" in name else f"{name}:{number}" for name, number in addresses
    )
    group = SentinelGroup(
        addresses,
        service,
        own.get("sentinel_username", ""),
        own.get("sentinel_password", ""),
    )
    return RedisUrl(plain, f"{scheme}://{names}/{service}/{database or 0}", group, replicas)
