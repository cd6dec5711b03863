"""What the examples share: the key, the model that is asked, and the conversation on the screen."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl_agent_env.messages import content_text, from_anthropic, to_anthropic

Message = dict[str, Any]
Ask = Callable[[list[Message]], Message]
"""Gives the assistant's message that follows a conversation."""
Step = Callable[[Message], tuple[list[Message], Any, bool, bool, dict[str, Any]]]

MAX_TURNS = 100
# The SDKs wait and try again by themselves when there are too many requests, or the service fails.
MAX_RETRIES = 8


def play(ask: Ask, observation: list[Message], step: Step) -> float:
    """Play an episode to its end and print it as it happens; gives the sum of rewards."""
    messages, total = list(observation), 0.0
    show(observation)
    for turn in range(1, MAX_TURNS + 1):
        action = ask(messages)
        show([action])
        observation, reward, terminated, truncated, info = step(action)
        show(observation)
        messages += [action, *observation]
        total += float(reward)
        if terminated or truncated:
            print(f"=== {_end_of(truncated, info.get('success'))} after {turn} turns, reward {total:g}")
            return total
    print(f"=== left after {MAX_TURNS} turns, reward {total:g}")
    return total


def _end_of(truncated: bool, success: bool | None) -> str:
    if success:
        return "success"
    if truncated:
        return "out of steps"
    return "over" if success is None else "no success"


def show(messages: list[Message]) -> None:
    """Print messages as they come."""
    for message in messages:
        lines = [content_text(message.get("content"))]
        for call in message.get("tool_calls", ()):
            lines.append(f"→ {call['function']['name']}({call['function']['arguments']})")
        print(f"[{message['role']}]", "\n  ".join(line for line in lines if line), flush=True)


def add_model_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add the options that say which model plays."""
    parser.add_argument("--model", default=default, help=f"its name (default: {default})")
    parser.add_argument(
        "--base-url",
        default=os.environ.get("OPENAI_BASE_URL"),
        help="of another service that speaks as OpenAI's does, such as that of `make model`",
    )


def gpt(options: argparse.Namespace, tools: list[dict[str, Any]], *, parallel: bool = False) -> Ask:
    """Return a model of OpenAI's, or of any service that speaks like it; see :func:`add_model_options`."""
    try:
        import openai
    except ModuleNotFoundError:
        sys.exit("This example talks to OpenAI's API: pip install openai")
    # A service of one's own may want no key.
    key = key_of("OPENAI", otherwise="none" if options.base_url else None)
    client = openai.OpenAI(api_key=key, base_url=options.base_url, max_retries=MAX_RETRIES)
    # A service may refuse options about tools where there are none.
    about_tools: dict[str, Any] = {"tools": tools, "parallel_tool_calls": parallel} if tools else {}

    def ask(messages: list[Message]) -> Message:
        conversation: list[Any] = messages
        try:
            answer = client.chat.completions.create(model=options.model, messages=conversation, **about_tools)
        except openai.OpenAIError as error:
            sys.exit(f"The model did not answer: {error}")
        said = answer.choices[0].message if answer.choices else None
        if said is None:
            return {"role": "assistant", "content": ""}
        action = said.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
        # A model that only calls tools says nothing beside it.
        return {"content": "", **action}

    return ask


def claude(model: str, tools: list[dict[str, Any]], *, parallel: bool = False) -> Ask:
    """A model of Anthropic's; ``tools`` are in its own form, the conversation is not."""
    try:
        import anthropic
    except ModuleNotFoundError:
        sys.exit("This example talks to Anthropic's API: pip install anthropic")
    client = anthropic.Anthropic(
        api_key=key_of("ANTHROPIC"), base_url=os.environ.get("ANTHROPIC_BASE_URL"), max_retries=MAX_RETRIES
    )
    options: dict[str, Any] = {}
    if tools:
        choice = {"type": "auto", "disable_parallel_tool_use": not parallel}
        options = {"tools": tools, "tool_choice": choice}

    def ask(messages: list[Message]) -> Message:
        prompt = to_anthropic(messages)
        request: dict[str, Any] = {"model": model, "max_tokens": 4096, "messages": prompt.messages, **options}
        if prompt.system:
            request["system"] = prompt.system
        try:
            answer = client.messages.create(**request)
        except anthropic.AnthropicError as error:
            sys.exit(f"The model did not answer: {error}")
        blocks = [block.model_dump(exclude_none=True) for block in answer.content]
        said = from_anthropic([{"role": "assistant", "content": blocks}])
        return said[0] if said else {"role": "assistant", "content": ""}

    return ask


def key_of(service: str, *, otherwise: str | None = None) -> str:
    """Return the key of ``OPENAI`` or ``ANTHROPIC``: from a variable, or from a file of its name."""
    for name in (f"{service}_KEY", f"{service}_API_KEY"):
        key = os.environ.get(name) or (Path(name).read_text("utf-8") if Path(name).is_file() else "")
        if key.strip():
            return key.strip()
    if otherwise is not None:
        return otherwise
    sys.exit(f"There is no key: set {service}_KEY, or write it into a file of that name here.")
