"""``docker-compose.yml`` fits itself, the command line and the other files of ``deploy/``."""

from __future__ import annotations

import re
import shutil
from itertools import product
from typing import Any

import pytest
from click.testing import CliRunner

from tests.children import ROOT, run
from verl_agent_env.cli import cli
from verl_agent_env.cli.nginx_config import nginx_config_command
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS
from verl_agent_env.config import settings_from_environment

NODES = ("node-1", "node-2", "node-3")
PLANNED = NODES[:2]
PROFILES = {"scale-out", "observability", "loadtest", "loadtest-headless"}


def filled(text: str) -> str:
    """``text`` with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def bytes_of(size: str) -> int:
    """As Docker (``4g``) and Redis (``3gb``) write it."""
    (found,) = re.findall(r"^(\d+)([mg])", filled(size).lower())
    return int(found[0]) << {"m": 20, "g": 30}[found[1]]


def settings_of(service: dict[str, Any]) -> Any:
    """What ``serve`` makes of a service's variables."""
    return settings_from_environment(
        {name: filled(str(value)) for name, value in service["environment"].items()}
    )


def test_compose_itself_accepts_the_file() -> None:
    words = next(
        (
            words
            for words in (["docker", "compose"], ["docker-compose"])
            if shutil.which(words[0]) and run(*words, "version").returncode == 0
        ),
        None,
    )
    if words is None:
        pytest.skip("there is no docker compose here")
    profiles = [word for profile in sorted(PROFILES) for word in ("--profile", profile)]
    done = run(*words, *profiles, "config", "--quiet")
    assert done.returncode == 0, done.stderr


def test_without_a_profile_there_are_redis_two_nodes_and_nginx(compose: dict[str, Any]) -> None:
    plain = {name for name, service in compose["services"].items() if "profiles" not in service}
    assert plain == {"redis", *PLANNED, "nginx", "nginx-config"}
    profiles = {
        profile for service in compose["services"].values() for profile in service.get("profiles", ())
    }
    assert profiles == PROFILES


def test_nginx_gives_up_hosts_that_fell_silent(compose: dict[str, Any]) -> None:
    assert compose["services"]["nginx"]["sysctls"] == KERNEL_SETTINGS


def test_services_and_volumes_that_are_named_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            # The last is made by the run itself.
            assert (
                source in compose["volumes"] or (ROOT / source).exists() or source == "./out/loadtest"
            ), volume


def test_whoever_is_waited_for_to_be_healthy_has_a_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waits = [
        service["depends_on"] for service in services.values() if isinstance(service.get("depends_on"), dict)
    ]
    waited = {name for wait in waits for name, how in wait.items() if how["condition"] == "service_healthy"}
    assert waited == {"redis", "nginx-config", "nginx"}
    assert all("healthcheck" in services[name] for name in waited)


def test_one_service_builds_each_image_and_the_others_wait_for_it(compose: dict[str, Any]) -> None:
    services = compose["services"]
    users = [name for name, service in services.items() if service["image"] == "verl-agent-env"]
    assert [name for name in users if "build" in services[name]] == ["node-1"]
    assert all("node-1" in services[name]["depends_on"] for name in users if name != "node-1")


@pytest.mark.parametrize("name", NODES)
def test_a_node_of_the_file_is_one_that_serve_accepts(compose: dict[str, Any], name: str) -> None:
    settings = settings_of(compose["services"][name])
    assert settings.cluster.node == name
    assert settings.cluster.is_pool
    assert settings.host == "0.0.0.0"
    assert settings.cluster.redis.startswith("redis://redis:")


def test_nginx_is_given_the_addresses_that_the_planned_workers_announce(compose: dict[str, Any]) -> None:
    _, command, *arguments = [filled(word) for word in compose["services"]["nginx-config"]["command"]]
    kept = [word for word in arguments if word.startswith(("--node", "--processes"))]
    result = CliRunner().invoke(cli, [command, *kept])
    assert result.exit_code == 0, result.output
    expected = []
    for name, index in product(PLANNED, range(8)):
        cluster = settings_of(compose["services"][name]).cluster
        if index < cluster.workers:
            expected.append(f"{name}:{cluster.worker_port + index}")
    assert sorted(set(re.findall(r"server (\S+:\d+) ", result.output))) == expected
    # And the whole command line is one that the command knows.
    with nginx_config_command.make_context("nginx-config", arguments) as context:
        assert context.params["watch"]


def test_nginx_reads_what_the_watcher_writes_and_is_published(compose: dict[str, Any]) -> None:
    nginx, writer = compose["services"]["nginx"], compose["services"]["nginx-config"]
    config = nginx["entrypoint"][-1]
    assert f"--out={config}" in writer["command"]
    assert f"nginx-config:{config.rpartition('/')[0]}:ro" in nginx["volumes"]
    # Whoever publishes it says so.
    assert [filled(port) for port in nginx["ports"]] == ["127.0.0.1:8080:8080"]
    assert "ports" not in compose["services"]["redis"]


def test_the_volume_belongs_to_the_account_that_writes_it(compose: dict[str, Any]) -> None:
    image = (ROOT / "Dockerfile").read_text("utf-8")
    folder = compose["services"]["nginx-config"]["volumes"][0].partition(":")[2]
    assert f"--owner=agent {folder}" in image
    account = compose["services"]["nginx"]["user"].partition(":")[0]
    assert f"--uid {account} " in image


@pytest.mark.parametrize("name", [*NODES, "redis", "nginx", "nginx-config"])
def test_no_container_of_the_cluster_has_a_right_that_it_does_not_need(
    compose: dict[str, Any], name: str
) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"]
    assert bytes_of(service["mem_limit"]) > 0
    assert "privileged" not in service
    assert "cap_add" not in service


def test_redis_says_that_it_is_full_before_the_kernel_kills_it(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    maxmemory = bytes_of(redis["command"][redis["command"].index("--maxmemory") + 1])
    assert maxmemory <= 0.8 * bytes_of(redis["mem_limit"])
