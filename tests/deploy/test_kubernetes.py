"""The manifests are valid, and fit each other and the command line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner

from tests.children import run
from verl_agent_env import __version__
from verl_agent_env.cli import cli
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS
from verl_agent_env.config import settings_from_environment

VERSION = "1.31.0"
FILES = ("namespace.yaml", "redis.yaml", "nodes.yaml", "nginx.yaml")


@pytest.fixture(scope="module")
def manifests(deploy: Path) -> list[dict[str, Any]]:
    """All objects, as they are written."""
    texts = [(deploy / "kubernetes" / name).read_text("utf-8") for name in FILES]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text)]


@pytest.fixture(scope="module")
def objects(manifests: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """By kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in manifests}


def pods(manifests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in manifests:
        if "template" in one.get("spec", {}):
            yield one["spec"]["template"]["spec"]


def bytes_of(size: str) -> int:
    """As Kubernetes (``8Gi``) and Redis (``6gb``) write it."""
    (found,) = re.findall(r"^(\d+)([mg])", size.lower())
    return int(found[0]) << {"m": 20, "g": 30}[found[1]]


def environment_of(container: dict[str, Any], pod_name: str) -> dict[str, str]:
    """A container's variables in the pod of this name."""
    found: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], variable["value"])
        elif "fieldRef" in variable["valueFrom"]:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            found[variable["name"]] = pod_name
    return found


def test_every_manifest_is_valid(manifests: list[dict[str, Any]]) -> None:
    assert len(manifests) > 8
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_validator_finds_faults(objects: dict[tuple[str, str], Any]) -> None:
    broken = {**objects["StatefulSet", "nodes"], "spec": {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_nginx_gives_up_hosts_that_fell_silent(objects: dict[tuple[str, str], Any]) -> None:
    pod = objects["Deployment", "nginx"]["spec"]["template"]["spec"]
    settings = {one["name"]: int(one["value"]) for one in pod["securityContext"]["sysctls"]}
    # The other one is not allowed by default.
    assert settings == {name: value for name, value in KERNEL_SETTINGS.items() if "keepalive" in name}


def test_the_kustomization_takes_in_every_file(deploy: Path) -> None:
    listed = yaml.safe_load((deploy / "kubernetes" / "kustomization.yaml").read_text("utf-8"))["resources"]
    there = {path.name for path in (deploy / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert {*FILES} == there == {*listed} - {"../nginx"}


def test_kubectl_builds_the_whole(deploy: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl here")
    built = run(kubectl, "kustomize", str(deploy / "kubernetes"))
    assert built.returncode == 0, built.stderr
    whole = list(yaml.safe_load_all(built.stdout))
    for one in whole:
        kubernetes_validate.validate(one, VERSION, strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "verl-agent-env"
    (script,) = (one for one in whole if one["kind"] == "ConfigMap")
    nginx = next(one for one in whole if one["kind"] == "Deployment")
    names = [
        volume.get("configMap", {}).get("name") for volume in nginx["spec"]["template"]["spec"]["volumes"]
    ]
    assert script["metadata"]["name"] in names
    assert script["data"]["run-nginx.sh"] == (deploy / "nginx" / "run-nginx.sh").read_text("utf-8")


def test_selectors_find_the_pods_that_they_mean(objects: dict[tuple[str, str], Any]) -> None:
    workloads = {name: one for (kind, name), one in objects.items() if kind in ("StatefulSet", "Deployment")}
    assert set(workloads) == {"redis", "nodes", "nginx"}
    for name, workload in workloads.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        assert objects["Service", name]["spec"]["selector"] == labels
    for name in ("nodes", "nginx"):
        assert objects["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"] == {"app": name}


def test_mounts_and_probes_name_what_is_there(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", ())} | {"data"}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                how = container.get(probe, {})
                named = [how[kind]["port"] for kind in ("httpGet", "tcpSocket") if kind in how]
                assert {*named} <= ports


def test_nodes_are_found_by_name_before_they_are_ready(objects: dict[tuple[str, str], Any]) -> None:
    service, nodes = objects["Service", "nodes"]["spec"], objects["StatefulSet", "nodes"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert nodes["serviceName"] == "nodes"
    # Else a service of the name verl-agent-env would set VERL_AGENT_ENV_PORT.
    assert nodes["template"]["spec"]["enableServiceLinks"] is False


def test_nginx_is_given_the_addresses_that_the_pods_announce(objects: dict[tuple[str, str], Any]) -> None:
    nodes = objects["StatefulSet", "nodes"]["spec"]
    (node,) = nodes["template"]["spec"]["containers"]
    expected = []
    for index in range(nodes["replicas"]):
        cluster = settings_from_environment(environment_of(node, f"nodes-{index}")).cluster
        expected += [
            f"{cluster.advertise}:{cluster.worker_port + offset}" for offset in range(cluster.workers)
        ]
        declared = [port["containerPort"] for port in node["ports"] if port["name"].startswith("worker-")]
        assert declared == [cluster.worker_port + offset for offset in range(cluster.workers)]
    containers = objects["Deployment", "nginx"]["spec"]["template"]["spec"]["containers"]
    writer = next(container for container in containers if container["name"] == "nginx-config")
    _, command, *arguments = writer["args"]
    result = CliRunner().invoke(cli, [command, *[word for word in arguments if word.startswith("--node")]])
    assert result.exit_code == 0, result.output
    assert sorted(set(re.findall(r"server (\S+:\d+) ", result.output))) == sorted(expected)


def test_a_pod_has_time_to_drain(objects: dict[tuple[str, str], Any]) -> None:
    spec = objects["StatefulSet", "nodes"]["spec"]["template"]["spec"]
    pause_s = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = settings_from_environment({}).shutdown_grace_s
    assert spec["terminationGracePeriodSeconds"] > pause_s + grace_s + 15


def test_nobody_is_root_or_writes_to_its_image(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_redis_says_that_it_is_full_before_the_kernel_kills_it(objects: dict[tuple[str, str], Any]) -> None:
    (redis,) = objects["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    arguments = redis["args"]
    maxmemory = bytes_of(arguments[arguments.index("--maxmemory") + 1])
    assert maxmemory <= 0.8 * bytes_of(redis["resources"]["limits"]["memory"])


def test_redis_asks_for_a_password_of_a_secret_which_its_clients_read(
    objects: dict[tuple[str, str], Any],
) -> None:
    (redis,) = objects["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    (variable,) = redis["env"]
    secret = variable["valueFrom"]["secretKeyRef"]
    assert redis["args"][redis["args"].index("--requirepass") + 1] == f"$({variable['name']})"
    clients = 0
    for workload in (objects["StatefulSet", "nodes"], objects["Deployment", "nginx"]):
        pod = workload["spec"]["template"]["spec"]
        for container in pod["containers"]:
            addresses = [
                one["value"] for one in container.get("env", ()) if one["name"] == "VERL_AGENT_ENV_REDIS"
            ]
            if addresses:
                path = Path(parse_qs(urlsplit(addresses[0]).query)["password_file"][0])
                (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == str(path.parent))
                (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
                assert volume["secret"]["secretName"] == secret["name"]
                assert volume["secret"]["items"] == [{"key": secret["key"], "path": path.name}]
                clients += 1
    assert clients == 2


def allows(policy: dict[str, Any], app: str, port: dict[str, Any]) -> bool:
    """Whether a pod with the label may connect to a container's port."""
    for rule in policy["spec"]["ingress"]:
        selectors = [peer["podSelector"] for peer in rule.get("from", ()) if "podSelector" in peer]
        known = any(app in values["values"] for one in selectors for values in one["matchExpressions"])
        ports = any(
            one["port"] == port["name"]
            or ("endPort" in one and port["containerPort"] in range(one["port"], one["endPort"] + 1))
            for one in rule["ports"]
        )
        if ports and (known or "from" not in rule):
            return True
    return False


def test_network_policies_let_in_who_calls_and_nobody_else(objects: dict[tuple[str, str], Any]) -> None:
    callers = {"redis": {"nodes", "nginx"}, "nodes": {"nodes", "nginx"}, "nginx": {"nodes", "nginx", "redis"}}
    for (kind, name), one in objects.items():
        if kind in ("StatefulSet", "Deployment"):
            policy = objects["NetworkPolicy", name]
            template = one["spec"]["template"]
            assert policy["spec"]["podSelector"]["matchLabels"] == template["metadata"]["labels"]
            for container in template["spec"]["containers"]:
                for port in container.get("ports", ()):
                    let_in = {app for app in callers if allows(policy, app, port)}
                    assert let_in == callers[name], (name, port)


def test_every_container_says_when_it_is_ready(manifests: list[dict[str, Any]]) -> None:
    for pod in pods(manifests):
        for container in pod["containers"]:
            assert "readinessProbe" in container, container["name"]


def test_every_image_has_one_version(deploy: Path, manifests: list[dict[str, Any]]) -> None:
    images = yaml.safe_load((deploy / "kubernetes" / "kustomization.yaml").read_text("utf-8"))["images"]
    versions = {one["name"]: one["newTag"] for one in images}
    assert {container["image"] for pod in pods(manifests) for container in pod["containers"]} == set(versions)
    assert versions.pop("verl-agent-env") == __version__
    assert all(re.match(r"\d+\.\d+\.\d+-", version) for version in versions.values())
