"""A GPT model plays Countdown, in this process.

export OPENAI_KEY=...        # or a file ./OPENAI_KEY; none is needed with --base-url
pip install openai
python examples/gpt_play_countdown.py --model gpt-4o-mini --seed 7
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
    add_model_options(parser, default="gpt-4o-mini")
    parser.add_argument("--seed", type=int, help="of the puzzle; a random one if not given")
    options = parser.parse_args()
    env_id = interface.initialize_environment("verl_env/countdown-v0", seed=options.seed)
    try:
        ask = gpt(options, interface.get_tools_schema_openai(env_id))
        observation, _ = interface.reset(env_id)
        play(ask, observation, lambda action: interface.step(env_id, action))
    finally:
        interface.close_environment(env_id)


if __name__ == "__main__":
    main()
