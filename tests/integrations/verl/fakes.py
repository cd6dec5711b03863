"""A model server that says what it is told to, and rows of data for it to play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from verl.workers.rollout.replica import TokenOutput

from loadtests import verl_stand_ins
from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop
from verl_agent_env.integrations.verl.tiny.tokenizer import CHAT_TEMPLATE, byte_tokenizer

__all__ = ["CHAT_TEMPLATE", "FakeModel", "agent_loop", "byte_tokenizer", "call", "row"]


def call(name: str, **arguments: Any) -> str:
    """A tool call as Qwen writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {orjson.dumps(arguments).decode()}}}\n</tool_call>'


class FakeModel:
    """A model server that says what it is told to, at once."""

    def __init__(self, *answers: str | Exception, otherwise: Callable[[str], str] | None = None) -> None:
        """A model.

        Args:
            answers: What it says, turn by turn; an exception is raised.
            otherwise: Says the rest, from the text of the prompt; the last answer again if not given.
        """
        self.answers = list(answers)
        self.otherwise = otherwise
        self.tokenizer: Any = None
        self.requests: list[dict[str, Any]] = []
        self.gives_log_probs = True
        self.before: Callable[[int], None] = lambda _: None
        """Called with the number of the request before it is answered."""

    async def generate(self, **request: Any) -> TokenOutput:
        number = len(self.requests)
        self.requests.append({**request, "prompt_ids": list(request["prompt_ids"])})
        self.before(number)
        if number < len(self.answers) or self.otherwise is None:
            said = self.answers[min(number, len(self.answers) - 1)]
        else:
            said = self.otherwise(self.tokenizer.decode(request["prompt_ids"]))
        if isinstance(said, Exception):
            raise said
        ids = [*self.tokenizer.encode(said), self.tokenizer.eos_token_id]
        ids = ids[: request["sampling_params"]["max_tokens"]]
        steps = {"global_steps": 3, "min_global_steps": 3, "max_global_steps": 3 + number}
        log_probs = [-0.5] * len(ids) if self.gives_log_probs else None
        return TokenOutput(token_ids=ids, log_probs=log_probs, extra_fields=steps)

    def prompts(self) -> list[str]:
        """What it was asked."""
        return [self.tokenizer.decode(request["prompt_ids"]) for request in self.requests]


def agent_loop(
    model: FakeModel,
    tokenizer: Any,
    options: dict[str, Any],
    *,
    processor: Any = None,
    hf_model_type: str = "qwen2",
    loop_class: type[EnvAgentLoop] = EnvAgentLoop,
) -> EnvAgentLoop:
    """An agent loop around a fake model; ``rollout`` among the options changes verl's configuration."""
    model.tokenizer = tokenizer
    options = dict(options)
    return verl_stand_ins.agent_loop(
        model,
        tokenizer,
        verl_stand_ins.trainer_config(**options.pop("rollout", {})),
        verl_stand_ins.data_config(options),
        processor=processor,
        hf_model_type=hf_model_type,
        loop_class=loop_class,
    )


def row(env_name: str, seed: int = 3, **env_kwargs: Any) -> dict[str, Any]:
    """A row of a data set, as verl hands it to an agent loop."""
    extra = {"index": 0, "env_name": env_name, "env_kwargs": orjson.dumps(env_kwargs).decode(), "seed": seed}
    return {"raw_prompt": [], "index": 0, "extra_info": extra}
