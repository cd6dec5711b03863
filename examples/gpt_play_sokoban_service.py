"""A GPT model plays Sokoban on a server.

make serve                   # or: docker compose up, and --url http://127.0.0.1:8080
export OPENAI_KEY=...        # or a file ./OPENAI_KEY; none is needed with --base-url
pip install openai
python examples/gpt_play_sokoban_service.py --url http://127.0.0.1:8000 --model gpt-4o
"""

from __future__ import annotations

import argparse
import sys

from conversation import add_model_options, gpt, play

from verl_agent_env.client import EnvClient, ServerUnreachableError


def main() -> None:
    """Play one episode and print the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    add_model_options(parser, default="gpt-4o")
    parser.add_argument("--seed", type=int, help="of the room; a random one if not given")
    options = parser.parse_args()
    try:
        # Leaving the blocks closes the environment, also after a failure.
        with (
            EnvClient(options.url) as client,
            client.make("sokoban", seed=options.seed, dim_room=[6, 6], num_boxes=1) as env,
        ):
            observation, _ = env.reset()
            play(gpt(options, env.tools()), observation, env.step)
    except ServerUnreachableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
