"""Settings, as frozen value objects. They are passed as arguments; only ``cli`` and ``app`` read the process environment."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from verl_agent_env.addresses import bare_host, parse_address
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, Durability

ENVIRONMENT_PREFIX = "VERL_AGENT_ENV_"

SettingsT = TypeVar("SettingsT")

VERBATIM = "is_verbatim"
"""Mark, in a field's metadata, of lists whose items may hold commas on the command line."""

FILE = "is_file"
"""Mark of fields that name a file, for the completion of a shell."""
VALUES = "values"
"""Key, in a field's metadata, of the values that it may have."""
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")

DURABILITIES: tuple[str, ...] = get_args(Durability)

LISTEN_BACKLOG = 16_384
"""Connections that wait to be accepted, on each socket."""
NODE_TAKEN_EXIT_CODE = 3
"""Of ``serve``, where another node of the cluster has its name or its addresses."""

_MAX_WORKERS = 512
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){1,8}")
"""A path that a proxy may put before the server's own."""
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class HostLimits:
    """Limits of the environments of one worker."""

    max_envs: int = 1_000_000
    """Live environments of one worker."""
    max_envs_per_run: int = 1_000_000
    """Live environments of one ``run_id``."""
    default_ttl_s: float = 3600.0
    """Seconds without a call after which an environment is closed, when its client names none."""
    max_step_s: float = 30.0
    """Seconds that one call of an environment may take in a thread or as a coroutine."""
    max_threads: int = 64
    """Threads for environments that block."""
    max_compute_threads: int = 2
    """Threads for environments that compute for more than a few milliseconds."""
    max_stuck_threads: int = 64
    """Limit of threads blocked by calls that timed out; beyond it, environments that block are refused."""
    max_action_bytes: int = 262_144
    """Bytes of one action as JSON; a longer one is refused and changes nothing."""
    max_arguments_bytes: int = 2_097_152
    """Bytes, as JSON, of the options of a reset, and of an environment's keyword arguments where they are kept in Redis."""
    max_journal_bytes: int = 65_536
    """Actions kept for each environment. Beyond it, one that is in memory alone can show no trajectory and cannot be
    replayed; one that is kept in Redis begins its history anew from its state, if its kind has one."""
    max_kept_bytes: int = 8_388_608
    """Actions kept for an environment in Redis whose kind has no state to begin anew from; then its steps are refused."""
    max_answer_bytes: int = 67_108_864
    """Bytes of an answer, and of all answers of one batch; items beyond it are refused, and nothing is done for them."""
    max_batch_compute_s: float = 240.0
    """Seconds that the environments which one batch makes may compute, as far as they compute in threads."""
    closed_memory_s: float = 600.0
    """Seconds for which a closed environment's id is known as closed."""
    closed_memory_size: int = 100_000
    """Limit of the number of ids known as closed."""
    yield_after_s: float = 0.005
    """Seconds of work after which a batch yields to other requests."""

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True)
class HttpLimits:
    """Limits of one request."""

    max_body_bytes: int = 64 * 1024 * 1024
    """Bytes of a body; a batch of 100,000 steps takes about 25 MB."""
    max_request_memory_bytes: int = 384 * 1024 * 1024
    """Bytes that large requests under way may take of a worker's memory, all together."""
    max_batch_size: int = 131_072
    """Items of a batch."""
    body_timeout_s: float = 60.0
    """Seconds in which a body must arrive."""
    idempotency_memory_s: float = 600.0
    """How long the answer to an ``Idempotency-Key`` is kept; which request a key belongs to is known for an hour at
    least."""
    idempotency_memory_bytes: int = 64 * 1024 * 1024
    """Bytes of kept answers, the oldest going first; without Redis a quarter as much again holds the keys."""

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of connections, for a ``serve`` without a proxy before it."""

    max_connections: int = 32_768
    """Connections of a worker at one time; fewer where the system lets it open fewer files."""
    max_connections_per_address: int = 16_384
    """Of these, connections from one address (from one /64 network of IPv6) that is not this machine's own and not one of
    ``trusted_proxies``."""
    header_timeout_s: float = 15.0
    """Seconds in which the head of a request must arrive, from the opening of the connection or its first byte on."""
    max_header_bytes: int = 65_536
    """Bytes of the head of a request, and of the trailers after its body."""
    max_headers: int = 128
    """Headers of a request."""
    max_url_bytes: int = 8_192
    """Bytes of a request's target."""
    send_timeout_s: float = 60.0
    """Seconds after which the connection of a client that hardly reads its response is closed."""

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True)
class TlsSettings:
    """Encryption; without a certificate, everything is plain HTTP."""

    tls_cert: str = field(default="", metadata={FILE: True})
    """File with the server's certificate and those that lead to its CA, PEM. Then all ports of a node speak TLS, and
    workers call each other over it."""
    tls_key: str = field(default="", metadata={FILE: True})
    """File with the certificate's private key, PEM, without a password; the same file when not given."""
    tls_client_ca: str = field(default="", metadata={FILE: True})
    """File with the CA, PEM, of clients' certificates; then nobody gets in without one."""
    tls_peer_ca: str = field(default="", metadata={FILE: True})
    """File with the CA, PEM, of the other workers' certificates; ``tls_client_ca`` when not given, else the system's."""

    def __post_init__(self) -> None:
        if not self.tls_cert and (self.tls_key or self.tls_client_ca or self.tls_peer_ca):
            raise ValueError("tls_key, tls_client_ca and tls_peer_ca need a certificate, tls_cert")


@dataclass(frozen=True)
class ClusterSettings:
    """Workers of this machine, and the cluster that they belong to."""

    workers: int = 1
    """Worker processes of this node."""
    worker_port: int = 0
    """Port of the first worker's own address, the others follow; 0 takes the one after ``port``."""
    node: str = ""
    """Name of this node, unique in the cluster; needed with ``redis``."""
    advertise: str = ""
    """Host name or address that the other nodes and nginx reach this node by; the node's name when not given."""
    redis: str = field(default="", repr=False)
    """URL of the Redis that the nodes of a cluster share."""
    redis_logs: tuple[str, ...] = field(default=(), repr=False, metadata={VERBATIM: True})
    """URLs of the Redis that keep the steps of environments, each of a part of the slots; without any, ``redis`` keeps them. All
    nodes of a cluster have the same ones, in any order."""
    namespace: str = "verl_agent_env"
    """Prefix of all keys in Redis: clusters of different namespaces do not see each other."""
    lease_s: float = 5.0
    """Seconds after its last heartbeat at which a worker counts as dead."""
    slots: int = field(default=NUM_SLOTS, metadata={VALUES: (NUM_SLOTS, MANY_SLOTS)})
    """Slots of the cluster, 4096 or 65536; the same for all of its nodes, as long as its data set lasts."""
    expected_nodes: int = 1
    """Nodes that are started together. ``/readyz`` says yes when so many are there and every slot is in its place, or 15
    seconds after the worker has joined the cluster."""
    durability: tuple[str, ...] = ()
    """How environments of a name survive the death of their worker, as ``verl_env/sokoban-v0=relaxed``: ``journal``, ``snapshot``,
    ``relaxed`` or ``none``."""
    peer_timeout_s: float = 120.0
    """Seconds that a call to another worker may take; more than the longest batch takes."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= _MAX_WORKERS:
            raise ValueError(f"workers must be from 1 to {_MAX_WORKERS}, not {self.workers}")
        if not 0 <= self.worker_port <= 65_535:
            raise ValueError(f"worker_port must be from 0 to 65535, not {self.worker_port}")
        if self.node and not _HOST_NAME.fullmatch(self.node):
            raise ValueError(f"node must be a host name or an IPv4 address, not '{self.node}'")
        if self.advertise and not (_HOST_NAME.fullmatch(self.advertise) or _is_ipv6(self.advertise)):
            raise ValueError(f"advertise must be a host name or an address, not '{self.advertise}'")
        for item in self.durability:
            name, _, durability = item.partition("=")
            if not name or durability not in DURABILITIES:
                raise ValueError(f"durability must be name=one of {', '.join(DURABILITIES)}, not '{item}'")
        if self.slots not in (NUM_SLOTS, MANY_SLOTS):
            raise ValueError(f"slots must be {NUM_SLOTS} or {MANY_SLOTS}, not {self.slots}")
        if self.expected_nodes < 1:
            raise ValueError(f"expected_nodes must be at least 1, not {self.expected_nodes}")
        if not (self.lease_s >= 0.5 and self.peer_timeout_s > 0):
            raise ValueError("lease_s must be at least 0.5 and peer_timeout_s above 0")

    def require_whole(self) -> None:
        """Check that settings which need each other are all given.

        Raises:
            ValueError: One of them is missing.
        """
        if bool(self.redis) != bool(self.node):
            raise ValueError(
                "a node of a cluster needs both a name (--node) and a Redis to meet the others in (--redis)"
            )
        if self.redis_logs and not self.redis:
            raise ValueError(
                "--redis-log is for nodes of a cluster, which meet in a Redis of their own (--redis)"
            )

    @property
    def is_shared(self) -> bool:
        """True if nodes meet in a store, which also keeps what happens to environments."""
        return bool(self.redis)

    @property
    def is_pool(self) -> bool:
        """True unless everything is in the memory of one process."""
        return self.workers > 1 or self.is_shared


@dataclass(frozen=True)
class ServerSettings:
    """One server process."""

    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for all of IPv4, ``::`` for all of both families."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    auth_tokens: tuple[str, ...] = field(default=(), repr=False, metadata={VERBATIM: True})
    """Accepted bearer tokens, which allow everything; without any, and without ``auth_file``, no token is asked for."""
    auth_file: str = field(default="", metadata={FILE: True})
    """File with tokens that have names and scopes, a line each: name, scopes (``read``, ``run``, ``admin``), token or
    ``sha256:`` and its digest. Read again at SIGHUP."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names and addresses that clients call the server by, beside those of this machine; ``*.example.org`` means
    all subdomains, ``*`` all names. Needed behind a proxy on this machine that passes its own name on."""
    allowed_origins: tuple[str, ...] = ()
    """Other sites whose web pages may use the server, as ``https://app.example.org``."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (``10.0.0.0/8``) of proxies on other machines: their connections have no limit for one
    address, and the client that they name in ``X-Forwarded-For`` counts in their place."""
    root_path: str = ""
    """Path below which a proxy shows the server, as ``/envs``: the proxy takes it away, and the API's document names it. A trusted
    proxy may name it itself, in ``X-Forwarded-Prefix``."""
    log_level: str = field(default="info", metadata={VALUES: LOG_LEVELS})
    """``debug``, ``info``, ``warning`` or ``error``."""
    log_format: str = field(default="json", metadata={VALUES: LOG_FORMATS})
    """``json`` or ``text``."""
    max_log_lines_per_s: float = 20.0
    """Warnings and errors of one kind that are written in a second; the next one that is written says how many were not."""
    access_log: bool = False
    """Log every request, not only failed ones."""
    keep_alive_s: int = 75
    """Seconds that an idle connection is kept; longer than aiohttp's 15 s, so that the client is the one to close it."""
    shutdown_grace_s: int = 15
    """Seconds that running requests get when the server stops."""
    tasks: tuple[str, ...] = ()
    """Task lists of environments, ``NAME=FILE`` each: JSON lines or parquet, as ``verl-agent-env curate`` writes it. They
    take the place of the splits of seeds."""
    model_endpoints: str = field(default="", metadata={FILE: True})
    """File with the models that environments may ask, such as judges (``endpoints``)."""
    mcp_config: str = field(default="", metadata={FILE: True})
    """File with the MCP servers that environments may use (``mcpServers``)."""
    mcp_allow_commands: bool = False
    """Let clients define MCP servers of their own, commands included; ignored unless only this machine
    reaches the server."""
    keep_trajectories: str = ""
    """Keep episodes that are over, to be read at ``/web`` and ``/api/episodes``: in ``memory`` (of each worker), in ``redis``
    (of the cluster), or in files of a directory, which is named."""
    keep_trajectories_bytes: int = 64 * 1024 * 1024
    """Bytes of kept episodes in the memory of a worker, or in Redis, the oldest being deleted for new ones; files of a
    directory have no limit."""
    host_limits: HostLimits = field(default_factory=HostLimits)
    """Limits of the environments of a worker."""
    http_limits: HttpLimits = field(default_factory=HttpLimits)
    """Limits of one request."""
    connection_limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    """Limits of connections."""
    tls: TlsSettings = field(default_factory=TlsSettings)
    """Encryption."""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    """The workers and their cluster."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.log_level not in LOG_LEVELS:
            raise ValueError(f"log_level must be debug, info, warning or error, not '{self.log_level}'")
        if self.log_format not in LOG_FORMATS:
            raise ValueError(f"log_format must be json or text, not '{self.log_format}'")
        if any(
            not (token.isascii() and token.isprintable() and token.strip() == token != "")
            for token in self.auth_tokens
        ):
            raise ValueError(
                "an auth token is empty, begins or ends with a space, or holds other than visible ASCII"
            )
        for host in self.allowed_hosts:
            if not _is_host_pattern(host):
                raise ValueError(f"allowed_hosts takes names and addresses without a port, not '{host}'")
        for origin in self.allowed_origins:
            # Neither "null", which pages of any site can have, nor "*".
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"allowed_origins takes origins such as https://app.example.org, not '{origin}'"
                )
        for proxy in self.trusted_proxies:
            if not _is_network(proxy):
                raise ValueError(
                    f"trusted_proxies takes addresses and networks such as 10.0.0.0/8, not '{proxy}'"
                )
        if self.root_path and not ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(
                f"root_path must be a path such as /envs, without a slash at its end, not '{self.root_path}'"
            )
        if not self.max_log_lines_per_s > 0:
            raise ValueError(f"max_log_lines_per_s must be above 0, not {self.max_log_lines_per_s}")
        if self.keep_trajectories_bytes < 1:
            raise ValueError(f"keep_trajectories_bytes must be above 0, not {self.keep_trajectories_bytes}")
        if self.keep_alive_s < 1 or self.shutdown_grace_s < 0:
            raise ValueError("keep_alive_s must be at least 1 and shutdown_grace_s at least 0")


def settings_from_environment(environment: Mapping[str, str]) -> ServerSettings:
    """Read settings from variables such as ``VERL_AGENT_ENV_PORT``; each field of the classes above has one.

    Raises:
        ValueError: A variable cannot be read as its field's type, or is out of range.
    """
    host_limits = _from_environment(HostLimits, environment)
    http_limits = _from_environment(HttpLimits, environment)
    return _from_environment(
        ServerSettings,
        environment,
        host_limits=host_limits,
        http_limits=http_limits,
        connection_limits=_from_environment(ConnectionLimits, environment),
        tls=_from_environment(TlsSettings, environment),
        cluster=_from_environment(ClusterSettings, environment),
    )


def variable_of(field_name: str) -> str:
    """Return the name of the variable that sets a field."""
    return ENVIRONMENT_PREFIX + field_name.upper()


def _from_environment(cls: type[SettingsT], environment: Mapping[str, str], **nested: Any) -> SettingsT:
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = dict(nested)
    for declared in dataclasses.fields(cls):  # type: ignore[arg-type]
        text = environment.get(variable_of(declared.name))
        # An empty variable is one that is not set: compose files pass on those that they do not know.
        if not text or declared.name in nested:
            continue
        try:
            values[declared.name] = _parse(text, hints[declared.name])
        except ValueError:
            shown = f"='{text}'" if declared.repr else ""
            raise ValueError(
                f"{variable_of(declared.name)}{shown} cannot be read as {_name_of(hints[declared.name])}"
            ) from None
    return cls(**values)


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        if text.casefold() in ("1", "true", "yes", "on"):
            return True
        if text.casefold() in ("0", "false", "no", "off"):
            return False
        raise ValueError
    if typing.get_origin(kind) is tuple:
        if text.lstrip().startswith("["):
            # A list of JSON, for items that hold commas.
            items = json.loads(text)
            if not (isinstance(items, list) and all(isinstance(item, str) for item in items)):
                raise ValueError
            return tuple(items)
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return kind(text)


def _is_host_pattern(text: str) -> bool:
    return text == "*" or bool(_HOST_NAME.fullmatch(text.removeprefix("*."))) or _is_ipv6(text)


def _is_ipv6(text: str) -> bool:
    """Tell whether a text is an IPv6 address, with brackets or without."""
    return isinstance(parse_address(bare_host(text)), ipaddress.IPv6Address)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _name_of(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))


def _require_positive(limits: HostLimits | HttpLimits | ConnectionLimits) -> None:
    for declared in dataclasses.fields(limits):
        value = getattr(limits, declared.name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{declared.name} must be a number above 0, not {value}")
