"""Presets: named variants of the built-in environments that reproduce those of other projects.

A preset reproduces its source as it was in the version that ``SOURCES`` names. Where a source changed its constants, a new
version of the name has the new ones, and the old version keeps the former. Plain data, so that names can be registered
without importing an environment.
"""

from __future__ import annotations

from typing import Any

Preset = dict[str, Any]

_RAGEN_NOW = "RAGEN 20daedc (2026-04-14)"
_RAGEN_THEN = "RAGEN 5eb79b8 (2025-09-06)"

_PROMPT_RAGEN_SOKOBAN = (
    "You are solving a Sokoban puzzle. Push every box onto a target; boxes can be pushed, one at a time, but not "
    "pulled. # is a wall, _ is floor, O is a target, X is a box, √ is a box on a target, P is you, S is you on a "
    "target. Your moves are Up, Down, Left and Right, at most {most} in an answer, parted by ||. Answer in this "
    "form: <think>your thoughts</think><answer>Up || Left</answer>"
)
_PROMPT_RAGEN_FROZEN_LAKE = (
    "You are walking over a frozen lake. Reach the goal without falling into a hole. The ice is slippery: you may "
    "slide to the side of where you meant to go. P is you, _ is ice, O is a hole, G is the goal, X is you in a hole, "
    "√ is you on the goal. Your moves are Up, Down, Left and Right, at most {most} in an answer, parted by ||. Answer in "
    "this form: <think>your thoughts</think><answer>Up || Left</answer>"
)
_PROMPT_GEM_SOKOBAN = (
    "You are solving a Sokoban puzzle. Push every box onto a target; boxes can be pushed, one at a time, but not "
    "pulled. # is a wall, _ is floor, O is a target, X is a box, √ is a box on a target, P is you, S is you on a "
    "target. Your moves are up, down, left and right. Answer with one move in a box, like \\boxed{up}."
)
_PROMPT_VERL_AGENT_SOKOBAN = (
    "You are solving a Sokoban puzzle that you see as a picture. Push every box onto a target; boxes can be pushed, "
    "one at a time, but not pulled. Your moves are up, down, left and right. Answer with one move in this form: "
    "<think>your thoughts</think><action>up</action>"
)


def _ragen(most: int) -> Preset:
    """Return the arguments that all of RAGEN's grids share: ``most`` moves in a turn, ten in an episode."""
    return {"max_actions_per_turn": most, "max_steps": 10, "cell_separator": ""}


def _ragen_sokoban(boxes: int, most: int) -> Preset:
    # A turn without a valid move costs RAGEN's penalty for bad format, -0.1, already as a step in which nothing moves.
    return {
        "dim_room": [6, 6],
        "num_boxes": boxes,
        **_ragen(most),
        "allow_moves": False,
        "task_prompt": _PROMPT_RAGEN_SOKOBAN.format(most=most),
    }


def _ragen_frozen_lake(most: int) -> Preset:
    return {
        "size": 4,
        "is_slippery": True,
        "random_start_and_goal": True,
        "glyphs": {
            "player": "P",
            "start": "_",
            "frozen": "_",
            "hole": "O",
            "goal": "G",
            "player_on_hole": "X",
            "player_on_goal": "√",
        },
        "invalid_action_reward": -0.1,
        "task_prompt": _PROMPT_RAGEN_FROZEN_LAKE.format(most=most),
        **_ragen(most),
    }


_GEM_SOKOBAN: Preset = {
    "allow_moves": False,
    "reward_step": 0.0,
    "reward_box_on_target": 0.0,
    "reward_box_off_target": 0.0,
    "reward_solved": 1.0,
    "invalid_action_reward": -0.1,
    "invalid_action_ends_episode": True,
    "task_prompt": _PROMPT_GEM_SOKOBAN,
}

SOKOBAN: dict[str, Preset] = {
    # gym-sokoban's variations; the first is its v0, whose name is that of this project's defaults here.
    "verl_env/sokoban_3box-v0": {"num_boxes": 3, "max_steps": 200},
    "verl_env/sokoban_small-v0": {"dim_room": [7, 7], "num_boxes": 2, "max_steps": 200},
    "verl_env/sokoban_large-v0": {
        "dim_room": [13, 11],
        "num_boxes": 3,
        "max_steps": 300,
        "num_gen_steps": 43,
    },
    "verl_env/sokoban_huge-v0": {
        "dim_room": [13, 13],
        "num_boxes": 5,
        "max_steps": 300,
        "num_gen_steps": 50,
    },
    "verl_env/sokoban_8x8-v0": {"dim_room": [8, 8], "num_boxes": 2},
    "verl_env/sokoban_ragen-v0": _ragen_sokoban(1, most=5),
    "verl_env/sokoban_ragen-v1": _ragen_sokoban(1, most=2),
    "verl_env/sokoban_ragen_3box-v0": _ragen_sokoban(3, most=5),
    "verl_env/sokoban_ragen_3box-v1": _ragen_sokoban(3, most=2),
    "verl_env/sokoban_gem_easy-v0": {"dim_room": [6, 6], "num_boxes": 2, "max_steps": 20, **_GEM_SOKOBAN},
    "verl_env/sokoban_gem_hard-v0": {"dim_room": [8, 8], "num_boxes": 4, "max_steps": 50, **_GEM_SOKOBAN},
    "verl_env/sokoban_verl_agent-v0": {
        "dim_room": [6, 6],
        "num_boxes": 1,
        "max_steps": 15,
        "allow_moves": False,
        "observation_mode": "image",
        "task_prompt": _PROMPT_VERL_AGENT_SOKOBAN,
    },
}

FROZEN_LAKE: dict[str, Preset] = {
    "verl_env/frozen_lake_gymnasium-v1": {"map_name": "4x4", "is_slippery": True},
    "verl_env/frozen_lake_gymnasium_8x8-v1": {"map_name": "8x8", "is_slippery": True, "max_steps": 200},
    "verl_env/frozen_lake_ragen-v1": _ragen_frozen_lake(most=5),
    "verl_env/frozen_lake_ragen-v2": {**_ragen_frozen_lake(most=2), "frozen_prob": 0.9, "success_rate": 0.8},
}

_PROMPT_COUNTDOWN = (
    "Write an equation that equals the target. Use + - * / and parentheses, and {rule}. You have one attempt. Think "
    "first, then give the equation alone, in this form: <think>your thoughts</think><answer>(1 + 2) * 3</answer>"
)
# One answer is the whole episode, also one that cannot be read.
_ONE_ANSWER: Preset = {"max_attempts": 1, "max_steps": 1, "invalid_action_ends_episode": True}
_TINYZERO: Preset = {
    "num_numbers": [3, 4],
    "number_range": [1, 99],
    "target_range": [10, 100],
    "natural": False,
    "task_prompt": _PROMPT_COUNTDOWN.format(rule="each of the numbers exactly once"),
    **_ONE_ANSWER,
}

# The sources read one tag alone.
_IN_TAGS: Preset = {"action_format": "answer"}
_REASONING_GYM: Preset = {
    "num_numbers": [4, 6],
    "number_range": [1, 100],
    "target_range": [100, 999],
    **_ONE_ANSWER,
}

COUNTDOWN: dict[str, Preset] = {
    "verl_env/countdown_tinyzero-v0": {"score_profile": "tinyzero_v0", **_TINYZERO},
    "verl_env/countdown_tinyzero-v1": {"score_profile": "tinyzero", **_TINYZERO, **_IN_TAGS},
    # RAGEN plays the puzzles of TinyZero, by scores of its own.
    "verl_env/countdown_ragen-v0": {"score_profile": "ragen_v0", **_TINYZERO},
    # Of those puzzles it keeps what sums and differences solve.
    "verl_env/countdown_ragen-v1": {
        "score_profile": "ragen",
        **_TINYZERO,
        **_IN_TAGS,
        "puzzle_operators": "+-",
    },
    "verl_env/countdown_reasoning_gym-v0": {
        **_REASONING_GYM,
        "score_profile": "reasoning_gym_v0",
        "task_prompt": _PROMPT_COUNTDOWN.format(rule="each of the numbers at most once"),
    },
    "verl_env/countdown_reasoning_gym-v1": {
        **_REASONING_GYM,
        **_IN_TAGS,
        "score_profile": "reasoning_gym",
        "natural": False,
        "allow_trivial": True,
        "task_prompt": _PROMPT_COUNTDOWN.format(rule="each of the numbers exactly once"),
    },
    # The game of 24: four cards.
    "verl_env/countdown_24-v0": {
        "num_numbers": 4,
        "number_range": [1, 13],
        "target_range": [24, 24],
        "natural": False,
    },
}

SOURCES: dict[str, str] = {
    "verl_env/sokoban_ragen-v0": f"{_RAGEN_THEN}, config/base.yaml, config/envs.yaml",
    "verl_env/sokoban_ragen_3box-v0": f"{_RAGEN_THEN}, config/base.yaml, ragen/env/sokoban/config.py",
    "verl_env/sokoban_ragen-v1": f"{_RAGEN_NOW}, config/base.yaml, config/envs.yaml",
    "verl_env/sokoban_ragen_3box-v1": f"{_RAGEN_NOW}, config/base.yaml, ragen/env/sokoban/config.py",
    "verl_env/sokoban_gem_easy-v0": "GEM 4069f2f (2025-12-31), gem/envs/__init__.py",
    "verl_env/sokoban_gem_hard-v0": "GEM 4069f2f (2025-12-31), gem/envs/__init__.py",
    "verl_env/frozen_lake_gymnasium-v1": "Gymnasium 1.x, FrozenLake-v1",
    "verl_env/frozen_lake_gymnasium_8x8-v1": "Gymnasium 1.x, FrozenLake8x8-v1",
    "verl_env/frozen_lake_ragen-v1": f"{_RAGEN_THEN}, ragen/env/frozen_lake/config.py",
    "verl_env/frozen_lake_ragen-v2": f"{_RAGEN_NOW}, ragen/env/frozen_lake/config.py",
    "verl_env/countdown_tinyzero-v0": "TinyZero 95df88f, as this project first took it",
    "verl_env/countdown_tinyzero-v1": "TinyZero 95df88f (2026-02-27), verl/utils/reward_score/countdown.py",
    "verl_env/countdown_ragen-v0": f"{_RAGEN_THEN}, as this project first took it",
    "verl_env/countdown_ragen-v1": f"{_RAGEN_NOW}, ragen/env/countdown/env.py",
    "verl_env/countdown_reasoning_gym-v0": "reasoning-gym, as this project first took it",
    "verl_env/countdown_reasoning_gym-v1": "reasoning-gym 49b0713 (2026-04-17), reasoning_gym/games/countdown.py",
}
"""Version of the source that a preset reproduces, and the location of its constants there."""
