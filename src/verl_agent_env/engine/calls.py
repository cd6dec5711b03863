"""Calls on the live environments of a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from verl_agent_env.engine.apart_calls import ApartCalls
from verl_agent_env.engine.directory import Directory
from verl_agent_env.engine.inline_calls import InlineCalls
from verl_agent_env.engine.lifecycle import Created, CreateRequest, Lifecycle
from verl_agent_env.engine.persistence.pending import AwaitableOrValue, PendingAnswer
from verl_agent_env.errors import EnvironmentStateError, VerlAgentEnvError
from verl_agent_env.wire.results import EncodedReset, EncodedStep

T = TypeVar("T")


class PendingClose(PendingAnswer[None]):
    """The answer to a closing, until it is written; an environment that others closed meanwhile is closed as well."""

    __slots__ = ("directory",)
    directory: Directory

    def refuse(self, refusal: VerlAgentEnvError) -> None:
        """See :class:`~verl_agent_env.engine.persistence.pending.PendingAnswer`."""
        if not self.directory.was_closed(self.env_id):
            super().refuse(refusal)


class Calls:
    """The calls, each carried out inline or offloaded, as its environment's kind has it.

    A call gives its result at once where there is nothing to wait for. What has to be written before it is answered has
    been carried out all the same; an offloaded call is a coroutine, and has not begun.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._get, self._find = lifecycle.directory.get, lifecycle.directory.find
        self._inline = InlineCalls(lifecycle)
        self._offloaded = ApartCalls(lifecycle)
        self.under_way = self._offloaded.under_way

    def create(self, request: CreateRequest) -> AwaitableOrValue[Created]:
        """Make an environment and begin its first episode; see :meth:`~verl_agent_env.engine.host.Host.create`."""
        if request.env_id is not None and self._lifecycle.directory.is_known(request.env_id):
            return self._lifecycle.created_before(self._find(request.env_id), request)
        instance = self._lifecycle.prepare(request)
        if instance.kind.execution != "inline":
            return self._offloaded.create(instance, request)
        return self._lifecycle.hold_back(instance, self._inline.create(instance, request))

    def reset(
        self, env_id: str, seed: int | None, options: dict[str, Any] | None, operation: bytes
    ) -> AwaitableOrValue[EncodedReset]:
        """Begin an episode; see :meth:`~verl_agent_env.engine.host.Host.reset`."""
        instance = self._get(env_id) or self._find(env_id)
        if instance.kind.execution != "inline":
            return self._offloaded.reset(instance, seed, options, operation)
        try:
            answer = self._inline.reset(instance, seed, options, operation)
        except EnvironmentStateError as error:
            return self._lifecycle.hold_back_error(instance, error)
        return self._lifecycle.hold_back(instance, answer)

    def step(
        self, env_id: str, action: Any, seq: int | None, operation: bytes
    ) -> AwaitableOrValue[EncodedStep]:
        """Apply an action; see :meth:`~verl_agent_env.engine.host.Host.step`."""
        instance = self._get(env_id) or self._find(env_id)
        if instance.kind.execution != "inline":
            return self._offloaded.step(instance, action, seq, operation)
        try:
            answer = self._inline.step(instance, action, seq, operation)
        except EnvironmentStateError as error:
            return self._lifecycle.hold_back_error(instance, error)
        return answer if instance.group is None else self._lifecycle.hold_back(instance, answer)

    def read(self, env_id: str, read: Callable[[Any], T]) -> AwaitableOrValue[T]:
        """Read of an environment; see :meth:`~verl_agent_env.engine.host.Host.read`."""
        instance = self._find(env_id)
        if instance.kind.execution != "inline":
            return self._offloaded.read(instance, read)
        return self._inline.read(instance, read)

    def close(self, env_id: str) -> PendingClose | None:
        """Close an environment that is live or was closed here; see :meth:`~verl_agent_env.engine.host.Host.close`."""
        lifecycle = self._lifecycle
        if lifecycle.directory.was_closed(env_id):
            return None
        if self._get(env_id) is None and lifecycle.suspicions.refusal(env_id) is not None:
            # Nothing is left of it that could be closed.
            return None
        instance, recorder = self._find(env_id), lifecycle.recorder
        group = lifecycle.end(instance, "closed")
        if group is None or recorder is None:
            return None
        if recorder.answers_early(env_id):
            lifecycle.dismiss(instance, "closed")
            return None
        pending = PendingClose(recorder.journal, env_id, group, None)
        pending.directory = lifecycle.directory
        return pending
