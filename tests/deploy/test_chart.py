"""The chart's values: what there is, what is refused, and what is scaled by."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from docs.chart_values import VALUES, described_values, value_at
from tests.deploy.rendered import CHART, RELEASE, VALUE_SETS, RefusedValuesError, Rendered, helm, render
from verl_agent_env.config import (
    ClusterSettings,
    ConnectionLimits,
    HostLimits,
    HttpLimits,
    ServerSettings,
    settings_from_environment,
)
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.same_origin import SameOriginPolicy

SCHEMA = orjson.loads((CHART / "values.schema.json").read_bytes())

REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    (
        {
            "nodes": {
                "replica": 2,
                "workers": 0,
                "shutdownGraceSeconds": "a while",
                "settings": {"redis": "x"},
            },
            "service": {"type": "Open"},
            "image": {"digest": "latest"},
            "redis": {"storage": "much", "image": {"tags": "8"}},
        },
        [
            "nodes: Additional property replica is not allowed",
            "nodes.workers: Must be greater than or equal to 1",
            "nodes.shutdownGraceSeconds: Invalid type. Expected: integer",
            'nodes.settings: Property name of "redis" does not match',
            "service.type: service.type must be one of the following",
            "image.digest: Does not match pattern",
            "redis.storage: Does not match pattern",
            "redis.image: Additional property tags is not allowed",
        ],
    ),
    (
        {
            "redis": {
                "url": "redis://me:secret@cache",
                "passwordSecret": {"name": "", "usernameKey": "user"},
            },
            "autoscaling": {"enabled": True, "minReplicas": 11, "liveEnvironments": 0, "p99Milliseconds": 0},
        },
        [
            "redis.url must be redis://…, rediss://…, redis+sentinel://… or rediss+sentinel://…, without user and",
            "usernameKey needs the Secret's name",
            "minReplicas (11) is above autoscaling.maxReplicas (10)",
            "autoscaling looks at nothing",
        ],
    ),
    (
        {
            "redis": {"passwordSecret": {"name": ""}, "caSecret": {"name": "ca"}},
            "ingress": {"enabled": True},
        },
        ["own Redis needs a password: name its Secret", "give its address in redis.url", "set ingress.host"],
    ),
    (
        {
            "redis": {
                "url": "redis://cache",
                "logs": ["redis://me:secret@log"],
                "caSecret": {"name": "ca"},
                "sentinelPasswordSecret": {"name": "s"},
            }
        },
        [
            "redis.logs must be redis://",
            "redis.url or one of redis.logs must begin with rediss://",
            "redis.url or one of redis.logs must begin with redis+sentinel://",
        ],
    ),
]
"""Values, and all that is wrong with them."""


def test_what_cannot_be_is_refused_with_sentences(tmp_path: Path) -> None:
    for values, sentences in REFUSED:
        with pytest.raises(RefusedValuesError) as refused:
            render(values, tmp_path)
        for sentence in sentences:
            assert sentence in str(refused.value)
        # And nothing else is.
        assert re.findall(r"^- (?!nodes.settings: nodes.settings)", str(refused.value), re.MULTILINE) == [
            "- "
        ] * len(sentences)


def test_helm_finds_no_fault_with_the_chart() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def paths_of(values: dict[str, Any], *above: str) -> Iterator[str]:
    """The paths of all values; of a mapping without entries its own."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from paths_of(value, *above, name)
        else:
            yield ".".join((*above, name))


def test_every_value_is_described_and_in_the_schema() -> None:
    text = VALUES.read_text("utf-8")
    values = yaml.safe_load(text)
    described = described_values(text)
    for path in described:
        value_at(values, path)
    for path in paths_of(values):
        parts = path.split(".")
        assert any(".".join(parts[:length]) in described for length in range(1, len(parts) + 1)), path
    # The other way round: what the schema allows has a default. Charts that use this one may hand on 'global'.
    assert {*schema_paths(SCHEMA)} - {*paths_of(values)} <= {
        "global",
        *("nodes.resources", "nginx.resources", "redis.requests", "ingress.annotations"),
    }


def schema_paths(part: dict[str, Any], *above: str) -> Iterator[str]:
    """The paths of all values that a part of the schema names."""
    if "$ref" in part:
        part = SCHEMA["definitions"][part["$ref"].rpartition("/")[2]]
    if "properties" not in part:
        yield ".".join(above)
    for name, below in part.get("properties", {}).items():
        yield from schema_paths(below, *above, name)


def test_settings_are_those_of_the_server_that_the_chart_does_not_make_itself(
    clusters: dict[str, Rendered],
) -> None:
    groups = (ServerSettings, HostLimits, HttpLimits, ConnectionLimits, ClusterSettings)
    every = {
        field.name
        for group in groups
        for field in dataclasses.fields(group)
        if not field.name.endswith("_limits")
    }
    own: set[str] = set()
    for name in ("defaults", "ingress", "event logs"):
        for variable in clusters[name].container("nodes", "node")["env"]:
            own.add(variable["name"].removeprefix("VERL_AGENT_ENV_").lower())
    own -= {*VALUE_SETS["ingress"]["nodes"]["settings"]}
    assert own >= {"auth_tokens", "auth_file", "allowed_hosts"}
    allowed = SCHEMA["properties"]["nodes"]["properties"]["settings"]["propertyNames"]["enum"]
    assert {*allowed} == every - own - {"tls", "cluster"}


def test_probes_are_answered_where_hosts_are_listed(clusters: dict[str, Rendered]) -> None:
    cluster = clusters["ingress"]
    variables = {one["name"]: one.get("value", "") for one in cluster.container("nodes", "node")["env"]}
    hosts = settings_from_environment(
        {name: value for name, value in variables.items() if "HOSTS" in name}
    ).allowed_hosts
    policy = SameOriginPolicy(hosts)
    probe = cluster.container("nginx", "nginx")["readinessProbe"]["httpGet"]["httpHeaders"]
    (named,) = (one["value"] for one in probe if one["name"] == "Host")
    at_worker = Peer("10.1.0.7", "10.1.0.9")
    for host in (named, "10.1.0.9:8000", "envs.example.org", f"{RELEASE}-nginx", "a.example.net"):
        policy.check("GET", {b"host": host.encode()}, at_worker)


def test_nodes_are_scaled_by_what_the_adapter_makes(clusters: dict[str, Rendered], deploy: Path) -> None:
    cluster = clusters["autoscaling"]
    asked = {
        metric["pods"]["metric"]["name"]: metric["pods"]["target"]
        for metric in cluster.spec("HorizontalPodAutoscaler", "nodes")["metrics"]
    }
    rules = yaml.safe_load((deploy / "prometheus" / "adapter.yaml").read_text("utf-8"))["rules"]["custom"]
    made = {one.get("name", {}).get("as") or one["seriesQuery"].partition("{")[0] for one in rules}
    assert set(asked) == made
    assert asked["verl_agent_env_live_environments"] == {"type": "AverageValue", "averageValue": "20000"}
    assert asked["verl_agent_env_step_p99_seconds"] == {"type": "AverageValue", "averageValue": "1000m"}


def test_one_metric_is_left_out_where_it_is_zero(clusters: dict[str, Rendered]) -> None:
    (metric,) = clusters["known clients"].spec("HorizontalPodAutoscaler", "nodes")["metrics"]
    assert metric["pods"]["metric"]["name"] == "verl_agent_env_live_environments"


def test_prometheus_asks_each_worker_and_not_the_port_that_all_share(
    clusters: dict[str, Rendered], deploy: Path
) -> None:
    cluster = clusters["own tokens"]
    workers = [one["name"] for one in cluster.container("nodes", "node")["ports"] if one["name"] != "http"]
    endpoints = cluster.spec("PodMonitor", "nodes")["podMetricsEndpoints"]
    assert [one["port"] for one in endpoints] == workers == [f"worker-{nth}" for nth in range(1, 5)]
    assert {one["authorization"]["credentials"]["name"] for one in endpoints} == {"ops"}
    (job,) = yaml.safe_load((deploy / "prometheus" / "kubernetes.yml").read_text("utf-8"))["scrape_configs"]
    kept = {tuple(one["source_labels"]): one["regex"] for one in job["relabel_configs"] if "regex" in one}
    prefix = "__meta_kubernetes_pod_"
    assert kept == {
        (f"{prefix}label_app_kubernetes_io_name", f"{prefix}label_app_kubernetes_io_component"): (
            "verl-agent-env;nodes"
        ),
        (f"{prefix}container_port_name",): r"worker-\d+",
    }
