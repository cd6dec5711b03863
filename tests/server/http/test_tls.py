"""Servers that speak TLS, with certificates of a CA that the test makes."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import Authority
from tests.children import cli, end
from tests.cluster.redis_process import binary
from tests.conftest import ServerProcess
from tests.ports import free_port
from tests.waiting import HANG_S, eventually
from verl_agent_env.client import EnvClient, NoServerError, ServerUnreachableError
from verl_agent_env.cluster.nginx.config import NginxSettings, nginx_config, write_nginx_config
from verl_agent_env.config import TlsSettings
from verl_agent_env.server.http.tls import peer_context, server_context

WORKERS = "workers.test"
USER = "root" if os.geteuid() == 0 else ""
"""Started by root, nginx would run as nobody, who cannot write in the folder."""


class Tls:
    """What a test of TLS needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.ca = str(self.authority.file)
        self.server = str(self.authority.issue("server", "127.0.0.1", "localhost", WORKERS))
        self.client = str(self.authority.issue("client"))
        self.forged = str(self.stranger.issue("forged"))

    def context(self, certificate: str = "") -> ssl.SSLContext:
        """Of an HTTP client."""
        made = ssl.create_default_context(cafile=self.ca)
        if certificate:
            made.load_cert_chain(certificate)
        return made


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


def start(tls: Tls, *arguments: str) -> ServerProcess:
    """A server, or a pool of workers, with the certificate."""
    return ServerProcess(["--tls-cert", tls.server, *arguments], {})


@pytest.mark.parametrize("workers", ["1", "2"])
def test_everything_goes_over_tls_to_clients_and_between_workers(tls: Tls, workers: str) -> None:
    server = start(tls, "--workers", workers, "--tls-peer-ca", tls.ca, "--auth-token", "token")
    try:
        url = server.url
        with EnvClient(url, token="token", ca_file=tls.ca, direct="auto") as client:
            envs = client.make_many("frozen_lake", range(20))
            for env in envs:
                assert not isinstance(env, Exception)
                env.step("<action>left</action>")
                assert env.state()["seq"] == 1
        for refused in ({}, {"ca_file": str(tls.stranger.file)}):
            with pytest.raises(NoServerError, match="certificate"), EnvClient(url, **refused) as client:
                client.make("frozen_lake")
        with (
            pytest.raises(ServerUnreachableError),
            EnvClient(url.replace("https", "http"), deadline_s=1) as client,
        ):
            client.make("frozen_lake")
        assert httpx.get(f"{url}/healthz", verify=tls.context(), timeout=HANG_S).status_code == 200
    finally:
        assert server.stop() == 0


def test_without_a_clients_certificate_nobody_gets_in(tls: Tls) -> None:
    server = start(tls, "--workers", "2", "--tls-client-ca", tls.ca)
    try:
        url = server.url
        with EnvClient(url, ca_file=tls.ca, client_cert=tls.client) as client:
            # Workers show each other their own.
            made = client.make_many("frozen_lake", range(20))
            assert not any(isinstance(env, Exception) for env in made)
        for certificate in ("", tls.forged):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/healthz", verify=tls.context(certificate), timeout=HANG_S)
    finally:
        assert server.stop() == 0


def test_nginx_speaks_tls_to_clients_and_to_workers(tls: Tls) -> None:
    worker = start(tls, "--tls-client-ca", tls.ca)
    port = free_port()
    path = tls.folder / "nginx.conf"
    nginx = None
    try:
        settings = NginxSettings(
            (f"127.0.0.1:{worker.port}",),
            tls.folder,
            port=port,
            host="127.0.0.1",
            processes=1,
            max_connections=100,
            user=USER,
            tls_cert=tls.server,
            worker_ca=tls.ca,
            worker_name=WORKERS,
            worker_cert=tls.client,
        )
        write_nginx_config(settings, path)
        nginx = subprocess.Popen([binary("nginx"), "-c", str(path), "-p", str(tls.folder), "-e", "stderr"])
        url = f"https://127.0.0.1:{port}"

        def is_there() -> bool:
            try:
                return httpx.get(f"{url}/healthz", verify=tls.context(), timeout=HANG_S).status_code == 200
            except httpx.TransportError:
                return False

        eventually(is_there)
        with EnvClient(url, ca_file=tls.ca) as client:
            env = client.make("frozen_lake", seed=1)
            env.step("<action>left</action>")
    finally:
        if nginx is not None:
            end(nginx)
        worker.stop()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"--tls-cert": "nothing.pem"}, "the certificate and its key cannot be read from"),
        ({"--tls-cert": "ca.pem"}, "the certificate and its key cannot be read from"),
        (
            {"--tls-cert": "server.pem", "--tls-client-ca": "nothing.pem"},
            "the certificates of a CA cannot be read",
        ),
        (
            {"--tls-cert": "server.pem", "--tls-peer-ca": "empty.pem"},
            "the certificates of a CA cannot be read",
        ),
        ({"--tls-key": "server.pem"}, "need a certificate, tls_cert"),
    ],
)
def test_files_that_cannot_be_used_end_the_start(tls: Tls, options: dict[str, str], fault: str) -> None:
    (tls.folder / "empty.pem").write_text("")
    words = [word for option, name in options.items() for word in (option, str(tls.folder / name))]
    done = cli("serve", "--port", "0", *words)
    assert done.returncode == 2
    assert fault in done.stderr
    assert "Traceback" not in done.stderr


def test_only_modern_versions_and_ciphers_are_spoken(tls: Tls) -> None:
    settings = TlsSettings(tls_cert=tls.server)
    for context in (server_context(settings), peer_context(settings)):
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    served = server_context(settings)
    assert served is not None
    names = {cipher["name"] for cipher in served.get_ciphers()}
    assert names
    assert all("GCM" in name or "CHACHA20" in name for name in names)
    config = nginx_config(NginxSettings(("a:1",), tls.folder, tls_cert=tls.server))
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in config
    assert " ssl default_server" in config


def test_without_a_certificate_there_is_no_tls() -> None:
    assert (server_context(TlsSettings()), peer_context(TlsSettings())) == (None, None)


@pytest.mark.parametrize(
    "settings",
    [{"tls_key": "k"}, {"tls_client_ca": "c"}, {"worker_ca": "c"}, {"worker_name": "n"}, {"worker_cert": "c"},
     {"tls_cert": "a;b"}, {"worker_ca": "c", "worker_name": "a b"}],
)  # fmt: skip
def test_half_of_what_nginx_needs_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need|belong|must not hold"):
        NginxSettings(("a:1",), tmp_path, **settings)
