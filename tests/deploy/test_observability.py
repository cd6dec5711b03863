"""Prometheus, Grafana and its dashboard fit what the server counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from tests.conftest import ServerProcess
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def dashboard(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(
        (deploy / "grafana" / "dashboards" / "verl-agent-env.json").read_bytes()
    )
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def adapter(deploy: Path) -> list[str]:
    """What prometheus-adapter asks Prometheus for on behalf of Kubernetes."""
    rules = yaml.safe_load((deploy / "prometheus" / "adapter.yaml").read_text("utf-8"))["rules"]["custom"]
    return [
        one["metricsQuery"]
        .replace("<<.Series>>", one["seriesQuery"].partition("{")[0])
        .replace("<<.LabelMatchers>>,", "")
        for one in rules
    ]


def test_the_dashboard_asks_for_what_the_server_counts(
    dashboard: dict[str, Any], adapter: list[str], server: ServerProcess
) -> None:
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        client.post("/api/batch/initialize", json={"env_names": ["frozen_lake"]})
        text = client.get("/metrics").text
    known = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        known |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    used = {
        name
        for one in expressions(dashboard)
        for name in re.findall(r"\b(?:verl_agent_env|process)_\w+", one)
    }
    assert len(used) > 10
    assert used <= known
    scaled_by = {name for one in adapter for name in re.findall(r"verl_agent_env_\w+", one)}
    assert scaled_by == {"verl_agent_env_live_environments", "verl_agent_env_request_seconds_bucket"} & known
    ours = {
        name
        for name in known
        if name.startswith("verl_agent_env_") and not name.endswith(("_count", "_sum", "_bucket"))
    }
    assert ours <= used


def test_routes_of_the_dashboard_are_routes_of_the_server(
    dashboard: dict[str, Any], adapter: list[str], server: ServerProcess
) -> None:
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        env_id = client.post("/api/environment/initialize", json={"env_name": "frozen_lake"}).json()["env_id"]
        client.post(f"/api/environment/{env_id}/step", json={"action": "up"})
        client.post("/api/batch/step", json={"env_ids": [env_id], "actions": ["up"]})
        text = client.get("/metrics").text
    used = {
        (metric, route)
        for one in [*expressions(dashboard), *adapter]
        for metric, route in re.findall(r'(verl_agent_env_\w+)\{route="([^"]*)"\}', one)
    }
    assert {metric for one in adapter for metric in re.findall(r"(\w+)\{route=", one)} <= {
        name for name, _ in used
    }
    for metric, route in used:
        assert f'{metric}{{route="{route}"}}' in re.sub(r'le="[^"]*",', "", text)


def test_panels_have_numbers_places_and_the_provisioned_source(
    dashboard: dict[str, Any], deploy: Path
) -> None:
    (source,) = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_grafana_finds_prometheus_and_the_dashboard(deploy: Path, compose: dict[str, Any]) -> None:
    (source,) = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]
    (provider,) = yaml.safe_load((deploy / "grafana/provisioning/dashboards/dashboards.yml").read_text())[
        "providers"
    ]
    assert (
        f"./deploy/grafana/dashboards:{provider['options']['path']}:ro"
        in compose["services"]["grafana"]["volumes"]
    )


def test_prometheus_asks_the_workers_that_the_watcher_lists(deploy: Path, compose: dict[str, Any]) -> None:
    (job,) = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    ((listed,),) = (lists["files"] for lists in job["file_sd_configs"])
    assert f"--targets={listed}" in compose["services"]["nginx-config"]["command"]
    assert f"nginx-config:{listed.rpartition('/')[0]}:ro" in compose["services"]["prometheus"]["volumes"]
