"""Metrics agree with what was done."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import GATED, LAKE, MakeClient, app_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def read(client: httpx.AsyncClient) -> Samples:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"verl_agent_env_{name}", frozenset(labels.items())))


async def test_latency_is_counted_per_route(client: httpx.AsyncClient, initialize: Any) -> None:
    env_ids = [await initialize(client) for _ in range(3)]
    for env_id in env_ids:
        await client.post(f"/api/environment/{env_id}/step", json={"action": "up"})
        await client.post(f"/api/environment/{env_id}/step", json={"action": "down"})
    await client.get("/nothing")
    samples = await read(client)
    step = "/api/environment/{env_id}/step"
    assert value(samples, "request_seconds_count", route=step) == 6
    assert value(samples, "request_seconds_bucket", route=step, le="+Inf") == 6
    assert value(samples, "request_seconds_count", route="/api/environment/initialize") == 3
    assert value(samples, "request_seconds_count", route="other") == 1
    assert 0 < (value(samples, "request_seconds_sum", route=step) or 0) < 5
    assert not any(env_id in str(samples) for env_id in env_ids)


async def test_environments_are_counted_by_kind_and_end(make_client: MakeClient, initialize: Any) -> None:
    client = await make_client()
    lakes = [await initialize(client) for _ in range(3)]
    await initialize(client, GATED)
    await client.post(f"/api/environment/{lakes[0]}/close")
    await client.post(f"/api/environment/{lakes[0]}/close")
    samples = await read(client)
    assert value(samples, "live_environments", env_name=LAKE) == 2
    assert value(samples, "live_environments", env_name=GATED) == 1
    assert value(samples, "created_total", env_name=LAKE) == 3
    assert value(samples, "closed_total", env_name=LAKE, reason="closed") == 1
    assert value(samples, "closed_total", env_name=LAKE, reason="idle") is None


async def test_errors_are_counted_per_code(client: httpx.AsyncClient, initialize: Any) -> None:
    for _ in range(2):
        await client.post("/api/environment/initialize", json={"env_name": "frozen_lak"})
    await client.get("/nothing")
    await client.put("/healthz")
    await client.post("/docs")
    await client.get("/api/environment/nobody")
    await client.post("/api/batch/step", json={"env_ids": ["a", "b", "c"], "actions": ["", "", ""]})
    samples = await read(client)
    assert value(samples, "errors_total", code="unknown_env_name") == 2
    assert value(samples, "errors_total", code="not_found") == 1
    assert value(samples, "errors_total", code="method_not_allowed") == 2
    assert value(samples, "errors_total", code="environment_not_found") == 1
    assert value(samples, "item_errors_total", code="environment_not_found") == 3


async def test_batch_sizes_and_environment_faults_are_counted(
    client: httpx.AsyncClient, initialize: Any
) -> None:
    await client.post("/api/batch/initialize", json={"env_name": LAKE, "num_envs": 20})
    env_id = await initialize(client, GATED)
    await client.post(f"/api/environment/{env_id}/step", json={"action": "raise"})
    samples = await read(client)
    assert value(samples, "batch_size_count", route="initialize") == 1
    assert value(samples, "batch_size_sum", route="initialize") == 20
    assert value(samples, "batch_size_bucket", route="initialize", le="8.0") == 0
    assert value(samples, "batch_size_bucket", route="initialize", le="64.0") == 1
    assert value(samples, "env_faults_total", env_name=GATED, fault="exception") == 1
    assert value(samples, "stuck_threads") == 0


async def test_created_is_open_and_closed_and_reaped(make_client: MakeClient, initialize: Any) -> None:
    client = await make_client()
    env_ids = [await initialize(client) for _ in range(4)]
    await client.post("/api/batch/close", json={"env_ids": env_ids[:2]})
    short = [await initialize(client, ttl_s=1e-6) for _ in range(3)]
    assert await app_of(client).env_host.reap() == len(short)
    samples = await read(client)
    assert value(samples, "created_total", env_name=LAKE) == 7
    assert value(samples, "closed_total", env_name=LAKE, reason="closed") == 2
    assert value(samples, "closed_total", env_name=LAKE, reason="idle") == 3
    assert value(samples, "live_environments", env_name=LAKE) == 2
