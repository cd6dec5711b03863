"""The chart and the kustomization: what they render is valid, and fits itself and the command line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner

from tests.children import run
from tests.deploy.rendered import (
    CHART,
    COMPONENTS,
    NAMESPACE,
    RELEASE,
    Rendered,
    bytes_of,
    labels_of,
    variables_of,
)
from verl_agent_env import __version__
from verl_agent_env.cli import cli
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS
from verl_agent_env.cluster.redis.url import RedisUrl
from verl_agent_env.config import settings_from_environment

VERSION = "1.31.0"
OTHERS_KINDS = {"PodMonitor"}
"""Of operators; Kubernetes itself has no schema of them."""


def own_redis(clusters: dict[str, Rendered]) -> list[Rendered]:
    """The clusters that have a Redis of the chart."""
    found = [cluster for cluster in clusters.values() if "redis" in cluster.pods()]
    assert 1 < len(found) < len(clusters)
    return found


# --- what is rendered is valid ------------------------------------------------------------------------------


def test_every_object_is_valid(clusters: dict[str, Rendered], deploy: Path) -> None:
    seen = set()
    namespace = yaml.safe_load((deploy / "kubernetes" / "namespace.yaml").read_text("utf-8"))
    for one in [namespace, *(one for cluster in clusters.values() for one in cluster.objects)]:
        if one["kind"] not in OTHERS_KINDS and str(one) not in seen:
            kubernetes_validate.validate(one, VERSION, strict=True)
            seen.add(str(one))
    assert len(seen) > 20


def test_the_validator_finds_faults(clusters: dict[str, Rendered]) -> None:
    broken = {**(clusters["defaults"].find("StatefulSet", "nodes") or {}), "spec": {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_the_kustomization_is_what_the_chart_makes_of_its_defaults(
    texts: dict[str, str], deploy: Path
) -> None:
    own = (deploy / "kubernetes" / "cluster.yaml").read_text("utf-8")
    assert own == texts["defaults"], "run 'make manifests'"
    listed = yaml.safe_load((deploy / "kubernetes" / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {*listed} == {path.name for path in (deploy / "kubernetes").glob("*.yaml")} - {
        "kustomization.yaml"
    }


def test_kubectl_builds_the_whole(deploy: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl here")
    built = run(kubectl, "kustomize", str(deploy / "kubernetes"))
    assert built.returncode == 0, built.stderr
    whole = Rendered.of("built", built.stdout)
    for one in whole.objects:
        kubernetes_validate.validate(one, VERSION, strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == NAMESPACE
    assert {*whole.pods()} == {*COMPONENTS}


def test_every_image_has_one_version(clusters: dict[str, Rendered], deploy: Path) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    (image,) = yaml.safe_load((deploy / "kubernetes" / "kustomization.yaml").read_text("utf-8"))["images"]
    assert chart["version"] == chart["appVersion"] == image["newTag"] == __version__
    for cluster in clusters.values():
        for _, container in cluster.containers():
            assert re.fullmatch(r"[\w./-]+(:\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})", container["image"])
    assert clusters["defaults"].container("nodes", "node")["image"] == f"verl-agent-env:{__version__}"


# --- objects name each other --------------------------------------------------------------------------------


def test_selectors_find_the_pods_that_they_mean(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        for component, workload in cluster.workloads().items():
            labels = labels_of(component)
            assert workload["template"]["metadata"]["labels"] == labels
            assert workload["selector"]["matchLabels"] == labels
            assert cluster.spec("Service", component)["selector"] == labels
        for component in ("nodes", "nginx"):
            assert cluster.spec("PodDisruptionBudget", component) == {
                "maxUnavailable": 1,
                "selector": {"matchLabels": labels_of(component)},
            }
            (near,) = cluster.pods()[component]["affinity"]["podAntiAffinity"][
                "preferredDuringSchedulingIgnoredDuringExecution"
            ]
            assert near["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels_of(component)
        for monitor in cluster.of_kind("PodMonitor"):
            assert monitor["spec"]["selector"]["matchLabels"] == labels_of("nodes")


def test_mounts_probes_and_ports_name_what_is_there(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        for pod, container in cluster.containers():
            volumes = {volume["name"] for volume in pod.get("volumes", ())} | {"data"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            assert "readinessProbe" in container, container["name"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                how = container.get(probe, {})
                named = [how[kind]["port"] for kind in ("httpGet", "tcpSocket") if kind in how]
                assert {*named} <= ports
        for service in cluster.of_kind("Service"):
            component = service["metadata"]["name"].removeprefix(f"{RELEASE}-")
            ports = {
                port["name"]
                for one in cluster.pods()[component]["containers"]
                for port in one.get("ports", ())
            }
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        for ingress in cluster.of_kind("Ingress"):
            (rule,) = ingress["spec"]["rules"]
            service = rule["http"]["paths"][0]["backend"]["service"]
            assert service == {"name": f"{RELEASE}-nginx", "port": {"name": "http"}}


def test_the_script_of_nginx_is_there_and_a_changed_one_is_run(clusters: dict[str, Rendered]) -> None:
    script = (CHART / "run-nginx.sh").read_text("utf-8")
    for cluster in clusters.values():
        config = cluster.find("ConfigMap", "nginx")
        assert config is not None
        assert config["data"] == {"run-nginx.sh": script}
        volumes = {volume["name"]: volume for volume in cluster.pods()["nginx"]["volumes"]}
        assert volumes["script"]["configMap"]["name"] == config["metadata"]["name"]
        assert cluster.workloads()["nginx"]["template"]["metadata"]["annotations"]["checksum/run-nginx"]


# --- nodes come, are found, and go --------------------------------------------------------------------------


def test_nodes_are_found_by_name_before_they_are_ready(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        service, nodes = cluster.spec("Service", "nodes"), cluster.workloads()["nodes"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True
        assert nodes["serviceName"] == f"{RELEASE}-nodes"
        # Else a service of the name verl-agent-env would set VERL_AGENT_ENV_PORT.
        assert nodes["template"]["spec"]["enableServiceLinks"] is False


def test_nginx_is_given_the_addresses_that_the_pods_announce(clusters: dict[str, Rendered]) -> None:
    planned = {}
    for cluster in clusters.values():
        node = cluster.container("nodes", "node")
        scaler = cluster.of_kind("HorizontalPodAutoscaler")
        replicas = scaler[0]["spec"]["minReplicas"] if scaler else cluster.workloads()["nodes"]["replicas"]
        expected = []
        for index in range(replicas):
            name = f"{RELEASE}-nodes-{index}"
            settings = settings_from_environment(variables_of(node, name)).cluster
            settings.require_whole()
            assert settings.advertise == f"{name}.{RELEASE}-nodes"
            ports = [settings.worker_port + offset for offset in range(settings.workers)]
            expected += [f"{settings.advertise}:{port}" for port in ports]
            assert ports == [one["containerPort"] for one in node["ports"] if "worker" in one["name"]]
            assert settings.expected_nodes <= replicas
        _, command, *arguments = cluster.container("nginx", "nginx-config")["args"]
        written = {"--watch", "--out=/var/lib/nginx-config/nginx.conf"}
        result = CliRunner().invoke(cli, [command, *(word for word in arguments if word not in written)])
        assert result.exit_code == 0, result.output
        assert sorted(set(re.findall(r"server (\S+:\d+) ", result.output))) == sorted(expected)
        planned[cluster.name] = replicas
    assert planned["autoscaling"] == 3
    assert planned["open and large"] == 12


def test_a_number_that_is_chosen_by_load_is_nobody_elses(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        chosen = bool(cluster.of_kind("HorizontalPodAutoscaler"))
        assert chosen != ("replicas" in cluster.workloads()["nodes"])
    scaler = clusters["autoscaling"].spec("HorizontalPodAutoscaler", "nodes")
    assert scaler["scaleTargetRef"]["name"] == f"{RELEASE}-nodes"
    (going,) = scaler["behavior"]["scaleDown"]["policies"]
    # The next one goes when this one has gone.
    assert going["value"] == 1
    assert going["periodSeconds"] > clusters["autoscaling"].pods()["nodes"]["terminationGracePeriodSeconds"]


def test_a_pod_has_time_to_drain(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        pod, node = cluster.pods()["nodes"], cluster.container("nodes", "node")
        pause_s = int(node["lifecycle"]["preStop"]["exec"]["command"][1])
        grace_s = settings_from_environment(variables_of(node)).shutdown_grace_s
        assert pod["terminationGracePeriodSeconds"] > pause_s + grace_s + 15
    assert grace_s == 15
    many = settings_from_environment(variables_of(clusters["autoscaling"].container("nodes", "node")))
    assert many.shutdown_grace_s == 90


def test_nginx_gives_up_hosts_that_fell_silent(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        settings = cluster.pods()["nginx"]["securityContext"]["sysctls"]
        assert {one["name"]: int(one["value"]) for one in settings} == {
            name: value
            for name, value in KERNEL_SETTINGS.items()
            # The other one is not allowed by default.
            if "keepalive" in name or cluster.name == "open and large"
        }


# --- who may what -------------------------------------------------------------------------------------------


def test_nobody_is_root_or_writes_to_its_image(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        for pod, container in cluster.containers():
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def allows(policy: dict[str, Any], labels: dict[str, str], port: dict[str, Any]) -> bool:
    """Whether a pod with the labels, in the same namespace, may connect to a container's port."""
    for rule in policy["ingress"]:
        peers = rule.get("from")
        known = peers is None or any(
            "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels.items()
            for peer in peers
        )
        named = any(
            one["port"] == port["name"]
            or ("endPort" in one and port["containerPort"] in range(one["port"], one["endPort"] + 1))
            for one in rule["ports"]
        )
        if known and named:
            return True
    return False


def test_network_policies_let_in_who_calls_and_nobody_else(clusters: dict[str, Rendered]) -> None:
    callers = {"redis": {"nodes", "nginx"}, "nodes": {"nodes", "nginx"}, "nginx": {*COMPONENTS}}
    for cluster in clusters.values():
        if cluster.name == "open and large":
            assert not cluster.of_kind("NetworkPolicy")
            continue
        for component, pod in cluster.pods().items():
            policy = cluster.spec("NetworkPolicy", component)
            assert policy["podSelector"]["matchLabels"] == labels_of(component)
            for port in (port for one in pod["containers"] for port in one.get("ports", ())):
                let_in = {name for name in COMPONENTS if allows(policy, labels_of(name), port)}
                closed = cluster.name == "known clients" and component == "nginx"
                assert let_in == (set() if closed else callers[component]), (cluster.name, component, port)


def test_redis_says_that_it_is_full_before_the_kernel_kills_it(clusters: dict[str, Rendered]) -> None:
    for cluster in own_redis(clusters):
        redis = cluster.container("redis", "redis")
        maxmemory = bytes_of(redis["args"][redis["args"].index("--maxmemory") + 1])
        assert maxmemory <= 0.8 * bytes_of(redis["resources"]["limits"]["memory"])


def test_redis_asks_for_a_password_of_a_secret(clusters: dict[str, Rendered]) -> None:
    for cluster in own_redis(clusters):
        redis = cluster.container("redis", "redis")
        (variable,) = redis["env"]
        assert redis["args"][redis["args"].index("--requirepass") + 1] == f"$({variable['name']})"
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}


def redis_as_read(cluster: Rendered, component: str, container_name: str, folder: Path) -> RedisUrl:
    """A container's Redis, as the program reads it where each file holds the names of its Secret and key."""
    container = cluster.container(component, container_name)
    url = variables_of(container)["VERL_AGENT_ENV_REDIS"]
    volumes = {volume["name"]: volume for volume in cluster.pods()[component]["volumes"]}
    mounted = [one for one in container["volumeMounts"] if one["mountPath"] == "/run/redis"]
    assert len(mounted) == ("/run/redis" in url)
    for mount in mounted:
        for source in volumes[mount["name"]]["projected"]["sources"]:
            for item in source["secret"]["items"]:
                (folder / item["path"]).write_text(f"{source['secret']['name']}.{item['key']}")
    read = RedisUrl.parse(url.replace("/run/redis", str(folder)))
    for name in re.findall(r"ssl_\w+=([^&]+)", url):
        assert (folder / Path(name).name).exists()
    return read


def test_nodes_and_watcher_read_redis_and_its_secrets(clusters: dict[str, Rendered], tmp_path: Path) -> None:
    found = {}
    for cluster in clusters.values():
        both = []
        for component, name in (("nodes", "node"), ("nginx", "nginx-config")):
            folder = tmp_path / cluster.name / name
            folder.mkdir(parents=True)
            both.append(redis_as_read(cluster, component, name, folder))
        assert both[0].where == both[1].where
        found[cluster.name] = both[0]
    assert found["defaults"].plain == f"redis://:redis.password@{RELEASE}-redis:6379/0"
    external = found["external Redis"].plain
    assert external.startswith("rediss://cache.user:cache.secret@cache.example.org:6380/0?ssl_ca_certs=")
    assert re.findall(r"(ssl_\w+)=[^&]+%2F([\w.]+)", external) == [
        ("ssl_ca_certs", "ca.crt"),
        ("ssl_certfile", "tls.crt"),
        ("ssl_keyfile", "tls.key"),
    ]
    sentinels = found["Sentinels"]
    assert sentinels.sentinels is not None
    assert sentinels.sentinels.addresses == (("s-1.example.org", 26379), ("s-2.example.org", 26379))
    assert sentinels.sentinels.password == "sentinels.password"
    assert sentinels.replicas == 1
    assert found["open and large"].plain == "redis://cache.example.org:6379/2"


def test_nodes_are_told_of_event_logs_with_the_secrets_that_each_can_have(
    clusters: dict[str, Rendered],
) -> None:
    password, tls = "password_file=/run/redis/password", "ssl_ca_certs=/run/redis/ca.crt"
    tls += "&ssl_certfile=/run/redis/tls.crt&ssl_keyfile=/run/redis/tls.key"
    told = {
        "event logs": (
            f"rediss://log-1.example.org:6380/0?{password}",
            f"rediss://log-2.example.org:6380/0?wait=1&{password}",
        ),
        # A URL without TLS or Sentinels is refused with the options of these.
        "several kinds of Redis": (
            f"rediss://log-1.example.org:6380/0?{password}&{tls}",
            f"redis://log-2.example.org:6379/0?{password}",
        ),
    }
    for cluster in clusters.values():
        variables = variables_of(cluster.container("nodes", "node"))
        assert settings_from_environment(variables).cluster.redis_logs == told.get(cluster.name, ())
        if cluster.name == "event logs":
            assert variables["VERL_AGENT_ENV_REDIS"].endswith(f"/0?{password}")
        if cluster.name == "several kinds of Redis":
            assert variables["VERL_AGENT_ENV_REDIS"] == (
                f"redis+sentinel://s-1.example.org/environments/0?{password}"
                "&sentinel_password_file=/run/redis/sentinel-password"
            )


def test_nodes_and_watcher_use_one_namespace(clusters: dict[str, Rendered]) -> None:
    for cluster in clusters.values():
        node, watcher = cluster.container("nodes", "node"), cluster.container("nginx", "nginx-config")
        settings = settings_from_environment(variables_of(node)).cluster
        assert variables_of(watcher)["VERL_AGENT_ENV_NAMESPACE"] == settings.namespace
        assert settings.namespace == ("team_a" if cluster.name == "Sentinels" else "verl_agent_env")


def test_tokens_are_those_of_the_secret_that_is_named(clusters: dict[str, Rendered]) -> None:
    def tokens(name: str) -> dict[str, Any]:
        node = clusters[name].container("nodes", "node")
        (found,) = (one for one in node["env"] if one["name"] == "VERL_AGENT_ENV_AUTH_TOKENS")
        return dict(found["valueFrom"]["secretKeyRef"])

    assert tokens("defaults") == {"name": "auth-tokens", "key": "tokens", "optional": True}
    assert tokens("own tokens") == {"name": "team-tokens", "key": "list", "optional": False}
    node = clusters["ingress"].container("nodes", "node")
    assert settings_from_environment(variables_of(node)).auth_file == "/run/auth/tokens"
    assert "VERL_AGENT_ENV_AUTH_TOKENS" not in {one["name"] for one in node["env"]}
    (volume,) = (one for one in clusters["ingress"].pods()["nodes"]["volumes"] if one["name"] == "auth")
    assert volume["secret"]["secretName"] == "token-file"


def test_settings_reach_the_server_as_they_were_meant(clusters: dict[str, Rendered]) -> None:
    node = clusters["ingress"].container("nodes", "node")
    settings = settings_from_environment(variables_of(node))
    assert settings.host_limits.max_envs == 1_000_000
    assert settings.cluster.lease_s == 2.5
    assert settings.trusted_proxies == ("10.0.0.0/8",)
    assert settings.access_log is True
    assert settings.log_level == "warning"


def test_listed_hosts_are_joined_by_the_services_own_names(clusters: dict[str, Rendered]) -> None:
    listed = {
        name: settings_from_environment(variables_of(cluster.container("nodes", "node"))).allowed_hosts
        for name, cluster in clusters.items()
    }
    assert listed["defaults"] == ()
    service = f"{RELEASE}-nginx"
    assert listed["ingress"] == (
        *(service, f"{service}.{NAMESPACE}", f"{service}.{NAMESPACE}.svc"),
        *(f"{service}.{NAMESPACE}.svc.cluster.local", "envs.example.org", "*.example.net"),
    )
