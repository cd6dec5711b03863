"""Proxies of the environment, for the client and for the command line."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests import children
from verl_agent_env.client import EnvClient, NoServerError, ServerUnreachableError
from verl_agent_env.proxies import proxy_for, shown

NAMES = [f"{kind}_{end}" for kind in ("http", "https", "all", "no") for end in ("proxy",)]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        ("http://trainer.example:8000", {}, ""),
        ("http://trainer.example:8000", {"http_proxy": "http://p:3128"}, "http://p:3128"),
        ("http://trainer.example:8000", {"HTTP_PROXY": "p:3128"}, "http://p:3128"),
        ("https://trainer.example", {"HTTPS_PROXY": "http://u:secret@p:3128"}, "http://u:secret@p:3128"),
        ("https://trainer.example", {"HTTP_PROXY": "http://p:3128"}, ""),
        ("http://trainer.example:8000", {"ALL_PROXY": "socks5://p:1080"}, "socks5://p:1080"),
        ("http://trainer.example:8000", {"http_proxy": "http://p:3128", "no_proxy": ".example"}, ""),
        ("http://trainer.example:8000", {"http_proxy": "http://p:3128", "NO_PROXY": "*"}, ""),
        (
            "http://trainer.example:8000",
            {"http_proxy": "http://p:3128", "no_proxy": "other"},
            "http://p:3128",
        ),
        ("http://10.0.0.7:8000", {"http_proxy": "http://p:3128", "no_proxy": "other, 10.0.0.0/8"}, ""),
        ("http://10.0.0.7", {"http_proxy": "http://p:3128", "no_proxy": "10.0.0.7"}, ""),
        ("http://11.0.0.7:8000", {"http_proxy": "http://p:3128", "no_proxy": "10.0.0.0/8"}, "http://p:3128"),
        ("http://[fd00::5]:8000", {"http_proxy": "http://p:3128", "no_proxy": "[fd00::5]"}, ""),
        ("http://[fd00::5]", {"http_proxy": "http://p:3128", "no_proxy": "fd00::/8"}, ""),
        ("http://trainer.example", {"http_proxy": "http://p:3128", "no_proxy": "other,*"}, ""),
        (
            "http://trainer.example",
            {"http_proxy": "http://p:3128", "no_proxy": "10.0.0.0/8,,nope/99"},
            "http://p:3128",
        ),
        ("http://localhost:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://env.localhost:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://127.1.2.3:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://[::1]:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://[::ffff:127.0.0.1]:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://10.0.0.7:8000", {"http_proxy": "http://p:3128"}, "http://p:3128"),
        ("http://localhost.:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://0.0.0.0:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://[::]:8000", {"http_proxy": "http://p:3128"}, ""),
        ("http://trainer.example.:8000", {"http_proxy": "http://p:3128", "no_proxy": "example"}, ""),
        ("http://Trainer.Example:8000", {"http_proxy": "http://p:3128", "no_proxy": "a, *.EXAMPLE"}, ""),
        ("http://example:8000", {"http_proxy": "http://p:3128", "no_proxy": "*.example"}, "http://p:3128"),
    ],
)
def test_the_proxy_of_a_url(
    url: str, variables: dict[str, str], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


@pytest.mark.parametrize("proxy", ["http://[::1", "http://p:port", "http://"])
def test_a_proxy_that_is_no_url_is_one_clear_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with EnvClient("http://trainer.invalid") as client, pytest.raises(NoServerError, match="proxy"):
        client.catalogue()


def test_a_proxy_is_shown_without_its_password() -> None:
    assert shown("http://user:secret@proxy.example:3128/") == "http://proxy.example:3128"


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that refuses everything with 407."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(
                        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    )

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_client_asks_through_the_proxy_and_names_it(
    scheme: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", proxy)
    with (
        EnvClient(f"{scheme}://trainer.invalid", deadline_s=2) as client,
        pytest.raises(ServerUnreachableError, match=f"the proxy {proxy}"),
    ):
        client.catalogue()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("hangs_up", [True, False], ids=["hangs up", "is silent"])
def test_a_proxy_that_does_not_answer_is_named(
    scheme: str, hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    if hangs_up:
                        client.close()
                    else:
                        kept.append(client)

        threading.Thread(target=accept, daemon=True).start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        with (
            EnvClient(f"{scheme}://trainer.invalid", deadline_s=1) as client,
            pytest.raises(ServerUnreachableError, match=f"the proxy {proxy}"),
        ):
            client.catalogue()
        listener.shutdown(socket.SHUT_RDWR)
    for client_socket in kept:
        client_socket.close()


def test_the_client_says_which_kind_of_proxy_it_does_not_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with (
        EnvClient("http://trainer.invalid", deadline_s=2) as client,
        pytest.raises(ServerUnreachableError, match=r"NO_PROXY=trainer\.invalid"),
    ):
        client.catalogue()


@pytest.mark.parametrize("command", [["status"], ["drain", "node-1", "--url"]])
def test_the_command_line_follows_the_same_rule(command: list[str], proxy: str) -> None:
    done = children.cli(*command, "http://trainer.invalid", variables={"http_proxy": proxy})
    assert done.returncode == 1
    assert f"the proxy {proxy} answers there, with status 407" in done.stderr
    direct = children.cli(*command, "http://127.0.0.1:1", variables={"http_proxy": proxy})
    assert direct.returncode == 1
    assert "proxy" not in direct.stderr
