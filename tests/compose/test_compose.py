"""``docker compose up`` for real: the README's calls, a container killed, a node more. In this order, on one project."""

from __future__ import annotations

import os
import re
from collections import Counter

import httpx
import pytest

from tests.children import ROOT, run
from tests.compose.conftest import Project
from tests.pool_process import initialize, initialize_many, step
from tests.ports import free_port
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import slot_of

pytestmark = pytest.mark.skipif(
    os.environ.get("COMPOSE_TESTS") != "1",
    reason="takes a Docker engine and minutes: COMPOSE_TESTS=1 runs it",
)


def owners(project: Project, env_ids: list[str]) -> Counter[str]:
    """How many of the environments live at each address."""
    return Counter(project.client.get(f"/api/environment/{env_id}").json()["owner"] for env_id in env_ids)


def test_the_calls_of_the_readme_work_on_the_published_port(project: Project) -> None:
    blocks = re.findall(
        r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    session = next(block for block in blocks if "curl" in block)
    script = "set -eu\n" + re.sub(r"^api=.*$", f"api={project.url}/api", session, flags=re.MULTILINE)
    done = run("bash", "-c", script)
    assert done.returncode == 0, done.stderr
    assert '"code"' not in done.stdout
    assert '"reward":10.9' in done.stdout
    assert '"closed":3' in done.stdout


def test_environments_spread_over_all_workers_and_live_where_the_ring_says(project: Project) -> None:
    env_ids = initialize_many(project.client, 400)
    found = owners(project, env_ids)
    assert set(found) == set(project.ready_workers())
    assert min(found.values()) > 40
    ring = Ring(sorted(found))
    assert found == Counter(ring.assignments[slot_of(env_id)] for env_id in env_ids)
    answer = project.client.post("/api/batch/step", json={"env_ids": env_ids, "actions": ["right"] * 400})
    assert answer.json()["errors"] == []
    assert project.client.post("/api/batch/close", json={"env_ids": env_ids}).json()["closed"] == 400


def test_workers_are_reached_through_nginx_only(project: Project) -> None:
    assert project.client.get("/internal/worker").status_code == 404
    assert project.published() == {str(project.port)}


def test_a_killed_container_takes_only_its_own_environments_along(project: Project) -> None:
    env_ids = initialize_many(project.client, 200)
    kept = [
        env_id
        for env_id in env_ids
        if project.client.get(f"/api/environment/{env_id}").json()["owner"].startswith("node-1:")
    ]
    assert kept
    assert run("docker", "kill", project.container("node-2")).returncode == 0
    answer = project.client.post("/api/batch/step", json={"env_ids": kept, "actions": ["right"] * len(kept)})
    assert answer.json()["errors"] == []
    project.await_nodes("node-1")
    fresh = [initialize(project.client) for _ in range(20)]
    assert [step(project.client, env_id).status_code for env_id in fresh] == [200] * 20
    project.run("up", "--detach", "node-2")
    project.await_nodes("node-1", "node-2")
    assert [step(project.client, env_id).status_code for env_id in (*kept, *fresh)] == [200] * len(
        [*kept, *fresh]
    )


def test_a_node_that_nobody_had_planned_is_taken_in(project: Project) -> None:
    before = initialize_many(project.client, 100)
    project.run("--profile", "scale-out", "up", "--detach", "node-3")
    project.await_nodes("node-1", "node-2", "node-3")

    def nginx_knows() -> bool:
        text = project.run("exec", "-T", "nginx", "cat", "/var/lib/nginx-config/nginx.conf")
        return text.count("server node-3:") == 4

    eventually(nginx_knows, what="node-3 in nginx's configuration")
    assert [step(project.client, env_id).status_code for env_id in before] == [200] * 100
    found = owners(project, initialize_many(project.client, 600))
    assert set(found) == set(project.ready_workers())
    assert len(found) == 6


def test_the_image_alone_is_a_single_process(project: Project) -> None:
    port = free_port()
    started = run(
        "docker", "run", "--detach", "--rm", "--publish", f"127.0.0.1:{port}:8000", "verl-agent-env"
    )
    assert started.returncode == 0, started.stderr
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:

            def is_ready() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            eventually(is_ready, what="the server")
            assert step(client, initialize(client)).status_code == 200
            assert (
                len([w for node in client.get("/api/cluster").json()["nodes"] for w in node["workers"]]) == 1
            )
    finally:
        container = started.stdout.strip()
        assert run("docker", "stop", container).returncode == 0
