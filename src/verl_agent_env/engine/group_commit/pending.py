"""Answers of calls that were carried out, and may be given as soon as what they tell of is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

import msgspec

from verl_agent_env.engine.group_commit.groups import Group, OnEnd
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.spans import note_wait

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


class Writer(Protocol):
    """Makes the writes: the journal."""

    def deadline(self) -> float:
        """Until when whoever begins to wait now waits for a write, as a time of the event loop's clock."""

    def call_at_end(self, group: Group, deadline: float, on_end: OnEnd) -> None:
        """Have ``on_end`` called at the end of a group, or at the deadline."""


class PendingAnswer(msgspec.Struct, Generic[T_co], eq=False):
    """The answer of a call that was carried out, until the writes that it tells of are made.

    As an :class:`asyncio.Future`: awaited, or with a callback, which costs no task. Whoever drops it loses the answer
    alone: the call counts, and is answered as it was when it is asked for again.

    Raises:
        StoreUnavailableError: When awaited: the writes are not made in time; whether they will be is unknown.
        MovedError: Another worker owns the environment.
        EnvironmentLostError, EnvironmentClosedError: Nobody can write it.
    """

    _writer: Writer
    """Makes the writes."""
    env_id: str
    """The environment that the answer tells of."""
    group: Group
    """The writes to wait for."""
    _answer: T_co
    error: VerlAgentEnvError | None = None
    """What to raise instead of the answer, if anything: a refusal tells of earlier calls, as an answer does."""
    refusal: VerlAgentEnvError | None = None
    """Why the answer may not be given, if so."""
    _deadline: float = 0.0
    _callback: Callable[[PendingAnswer[T_co]], None] | None = None

    @property
    def answer(self) -> T_co:
        """The answer, which nobody may be given yet.

        Raises:
            VerlAgentEnvError: It is an error.
        """
        if self.error is not None:
            raise self.error
        return self._answer

    def then(self, convert: Callable[[T_co], U]) -> PendingAnswer[U]:
        """Hold back ``convert(answer)`` in place of the answer; converted at once, while the writes are under way."""
        if self.error is None:
            self._answer = cast("Any", convert(self._answer))
        return cast("PendingAnswer[U]", self)

    def add_done_callback(self, callback: Callable[[PendingAnswer[T_co]], None]) -> None:
        """Have ``callback(self)`` called once, when :meth:`result` can be asked for; now, if it can be."""
        self._callback = callback
        self._deadline = self._writer.deadline()
        self._follow()

    def result(self) -> T_co:
        """The answer, as soon as it may be given; see the class for what is raised."""
        if self.refusal is not None:
            raise self.refusal
        return self.answer

    def refuse(self, refusal: VerlAgentEnvError) -> None:
        """Note that the writes were not made, and why."""
        self.refusal = refusal

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait for the writes."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake_up(_: PendingAnswer[T_co]) -> None:
            # Whoever waited may be gone.
            if not written.done():
                written.set_result(None)

        began = time.perf_counter()
        self.add_done_callback(wake_up)
        yield from written
        note_wait("stored", began, "store")
        return self.result()

    def _follow(self) -> None:
        """Wait for the end of the group, or of that in which the environment's writes go on."""
        while self.group.is_done:
            refusal = self.group.errors.get(self.env_id)
            later = self.group.later.get(self.env_id)
            if refusal is not None:
                self.refuse(refusal)
            elif later is not None:
                self.group = later
                continue
            self._end()
            return
        self._writer.call_at_end(self.group, self._deadline, self._on_end)

    def _on_end(self, error: VerlAgentEnvError | None) -> None:
        if error is None:
            self._follow()
        else:
            self.refuse(error)
            self._end()

    def _end(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(self)


AwaitableOrValue: TypeAlias = T | PendingAnswer[T] | Coroutine[Any, Any, T]
"""What a call gives: its result, if there is nothing to wait for; the answer of a call that was carried out, until it is
written; or a coroutine, in which nothing was done yet."""


_WAITING: Final = (PendingAnswer, CoroutineType)


async def await_maybe(answer: AwaitableOrValue[T]) -> T:
    """Wait for the result of a call, if there is anything to wait for."""
    if isinstance(answer, _WAITING):
        return cast("T", await answer)
    return cast("T", answer)


def map_maybe(answer: AwaitableOrValue[T], convert: Callable[[T], U]) -> AwaitableOrValue[U]:
    """Convert the result of a call, as soon as there is one."""
    if not isinstance(answer, _WAITING):
        return convert(cast("T", answer))
    return answer.then(convert) if isinstance(answer, PendingAnswer) else _mapped(answer, convert)


async def _mapped(answer: Coroutine[Any, Any, T], convert: Callable[[T], U]) -> U:
    return convert(await answer)
