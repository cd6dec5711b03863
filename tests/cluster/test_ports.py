"""Ports and who holds them."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.ports import free_port
from verl_agent_env.cluster.ports import consecutive_free_ports, holder_of, reason_of


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_process_that_listens_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as held:
        port = held.getsockname()[1]
        assert holder_of(port).startswith(f"process {os.getpid()} (")
        refused = OSError(errno.EADDRINUSE, "in use (while attempting to bind)")
        assert reason_of(refused, port) == f"Address already in use, by {holder_of(port)}"


def test_nobody_is_named_where_nobody_listens() -> None:
    port = free_port()
    assert holder_of(port) == ""
    assert reason_of(OSError(errno.EADDRINUSE, ""), port) == "Address already in use"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports_in_a_row_are_free(host: str) -> None:
    ports = consecutive_free_ports(3, host)
    assert ports == list(range(ports[0], ports[0] + 3))
    assert [holder_of(port) for port in ports] == ["", "", ""]


def test_nobody_is_given_one_of_them_meanwhile() -> None:
    ports = {port for _ in range(50) for port in consecutive_free_ports(4)}
    given = set()
    for _ in range(200):
        with socket.create_server(("127.0.0.1", 0)) as other:
            given.add(other.getsockname()[1])
    assert max(ports) < min(given)


def test_an_address_of_another_machine_has_no_free_ports() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        consecutive_free_ports(1, "198.51.100.1")
