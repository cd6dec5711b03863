"""A GPT model crosses the frozen lake, through ``gymnasium.make``.

export OPENAI_KEY=...        # or a file ./OPENAI_KEY; none is needed with --base-url
pip install openai
python examples/gpt_play_frozen_lake.py --model gpt-4o-mini --size 4 --slippery
"""

from __future__ import annotations

import argparse

import gymnasium
from conversation import add_model_options, gpt, play

import verl_agent_env  # noqa: F401 - registers the environments


def main() -> None:
    """Play one episode and print the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, default="gpt-4o-mini")
    parser.add_argument("--seed", type=int, help="of the map; a random one if not given")
    parser.add_argument("--size", type=int, default=4, help="rows and columns (default: 4)")
    parser.add_argument("--slippery", action="store_true", help="whether the ice is")
    options = parser.parse_args()
    env = gymnasium.make("verl_env/frozen_lake-v1", size=options.size, is_slippery=options.slippery)
    try:
        tools = [tool.openai() for tool in env.action_space.tools]  # type: ignore[attr-defined]
        observation, _ = env.reset(seed=options.seed)
        play(gpt(options, tools), observation, env.step)
    finally:
        env.close()


if __name__ == "__main__":
    main()
