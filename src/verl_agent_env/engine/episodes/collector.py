"""Notes what happens in episodes while they go on, and hands each one that is over to the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from verl_agent_env.engine.execution import ENV_FAULTS, Executor, see_nothing
from verl_agent_env.engine.live_env import MOVED, LiveEnv
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.episodes import EpisodeOrigin, KeptEpisode
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


class _Past(NamedTuple):
    """The part of an episode that another worker saw."""

    beginning: EncodedReset
    actions: list[bytes]
    answers: list[EncodedStep]


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
        self.max_episode_bytes = options.max_episode_bytes
        self._max_open_bytes = options.max_open_bytes
        self._origin = EpisodeOrigin(worker, time.time() - clock())
        self._clock = clock
        self._executor = executor
        self._all_actions = all_actions
        self._num_open = 0
        self._mean_bytes = float(_FIRST_GUESS_BYTES)
        self._one_by_one = asyncio.Lock()
        self._pasts: dict[KeptEpisode, asyncio.Task[_Past | None]] = {}
        """Steps that are being played again, by the episode that they are missing in."""
        self._tasks: set[asyncio.Task[object]] = set()

    def begun(self, instance: LiveEnv, beginning: EncodedReset) -> None:
        """Note that an episode has begun, after another one in its environment perhaps."""
        if instance.open_episode is not None:
            self.over(instance)
        if (self._num_open + 1) * self._mean_bytes > self._max_open_bytes:
            self.left_out += 1
            return
        self._num_open += 1
        instance.open_episode = KeptEpisode(self._clock(), beginning)

    def adopted(self, instance: LiveEnv) -> None:
        """Note that an environment came from another worker."""
        if instance.lost is not None or instance.unreadable is not None:
            return
        self._num_open += 1
        episode = instance.open_episode = KeptEpisode(self._clock(), None, instance.seq)
        if instance.kind.replays:
            played = self._play_again(instance, instance.episode, instance.seq)
            self._pasts[episode] = self._start(played)

    def over(self, instance: LiveEnv, reason: str = "") -> None:
        """Keep an environment's episode: it was closed for this reason, or is about to begin another one."""
        episode, instance.open_episode = instance.open_episode, None
        if episode is None:
            return
        self._num_open -= 1
        past = self._pasts.pop(episode, None) if self._pasts else None
        last = instance.last_answer
        if reason == MOVED or not instance.seq or last is None:
            if past is not None:
                past.cancel()
            return
        episode.env_id, episode.episode, episode.seed = instance.env_id, instance.episode, instance.seed
        episode.env_name, episode.env_kwargs = instance.kind.name, instance.env_kwargs or {}
        episode.run_id, episode.options, episode.lost = instance.run_id, instance.options, instance.lost
        episode.last_answer, episode.num_steps = last, instance.seq
        episode.ended_at, episode.origin = self._clock(), self._origin
        if past is None:
            self._add(episode)
        else:
            self._start(self._add_with_past(episode, past))

    async def stop(self) -> None:
        """Finish what is being played again, and write what was kept."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.store.aclose()

    def _add(self, episode: KeptEpisode) -> None:
        self._mean_bytes += (episode.size - self._mean_bytes) / 64
        self.store.add(episode)

    # --- steps that were taken on another worker --------------------------------------------------------------

    async def _play_again(self, instance: LiveEnv, episode: int, num_steps: int) -> _Past | None:
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
        return _Past(beginning, list(map(shown, actions)), [answer for answer, _ in played])

    async def _add_with_past(self, episode: KeptEpisode, playing: asyncio.Task[_Past | None]) -> None:
        past = await playing
        if past is not None:
            episode.prepend(*past)
        self._add(episode)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
