"""Machines that cannot reach each other, and do not notice."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from loadtests.namespaces import Network, can_make_namespaces
from tests.waiting import HANG_S

pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs root and iproute2 to make network namespaces"
)

_SILENCE_S = 0.5


@pytest.fixture
def network() -> Iterator[Network]:
    with contextlib.closing(Network(("one", "other", "third"))) as made:
        yield made


def test_parted_machines_keep_their_connection_and_nothing_passes_until_they_are_rejoined(
    network: Network,
) -> None:
    def listening(machine: str) -> socket.socket:
        return network.on(machine, lambda: socket.create_server((network.addresses[machine], 0)))

    def connected(machine: str, to: socket.socket) -> tuple[socket.socket, socket.socket]:
        here = network.on(machine, lambda: socket.create_connection(to.getsockname(), HANG_S))
        return here, to.accept()[0]

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listening("other"))
        pairs = [connected("one", server), connected("third", server)]
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end).settimeout(_SILENCE_S)
        (one, at_other), (third, too) = pairs
        network.part("one", "other")
        one.sendall(b"there")
        at_other.sendall(b"back")
        for end in (one, at_other):
            with pytest.raises(TimeoutError):
                end.recv(16)
        with pytest.raises(TimeoutError):
            network.on("one", lambda: socket.create_connection(server.getsockname(), _SILENCE_S))
        third.sendall(b"passes")
        too.settimeout(HANG_S)
        assert too.recv(16) == b"passes"

        network.rejoin("one", "other")
        for end in (one, at_other):
            end.settimeout(HANG_S)
        assert at_other.recv(16) == b"there"
        assert one.recv(16) == b"back"
