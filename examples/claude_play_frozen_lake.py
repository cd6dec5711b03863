"""Claude crosses the frozen lake, in this process.

export ANTHROPIC_KEY=...     # or a file ./ANTHROPIC_KEY
pip install anthropic
python examples/claude_play_frozen_lake.py --model claude-sonnet-4-5 --size 4
"""

from __future__ import annotations

import argparse

from conversation import claude, play

import verl_agent_env.interface as interface


def main() -> None:
    """Play one episode and print the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="claude-sonnet-4-5")
    parser.add_argument("--seed", type=int, help="of the map; a random one if not given")
    parser.add_argument("--size", type=int, default=4, help="rows and columns (default: 4)")
    options = parser.parse_args()
    lake = {"size": options.size, "is_slippery": False}
    env_id = interface.initialize_environment("verl_env/frozen_lake-v1", seed=options.seed, env_kwargs=lake)
    try:
        ask = claude(options.model, interface.get_tools_schema_anthropic(env_id))
        observation, _ = interface.reset(env_id)
        play(ask, observation, lambda action: interface.step(env_id, action))
    finally:
        interface.close_environment(env_id)


if __name__ == "__main__":
    main()
