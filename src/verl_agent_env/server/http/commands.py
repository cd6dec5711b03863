"""Commands from clients: only on a server that this machine alone reaches, and only from this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from verl_agent_env.addresses import is_loopback, is_loopback_host
from verl_agent_env.config import ServerSettings
from verl_agent_env.envs.commands import commands_check
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.same_origin import is_local_host

if TYPE_CHECKING:
    from verl_agent_env.envs.mcp_chat.configuration import Configuration

_LOOK_S = 0.05
_LOOKS = 600
_OPEN_FILES = "/dev/fd"

_FORWARDED = frozenset(
    {
        b"cf-connecting-ip", b"forwarded", b"true-client-ip", b"via", b"x-client-ip", b"x-cluster-client-ip",
        b"x-forwarded", b"x-forwarded-by", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-proto", b"x-forwarded-server", b"x-original-forwarded-for", b"x-original-host", b"x-real-ip",
    }
)  # fmt: skip
"""Headers that only a proxy sets: the client behind it may be anywhere."""

_source: ContextVar[tuple[Peer, Mapping[bytes, bytes]] | None] = ContextVar("_source", default=None)
"""Other end and headers of the request at work."""


def note_source(peer: Peer, headers: Mapping[bytes, bytes]) -> None:
    """Remember for the rest of this request who sent it; looked at only if it names commands, or is forwarded."""
    _source.set((peer, headers))
    commands_check.set(_current_reason)


def is_from_elsewhere() -> bool:
    """Tell whether somebody outside this machine may have sent the current request; false outside of requests."""
    source = _source.get()
    return source is not None and bool(_reason_of_request(*source))


def configure_commands(settings: ServerSettings) -> None:
    """Hand in the operator's MCP servers, without commands if other machines can reach the server.

    Raises:
        ValueError: The file of MCP servers cannot be used.
    """
    if settings.mcp_config or settings.mcp_allow_commands:
        from verl_agent_env.envs.mcp_chat.configuration import use_configuration

        use_configuration(mcp_configuration(settings))
    reason = ""
    if settings.cluster.is_shared:
        reason = "this server is part of a cluster"
    elif not is_loopback_host(settings.host):
        reason = "this server can be reached from other machines"
    if reason or settings.mcp_allow_commands:
        _refuse_if(reason or reason_of_sockets())


def mcp_configuration(settings: ServerSettings) -> Configuration:
    """Read the operator's MCP servers.

    Raises:
        ValueError: The file cannot be used; the message names the place.
    """
    from verl_agent_env.envs.mcp_chat.configuration import Configuration, read_configuration

    allowed = settings.mcp_allow_commands
    if not settings.mcp_config:
        return Configuration(commands_allowed=allowed)
    return read_configuration(Path(settings.mcp_config), os.environ, commands_allowed=allowed)


async def watch_sockets() -> None:
    """Look at the sockets that the process listens on, as soon as it has one; some servers open them after the start.

    What is refused is refused when it is asked for in any case; this tells the operator at the start.
    """
    with contextlib.suppress(OSError):
        for _ in range(_LOOKS):
            if list(_listening_addresses()):
                break
            await asyncio.sleep(_LOOK_S)
    _refuse_if(reason_of_sockets())


def reason_of_sockets() -> str:
    """Explain why the sockets of this process forbid commands; empty if only this machine reaches them."""
    try:
        exposed = [address for address in _listening_addresses() if not is_loopback(address)]
    except OSError as unknown:
        return f"it cannot be seen on which sockets this process listens: {unknown.strerror}"
    return f"this server can be reached from other machines, at {exposed[0]}" if exposed else ""


def _current_reason() -> str:
    source = _source.get()
    return (_reason_of_request(*source) if source is not None else "") or reason_of_sockets()


def _refuse_if(reason: str) -> None:
    if reason:
        from verl_agent_env.envs.mcp_chat.configuration import refuse_commands

        refuse_commands(reason)


def _listening_addresses() -> Iterator[str]:
    """IP addresses of all sockets that this process listens on, whoever opened them.

    Raises:
        OSError: The system does not list a process's files.
    """
    for name in os.listdir(_OPEN_FILES):  # noqa: PTH208 - names, without a look at each
        try:
            probe = socket.socket(fileno=int(name))
        except OSError:
            # No socket, or closed meanwhile, as the folder itself is.
            continue
        try:
            is_inet = probe.family in (socket.AF_INET, socket.AF_INET6)
            if is_inet and probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield str(probe.getsockname()[0])
        finally:
            # It is somebody else's.
            probe.detach()


def _reason_of_request(peer: Peer, headers: Mapping[bytes, bytes]) -> str:
    """Explain why a request may not name commands; empty if only a program of this machine can have sent it."""
    is_by_unix_socket = not (peer.address or peer.own_address)
    if not (is_by_unix_socket or (is_loopback(peer.address) and is_loopback(peer.own_address))):
        return "the request came from another machine"
    if not _FORWARDED.isdisjoint(headers):
        return "the request came through a proxy"
    host = headers.get(b"host")
    # A proxy that does not name itself may at least pass on the name by which it was called.
    if host is not None and not is_local_host(host.decode("latin-1")):
        return "the request came for a host of another name"
    return ""
