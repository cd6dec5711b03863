"""Notes what happens in episodes while they go on, and hands each one that is over to the store."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from verl_agent_env.engine.execution import ENV_FAULTS, Executor, see_nothing
from verl_agent_env.engine.live_env import MOVED, LiveEnv
from verl_agent_env.engine.open_episode import LEFT_OUT, FullSteps, OpenEpisode, Past
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.episodes import (
    EpisodeRow,
    KeptEpisode,
    count_invalid,
    count_tokens,
    group_of,
    judge,
    size_of_steps,
)
from verl_agent_env.wire.model_notes import notes_of_json
from verl_agent_env.wire.results import EncodedReset, EncodedStep

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_GUESS_BYTES = 16_384
"""Assumed size of an episode, before the first one is over."""


@dataclass(frozen=True)
class EpisodeOptions:
    """Settings of the keeping of episodes: the store, and how much is noted in memory while they go on."""

    store: EpisodeStore
    """Takes the episodes that are over."""
    max_open_bytes: float = float("inf")
    """Bytes that the episodes which go on may take, about; one that begins beyond it is left out."""
    max_episode_bytes: int = 8_388_608
    """Bytes of one episode, about; its further steps are left out."""


class EpisodeCollector:
    """Keeps the episodes of one host.

    An episode is over when its environment is closed, idle or lost, or begins another one. Those in which no step was taken
    are not kept. Of an environment that came from another worker, the earlier steps are played again.
    """

    def __init__(
        self,
        options: EpisodeOptions,
        worker: str,
        clock: Callable[[], float],
        executor: Executor,
        all_actions: Callable[[LiveEnv], Awaitable[list[bytes] | None]],
    ) -> None:
        """Keep no episode yet.

        Args:
            options: Where episodes go, and how much is noted.
            worker: Name of this worker.
            clock: The host's, in seconds.
            executor: Plays steps again.
            all_actions: Finds all recorded actions of an episode; None if some are gone.
        """
        self.store = options.store
        self.left_out = 0
        """Number of episodes that were not kept because too many went on at once."""
        self._options = options
        self._worker = worker
        self._clock = clock
        self._since_epoch = time.time() - clock()
        self._executor = executor
        self._all_actions = all_actions
        self._num_open = 0
        self._mean_bytes = float(_FIRST_GUESS_BYTES)
        self._one_by_one = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()

    def begun(self, instance: LiveEnv, beginning: EncodedReset) -> None:
        """Note that an episode has begun."""
        if (self._num_open + 1) * self._mean_bytes > self._options.max_open_bytes:
            instance.open_episode = LEFT_OUT
            return
        self._num_open += 1
        instance.open_episode = OpenEpisode(self._clock(), beginning, [])

    def adopted(self, instance: LiveEnv) -> None:
        """Note that an environment came from another worker."""
        if instance.lost is not None or instance.unreadable is not None:
            return
        self._num_open += 1
        noted = instance.open_episode = OpenEpisode(self._clock(), None, [], instance.seq)
        if instance.kind.replays:
            noted.past = self._start(self._play_again(instance, instance.episode, instance.seq))

    def check_size(self, noted: OpenEpisode) -> None:
        """Leave out the further steps of an episode that has become too large."""
        if type(noted.steps) is list and size_of_steps(noted.steps) > self._options.max_episode_bytes:
            noted.steps = FullSteps(noted.steps)

    def over(self, instance: LiveEnv, reason: str = "") -> None:
        """Keep an environment's episode: it was closed for this reason, or is about to begin another one."""
        noted, instance.open_episode = instance.open_episode, None
        if noted is None:
            return
        if noted is LEFT_OUT:
            self.left_out += 1
            return
        self._num_open -= 1
        last = instance.last_answer
        if reason == MOVED or not instance.seq or last is None:
            if noted.past is not None:
                noted.past.cancel()
            return
        episode = self._episode_of(instance, noted, last)
        if noted.past is None:
            self._add(episode)
        else:
            self._start(self._add_with_past(episode, noted.past))

    async def stop(self) -> None:
        """Finish what is being played again, and write what was kept."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.store.aclose()

    def _add(self, episode: KeptEpisode) -> None:
        self._mean_bytes += (episode.size - self._mean_bytes) / 64
        self.store.add(episode)

    def _episode_of(self, instance: LiveEnv, noted: OpenEpisode, last: EncodedStep) -> KeptEpisode:
        since_epoch = self._since_epoch
        steps = noted.steps
        ending, success = judge(last, instance.lost)
        env_name, env_kwargs = instance.kind.name, instance.env_kwargs or {}
        row = EpisodeRow(
            id=f"{instance.env_id}.{instance.episode}",
            env_id=instance.env_id,
            episode=instance.episode,
            env_name=env_name,
            run_id=instance.run_id,
            group=group_of(env_name, env_kwargs, instance.seed),
            seed=instance.seed,
            worker=self._worker,
            began_at=round(noted.began_at + since_epoch, 3),
            ended_at=round(self._clock() + since_epoch, 3),
            num_steps=instance.seq,
            reward=math.fsum([answer.reward for _, answer, _ in steps]),
            success=success,
            ending=ending,
            num_invalid=count_invalid(steps),
            complete=len(steps) == instance.seq,
            training_step=notes_of_json(steps[-1][0]).training_step if steps else None,
            tokens=count_tokens(steps),
        )
        options, lost = instance.options, instance.lost
        first, first_seq = noted.beginning, noted.first_seq
        return KeptEpisode(row, env_kwargs, options, lost, first, steps, first_seq, since_epoch)

    # --- steps that were taken on another worker --------------------------------------------------------------

    async def _play_again(self, instance: LiveEnv, episode: int, num_steps: int) -> Past | None:
        """Play the steps that another worker carried out, one environment after the other; None if that fails."""
        kind, seed, options, effects = instance.kind, instance.seed, instance.options, instance.effects
        try:
            async with self._one_by_one:
                actions = await self._all_actions(instance)
                if actions is None or instance.episode != episode:
                    return None
                del actions[num_steps:]
                env, beginning = await self._executor.begin_again(
                    kind, instance.arguments, seed, options, effects
                )
                played = await self._executor.play(kind, env, actions, see_nothing)
            self._executor.dispose(kind, env)
        except ENV_FAULTS:
            logger.warning(
                "replay of an episode failed; keeping it without its first steps",
                exc_info=True,
                extra={"env_id": instance.env_id},
            )
            return None
        answers = (answer for answer, _ in played)
        return Past(beginning, [(shown(a), answer, None) for a, answer in zip(actions, answers, strict=True)])

    async def _add_with_past(self, episode: KeptEpisode, playing: asyncio.Task[Past | None]) -> None:
        past = await playing
        if past is not None:
            steps = [*past.steps, *episode.steps]
            row = episode.row._replace(
                reward=math.fsum([answer.reward for _, answer, _ in steps]),
                num_invalid=count_invalid(steps),
                complete=len(steps) == episode.row.num_steps,
                training_step=notes_of_json(steps[-1][0]).training_step,
                tokens=count_tokens(steps),
            )
            episode = episode._replace(row=row, beginning=past.beginning, steps=steps, first_seq=0)
        self._add(episode)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
