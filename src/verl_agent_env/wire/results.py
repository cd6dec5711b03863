"""Results of steps and resets as they travel: encoded once, then stored, compared and copied as bytes."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

import msgspec
import orjson

from verl_agent_env.types import StepResult
from verl_agent_env.wire.codec import encode_kept


class EncodedStep(msgspec.Struct, gc=False, eq=False, array_like=True):
    """The encoded result of a step, which is stored for repeated requests and copied into single and batch responses.

    The garbage collector need not look at it: it holds nothing that could refer to it.
    """

    observation: bytes
    reward: float
    terminated: bool
    truncated: bool
    info: bytes
    action: bytes = b""
    """What was answered, as it was sent (JSON; of an environment that moved, as it was recorded): set where episodes are kept."""
    at: float | None = None
    """When, by the clock of the host, where episodes are kept; None if that is not known."""

    @classmethod
    def of(cls, result: StepResult | tuple[Any, Any, Any, Any, Any]) -> EncodedStep:
        """Encode a result.

        Raises:
            TypeError: The observation or the info cannot be expressed in JSON, or the reward is not a number.
            ValueError: The reward is not finite.
        """
        observation, reward, terminated, truncated, info = result
        if reward.__class__ is not float:
            reward = float(reward)
        if not isfinite(reward):
            raise ValueError(f"the reward is {reward}")
        try:
            # Like encode_kept, but inlined, because it runs for every step.
            seen, known = b"%b" % orjson.dumps(observation), b"%b" % orjson.dumps(info)
        except TypeError:
            seen, known = encode_kept(observation), encode_kept(info)
        # The conditions stand for bool(…), in less time.
        return cls(
            seen,
            reward,
            True if terminated else False,  # noqa: SIM210
            True if truncated else False,  # noqa: SIM210
            known,
        )

    def to_json(self) -> bytes:
        """Return the body of the response to a single step."""
        done = b"true" if self.terminated else b"false"
        return b'{"observation":%b,"reward":%b,"done":%b,"terminated":%b,"truncated":%b,"info":%b}' % (
            self.observation,
            orjson.dumps(self.reward),
            done,
            done,
            b"true" if self.truncated else b"false",
            self.info,
        )


class EncodedReset(msgspec.Struct, gc=False, eq=False, array_like=True):
    """The encoded result of a reset."""

    observation: bytes
    info: bytes

    @classmethod
    def of(cls, observation: Any, info: Any) -> EncodedReset:
        """Encode the result of ``reset``.

        Raises:
            TypeError: One of them cannot be expressed in JSON.
        """
        return cls(encode_kept(observation), encode_kept(info))

    def to_json(self) -> bytes:
        """Return the body of the response to a single reset."""
        return b'{"observation":%b,"info":%b}' % (self.observation, self.info)


class PlayedBeginning(NamedTuple):
    """Beginning of an episode and the first steps of it, which one request asked for."""

    beginning: EncodedReset
    steps: list[EncodedStep]

    def to_json(self) -> bytes:
        """Return the body of the response to a reset with actions."""
        steps = b",".join([step.to_json() for step in self.steps])
        return b'%b,"steps":[%b]}' % (self.beginning.to_json()[:-1], steps)


class Created(NamedTuple):
    """Id of a new environment, and how its first episode began."""

    env_id: str
    beginning: EncodedReset

    @property
    def observation(self) -> bytes:
        """First observation, as JSON."""
        return self.beginning.observation

    @property
    def info(self) -> bytes:
        """First info, as JSON."""
        return self.beginning.info


def size_of(answer: EncodedStep | EncodedReset | Created | None) -> int:
    """Return the bytes of a result."""
    return 0 if answer is None else len(answer.observation) + len(answer.info)
