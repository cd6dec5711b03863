"""Looks at a live environment without changing it: its state, its tools, a picture, the episode so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium
import orjson

from verl_agent_env.engine.execution import ENV_FAULTS
from verl_agent_env.engine.group_commit.pending import await_maybe
from verl_agent_env.engine.host import Host
from verl_agent_env.engine.lifecycle import encode_action
from verl_agent_env.engine.live_env import LiveEnv
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.pictures import to_png
from verl_agent_env.errors import AnswerTooLargeError, AtCapacityError, RenderModeError
from verl_agent_env.messages import parse_action
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

T = TypeVar("T")

MEDIA_TYPES = {"ansi": "text/plain; charset=utf-8", "svg": "image/svg+xml", "png": "image/png"}


def describe(host: Host, env_id: str) -> dict[str, Any]:
    """Describe an environment: name, owner, seq, episode, seed, age and ttl in seconds.

    Raises:
        EnvironmentNotFoundError, EnvironmentClosedError: There is none.
    """
    instance = host.env_table.find(env_id)
    now = host.clock()
    return {
        "env_id": env_id,
        "env_name": instance.kind.name,
        "owner": host.name,
        "episode": instance.episode,
        "seed": instance.seed,
        "seq": instance.seq,
        "ended": instance.ended,
        "lost": instance.lost,
        "run_id": instance.run_id,
        "age_s": round(now - instance.created_at, 3),
        "idle_s": round(now - instance.last_used, 3),
        "ttl_s": instance.ttl_s,
    }


async def read_env(host: Host, env_id: str, read: Callable[[Any], T]) -> T:
    """Apply ``read`` to the environment, on which no other call runs meanwhile.

    Raises:
        EnvironmentStateError: There is none, or it is lost.
        EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
    """
    return await await_maybe(host.read(env_id, read))


async def render(host: Host, env_id: str, mode: str) -> bytes:
    """A picture of the environment as ``ansi`` text, ``svg`` or ``png``.

    Raises:
        EnvironmentStateError: There is none, or it is lost.
        RenderModeError: It has no such mode.
        AnswerTooLargeError: The picture is longer than an answer may be.
    """
    if mode not in MEDIA_TYPES:
        raise RenderModeError(mode, list(MEDIA_TYPES))

    def draw(env: Any) -> bytes:
        modes = render_modes(type(env))
        if mode not in modes:
            raise RenderModeError(mode, modes)
        if mode == "png":
            return to_png(env.draw("rgb_array"))
        return str(env.draw(mode)).encode()

    picture = await read_env(host, env_id, draw)
    if len(picture) > host.limits.max_answer_bytes:
        raise AnswerTooLargeError(host.limits.max_answer_bytes, len(picture))
    return picture


def render_modes(env_class: type[gymnasium.Env[Any, Any]]) -> list[str]:
    """Modes in which :func:`render` draws the environments of a class."""
    if not issubclass(env_class, ChatEnv):
        return []
    return ["png" if known == "rgb_array" else known for known in env_class.metadata.get("render_modes", ())]


async def read_action(host: Host, env_id: str, action: Any) -> dict[str, Any]:
    """Read an action as a step of the environment would, and change nothing.

    Returns:
        ``form``, ``thought``, ``calls``, ``valid`` and ``place``, as
        :class:`~verl_agent_env.wire.responses.ReadActionResponse` has them.

    Raises:
        ActionTooLargeError, InvalidRequestError: It is no action that a step would take.
        EnvironmentStateError: There is none, or it is lost.
    """
    encode_action(action, host.limits.max_action_bytes)

    def read(env: Any) -> dict[str, Any]:
        parsed = env.read_action(action) if isinstance(env, ChatEnv) else parse_action(action)
        calls = env.checked_calls(parsed) if isinstance(env, ChatEnv) else parsed.calls
        return {
            "form": parsed.form,
            "thought": parsed.thought,
            "calls": [{"name": c.name, "arguments": c.arguments, "fault": c.fault} for c in calls],
            "valid": all(call.fault is None for call in calls),
            "place": parsed.place,
        }

    return await read_env(host, env_id, read)


async def trajectory(host: Host, env_id: str) -> bytes:
    """The episode so far as JSON: seed, the first observation, and action and answer of each step.

    A deterministic environment is replayed for it, on a copy: steps go on meanwhile. ``complete`` is false, with no
    steps, when more actions were taken than are kept. Of a long action whose reading alone is
    recorded, the trajectory holds the reading.

    Raises:
        EnvironmentStateError: There is none, or it is lost.
        EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung in the replay.
        AnswerTooLargeError: It is longer than an answer may be.
        AtCapacityError: Too many threads hang.
        StoreUnavailableError: A part of it is in the store, which does not answer.
    """
    instance = await await_maybe(host.find(env_id))
    instance.require_alive()
    host.env_table.touch(instance)
    actions = await _all_actions(host, instance)
    complete = actions is not None
    head = {
        "env_id": env_id,
        "env_name": instance.kind.name,
        "episode": instance.episode,
        "seed": instance.seed,
        "complete": complete,
    }
    begin: EncodedReset | None
    if actions is not None and instance.kind.replays:
        begin, answers = await _played_again(host, instance, actions)
    else:
        begin, answers = instance.beginning, list(instance.answers or ())
        length = _Length(host)
        for answer in answers:
            length.add(None, answer)
    steps = [
        b'{"seq":%d,"action":%b,%b' % (seq, shown(action), answer.to_json()[1:])
        for seq, (action, answer) in enumerate(zip(actions or (), answers, strict=True))
    ]
    observation, info = (begin.observation, begin.info) if begin is not None else (b"null", b"null")
    return b'%b,"observation":%b,"info":%b,"steps":[%b]}' % (
        orjson.dumps(head)[:-1],
        observation,
        info,
        b",".join(steps),
    )


async def _all_actions(host: Host, instance: LiveEnv) -> list[bytes] | None:
    """The episode's actions as they are recorded, those that only the log has included; None if some are gone."""
    if instance.first_seq and host.recovery is not None:
        return await host.recovery.all_actions(instance)
    return list(instance.actions or ()) if instance.history_complete else None


class _Length:
    """Counts the answers of an episode, and ends it when they are too long."""

    def __init__(self, host: Host) -> None:
        self._size = 0
        self._max_bytes = host.limits.max_answer_bytes

    def add(self, _: Any, answer: EncodedStep) -> None:
        """Count an answer.

        Raises:
            AnswerTooLargeError: They are longer than an answer may be.
        """
        self._size += size_of(answer)
        if self._size > self._max_bytes:
            raise AnswerTooLargeError(self._max_bytes, self._size)


async def _played_again(
    host: Host, instance: LiveEnv, actions: list[bytes]
) -> tuple[EncodedReset, list[EncodedStep]]:
    try:
        env, begin = await host.executor.begin_again(
            instance.kind, instance.arguments, instance.seed, instance.options, instance.effects
        )
        played = await host.executor.play(instance.kind, env, actions, _Length(host).add)
    except AtCapacityError:
        raise
    except ENV_FAULTS as fault:
        raise host.failure(instance, fault) from fault
    host.executor.dispose(instance.kind, env)
    return begin, [answer for answer, _ in played]
