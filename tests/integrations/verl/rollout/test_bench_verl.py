"""The measurement of the agent loops, in small."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import ServerProcess

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")


async def test_all_ways_play_the_same_episodes_and_shared_requests_spare_the_server(
    server: ServerProcess,
) -> None:
    from loadtests.bench_verl import measure, print_table

    runs = await measure(server.url, server.process.pid, episodes=300, turns=3)
    memory, together, plain = runs
    assert memory.reward == together.reward == plain.reward
    assert memory.server_cpu_s < together.server_cpu_s < plain.server_cpu_s
    print_table(runs, 300, 3)


async def test_ten_thousand_prompts_are_rendered_once_for_each_group() -> None:
    from verl_agent_env.integrations.verl.rollout.shared import Shared

    rendered: list[int] = []

    def render() -> list[int]:
        rendered.append(1)
        return [1, 2]

    together = Shared()
    assert await asyncio.gather(*(together.prompt("one", render) for _ in range(10_000))) == [[1, 2]] * 10_000
    assert len(rendered) == 1
