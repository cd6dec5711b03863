"""Clusters as the chart renders them for several sets of values, and what a test asks of their objects."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.children import ROOT, run

CHART = ROOT / "deploy" / "helm"
RELEASE, NAMESPACE = "envs", "verl-agent-env"
LABEL = "app.kubernetes.io/"
COMPONENTS = ("nodes", "nginx", "redis")

VALUE_SETS: Mapping[str, dict[str, Any]] = {
    "defaults": {},
    "external Redis": {
        "redis": {
            "url": "rediss://cache.example.org:6380/0",
            "passwordSecret": {"name": "cache", "key": "secret", "usernameKey": "user"},
            "caSecret": {"name": "cache-ca"},
            "clientCertSecret": {"name": "cache-client"},
        },
    },
    "event logs": {
        "redis": {
            "url": "rediss://cache.example.org:6380/0",
            "logs": ["rediss://log-1.example.org:6380/0", "rediss://log-2.example.org:6380/0?wait=1"],
            "passwordSecret": {"name": "cache"},
        },
    },
    "several kinds of Redis": {
        "redis": {
            "url": "redis+sentinel://s-1.example.org/environments/0",
            "logs": ["rediss://log-1.example.org:6380/0", "redis://log-2.example.org:6379/0"],
            "sentinelPasswordSecret": {"name": "sentinels"},
            "caSecret": {"name": "log-ca"},
            "clientCertSecret": {"name": "log-client"},
        },
    },
    "Sentinels": {
        "redis": {
            "url": "redis+sentinel://s-1.example.org:26379,s-2.example.org/environments/0?wait=1",
            "namespace": "team_a",
            "sentinelPasswordSecret": {"name": "sentinels"},
        },
    },
    "own tokens": {
        "auth": {"tokensSecret": {"name": "team-tokens", "key": "list"}, "required": True},
        "monitoring": {"podMonitor": True, "labels": {"release": "prom"}, "tokenSecret": {"name": "ops"}},
    },
    "ingress": {
        "auth": {"fileSecret": {"name": "token-file"}},
        "allowedHosts": ["*.example.net"],
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "envs.example.org",
            "tlsSecret": "envs-tls",
        },
        "nodes": {
            "settings": {
                "max_envs": 1_000_000,
                "lease_s": 2.5,
                "trusted_proxies": ["10.0.0.0/8"],
                "access_log": True,
                "log_level": "warning",
            }
        },
    },
    "autoscaling": {
        "autoscaling": {"enabled": True, "minReplicas": 3},
        "nodes": {"shutdownGraceSeconds": 90},
    },
    "open and large": {
        "image": {
            "repository": "registry.example.org/envs",
            "digest": "sha256:" + "0a" * 32,
            "pullSecrets": ["reg"],
        },
        "nodes": {
            "replicas": 12,
            "expected": 12,
            "workers": 16,
            "nodeSelector": {"pool": "cpu"},
            "tolerations": [{"operator": "Exists"}],
            "env": [{"name": "OTEL_SERVICE_NAME", "value": "envs"}],
            "volumes": [{"name": "mcp", "configMap": {"name": "mcp"}}],
            "volumeMounts": [{"name": "mcp", "mountPath": "/etc/mcp"}],
            "settings": {"mcp_config": "/etc/mcp/servers.json"},
        },
        "nginx": {"replicas": 1, "gzip": True, "fronts": ["10.0.0.0/8"], "unsafeSysctls": True},
        "redis": {"url": "redis://cache.example.org:6379/2", "passwordSecret": {"name": ""}},
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"example.org/internal": "true"}},
        "networkPolicy": {"enabled": False},
    },
    "known clients": {
        "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
        "redis": {"memoryGi": 2},
        "autoscaling": {"enabled": True, "p99Milliseconds": 0},
    },
}
"""Values that the tests render, beside those of the chart."""


def helm(*arguments: str) -> str:
    """Run helm, and give what it wrote.

    Raises:
        RefusedValuesError: It did not end well; the text is what it said.
    """
    program = shutil.which("helm", path=f"{Path(sys.executable).parent}:{Path('/usr/local/bin')}:/usr/bin")
    if program is None:
        # pyproject.toml installs it there.
        assert (sys.platform, platform.machine()) != ("linux", "x86_64"), "run 'make install'"
        pytest.skip("there is no helm here")
    done = run(program, *arguments)
    if done.returncode:
        raise RefusedValuesError(done.stderr)
    return done.stdout


class RefusedValuesError(Exception):
    """helm refused values."""


def render(values: Mapping[str, Any], folder: Path) -> str:
    """Render the chart with these values, as Kubernetes is given it."""
    file = folder / "values.json"
    file.write_bytes(orjson.dumps(values))
    return helm("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", str(file))


@dataclass(frozen=True)
class Rendered:
    """The objects of one set of values."""

    name: str
    objects: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, name: str, text: str) -> Rendered:
        """Read the objects of a text."""
        return cls(name, tuple(one for one in yaml.safe_load_all(text) if one is not None))

    def find(self, kind: str, component: str) -> dict[str, Any] | None:
        """The one object of a kind and a component, if there is one."""
        found = [one for one in self.of_kind(kind) if one["metadata"]["name"] == f"{RELEASE}-{component}"]
        assert len(found) < 2, (self.name, kind, component)
        return found[0] if found else None

    def spec(self, kind: str, component: str) -> dict[str, Any]:
        """The ``spec`` of an object that is there."""
        found = self.find(kind, component)
        assert found is not None, (self.name, kind, component)
        spec: dict[str, Any] = found["spec"]
        return spec

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def workloads(self) -> dict[str, dict[str, Any]]:
        """The ``spec`` of each workload, by its component."""
        kinds = {"nodes": "StatefulSet", "nginx": "Deployment", "redis": "StatefulSet"}
        return {name: self.spec(kind, name) for name, kind in kinds.items() if self.find(kind, name)}

    def pods(self) -> dict[str, dict[str, Any]]:
        """The ``spec`` of each workload's pods, by its component."""
        return {name: one["template"]["spec"] for name, one in self.workloads().items()}

    def container(self, component: str, name: str) -> dict[str, Any]:
        """A container by its name."""
        (found,) = (one for one in self.pods()[component]["containers"] if one["name"] == name)
        return dict(found)

    def containers(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each container, with the ``spec`` of its pod."""
        for pod in self.pods().values():
            for container in pod["containers"]:
                yield pod, container


def labels_of(component: str) -> dict[str, str]:
    """The labels by which a component's pods are selected."""
    return {
        LABEL + "name": "verl-agent-env",
        LABEL + "instance": RELEASE,
        LABEL + "component": component,
    }


def bytes_of(size: str) -> int:
    """As Kubernetes (``8Gi``) and Redis (``6144mb``) write it."""
    (found,) = re.findall(r"^(\d+)([mg])", size.lower())
    return int(found[0]) << {"m": 20, "g": 30}[found[1]]


def variables_of(container: dict[str, Any], pod_name: str = "") -> dict[str, str]:
    """A container's variables in the pod of this name; those of Secrets are left out."""
    found: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], variable["value"])
        elif "fieldRef" in variable["valueFrom"]:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            found[variable["name"]] = pod_name
    return found
