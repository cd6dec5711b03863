"""A GPT model answers a question with the tools of MCP servers.

export OPENAI_KEY=...                     # or a file ./OPENAI_KEY; none is needed with --base-url
pip install 'verl-agent-env[mcp]' openai mcp-server-time
python examples/gpt_play_mcp_chat.py
python examples/gpt_play_mcp_chat.py --config mcp.json --question "What is new in ./notes?"
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from conversation import Message, add_model_options, gpt, play

import verl_agent_env.interface as interface
from verl_agent_env.envs.mcp_chat.configuration import CONFIG_VARIABLE, Configuration, use_configuration
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.messages import content_text

QUESTION = "It is 12:30 in Berlin. What time is it in Tokyo? Use your tools and answer in the form <answer>HH:MM</answer>."


def main() -> None:
    """Play one episode and print the conversation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, default="gpt-4o-mini")
    parser.add_argument("--config", help="an mcpServers file; without one, the server mcp-server-time")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-steps", type=int, default=20, help="tool calls at most (default: 20)")
    options = parser.parse_args()
    if options.config:
        os.environ[CONFIG_VARIABLE] = options.config
    else:
        time = ServerDefinition(
            name="time",
            command=sys.executable,
            args=("-m", "mcp_server_time"),
            start_timeout_s=60,
            call_timeout_s=60,
        )
        use_configuration(Configuration({"time": time}))
    env_id = interface.initialize_environment(
        "mcp_chat", env_kwargs={"task_prompt": options.question, "max_steps": options.max_steps}
    )

    def step(action: Message) -> tuple[list[Message], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = interface.step(env_id, action)
        return for_openai(observation), reward, terminated, truncated, info

    try:
        observation, _ = interface.reset(env_id)
        play(gpt(options, interface.get_tools_schema_openai(env_id)), for_openai(observation), step)
    finally:
        interface.close_environment(env_id)


def for_openai(observation: list[Message]) -> list[Message]:
    """Messages as OpenAI's API takes them: pictures and sounds of tools follow in a message of the user."""
    messages, media = [], []
    for message in observation:
        if message["role"] == "tool" and isinstance(message["content"], list):
            media += [part for part in message["content"] if part["type"] != "text"]
            message = {**message, "content": content_text(message["content"]) or "See below."}
        messages.append(message)
    return [*messages, {"role": "user", "content": media}] if media else messages


if __name__ == "__main__":
    main()
