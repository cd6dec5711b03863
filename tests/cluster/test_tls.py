"""A whole cluster over TLS, with certificates that the test makes: clients, nginx, workers and Redis."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from tests.certificates import Authority
from tests.cluster.redis_process import binary
from tests.ports import free_port
from tests.waiting import HANG_S, eventually
from verl_agent_env.cli.cluster import cluster as cluster_command
from verl_agent_env.client import EnvClient, NoServerError
from verl_agent_env.cluster.local import ClusterTls, LocalCluster

HOST = "127.0.0.1"


@pytest.fixture
def tls(tmp_path: Path) -> ClusterTls:
    authority = Authority(tmp_path)
    cert = authority.issue("server", HOST, "localhost")
    return ClusterTls(cert, cert, authority.file)


@pytest.fixture
def redis_url(tls: ClusterTls, tmp_path: Path) -> Iterator[str]:
    """Of a Redis that speaks nothing but TLS."""
    port = free_port()
    files = ("--tls-cert-file", tls.cert, "--tls-key-file", tls.key, "--tls-ca-cert-file", tls.ca)
    command = [
        binary("redis-server"),
        *("--bind", HOST, "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
        *map(str, files),
        *("--save", "", "--appendonly", "no", "--dir", str(tmp_path)),
    ]
    log = tmp_path / "redis.log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        eventually(lambda: process.poll() is not None or _accepts(port), what="redis-server")
        if process.poll() is not None and "Bad directive" in log.read_text():
            pytest.skip("this redis-server was built without TLS")
        assert process.poll() is None, log.read_text()
        yield f"rediss://{HOST}:{port}/0?ssl_ca_certs={tls.ca}"
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def test_clients_nginx_workers_and_redis_speak_tls_alone(
    tls: ClusterTls, redis_url: str, tmp_path: Path
) -> None:
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1, redis=redis_url, tls=tls) as cluster:
        assert cluster.url.startswith("https://")
        with EnvClient(cluster.url, ca_file=str(tls.ca)) as client:
            made = client.make_many("frozen_lake", range(16))
            envs = [env for env in made if not isinstance(env, Exception)]
            assert len(envs) == 16
            # Both workers have some: what one was asked for went to the other one, too.
            assert len({env.state()["owner"] for env in envs}) == 2
            for env in envs:
                env.step("<action>left</action>")
                assert env.state()["seq"] == 1
        with pytest.raises(NoServerError, match="certificate"), EnvClient(cluster.url) as stranger:
            stranger.make("frozen_lake")
        for address in (f"{cluster.host}:{cluster.port}", *cluster.addresses):
            with contextlib.suppress(httpx.TransportError):
                # nginx says that it wants TLS, a worker nothing.
                assert httpx.get(f"http://{address}/healthz", timeout=HANG_S).status_code == 400


@pytest.mark.parametrize("options", [["--tls-cert"], ["--tls-ca"], ["--tls-key", "--tls-ca"]])
def test_a_certificate_without_its_ca_is_refused(tls: ClusterTls, options: list[str]) -> None:
    given = [word for option in options for word in (option, str(tls.cert))]
    result = CliRunner().invoke(cluster_command, given)
    assert result.exit_code == 2
    assert "--tls-ca" in result.output
