"""Looks whether a seat of OpenSpiel is shown what it must not see."""

from __future__ import annotations

import random
from typing import Any

from verl_agent_env.envs.checker.report import CheckResult
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.spec import EnvSpec

_NUM_STATES = 12
_NUM_OTHERS = 4


def hidden_information(spec: EnvSpec) -> CheckResult:
    """States that differ only in what a seat may not see look the same to it, legal moves included."""
    env: Any = default_registry().kind(spec.name).env_class()
    if env.game.is_perfect_information:
        return CheckResult("hidden", True, "nothing is hidden in this game", skipped=True)
    dice = random.Random(0)
    num_compared = num_different = 0
    for seed in range(_NUM_STATES):
        env.reset(seed=seed)
        for _ in range(dice.randrange(3)):
            if not env.ended:
                env.step(env.sample_action(dice))
        if env.ended:
            continue
        shown = env.observe()
        if seed and not num_compared:
            # The package does not have it for this game, and says so each time.
            break
        for _ in range(_NUM_OTHERS):
            other = _another_state(env, dice)
            if other is None:
                break
            num_different += str(other) != str(env.state)
            snapshot = env.dump_state()
            env.load_state([snapshot[0], env.game.dump(other), snapshot[2]])
            looks = env.observe()
            env.load_state(snapshot)
            num_compared += 1
            if looks != shown:
                return CheckResult(
                    "hidden", False, f"seed {seed}: a state that must look the same looks otherwise"
                )
    if not num_compared:
        return CheckResult(
            "hidden", True, "the package cannot make another state of the same information", True
        )
    return CheckResult(
        "hidden", True, f"{num_compared} states looked the same, {num_different} of them different"
    )


def _another_state(env: Any, dice: random.Random) -> Any:
    """A state that the seat cannot tell from the one at hand; ``None`` where the package cannot make one."""
    try:
        return env.state.resample_from_infostate(env.seat, dice.random)
    except Exception:  # noqa: BLE001 - many games do not have it
        return None
