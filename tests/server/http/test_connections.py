"""How many connections there may be, and from whom."""

from __future__ import annotations

import resource

import pytest

from verl_agent_env.config import ConnectionLimits
from verl_agent_env.server.http.connections import Connections, network_of
from verl_agent_env.server.http.proxies import TrustedProxies

ALONE = TrustedProxies()


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.0.0.9", "10.0.0.9"), ("", ""), ("::1", "::/64"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
     ("2001:db8:1:2::9%eth0", "2001:db8:1:2::/64"), ("::ffff:10.0.0.9", "10.0.0.9")],
)  # fmt: skip
def test_a_network_of_ipv6_is_one_client(address: str, network: str) -> None:
    assert network_of(address) == network


def test_one_address_does_not_take_the_room_of_others() -> None:
    connections = Connections(
        ConnectionLimits(max_connections=10, max_connections_per_address=3), ALONE, 10_000
    )
    refusals = [connections.enter("10.0.0.9") for _ in range(5)]
    assert [refusal is None for refusal in refusals] == [True] * 3 + [False] * 2
    assert refusals[-1] is not None
    assert (refusals[-1].resource, refusals[-1].limit) == ("connections from one address", 3)
    assert connections.enter("10.0.0.8") is None
    connections.leave("10.0.0.9")
    connections.leave("10.0.0.9")
    connections.leave("10.0.0.9")
    assert connections.enter("10.0.0.9") is None


def test_addresses_that_left_leave_no_trace() -> None:
    connections = Connections(ConnectionLimits(), ALONE, 10_000)
    for nth in range(1000):
        connections.enter(f"10.0.{nth // 256}.{nth % 256}")
    for nth in range(1000):
        connections.leave(f"10.0.{nth // 256}.{nth % 256}")
    assert (connections.open, len(connections._by_network)) == (0, 0)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "2001:db8:1:2:3:4:5:6"]
)
def test_proxies_are_limited_in_all_only(address: str) -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])
    limits = ConnectionLimits(max_connections=5, max_connections_per_address=1)
    connections = Connections(limits, proxies, 10_000)
    assert [connections.enter(address) is None for _ in range(6)] == [True] * 5 + [False]


def test_with_few_files_one_address_gets_the_same_part_of_the_connections() -> None:
    limits = ConnectionLimits(max_connections=1000, max_connections_per_address=100)
    connections = Connections(limits, ALONE, 200)
    assert connections.most == 100
    assert [connections.enter("10.0.0.9") is None for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize(
    ("open_files", "most"),
    [(1_000_000, 100), (150, 75), (100, 50), (resource.RLIM_INFINITY, 100)],
)
def test_the_limit_of_open_files_leaves_room_for_refusals(open_files: int, most: int) -> None:
    assert Connections(ConnectionLimits(max_connections=100), ALONE, open_files).most == most
