"""Episodes are kept as they were played, wherever they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import orjson
import pytest

from tests.engine import probes
from tests.engine.awaiting import ask
from tests.engine.conftest import FakeClock
from tests.engine.persistence.hosts import Cluster
from tests.waiting import NEVER_S, until
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host
from verl_agent_env.engine.environments.live_env import MOVED
from verl_agent_env.engine.environments.marks import NO_MARK
from verl_agent_env.engine.episodes import collector as collecting
from verl_agent_env.engine.episodes.collector import EpisodeCollector, EpisodeOptions
from verl_agent_env.engine.episodes.notes import NOTES_AT_ONCE
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import MovedError
from verl_agent_env.types import new_env_id
from verl_agent_env.wire.results import EncodedReset, EncodedStep

LAKE = "verl_env/frozen_lake-v1"
COUNTDOWN = "verl_env/countdown-v0"
LONG_THOUGHT = f"<think>{'so and so ' * 300}</think><answer>right</answer>"


@pytest.fixture
def store() -> MemoryEpisodes:
    return MemoryEpisodes(1 << 26)


@pytest.fixture
async def host(
    store: MemoryEpisodes, registry: Registry, controls: probes.Controls, clock: FakeClock
) -> AsyncIterator[Host]:
    keeping = Host(registry, HostLimits(max_step_s=NEVER_S), clock=clock, episodes=EpisodeOptions(store))
    yield keeping
    controls.gate.set()
    await keeping.stop()


async def play(host: Host, name: str, actions: Iterable[Any], seed: int = 1, **request: Any) -> str:
    env_id, _ = await ask(host.create, CreateRequest(name, seed, **request))
    for action in actions:
        await ask(host.step, env_id, action)
    return env_id


async def kept(store: MemoryEpisodes) -> list[dict[str, Any]]:
    documents = await store.documents([row.id for row in await store.rows()])
    return [orjson.loads(document or b"") for document in documents]


async def test_a_closed_episode_holds_what_was_observed_sent_and_rewarded(
    host: Host, store: MemoryEpisodes, clock: FakeClock
) -> None:
    kwargs = {"is_slippery": False}
    env_id, beginning = await ask(host.create, CreateRequest(LAKE, 7, kwargs, run_id="run"))
    answers = []
    for action in ("<answer>left</answer>", "no move at all"):
        clock.now += 1.5
        answers.append(await ask(host.step, env_id, action))
    assert await store.rows() == []
    clock.now += 1.5
    await ask(host.close, env_id)
    (episode,) = await kept(store)
    assert (episode["id"], episode["env_name"], episode["run_id"]) == (f"{env_id}.0", LAKE, "run")
    assert (episode["seed"], episode["env_kwargs"], episode["worker"]) == (7, kwargs, host.name)
    assert (episode["num_steps"], episode["num_invalid"], episode["ending"]) == (2, 1, "unfinished")
    assert episode["observation"] == orjson.loads(beginning.observation)
    for step, answer, action in zip(
        episode["steps"], answers, ("<answer>left</answer>", "no move at all"), strict=True
    ):
        assert step["action"] == action
        assert step["observation"] == orjson.loads(answer.observation)
        assert step["info"] == orjson.loads(answer.info)
        assert step["reward"] == answer.reward
    assert episode["ended_at"] - episode["began_at"] == pytest.approx(4.5, abs=0.01)
    assert episode["steps"][1]["at"] - episode["steps"][0]["at"] == pytest.approx(1.5, abs=0.01)
    assert episode["complete"]


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
async def test_steps_are_noted_wherever_they_run(
    host: Host, store: MemoryEpisodes, kind: str, create: Callable[..., Any]
) -> None:
    env_id = await create(host, kind)
    await ask(host.step, env_id, 1)
    await ask(host.close, env_id)
    (episode,) = await kept(store)
    assert [step["action"] for step in episode["steps"]] == [1]


async def test_a_reset_keeps_the_episode_before_and_one_without_steps_is_not_kept(
    host: Host, store: MemoryEpisodes
) -> None:
    env_id = await play(host, LAKE, ["left"])
    await ask(host.reset, env_id)
    await ask(host.reset, env_id)
    await ask(host.step, env_id, "left")
    await ask(host.close, env_id)
    assert [row.episode for row in await store.rows()] == [0, 2]


async def test_an_idle_environment_is_kept_as_well(
    host: Host, store: MemoryEpisodes, clock: FakeClock
) -> None:
    await play(host, LAKE, ["left"], ttl_s=10.0)
    clock.now += 11.0
    await host.reap()
    assert [row.ending for row in await store.rows()] == ["unfinished"]


async def test_endings_and_successes_are_told_apart(host: Host, store: MemoryEpisodes) -> None:
    solved = {"desc": ["SG"], "is_slippery": False}
    lost = {"desc": ["SHG"], "is_slippery": False}
    for request, actions in (
        ((LAKE, solved), ["right"]),
        ((LAKE, lost), ["right"]),
        ((LAKE, {**lost, "max_steps": 1}), ["left"]),
        (("verl_env/single_turn_chat-v0", {"task_prompt": "Say it."}), ["it"]),
    ):
        await ask(host.close, await play(host, request[0], actions, env_kwargs=request[1]))
    assert [(row.ending, row.success) for row in await store.rows()] == [
        ("success", True),
        ("failure", False),
        ("time_limit", False),
        ("ended", None),
    ]


async def test_a_lost_episode_says_why(
    host: Host, store: MemoryEpisodes, controls: probes.Controls, create: Callable[..., Any]
) -> None:
    env_id = await create(host, "live_inline")
    await ask(host.step, env_id, 1)
    controls.broken.add("fail")
    with pytest.raises(Exception, match="lost"):
        await ask(host.step, env_id, "fail")
    await ask(host.close, env_id)
    (episode,) = await kept(store)
    assert episode["ending"] == "lost"
    assert "RuntimeError" in episode["lost"]


async def test_samples_of_one_problem_are_a_group(host: Host, store: MemoryEpisodes) -> None:
    for seed, kwargs in ((1, {}), (1, {}), (2, {}), (1, {"is_slippery": True})):
        await ask(host.close, await play(host, LAKE, ["left"], seed, env_kwargs=kwargs))
    groups = [row.group for row in await store.rows()]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3


async def test_a_host_that_keeps_nothing_notes_nothing(make_host: Callable[..., Host]) -> None:
    host = make_host()
    env_id = await play(host, LAKE, ["left"])
    assert host.collector is None
    assert not host.env_table.find(env_id).is_noted


async def test_episodes_beyond_what_fits_into_memory_are_left_out_and_counted(
    store: MemoryEpisodes, registry: Registry
) -> None:
    host = Host(registry, HostLimits(), episodes=EpisodeOptions(store, max_open_bytes=40_000))
    env_ids = [await play(host, LAKE, ["left"]) for _ in range(4)]
    for env_id in env_ids:
        await ask(host.close, env_id)
    assert host.collector is not None
    assert (len(await store.rows()), host.collector.left_out) == (2, 2)
    # There is room again.
    await ask(host.close, await play(host, LAKE, ["left"]))
    assert len(await store.rows()) == 3
    await host.stop()


async def test_of_an_episode_that_is_too_large_the_first_steps_are_kept(
    store: MemoryEpisodes, registry: Registry, create: Callable[..., Any]
) -> None:
    host = Host(registry, HostLimits(), episodes=EpisodeOptions(store, max_episode_bytes=3000))
    env_id = await create(host, "inline")
    for _ in range(10):
        await ask(host.step, env_id, 1)
    await ask(host.close, env_id)
    (row,) = await store.rows()
    assert (row.num_steps, row.complete) == (10, False)
    (episode,) = await kept(store)
    assert 0 < len(episode["steps"]) < 10
    await host.stop()


async def test_steps_that_came_with_a_reset_are_kept(host: Host, store: MemoryEpisodes) -> None:
    env_id = await play(host, LAKE, [])
    await ask(host.begin_and_play, env_id, 3, None, ["<answer>left</answer>", LONG_THOUGHT])
    await ask(host.step, env_id, "left")
    await ask(host.close, env_id)
    (episode,) = await kept(store)
    assert (episode["seed"], episode["complete"]) == (3, True)
    assert [step["action"] for step in episode["steps"]][::2] == ["<answer>left</answer>", "left"]


async def test_an_episode_is_sorted_out_when_somebody_reads(host: Host, store: MemoryEpisodes) -> None:
    collector = host.collector
    assert collector is not None
    kwargs = {"max_steps": 2 * NOTES_AT_ONCE}
    env_ids = [await play(host, LAKE, [], env_kwargs=kwargs) for _ in range(3)]
    for _ in range(NOTES_AT_ONCE):
        for env_id in env_ids:
            await ask(host.step, env_id, "nothing")
    await ask(host.close, env_ids[0])
    assert len(collector._written) == 3
    assert 0 < len(collector.notes) < NOTES_AT_ONCE
    first, second = await asyncio.gather(store.rows(), store.rows())
    assert [row.num_steps for row in first] == [NOTES_AT_ONCE]
    assert first == second
    assert not collector._written
    assert not collector.notes
    await ask(host.step, env_ids[1], "nothing")
    await ask(host.close, env_ids[1])
    (document,) = await store.documents([f"{env_ids[1]}.0"])
    episode = orjson.loads(document or b"")
    assert [step["seq"] for step in episode["steps"]] == list(range(NOTES_AT_ONCE + 1))
    assert sum(run.episodes for run in await store.runs(None)) == 2


async def test_notes_are_sorted_out_when_nothing_is_noted_for_a_while(
    store: MemoryEpisodes, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_QUIET_S", 0.0)
    host = Host(registry, HostLimits(), episodes=EpisodeOptions(store))
    collector = host.collector
    assert collector is not None
    running = asyncio.create_task(collector.run())
    env_id = await play(host, LAKE, [])
    counts = []
    for _ in range(10):
        # Each turn of the loop something new is noted.
        await asyncio.sleep(0)
        await ask(host.step, env_id, "nothing")
        counts.append(len(collector.notes))
    assert counts == list(range(2, 12))
    await until(lambda: not collector.notes)
    running.cancel()
    await host.stop()


def limited_host(store: MemoryEpisodes, registry: Registry) -> tuple[Host, EpisodeCollector]:
    """A host that keeps episodes, with 100,000 bytes for those that go on, and what collects them."""
    host = Host(registry, HostLimits(), episodes=EpisodeOptions(store, max_open_bytes=100_000))
    assert host.collector is not None
    return host, host.collector


async def test_notes_beyond_what_fits_into_memory_are_sorted_out_at_once(
    store: MemoryEpisodes, registry: Registry
) -> None:
    host, collector = limited_host(store, registry)
    for _ in range(60):
        await ask(host.close, await play(host, LAKE, ["nothing"] * 20))
        assert collector._written.num_bytes + collector._open_bytes <= 100_000
    assert len(store._episodes) > 20
    assert len(await store.rows()) == 60
    assert collector._open_bytes == 0
    await host.stop()


async def test_beside_long_episodes_notes_are_not_sorted_out_one_by_one(
    store: MemoryEpisodes, registry: Registry
) -> None:
    host, collector = limited_host(store, registry)
    env_id = await play(host, LAKE, ["nothing"] * 400, env_kwargs={"max_steps": 1_000_000})
    await collector.sort_out()
    assert collector._open_bytes > 100_000
    sizes = set()
    for _ in range(400):
        await ask(host.step, env_id, "nothing")
        sizes.add(collector._written.num_bytes)
    assert 10_000 < max(sizes) <= 25_000
    await host.stop()


async def test_arguments_that_no_json_can_hold_lose_their_own_episode_alone(
    host: Host, store: MemoryEpisodes, create: Callable[..., Any]
) -> None:
    collector = host.collector
    assert collector is not None
    good, bad = await play(host, LAKE, ["left"]), await play(host, LAKE, ["left"])
    host.env_table.find(bad).env_kwargs = {"number": 1 << 70}
    await ask(host.close, bad)
    await ask(host.close, good)
    collector.put_by()
    assert [row.env_id for row in await store.rows()] == [good]
    assert store.dropped == 1


async def test_an_environment_that_never_became_live_leaves_nothing(
    host: Host, store: MemoryEpisodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = host.collector
    assert collector is not None
    with monkeypatch.context() as patched:
        patched.setattr(host._lifecycle, "owns", lambda _: False)
        with pytest.raises(MovedError):
            await ask(host.create, CreateRequest(LAKE, 1))
    assert await store.rows() == []
    assert (collector._num_open, collector._open, collector._open_bytes) == (0, {}, 0)


class ReadElsewhere(MemoryEpisodes):
    """A store that other processes read."""

    def __init__(self) -> None:
        super().__init__(1 << 26)
        self.scope = "cluster"


async def test_notes_for_a_store_that_others_read_do_not_wait(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_SOON_S", 0.0)
    store = ReadElsewhere()
    host = Host(registry, HostLimits(), episodes=EpisodeOptions(store))
    collector = host.collector
    assert collector is not None
    await ask(host.close, await play(host, LAKE, ["nothing"] * 20))
    env_id = await play(host, LAKE, ["nothing"] * NOTES_AT_ONCE, env_kwargs={"max_steps": 1_000_000})
    assert not collector._written
    assert len(store._episodes) == 1
    await ask(host.close, env_id)
    other = await play(host, LAKE, [], env_kwargs={"max_steps": 1_000_000})
    running = asyncio.create_task(collector.run())
    for _ in range(20):
        # It is never quiet.
        await ask(host.step, other, "nothing")
        await asyncio.sleep(0)
    assert len(store._episodes) == 2
    running.cancel()
    await host.stop()


async def test_what_is_over_when_the_host_stops_is_kept(host: Host, store: MemoryEpisodes) -> None:
    await play(host, LAKE, ["left"])
    await ask(host.close, await play(host, LAKE, ["left"]))
    await host.stop()
    assert len(store._episodes) == 2


async def test_an_environment_that_came_back_while_another_was_made_under_its_id_is_kept(
    host: Host, store: MemoryEpisodes
) -> None:
    collector, env_id = host.collector, new_env_id(1)
    assert collector is not None
    request = CreateRequest(LAKE, 1, env_id=env_id)
    early, back, late = (host._lifecycle.prepare(request) for _ in range(3))
    answer = EncodedStep(b"[]", 0.0, False, False, b"{}")
    back.seq, back.last_answer, back.episode = 1, answer, 0
    collector.begun(early, EncodedReset(b'["early"]', b"{}"))
    host.env_table.adopt(back)
    for other in (early, late):
        if other is late:
            host._lifecycle.begun(late, 1, None, EncodedReset(b'["late"]', b"{}"), NO_MARK)
            assert not late.is_noted
        host.env_table.release(other, is_known=False)
    back.seq = 2
    collector.stepped(back, b'"left"', answer)
    assert await store.rows() == []
    assert list(collector._open) == [env_id]
    assert collector._open_bytes == collector._open[env_id].size
    await ask(host.close, env_id)
    await until(lambda: not collector._tasks)
    (episode,) = await kept(store)
    assert [step["seq"] for step in episode["steps"]] == [1]
    assert collector._num_open == 0


# --- environments that move -----------------------------------------------------------------------------------


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    hosts = Cluster()
    yield hosts
    await hosts.aclose()


async def test_an_episode_that_moved_is_kept_whole_where_it_closed(
    cluster: Cluster, store: MemoryEpisodes
) -> None:
    elsewhere = MemoryEpisodes(1 << 26)
    first = await cluster.host(episodes=EpisodeOptions(elsewhere))
    env_id = await play(first, COUNTDOWN, ["nothing", LONG_THOUGHT], 4)
    second = await cluster.host(episodes=EpisodeOptions(store))
    first.evict(range(4096))
    await ask(second.step, env_id, LONG_THOUGHT)
    await ask(second.close, env_id)
    await until(lambda: bool(second.collector and not second.collector._tasks))
    (episode,) = await kept(store)
    assert await elsewhere.rows() == []
    assert episode["complete"]
    assert episode["observation"]
    assert [step["seq"] for step in episode["steps"]] == [0, 1, 2]
    assert episode["steps"][0]["action"] == "nothing"
    # Of a long action the reading alone is recorded; what was sent here is kept as it was.
    assert "calls" in episode["steps"][1]["action"]
    assert episode["steps"][2]["action"] == LONG_THOUGHT
    assert episode["num_invalid"] == 3


async def test_an_episode_that_moved_with_its_state_alone_is_kept_from_there_on(
    cluster: Cluster, store: MemoryEpisodes
) -> None:
    first = await cluster.host({COUNTDOWN: "snapshot"})
    env_id = await play(first, COUNTDOWN, ["nothing"], 4)
    second = await cluster.host({COUNTDOWN: "snapshot"}, episodes=EpisodeOptions(store))
    await ask(second.step, env_id, "nothing")
    await ask(second.close, env_id)
    await until(lambda: bool(second.collector and not second.collector._tasks))
    (episode,) = await kept(store)
    assert not episode["complete"]
    assert [step["seq"] for step in episode["steps"]] == [1]


async def test_an_episode_that_moved_away_is_not_kept(cluster: Cluster, store: MemoryEpisodes) -> None:
    first = await cluster.host(episodes=EpisodeOptions(store))
    await play(first, COUNTDOWN, ["nothing"], 4)
    first.evict(range(4096))
    await asyncio.sleep(0)
    assert await store.rows() == []


async def test_steps_are_not_played_again_for_an_episode_that_moves_on(
    host: Host, store: MemoryEpisodes
) -> None:
    collector = host.collector
    assert collector is not None
    instance = host._lifecycle.prepare(CreateRequest(LAKE, 1))
    instance.seq = 1
    host.env_table.adopt(instance)
    (playing,) = collector._pasts.values()
    host.env_table.evict(instance, MOVED)
    await asyncio.wait([playing])
    assert playing.cancelled()
    assert await store.rows() == []
    assert (collector._pasts, collector._open) == ({}, {})


async def test_an_episode_of_which_nothing_is_known_but_its_state_is_not_kept(
    host: Host, store: MemoryEpisodes
) -> None:
    collector = host.collector
    assert collector is not None
    instance = host._lifecycle.prepare(CreateRequest(LAKE, 1))
    instance.seq, instance.episode = 3, 0
    host.env_table.adopt(instance)
    await until(lambda: not collector._tasks)
    await ask(host.close, instance.env_id)
    assert await store.rows() == []
