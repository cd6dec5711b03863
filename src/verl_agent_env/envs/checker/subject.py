"""Environment under check: makes instances, plays episodes, and records their results."""

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
    """Environment under check, and the extent of the checks."""

    kind: EnvKind
    spec: EnvSpec
    kwargs: dict[str, Any]
    arguments: Any
    """Result of ``kind.validate`` for ``kwargs``."""
    num_steps: int
    seeds: tuple[int, ...]
    figures: Figures = field(default_factory=Figures)
    same_here: bool | None = None
    """True if a repeated episode was the same in this process; ``None`` while unknown."""
    same_elsewhere: bool | None = None
    """True if it was the same in another process; ``None`` while unknown."""

    # --- driving instances ----------------------------------------------------------------------------------

    def build(self, arguments: Any = None) -> Env:
        """Build an instance, with ``arguments`` or the subject's own."""
        return self.kind.build(self.arguments if arguments is None else arguments)

    def chat_class(self) -> type[ChatEnv]:
        """Return the class, for checks that apply only to a ``ChatEnv``.

        Raises:
            CheckSkippedError: The class is not a ``ChatEnv``.
        """
        if not self.kind.is_chat_env:
            raise CheckSkippedError("only a ChatEnv has this, this is a plain gymnasium.Env")
        return cast("type[ChatEnv]", self.kind.env_class)

    # --- playing --------------------------------------------------------------------------------------------

    def policy(self, env: Env, seed: int) -> Policy:
        """Make a policy of random actions, determined by the seed: a ``ChatEnv``'s samples and invalid ones, else the space's."""
        # A separate space: samples must not depend on other users of the shared one.
        space = copy.deepcopy(env.action_space)
        space.seed(seed)
        chance = random.Random(seed)

        def choose() -> Any:
            if not isinstance(env, ChatEnv):
                return space.sample()
            return chance.choice(_NOISE) if chance.random() < 0.1 else env.sample_action(chance)

        return choose

    def play(self, env: Env, seed: int, num_steps: int | None = None) -> list[bytes]:
        """Play an episode of random actions and return the JSON of each result, that of the reset first."""
        policy = self.policy(env, seed)
        lines = [to_json(env.reset(seed=seed))]
        for _ in range(self.num_steps if num_steps is None else num_steps):
            result = env.step(policy())
            lines.append(to_json(result))
            if result[2] or result[3]:
                break
        return lines

    def play_all(self) -> list[bytes]:
        """Play the episodes of all seeds, each in a new instance, and the episode that follows the first."""
        lines: list[bytes] = []
        for seed in self.seeds:
            env = self.build()
            lines += self.play(env, seed)
            lines.append(to_json(env.reset()))
            env.close()
        return lines


def to_json(result: Any) -> bytes:
    """Encode a result as a server does, but with NaN different from null.

    Raises:
        TypeError: JSON cannot express it.
    """
    parts = list(result)
    if len(parts) == 5:
        parts[1] = repr(float(parts[1]))
    return orjson.dumps(parts, option=_JSON_OPTIONS)


def digest_of(lines: Iterable[bytes]) -> str:
    """Hash lines into a short text."""
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def first_difference(expected: list[bytes], got: list[bytes]) -> str | None:
    """Describe the first difference of two transcripts; ``None`` if they are equal."""
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
    """Make the subject of these arguments.

    Raises:
        InvalidEnvArgumentsError: The environment does not take them.
    """
    return Subject(kind, spec, dict(kwargs), kind.validate(kwargs), num_steps, tuple(seeds))
