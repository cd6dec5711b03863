"""An environment that ended a worker is not brought back by the next one, and one that may be about to is not yet."""

from __future__ import annotations

import pytest

from tests.engine.awaiting import ask
from tests.engine.persistence.hosts import Cluster
from verl_agent_env.engine import CreateRequest, await_maybe, inspection
from verl_agent_env.errors import EnvironmentEndedWorkerError, MovedError
from verl_agent_env.wire.suspicions import Level, Suspicion

LAKE = CreateRequest("frozen_lake", seed=4, env_kwargs={"is_slippery": False})


def told(env_id: str, level: Level) -> dict[str, Suspicion]:
    suspicion = Suspicion(env_id, 0, 1, level, "SIGSEGV")
    return {suspicion.key: suspicion}


async def test_a_refused_environment_is_not_built_and_is_described_and_closed(cluster: Cluster) -> None:
    first = await cluster.host()
    env_id, _ = await await_maybe(first.create(LAKE))
    await await_maybe(first.step(env_id, "up", 0))
    second = await cluster.host()
    second.update_suspicions(told(env_id, "refused"))
    for call in (ask(second.step, env_id, "up", 1), ask(second.reset, env_id)):
        with pytest.raises(EnvironmentEndedWorkerError) as caught:
            await call
        assert (caught.value.episode, caught.value.seq, caught.value.cause) == (0, 1, "SIGSEGV")
    assert second.env_table.find(env_id).env is None
    assert inspection.describe(second, env_id)["lost"] == caught.value.detail
    await await_maybe(second.close(env_id))


async def test_an_examined_environment_is_nowhere_until_it_is_known_and_others_come_back(
    cluster: Cluster,
) -> None:
    first = await cluster.host()
    env_id, _ = await await_maybe(first.create(LAKE))
    other, _ = await await_maybe(first.create(LAKE))
    second = await cluster.host()
    second.update_suspicions(told(env_id, "examined"))
    with pytest.raises(MovedError):
        await await_maybe(second.step(env_id, "up", 0))
    await await_maybe(second.step(other, "up", 0))
    assert second.env_table.get(env_id) is None
    second.update_suspicions({})
    await await_maybe(second.step(env_id, "up", 0))
