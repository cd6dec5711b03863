"""Looks at a live environment without changing it: its state, its tools, a picture, the episode so far."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import gymnasium
import orjson

from verl_agent_env.engine.execution import ENV_FAULTS, build
from verl_agent_env.engine.group_commit.pending import await_maybe
from verl_agent_env.engine.host import Host
from verl_agent_env.engine.lifecycle import encode_action
from verl_agent_env.engine.live_env import LiveEnv
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.pictures import to_png
from verl_agent_env.envs.seats import SeatedEnv
from verl_agent_env.errors import AnswerTooLargeError, AtCapacityError, RenderModeError, UnknownSeatError
from verl_agent_env.messages import parse_action, reading_of
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

logger = logging.getLogger(__name__)

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
        ``form``, ``thought``, ``calls``, ``valid``, ``problem`` and ``place``, as
        :class:`~verl_agent_env.wire.responses.ReadActionResponse` has them.

    Raises:
        ActionTooLargeError, InvalidRequestError: It is no action that a step would take.
        EnvironmentStateError: There is none, or it is lost.
    """
    encode_action(action, host.limits.max_action_bytes)
    return await read_env(host, env_id, lambda env: _reading(env, action))


def _reading(env: Any, action: Any) -> dict[str, Any]:
    """Tell how an environment reads an action."""
    if isinstance(env, ChatEnv):
        return env.reading_of(action)
    parsed = parse_action(action)
    return reading_of(parsed, parsed.calls)


async def read_kept_actions(
    host: Host, env_name: str, env_kwargs: Mapping[str, Any], actions: Sequence[Any]
) -> list[dict[str, Any] | None]:
    """Read actions of an episode that is over, as :func:`read_action` does.

    Returns:
        Of each action how it is read; None if its kind is not installed here, or cannot say so.
    """
    try:
        await host.kinds.load((env_name,))
        kind = host.registry.kind(env_name)
        arguments = kind.validate(env_kwargs)
        kind = kind.fitting(arguments)

        def read_all() -> list[dict[str, Any] | None]:
            env = build(kind, arguments)
            try:
                return [_reading(env, action) for action in actions]
            finally:
                env.close()

        return await host.executor.run(kind, read_all)
    except ENV_FAULTS:
        logger.debug("reading kept actions failed", exc_info=True, extra={"env_name": env_name})
        return [None] * len(actions)


async def seat_view(host: Host, env_id: str, seat: int, wait_s: float = 0.0) -> dict[str, Any]:
    """Tell a seat's player what its seat sees, and number the next step: all that it needs to act.

    Args:
        host: The host.
        env_id: The environment.
        seat: The seat, from 0.
        wait_s: Wait so long at most until the seat is to act or the episode has ended; other calls go on meanwhile.

    Returns:
        What :meth:`~verl_agent_env.envs.seats.SeatedEnv.seat_view` gives, with ``episode`` and ``seq``.

    Raises:
        UnknownSeatError: There is no such seat.
        EnvironmentStateError: There is no such environment, or it is lost.
        EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + wait_s

    while True:
        instance = await await_maybe(host.find(env_id))
        with instance.watched() as changed:
            view = await read_env(host, env_id, partial(_seen_from, instance, seat))
            if host.recorder is not None:
                # What others did is told when it is written, as it is to them.
                view = await await_maybe(host.recorder.hold_back(instance, view))
            left_s = due - loop.time()
            if view["ended"] or seat in view["turn"] or left_s <= 0:
                return view
            await asyncio.wait([changed], timeout=left_s)


def _seen_from(instance: LiveEnv, seat: int, env: Any) -> dict[str, Any]:
    if not isinstance(env, SeatedEnv):
        raise UnknownSeatError(instance.env_id, seat, 0)
    return {**env.seat_view(seat), "episode": instance.episode, "seq": instance.seq}


async def trajectory(host: Host, env_id: str, *, draws: bool = False) -> bytes:
    """The episode so far as JSON: seed, the first observation, and action and answer of each step.

    With ``draws`` also a picture (SVG) of the beginning, and of the state after each step.

    A deterministic environment is replayed for it, on a copy: steps go on meanwhile. ``complete`` is false, with no
    steps, when more actions were taken than are kept. Of a long action whose reading alone is
    recorded, the trajectory holds the reading.

    Raises:
        EnvironmentStateError: There is none, or it is lost.
        RenderModeError: It cannot be drawn.
        EnvironmentFailedError, EnvironmentTimeoutError: Its own code raised or hung in the replay.
        AnswerTooLargeError: It is longer than an answer may be.
        AtCapacityError: Too many threads hang.
        StoreUnavailableError: A part of it is in the store, which does not answer.
    """
    instance = await await_maybe(host.find(env_id))
    await host.require_alive(instance)
    host.env_table.touch(instance)
    actions = await host.all_actions(instance)
    complete = actions is not None
    head = {
        "env_id": env_id,
        "env_name": instance.kind.name,
        "episode": instance.episode,
        "seed": instance.seed,
        "complete": complete,
    }
    begin: EncodedReset | None
    drawings: list[str] = []
    if draws:
        _require_drawn(instance.kind)
    if actions is not None and instance.kind.replays:
        length = _Length(host)
        try:
            begin, answers, drawings = await _played_again(
                host,
                instance.kind,
                instance.arguments,
                instance.seed,
                instance.options,
                instance.effects,
                actions,
                length,
                draws,
            )
        except AtCapacityError:
            raise
        except ENV_FAULTS as fault:
            raise host.failure(instance, fault) from fault
    else:
        begin, answers = instance.beginning, list(instance.answers or ())
        length = _Length(host)
        for answer in answers:
            length.add("", answer)
    steps = [
        b'{"seq":%d,"action":%b,%b' % (seq, shown(action), answer.to_json()[1:])
        for seq, (action, answer) in enumerate(zip(actions or (), answers, strict=True))
    ]
    if drawings:
        head["drawing"] = drawings[0]
        steps = [
            b'%b,"drawing":%b}' % (step[:-1], orjson.dumps(drawing))
            for step, drawing in zip(steps, drawings[1:], strict=True)
        ]
    observation, info = (begin.observation, begin.info) if begin is not None else (b"null", b"null")
    return b'%b,"observation":%b,"info":%b,"steps":[%b]}' % (
        orjson.dumps(head)[:-1],
        observation,
        info,
        b",".join(steps),
    )


class _Length:
    """Counts the answers of an episode, and ends it when they are too long."""

    def __init__(self, host: Host) -> None:
        self._size = 0
        self._max_bytes = host.limits.max_answer_bytes

    def add(self, drawing: str, answer: EncodedStep | None) -> None:
        """Count an answer and a drawing, if there are any.

        Raises:
            AnswerTooLargeError: They are longer than an answer may be.
        """
        self._size += len(drawing) + (0 if answer is None else size_of(answer))
        if self._size > self._max_bytes:
            raise AnswerTooLargeError(self._max_bytes, self._size)


async def draw_kept(
    host: Host,
    env_name: str,
    env_kwargs: Mapping[str, Any],
    seed: int,
    options: bytes | None,
    actions: list[bytes],
) -> list[str] | None:
    """Draw an episode that is over, as SVG: its beginning, and the state after each step.

    Returns:
        The drawings; None if its kind is not installed here, has no drawings, or does not repeat the episode.

    Raises:
        AnswerTooLargeError: They are longer than an answer may be.
    """
    try:
        await host.kinds.load((env_name,))
        kind = host.registry.kind(env_name)
        arguments = kind.validate(env_kwargs)
        kind = kind.fitting(arguments)
        _require_drawn(kind)
        if not kind.deterministic:
            return None
        length = _Length(host)
        return (await _played_again(host, kind, arguments, seed, options, None, actions, length, True))[2]
    except AnswerTooLargeError:
        raise
    except ENV_FAULTS:
        logger.debug("drawing a kept episode failed", exc_info=True, extra={"env_name": env_name})
        return None


def _require_drawn(kind: EnvKind) -> None:
    """Raise when environments of a kind cannot be drawn."""
    modes = render_modes(kind.env_class)
    if "svg" not in modes:
        raise RenderModeError("svg", modes)


async def _played_again(
    host: Host,
    kind: EnvKind,
    arguments: Any,
    seed: int,
    options: bytes | None,
    effects: bytes | None,
    actions: list[bytes],
    length: _Length,
    draws: bool,
) -> tuple[EncodedReset, list[EncodedStep], list[str]]:
    """Play recorded actions in a new environment; gives its beginning, the answers and, with ``draws``, the drawings."""

    def observe(env: Any, answer: EncodedStep | None = None) -> str:
        drawing = str(env.draw("svg")) if draws else ""
        length.add(drawing, answer)
        return drawing

    given = orjson.loads(effects) if effects is not None else {}
    env, begin, first = await host.executor.begin(kind, arguments, None, seed, options, observe, given)
    played = await host.executor.play(kind, env, actions, observe)
    host.executor.dispose(kind, env)
    return begin, [answer for answer, _ in played], [first, *(seen for _, seen in played)] if draws else []
