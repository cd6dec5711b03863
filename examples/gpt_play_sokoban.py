"""A GPT model plays Sokoban, in this process; several moves in one turn if it likes.

export OPENAI_KEY=...        # or a file ./OPENAI_KEY; none is needed with --base-url
pip install openai
python examples/gpt_play_sokoban.py --model gpt-4o --size 6 --boxes 1
"""

from __future__ import annotations

import argparse

from conversation import add_model_options, gpt, play

import verl_agent_env.interface as interface


def main() -> None:
    """Play one episode and print the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, default="gpt-4o")
    parser.add_argument("--seed", type=int, help="of the room; a random one if not given")
    parser.add_argument("--size", type=int, default=6, help="rows and columns (default: 6)")
    parser.add_argument("--boxes", type=int, default=1, help="default: 1")
    options = parser.parse_args()
    room = {"dim_room": [options.size, options.size], "num_boxes": options.boxes, "max_actions_per_turn": 5}
    env_id = interface.initialize_environment("verl_env/sokoban-v0", seed=options.seed, env_kwargs=room)
    try:
        tools = interface.get_tools_schema_openai(env_id)
        ask = gpt(options, tools, parallel=interface.allow_parallel_tool_call(env_id))
        observation, _ = interface.reset(env_id)
        play(ask, observation, lambda action: interface.step(env_id, action))
    finally:
        interface.close_environment(env_id)


if __name__ == "__main__":
    main()
