"""One environment on a server, and the protocol by which each of its steps is carried out exactly once."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar
from urllib.parse import urlencode

from verl_agent_env.client.backoff import Backoff, is_undecided
from verl_agent_env.client.calls import (
    CLOSE,
    INITIALIZE,
    RESET,
    STEP,
    CloseItem,
    FirstResults,
    InitializeItem,
    ResetItem,
    ResetResult,
    StepItem,
    path_of,
)
from verl_agent_env.client.encoding import encode_actions, encode_value, seed_of
from verl_agent_env.client.errors import ClientClosedError, ServerUnreachableError, StepUndecidedError
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentNotFoundError,
    SequenceGapError,
    VerlAgentEnvError,
)
from verl_agent_env.moved import renamed_argument
from verl_agent_env.seeds import MAX_SEED, following_seed
from verl_agent_env.types import Action, StepResult

if TYPE_CHECKING:
    from verl_agent_env.client.dispatch import Dispatch

T = TypeVar("T")

logger = logging.getLogger(__name__)

_UNDECIDED_RESET = -1
_LONGEST_TURN_S = 20
"""Seconds that a server waits for a seat's turn at most."""

NOT_COPIED = (
    "an environment on a server is neither copied nor pickled: hand on its env_id and call attach() of a client there, or make "
    "it where it is used"
)
_takes_gathered = renamed_argument("gathered", "micro_batching")


class AsyncEnv:
    """An environment on the server, as :meth:`AsyncEnvClient.make` returns it.

    Steps have numbers, so that a step that is sent again is not carried out twice. The actions of the episode are kept, and
    sent again to a server that has lost the end of the episode. Concurrent calls on one environment run one at a time.
    """

    __slots__ = (
        "_beginning",
        "_closed",
        "_dispatch",
        "_first_seq",
        "_first_steps",
        "_history",
        "_lock",
        "_lock_loop",
        "_pending",
        "_request",
        "_seed",
        "_seq",
        "env_id",
        "num_retries",
    )

    def __init__(
        self,
        dispatch: Dispatch,
        request: InitializeItem | None,
        env_id: str = "",
        seq: int = 0,
        seed: int | None = None,
    ) -> None:
        self.env_id = env_id
        """Id on the server; empty before the environment is created."""
        self.num_retries = 0
        """Number of retries of calls, alone or in shared requests."""
        self._dispatch = dispatch
        self._request = request
        self._beginning: ResetResult | None = None
        self._first_steps: list[StepResult] = []
        self._seq = seq
        self._seed = seed
        """Of the episode that began last, if it is known."""
        self._history: list[bytes] = []
        """The episode's actions, from step :attr:`_first_seq` on."""
        self._first_seq = seq
        self._pending: bytes | None = None
        """Action of a step whose answer never came."""
        self._lock = asyncio.Lock()
        self._lock_loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def seq(self) -> int:
        """Number of the episode's next step."""
        return max(self._seq, 0)

    @property
    def beginning(self) -> ResetResult | None:
        """Observation and info of the first episode, until it is stepped or reset."""
        return self._beginning

    @property
    def first_steps(self) -> list[StepResult]:
        """Results of the ``actions`` that the creation, or the last reset, carried out first."""
        return self._first_steps

    # --- lifecycle ------------------------------------------------------------------------------------------

    @_takes_gathered
    async def open(self, *, micro_batching: bool | None = None) -> Self:
        """Create the environment on the server and begin its first episode, as ``await`` and ``async with`` do.

        Raises:
            UnknownEnvNameError, InvalidEnvArgumentsError: There is no such environment; nothing was created.
            VerlAgentEnvError: The server had no capacity, or did not answer, until the deadline.
        """
        async with self._turn():
            if self.env_id or self._request is None:
                return self
            dispatch, request = self._dispatch, self._request
            backoff = Backoff(time.monotonic() + dispatch.deadline_s)
            with dispatch.making(request.run_id):
                while True:
                    # A new key for each attempt: the key of a failed one is bound to the failure.
                    item = dataclasses.replace(request, deadline=backoff.deadline, key=uuid.uuid4().hex)
                    try:
                        alone = False if item.actions else micro_batching
                        made = await dispatch.ask(INITIALIZE, item, micro_batching=alone)
                        break
                    except VerlAgentEnvError as error:
                        if is_undecided(error) and not _never_ran(error):
                            dispatch.mark_possible_orphans(request.run_id)
                        await backoff.pause_after(error)
                        self.num_retries += 1
                    except asyncio.CancelledError:
                        if item.sent:
                            dispatch.mark_possible_orphans(request.run_id)
                        raise
                    finally:
                        self.num_retries += item.retries
            self.env_id = made.env_id
            self._begin(made.beginning, request.actions, _seed_in(made.beginning.first))
            self._beginning = made.beginning.first
            dispatch.open_envs[self.env_id] = request.run_id
            return self

    @_takes_gathered
    async def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        actions: Sequence[Action] = (),
        micro_batching: bool | None = None,
    ) -> ResetResult:
        """Begin an episode. The first reset without arguments costs no call, because creation has begun the first episode.

        Args:
            seed: Seed of the episode; the next episode if not given.
            options: Options of the environment.
            actions: Actions to carry out first, all of them or none; :attr:`first_steps` has their results. Only where an episode
                repeats itself, and with its ``seed``.
            micro_batching: Share requests with other calls; the client's setting if not given.

        Returns:
            Observation and info.

        Raises:
            ValueError: There are actions without a seed; nothing was sent.
            InvalidRequestError: The seed is no integer, or the options cannot be expressed in JSON; nothing was sent. Or the
                actions cannot be carried out; the episode is unchanged.
            InvalidEnvArgumentsError: The environment does not accept the options; the episode is unchanged.
            EnvironmentStateError: The environment is closed or lost.
            ServerUnreachableError: No answer until the deadline.
        """
        if actions and seed is None:
            raise ValueError("actions belong to the episode of one seed: give it")
        played = encode_actions(actions)
        seed, encoded = seed_of(seed), encode_value(options, "options")
        await self.open()
        async with self._turn():
            self._require_open()
            if self._beginning is not None and not self._seq and seed is None and options is None:
                beginning, self._beginning = self._beginning, None
                return beginning
            if seed is None:
                # With its seed, a reset that is sent again begins the same episode.
                seed = following_seed(await self._current_seed())
            backoff = Backoff(time.monotonic() + self._dispatch.deadline_s)
            before, self._seq = self._seq, _UNDECIDED_RESET
            item = ResetItem(self.env_id, seed, encoded, backoff.deadline, actions=played)
            alone = False if played else micro_batching
            while True:
                try:
                    begun = await self._dispatch.ask(RESET, item, micro_batching=alone)
                    break
                except VerlAgentEnvError as error:
                    if not is_undecided(error):
                        self._seq = before
                    await backoff.pause_after(error)
                    self.num_retries += 1
                except asyncio.CancelledError:
                    if not item.sent:
                        self._seq = before
                    raise
            self.num_retries += item.retries
            self._beginning = self._pending = None
            self._begin(begun, played, seed)
            return begun.first

    def _begin(self, begun: FirstResults, actions: Sequence[bytes], seed: int | None) -> None:
        """Note that an episode has begun, with these actions."""
        self._first_steps = begun.steps
        self._history = list(actions)
        self._first_seq, self._seq, self._seed = 0, len(begun.steps), seed

    async def _current_seed(self) -> int:
        return self._seed if self._seed is not None else (await self.position())[1]

    @_takes_gathered
    async def step(self, action: Action, *, micro_batching: bool | None = None) -> StepResult:
        """Carry out one action, exactly once.

        Args:
            action: Assistant message, a list with some, the model's raw text, or an SDK's response object.
            micro_batching: Share requests with other calls; the client's setting if not given.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            InvalidRequestError: The action cannot be expressed in JSON; nothing was sent.
            EpisodeEndedError: The episode is over.
            EnvironmentLostError, ReplayDivergedError: The environment and its episode are lost.
            StepUndecidedError: The answer to the previous step never came; only the same action may follow.
            ServerUnreachableError: No answer until the deadline; call again with the same action.
        """
        encoded = encode_value(action, "action")
        async with self._turn():
            if self._closed or not self.env_id:
                self._require_open()
            seq = self._seq
            if seq < 0 or (self._pending is not None and self._pending != encoded):
                raise StepUndecidedError(self.env_id, seq)
            item = StepItem(self.env_id, encoded, seq, time.monotonic() + self._dispatch.deadline_s)
            try:
                result = await self._dispatch.ask(STEP, item, micro_batching=micro_batching)
            except VerlAgentEnvError as error:
                result = await self._retry_step(item, error, micro_batching)
            except asyncio.CancelledError:
                if item.sent:
                    self._pending = encoded
                raise
            self.num_retries += item.retries
            self._beginning = self._pending = None
            self._history.append(encoded)
            self._seq = seq + 1
            return result

    async def _retry_step(
        self, item: StepItem, error: VerlAgentEnvError, micro_batching: bool | None
    ) -> StepResult:
        """Retry a step whose first attempt failed."""
        backoff = Backoff(item.deadline)
        # A failed attempt may have been carried out.
        self._pending = item.action
        while True:
            try:
                if isinstance(error, SequenceGapError) and self._can_resend(error):
                    await self._resend_missing(error, item, micro_batching)
                else:
                    await backoff.pause_after(error)
                self.num_retries += 1
                return await self._dispatch.ask(STEP, item, micro_batching=micro_batching)
            except SequenceGapError as gap:
                if not self._can_resend(gap) or time.monotonic() > backoff.deadline:
                    self._pending = None
                    raise
                error = gap
            except VerlAgentEnvError as failed:
                if not is_undecided(failed):
                    self._pending = None
                if failed is error:
                    raise
                error = failed

    def _can_resend(self, gap: SequenceGapError) -> bool:
        return self._first_seq <= gap.expected_seq < gap.seq <= self._first_seq + len(self._history)

    async def _resend_missing(
        self, gap: SequenceGapError, item: StepItem, micro_batching: bool | None
    ) -> None:
        """Send the steps again that the server has lost; their results are known."""
        logger.warning(
            "the server lost the end of an episode; resending steps %d to %d of %s",
            gap.expected_seq,
            gap.seq - 1,
            self.env_id,
        )
        for seq in range(gap.expected_seq, gap.seq):
            lost = StepItem(self.env_id, self._history[seq - self._first_seq], seq, item.deadline)
            await self._dispatch.ask(STEP, lost, micro_batching=micro_batching)

    @_takes_gathered
    async def close(self, *, micro_batching: bool | None = None) -> None:
        """Close the environment; one that does not exist any more counts as closed."""
        if self._closed:
            return
        self._closed = True
        if not self.env_id:
            return
        self._dispatch.open_envs.pop(self.env_id, None)
        backoff = Backoff(time.monotonic() + self._dispatch.close_deadline_s)
        while True:
            try:
                item = CloseItem(self.env_id, backoff.deadline)
                await self._dispatch.ask(CLOSE, item, micro_batching=micro_batching)
                return
            except (EnvironmentNotFoundError, EnvironmentClosedError, ClientClosedError):
                return
            except VerlAgentEnvError as error:
                await backoff.pause_after(error)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except VerlAgentEnvError:
            if error is None:
                raise
            # The first error is the one that the caller has to see.
            logger.warning("environment %s could not be closed", self.env_id, exc_info=True)

    # --- inspection -----------------------------------------------------------------------------------------

    async def state(self) -> dict[str, Any]:
        """Return the state on the server: name, owner, episode, seed, seq and more."""
        return await self._get("", dict)

    async def position(self) -> tuple[int, int]:
        """Return the ``seq`` of the next step on the server, and the episode's seed."""
        return await self._get("", lambda answer: (int(answer["seq"]), int(answer["seed"])))

    async def task_prompt(self) -> str:
        """Return the task prompt: the task, and how to act."""
        return await self._get("task-prompt", lambda answer: str(answer["task_prompt"]))

    async def seat_view(self, seat: int, *, wait_s: int = 0) -> dict[str, Any]:
        """Return what a seat of the environment sees; the next step is then the one that the view is of.

        Each player has an object of its own for the environment (:meth:`AsyncEnvClient.attach`), and acts with
        ``step({"seat": seat, "action": action})``.

        Args:
            seat: The seat, from 0.
            wait_s: Seconds, 20 at most, to wait until the seat is to act or the episode has ended.

        Returns:
            ``seat``, ``num_seats``, ``turn``, ``observation``, ``reward``, ``num_steps``, ``ended``, ``episode``, ``seq``.

        Raises:
            UnknownSeatError: The environment has no such seat.
        """
        await self.open()
        seq, view = await self._get(
            f"seat?seat={seat}&wait_s={wait_s}", lambda answer: (int(answer["seq"]), answer)
        )
        async with self._turn():
            # What a lost answer has left undecided is decided by sending the same action again.
            if self._pending is None and self._seq != seq:
                self._seq = self._first_seq = seq
                self._history.clear()
        return view

    async def wait_for_turn(self, seat: int) -> dict[str, Any]:
        """Return what a seat sees as soon as it is to act, or the episode has ended; see :meth:`seat_view`."""
        while True:
            view = await self.seat_view(seat, wait_s=_LONGEST_TURN_S)
            if view["ended"] or seat in view["turn"]:
                return view

    async def tools(
        self, format: Literal["openai", "anthropic"] = "openai"  # noqa: A002 - as the API's paths say it
    ) -> list[dict[str, Any]]:
        """Return the tools in the schema of OpenAI's or Anthropic's API."""
        return await self._get(f"tools-schema-{format}", lambda answer: list(answer["tools_schema"]))

    async def allow_parallel_tool_call(self) -> bool:
        """Tell whether one action may hold several tool calls."""
        return await self._get(
            "allow-parallel-tool-call", lambda answer: bool(answer["allow_parallel_tool_call"])
        )

    async def action_space(self) -> dict[str, Any]:
        """Return the JSON Schema of a valid action."""
        return await self._get("action-space", lambda answer: dict(answer["action_space"]))

    async def trajectory(self) -> dict[str, Any]:
        """Return the steps of the episode so far, as the server has them."""
        return await self._get("trajectory", dict)

    async def render(self, mode: Literal["ansi", "svg", "png"] = "ansi") -> str | bytes:
        """Return a picture: text for ``ansi`` and ``svg``, bytes for ``png``.

        Raises:
            RenderModeError: The environment has no such mode.
        """
        self._require_open()
        picture = await self._dispatch.get_bytes(
            path_of(self.env_id, f"render?{urlencode({'mode': mode}, errors='replace')}"), self.env_id
        )
        return picture if mode == "png" else picture.decode()

    async def _get(self, call: str, read: Callable[[dict[str, Any]], T]) -> T:
        self._require_open()
        return await self._dispatch.get(path_of(self.env_id, call), read, self.env_id)

    def _turn(self) -> asyncio.Lock:
        """Return the lock of the environment, one for each event loop that the client is used in.

        Raises:
            ClientLoopError: The client belongs to another event loop.
        """
        self._dispatch.enter()
        if self._lock_loop is not self._dispatch.loop:
            # The lock of a closed loop or of another process is never released here.
            self._lock, self._lock_loop = asyncio.Lock(), self._dispatch.loop
        return self._lock

    def __reduce__(self) -> NoReturn:
        raise TypeError(NOT_COPIED)

    def _require_open(self) -> None:
        if self._closed:
            raise ClientClosedError("environment")
        if not self.env_id:
            raise ClientClosedError("environment (or never opened: await it first)")


def _seed_in(beginning: ResetResult) -> int | None:
    """Return the seed that the info of a reset names; those of other people's environments may name none."""
    seed = beginning.info.get("seed")
    return seed if type(seed) is int and 0 <= seed <= MAX_SEED else None


def _never_ran(error: VerlAgentEnvError) -> bool:
    """Tell whether no attempt of the call can have reached a server."""
    return isinstance(error, ServerUnreachableError) and not error.may_have_run
