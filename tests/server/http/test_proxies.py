"""Who sent a request that came through proxies."""

from __future__ import annotations

import pytest

from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.proxies import TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8"])


@pytest.mark.parametrize(
    ("address", "named", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", b"192.0.2.7", "192.0.2.7"),
        ("", b"192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", b"192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("10.0.0.1", b"2001:db8::7 ,10.0.0.2", "2001:db8::7"),
        # What the client wrote itself stands before what the proxy saw.
        ("10.0.0.1", b"198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.9", b"198.51.100.1", "192.0.2.9"),
        ("10.0.0.1", b"192.0.2.7, elsewhere", "10.0.0.1"),
        ("10.0.0.1", b"elsewhere, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_last_address_that_no_proxy_has_is_the_clients(
    address: str, named: bytes | None, client: str
) -> None:
    headers = {} if named is None else {b"x-forwarded-for": named}
    assert PROXIES.client_address(Peer(address), headers) == client


def test_without_a_list_this_machine_alone_is_trusted() -> None:
    proxies = TrustedProxies()
    assert [proxies.is_trusted(a) for a in ("", "127.0.0.1", "::1", "10.0.0.1", "fe80::1%eth0")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "named", "path"),
    [
        ("10.0.0.1", None, "/configured"),
        ("10.0.0.1", b"/envs", "/envs"),
        ("", b"/team/envs/", "/team/envs"),
        ("192.0.2.9", b"/envs", "/configured"),
        ("10.0.0.1", b"", "/configured"),
        ("10.0.0.1", b"//evil.example", "/configured"),
        ("10.0.0.1", b"/a/../b", "/configured"),
        ("10.0.0.1", b"https://evil.example/", "/configured"),
        ("10.0.0.1", b"/a b", "/configured"),
        ("10.0.0.1", b"/a" * 9, "/configured"),
    ],
)
def test_a_trusted_proxy_says_below_which_path_it_shows_the_server(
    address: str, named: bytes | None, path: str
) -> None:
    proxies = TrustedProxies(["10.0.0.0/8"], "/configured")
    headers = {} if named is None else {b"x-forwarded-prefix": named}
    assert proxies.root_path(Peer(address), headers) == path


def test_of_a_zone_nothing_is_kept() -> None:
    proxies = TrustedProxies()
    for number in range(100):
        named = f"fe80::1%{number:060000}".encode()
        assert proxies.client_address(Peer("127.0.0.1"), {b"x-forwarded-for": named}) == "fe80::1"
