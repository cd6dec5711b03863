"""Addresses in the spellings that people, URLs and sockets have for them."""

from __future__ import annotations

import pytest

from verl_agent_env.addresses import bare_host, is_loopback, url_host, without_mapping
from verl_agent_env.config import ClusterSettings
from verl_agent_env.server.http.peer import Peer


@pytest.mark.parametrize(
    ("given", "bare", "in_url"),
    [
        ("::1", "::1", "[::1]"),
        ("[::1]", "::1", "[::1]"),
        ("::", "::", "[::]"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("node-1.example", "node-1.example", "node-1.example"),
        ("*", "*", "*"),
        ("", "", ""),
    ],
)
def test_only_ipv6_has_brackets_and_only_before_a_port(given: str, bare: str, in_url: str) -> None:
    assert (bare_host(given), url_host(given)) == (bare, in_url)


def test_a_client_of_ipv4_is_one_at_a_socket_for_both_families() -> None:
    assert [without_mapping(text) for text in ("::ffff:192.0.2.1", "192.0.2.1", "::1", "a name", "")] == [
        "192.0.2.1",
        "192.0.2.1",
        "::1",
        "a name",
        "",
    ]
    assert is_loopback("::ffff:127.0.0.1")
    assert Peer.of(("::ffff:192.0.2.1", 1), ("::ffff:10.0.0.5", 2)) == Peer("192.0.2.1", "10.0.0.5")


@pytest.mark.parametrize("advertised", ["::1", "[2001:db8::1]", "10.0.0.5", "node-1", ""])
def test_a_node_may_be_reached_by_any_address(advertised: str) -> None:
    assert ClusterSettings(advertise=advertised).advertise == advertised


@pytest.mark.parametrize("advertised", ["[::1", "::1]", "[node]", "a b", "http://a", "::1:80:", "[1.2.3.4]"])
def test_what_is_no_host_is_refused(advertised: str) -> None:
    with pytest.raises(ValueError, match="advertise must be a host name or an address"):
        ClusterSettings(advertise=advertised)
