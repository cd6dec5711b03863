"""Notes what happens in episodes while they go on, and hands each one that is over to the store.

A step of a batch must not pay for it. What an episode has noted already is seldom in the processor's cache when its next step
comes, so nothing of it is touched then: the notes of all episodes follow each other in one list. While they are in the cache,
they are written as one piece of memory. What belongs to which episode is sorted out when somebody reads, or in quiet times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from verl_agent_env.engine.environments.live_env import MOVED, LiveEnv
from verl_agent_env.engine.episodes.notes import (
    NOTES_AT_ONCE,
    AbandonedNote,
    BeginningNote,
    EpisodeNote,
    StepNote,
    WrittenNotes,
)
from verl_agent_env.engine.execution.executor import ENV_FAULTS, Executor, see_nothing
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.episodes import EpisodeEnd, EpisodeOrigin, KeptEpisode
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_GUESS_BYTES = 16_384
"""Assumed size of an episode, before the first one is over."""
_QUIET_S = 1.0
"""When nothing was noted for so long, notes are sorted out: between the batches of a trainer."""
_PARTS_AT_ONCE = 16
"""Parts of the notes that are sorted out before other work has its turn."""
_SOON_S = 0.1
"""Between two times at which notes are sorted out for a store that other processes read."""


@dataclass(frozen=True)
class EpisodeOptions:
    """Settings of the keeping of episodes: the store, and how much is noted in memory while they go on."""

    store: EpisodeStore
    """Takes the episodes that are over."""
    max_open_bytes: float = float("inf")
    """Bytes that episodes which are not in the store yet may take, about; one that begins while those which go on take them is
    left out."""
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
        self.notes: list[EpisodeNote] = []
        """The latest notes, as objects; always the same list."""
        self._written = WrittenNotes()
        """Notes before these, :data:`NOTES_AT_ONCE` at a time."""
        self._num_written = 0
        """How often notes were written."""
        self._open: dict[str, KeptEpisode] = {}
        """Episodes that are not over by the notes that are sorted out, by the id of their environment."""
        self._open_bytes = 0
        self._waits = options.store.scope == "worker"
        """Whether notes may wait until somebody reads: nobody but this process does."""
        options.store.bring = self.sort_out
        self._max_episode_bytes = options.max_episode_bytes
        self._max_open_bytes = options.max_open_bytes
        self._origin = EpisodeOrigin(worker, time.time() - clock())
        self._clock = clock
        self._executor = executor
        self._all_actions = all_actions
        self._num_open = 0
        self._mean_bytes = float(_FIRST_GUESS_BYTES)
        self._one_by_one = asyncio.Lock()
        self._pasts: dict[str, asyncio.Task[_Past | None]] = {}
        """Steps that are being played again, by the environment in whose episode they are missing."""
        self._tasks: set[asyncio.Task[object]] = set()

    # --- noting -----------------------------------------------------------------------------------------------

    def begun(self, instance: LiveEnv, beginning: EncodedReset) -> None:
        """Note that an episode has begun, after another one in its environment perhaps."""
        if instance.is_noted:
            self.over(instance)
        if (self._num_open + 1) * self._mean_bytes > self._max_open_bytes:
            self.left_out += 1
            return
        self._begin(instance, BeginningNote(instance.env_id, self._clock(), beginning, 0, None))

    def adopted(self, instance: LiveEnv) -> None:
        """Note that an environment came from another worker."""
        if instance.lost is not None or instance.unreadable is not None:
            return
        env_id, seq = instance.env_id, instance.seq
        self._begin(instance, BeginningNote(env_id, self._clock(), None, seq, instance.last_answer))
        if instance.kind.replays:
            self._pasts[env_id] = self._start(self._play_again(instance, instance.episode, seq))

    def _begin(self, instance: LiveEnv, note: BeginningNote) -> None:
        self._num_open += 1
        instance.is_noted = True
        self._note(note)

    def stepped(self, instance: LiveEnv, action: bytes, answer: EncodedStep) -> None:
        """Note a step that was taken just now, if the episode is noted."""
        if instance.is_noted:
            self._note(StepNote(instance.env_id, action, instance.last_used, answer))

    def over(self, instance: LiveEnv, reason: str = "") -> None:
        """Keep an environment's episode: it was closed for this reason, or is about to begin another one."""
        if not instance.is_noted:
            return
        instance.is_noted = False
        self._num_open -= 1
        if reason == MOVED:
            if self._pasts and (past := self._pasts.pop(instance.env_id, None)) is not None:
                past.cancel()
            self._note(AbandonedNote(instance.env_id))
            return
        end = EpisodeEnd(
            instance.env_id,
            instance.episode,
            instance.kind.name,
            instance.env_kwargs or {},
            instance.run_id,
            instance.seed,
            instance.options,
            instance.lost,
            instance.seq,
            self._clock(),
        )
        self._note(end)

    def discarded(self, instance: LiveEnv, *, is_alone: bool) -> None:
        """Note that a new environment does not become live, because another one has its id unless ``is_alone``."""
        instance.is_noted = False
        self._num_open -= 1
        if is_alone:
            self._note(AbandonedNote(instance.env_id))

    def _note(self, note: EpisodeNote) -> None:
        self.notes.append(note)
        if len(self.notes) >= NOTES_AT_ONCE:
            self.put_by()

    def put_by(self) -> None:
        """Write the latest notes as one piece of memory, to be sorted out later; sort them out where they cannot wait."""
        if not self._waits:
            self._sort_all()
            return
        try:
            self._written.write(self.notes)
        except (TypeError, OverflowError):
            self._sort_all()
            return
        self.notes.clear()
        self._num_written += 1
        # Where episodes that go on take all of it, notes have a little all the same: sorting them out would free nothing.
        room = max(self._max_open_bytes - self._open_bytes, self._max_open_bytes / 4)
        while self._written.num_bytes > room:
            self._sort_written()

    # --- sorting out ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sort out notes in quiet times, or soon where other processes read the store, until cancelled."""
        before = (0, 0)
        while True:
            await asyncio.sleep(_QUIET_S if self._waits else _SOON_S)
            now = self._num_written, len(self.notes)
            if now == before or not self._waits:
                await self.sort_out()
            before = now

    async def sort_out(self) -> None:
        """Add all episodes to the store that are over by now; other work has its turns."""
        for number in range(len(self._written)):
            if self._written:
                self._sort_written()
            if number % _PARTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._sort_all()

    def _sort_all(self) -> None:
        while self._written:
            self._sort_written()
        notes = self.notes.copy()
        self.notes.clear()
        self._sort(notes)

    def _sort_written(self) -> None:
        self._sort(self._written.read())

    def _sort(self, notes: Sequence[EpisodeNote]) -> None:
        for note in notes:
            if isinstance(note, StepNote):
                added = self._open[note.env_id].add(
                    note.action, note.answer, note.at, self._max_episode_bytes
                )
                self._open_bytes += added
            elif isinstance(note, BeginningNote):
                episode = KeptEpisode(
                    self._origin, note.at, note.beginning, note.first_seq, [], note.last_answer
                )
                episode.size += size_of(note.beginning)
                replaced = self._open.get(note.env_id)
                self._open[note.env_id] = episode
                self._open_bytes += episode.size - (0 if replaced is None else replaced.size)
            else:
                episode = self._open.pop(note.env_id)
                self._open_bytes -= episode.size
                if isinstance(note, EpisodeEnd):
                    episode.end = note
                    self._keep(episode)

    def _keep(self, episode: KeptEpisode) -> None:
        past = self._pasts.pop(episode.end.env_id, None) if self._pasts else None
        if past is None:
            self._add(episode)
        elif past.done():
            self._add_with(past.result(), episode)
        else:
            self._start(self._add_with_past(episode, past))

    async def stop(self) -> None:
        """Finish what is being played again, and write what was kept."""
        self._sort_all()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.store.aclose()

    def _add(self, episode: KeptEpisode) -> None:
        if not episode.steps and episode.last_answer is None:
            # No step was taken, or its state came from another worker without its last answer.
            return
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
        self._add_with(await playing, episode)

    def _add_with(self, past: _Past | None, episode: KeptEpisode) -> None:
        if past is not None:
            episode.prepend(*past)
        self._add(episode)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
