"""Episodes whose environment gets lost: they go on as if nothing had happened, or are no sample at all."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.conftest import ServerProcess, StartServer
from tests.integrations.verl.conftest import RUN_ID, MakeLoop
from tests.lossy_proxy import LossyProxy
from tests.ports import free_port
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.errors import EnvironmentLostError
from verl_agent_env.integrations.errors import EpisodeFailedError
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.types import StepResult

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

SLIPPERY: dict[str, Any] = {"size": 8, "is_slippery": True, "max_steps": 6}


def fakes() -> Any:
    from tests.integrations.verl import fakes as module

    return module


def tokens(output: Any) -> tuple[list[int], list[int], list[int], float]:
    return output.prompt_ids, output.response_ids, output.response_mask, output.reward_score


async def test_an_environment_that_was_closed_by_others_is_made_anew_and_the_episode_goes_on(
    make_loop: MakeLoop, server: ServerProcess
) -> None:
    class Closing(fakes().FakeModel):  # type: ignore[misc]
        async def generate(self, **request: Any) -> Any:
            if len(self.requests) == 3:
                async with AsyncEnvClient(server.url) as client:
                    assert await client.close_run(RUN_ID) == 1
            return await super().generate(**request)

    row = fakes().row("frozen_lake", **SLIPPERY)
    undisturbed = await make_loop(fakes().FakeModel("right", "down", "left")).run({}, **row)
    disturbed = await make_loop(Closing("right", "down", "left")).run({}, **row)
    assert tokens(disturbed) == tokens(undisturbed)
    assert disturbed.extra_fields["reward_extra_info"]["env_restarts"] == 1.0
    assert undisturbed.extra_fields["reward_extra_info"]["env_restarts"] == 0.0
    assert undisturbed.extra_fields["reward_extra_info"]["env_retries"] == 0.0


async def test_a_lossy_network_costs_retries_and_nothing_else(
    make_loop: MakeLoop, server: ServerProcess
) -> None:
    row = fakes().row("frozen_lake", **SLIPPERY)
    undisturbed = await make_loop(fakes().FakeModel("right", "down", "left")).run({}, **row)
    async with LossyProxy(server.port, lose_requests=0.4, lose_answers=0.4) as proxy:
        disturbed = await make_loop(fakes().FakeModel("right", "down", "left"), url=proxy.url).run({}, **row)
        lost = proxy.lost_requests + proxy.lost_answers
    assert tokens(disturbed) == tokens(undisturbed)
    assert 0 < disturbed.extra_fields["reward_extra_info"]["env_retries"] <= lost
    assert disturbed.extra_fields["reward_extra_info"]["env_restarts"] == 0.0


async def test_a_server_that_is_killed_and_started_again_costs_no_sample(
    make_loop: MakeLoop, start_server: StartServer
) -> None:
    port = str(free_port())
    servers = [start_server("--port", port)]

    def restart(number: int) -> None:
        if number == 2:
            servers[-1].stop(signal.SIGKILL)
            servers.append(start_server("--port", port))

    row = fakes().row("frozen_lake", **SLIPPERY)
    undisturbed = await make_loop(fakes().FakeModel("right", "down"), url=servers[0].url).run({}, **row)
    model = fakes().FakeModel("right", "down")
    model.before = restart
    disturbed = await make_loop(model, url=servers[0].url).run({}, **row)
    assert tokens(disturbed) == tokens(undisturbed)
    assert len(servers) == 2


async def test_a_server_that_stays_away_is_a_failed_sample_and_no_reward(
    make_loop: MakeLoop, start_server: StartServer
) -> None:
    away = start_server()

    def stop(number: int) -> None:
        if number == 1:
            away.stop(signal.SIGKILL)

    model = fakes().FakeModel("right")
    model.before = stop
    loop = make_loop(model, url=away.url, deadline_s=0.5, close_deadline_s=0.5)
    with pytest.raises(EpisodeFailedError) as caught:
        await loop.run({}, **fakes().row("frozen_lake", seed=9, **SLIPPERY))
    assert (caught.value.env_name, caught.value.seed) == ("frozen_lake", 9)
    assert "left out" in str(caught.value)


class ScriptedEnv:
    """An environment of a client: says what it is told to, or raises it."""

    env_id = "scripted"
    num_retries = 0

    def __init__(self, first: str, *steps: StepResult | Exception) -> None:
        self.first = [{"role": "user", "content": first}]
        self.steps = list(steps)
        self.closed = False

    async def reset(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return self.first, {}

    async def step(self, action: Any) -> StepResult:
        result = self.steps.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        self.closed = True


class ScriptedClient:
    """Gives scripted environments, one after the other."""

    def __init__(self, *envs: ScriptedEnv) -> None:
        self.envs = list(envs)
        self.made: list[ScriptedEnv] = []

    def make(self, env_name: str, **arguments: Any) -> ScriptedEnv:
        self.made.append(self.envs.pop(0))
        return self.made[-1]


def said(text: str) -> StepResult:
    return StepResult([{"role": "user", "content": text}], 0.0, False, False, {})


def episode(client: ScriptedClient, **options: Any) -> Any:
    from verl_agent_env.integrations.rollout.episode import Episode

    spec = EpisodeSpec("scripted", 1, {}, [], None, False, False)
    return Episode(client, spec, RolloutOptions(**options))  # type: ignore[arg-type]


async def test_the_new_environment_is_taken_through_the_same_actions() -> None:
    client = ScriptedClient(
        ScriptedEnv("a", said("b"), EnvironmentLostError("x")), ScriptedEnv("a", said("b"), said("c"))
    )
    played = episode(client)
    assert (await played.begin())[0]["content"] == "a"
    assert await played.step("one") == said("b")
    assert await played.step("two") == said("c")
    assert client.made[0].closed
    assert played.attempts == 1
    await played.close()
    assert client.made[1].closed


@pytest.mark.parametrize("second", [ScriptedEnv("z"), ScriptedEnv("a", said("other"))])
async def test_an_environment_that_goes_another_way_is_not_taken_for_the_same(second: ScriptedEnv) -> None:
    from verl_agent_env.integrations.errors import DivergedError

    client = ScriptedClient(ScriptedEnv("a", said("b"), EnvironmentLostError("x")), second)
    played = episode(client)
    await played.begin()
    await played.step("one")
    with pytest.raises(DivergedError):
        await played.step("two")


async def test_an_environment_that_is_lost_again_and_again_is_given_up() -> None:
    client = ScriptedClient(*(ScriptedEnv("a", EnvironmentLostError("x")) for _ in range(3)))
    played = episode(client, max_attempts=3)
    await played.begin()
    with pytest.raises(EpisodeFailedError) as caught:
        await played.step("one")
    assert caught.value.attempts == 3
    await played.close()
    assert all(env.closed for env in client.made)


async def test_an_episode_that_goes_another_way_begins_anew_and_is_given_up_in_the_end(
    tokenizer: Any,
) -> None:
    from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop

    lost = [ScriptedEnv("a", EnvironmentLostError("x")), ScriptedEnv("b")]
    ended = said("won")._replace(reward=2.0, terminated=True)
    client = ScriptedClient(*lost, ScriptedEnv("b", ended))
    model = fakes().FakeModel("go")

    class Loop(EnvAgentLoop):
        def client(self) -> Any:
            return client

    def loop() -> EnvAgentLoop:
        made: EnvAgentLoop = fakes().agent_loop(model, tokenizer, {"max_attempts": 2}, loop_class=Loop)
        return made

    row = fakes().row("scripted")
    row["extra_info"]["tools"] = "[]"
    output = await loop().run({}, **row)
    assert (output.reward_score, output.extra_fields["turn_scores"]) == (2.0, [2.0])
    assert all(env.closed for env in client.made)
    client.envs = [
        env for _ in range(2) for env in (ScriptedEnv("a", EnvironmentLostError("x")), ScriptedEnv("b"))
    ]
    with pytest.raises(EpisodeFailedError):
        await loop().run({}, **row)
