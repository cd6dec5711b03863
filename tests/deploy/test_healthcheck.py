"""The image's health check asks where the server listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.docker.healthcheck import health_url
from tests.certificates import Authority
from tests.children import ROOT, python
from tests.conftest import StartServer
from tests.ports import free_port

SCRIPT = str(ROOT / "deploy" / "docker" / "healthcheck.py")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://127.0.0.1:8000/healthz"),
        ({"HOST": "0.0.0.0", "PORT": "9000"}, "http://127.0.0.1:9000/healthz"),
        ({"HOST": "::"}, "http://[::1]:8000/healthz"),
        ({"HOST": "[::]"}, "http://[::1]:8000/healthz"),
        ({"HOST": "fd00::7"}, "http://[fd00::7]:8000/healthz"),
        ({"HOST": "10.0.0.7"}, "http://10.0.0.7:8000/healthz"),
        ({"TLS_CERT": "/tls/cert.pem"}, "https://127.0.0.1:8000/healthz"),
    ],
)
def test_the_address_is_that_of_the_variables(variables: dict[str, str], expected: str) -> None:
    assert health_url({f"VERL_AGENT_ENV_{name}": value for name, value in variables.items()}) == expected


def asked(server_port: int, **variables: str) -> int:
    """The exit code of the check."""
    names = {f"VERL_AGENT_ENV_{name}": value for name, value in variables.items()}
    return python("-I", SCRIPT, variables={**names, "VERL_AGENT_ENV_PORT": str(server_port)}).returncode


def test_a_server_that_answers_is_healthy_and_none_is_not(start_server: StartServer) -> None:
    assert asked(start_server().port) == 0
    assert asked(free_port()) == 1


def test_a_proxy_is_not_asked(start_server: StartServer) -> None:
    done = python(
        *("-I", SCRIPT),
        variables={
            "VERL_AGENT_ENV_PORT": str(start_server().port),
            "http_proxy": f"http://127.0.0.1:{free_port()}",
            "no_proxy": "",
        },
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("clients_too", [False, True], ids=["server", "server and clients"])
def test_a_server_with_certificates_is_asked_over_tls(
    start_server: StartServer, tmp_path: Path, clients_too: bool
) -> None:
    authority = Authority(tmp_path)
    certificate = str(authority.issue("a-name-that-clients-use"))
    variables = {"TLS_CERT": certificate} | ({"TLS_CLIENT_CA": str(authority.file)} if clients_too else {})
    server = start_server(**{f"VERL_AGENT_ENV_{name}": value for name, value in variables.items()})
    assert asked(server.port, **variables) == 0
