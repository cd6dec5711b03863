"""The bridges as doors of the conformance test: the same handle as :mod:`tests.server.api.wires.doors` has for the wires."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.api.wires.doors import Door, Seen, call_in
from verl_agent_env.types import Action


class TrlMethods:
    """TRL's methods; what a step was worth is the difference that it made to the reward."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: tuple[str, Any] | None = None
        self._instance: Any = None

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        from verl_agent_env.integrations.trl import environment

        if self._made is None or self._made[0] != env_name:
            self._made = env_name, environment(env_name, url=self._url, **env_kwargs)
        self._instance = self._made[1]()
        return Seen.beginning(self._instance.reset(prompt=[], seed=seed))

    def step(self, action: Action) -> Seen:
        before = self._instance.get_reward()
        call = call_in(action)
        if not isinstance(call, str):
            text = getattr(self._instance, call[0])(**call[1])
        elif hasattr(self._instance, "answer"):
            text = self._instance.answer(text=call)
        else:
            # TRL's models have tools only: this is what a method does with its call.
            text = self._instance._act(action)
        result = self._instance._episode.last
        return Seen(
            text,
            self._instance.get_reward() - before,
            result.terminated,
            result.truncated,
            result.info["success"],
        )


class SkyRlSteps:
    """skyrl_gym's ``make``, ``init`` and ``step``; its actions are text, of calls as well."""

    def __init__(self, url: str) -> None:
        pytest.importorskip("skyrl_gym", reason="make bridges-test installs skyrl-gym")
        from verl_agent_env.integrations.skyrl import register

        register(url=url)
        self._env: Any = None

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        import skyrl_gym

        self.close()
        row = {"env_name": env_name, "seed": seed, "env_kwargs": env_kwargs}
        self._env = skyrl_gym.make("verl_agent_env", env_config={}, extras=row)
        conversation, _ = self._env.init([])
        return Seen.beginning("\n".join(message["content"] for message in conversation))

    def step(self, action: Action) -> Seen:
        taken = self._env.step(as_text(action))
        metadata = taken["metadata"]
        assert taken["done"] == (metadata["terminated"] or metadata["truncated"])
        text = "\n".join(message["content"] for message in taken["observations"])
        return Seen(text, taken["reward"], metadata["terminated"], metadata["truncated"], metadata["success"])

    def close(self) -> None:
        """Close the last environment."""
        if self._env is not None:
            self._env.close()


def as_text(action: Action) -> str:
    """An action as a model writes it that has no tools: a call in Hermes' form."""
    call = call_in(action)
    if isinstance(call, str):
        return call
    import orjson

    function = orjson.dumps({"name": call[0], "arguments": call[1]}).decode()
    return f"<tool_call>\n{function}\n</tool_call>"


BRIDGES: dict[str, Callable[[str], Door]] = {"TRL": TrlMethods, "SkyRL": SkyRlSteps}
