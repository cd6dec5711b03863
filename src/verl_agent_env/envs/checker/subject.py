"""The environment that is checked: makes instances of it, plays them, and notes what they return."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.checker.report import CheckSkippedError, Figures
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import EnvSpec

Env = gymnasium.Env[Any, Any]
Policy = Callable[[], Any]

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_NOISE: tuple[Any, ...] = ("", "no_such_action", {"role": "assistant", "content": None, "tool_calls": []})


@dataclass
class Subject:
    """The environment that is checked, and how thoroughly."""

    kind: EnvKind
    spec: EnvSpec
    kwargs: dict[str, Any]
    arguments: Any
    """What ``kind.validate`` made of ``kwargs``."""
    num_steps: int
    seeds: tuple[int, ...]
    figures: Figures = field(default_factory=Figures)
    same_here: bool | None = None
    """Whether an episode came out the same again in this process; ``None`` while unknown."""
    same_elsewhere: bool | None = None
    """Whether it came out the same in another process."""

    # --- driving instances ----------------------------------------------------------------------------------

    def build(self, arguments: Any = None) -> Env:
        """A new instance; of ``arguments`` instead of the subject's own when given."""
        return self.kind.build(self.arguments if arguments is None else arguments)

    def chat_class(self) -> type[ChatEnv]:
        """The class, for checks of what only a ``ChatEnv`` has.

        Raises:
            CheckSkippedError: It is none.
        """
        if not self.kind.is_chat_env:
            raise CheckSkippedError("only a ChatEnv has this, this is a plain gymnasium.Env")
        return cast("type[ChatEnv]", self.kind.env_class)

    # --- playing --------------------------------------------------------------------------------------------

    def policy(self, env: Env, seed: int) -> Policy:
        """Random actions, the same for the same seed: of the action space, and for a ``ChatEnv`` also bad ones."""
        # A space of its own: sampling shall not depend on who else uses the class's.
        space = copy.deepcopy(env.action_space)
        space.seed(seed)
        chance = random.Random(seed)
        noisy = self.kind.is_chat_env

        def choose() -> Any:
            if noisy and chance.random() < 0.1:
                return chance.choice(_NOISE)
            return space.sample()

        return choose

    def play(self, env: Env, seed: int, num_steps: int | None = None) -> list[bytes]:
        """The JSON of each result of an episode of random actions, the reset's first."""
        policy = self.policy(env, seed)
        lines = [to_json(env.reset(seed=seed))]
        for _ in range(self.num_steps if num_steps is None else num_steps):
            result = env.step(policy())
            lines.append(to_json(result))
            if result[2] or result[3]:
                break
        return lines

    def play_all(self) -> list[bytes]:
        """The episodes of all seeds, each in an instance of its own, and the episode that follows the first."""
        lines: list[bytes] = []
        for seed in self.seeds:
            env = self.build()
            lines += self.play(env, seed)
            lines.append(to_json(env.reset()))
            env.close()
        return lines


def to_json(result: Any) -> bytes:
    """A result as a server would send it; not a number stays apart from null.

    Raises:
        TypeError: JSON cannot express it.
    """
    parts = list(result)
    if len(parts) == 5:
        parts[1] = repr(float(parts[1]))
    return orjson.dumps(parts, option=_JSON_OPTIONS)


def digest_of(lines: Iterable[bytes]) -> str:
    """A short text that stands for all lines."""
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def first_difference(expected: list[bytes], got: list[bytes]) -> str | None:
    """Where two transcripts part; ``None`` if they are equal."""
    for number, (one, other) in enumerate(zip(expected, got, strict=False)):
        if one != other:
            return f"result {number} differs: {_short(one)} became {_short(other)}"
    if len(expected) != len(got):
        return f"{len(expected)} results became {len(got)}"
    return None


def _short(line: bytes) -> str:
    return line[:200].decode(errors="replace") + ("…" if len(line) > 200 else "")


def subject_of(
    kind: EnvKind, spec: EnvSpec, kwargs: Mapping[str, Any], num_steps: int, seeds: Iterable[int]
) -> Subject:
    """The subject of these arguments.

    Raises:
        InvalidEnvArgumentsError: The environment does not take them.
    """
    return Subject(kind, spec, dict(kwargs), kind.validate(kwargs), num_steps, tuple(seeds))
