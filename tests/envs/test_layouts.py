"""What tells layouts apart, and what does not."""

from __future__ import annotations

from typing import Any

from verl_agent_env.envs.layouts import layout_hash, position_of
from verl_agent_env.envs.registry import default_registry


def test_layouts_are_told_apart_by_what_is_to_be_solved() -> None:
    def hash_of(name: str, seed: int, **kwargs: Any) -> str:
        kind = default_registry().kind(name)
        env = kind.build(kind.validate(kwargs))
        return layout_hash(env, env.reset(seed=seed)[0])

    desc = ["SFF", "HFG"]
    assert hash_of("frozen_lake", 1, desc=desc) == hash_of("frozen_lake", 2, desc=desc, is_slippery=True)
    assert hash_of("frozen_lake", 1, desc=desc) != hash_of("frozen_lake", 1, desc=["SFF", "FFG"])
    puzzles = [
        hash_of("countdown", 1, numbers=list(numbers), target=9)
        for numbers in ((2, 3, 3), (3, 2, 3), (3, 2, 2))
    ]
    assert puzzles[0] == puzzles[1] != puzzles[2]
    chats = [
        hash_of("single_turn_chat", seed, task_prompt=text) for seed, text in ((1, "a"), (2, "a"), (1, "b"))
    ]
    assert chats[0] == chats[1] != chats[2]
    room = {"dim_room": [6, 6], "num_boxes": 1}
    shown = [hash_of("sokoban", 5, **room, **more) for more in ({}, {"observation_style": "coordinates"})]
    assert shown[0] == shown[1]
    assert 0 <= position_of("f" * 32) < 1
