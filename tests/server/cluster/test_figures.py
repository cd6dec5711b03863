"""Figures of a worker: what is told of it, and what was done between two looks."""

from __future__ import annotations

import dataclasses

import httpx
import orjson

from tests.server.conftest import LAKE, app_of
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.server.cluster.figures import WorkerFigures, rates, total

RECORD = WorkerRecord("life-1", "a:1", "a", "the supervisor's secret", "10.0.0.1:1", 7, "ready")


def figures_of(client: httpx.AsyncClient) -> WorkerFigures:
    app = app_of(client)
    return WorkerFigures.of(RECORD, app.env_host, app.metrics)


async def test_steps_errors_runs_and_times_are_counted_and_reach_another_worker_whole(
    client: httpx.AsyncClient,
) -> None:
    before = figures_of(client)
    made = {"env_name": LAKE, "num_envs": 3, "run_id": "run"}
    env_ids = (await client.post("/api/batch/initialize", json=made)).json()["env_ids"]
    await client.post(f"/api/environment/{env_ids[0]}/step", json={"action": "up"})
    await client.post("/api/batch/step", json={"env_ids": env_ids, "actions": ["up"] * 3})
    await client.post("/api/batch/step", json={"env_ids": ["nobody"], "actions": ["up"]})
    await client.get("/nothing")
    figures = figures_of(client)
    assert figures.steps == 5
    assert figures.errors == {"not_found": 1, "environment_not_found": 1}
    assert figures.live == {LAKE: 3}
    assert [tuple(run) for run in figures.runs] == [("run", "", 3)]
    assert b"secret" not in figures.to_json()
    assert WorkerFigures.from_json(figures.to_json()).to_json() == figures.to_json()
    news = figures.since(before)
    assert news is not None
    shown = rates([news], 2.0)
    assert shown["steps_per_s"] == 2.5
    assert 0 < shown["step_ms"]["p50"] <= shown["step_ms"]["p99"]
    assert shown["store_ms"] is None


async def test_a_process_that_started_again_has_done_nothing_since(client: httpx.AsyncClient) -> None:
    figures = figures_of(client)
    again = dataclasses.replace(figures, worker={**figures.worker, "incarnation": "life-2"})
    assert again.since(figures) is None
    assert figures.since(None) is None
    assert rates([], 2.0)["steps_per_s"] is None


def test_fields_of_later_versions_are_ignored_and_counts_are_added() -> None:
    fields: dict[str, object] = {name.name: [] for name in dataclasses.fields(WorkerFigures)}
    written = fields | {"steps": 1, "a_later_field": 2}
    assert WorkerFigures.from_json(orjson.dumps(written)).steps == 1
    assert total([{"a": 1}, {"a": 2, "b": 1}]) == {"a": 3, "b": 1}
