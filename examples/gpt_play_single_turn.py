"""A GPT model answers one question, and the answer is scored.

export OPENAI_KEY=...        # or a file ./OPENAI_KEY; none is needed with --base-url
pip install openai
python examples/gpt_play_single_turn.py --question "What is 6 times 7?" --answer 42
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
    parser.add_argument("--question", default="What is 6 times 7?")
    parser.add_argument("--answer", default="42", help="the right one")
    options = parser.parse_args()
    conversation = {
        "system_prompt": "Answer in the form <answer>…</answer>.",
        "task_prompt": options.question,
        "scorer": {"type": "exact_match", "answer": options.answer},
    }
    env_id = interface.initialize_environment("verl_env/single_turn_chat-v0", env_kwargs=conversation)
    try:
        observation, _ = interface.reset(env_id)
        play(gpt(options, []), observation, lambda action: interface.step(env_id, action))
    finally:
        interface.close_environment(env_id)


if __name__ == "__main__":
    main()
