"""Answers in verl's agent loop, read as everywhere else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages.reading.corpus import DIALECTS, MEAN_RIGHT, calls
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.messages import parse_action

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

CALLS = calls()
THINK = "<think>"


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer of bytes whose special tokens are left out by ``skip_special_tokens``."""
    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer

    return byte_tokenizer()


async def read(
    tokenizer: Any, text: str, tools: Any, prompt: str = "", parser: str = "hermes", **more: Any
) -> Any:
    from verl_agent_env.integrations.verl.rollout.answers import AnswerReader

    reader = AnswerReader(parser, tokenizer)
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    schemas = [tool.openai() for tool in tools.values()]
    return await reader.read(ids, 3, schemas, prompt_ids=tokenizer.encode(prompt), **more)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("tools", "call"), CALLS, ids=[call.name for _, call in CALLS])
async def test_an_answer_asks_for_what_its_text_asks_for(
    tokenizer: Any, dialect: str, tools: Any, call: Any
) -> None:
    text = DIALECTS[dialect](*call)
    for answer in (text, f"{THINK}{DIALECTS[dialect]('other', {})}</think>{text}", text[: len(text) // 2]):
        action, said = await read(tokenizer, answer, tools)
        played, read_as_text = parse_action(action, tools), parse_action(answer, tools)
        assert played.words == read_as_text.words
        assert [(c.name, c.arguments, c.fault) for c in played.calls] == [
            (c.name, c.arguments, c.fault) for c in read_as_text.calls
        ]
        # Each call is answered under the id that the conversation holds.
        assert [c.id for c in played.calls] == [each["id"] for each in said.get("tool_calls", ())]
        assert [c.id for c in played.calls] == [f"call_3_{number}" for number in range(len(played.calls))]


@pytest.mark.parametrize("reason", MEAN_RIGHT)
async def test_an_answer_means_what_its_text_means(tokenizer: Any, reason: str) -> None:
    kind = default_registry().kind("frozen_lake")
    env: Any = kind.build(kind.validate({"desc": ["FSFG"], "is_slippery": False}))
    env.reset(seed=1)
    action, _ = await read(tokenizer, MEAN_RIGHT[reason], {tool.name: tool for tool in env.tools})
    assert [(call["name"], call["fault"]) for call in env.reading_of(action)["calls"]] == [
        ("move_right", None)
    ]


@pytest.mark.parametrize("tag", ["<think>", "<thinking>", "[THINK]", "◁think▷", "<seed:think>"])
async def test_a_thought_that_the_prompt_opens_is_never_played(tokenizer: Any, tag: str) -> None:
    tools, call = CALLS[1]
    text = DIALECTS["hermes"](*call)
    prompt = f"<|im_start|>assistant\n{tag}\n"
    cut_off, said = await read(tokenizer, f"I might call {text}", tools, prompt)
    assert (parse_action(cut_off, tools).calls, parse_action(cut_off, tools).words) == ([], [])
    assert said["content"].startswith("I might")
    closing = tag.replace("<", "</").replace("[", "[/").replace("◁", "◁/")
    action, said = await read(tokenizer, f"I might call {text}{closing}{text}", tools, prompt)
    assert len(parse_action(action, tools).calls) == len(said["tool_calls"]) == 1
    closed = f"{prompt}\n{closing}\n\n"
    assert len(parse_action((await read(tokenizer, text, tools, closed))[0], tools).calls) == 1


async def test_a_malformed_call_beside_a_good_one_is_told(tokenizer: Any) -> None:
    tools, call = CALLS[1]
    text = f'{DIALECTS["hermes"](*call)}<tool_call>{{"name": </tool_call>'
    action, said = await read(tokenizer, text, tools)
    assert [each.fault is None for each in parse_action(action, tools).calls] == [True, False]
    assert len(said["tool_calls"]) == 2


async def test_the_formats_of_the_environment_count(tokenizer: Any) -> None:
    tools, call = CALLS[1]
    text = f"<answer>up</answer> {DIALECTS['hermes'](*call)}"
    action, said = await read(tokenizer, text, tools, action_format="answer")
    assert (action, "tool_calls" in said) == (text, False)


async def test_an_environment_without_tools_gets_the_text(tokenizer: Any) -> None:
    text = '{"name": "Bob", "arguments": {"age": 5}}'
    assert (await read(tokenizer, text, {}))[0] == text


async def test_a_parser_of_somebody_else_reads_what_is_said_aloud(tokenizer: Any) -> None:
    from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

    @ToolParser.register("shouting")
    class Shouting(ToolParser):  # type: ignore[misc]
        async def extract_tool_calls(self, ids: list[int], tools: Any = None) -> Any:
            words = self.tokenizer.decode(ids).split()
            return "", [
                FunctionCall(name=word.strip("!"), arguments="{}") for word in words if word[-1] == "!"
            ]

    tools, _ = CALLS[1]
    action, _ = await read(tokenizer, f"{THINK}move_up!</think> move_left!", tools, parser="shouting")
    assert [call.name for call in parse_action(action).calls] == ["move_left"]


@pytest.mark.parametrize(
    "name", ["hermes", "qwen3_coder", "glm", "kimi", "gpt-oss", "seed", "minimax", "gemma4"]
)
def test_verls_parsers_say_what_ends_an_answer(tokenizer: Any, name: str) -> None:
    from verl_agent_env.integrations.verl.rollout.answers import AnswerReader

    assert isinstance(AnswerReader(name, tokenizer).stop_token_ids, list)
