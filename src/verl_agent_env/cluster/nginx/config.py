"""The configuration of the nginx in front of all workers.

A call on one environment has its slot in the path and goes to the worker that the ring assigns it to: nginx hashes the
slot over the same addresses as :mod:`verl_agent_env.cluster.ring`. Every other call goes to the least busy worker.
Errors of nginx itself are problem documents, like those of a worker.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import orjson

from verl_agent_env.addresses import bare_host, parse_address, url_host
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.errors import (
    BodyTooLargeError,
    RouteNotFoundError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, slot_text

_WORD = re.compile(r"[A-Za-z0-9_./:@\[\]*-]+")
_ADDRESS = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_OTHER_FILES = 1024
"""Files that a process of nginx opens besides its connections: temporary files and listening sockets."""


KERNEL_SETTINGS = {
    "net.ipv4.tcp_keepalive_time": 1,
    "net.ipv4.tcp_keepalive_intvl": 1,
    "net.ipv4.tcp_keepalive_probes": 3,
    "net.ipv4.tcp_retries2": 3,
}
"""Kernel settings of nginx's machine: requests to a machine that stopped responding are retried elsewhere after four seconds."""


@dataclass(frozen=True)
class NginxSettings:
    """One nginx and the workers behind it."""

    addresses: tuple[str, ...]
    """``host:port`` of every planned worker, as it advertises itself; without any, every call is answered 503."""
    folder: Path
    """Folder for nginx's process id and temporary files, writable by the account that starts it."""
    port: int = 8080
    """Port to listen on."""
    host: str = "*"
    """Address to listen on; ``*`` for all of IPv4, ``::`` for all of both families."""
    error_log: str = "stderr"
    """Destination of nginx's error log: ``stderr`` or a file."""
    user: str = ""
    """Account of nginx's processes when root starts it, and after a colon its group; nginx's own choice when not given."""
    processes: int = 0
    """nginx's processes; 0 for one for each core."""
    max_connections: int = 16_384
    """Simultaneous connections of clients. Each process can hold all of them, because the kernel may spread them unevenly."""
    max_body_bytes: int = 64 * 1024 * 1024
    """Bytes of a body; the same limit as that of the workers."""
    header_timeout_s: int = 15
    """Seconds in which a request's headers must arrive."""
    body_timeout_s: int = 60
    """Seconds that may pass between two parts of a body, in either direction."""
    connect_timeout_s: int = 1
    """Seconds until a worker has accepted a connection; after that the next worker is tried."""
    answer_timeout_s: int = 150
    """Seconds until a worker begins to answer; longer than workers wait for each other (``peer_timeout_s``)."""
    retry_timeout_s: int = 10
    """Seconds after which a call is not retried on another worker."""
    keep_alive_s: int = 75
    """Seconds for which a client's idle connection is kept."""
    tls_cert: str = ""
    """File with nginx's certificate and the chain to its CA; without one, nginx speaks plain HTTP."""
    tls_key: str = ""
    """File with the certificate's private key; the same file when not given."""
    tls_client_ca: str = ""
    """File with the CA of clients' certificates; with it, every client needs one."""
    worker_ca: str = ""
    """File with the CA of the workers' certificates, if they speak TLS."""
    worker_name: str = ""
    """A name in the certificates of all workers; nginx cannot check a different name for each address."""
    worker_cert: str = ""
    """File with nginx's client certificate and key for the workers."""
    fronts: tuple[str, ...] = ()
    """Addresses or networks (``10.0.0.0/8``) of the nginx before this one, if there are any: which attempts are of one request is what
    they say."""
    compresses: bool = False
    """Whether large answers are compressed for clients that accept gzip."""
    num_slots: int = NUM_SLOTS
    """Slots of the cluster."""
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Comment for each address, such as what its name resolves to. A new comment changes the text, so nginx reloads it."""

    def __post_init__(self) -> None:
        for address in self.addresses:
            if not is_address(address):
                raise ValueError(f"'{address}' is no address: write host:port")
        if self.num_slots not in (NUM_SLOTS, MANY_SLOTS):
            raise ValueError(f"num_slots must be {NUM_SLOTS} or {MANY_SLOTS}, not {self.num_slots}")
        Ring(self.addresses)  # Refuses an address that is there twice.
        files = ("tls_cert", "tls_key", "tls_client_ca", "worker_ca", "worker_name", "worker_cert")
        for name in ("host", "error_log", "user", "folder", *files):
            value = str(getattr(self, name))
            if value and not _WORD.fullmatch(value):
                raise ValueError(
                    f"{name} must not hold other than letters, digits and _./:@-, unlike '{value}'"
                )
        if (self.tls_key or self.tls_client_ca) and not self.tls_cert:
            raise ValueError("tls_key and tls_client_ca need a certificate, tls_cert")
        if bool(self.worker_ca) != bool(self.worker_name) or (self.worker_cert and not self.worker_ca):
            raise ValueError(
                "to workers that speak TLS belong worker_ca and worker_name, and perhaps worker_cert"
            )
        if self.host != "*" and not is_address(f"{url_host(self.host)}:1"):
            raise ValueError(f"'{self.host}' is no host to listen on: write an address, a name or *")
        for front in self.fronts:
            try:
                _network(front)
            except ValueError:
                raise ValueError(
                    f"'{front}' is no address or network of another nginx: write 10.0.0.1 or 10.0.0.0/8"
                ) from None
        if not 1 <= self.port <= 65_535:
            raise ValueError(f"port must be from 1 to 65535, not {self.port}")
        if self.processes < 0:
            raise ValueError(f"processes must be at least 0, not {self.processes}")
        limits = (
            "max_connections", "max_body_bytes", "header_timeout_s", "body_timeout_s", "connect_timeout_s",
            "answer_timeout_s", "retry_timeout_s", "keep_alive_s",
        )  # fmt: skip
        for name in limits:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def is_address(text: str) -> bool:
    """Tell whether ``text`` is ``host:port``, safe to put into nginx's configuration."""
    host, _, port = text.rpartition(":")
    if _ADDRESS.fullmatch(text) is None or not 0 < int(port) <= 65_535:
        return False
    return not host.startswith("[") or parse_address(bare_host(host)) is not None


def _network(front: str) -> str:
    """Return an address or network as nginx reads it: with the number of its bits, and none besides.

    Raises:
        ValueError: It is neither, or of one interface only.
    """
    network = ipaddress.ip_network(front, strict=False)
    if "%" in front:
        raise ValueError(front)
    return str(network)


def nginx_config(settings: NginxSettings) -> str:
    """Return a complete ``nginx.conf`` for ``nginx -c FILE -e stderr`` in the foreground, under any account.

    The order of the addresses does not matter. Equal settings give equal texts.
    """
    # Each client has a connection of its own and one to a worker; besides, both groups of workers keep idle ones.
    connections = 2 * (settings.max_connections + _kept_connections(settings))
    user = f"user {settings.user.replace(':', ' ')};\n" if settings.user else ""
    return f"""\
# Written by 'verl-agent-env nginx-config'. Changes made by hand are lost.
daemon off;
{user}worker_processes {settings.processes or "auto"};
worker_rlimit_nofile {connections + _OTHER_FILES};
pid {settings.folder}/nginx.pid;
error_log {settings.error_log} error;

events {{
  worker_connections {connections};
  multi_accept on;
}}

http {{
{_indented(_http(settings), 2)}
}}
"""


def write_nginx_config(settings: NginxSettings, path: Path) -> None:
    """Write the configuration to ``path`` atomically, and create the folders that nginx needs."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, nginx_config(settings))


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically.

    Raises:
        OSError: The file cannot be written; its old text is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        # Other accounts read it, such as nginx in a container of its own.
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _http(settings: NginxSettings) -> str:
    digits = len(slot_text(0, settings.num_slots))
    # Responses are never buffered on disk: what exceeds the buffers waits in the worker, which holds it anyway.
    return f"""\
access_log off;
server_tokens off;
{_compression(settings)}
tcp_nodelay on;
default_type application/octet-stream;
client_body_temp_path {settings.folder}/body;
proxy_temp_path {settings.folder}/proxy;
fastcgi_temp_path {settings.folder}/fastcgi;
uwsgi_temp_path {settings.folder}/uwsgi;
scgi_temp_path {settings.folder}/scgi;

# The slot of a session that another wire names; empty for any other call.
map $arg_session_id$http_x_session_id $env_session_slot {{
  "~^(?<env_session_digits>[0-9a-f]{{{digits}}})-[0-9a-f]{{32}}$" $env_session_digits;
}}
# The slot of a call on one environment; empty for any other call.
map $uri $env_slot {{
  "~^/api/environment/(?<env_slot_digits>[0-9a-f]{{{digits}}})-[0-9a-f]{{32}}(?:/|$)" $env_slot_digits;
  default $env_session_slot;
}}
# A connection becomes a WebSocket where its client asks for one, and nothing else; all others are kept for further requests.
map $http_upgrade $env_upgrade {{
  "~*^websocket$" websocket;
  default "";
}}
map $env_upgrade $env_connection {{
  "" "";
  default upgrade;
}}
map $env_slot $env_workers {{
  "" env_any_worker;
  default env_owner;
}}
# The id in logs: the client's own, where a worker would take it, or a new one.
map $http_x_request_id $env_request_id {{
  "~^[!-~]{{1,128}}$" $http_x_request_id;
  default $request_id;
}}
# The same for all attempts of one request, those of the nginx before this one as well, and unique otherwise: workers recognize a
# repeated step by it.
geo $env_front {{
  default "";
{"".join(f"  {front} front;{chr(10)}" for front in dict.fromkeys(map(_network, settings.fronts)))}}}
map $env_front:$http_x_operation_id $env_operation_id {{
  "~^front:(?<env_given_operation>[!-~]{{1,64}})$" $env_given_operation;
  default $request_id;
}}

{_upstream("env_owner", "hash $env_slot consistent;", settings)}
{_upstream("env_any_worker", "least_conn;", settings)}

server {{
{_indented(_server(settings), 2)}
}}"""


def _compression(settings: NginxSettings) -> str:
    if not settings.compresses:
        return "gzip off;"
    # The answers of a batch are much alike: the quickest level makes them a tenth.
    return """\
gzip on;
gzip_comp_level 1;
gzip_min_length 16384;
gzip_proxied any;
gzip_types application/json application/problem+json text/plain image/svg+xml;
gzip_vary on;"""


def _upstream(name: str, method: str, settings: NginxSettings) -> str:
    servers = "\n".join(
        f"  server {address} max_fails=2 fail_timeout=2s;{_note(settings.notes.get(address, ''))}"
        # In the order of the workers' ring: of two equal points the first one counts.
        for address in sorted(settings.addresses)
    )
    return f"""\
upstream {name} {{
  # All processes of nginx share what they know of the workers.
  zone {name} {256 + 2 * len(settings.addresses)}k;
  {method}
{servers or "  server 127.0.0.1:1 down;"}
  keepalive {_kept_connections(settings)};
  keepalive_requests 1000000;
  keepalive_timeout 60s;
}}"""


def _server(settings: NginxSettings) -> str:
    workers = f"{'https' if settings.worker_ca else 'http'}://$env_workers"
    families = "ipv6only=off " if bare_host(settings.host) == "::" else ""
    return f"""\
listen {url_host(settings.host)}:{settings.port} {families}{"ssl " if settings.tls_cert else ""}default_server reuseport backlog=16384;
{_tls(settings)}server_name _;
keepalive_timeout {settings.keep_alive_s}s;
keepalive_requests 1000000;

# nginx buffers slow clients; a worker gets whole requests.
client_header_timeout {settings.header_timeout_s}s;
client_body_timeout {settings.body_timeout_s}s;
send_timeout {settings.body_timeout_s}s;
client_max_body_size {settings.max_body_bytes};
client_body_buffer_size 256k;
proxy_request_buffering on;
proxy_buffering on;
proxy_buffer_size 16k;
proxy_buffers 16 16k;
proxy_busy_buffers_size 64k;
proxy_max_temp_file_size 0;

# Needs the kernel settings of docs/cluster.md: a machine that is cut off closes no connection.
proxy_socket_keepalive on;
proxy_http_version 1.1;
proxy_set_header Connection $env_connection;
proxy_set_header Upgrade $env_upgrade;
proxy_set_header Host $http_host;
proxy_set_header X-Request-Id $env_request_id;
proxy_set_header X-Operation-Id $env_operation_id;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
{_tls_to_workers(settings)}# Headers that only workers may send to each other.
proxy_set_header X-Env-Hop "";
proxy_set_header X-Env-Peer "";
proxy_set_header X-Env-Principal "";

proxy_connect_timeout {settings.connect_timeout_s}s;
proxy_send_timeout {settings.body_timeout_s}s;
proxy_read_timeout {settings.answer_timeout_s}s;
# A request that a worker has begun is not retried: it may have ended that worker, and may be carried out twice. The calls
# below are safe in both respects.
proxy_next_upstream error timeout http_502;
# Each worker once: most of the planned ones may not run.
proxy_next_upstream_tries 0;
proxy_next_upstream_timeout {settings.retry_timeout_s}s;

location / {{
  proxy_pass {workers};
}}
# Repeated steps are safe: workers recognize them by their id or seq.
location ~ "^/api/(?:environment/[^/]+|batch)/(?:step|reset|close)$" {{
  proxy_next_upstream error timeout http_502 non_idempotent;
  proxy_pass {workers};
}}
# So is initialize with an Idempotency-Key: each attempt creates the same environments.
location ~ "^/api/(?:environment|batch)/initialize$" {{
  if ($http_idempotency_key) {{
    rewrite ^ /keyed last;
  }}
  proxy_pass {workers};
}}
location = /keyed {{
  internal;
  proxy_next_upstream error timeout http_502 non_idempotent;
  proxy_pass {workers}$request_uri;
}}
location ^~ /internal {{
  return 404;
}}
{_problems(settings)}"""


def _tls(settings: NginxSettings) -> str:
    if not settings.tls_cert:
        return ""
    # Versions and ciphers of Mozilla's "intermediate" profile, which all clients since 2014 support.
    clients = f"""\
ssl_client_certificate {settings.tls_client_ca};
ssl_verify_client on;
"""
    return f"""\
ssl_certificate {settings.tls_cert};
ssl_certificate_key {settings.tls_key or settings.tls_cert};
ssl_protocols TLSv1.2 TLSv1.3;
ssl_ciphers {_CIPHERS};
ssl_prefer_server_ciphers off;
ssl_session_cache shared:tls:10m;
ssl_session_timeout 1d;
ssl_session_tickets off;
{clients if settings.tls_client_ca else ""}"""


def _tls_to_workers(settings: NginxSettings) -> str:
    if not settings.worker_ca:
        return ""
    shown = f"""\
proxy_ssl_certificate {settings.worker_cert};
proxy_ssl_certificate_key {settings.worker_cert};
"""
    return f"""\
proxy_ssl_protocols TLSv1.2 TLSv1.3;
proxy_ssl_trusted_certificate {settings.worker_ca};
proxy_ssl_verify on;
proxy_ssl_verify_depth 3;
proxy_ssl_session_reuse on;
proxy_ssl_server_name on;
proxy_ssl_name {settings.worker_name};
{shown if settings.worker_cert else ""}"""


def _problems(settings: NginxSettings) -> str:
    """Return the problem documents of errors that nginx itself causes; responses of workers are passed on unchanged."""
    unreachable = WorkerUnreachableError(reason="no worker that nginx knows of answered in time")
    errors: dict[str, VerlAgentEnvError] = {
        "404": RouteNotFoundError("/internal"),
        "413": BodyTooLargeError(settings.max_body_bytes),
        "500 502 503 504": unreachable,
    }
    parts = []
    for statuses, error in errors.items():
        retry = f"\n  add_header Retry-After {error.retry_after_s} always;" if error.status == 503 else ""
        parts.append(f"""\
error_page {statuses} ={error.status} @{error.code};
location @{error.code} {{
  internal;
  default_type application/problem+json;
  add_header X-Request-Id $env_request_id always;{retry}
  return {error.status} {_quoted(orjson.dumps(error.to_problem()).decode())};
}}""")
    return "\n".join(parts)


def _kept_connections(settings: NginxSettings) -> int:
    """Return the number of idle connections to workers, in all, that each process of nginx keeps."""
    return min(4096, max(512, 32 * len(settings.addresses)))


def _note(text: str) -> str:
    return f"  # {' '.join(text.split())}" if text else ""


def _quoted(text: str) -> str:
    """Quote ``text`` for the configuration.

    Raises:
        ValueError: It has a ``$``, which cannot be quoted.
    """
    if "$" in text:
        raise ValueError("nginx would take a '$' for a variable")
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _indented(text: str, spaces: int) -> str:
    return "\n".join(" " * spaces + line if line else line for line in text.split("\n"))
