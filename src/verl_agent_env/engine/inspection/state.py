"""Reads of a live environment that change nothing: its state, a picture, what a seat sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gymnasium

from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.group_commit.pending import await_maybe
from verl_agent_env.engine.host.host import Host
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.pictures import to_png
from verl_agent_env.envs.seats import SeatedEnv
from verl_agent_env.errors import AnswerTooLargeError, RenderModeError, UnknownSeatError

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
