"""Named variants of the built-in environments, as users know them from other projects: what differs from the defaults.

Plain data, so that names can be registered without importing an environment.
"""

from __future__ import annotations

from typing import Any

Preset = dict[str, Any]

_PROMPT_RAGEN_SOKOBAN = (
    "You are solving a Sokoban puzzle. Push every box onto a target; boxes can be pushed, one at a time, but not "
    "pulled. # is a wall, _ is floor, O is a target, X is a box, √ is a box on a target, P is you, S is you on a "
    "target. Your moves are Up, Down, Left and Right, at most 5 in an answer, parted by ||. Answer in this form: "
    "<think>your thoughts</think><answer>Up || Left</answer>"
)
_PROMPT_RAGEN_FROZEN_LAKE = (
    "You are walking over a frozen lake. Reach the goal without falling into a hole. The ice is slippery: you may "
    "slide to the side of where you meant to go. P is you, _ is ice, O is a hole, G is the goal, X is you in a hole, "
    "√ is you on the goal. Your moves are Up, Down, Left and Right, at most 5 in an answer, parted by ||. Answer in "
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

_RAGEN: Preset = {"max_actions_per_turn": 5, "max_steps": 10, "cell_separator": ""}
# A turn without a valid move costs RAGEN's penalty for bad format, -0.1, already as a step in which nothing moves.
_RAGEN_SOKOBAN: Preset = {**_RAGEN, "allow_moves": False, "task_prompt": _PROMPT_RAGEN_SOKOBAN}
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
    # gym-sokoban's variations; the first is its v0, whose name stands for this project's defaults here.
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
    "verl_env/sokoban_ragen-v0": {"dim_room": [6, 6], "num_boxes": 1, **_RAGEN_SOKOBAN},
    "verl_env/sokoban_ragen_3box-v0": {"dim_room": [6, 6], "num_boxes": 3, **_RAGEN_SOKOBAN},
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
    "verl_env/frozen_lake_ragen-v1": {
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
        "task_prompt": _PROMPT_RAGEN_FROZEN_LAKE,
        **_RAGEN,
    },
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

COUNTDOWN: dict[str, Preset] = {
    "verl_env/countdown_tinyzero-v0": {"score_profile": "tinyzero", **_TINYZERO},
    # RAGEN plays the puzzles of TinyZero, by scores of its own.
    "verl_env/countdown_ragen-v0": {"score_profile": "ragen", **_TINYZERO},
    "verl_env/countdown_reasoning_gym-v0": {
        "num_numbers": [4, 6],
        "number_range": [1, 100],
        "target_range": [100, 999],
        "score_profile": "reasoning_gym",
        "task_prompt": _PROMPT_COUNTDOWN.format(rule="each of the numbers at most once"),
        **_ONE_ANSWER,
    },
    # The game of 24: four cards.
    "verl_env/countdown_24-v0": {
        "num_numbers": 4,
        "number_range": [1, 13],
        "target_range": [24, 24],
        "natural": False,
    },
}
