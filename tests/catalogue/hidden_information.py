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
    """States that differ only in what a seat may not see look the same to it, legal moves included: alone and between seats."""
    env_class: Any = default_registry().kind(spec.name).env_class
    if env_class.game.is_perfect_information:
        return CheckResult("hidden", True, "nothing is hidden in this game", skipped=True)
    played = [env_class()]
    if env_class.game.num_players > 1:
        played.append(env_class(opponent="self"))
    found = [_compare(env) for env in played]
    failed = next((each for each in found if isinstance(each, str)), None)
    if failed is not None:
        return CheckResult("hidden", False, failed)
    num_compared, num_different = (
        sum(each[part] for each in found if not isinstance(each, str)) for part in (0, 1)
    )
    if not num_compared:
        return CheckResult(
            "hidden", True, "the package cannot make another state of the same information", True
        )
    return CheckResult(
        "hidden", True, f"{num_compared} states looked the same, {num_different} of them different"
    )


def _compare(env: Any) -> tuple[int, int] | str:
    """Return how many states looked the same, and how many of them were different; or what was wrong."""
    dice = random.Random(0)
    num_compared = num_different = 0
    for seed in range(_NUM_STATES):
        env.reset(seed=seed)
        for _ in range(dice.randrange(3)):
            if not env.ended:
                env.step(env.sample_action(dice))
        if env.ended:
            continue
        if seed and not num_compared:
            # The package does not have it for this game, and says so each time.
            break
        for seat in env.turn():
            shown = env.seat_view(seat)
            for _ in range(_NUM_OTHERS):
                other = _another_state(env, seat if env.seat is None else env.seat, dice)
                if other is None:
                    break
                num_different += str(other) != str(env.state)
                game = env.dump_game()
                env.load_game([game[0], env.game.dump(other), *game[2:]])
                looks = env.seat_view(seat)
                env.load_game(game)
                num_compared += 1
                if looks != shown:
                    return f"seed {seed}, seat {seat}: a state that must look the same looks otherwise"
    return num_compared, num_different


def _another_state(env: Any, player: int, dice: random.Random) -> Any:
    """A state that the player cannot tell from the one at hand; ``None`` where the package cannot make one."""
    try:
        return env.state.resample_from_infostate(player, dice.random)
    except Exception:  # noqa: BLE001 - many games do not have it
        return None
