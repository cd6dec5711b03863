"""The episode so far of a live environment, and drawings of one that is over, made by playing it again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.engine.execution.executor import ENV_FAULTS
from verl_agent_env.engine.group_commit.pending import await_maybe
from verl_agent_env.engine.host.host import Host
from verl_agent_env.engine.inspection.state import render_modes
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import AnswerTooLargeError, AtCapacityError, RenderModeError
from verl_agent_env.wire.actions import shown
from verl_agent_env.wire.results import EncodedReset, EncodedStep, size_of

logger = logging.getLogger(__name__)


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
    return _as_json(head, begin, actions or (), answers, drawings)


def _as_json(
    head: dict[str, Any],
    begin: EncodedReset | None,
    actions: Sequence[bytes],
    answers: Sequence[EncodedStep],
    drawings: Sequence[str],
) -> bytes:
    steps = [
        b'{"seq":%d,"action":%b,%b' % (seq, shown(action), answer.to_json()[1:])
        for seq, (action, answer) in enumerate(zip(actions, answers, strict=True))
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
