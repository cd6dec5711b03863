"""A GPT model answers a question with the tools of MCP servers.

export OPENAI_KEY=...                     # or a file ./OPENAI_KEY; OPENAI_BASE_URL for another server
pip install 'verl-agent-env[mcp]' openai mcp-server-time
python examples/gpt_play_mcp_chat.py
python examples/gpt_play_mcp_chat.py --config mcp.json --question "What is new in ./notes?"
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import openai

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
    parser.add_argument("--model", default="gpt-4o-mini")
    parser.add_argument("--config", help="an mcpServers file; without one, the server mcp-server-time")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--max-steps", type=int, default=20, help="tool calls at most (default: 20)")
    options = parser.parse_args()
    if options.config:
        os.environ[CONFIG_VARIABLE] = options.config
    else:
        time = ServerDefinition(name="time", command=sys.executable, args=("-m", "mcp_server_time"))
        use_configuration(Configuration({"time": time}))
    # The client waits and tries again by itself when there are too many requests.
    client = openai.OpenAI(api_key=api_key(), base_url=os.environ.get("OPENAI_BASE_URL"), max_retries=8)
    env_id = interface.initialize_environment(
        "mcp_chat", env_kwargs={"task_prompt": options.question, "max_steps": options.max_steps}
    )
    try:
        play(client, options.model, env_id)
    finally:
        interface.close_environment(env_id)


def play(client: openai.OpenAI, model: str, env_id: str) -> None:
    """Let the model talk with the environment until the episode ends."""
    observation, _ = interface.reset(env_id)
    tools = interface.get_tools_schema_openai(env_id)
    asked: dict[str, Any] = {"tools": tools} if tools else {}
    messages: list[Any] = []
    while True:
        show(observation)
        messages += for_openai(observation)
        answer = client.chat.completions.create(model=model, messages=messages, **asked).choices[0].message
        action = answer.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
        # As text it may be missing, which a model that only calls tools is free to do.
        action.setdefault("content", "")
        show([action])
        messages.append(action)
        observation, reward, terminated, truncated, info = interface.step(env_id, action)
        if terminated or truncated:
            show(observation)
            print(f"reward {reward:g}, {info['num_steps']} steps{', cut off' if truncated else ''}")
            return


def for_openai(observation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as OpenAI's API takes them: pictures and sounds of tools follow in a message of the user."""
    messages, media = [], []
    for message in observation:
        if message["role"] == "tool" and isinstance(message["content"], list):
            media += [part for part in message["content"] if part["type"] != "text"]
            message = {**message, "content": content_text(message["content"]) or "See below."}
        messages.append(message)
    return [*messages, {"role": "user", "content": media}] if media else messages


def show(messages: list[dict[str, Any]]) -> None:
    """Print messages as they come."""
    for message in messages:
        said = content_text(message.get("content"))
        calls = [call["function"] for call in message.get("tool_calls", ())]
        lines = [said, *(f"→ {call['name']}({call['arguments']})" for call in calls)]
        print(f"[{message['role']}] " + "\n  ".join(line for line in lines if line), flush=True)


def api_key() -> str:
    """The key, from a variable or the file OPENAI_KEY."""
    key = os.environ.get("OPENAI_KEY") or os.environ.get("OPENAI_API_KEY")
    if not key and Path("OPENAI_KEY").is_file():
        key = Path("OPENAI_KEY").read_text().strip()
    if not key:
        sys.exit("Set OPENAI_KEY, or write the key into a file of that name.")
    return key


if __name__ == "__main__":
    main()
