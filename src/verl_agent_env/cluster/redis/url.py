"""URLs of a Redis: one server, or the primary that a group of Sentinels agrees on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

SENTINEL_PORT = 26379
_DEFAULT_PORT = 6379
_SENTINEL = "+sentinel"
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?")
_SERVICE = re.compile(r"[A-Za-z0-9_.-]+")
_MAX_REPLICAS = 64
_YES_NO = {"yes": True, "no": False}

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
    fails_over: bool = False
    """Whether a replica may take the primary's place, and lack its last writes."""
    replicas: int = 0
    """How many replicas must have a write before it is acknowledged."""

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL.

        Options besides those of redis-py (``db``, ``ssl_…``):

        - ``wait=N``: how many replicas must have a write before it is acknowledged;
        - ``failover=yes``: the address leads to whichever server is the primary, as providers have it;
        - ``username_file``, ``password_file``: files whose texts are used in place of the URL's user and password;
        - ``sentinel_username``, ``sentinel_password``, ``sentinel_password_file``: for Sentinels with a password of their own.

        Raises:
            ValueError: It is malformed, or a file cannot be read; the message shows no password.
        """
        try:
            parts = urlsplit(url)
            given = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise ValueError(FORMS) from None
        if "#" in url:
            # A password that should have %23: what comes before it would be taken for host and port, and shown.
            raise ValueError(FORMS)
        own, others = _Options.taken_out_of(dict(given))
        has_sentinels = parts.scheme.endswith(_SENTINEL)
        if len({name for name, _ in given}) != len(given) or (own.is_for_sentinels and not has_sentinels):
            raise ValueError(FORMS)
        credentials, _, hosts = parts.netloc.rpartition("@")
        credentials = own.credentials(credentials)
        query = f"?{urlencode(others)}" if others else ""
        if has_sentinels:
            return _behind_sentinels(parts.scheme, credentials, hosts, parts.path, query, own)
        plain = f"{parts.scheme}://{credentials}{hosts}{parts.path}{query}"
        return cls(plain, _where(plain), None, own.fails_over, own.replicas)


def in_order(urls: Sequence[str]) -> list[str]:
    """Return the URLs of several Redis in an order that does not depend on the one in which they are given.

    Raises:
        ValueError: One is malformed, or two lead to the same place.
    """
    places = {RedisUrl.parse(url).where: url for url in urls}
    if len(places) < len(urls):
        raise ValueError("each Redis of --redis-log must be another one, or another database of it")
    return [places[where] for where in sorted(places)]


@dataclass(frozen=True)
class _Options:
    """Options of ours; a name that ends with ``_file`` means the content of the file."""

    wait: str = "0"
    failover: str = "no"
    username_file: str = ""
    password_file: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    sentinel_password_file: str = ""

    def __post_init__(self) -> None:
        if not self.wait.isdecimal() or int(self.wait) > _MAX_REPLICAS or self.failover not in _YES_NO:
            raise ValueError(FORMS)

    @classmethod
    def taken_out_of(cls, options: dict[str, str]) -> tuple[_Options, Mapping[str, str]]:
        """Separate them from those of redis-py.

        Raises:
            ValueError: An option is neither, or has no such value.
        """
        own = {name: options.pop(name) for name in cls.__dataclass_fields__ if name in options}
        if not all(name == "db" or name.startswith("ssl_") for name in options):
            raise ValueError(FORMS)
        return cls(**own), options

    @property
    def fails_over(self) -> bool:
        return _YES_NO[self.failover]

    @property
    def replicas(self) -> int:
        return int(self.wait)

    @property
    def is_for_sentinels(self) -> bool:
        return bool(self.sentinel_username or self.sentinel_password or self.sentinel_password_file)

    def credentials(self, given: str) -> str:
        """Return user and password as they are written before the host, with the sign that ends them.

        Raises:
            ValueError: They are given in a file and in the URL, or the file cannot be read.
        """
        if not (self.username_file or self.password_file):
            return f"{given}@" if given else ""
        if given:
            raise ValueError(FORMS)
        username, password = _text_of(self.username_file), _text_of(self.password_file)
        return f"{quote(username, safe='')}:{quote(password, safe='')}@"

    def sentinel_secret(self) -> str:
        """Return the password of the Sentinels; empty without one."""
        return self.sentinel_password or _text_of(self.sentinel_password_file)


def _text_of(path: str) -> str:
    """Return the text of a file without the line break at its end; empty without a file.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n") if path else ""
    except (OSError, UnicodeDecodeError) as unread:
        reason = getattr(unread, "strerror", None) or "it is no text"
        raise ValueError(f"the file '{path}' that the Redis URL names cannot be read: {reason}") from None


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
    database = _database(parts)
    if parts.scheme == "unix" and parts.path:
        return f"unix://{unquote(parts.path)}" + (f"?db={database}" if database else "")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(FORMS)
    return f"{parts.scheme}://{parts.hostname}:{port or _DEFAULT_PORT}/{database}"


def _database(parts: SplitResult) -> int:
    """Return the number that redis-py reads: that of ``?db=``, or else the path, which a Unix socket needs itself.

    Raises:
        ValueError: It is no number.
    """
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    digits = [dict(parse_qsl(parts.query)).get("db", path or "0"), path or "0"]
    if not all(each.isdecimal() for each in digits):
        raise ValueError(FORMS)
    return int(digits[0])


def _behind_sentinels(
    scheme: str, credentials: str, hosts: str, path: str, query: str, own: _Options
) -> RedisUrl:
    found = [_ADDRESS.fullmatch(host) for host in hosts.split(",")]
    addresses = tuple(
        ((address[1] or address[2]).lower(), int(address[3] or SENTINEL_PORT))
        for address in found
        if address is not None
    )
    service, _, database = path.strip("/").partition("/")
    database = database or "0"
    is_well_formed = (
        len(addresses) == len(found)
        and all(0 < port < 65_536 for _, port in addresses)
        and _SERVICE.fullmatch(service)
        and database.isdecimal()
    )
    if not is_well_formed:
        raise ValueError(FORMS)
    shown = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    plain = f"{scheme.removesuffix(_SENTINEL)}://{credentials}{shown[0]}/{database}{query}"
    # Raises where the scheme, user or password is malformed.
    database = _where(plain).rpartition("/")[2]
    group = SentinelGroup(addresses, service, own.sentinel_username, own.sentinel_secret())
    return RedisUrl(plain, f"{scheme}://{','.join(shown)}/{service}/{database}", group, True, own.replicas)
